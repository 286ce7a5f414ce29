"""Findings inside a lung: airspace disease, collapse, nodules, edema, emphysema. Recipes as in `pleura`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dataset_builder.generators.phantom.cavity import Cavity, ramp, smooth_noise
from dataset_builder.generators.phantom.pleura import LUNG_HU, between, fill

# Share of the lobe's zone that is filled.
FILLED = {"mild": (0.22, 0.34), "moderate": (0.45, 0.62), "severe": (0.75, 0.92)}
# Kind -> HU of what fills the alveoli, size in mm of its irregularities, their weight, and its texture.
AIRSPACE = {
    "consolidation": (0.0, 30.0, 0.8, 0.12),
    "pneumonia": (-220.0, 17.0, 1.5, 0.35),
    "opacity": (-430.0, 26.0, 1.0, 0.25),
}
DIAMETER = {
    "nodule": {"mild": (10.0, 14.0), "moderate": (16.0, 21.0), "severe": (23.0, 29.0)},
    "mass": {"mild": (32.0, 37.0), "moderate": (41.0, 49.0), "severe": (54.0, 66.0)},
}
ROUGHNESS = {"nodule": 0.10, "mass": 0.16}
EDEMA = {"mild": (0.40, 0.55), "moderate": (0.65, 0.85), "severe": (0.95, 1.20)}
PLATE_WIDTH = {"mild": (34.0, 42.0), "moderate": (48.0, 58.0), "severe": (62.0, 74.0)}
PLATE_THICKNESS = {"mild": (1.6, 2.0), "moderate": (2.2, 2.8), "severe": (3.2, 4.2)}  # half of it, mm
EMPHYSEMA = {"mild": (20.0, 30.0), "moderate": (35.0, 48.0), "severe": (55.0, 70.0)}  # HU


def noise_mm(cavity: Cavity, size: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise of unit variance with knots `size` mm apart."""
    return smooth_noise(cavity.share.shape, tuple(size / step for step in cavity.spacing), rng)


def seat(
    cavity: Cavity, zone: str, rng: np.random.Generator, depth: float, lateral: tuple[float, float] = (0.0, 1e9)
) -> tuple[float, float, float]:
    """A point `(x, y, z)` in mm of a zone's visible part, `depth` mm below the pleura where the lung allows it."""
    thickness = cavity.share.sum(axis=0)
    visible = (thickness > 0.45 * thickness.max()) & (cavity.lateral > lateral[0]) & (cavity.lateral < lateral[1])
    visible &= (cavity.zone(zone)[0] > 0.5) & (cavity.height[0] > 0.06)
    allowed = np.where(visible[None], cavity.wall, 0)
    places = np.flatnonzero(allowed >= min(depth, 0.8 * allowed.max()))
    s, r, c = np.unravel_index(places[int(rng.random() * len(places))], allowed.shape)
    return float(cavity.x[c]), float(cavity.y[s]), -float(cavity.up[r])


def airspace(
    cavity: Cavity, hu: np.ndarray, kind: str, zone: str, severity: str, extent: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Consolidation, pneumonia or a hazy opacity: a blob of one lobe's part in a zone.

    Consolidation is dense and whole, pneumonia patchy with air left between, an opacity faint.
    """
    target, size, weight, texture = AIRSPACE[kind]
    lobe = {"upper": "upper", "middle": "middle" if "middle" in cavity.lobes else "upper", "lower": "lower"}[zone]
    height = cavity.height + 0.06 * noise_mm(cavity, 30.0, rng)
    near = ramp(height - {"lower": -1.0, "middle": 0.22, "upper": 0.52}[zone], 0.03)
    near = near * ramp({"lower": 0.48, "middle": 0.72, "upper": 2.0}[zone] - height, 0.03)
    region = cavity.lobes[lobe] * near
    if region.sum() < 0.06 * cavity.share.sum():  # this lobe hardly reaches into the zone
        region = cavity.share * near
    centre = seat(cavity, zone, rng, depth=8.0)
    dx, dy, dz = cavity.offsets(centre)
    near_centre = np.sqrt((dy / 60) ** 2 + (dz / 42) ** 2 + (dx / 42) ** 2)
    field = weight * 0.5 * noise_mm(cavity, size, rng) - near_centre
    inside = region > 0.5
    threshold = np.quantile(field[inside], 1 - between(FILLED[severity], extent))
    filled = ramp(field - threshold, 0.09)
    cloud = np.clip(1 - texture * np.abs(noise_mm(cavity, 9.0, rng)), 0, 1)
    grain = texture * 500 * noise_mm(cavity, 6.0, rng)
    weight_hu = filled * np.minimum(1, 1.5 * region) * cloud
    return fill(hu, weight_hu, target + grain * (hu < -200)), filled * region


def nodule(
    cavity: Cavity,
    hu: np.ndarray,
    kind: str,
    zone: str,
    severity: str,
    extent: float,
    rng: np.random.Generator,
    stretch: Callable[[tuple[float, float, float]], tuple[float, float]],
) -> tuple[np.ndarray, np.ndarray]:
    """A round nodule or mass of soft tissue with a slightly knobbly border.

    Args:
        stretch (`Callable`): Point `(x, y, z)` in mm -> how much pose and breath stretch the CT there along x and z.
            It is undone, so that the nodule is round in the image and its diameter holds there.
    """
    radius = between(DIAMETER[kind][severity], extent) / 2
    density = rng.uniform(35, 60)
    centre = seat(cavity, zone, rng, depth=radius + 3.0)
    dx, dy, dz = cavity.offsets(centre)
    along_x, along_z = stretch(centre)
    distance = np.sqrt((along_x * dx) ** 2 + dy**2 + (along_z * dz) ** 2)
    border = radius * (1 + ROUGHNESS[kind] * noise_mm(cavity, max(radius, 10.0), rng))
    ball = ramp(border - distance, 0.7)
    return fill(hu, ball * np.minimum(1, 2 * cavity.share), density), ball * cavity.share


def atelectasis(
    cavity: Cavity,
    hu: np.ndarray,
    zone: str,
    severity: str,
    extent: float,
    rng: np.random.Generator,
    stretch: Callable[[tuple[float, float, float]], tuple[float, float]],
) -> tuple[np.ndarray, np.ndarray]:
    """Plates of collapsed lung: thin, bent sheets seen edge-on, uneven and fading at the ends; two when severe.

    `stretch` as in `nodule`.
    """
    share = np.zeros_like(hu)
    half_width = between(PLATE_WIDTH[severity], extent) / 2
    thickness = between(PLATE_THICKNESS[severity], extent)
    away = -1.0 if cavity.side == "right" else 1.0  # lateral
    for plate in range(2 if severity == "severe" else 1):
        x, y, z = seat(cavity, zone, rng, depth=6.0, lateral=(half_width * 0.5, half_width * 1.6))
        if zone == "lower":
            z = -(cavity.dome + rng.uniform(10, 20) + 15 * plate)
        dx, dy, dz = cavity.offsets((x, y, z))
        along_x, along_z = stretch((x, y, z))
        dx, dz = along_x * dx, along_z * dz
        slope, bend = away * rng.uniform(-0.35, 0.15), rng.uniform(-0.003, 0.004)
        uneven = smooth_noise((len(cavity.y), len(cavity.x)), (4.0, 14.0 / cavity.spacing[2]), rng)[:, None, :]
        streaks = smooth_noise((len(cavity.y), len(cavity.x)), (3.0, 8.0 / cavity.spacing[2]), rng)[:, None, :]
        height = dz - slope * dx - bend * dx**2 - 1.2 * uneven
        ends = np.exp(-((dx / half_width) ** 4)) * np.exp(-((dy / 45) ** 4))
        body = thickness * (0.55 + 0.45 * np.exp(-((dx / half_width) ** 2)))
        share = np.maximum(share, ramp(body - np.abs(height), 0.5) * ends * np.clip(0.8 + 0.3 * streaks, 0.15, 1))
    share = share * cavity.share
    return fill(hu, 0.6 * share, 20.0), share


def edema(
    cavity: Cavity,
    hu: np.ndarray,
    severity: str,
    extent: float,
    rng: np.random.Generator,
    hilum: tuple[float, float, float],
) -> tuple[np.ndarray, np.ndarray]:
    """Perihilar haze with hazy bases and thickened septa; its share is the dense core.

    Args:
        hilum (`tuple[float, float, float]`): The root of this lung, `(x, y, z)` in mm.
    """
    strength = between(EDEMA[severity], extent)
    dx, dy, dz = cavity.offsets(hilum)
    core = np.exp(-((dx / 42) ** 2 + (dy / 55) ** 2 + (dz / 70) ** 2) / 1.4) * np.exp(
        0.5 * noise_mm(cavity, 18.0, rng)
    )
    septa = np.maximum(noise_mm(cavity, 5.0, rng) - 0.8, 0) * ramp(14 - cavity.wall, 2.0)
    bases = ramp(0.35 - cavity.height, 0.1)
    added = strength * (430 * core + 70 * bases + 110 * septa) * cavity.share
    edited = hu + np.minimum(added, np.maximum(20 - hu, 0))
    return edited, np.minimum(1, strength * core) * cavity.share


def emphysema(
    cavity: Cavity, hu: np.ndarray, severity: str, extent: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Dark lungs with cloudy loss of tissue and thin vessels; the geometry flattens the diaphragm as well."""
    loss = between(EMPHYSEMA[severity], extent)
    inside = cavity.share**4
    cloud = np.clip(1 + 0.5 * noise_mm(cavity, 28.0, rng), 0, 2.5)
    edited = hu - inside * (loss * cloud + 0.5 * np.maximum(hu - LUNG_HU, 0))
    return np.maximum(edited, -1000), inside * cavity.share
