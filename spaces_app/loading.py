"""Loading what the page works with: models, images of a dataset, and diffusion pipelines."""

from __future__ import annotations

import ctypes
import json
import platform
import threading
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, load_dataset
from transformers import AutoConfig, AutoModel, AutoProcessor, ProcessorMixin

from dataset_builder.generators.diffusion import PRESETS, DiffusionGenerator
from dataset_builder.generators.diffusion_pipeline import find_pipeline
from hub_medsyn.configuration_medsyn import MedSynConfig
from hub_medsyn.image_processing_medsyn import to_grey
from hub_medsyn.inference.grounding import OPENING
from hub_medsyn.inference.zero_shot import ZeroShotClassifier
from hub_medsyn.modeling_medsyn import MedSynPreTrainedModel
from medsyn.errors import UserError, reading
from medsyn.files import folder_or_hub_id
from medsyn.texts import is_nothing
from spaces_app.guard.uploads import Upload

MAX_SAMPLES = 200
_M_ARENA_MAX = -8  # of glibc's malloc.h
UNSEEN_FIRST = ("test", "validation", "train")
STEPS, LARGEST_DIFFUSION = 25, 512  # of a diffusion pipeline, which takes minutes on a CPU


@dataclass
class Model:
    """An image-text model, ready to be asked.

    Args:
        name (`str`): What the page calls it.
        model ([`ConVIRTModel`], [`GLoRIAModel`] or [`MGCAModel`]): In float32, whatever it is stored in.
        processor (`ProcessorMixin`): Its own.
        classifier ([`ZeroShotClassifier`]): Of this model; encodes each prompt once.
        grounds (`bool`): Whether it has regions, so that [`Workbench.where`] can ask it.
        card (`str`): Its README.md without the metadata, Markdown.
        about (`str`): One line: method, image encoder, side of the images it sees.
    """

    name: str
    model: MedSynPreTrainedModel
    processor: ProcessorMixin
    classifier: ZeroShotClassifier
    grounds: bool
    card: str
    about: str
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)


@dataclass(frozen=True)
class Sample:
    """An image of the dataset with what is known of it.

    Args:
        id (`str`): Its `image_id`.
        image ([`Image`]): The image.
        impression (`str`): Of its report.
        findings (`str`): The FINDINGS of its report; empty where it has none.
        labels (`dict[str, int | None]`): 1 present, 0 absent, -1 uncertain, `None` unmentioned.
        masks (`list[tuple[str, np.ndarray]]`): A finding and its `(height, width)` bool mask.
        boxes (`list[tuple[str, tuple[float, ...]]]`): A finding and its box, absolute x0, y0, x1, y1.
    """

    id: str
    image: Upload
    impression: str
    findings: str
    labels: dict[str, int | None]
    masks: list[tuple[str, np.ndarray]]
    boxes: list[tuple[str, tuple[float, float, float, float]]]


def share_heaps() -> None:
    """Lets the threads of this process share two heaps, where the C library is glibc.

    It gives every thread one of its own otherwise, and each keeps what was freed in it: 20 threads that read images at
    once then hold 615 MB, and under 260 MB with two.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


def load_model(path: str | Path, name: str, device: str = "cpu") -> Model:
    """Loads one model, in float32 whatever it is stored in.

    Args:
        path (`str` or `Path`): A folder that `save_pretrained` wrote, or a Hub id.
        name (`str`): What the page calls it.
        device (`str`, *optional*, defaults to `"cpu"`): Where it is.

    Raises:
        UserError: It is none of this project's models.
        OSError: There is no such folder or model on the Hub, or files are missing.
    """
    folder_or_hub_id(path, "model")
    try:
        config = AutoConfig.from_pretrained(path)
    except OSError as error:
        raise FileNotFoundError(
            f"{path} holds no model, or it cannot be had from the Hub: check the name, and the network"
        ) from error
    except ValueError as error:
        raise UserError(
            f"{path} is no model that is known; name a ConVIRT, GLoRIA or MGCA that medsyn trained"
        ) from error
    if not isinstance(config, MedSynConfig):
        raise UserError(f"{path} is a {config.model_type}; name a ConVIRT, GLoRIA or MGCA that medsyn trained")
    with reading(f"the model {path}"):
        model = AutoModel.from_pretrained(path, dtype=torch.float32).to(device).eval()
        processor = AutoProcessor.from_pretrained(path)
    return Model(
        name=name,
        model=model,
        processor=processor,
        classifier=ZeroShotClassifier(model, processor),
        grounds=config.model_type in OPENING,
        card=_card(path),
        about=(
            f"{type(model).__name__.removesuffix('Model')}, image encoder {config.vision_config.architecture}, "
            f"{model.num_parameters() / 1e6:.1f} million weights, sees images of {config.image_size} pixels"
        ),
    )


def load_images(dataset: str | Path, most: int = MAX_SAMPLES) -> Dataset:
    """The first images of a dataset, those that no model was trained on before all others.

    Args:
        dataset (`str` or `Path`): A folder or a Hub id of `medsyn-cxr`; no more of it is read than is needed.
        most (`int`, *optional*, defaults to `MAX_SAMPLES`): How many.

    Returns:
        `datasets.Dataset`: In memory, the images encoded as they are stored.

    Raises:
        UserError: The dataset has no images, or a column is missing.
        OSError: There is no such dataset.
    """
    with reading(f"the dataset {dataset}"):
        splits = load_dataset(folder_or_hub_id(dataset, "dataset"), streaming=True)
        rows: list[dict] = []
        for split in sorted(splits, key=lambda name: UNSEEN_FIRST.index(name) if name in UNSEEN_FIRST else 9):
            features = splits[split].features
            missing = [name for name in ("image", "image_id", "impression") if name not in features]
            if missing:
                raise UserError(
                    f"the dataset {dataset} has no column {', '.join(missing)}; build it with `medsyn build`"
                )
            rows += splits[split].decode(False).take(most - len(rows))
    if not rows:
        raise UserError(f"the dataset {dataset} holds no images")
    return Dataset.from_list(rows, features=features)


def sample_of(row: dict) -> Sample:
    """A row of `medsyn-cxr` as the page shows it; what an older or an `ids-only` dataset lacks is empty."""
    masks = [(one["finding"], np.asarray(one["mask"].convert("L")) > 127) for one in row.get("finding_masks") or ()]
    return Sample(
        id=row["image_id"],
        image=Upload(to_grey(row["image"]), row["image_id"]),
        impression="" if is_nothing(row["impression"]) else row["impression"].strip(),
        findings="" if is_nothing(row.get("findings")) else row["findings"],
        labels=row.get("labels") or {},
        masks=masks,
        boxes=[(one["finding"], tuple(one["box"])) for one in row.get("boxes") or ()],
    )


def short_names(paths: list[str]) -> dict[str, str]:
    """Short names that differ: the last part of a path, or the one before it where that says too little."""
    parts = [Path(path).resolve().parts if Path(path).is_dir() else path.split("/") for path in paths]
    names = [part[-2] if part[-1].startswith("checkpoint") else part[-1] for part in parts]
    names = ["/".join(part[-2:]) if names.count(name) > 1 else name for name, part in zip(names, parts, strict=True)]
    if len(set(names)) < len(names):
        raise UserError(f"two models are called {max(names, key=names.count)}; name folders that differ")
    return dict(zip(names, paths, strict=True))


def _card(path: str | Path) -> str:
    """A model's README.md without its metadata; empty where there is none."""
    file = Path(path) / "README.md"
    if not Path(path).is_dir():
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError

        try:
            file = Path(hf_hub_download(str(path), "README.md"))
        except EntryNotFoundError:
            return ""
    if not file.is_file():
        return ""
    card = file.read_text(encoding="utf-8")
    return card.split("\n---\n", 1)[1].lstrip() if card.startswith("---\n") and "\n---\n" in card else card


def load_pipeline(name: str, device: str) -> DiffusionGenerator:
    """A pipeline at the size that it was made for, `LARGEST_DIFFUSION` at most.

    Raises:
        UserError: It is none, or cannot be had.
    """
    if find_spec("diffusers") is None or find_spec("peft") is None:
        raise UserError(f"the generator {name} needs the packages diffusers and peft: pip install 'hub-medsyn[demo]'")
    folder, _ = find_pipeline(PRESETS.get(name, name))
    side = min(LARGEST_DIFFUSION, _native_side(folder))
    generator = DiffusionGenerator(
        name, height=side, width=side, num_inference_steps=STEPS, batch_size=1, device=device
    )
    generator.settings()  # what does not fit is told now, and not when somebody waits for an image
    return generator


def _native_side(folder: Path) -> int:
    """Pixels a side of the images that a pipeline's denoiser was made for."""
    denoiser = next(folder / part for part in ("unet", "transformer") if (folder / part).is_dir())
    latents = json.loads((denoiser / "config.json").read_text(encoding="utf-8"))["sample_size"]
    blocks = json.loads((folder / "vae" / "config.json").read_text(encoding="utf-8"))["block_out_channels"]
    return latents * 2 ** (len(blocks) - 1)
