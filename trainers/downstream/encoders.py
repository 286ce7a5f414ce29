"""Frozen image encoders and their pooled features, computed once and cached on disk."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm
from transformers import AutoConfig, AutoImageProcessor, AutoModel, TimmWrapperConfig, TimmWrapperModel

from hub_medsyn import MedSynImageProcessor  # the import also registers our models with the Auto classes
from hub_medsyn.checkpoints.export_encoders import PROCESSOR_NAME
from hub_medsyn.encoder_weights import load_image_encoder
from medsyn.errors import UserError, reading
from trainers.downstream.images.labelled_images import LabelledImages


@dataclass(frozen=True)
class FrozenEncoder:
    """An image encoder in evaluation mode whose weights and BatchNorm statistics never change.

    Args:
        name (`str`): The name in result tables.
        model (`nn.Module`): A timm model without its classifier: `(batch, 3, height, width)` to pooled
            `(batch, features)`, before any projection head.
        processor (`Callable`): The image processor that returns `pixel_values` for a list of PIL images.
        architecture (`str`, *optional*): The model name for `timm.create_model`, needed to build the encoder again.
        arguments (`dict`, *optional*): Arguments of `timm.create_model` besides that name and `num_classes`.
        enlarge (`int`, *optional*): Side in pixels to which images are upsampled before pooling: 299 for a GLoRIA or
            MGCA of preset `official`. Segmenters and detectors take images as they are, as in the published code.
    """

    name: str
    model: nn.Module
    processor: Callable
    architecture: str | None = None
    arguments: dict = field(default_factory=dict)
    enlarge: int | None = None

    @torch.no_grad()
    def pooled(self, pixels: Tensor) -> Tensor:
        """Computes pooled features `(batch, features)`, float32, of pixels `(batch, 3, height, width)`."""
        if self.enlarge:
            pixels = F.interpolate(pixels, (self.enlarge,) * 2, mode="bilinear", align_corners=True)
        return self.model.to(pixels.device).eval()(pixels).float()

    def weights_hash(self) -> str:
        """Returns the SHA-256 over the names, shapes and values of weights and buffers."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    def settings(self) -> dict:
        """Returns the settings of the image processor as JSON values."""
        return json.loads(self.processor.to_json_string())


def load_encoder(spec: str, name: str | None = None, image_size: int = 224, seed: int = 0) -> FrozenEncoder:
    """Loads an image encoder.

    Args:
        spec (`str`): One of

            - the folder of a medsyn checkpoint: its image encoder, with its own image processor;
            - the folder of an encoder that `medsyn export-encoders` wrote, likewise;
            - the folder of an encoder that timm or `TimmWrapperModel` saved;
            - the name of a timm model, whose pretrained weights timm downloads, or `name@file` with a file of weights
              to load instead (`.pth` or `.safetensors`);
            - `random:` before a folder or a name: the same architecture and image processor with timm's random
              initial weights and untrained BatchNorm statistics, mean 0 and variance 1.
        name (`str`, *optional*): The name in result tables, by default `spec`.
        image_size (`int`, *optional*, defaults to 224): Side in pixels for encoders without a medsyn image processor;
            their images are padded to a square and resized likewise, and normalised with timm's values.
        seed (`int`, *optional*, defaults to 0): Seed of the random weights.

    Raises:
        UserError: `spec` is neither a folder with a `config.json` nor a timm model, or the weights do not fit it.
        FileNotFoundError: The file of weights does not exist.
    """
    random, source = spec.startswith("random:"), spec.removeprefix("random:")
    source, _, weights = source.partition("@")
    processor, statistics, enlarge = None, None, None
    if Path(source).is_dir():
        if not (Path(source) / "config.json").is_file():
            raise UserError(f"encoder folder {source} holds no config.json: it is not a checkpoint")
        with reading(Path(source) / "config.json"), open(Path(source) / "config.json", encoding="utf-8") as file:
            ours = str(json.load(file).get("model_type", "")).startswith("medsyn-")
        with reading(Path(source) / "config.json"):
            whole = AutoConfig.from_pretrained(source) if ours else None
            config = whole.vision_config if ours else TimmWrapperConfig.from_pretrained(source)
        arguments = {key: value for key, value in (config.model_args or {}).items() if key != "num_classes"}
        statistics = getattr(config, "pretrained_cfg", None)
        architecture = config.architecture
        if ours and not timm.get_pretrained_cfg(architecture).fixed_input_size:
            enlarge = getattr(whole, "upsample_size", None) or None  # a ConVIRT has no such setting
        if ours:
            with reading(f"the image processor of {source}"):
                processor = AutoImageProcessor.from_pretrained(source)
        elif (Path(source) / PROCESSOR_NAME).is_file():
            processor = MedSynImageProcessor.from_pretrained(source, image_processor_filename=PROCESSOR_NAME)
        if random:
            model = _seeded(seed, timm.create_model, config.architecture, num_classes=0, **arguments)
        elif ours:
            with reading(f"the weights of {source}"):
                model = AutoModel.from_pretrained(source).vision_model.timm_model
        else:
            config.model_args = arguments or None  # timm exports num_classes, and the wrapper sets it to 0 itself
            with reading(f"the weights of {source}"):
                model = TimmWrapperModel.from_pretrained(source, config=config).timm_model
    elif timm.is_model(source.split(".")[0]):
        architecture, arguments = source.split(".")[0], {}
        if random or weights:
            known = source if weights else f"random:{source}"
            model, config = _seeded(seed, load_image_encoder, known, image_size, image_weights=weights or None)
            arguments = config.model_args or {}
        else:
            native = timm.get_pretrained_cfg(source)
            if native.fixed_input_size and native.input_size[-1] != image_size:
                arguments = {"img_size": image_size}  # timm resamples the position embeddings
            try:
                model = timm.create_model(source, pretrained=True, num_classes=0, **arguments)
            except (OSError, RuntimeError) as error:
                raise UserError(
                    f"the pretrained weights of {source!r} cannot be fetched ({type(error).__name__}): give "
                    f"{source}@FILE with a file of weights, or random:{source}"
                ) from error
    else:
        raise UserError(
            f"encoder {spec!r} is neither a folder nor a timm model; `random:resnet50` and a folder that "
            "`medsyn pretrain` wrote are valid examples"
        )
    if processor is None:
        normal = timm.data.resolve_data_config(pretrained_cfg=statistics or model.pretrained_cfg)
        processor = MedSynImageProcessor(
            size=image_size, image_mean=list(normal["mean"]), image_std=list(normal["std"])
        )
    model.eval().requires_grad_(False)
    return FrozenEncoder(name or spec, model, processor, architecture, dict(arguments), enlarge)


def _seeded(seed: int, make: Callable, *args, **kwargs):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(*args, **kwargs)


@torch.no_grad()
def pooled_features(
    encoder: FrozenEncoder, images: LabelledImages, batch_size: int = 32, device: str = "cpu"
) -> np.ndarray:
    """Computes the pooled features `(n, features)`, float32, of all images, in row order."""
    parts = []
    rows = range(len(images.ids))
    for start in tqdm(rows[::batch_size], desc=f"{encoder.name} on {images.name}", unit="batch"):
        batch = [images.open(row) for row in rows[start : start + batch_size]]
        pixels = encoder.processor(batch, return_tensors="pt")["pixel_values"]  # (batch, 3, height, width)
        parts.append(encoder.pooled(pixels.to(device)).cpu().numpy())  # (batch, features)
    features = np.concatenate(parts)
    if not np.isfinite(features).all():
        row = int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])
        raise UserError(f"{encoder.name} gives features that are not finite on image {images.ids[row]}")
    return features


def cached_features(
    encoder: FrozenEncoder,
    images: LabelledImages,
    folder: str | Path,
    batch_size: int = 32,
    device: str = "cpu",
) -> np.ndarray:
    """Returns [`pooled_features`], cached in `folder` by weights, pixels and image processor.

    The file name is a hash of the three, so that a stale file is never read; the file is written atomically.
    """
    parts = (encoder.weights_hash(), images.pixels_hash, json.dumps(encoder.settings(), sort_keys=True))
    parts += (f"enlarged to {encoder.enlarge}",) if encoder.enlarge else ()
    path = Path(folder) / f"{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:32]}.safetensors"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".partial-{os.getpid()}")
        save_file({"features": pooled_features(encoder, images, batch_size, device)}, partial)
        os.replace(partial, path)
    return load_file(path)["features"]
