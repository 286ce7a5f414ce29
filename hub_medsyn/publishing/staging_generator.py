"""What a generator gives its repository: a diffusers pipeline, or LoRA weights for one, with a card."""

from __future__ import annotations

from pathlib import Path

from hub_medsyn.cards.generator import INDEX, LORA_WEIGHTS, generator_card
from hub_medsyn.publishing.staging_model import CARD, PICKLES, ModelRepository, allowed_files, check_weights, read_json

PART_FILES = ("*.safetensors", "*.json", "*.txt", "*.model")  # weights, configurations, tokenizers


def pipeline_files(folder: Path) -> dict[str, Path]:
    """
    The files of a pipeline by their paths in it: its index and what the folders of its parts hold.

    Raises:
        FileNotFoundError: If a part is missing, or its weights are no safetensors.
    """
    files = {INDEX: folder / INDEX}
    index = read_json(folder / INDEX)
    parts = [name for name, value in index.items() if isinstance(value, list) and value[0] is not None]
    for part in parts:
        if not (folder / part).is_dir():
            raise FileNotFoundError(f"{folder} lacks the folder {part}, which {INDEX} lists; copy the whole pipeline")
        found = allowed_files(folder / part, PART_FILES)
        if any(any((folder / part).glob(pattern)) for pattern in PICKLES) or any(map(is_weights, found)):
            check_weights(folder / part, found)
        files |= {f"{part}/{name}": path for name, path in found.items()}
    return files


def is_weights(name: str) -> bool:
    return name.endswith(".safetensors")


def stage_generator(
    path: str | Path, repo_id: str, base_model: str | None = None, message: str | None = None
) -> ModelRepository:
    """
    A diffusers pipeline or LoRA weights. A card is written where there is none.

    Args:
        path (`str` or `Path`): The folder of a pipeline, a `.safetensors` file of LoRA weights, or a folder with one.
        repo_id (`str`): `<org>/<name>`.
        base_model (`str`, *optional*): Of LoRA weights: the pipeline that they were trained for, as an id on the Hub.
        message (`str`, *optional*): Of the commit.

    Raises:
        FileNotFoundError: If it is no generator, or not whole.
        ValueError: If the weights are no LoRA, or notes beside them could be captions.
    """
    path = Path(path)
    if (path / INDEX).is_file():
        files = pipeline_files(path)
        replaces = tuple(f"{part}/*" for part in sorted({name.partition("/")[0] for name in files if "/" in name}))
    else:
        weights = path if path.is_file() else path / LORA_WEIGHTS
        if not weights.is_file():
            raise FileNotFoundError(f"{path} is no generator: it holds neither {INDEX} nor {LORA_WEIGHTS}")
        files, replaces = {LORA_WEIGHTS: weights}, ()
        check_weights(weights.parent, files)
        files |= allowed_files(weights.parent, ("adapter_config.json",)) if path.is_dir() else {}
    written = path / CARD
    if written.is_file():
        card = written.read_text(encoding="utf-8")
    else:
        card = str(generator_card(path, repo_id, base_model))
    return ModelRepository(path, files, card, replaces, message or f"Publish {path.resolve().stem}", words=False)
