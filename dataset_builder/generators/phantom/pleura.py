"""Findings of the pleural space: fluid and air around a lung.

A recipe takes the HU of a cavity's sub-volume and returns the edited HU and the 0-1 share of each voxel that the
finding replaced, both of the sub-volume's shape. `extent` in 0-1 places the finding between the least and the greatest
of its severity. Lengths are in mm of the CT.
"""

from __future__ import annotations

import numpy as np

from dataset_builder.generators.phantom.cavity import Cavity, ramp, smooth_noise

FLUID_HU, AIR_HU, LUNG_HU = 12.0, -995.0, -850.0
EFFUSION_LEVEL = {"mild": (-32.0, -16.0), "moderate": (0.0, 20.0), "severe": (40.0, 70.0)}  # above the diaphragm's top
PNEUMOTHORAX_APEX = {"mild": (17.0, 23.0), "moderate": (28.0, 36.0), "severe": (43.0, 58.0)}  # width of the air
PNEUMOTHORAX_BASE = {"mild": (2.0, 3.0), "moderate": (4.0, 6.0), "severe": (9.0, 14.0)}


def between(limits: tuple[float, float], extent: float) -> float:
    """The value at `extent` (0-1) of a range."""
    return limits[0] + (limits[1] - limits[0]) * extent


def fill(hu: np.ndarray, weight: np.ndarray, target: float | np.ndarray) -> np.ndarray:
    """HU raised to `target` by `weight`; what is denser than the target stays."""
    return hu + weight * np.maximum(target - hu, 0)


def effusion(
    cavity: Cavity, hu: np.ndarray, severity: str, extent: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Fluid up to a level, with a meniscus that climbs the wall above it."""
    climb, fall = rng.uniform(40, 54), rng.uniform(9, 13)
    level = cavity.dome + between(EFFUSION_LEVEL[severity], extent)
    up = (cavity.up - level).astype(np.float32)[None, :, None]
    depth = 0.5 * cavity.lateral[None] + 0.5 * cavity.wall
    rim = climb * np.exp(-np.maximum(up, 0) / fall)
    fluid = np.maximum(ramp(-up, 1.0), ramp(rim - depth, 1.0) * ramp(rim - 1.5, 0.5))
    return fill(hu, fluid * np.minimum(1, 2 * cavity.share), FLUID_HU), fluid * cavity.share


def pneumothorax(
    cavity: Cavity, hu: np.ndarray, severity: str, extent: float, rng: np.random.Generator, lateral: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Air between the wall and a retracted lung, widest at the apex, with the thin line of the visceral pleura.

    Args:
        lateral (`np.ndarray` of shape `(slabs, rows, columns)`): The cavity's lateral depth, the same along each ray,
            so that the beam meets the pleura edge-on and shows it as a line.
    """
    wave = (
        smooth_noise(cavity.lateral.shape, (28.0, 40.0), rng)[None] * 1.5
    )  # mm, keeps the line from being a parallel
    height = np.clip(cavity.height, 0, 1)
    width = between(PNEUMOTHORAX_APEX[severity], extent) * height**1.3 + between(PNEUMOTHORAX_BASE[severity], extent)
    inward = width + wave - (0.96 * lateral + 0.04 * cavity.wall)  # > 0 in the air
    air = ramp(inward, 0.5)
    share = air * cavity.share
    lost = float(share.sum() / cavity.share.sum())
    inside = cavity.share**6
    dense = np.maximum(hu - LUNG_HU, 0)
    collapsed = hu + inside * (1 - air) * np.clip(hu + 1000, 0, 400) * np.float32(0.9 * lost / (1 - lost))
    pleura = np.exp(-(((inward + 0.9) / 0.8) ** 2)) * inside
    edited = collapsed + 0.4 * pleura * np.maximum(0 - collapsed, 0)
    emptied = hu - cavity.share * (LUNG_HU - AIR_HU) - inside * dense
    return np.maximum(edited + air * (emptied - edited), -1000), share
