"""The maps of a frozen encoder that a detector learns from, computed once."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import TimmWrapperConfig

from hub_medsyn import MedSynDetectionImageProcessor, MedSynForObjectDetection
from medsyn.errors import UserError
from trainers.downstream.encoders import FrozenEncoder
from trainers.downstream.images.annotated_images import AnnotatedImages
from trainers.downstream.tasks.head_training import check_training


@dataclass(frozen=True)
class DetectionSettings:
    """How a detector is trained and read; the numbers are those of MGCA's published code unless told otherwise.

    Args:
        image_size (`int`, *optional*): Side of the square in pixels, by default that of the encoder's own processor.
        resize (`str`, *optional*, defaults to `"pad"`): `pad` keeps the aspect, as when the encoder was trained;
            `stretch` fills the square, as MGCA's code does.
        preset (`str`, *optional*, defaults to `"fixed"`): `fixed` or `official`, see
            [`~hub_medsyn.MedSynDetectionConfig`].
        neck_width (`int`, *optional*, defaults to 512): See [`~hub_medsyn.MedSynDetectionConfig`].
        learning_rate (`float`, *optional*, defaults to 5e-4): Of AdamW, constant.
        weight_decay (`float`, *optional*, defaults to 1e-6): Of AdamW.
        batch_size (`int`, *optional*, defaults to 16): Images a step.
        epochs (`int`, *optional*, defaults to 50): At most.
        patience (`int`, *optional*, defaults to 10): Epochs without a better one after which training ends.
        score_threshold (`float`, *optional*, defaults to 0.5): The least objectness of a detection.
        nms_threshold (`float`, *optional*, defaults to 0.5): The IoU above which the less likely of two boxes goes.
        max_boxes (`int`, *optional*, defaults to 100): True boxes an image may have, as many as the metric looks at.
        cache (`str`, *optional*, defaults to `"memory"`): Where the encoder's maps are kept, in float32: `memory`; a
            folder, for a temporary file; `none` encodes every image in every epoch.
        encoding_batch_size (`int`, *optional*, defaults to 32): Images that the encoder sees at once.
        device (`str`, *optional*, defaults to `"cpu"`): `cpu` or `cuda`.

    Raises:
        UserError: A number is out of its range, or there is no such device.
    """

    image_size: int | None = None
    resize: str = "pad"
    preset: str = "fixed"
    neck_width: int = 512
    learning_rate: float = 5e-4
    weight_decay: float = 1e-6
    batch_size: int = 16
    epochs: int = 50
    patience: int = 10
    score_threshold: float = 0.5
    nms_threshold: float = 0.5
    max_boxes: int = 100
    cache: str = "memory"
    encoding_batch_size: int = 32
    device: str = "cpu"

    def __post_init__(self):
        check_training(self)
        for name in ("max_boxes", "encoding_batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} {getattr(self, name)} is not at least 1")
        for name in ("score_threshold", "nms_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} {getattr(self, name)} is not between 0 and 1")


def new_detector(
    encoder: FrozenEncoder, seed: int, settings: DetectionSettings
) -> tuple[MedSynForObjectDetection, MedSynDetectionImageProcessor]:
    """An untrained neck and head on the encoder itself, and the processor that goes with both.

    Raises:
        UserError: The encoder does not tell its architecture, or has no maps to look at.
    """
    if encoder.architecture is None:
        raise UserError(f"encoder {encoder.name} does not tell its timm architecture; load it with load_encoder")
    processor = MedSynDetectionImageProcessor(
        size=settings.image_size or encoder.processor.output_size,
        resize=settings.resize,
        image_mean=encoder.processor.image_mean,
        image_std=encoder.processor.image_std,
        num_channels=encoder.processor.num_channels,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MedSynForObjectDetection.from_encoder(
            encoder.model,
            TimmWrapperConfig(architecture=encoder.architecture, model_args=encoder.arguments or None),
            image_size=processor.output_size,
            neck_width=settings.neck_width,
            preset=settings.preset,
        )
    return model, processor


class FeatureMaps:
    """The frozen encoder's maps of some rows, float32, as the detector takes them.

    Args:
        encoder ([`~trainers.downstream.encoders.FrozenEncoder`]): Whose maps.
        images ([`~trainers.downstream.images.annotated_images.AnnotatedImages`]): Of which images.
        rows (`np.ndarray`): Which of them.
        settings ([`DetectionSettings`]): `image_size`, `resize`, `cache`, `encoding_batch_size` and `device` count.

    Raises:
        UserError: An image cannot be used or has maps that are not finite, and is named; or there is no room for
            the maps.
    """

    def __init__(self, encoder: FrozenEncoder, images: AnnotatedImages, rows: np.ndarray, settings: DetectionSettings):
        model, self.processor = new_detector(encoder, 0, settings)
        self.images, self.places = images, {int(row): place for place, row in enumerate(rows)}
        self.maps: list[np.ndarray] | None = None
        if settings.cache == "none":
            return
        if settings.cache != "memory":
            Path(settings.cache).mkdir(parents=True, exist_ok=True)
            self.folder = tempfile.TemporaryDirectory(prefix="maps-", dir=settings.cache)  # goes with this object
        model.to(settings.device)
        rows = np.asarray(list(self.places))
        starts = range(0, len(rows), settings.encoding_batch_size)
        for start in tqdm(starts, desc=f"maps of {encoder.name} on {images.name}", unit="batch", delay=2):
            batch_rows = rows[start : start + settings.encoding_batch_size]
            pixels = torch.stack([self.pixels(row) for row in batch_rows]).to(settings.device)
            found = [one.float().cpu().numpy() for one in model.encode_maps(pixels)]  # (batch, channels, h, w) each
            for row, *maps in zip(batch_rows, *found, strict=True):
                if not all(np.isfinite(one).all() for one in maps):
                    raise UserError(f"{encoder.name} gives maps that are not finite on image {images.ids[row]}")
            if self.maps is None:
                self._check_room(len(rows), sum(one[0].nbytes for one in found), settings.cache)
                self.maps = [self._empty((len(rows), *one.shape[1:]), settings.cache) for one in found]
            for kept, one in zip(self.maps, found, strict=True):
                kept[start : start + len(batch_rows)] = one

    def _check_room(self, images: int, bytes_per_image: int, cache: str) -> None:
        memory = cache == "memory"
        room = psutil.virtual_memory().available if memory else shutil.disk_usage(cache).free
        if images * bytes_per_image > room:
            raise UserError(
                f"the maps of {images} images take {images * bytes_per_image / 1e9:.1f} GB, and {room / 1e9:.1f} GB "
                f"are free {'in memory' if memory else f'in {cache}'}: set cache to a roomier folder, or to none"
            )

    def _empty(self, shape: tuple[int, ...], cache: str) -> np.ndarray:
        if cache == "memory":
            return np.empty(shape, dtype=np.float32)
        path = Path(self.folder.name) / f"{'x'.join(map(str, shape))}.npy"
        return np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)

    def pixels(self, row: int) -> Tensor:
        """The image of a row as the encoder takes it, `(channels, side, side)`."""
        try:
            return self.processor(self.images.open(row), return_tensors="pt")["pixel_values"][0]
        except ValueError as error:
            raise UserError(f"{self.images.name}: image {self.images.ids[row]}: {error}") from error

    def inputs(self, row: int) -> dict[str, Tensor | tuple[Tensor, ...]]:
        """What the detector takes of a row: its `feature_maps`, or its `pixel_values` where none are kept."""
        if self.maps is None:
            return {"pixel_values": self.pixels(row)}
        return {"feature_maps": tuple(torch.from_numpy(one[self.places[row]]) for one in self.maps)}
