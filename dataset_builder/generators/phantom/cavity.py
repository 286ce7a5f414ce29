"""The space of one lung as the recipes of findings use it: depths, heights and lobes on a sub-volume of the atlas."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

from dataset_builder.generators.phantom.atlas import Atlas

MARGIN = 12.0  # mm kept around the lung


@dataclass(frozen=True)
class Cavity:
    """One lung on the sub-volume `box` of the atlas; all volumes are float32 of shape `(slabs, rows, columns)`.

    Args:
        side (`str`): The patient's `left` or `right`.
        box (`tuple[slice, slice, slice]`): Where the sub-volume lies in the atlas.
        x, y, up (`np.ndarray`): Axes of the sub-volume in the atlas's mm: x to the patient's left, y to the back, and
            `up` = -z, towards the head.
        share (`np.ndarray`): 0-1, the part of a voxel inside the pleura, the lung's vessels and airways included.
        wall (`np.ndarray`): Depth in mm below the pleura, in three dimensions.
        lateral (`np.ndarray` of shape `(rows, columns)`): Depth in mm inside the outline of the lung seen from the
            front, to its lateral and apical border only.
        lobes (`dict[str, np.ndarray]`): 0-1 share of the `upper`, `middle` (right only) and `lower` lobe.
        floor (`np.ndarray` of shape `(columns,)`): Height in mm of the diaphragm as seen from the front.
        dome, apex (`float`): Heights in mm of the top of the diaphragm and of the lung.
    """

    side: str
    box: tuple[slice, slice, slice]
    x: np.ndarray
    y: np.ndarray
    up: np.ndarray
    share: np.ndarray
    wall: np.ndarray
    lateral: np.ndarray
    lobes: dict[str, np.ndarray]
    floor: np.ndarray
    dome: float
    apex: float

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Size of a voxel in mm along slabs, rows and columns."""
        return tuple(abs(float(axis[1] - axis[0])) for axis in (self.y, self.up, self.x))

    @property
    def height(self) -> np.ndarray:
        """Height fraction of each row, `(1, rows, 1)`: 0 at the top of the diaphragm, 1 at the apex."""
        return ((self.up - self.dome) / (self.apex - self.dome)).astype(np.float32)[None, :, None]

    def offsets(self, point: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """mm to the left, to the back and up from a point `(x, y, z)`, shaped to broadcast over the sub-volume."""
        x, y, z = point
        return (
            (self.x - x).astype(np.float32)[None, None, :],
            (self.y - y).astype(np.float32)[:, None, None],
            (self.up + z).astype(np.float32)[None, :, None],
        )

    def zone(self, name: str) -> np.ndarray:
        """Soft membership, `(1, rows, 1)`, of the `upper`, `middle` or `lower` third of the visible lung."""
        low, high = {"lower": (-2.0, 1 / 3), "middle": (1 / 3, 2 / 3), "upper": (2 / 3, 2.0)}[name]
        return ramp(self.height - low, 0.03) * ramp(high - self.height, 0.03)


def ramp(value: np.ndarray, width: float) -> np.ndarray:
    """A soft step: 0 far below zero, 1 far above, over about +-2 `width`."""
    return (0.5 * (1 + np.tanh(np.asarray(value, dtype=np.float32) / np.float32(2 * width)))).astype(np.float32)


def smooth_noise(shape: tuple[int, ...], knots: tuple[float, ...], rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise of unit variance, float32, smooth over about `knots` voxels along each axis."""
    sizes = [max(2, int(np.ceil(n / k)) + 3) for n, k in zip(shape, knots, strict=True)]
    noise = rng.standard_normal(sizes, dtype=np.float32)
    for axis, (n, k) in enumerate(zip(shape, knots, strict=True)):
        at = np.arange(n, dtype=np.float32)[:, None] / np.float32(k) + 1  # position among the knots
        weights = np.exp(-((at - np.arange(sizes[axis], dtype=np.float32)[None]) ** 2) / np.float32(2 * 0.6**2))
        weights /= np.sqrt((weights**2).sum(axis=1, keepdims=True))
        noise = np.moveaxis(np.tensordot(weights, noise, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(noise)


@lru_cache(maxsize=4)
def cavity_of(atlas: Atlas, side: str) -> Cavity:
    """Measures the `left` or `right` lung of an atlas."""
    lobes = {
        name: atlas.share(f"lung_{name}_lobe_{side}").numpy()
        for name in ("upper", "middle", "lower")
        if f"lung_{name}_lobe_{side}" in atlas.structures
    }
    x, y, up = atlas.x.numpy(), atlas.y.numpy(), -atlas.z.numpy()
    spacing = tuple(atlas.spacing)
    whole = sum(lobes.values())
    occupied = [np.flatnonzero((whole > 0.5).any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    box = tuple(
        slice(max(0, int(index[0] - round(MARGIN / step))), min(n, int(index[-1] + 1 + round(MARGIN / step))))
        for index, step, n in zip(occupied, spacing, whole.shape, strict=True)
    )
    y, up, x = y[box[0]], up[box[1]], x[box[2]]
    whole = np.clip(whole[box], 0, 1).astype(np.float32)
    ball = _ball(7.0, spacing)  # mm, closes vessels and the hilum's edge
    closed = ndimage.binary_closing(np.pad(whole > 0.5, [(n // 2,) * 2 for n in ball.shape]), ball)
    closed = closed[tuple(slice(n // 2, -(n // 2) or None) for n in ball.shape)]
    share = np.maximum(whole, ndimage.gaussian_filter(closed.astype(np.float32), (0.3, 0.5, 0.5)))
    share[share < 0.02] = 0
    wall = ndimage.distance_transform_edt(closed, sampling=spacing).astype(np.float32)

    outline = closed.any(axis=0)  # (rows, columns)
    towards_midline = np.flip(outline, axis=1) if side == "left" else outline  # the midline is now on the right
    # Everything medial of and below the outline counts as inside: only lateral and apical borders are borders.
    open_ = np.maximum.accumulate(towards_midline, axis=1)
    open_ = np.maximum.accumulate(open_, axis=0)
    open_ = np.flip(open_, axis=1) if side == "left" else open_
    padded = np.pad(open_, ((1, 0), (1, 1)))
    padded[:, -1 if side == "right" else 0] = padded[:, -2 if side == "right" else 1]
    lateral = ndimage.distance_transform_edt(padded, sampling=spacing[1:])[1:, 1:-1].astype(np.float32)

    # The diaphragm: where the lung beside the heart thins out from above.
    depth = share.sum(axis=0)  # (rows, columns), in slabs
    columns = np.flatnonzero(outline.any(axis=0))
    last = [np.flatnonzero(depth[:, column] >= 0.6 * depth[:, column].max())[-1] for column in columns]
    lateral_half = columns >= columns[len(columns) // 2] if side == "left" else columns <= columns[len(columns) // 2]
    full = depth[:, columns].max(axis=0) > 0.5 * depth.max()
    dome_row = int(np.percentile(np.asarray(last)[lateral_half & full], 10))
    floor = np.interp(np.arange(len(x)), columns[full], np.maximum(last, dome_row)[full])
    return Cavity(
        side=side,
        box=box,
        x=x,
        y=y,
        up=up,
        share=share,
        wall=wall,
        lateral=lateral * outline,
        lobes={name: np.clip(lobe[box], 0, 1).astype(np.float32) for name, lobe in lobes.items()},
        floor=np.interp(floor, np.arange(len(up)), up),
        dome=float(up[dome_row]),
        apex=float(up[np.flatnonzero(closed.any(axis=(0, 2)))[0]]),
    )


def _ball(radius: float, spacing: tuple[float, float, float]) -> np.ndarray:
    counts = [int(radius // step) for step in spacing]
    axes = np.meshgrid(*(np.arange(-n, n + 1) * step for n, step in zip(counts, spacing, strict=True)), indexing="ij")
    return sum(axis**2 for axis in axes) <= radius**2
