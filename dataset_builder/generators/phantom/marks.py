"""What lies in an image beside the patient: edges of the collimated field, side markers and text."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dataset_builder.generators.phantom.geometry import Pose

OVERSAMPLING = 3


def draw_marks(grey: np.ndarray, pose: Pose, rng: np.random.Generator) -> np.ndarray:
    """Draw edges, marker and text; none depends on a finding, and text agrees with the pose.

    Args:
        grey (`np.ndarray` of shape `(height, width)`): Grey levels.
        pose (`Pose`): Gives `AP`, `PORTABLE`, `SUPINE` and `ERECT` their truth.
        rng (`np.random.Generator`): 64 numbers are drawn from it.
    """
    draws = iter(rng.random(64))
    grey = _edges(grey, draws)
    size = grey.shape[0]
    layer = Image.new("L", (size * OVERSAMPLING,) * 2)
    for text, place, height, angle, style in _texts(pose, draws):
        _stamp(layer, text, place, height * size * OVERSAMPLING, angle, style)
    ink = np.asarray(layer.resize((size, size), Image.Resampling.BOX), dtype=np.float64) / 255
    return grey + ink * (250 - grey)


def _edges(grey: np.ndarray, draws) -> np.ndarray:
    """Up to four strips, black or white, slightly tilted."""
    size = grey.shape[0]
    at = (np.arange(size) + 0.5) / size
    for axis in (0, 1):
        for end in (0, 1):
            chance, width, tilt, tone, soft = (next(draws) for _ in range(5))
            if chance > 0.22:
                continue
            edge = 0.045 * width**2 + (at - 0.5) * (tilt - 0.5) * 0.05
            along = at if end == 0 else 1 - at
            inside = np.clip((along[:, None] - edge[None]) * size / (0.5 + 2 * soft) + 0.5, 0, 1)
            inside = inside if axis == 0 else inside.T
            grey = inside * grey + (1 - inside) * (6 if tone < 0.75 else 246)
    return grey


def _texts(pose: Pose, draws):
    """Yields `(text, (x, y) as shares of the image, height as a share, angle in degrees, style)`."""
    left, style, tilt, x, y, height = (next(draws) for _ in range(6))
    if next(draws) < 0.9:
        side, column = ("L", 0.86 + 0.10 * x) if left < 0.8 else ("R", 0.04 + 0.10 * x)
        angle = (tilt - 0.5) * 24 if tilt < 0.9 else 90
        yield (
            side,
            (column, 0.04 + 0.12 * y),
            0.032 + 0.025 * height,
            angle,
            "disc" if style < 0.1 else "initials" if style < 0.4 else "plain",
        )
    words = []
    if pose.view == "AP":
        words = ["AP", "PORTABLE", "AP PORTABLE", ""]
    chosen, erect, column, row = (next(draws) for _ in range(4))
    if words and words[int(chosen * 4)]:
        yield words[int(chosen * 4)], (0.08 + 0.3 * column, 0.03 + 0.06 * row), 0.025, 0, "plain"
    if pose.view == "AP" and erect < 0.4:
        yield ("ERECT" if pose.upright else "SUPINE"), (0.1 + 0.2 * row, 0.12), 0.022, 0, "plain"


def _stamp(layer: Image.Image, text: str, place, height: float, angle: float, style: str):
    font = ImageFont.load_default(size=max(6.0, height))
    box = font.getbbox(text)
    width, tall = int(box[2] + height), int(box[3] + height)
    if style == "disc":
        width = tall
    stamp = Image.new("L", (width, tall))
    pen = ImageDraw.Draw(stamp)
    if style == "disc":
        pen.ellipse((1, 1, tall - 2, tall - 2), outline=220, width=max(1, int(height / 8)))
    pen.text(((width - box[2] - box[0]) / 2, (tall - box[3] - box[1]) / 2), text, fill=235, font=font)
    if style == "initials":
        small = ImageFont.load_default(size=max(6.0, height / 2.2))
        pen.text((height / 2, tall - height / 2), "KM", fill=200, font=small)
    stamp = stamp.rotate(angle, expand=True, resample=Image.Resampling.BILINEAR)
    corner = [
        int(share * side - length / 2) for share, side, length in zip(place, layer.size, stamp.size, strict=True)
    ]
    corner = [min(max(c, 0), side - length) for c, side, length in zip(corner, layer.size, stamp.size, strict=True)]
    layer.paste(stamp, tuple(corner), stamp)
