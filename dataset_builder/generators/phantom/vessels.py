"""Pulmonary vessels beyond those that the CT resolves: branching random walks from each hilum, on depth planes."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import grid_sample

from dataset_builder.generators.phantom.atlas import Atlas

PIXEL_MM = 0.8  # of the planes that vessels are drawn on
PLANES = (-0.6, 0.0, 0.6)  # depth of the planes, as a share of PLANE_MM about the hilum
PLANE_MM = 75.0
STEP_MM = 1.5
ROOTS = 5
RADII_MM = (0.35, 0.6, 0.95, 1.5)  # vessels are drawn in classes of radius


def grow(rng: np.random.Generator, hilum: np.ndarray, outward: float) -> np.ndarray:
    """One lung's tree in the frontal plane.

    Args:
        hilum (`np.ndarray` of shape `(2,)`): x and z in mm.
        outward (`float`): +1 where x grows away from the midline, else -1.

    Returns:
        `np.ndarray` of shape `(points, 4)`: x, z, radius in mm, and the index of the plane.
    """
    pieces = []
    for plane in range(len(PLANES)):
        angles = np.linspace(-1.25, 1.35, ROOTS) + rng.normal(size=ROOTS) * 0.16
        walks = [(hilum + rng.normal(size=2) * (2, 6), angle, rng.uniform(1.1, 1.9), 0) for angle in angles]
        while walks:
            start, angle, radius, depth = walks.pop()
            steps = int(rng.uniform(12, 30))
            turns = angle + np.cumsum(rng.normal(size=steps) * 0.07)
            radii = radius * np.linspace(1, 0.74, steps)
            heading = np.stack([outward * np.cos(turns), np.sin(turns)], 1)
            points = start + np.cumsum(heading * STEP_MM, 0)
            pieces.append(np.column_stack([points, radii, np.full(steps, plane)]))
            if radii[-1] > 0.36 and depth < 6:
                spread = rng.uniform(0.2, 0.55)
                for sign, shrink in ((-1, rng.uniform(0.62, 0.85)), (1, rng.uniform(0.7, 0.92))):
                    walks.append((points[-1], turns[-1] + sign * spread, radii[-1] * shrink, depth + 1))
    return np.concatenate(pieces)


def draw(points: np.ndarray, shape: tuple[int, int], extent: tuple[float, float]) -> torch.Tensor:
    """Length of vessel along a ray at right angles to each plane.

    Args:
        points (`np.ndarray` of shape `(points, 4)`): From `grow`.
        shape (`tuple[int, int]`): Rows and columns of the planes.
        extent (`tuple[float, float]`): z and x of the last row and column in mm; the first are opposite.

    Returns:
        `torch.Tensor` of shape `(planes, rows, columns)`: mm.
    """
    rows, columns = shape
    row = (points[:, 1] / extent[0] + 1) / 2 * (rows - 1)
    column = (points[:, 0] / extent[1] + 1) / 2 * (columns - 1)
    inside = (row >= 0) & (row < rows - 1) & (column >= 0) & (column < columns - 1)
    row, column, points = row[inside], column[inside], points[inside]
    radius, plane = points[:, 2], points[:, 3].astype(int)
    classes = np.abs(radius[:, None] - np.array(RADII_MM)).argmin(1)
    volume = np.pi * radius**2 * STEP_MM / PIXEL_MM**2  # mm of vessel if it all fell on one pixel
    r0, c0 = row.astype(int), column.astype(int)
    fr, fc = row - r0, column - c0
    size = len(PLANES) * len(RADII_MM) * rows * columns
    base = ((classes * len(PLANES) + plane) * rows + r0) * columns + c0
    total = np.zeros(size)
    for shift, weight in (
        (0, (1 - fr) * (1 - fc)),
        (1, (1 - fr) * fc),
        (columns, fr * (1 - fc)),
        (columns + 1, fr * fc),
    ):
        total += np.bincount(base + shift, weight * volume, size)
    layers = torch.from_numpy(total.astype(np.float32)).view(len(RADII_MM), len(PLANES), rows, columns)
    out = torch.zeros(len(PLANES), rows, columns)
    for layer, size in zip(layers, RADII_MM, strict=True):
        sigma = max(0.55 * size / PIXEL_MM, 0.45)
        out += _blur(_blur(layer, sigma, 1), sigma, 2)
    return out


def _blur(planes: torch.Tensor, sigma: float, axis: int) -> torch.Tensor:
    """Gaussian blur along one axis: a few shifted sums, several times faster than a convolution of one channel."""
    reach = int(np.ceil(3 * sigma))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights = weights / weights.sum()
    total, size = planes * float(weights[reach]), planes.shape[axis]
    for shift in range(1, reach + 1):
        weight, kept = float(weights[reach + shift]), size - shift
        total.narrow(axis, shift, kept).add_(planes.narrow(axis, 0, kept), alpha=weight)
        total.narrow(axis, 0, kept).add_(planes.narrow(axis, shift, kept), alpha=weight)
    return total


def vessel_planes(rng: np.random.Generator, atlas: Atlas) -> list[tuple[int, torch.Tensor]]:
    """Both lungs' trees.

    Returns:
        `list[tuple[int, torch.Tensor]]`: The slab, and the vessels' length in mm along the ray at each point of it,
        `(rows, columns)` over the slab's whole extent.
    """
    extent = (float(atlas.z[-1]), float(atlas.x[-1]))
    shape = tuple(int(round(2 * length / PIXEL_MM)) + 1 for length in extent)
    points, depth = [], 0.0
    for side, outward in (("right", -1.0), ("left", 1.0)):
        x, y, z = atlas.landmarks[f"hilum_{side}"]
        points.append(grow(rng, np.array([x, z]), outward))
        depth += y / 2
    total = draw(np.concatenate(points), shape, extent)
    depths = [depth + PLANE_MM * plane for plane in PLANES]
    slabs = np.interp(depths, atlas.y.numpy(), np.arange(len(atlas.y))).round().astype(int)
    return list(zip(slabs.tolist(), total, strict=True))


def project_vessels(planes, grid: torch.Tensor, aerated: torch.Tensor) -> torch.Tensor:
    """Vessels in the image.

    Args:
        planes: From `vessel_planes`.
        grid (`torch.Tensor` of shape `(slabs, height, width, 2)`): From `sampling_grid`.
        aerated (`torch.Tensor` of shape `(slabs, rows, columns)`): Share of aerated lung; vessels show in it only.

    Returns:
        `torch.Tensor` of shape `(height, width)`: mm of blood in place of aerated lung.
    """
    total = torch.zeros(grid.shape[1:3])
    for slab, plane in planes:
        at = grid[None, slab]
        length = grid_sample(plane[None, None], at, align_corners=True)[0, 0]
        total += length * grid_sample(aerated[None, None, slab], at, align_corners=True)[0, 0]
    return total
