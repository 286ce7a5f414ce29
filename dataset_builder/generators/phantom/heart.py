"""The heart's size: its share of the chest's width in the image, and the heart factor that a wanted share needs."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from dataset_builder.generators.phantom.atlas import Atlas
from dataset_builder.generators.phantom.geometry import project, sample_pose, sample_warp, sampling_grid, stream
from dataset_builder.generators.phantom.pleura import between

ENLARGED = {"PA": 0.50, "AP": 0.55}  # cardiothoracic ratio above which a heart counts as enlarged
# What is asked for, from the cut.
BEYOND = {"mild": (0.012, 0.022), "moderate": (0.032, 0.046), "severe": (0.056, 0.085)}
NORMAL = (-0.10, -0.02)
TOLERANCE = 0.005
DEPTH = 15.0  # mm of heart or lung along the ray from which a pixel counts
NORMAL_FACTORS, ENLARGED_FACTORS = (-0.3, 0.7), (0.2, 2.6)  # ranges of the heart factor
SOLVER_SIZE = 96  # pixels of the projections that the solver measures


def heart_depth(depth: np.ndarray, field: float) -> np.ndarray:
    """mm of heart along each ray with the gaps and spurs of its label map evened out, `(height, width)`.

    Args:
        depth (`np.ndarray` of shape `(height, width)`): mm of the heart's label along each ray.
        field (`float`): Width of the image in mm.
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
) -> float:
    """The heart factor of an image.

    Args:
        severity (`str`, *optional*): How far above the cut; `None` asks for a normal heart.
        extent (`float`): 0-1, the place within the severity, or within the normal range.
        inflation (`float`, *optional*): mm, where it is not the seed's own.

    Returns:
        `float`: The factor that brings the cardiothoracic ratio within 0.005 of what is asked for, or the end of its
        range that comes nearest.
    """
    pose = sample_pose(stream(seed, "pose"), view)
    shares = torch.stack([atlas.share("heart"), atlas.share("lung_")])
    target = ENLARGED[pose.view] + between(BEYOND[severity] if severity else NORMAL, extent)

    def error(factor: float) -> float:
        warp = sample_warp(stream(seed, "warp"), pose, heart=factor, inflation=inflation)
        grid = sampling_grid(atlas, pose, warp, SOLVER_SIZE)
        heart, lungs = project(shares, grid, atlas.spacing).numpy()
        return float(cardiothoracic_ratio(heart_depth(heart, pose.field), lungs)) - target

    # The ratio flattens as the factor grows and is nearly straight in factor / (1 + factor).
    factors = ENLARGED_FACTORS if severity else NORMAL_FACTORS
    low, high = (factor / (1 + factor) for factor in factors)
    below, above = error(factors[0]), error(factors[1])
    if below >= 0 or above <= 0:
        return factors[0] if below >= 0 else factors[1]
    for _ in range(10):  # regula falsi, halving the weight of an end that stays
        place = low - below * (high - low) / (above - below)
        off = error(place / (1 - place))
        if abs(off) < TOLERANCE:
            break
        if off < 0:
            low, below, above = place, off, above / 2
        else:
            high, above, below = place, off, below / 2
    return place / (1 - place)
