"""Tubes, lines and pacemakers: drawn into the image along paths of the anatomy, so that a tip lies where it should.

Paths are in mm from the carina, `(x, y, z)` with x to the patient's left, y to the back, z towards the feet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import interpolate, ndimage, spatial

OVERSAMPLING = 3


@dataclass(frozen=True)
class Tube:
    """A hollow or solid cylinder along a path.

    Args:
        path (`np.ndarray` of shape `(points, 3)`): Knots in mm of the atlas.
        radius, bore (`float`): Outer and inner radius in mm.
        density (`float`): Attenuation relative to water.
    """

    path: np.ndarray
    radius: float
    bore: float
    density: float


@dataclass(frozen=True)
class Can:
    """A rounded box of metal, parallel to the detector: `centre` (atlas mm), `size` (mm), `turn` (degrees)."""

    centre: np.ndarray
    size: tuple[float, float]
    turn: float
    depth: float  # mm of water that attenuate as much


def device_parts(kind: str, side: str, landmarks: dict, rng: np.random.Generator) -> list[Tube | Can]:
    """The parts of a device.

    Args:
        kind (`str`): `endotracheal tube`, `central venous catheter`, `nasogastric tube` or `pacemaker`.
        side (`str`): Side of the catheter's or pacemaker's entry.
        landmarks (`dict`): Points of the atlas by name.
    """
    carina = np.asarray(landmarks["carina"])
    sway = rng.normal(0, 1.5, 3)

    def path(*points: tuple[float, float, float]) -> np.ndarray:
        return carina + np.asarray(points) + sway * (1, 0, 0)

    if kind == "endotracheal tube":
        top = np.asarray(landmarks["trachea_top"])
        tip = rng.uniform(25, 60)
        length = float(carina[2] - top[2])
        fractions = np.linspace(2.0, tip / length, 8)[:, None]
        centre = carina + fractions * (top - carina) + np.asarray([3.0, 0, 0]) * np.sin(np.pi * fractions.clip(0, 1))
        stripe = centre + np.asarray([rng.choice([-1.0, 1.0]) * 3.4, 0, 0])
        return [Tube(centre, 5.0, 3.7, 3.6), Tube(stripe, 0.9, 0.0, 13.0)]
    if kind == "nasogastric tube":
        knots = path(
            (7, 15, -150), (6, 12, -110), (5, 10, -85), (9, 12, -65), (8, 14, -45), (8, 16, -28),
            (14, 18, -10), (19, 19, 5), (21, 20, 25), (21, 20, 50), (23, 10, 75), (28, 0, 92),
            (38, -12, 108), (58, -30, 122), (66, -45, 138), (58, -55, 152),
        )  # fmt: skip
        knots = knots[: len(knots) - int(rng.integers(0, 2))]
        return [Tube(knots, 2.3, 1.2, 5.5), Tube(knots + (1.8, 0, 0), 0.7, 0.0, 14.0)]
    if kind == "central venous catheter":
        caval = [(-14, -27, -14), (-14, -26, 2), (-12, -28, 16), (-8, -30, 30)]
        caval = caval[: int(rng.integers(2, 5))]
        if side == "left":
            entry = [(118, -30, -70), (85, -40, -84), (58, -42, -82), (38, -45, -66), (18, -48, -50), (-3, -44, -36)]
        elif rng.random() < 0.6:  # internal jugular vein
            entry = [
                (-40, -15, -150),
                (-36, -20, -118),
                (-30, -30, -92),
                (-25, -38, -70),
                (-19, -38, -48),
                (-15, -32, -28),
            ]
        else:  # subclavian vein
            entry = [
                (-118, -20, -66),
                (-88, -30, -84),
                (-62, -35, -84),
                (-40, -38, -70),
                (-24, -38, -52),
                (-16, -33, -32),
            ]
        return [Tube(path(*entry, *caval), 1.2, 0.0, 7.0)]
    # Pacemaker: can below the clavicle, one lead to the right ventricle, mostly a second one to the right atrium.
    sign = -1.0 if side == "right" else 1.0
    can = path((sign * rng.uniform(82, 96), -70, rng.uniform(-62, -46)))[0]
    leave = can + np.asarray([-sign * 8, 0, -19])
    if side == "left":
        veins = path((62, -50, -88), (44, -45, -76), (22, -48, -54), (-2, -44, -38), (-14, -28, -14), (-13, -26, 12))
    else:
        veins = path(
            (-64, -45, -90), (-44, -40, -78), (-26, -38, -54), (-17, -33, -30), (-14, -28, -10), (-13, -26, 12)
        )
    heart, apex = np.asarray(landmarks["heart"]), np.asarray(landmarks["heart_apex"])
    ventricle = heart + rng.uniform(0.55, 0.72) * (apex - heart)
    middle = np.asarray([carina[0] - 2, ventricle[1], ventricle[2] - 6])
    parts: list[Tube | Can] = [
        Can(can, (rng.uniform(40, 46), rng.uniform(36, 41)), rng.uniform(-18, 18), 55.0),
        Tube(np.vstack([leave, veins, middle, ventricle]), 1.0, 0.0, 9.0),
        Tube(np.linspace(ventricle + (-7, 0, 0.5), ventricle, 3), 1.5, 0.0, 16.0),
    ]
    if rng.random() < 0.7:
        atrium = path((-15, -28, 30), (-13, -32, 46), (-4, -40, 50), (2, -44, 40))
        shifted = veins + np.asarray([1.5, 0, 2.0])
        parts.append(Tube(np.vstack([leave + (2.5, 0, 0), shifted, atrium]), 0.9, 0.0, 9.0))
        parts.append(Tube(atrium[-2:], 1.4, 0.0, 14.0))
    return parts


def draw(
    parts: list[Tube | Can], to_image: Callable[[np.ndarray], np.ndarray], image_size: int, pixels_per_mm: float
) -> tuple[np.ndarray, np.ndarray]:
    """Draws a device.

    Args:
        to_image (`Callable`): Points `(n, 3)` in mm of the atlas -> `(n, 2)` image pixels `(x, y)`.

    Returns:
        `tuple`: mm of water that attenuate as the device does, float32, and the bool mask of its pixels, both
        `(image_size, image_size)`.
    """
    water = np.zeros((image_size, image_size), dtype=np.float32)
    mask = np.zeros((image_size, image_size), dtype=bool)
    for part in parts:
        added = (_draw_tube if isinstance(part, Tube) else _draw_can)(part, to_image, image_size, pixels_per_mm)
        water += added
        mask |= added > 0.25 * added.max() if added.max() > 0 else False
    return water, mask


def _draw_tube(tube: Tube, to_image, image_size: int, pixels_per_mm: float) -> np.ndarray:
    curve = interpolate.make_interp_spline(np.arange(len(tube.path)), tube.path, k=min(3, len(tube.path) - 1))
    points = to_image(curve(np.linspace(0, len(tube.path) - 1, 120)).astype(np.float32))  # (120, 2)
    steps = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    dense = np.linspace(0, steps[-1], max(2, int(steps[-1] * 6)))
    points = np.stack([np.interp(dense, steps, points[:, axis]) for axis in (0, 1)], axis=1)
    reach = tube.radius * pixels_per_mm + 1
    near = np.zeros((image_size, image_size), dtype=bool)
    pixels = np.round(points).astype(int)
    pixels = pixels[((pixels >= 0) & (pixels < image_size)).all(axis=1)]
    near[pixels[:, 1], pixels[:, 0]] = True
    near = ndimage.binary_dilation(near, np.ones((3, 3)), iterations=int(np.ceil(reach)) + 1)
    rows, columns = np.nonzero(near)  # (n,)
    shifts = (np.arange(OVERSAMPLING) + 0.5) / OVERSAMPLING - 0.5
    down, right = (shift.ravel() for shift in np.meshgrid(shifts, shifts, indexing="ij"))
    samples = np.stack([columns[:, None] + right, rows[:, None] + down], axis=-1).reshape(-1, 2)
    across = spatial.cKDTree(points).query(samples)[0] / pixels_per_mm  # mm from the axis
    chord = 2 * np.sqrt(np.maximum(tube.radius**2 - across**2, 0)) - 2 * np.sqrt(
        np.maximum(tube.bore**2 - across**2, 0)
    )
    water = np.zeros((image_size, image_size), dtype=np.float32)
    water[rows, columns] = tube.density * chord.reshape(len(rows), -1).mean(axis=1)
    return water


def _draw_can(can: Can, to_image, image_size: int, pixels_per_mm: float) -> np.ndarray:
    x, y = to_image(can.centre[None].astype(np.float32))[0]
    rows, columns = np.mgrid[:image_size, :image_size].astype(np.float32)
    across, down = (columns - x) / pixels_per_mm, (rows - y) / pixels_per_mm  # mm
    cosine, sine = np.cos(np.radians(can.turn)), np.sin(np.radians(can.turn))
    u, v = np.abs(cosine * across + sine * down), cosine * down - sine * across
    w, h = can.size[0] / 2, can.size[1] / 2
    rounding = 0.45 * h
    outside = np.hypot(np.maximum(u - w + rounding, 0), np.maximum(np.abs(v) - h + rounding, 0)) - rounding  # mm
    soft = 0.6 / pixels_per_mm
    body = np.clip(0.5 - outside / (2 * soft), 0, 1)
    header = np.where(v < -0.55 * h, 0.45, 1.0)  # the connector block lets more through
    return (can.depth * body * header).astype(np.float32)
