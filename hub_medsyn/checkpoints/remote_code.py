"""Puts the code of a checkpoint beside it, so that `trust_remote_code=True` loads it where this package is missing."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import shutil
import sys
from pathlib import Path

from transformers import (
    MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    PreTrainedConfig,
)

from hub_medsyn.configuration_medsyn import MedSynConfig
from hub_medsyn.image_processing_medsyn import MedSynImageProcessor
from medsyn.errors import UserError, reading

# What the code may import besides its siblings: whoever loads a checkpoint is asked to install these.
LIBRARIES = frozenset({"PIL", "numpy", "safetensors", "timm", "torch", "transformers"})
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")


def sibling_imports(path: Path) -> list[Path]:
    """The files beside `path` that it imports.

    Raises:
        UserError: If it imports anything but `from .sibling import name`, which is all that transformers follows, and
            the standard library and [`LIBRARIES`].
    """
    siblings = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            dotted = "." * node.level + (node.module or "")
            sibling = path.with_name(f"{node.module}.py")
            if node.level > 1 or not node.module or "." in node.module or not sibling.is_file():
                raise UserError(
                    f"{path.name}, line {node.lineno}, imports from {dotted}, which cannot travel with a checkpoint; "
                    "write `from .module import name`, with a module in the same folder"
                )
            siblings.append(sibling)
            continue
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module]
        for module in modules:
            package = module.partition(".")[0]
            if package not in LIBRARIES and package not in sys.stdlib_module_names:
                raise UserError(
                    f"{path.name}, line {node.lineno}, imports {module}, but code that travels with a checkpoint "
                    f"imports its siblings, the standard library and {', '.join(sorted(LIBRARIES))} alone"
                )
    return siblings


def source_of(path: Path) -> Path:
    """The file whose code travels as `path`: that of a module of `medsyn` if all it does is import from there."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    imports = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    module = imports[0].module if len(imports) == 1 and isinstance(imports[0], ast.ImportFrom) else None
    if module is None or not module.startswith("medsyn.") or any(hasattr(node, "body") for node in body):
        return path
    return Path(importlib.util.find_spec(module).origin)


def code_files(classes: list[type]) -> dict[str, Path]:
    """The files that define `classes`, and all that these import from the same folder, by name.

    Raises:
        UserError: If one of them imports something that would be missing; see [`sibling_imports`].
    """
    found: dict[str, Path] = {}
    waiting = [Path(inspect.getfile(defined)) for defined in classes]
    while waiting:
        path = waiting.pop()
        if path.name not in found:
            found[path.name] = source_of(path)
            waiting += sibling_imports(found[path.name])
    return dict(sorted(found.items()))


def auto_reference(defined: type) -> str:
    """A class as `auto_map` names it: `modeling_gloria.GLoRIAModel`."""
    return f"{Path(inspect.getfile(defined)).stem}.{defined.__name__}"


def auto_classes(config: PreTrainedConfig) -> dict[str, type]:
    """Which class each Auto class of transformers finds for a configuration of ours."""
    return {
        "AutoConfig": type(config),
        "AutoModel": MODEL_MAPPING[type(config)],
        "AutoModelForZeroShotImageClassification": MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING[type(config)],
    }


def set_auto_map(settings: dict, classes: dict[str, type]) -> None:
    references = {name: auto_reference(defined) for name, defined in classes.items()}
    settings["auto_map"] = {**settings.get("auto_map", {}), **references}


def add_remote_code(folder: str | Path) -> list[str]:
    """Makes a saved checkpoint load with `trust_remote_code=True` where this package is not installed.

    Copies the Python files that its configuration, model and image processor need and names their classes in
    `auto_map`, in `config.json` and in the configuration of the processor. The processor itself and the tokenizer are
    transformers' own. Running it again brings the code up to date and changes nothing else; with the package imported,
    transformers uses the package.

    Args:
        folder (`str` or `Path`): What `save_pretrained` of a model and of its processor wrote.

    Returns:
        `list[str]`: The names of the files copied.

    Raises:
        UserError: If the folder is not a checkpoint of ours with its image processor, or a file that would be copied
            imports something that would be missing; nothing has been written then.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no config.json: name the folder that save_pretrained wrote")
    with reading(folder / "config.json"):
        config = AutoConfig.from_pretrained(folder)
    if not isinstance(config, MedSynConfig):
        raise UserError(
            f"{folder} is a {config.model_type} model; only those of hub_medsyn carry code of their own "
            "(`medsyn publish encoders` takes exported encoders)"
        )
    settings = {}
    for name in PROCESSOR_FILES:
        if (folder / name).is_file():
            with reading(folder / name):
                settings[name] = dict(json.loads((folder / name).read_text(encoding="utf-8")))
    image_settings = [saved.get("image_processor", saved) for saved in settings.values()]
    image_settings = [saved for saved in image_settings if "image_processor_type" in saved]
    if not image_settings:
        raise UserError(f"{folder} has no image processor: save the model's processor there too")
    classes = auto_classes(config)
    with reading(f"the image processor of {folder}"):
        processor = type(AutoImageProcessor.from_pretrained(folder))
    if issubclass(processor, MedSynImageProcessor):
        for saved in image_settings:
            set_auto_map(saved, {"AutoImageProcessor": processor})
        files = code_files([*classes.values(), processor])
    else:  # one of transformers' own
        files = code_files(list(classes.values()))
    settings["config.json"] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    set_auto_map(settings["config.json"], classes)
    for name, source in files.items():
        shutil.copyfile(source, folder / name)
    for name, saved in settings.items():
        (folder / name).write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return list(files)
