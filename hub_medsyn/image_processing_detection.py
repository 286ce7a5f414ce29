"""Radiographs to square tensors for a detector, and boxes there and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .image_processing_medsyn import MedSynImageProcessor, area_weights
from .loss_yolo import select

RESIZES = ("pad", "stretch")


class MedSynDetectionImageProcessor(MedSynImageProcessor):
    """[`MedSynImageProcessor`] without crop, since a box must not be cut off, and the way back from its squares.

    Args:
        size (`int` or `dict`, *optional*, defaults to 224): The square's side; saved as `{"longest_edge": size}`.
        resize (`str`, *optional*, defaults to `"pad"`):
            `pad` keeps the aspect and pads to the square; `stretch` fills the square, as MGCA's detector does.
        kwargs: `image_mean`, `image_std` and `num_channels` of [`MedSynImageProcessor`].

    Raises:
        ValueError: There is no such `resize`, or a crop is asked for.
    """

    def __init__(self, size: int | dict[str, int] = 224, resize: str = "pad", **kwargs):
        if resize not in RESIZES:
            raise ValueError(f"resize {resize!r} is not one of {', '.join(RESIZES)}")
        if kwargs.get("crop_size") is not None:
            raise ValueError(f"crop_size {kwargs['crop_size']} would cut boxes off; a detector takes whole images")
        super().__init__(size=size, **kwargs)
        self.resize = resize

    def resize_and_pad(self, grey: np.ndarray, side: int | None = None) -> np.ndarray:
        """`(height, width)` uint8 to `(side, side)` uint8, as `resize` says.

        Raises:
            ValueError: If the image has a side of one pixel, or is so long that its short side would vanish.
        """
        if self.resize == "pad" or min(grey.shape) < 2:
            return super().resize_and_pad(grey, side)
        side = side or self.output_size
        height, width = grey.shape
        stretched = area_weights(height, side) @ grey.astype(np.float32) @ area_weights(width, side).T
        return np.rint(stretched).astype(np.uint8)  # (side, side)

    def placement(self, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Where an image lies on the square.

        Returns:
            `tuple[np.ndarray, np.ndarray]`: Pixels of the square for each of the image's, and the square's coordinates
            of the image's corner, both in x and y: `(2,)`.
        """
        side = self.output_size
        size = np.array([width, height])
        shown = np.full(2, side) if self.resize == "stretch" else size * side // size.max()
        return shown / size, (side - shown) // 2

    def boxes_to_square(self, boxes: np.ndarray, height: int, width: int) -> np.ndarray:
        """Corners in pixels of an image, `(n, 4)`, to centre x and y, width and height as shares of the square."""
        scale, corner = self.placement(height, width)
        corners = boxes.reshape(-1, 2, 2).astype(np.float64) * scale + corner  # (n, 2 corners, 2)
        centred = np.concatenate([corners.mean(1), corners[:, 1] - corners[:, 0]], 1)
        return (centred / self.output_size).astype(np.float32)

    def boxes_from_square(self, boxes: np.ndarray, height: int, width: int) -> np.ndarray:
        """Corners in pixels of the square, `(n, 4)`, to corners in pixels of an image, cut off at its edges."""
        scale, corner = self.placement(height, width)
        corners = (boxes.reshape(-1, 2, 2).astype(np.float64) - corner) / scale
        return np.clip(corners, 0, [width, height]).reshape(-1, 4).astype(np.float32)

    def post_process_object_detection(
        self,
        outputs: Any,
        threshold: float = 0.5,
        target_sizes: Tensor | list[tuple[int, int]] | None = None,
        nms_threshold: float = 0.5,
    ) -> list[dict[str, Tensor]]:
        """What a detector found, as `pipeline("object-detection")` wants it.

        Args:
            outputs ([`~hub_medsyn.modeling_detection.DetectionOutput`]): Of a [`MedSynForObjectDetection`].
            threshold (`float`, *optional*, defaults to 0.5): The least objectness.
            target_sizes (`torch.Tensor` of shape `(images, 2)` or `list`, *optional*):
                Height and width of each image before it was processed.
            nms_threshold (`float`, *optional*, defaults to 0.5):
                The IoU above which the less likely of two boxes of one class goes.

        Returns:
            `list[dict[str, torch.Tensor]]`: For each image `boxes` `(n, 4)`, corners in pixels of the image, or as
            shares of the square where there are no `target_sizes`; `scores` `(n,)`, the objectness, falling; `labels`
            `(n,)`.

        Raises:
            ValueError: There are more or fewer sizes than images.
        """
        if target_sizes is not None and len(target_sizes) != len(outputs.logits):
            raise ValueError(f"{len(target_sizes)} target_sizes for {len(outputs.logits)} images: one each is needed")
        found = []
        for image, boxes in enumerate(outputs.pred_boxes):
            boxes, scores, labels = select(
                boxes.float() * self.output_size,
                outputs.objectness[image].float(),
                outputs.logits[image],
                threshold,
                nms_threshold,
            )
            if target_sizes is None:
                boxes = boxes / self.output_size
            else:
                height, width = (int(side) for side in target_sizes[image])
                boxes = torch.from_numpy(self.boxes_from_square(boxes.cpu().numpy(), height, width))
            found.append({"scores": scores, "labels": labels, "boxes": boxes})
        return found
