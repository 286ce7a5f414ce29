"""The heart's size: its share of the chest's width on the film, and the heart factor that a wanted share needs."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from dataset_builder.generators.phantom.atlas import Atlas
from dataset_builder.generators.phantom.geometry import project, sample_pose, sample_warp, sampling_grid, stream
from dataset_builder.generators.phantom.pleura import between

ENLARGED = {"PA": 0.50, "AP": 0.55}  # cardiothoracic ratio above which a heart counts as enlarged
BEYOND = {
    "mild": (0.018, 0.035),
    "moderate": (0.045, 0.065),
    "severe": (0.075, 0.105),
}  # asked-for excess over the cut
NORMAL_MARGIN = 0.02  # a normal heart stays this far below the cut
DEPTH = 15.0  # mm of heart or lung along the ray from which a pixel counts
FACTORS = (-0.4, 1.1)  # range of the heart factor
SOLVER_SIZE = 96  # pixels of the projections that the solver measures


def heart_depth(depth: np.ndarray, field: float) -> np.ndarray:
    """mm of heart along each ray with the gaps and spurs of its label map evened out, `(height, width)`.

    Args:
        depth (`np.ndarray` of shape `(height, width)`): mm of the heart's label along each ray.
        field (`float`): Width of the film in mm.
    """
    close, open_ = (max(3, round(length * depth.shape[1] / field)) for length in (14.0, 18.0))
    return ndimage.grey_opening(ndimage.grey_closing(depth, (close, close)), (open_, open_))


def cardiothoracic_ratio(heart: np.ndarray, lungs: np.ndarray) -> float:
    """Width of the heart over the width of the chest inside the ribs.

    Args:
        heart, lungs (`np.ndarray` of shape `(height, width)`): mm of heart (evened out) and of both lungs along rays.
    """
    return _width(heart) / _width(lungs)


def _width(depth: np.ndarray) -> float:
    profile = depth.max(axis=0)  # (width,)
    inside = np.flatnonzero(profile > DEPTH)
    if not len(inside):
        return 0.0
    first, last = int(inside[0]), int(inside[-1])
    left, right = float(first), float(last)
    if first > 0:  # where the profile crosses the threshold, between two pixels
        left -= (profile[first] - DEPTH) / (profile[first] - profile[first - 1])
    if last < len(profile) - 1:
        right += (profile[last] - DEPTH) / (profile[last] - profile[last + 1])
    return right - left


def solve_heart(
    atlas: Atlas, seed: int, view: str | None, severity: str | None, extent: float, inflation: float | None = None
) -> float | None:
    """The heart factor of a film.

    Args:
        severity (`str`, *optional*): How far above the cut; `None` asks for a normal heart.
        extent (`float`): 0-1, the place within the severity.
        inflation (`float`, *optional*): mm, where it is not the seed's own.

    Returns:
        `float`, *optional*: The factor, or `None` where the heart that the seed draws is normal as it is.
    """
    pose = sample_pose(stream(seed, "pose"), view)
    shares = torch.stack([atlas.share("heart"), atlas.share("lung_")])
    cut = ENLARGED[pose.view]

    def ratio(factor: float | None) -> float:
        warp = sample_warp(stream(seed, "warp"), pose, heart=factor, inflation=inflation)
        grid = sampling_grid(atlas, pose, warp, SOLVER_SIZE)
        heart, lungs = project(shares, grid, atlas.spacing).numpy()
        return cardiothoracic_ratio(heart_depth(heart, pose.field), lungs)

    if severity is None:
        if ratio(None) < cut - NORMAL_MARGIN:
            return None
        target = cut - NORMAL_MARGIN - 0.04 * extent
    else:
        target = cut + between(BEYOND[severity], extent)
    low, high = FACTORS if severity is None else (0.0, FACTORS[1])
    below, above = ratio(low) - target, ratio(high) - target
    if above <= 0:
        return high
    if below >= 0:
        return low
    for _ in range(8):  # regula falsi, halving the weight of an end that stays
        factor = low - below * (high - low) / (above - below)
        error = ratio(factor) - target
        if abs(error) < 0.004:
            break
        if error < 0:
            low, below, above = factor, error, above / 2
        else:
            high, above, below = factor, error, below / 2
    return factor
