"""Where a finding is: rectangles, ellipses, polygons, run lengths and mask files, as boxes and as masks of an image.

Coordinates are pixels of a grid, counted from the left upper corner of the left upper pixel, so that a box of
`(0, 0, width, height)` covers an image. A shape may name the size of the grid that it is told in (`(1, 1)` for shares
of the image); it is then scaled to the image that is stored, whatever its size.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from dataset_builder.radiographs.run_lengths import decode_runs
from medsyn.errors import UserError

ROUNDING = 0.01  # pixels by which a box may pass the image's edge


class BoxError(UserError):
    """A box that is not inside its image, or has no area."""


@dataclass(frozen=True, slots=True)
class Rectangle:
    """A finding in a rectangle of corners `(x0, y0, x1, y1)`."""

    finding: str
    corners: tuple[float, float, float, float]
    grid: tuple[float, float] | None = None

    def bounds(self) -> tuple[float, float, float, float]:
        return self.corners

    def draw(self, draw: ImageDraw.ImageDraw, scale: tuple[float, float]) -> None:
        x0, y0, x1, y1 = _scaled(self.corners, scale)
        # A pixel is inside if its middle is.
        x0, y0, x1, y1 = np.ceil(x0 - 0.5), np.ceil(y0 - 0.5), np.ceil(x1 - 0.5) - 1, np.ceil(y1 - 0.5) - 1
        if x0 <= x1 and y0 <= y1:
            draw.rectangle((x0, y0, x1, y1), fill=255)


@dataclass(frozen=True, slots=True)
class Ellipse(Rectangle):
    """A finding in the ellipse that fills a rectangle."""

    def pixels(self, width: int, height: int, scale: tuple[float, float]) -> np.ndarray:
        """The pixels whose middle is inside, or, where there is none, the one in which the ellipse has its middle."""
        x0, y0, x1, y1 = _scaled(self.corners, scale)
        middle, radius = ((x0 + x1) / 2, (y0 + y1) / 2), (max(x1 - x0, 1e-6) / 2, max(y1 - y0, 1e-6) / 2)
        x = np.arange(max(0, int(x0)), min(width, int(x1) + 1))
        y = np.arange(max(0, int(y0)), min(height, int(y1) + 1))[:, None]
        mask = np.zeros((height, width), dtype=bool)
        mask[y, x] = ((x + 0.5 - middle[0]) / radius[0]) ** 2 + ((y + 0.5 - middle[1]) / radius[1]) ** 2 <= 1
        if not mask.any() and 0 <= middle[0] < width and 0 <= middle[1] < height:
            mask[int(middle[1]), int(middle[0])] = True
        return mask


@dataclass(frozen=True, slots=True)
class Polygon:
    """A finding inside a closed line through `points`, at least three."""

    finding: str
    points: tuple[tuple[float, float], ...]
    grid: tuple[float, float] | None = None

    def bounds(self) -> tuple[float, float, float, float]:
        x, y = zip(*self.points, strict=True)
        return min(x), min(y), max(x), max(y)

    def draw(self, draw: ImageDraw.ImageDraw, scale: tuple[float, float]) -> None:
        draw.polygon([(x * scale[0] - 0.5, y * scale[1] - 0.5) for x, y in self.points], fill=255)


@dataclass(frozen=True, slots=True)
class RunLengths:
    """A finding as runs of pixels of a grid, see [`decode_runs`]; several strings of one finding unite."""

    finding: str
    runs: tuple[str, ...]
    grid: tuple[int, int]

    def pixels(self, width: int, height: int) -> np.ndarray:
        mask = np.zeros(self.grid[::-1], dtype=bool)
        for runs in self.runs:
            mask |= decode_runs(runs, *self.grid)
        return resize_mask(mask, width, height)


@dataclass(frozen=True, slots=True)
class MaskFile:
    """A finding as an image file of the image's size, in which everything but black is inside."""

    finding: str
    path: Path

    def pixels(self, width: int, height: int, original: tuple[int, int]) -> np.ndarray:
        from dataset_builder.radiographs.image_files import open_image

        with open_image(self.path) as image:
            if image.size != original:
                raise UserError(
                    f"{self.path}: the mask has {image.width} x {image.height} pixels, its image {original[0]} x "
                    f"{original[1]}"
                )
            mask = np.asarray(image.convert("L")) > 0
        return resize_mask(mask, width, height)


Shape = Rectangle | Ellipse | Polygon
Region = Rectangle | Ellipse | Polygon | RunLengths | MaskFile


def _scaled(corners: tuple[float, ...], scale: tuple[float, float]) -> tuple[float, ...]:
    return tuple(value * scale[axis % 2] for axis, value in enumerate(corners))


def box_in_image(
    shape: Shape, original: tuple[int, int], stored: tuple[int, int], fix: bool = False
) -> tuple[tuple[float, ...] | None, bool]:
    """
    The box of a shape in the stored image.

    Args:
        shape (`Rectangle`, `Ellipse` or `Polygon`): What was marked.
        original (`tuple[int, int]`): Width and height of the image as it was annotated, if `shape` names no grid.
        stored (`tuple[int, int]`): Width and height of the image as it is stored.
        fix (`bool`, *optional*, defaults to `False`): Cut at the image's edges what passes them.

    Returns:
        `tuple`: `(x0, y0, x1, y1)` in pixels of the stored image, and whether it was cut; the box is `None` where
        `fix` left no area.

    Raises:
        BoxError: Not inside the image, or without area, and `fix` is not set.
    """
    grid = shape.grid or original
    scale = (stored[0] / grid[0], stored[1] / grid[1])
    box = np.array(_scaled(shape.bounds(), scale), dtype=np.float64)  # (4,)
    limits = np.array([stored[0], stored[1]] * 2, dtype=np.float64)
    cut = np.clip(box, 0, limits)
    outside = bool((np.abs(cut - box) > ROUNDING).any())
    empty = bool((cut[2:] <= cut[:2]).any())
    if (outside or empty) and not fix:
        corners = ", ".join(f"{value:g}" for value in shape.bounds())
        if outside:
            raise BoxError(f"its box ({corners}) is not inside the image of {grid[0]:g} x {grid[1]:g}")
        raise BoxError(f"its box ({corners}) has no area")
    return (None if empty else tuple(float(value) for value in cut)), outside


def draw_mask(region: Region, original: tuple[int, int], stored: tuple[int, int]) -> np.ndarray:
    """
    The pixels of a region in the stored image.

    Args:
        region (`Region`): Where the finding is.
        original (`tuple[int, int]`), stored (`tuple[int, int]`): As in [`box_in_image`].

    Returns:
        `np.ndarray` of shape `(height, width)`, bool.

    Raises:
        UserError: Runs that pass the image's end, a mask file of another size, or one that cannot be read.
    """
    if isinstance(region, RunLengths):
        return region.pixels(*stored)
    if isinstance(region, MaskFile):
        return region.pixels(*stored, original=original)
    grid = region.grid or original
    scale = (stored[0] / grid[0], stored[1] / grid[1])
    if isinstance(region, Ellipse):
        return region.pixels(*stored, scale)
    canvas = Image.new("L", stored)
    region.draw(ImageDraw.Draw(canvas), scale)
    return np.asarray(canvas) > 0


def resize_mask(mask: np.ndarray, width: int, height: int) -> np.ndarray:
    """
    A mask in another size: a pixel is inside if at least half of its area is, or, where no pixel is so well covered,
    those that are covered best, so that a small finding does not vanish.
    """
    if mask.shape == (height, width):
        return mask
    grey = Image.fromarray(mask.astype(np.float32))
    cover = np.asarray(grey.resize((width, height), Image.Resampling.BOX))  # (height, width), 0 to 1
    level = min(0.5, float(cover.max()))
    return cover >= level if level > 0 else np.zeros((height, width), dtype=bool)
