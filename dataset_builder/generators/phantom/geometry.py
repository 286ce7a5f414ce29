"""Projection geometry: random streams, pose, warp of the anatomy, and the projection through the slabs.

The beam is a cone from a point source. A slab at the distance d from the detector is magnified by SID / (SID - d), so
projecting a slab is one 2-D resampling, and the image is the sum over the slabs (a "shear-warp" projection). The path
factor 1 / cos of oblique rays, at most 1.2 %, is left out.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import grid_sample, interpolate

from dataset_builder.generators.phantom.atlas import Atlas
from medsyn.errors import UserError

STREAMS = ("pose", "warp", "vessels", "film", "device", "finding")
VIEWS = ("PA", "AP")
AP_SHARE = 0.35
COARSE = 49  # nodes a side of the grid on which the warp is computed
WALL_MM = 137.0  # from the midline to the outside of the ribs
SLIMMER = 0.2  # relative
HEART_RADII = (80.0, 68.0, 75.0)  # mm, x y z


def stream(seed: int, name: str) -> np.random.Generator:
    """The random stream `name` of the image `seed`; streams do not share draws, so one cannot shift another.

    Raises:
        UserError: `name` is not one of `STREAMS`.
    """
    if name not in STREAMS:
        raise UserError(f"random stream {name!r} is not one of {', '.join(STREAMS)}")
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


@dataclass(frozen=True)
class Pose:
    """How the patient stands to source and detector. Lengths in mm, angles in degrees.

    Args:
        view (`str`): `PA` (detector at the chest) or `AP` (detector at the back).
        sid (`float`): Distance from source to detector.
        gap (`float`): Distance from the body to the detector.
        yaw, pitch, roll (`float`): Rotation of the patient, head tilt included; roll turns the image.
        centre_x, centre_z (`float`): The beam's centre, from the middle of the lungs.
        field (`float`): Width of the square image at mid-body.
        scale_x, scale_z (`float`): Size of the patient relative to the atlas.
        thickness (`float`): Attenuation relative to the atlas.
        upright (`bool`): Erect rather than supine.
    """

    view: str
    sid: float
    gap: float
    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    centre_x: float = 0.0
    centre_z: float = 0.0
    field: float = 330.0
    scale_x: float = 1.0
    scale_z: float = 1.0
    thickness: float = 1.0
    upright: bool = True


@dataclass(frozen=True)
class Warp:
    """How the anatomy differs from the atlas. Lengths in mm.

    Args:
        heart (`float`): Radial expansion of the heart; about -0.1 gives a normal size, 0.45 a large one.
        inflation (`float`): How far breath moves the diaphragm down.
        lift (`float`): How far up the left dome is moved against the right.
        narrowing (`float`): Of the upper mediastinum, which is broad in a lying patient.
        girth (`float`): Widening of the soft tissue beside the ribs.
        slope (`float`): Slope of the ribs added: mm down per mm from the midline.
        taper (`float`): Relative widening at the bottom of the chest, narrowing at the top.
        elastic (`torch.Tensor` of shape `(2, 6, 6, 6)`): Knots of the smooth displacement in x and z over
            `(slab, row, column)` of the image.
    """

    heart: float
    inflation: float
    lift: float
    narrowing: float
    girth: float
    slope: float
    taper: float
    elastic: torch.Tensor


def sample_pose(rng: np.random.Generator, view: str | None = None) -> Pose:
    """A pose as departments take them: 65 % PA at 183 cm, the rest AP at 110 cm.

    Raises:
        UserError: `view` is neither `PA`, `AP` nor `None`.
    """
    if view not in (*VIEWS, None):
        raise UserError(f"view {view!r} is not PA or AP")
    drawn = "AP" if rng.random() < AP_SHARE else "PA"
    view = view or drawn
    gap, yaw, pitch, roll, x, z = rng.uniform(20, 50), *rng.normal(size=5)
    field, scale_x, scale_z, thickness, supine = *rng.uniform(size=4), rng.random() < 0.6
    return Pose(
        view=view,
        sid=1830.0 if view == "PA" else 1100.0,
        gap=gap,
        yaw=2.5 * yaw,
        pitch=3 * pitch + (-1 if view == "PA" else -5),
        roll=1.5 * roll,
        centre_x=5 * x,
        centre_z=6 * z + (4 if view == "PA" else 0),
        field=292 + 46 * field,
        scale_x=0.87 + 0.14 * scale_x,
        scale_z=0.92 + 0.14 * scale_z,
        thickness=0.90 + 0.22 * thickness,
        upright=view == "PA" or not supine,
    )


def sample_warp(
    rng: np.random.Generator, pose: Pose, heart: float | None = None, inflation: float | None = None
) -> Warp:
    """A normal patient's anatomy; `heart` and `inflation` replace the drawn values and shift no other draw."""
    drawn_heart, drawn_inflation = rng.uniform(-0.2, -0.02), rng.uniform()
    low, high = (20.0, 44.0) if pose.view == "PA" else (4.0, 24.0)
    slope, taper = np.clip(rng.normal(size=2), -2, 2) * (0.07, 0.03)
    narrowing, girth = rng.uniform(0.05, 0.25), rng.uniform(1.0, 2.6)
    elastic = rng.normal(size=(2, 6, 6, 6)) * rng.uniform(2.5, 6.0)
    lift = rng.uniform(10, 26)
    return Warp(
        heart=float(drawn_heart if heart is None else heart),
        inflation=float(low + (high - low) * drawn_inflation if inflation is None else inflation),
        lift=float(lift),
        narrowing=float(narrowing),
        girth=float(girth),
        slope=float(slope),
        taper=float(taper),
        elastic=torch.from_numpy(elastic).float(),
    )


def smoothstep(value: torch.Tensor) -> torch.Tensor:
    """0 below 0, 1 above 1, 3 t^2 - 2 t^3 between."""
    value = value.clamp(0, 1)
    return value * value * (3 - 2 * value)


def slab_magnification(atlas: Atlas, pose: Pose) -> torch.Tensor:
    """Magnification of each slab relative to mid-body, `(slabs,)`."""
    y = atlas.y
    from_front, depth = y - y[0], float(y[-1] - y[0])
    distance = pose.gap + (from_front if pose.view == "PA" else depth - from_front)
    return (pose.sid - pose.gap - depth / 2) / (pose.sid - distance)


def image_centre(atlas: Atlas) -> tuple[float, float]:
    """The middle of the lungs `(x, z)` in mm."""
    marks = atlas.landmarks
    top = min(marks["apex_left"][2], marks["apex_right"][2])
    bottom = (marks["base_left"][2] + marks["base_right"][2]) / 2
    middle = (marks["hilum_left"][0] + marks["hilum_right"][0]) / 2
    return middle, (top + bottom) / 2


def sampling_grid(atlas: Atlas, pose: Pose, warp: Warp, image_size: int) -> torch.Tensor:
    """Where every image pixel meets every slab.

    Returns:
        `torch.Tensor` of shape `(slabs, image_size, image_size, 2)`: column and row of the slab in -1 to 1, as
        `grid_sample` takes them with `align_corners=True`.
    """
    x, z = _coarse_positions(atlas, pose, warp)  # (slabs, COARSE, COARSE), mm
    extent_x, extent_z = float(atlas.x[-1]), float(atlas.z[-1])
    coarse = torch.stack([x / extent_x, z / extent_z], 1)  # (slabs, 2, COARSE, COARSE)
    # The nodes lie on the edges of the image, the pixels' centres half a pixel inside.
    steps = (torch.arange(image_size) + 0.5) / image_size * (COARSE - 1)
    weights = torch.relu(1 - (steps[:, None] - torch.arange(COARSE)).abs())  # (H, COARSE), linear interpolation
    fine = torch.matmul(weights, torch.matmul(coarse, weights.T))  # (slabs, 2, H, W)
    return fine.permute(0, 2, 3, 1)


def _coarse_positions(atlas: Atlas, pose: Pose, warp: Warp) -> tuple[torch.Tensor, torch.Tensor]:
    """x and z in mm of the anatomy seen at each node of the image and each slab, each `(slabs, COARSE, COARSE)`."""
    line = torch.linspace(-0.5, 0.5, COARSE) * pose.field
    v, u = torch.meshgrid(line, line, indexing="ij")
    angle = np.deg2rad(pose.roll)
    u, v = u * np.cos(angle) - v * np.sin(angle), u * np.sin(angle) + v * np.cos(angle)
    magnification = slab_magnification(atlas, pose)[:, None, None]
    y = atlas.y[:, None, None]
    centre_x, centre_z = image_centre(atlas)
    x = u / magnification / pose.scale_x + np.tan(np.deg2rad(pose.yaw)) * y  # from the middle of the lungs
    z = v / magnification / pose.scale_z + np.tan(np.deg2rad(pose.pitch)) * y
    x, z = x + pose.centre_x, z + pose.centre_z
    outside = (x.abs() - WALL_MM).clamp(min=0)  # soft tissue beside the ribs, where stout patients are stout
    x = x - outside * (1 - 1 / warp.girth) * x.sign()
    z = z - warp.slope * (x.abs().clamp(max=140) - 60)
    x = x / (1 + warp.taper * (z / 120).clamp(-1.5, 1.5))
    elastic = interpolate(warp.elastic[None], size=x.shape, mode="trilinear", align_corners=True)[0]
    x, z = x + elastic[0] + centre_x, z + elastic[1] + centre_z
    z = z - inflation_shift(atlas, x, z, warp.inflation) + _left_lift(atlas, x, z, warp)
    return _expand_heart(atlas, _narrow_mediastinum(atlas, x, z, warp.narrowing), z, warp)


def inflation_shift(atlas: Atlas, x: torch.Tensor, z: torch.Tensor, inflation: float) -> torch.Tensor:
    """How far down breath has moved what now lies at `x`, `z`, in mm; the wall moves a quarter as far."""
    marks = atlas.landmarks
    start = marks["carina"][2] - 30
    dome = (marks["dome_left"][2] + marks["dome_right"][2]) / 2 + inflation
    rise = smoothstep((z - start) / (dome - start))
    rise = 0.5 * rise + 0.5 * ((z - start) / (dome - start)).clamp(0, 1)
    fall = 1 - 0.85 * smoothstep((z - dome) / 170)
    position = torch.stack([x / float(atlas.x[-1]), (z - inflation * rise * fall) / float(atlas.z[-1])], -1)
    depth = atlas.wall_depth.expand(len(position), 1, -1, -1)
    depth = grid_sample(depth, position, align_corners=True, padding_mode="border")[:, 0]
    return inflation * rise * fall * (0.25 + 0.75 * smoothstep(depth / 26))


def _left_lift(atlas, x, z, warp):
    """How far up the left dome has moved what now lies at `x`, `z`, in mm. The heart's underside rests on it."""
    marks = atlas.landmarks
    dome = marks["dome_left"][2] + warp.inflation - warp.lift
    rise = smoothstep(
        (z - marks["heart"][2] - 0.5 * warp.inflation) / (dome - marks["heart"][2] - 0.5 * warp.inflation)
    )
    fall = 1 - 0.8 * smoothstep((z - dome) / 120)
    across = smoothstep((x - marks["heart"][0] + 45) / 60) * (
        1 - 0.8 * smoothstep((x - marks["dome_left"][0] - 15) / 45)
    )
    return warp.lift * rise * fall * across


def _narrow_mediastinum(atlas, x, z, narrowing):
    """x of the anatomy with the mediastinum above the heart drawn towards its middle."""
    dx = x - atlas.landmarks["carina"][0]
    above = smoothstep((atlas.landmarks["heart"][2] - 10 - z) / 50)
    return x + narrowing * above * dx * torch.exp(-((dx / 50) ** 2))


def _expand_heart(atlas: Atlas, x, z, warp):
    """Radial expansion about the heart's centre with the flat-topped weight exp(-r^4); a standing heart is slimmer."""
    heart = atlas.landmarks["heart"]
    dx, dy, dz = x - heart[0], (atlas.y - heart[1])[:, None, None], z - heart[2]
    radius2 = (dx / HEART_RADII[0]) ** 2 + (dy / HEART_RADII[1]) ** 2 + (dz / HEART_RADII[2]) ** 2
    weight = torch.exp(-(radius2**2)) / (1 + max(warp.heart, 0.0))
    return x - (warp.heart - SLIMMER) * weight * dx, z - (warp.heart + 0.5 * SLIMMER) * weight * dz


def project(volumes: torch.Tensor, grid: torch.Tensor, spacing: tuple[float, float, float]) -> torch.Tensor:
    """Line integrals of several volumes through one grid.

    Args:
        volumes (`torch.Tensor` of shape `(channels, slabs, rows, columns)`): A density per mm, or a 0-1 share.
        grid (`torch.Tensor` of shape `(slabs, height, width, 2)`): From `sampling_grid`.
        spacing (`tuple[float, float, float]`): The atlas's mm per slab, row and column.

    Returns:
        `torch.Tensor` of shape `(channels, height, width)`: The sum along rays times the slabs' depth; mm of a share.
    """
    total = torch.zeros(volumes.shape[0], *grid.shape[1:3])
    for slab in range(grid.shape[0]):
        plane = volumes[None, :, slab]  # (1, channels, rows, columns)
        total += grid_sample(plane, grid[None, slab], align_corners=True, padding_mode="border")[0]
    return total * spacing[0]


def to_image(points: np.ndarray, atlas: Atlas, grid: torch.Tensor) -> np.ndarray:
    """Where points of the anatomy show in the image.

    Args:
        points (`np.ndarray` of shape `(points, 3)`): x, y, z in mm.

    Returns:
        `np.ndarray` of shape `(points, 2)`: Image pixels `(x, y)`, the warp undone by fixed-point iteration.
    """
    points = np.atleast_2d(np.asarray(points, dtype=np.float64))
    slab = np.interp(points[:, 1], atlas.y.numpy(), np.arange(len(atlas.y))).round().astype(int)
    target = points[:, [0, 2]] / [float(atlas.x[-1]), float(atlas.z[-1])]
    size = grid.shape[1]
    corners = grid[:, [0, -1]][:, :, [0, -1]].numpy()[slab]  # (points, 2, 2, 2)
    span = np.stack([corners[:, 0, 1, 0] - corners[:, 0, 0, 0], corners[:, 1, 0, 1] - corners[:, 0, 0, 1]], -1)
    pixel = np.full((len(points), 2), (size - 1) / 2)
    planes = torch.from_numpy(slab)
    for _ in range(25):
        # Beyond the image the map continues with the slope of the whole image.
        inside = pixel.clip(0, size - 1)
        normal = torch.from_numpy(inside / (size - 1) * 2 - 1).float()[:, None, None]  # (points, 1, 1, 2)
        seen = grid_sample(grid[planes].permute(0, 3, 1, 2), normal, align_corners=True)[:, :, 0, 0].numpy()
        seen = seen + (pixel - inside) / (size - 1) * span
        pixel = pixel + 0.8 * (target - seen) / span * (size - 1)
    return pixel
