"""One finding put into a patient: the edited anatomy, what it adds to the image, and its mask."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch.nn.functional import grid_sample

from dataset_builder.generators.phantom import devices, lung, pleura
from dataset_builder.generators.phantom.cavity import Cavity, cavity_of
from dataset_builder.generators.phantom.geometry import image_centre, sampling_grid, slab_magnification, to_image
from dataset_builder.generators.phantom.patient import MU_WATER, Patient
from dataset_builder.generators.phantom.scene import Drawing

DEVICES = ("endotracheal tube", "central venous catheter", "nasogastric tube", "pacemaker")
LOCATOR_SIZE = 64
MASK_MM, MASK_SHARE = 2.0, 0.12  # a pixel belongs to the mask above this many mm and this share of the maximum


@dataclass
class Layer:
    """What one finding changes.

    Args:
        nepers (`torch.Tensor` of shape `(height, width)`): Added to the line integral.
        depth (`np.ndarray` of shape `(height, width)`): mm of it along each ray.
        mask (`np.ndarray` of shape `(height, width)`): Its pixels.
        box (`tuple[slice, slice, slice]`, *optional*): The sub-volume of the atlas that it edits; `None` for a device.
        before, hu, share (`np.ndarray`, *optional*): The sub-volume's HU before and after the edit, and the share of
            each voxel replaced.
    """

    nepers: torch.Tensor
    depth: np.ndarray
    mask: np.ndarray
    box: tuple[slice, slice, slice] | None = None
    before: np.ndarray | None = None
    hu: np.ndarray | None = None
    share: np.ndarray | None = None

    def change(self, before: np.ndarray, after: np.ndarray) -> float:
        """Mean change in grey levels within the mask, each pixel weighted by how much of the finding it shows."""
        if not self.mask.any():
            return 0.0
        return float(np.average(np.abs(after - before)[self.mask], weights=self.depth[self.mask]))


def draw_layer(drawing: Drawing, extent: float, patient: Patient, hu: torch.Tensor) -> Layer:
    """Puts a finding into `hu`, the patient's HU with the earlier findings, without changing it."""
    if drawing.finding.kind in DEVICES:
        return _device(drawing, patient)
    cavity = cavity_of(patient.atlas, drawing.finding.side)
    before = hu.numpy()[cavity.box].copy()
    after, share = _recipe(drawing, extent, patient, cavity, before)
    after, share = after.astype(np.float32), share.astype(np.float32)
    added = project_box(np.stack([(after - before) / 1000, share]), cavity.box, patient)
    depth = added[1].numpy()
    mask = depth > max(MASK_MM, MASK_SHARE * float(depth.max()))
    return Layer(MU_WATER * patient.pose.thickness * added[0], depth, mask, cavity.box, before, after, share)


def redraw(drawings: Sequence[tuple[Drawing, float]], patient: Patient, layer: Layer) -> torch.Tensor:
    """What findings of one lung add to the line integral when they are drawn on what lay there before `layer`.

    Args:
        drawings (`Sequence[tuple[Drawing, float]]`): Each with its extent, in the order drawn.

    Returns:
        `torch.Tensor` of shape `(height, width)`, in nepers.
    """
    hu = layer.before
    for drawing, extent in drawings:
        hu = _recipe(drawing, extent, patient, cavity_of(patient.atlas, drawing.finding.side), hu)[0]
        hu = hu.astype(np.float32)
    added = project_box(((hu - layer.before) / 1000)[None], layer.box, patient)
    return MU_WATER * patient.pose.thickness * added[0]


def _recipe(
    drawing: Drawing, extent: float, patient: Patient, cavity: Cavity, hu: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    finding, rng, stretch = drawing.finding, drawing.rng(), partial(local_stretch, patient)
    kind, severity, zone = finding.kind, finding.severity, finding.zone
    if kind == "pleural effusion":
        return pleura.effusion(cavity, hu, severity, extent, rng)
    if kind == "pneumothorax":
        return pleura.pneumothorax(cavity, hu, severity, extent, rng, lateral_along_beam(cavity, patient))
    if kind in lung.AIRSPACE:
        return lung.airspace(cavity, hu, kind, zone, severity, extent, rng)
    if kind in lung.DIAMETER:
        return lung.nodule(cavity, hu, kind, zone, severity, extent, rng, stretch)
    if kind == "atelectasis":
        return lung.atelectasis(cavity, hu, zone, severity, extent, rng, stretch)
    if kind == "edema":
        return lung.edema(cavity, hu, severity, extent, rng, patient.atlas.landmarks[f"hilum_{finding.side}"])
    return lung.emphysema(cavity, hu, severity, extent, rng)


def _device(drawing: Drawing, patient: Patient) -> Layer:
    parts = devices.device_parts(drawing.finding.kind, drawing.finding.side, patient.atlas.landmarks, drawing.rng())
    pixels_per_mm = patient.image_size / patient.pose.field
    water, mask = devices.draw(parts, image_locator(patient), patient.image_size, pixels_per_mm)
    return Layer(MU_WATER * torch.from_numpy(water), water, mask)


def image_locator(patient: Patient) -> Callable[[np.ndarray], np.ndarray]:
    """Points `(points, 3)` in mm of the atlas -> image pixels `(points, 2)`, found on a coarse grid."""
    grid = sampling_grid(patient.atlas, patient.pose, patient.warp, LOCATOR_SIZE)
    factor = patient.image_size / LOCATOR_SIZE
    return lambda points: (to_image(points, patient.atlas, grid) + 0.5) * factor - 0.5


def local_stretch(patient: Patient, point: tuple[float, float, float], reach: float = 8.0) -> tuple[float, float]:
    """How much longer than nominal the neighbourhood of a point shows in the image, along x and along z."""
    offsets = np.array([[reach, 0, 0], [-reach, 0, 0], [0, 0, reach], [0, 0, -reach]])
    located = image_locator(patient)(np.asarray(point) + offsets)
    nominal = 2 * reach * patient.image_size / patient.pose.field
    along_x, along_z = np.linalg.norm(located[0] - located[1]), np.linalg.norm(located[2] - located[3])
    return float(np.clip(along_x / nominal, 0.4, 1.6)), float(np.clip(along_z / nominal, 0.4, 1.6))


def lateral_along_beam(cavity: Cavity, patient: Patient) -> np.ndarray:
    """The cavity's lateral depth carried through its slabs along the rays, `(slabs, rows, columns)`."""
    pose = patient.pose
    centre_x, centre_z = image_centre(patient.atlas)
    y = torch.from_numpy(cavity.y)[:, None]  # (slabs, 1)
    magnification = slab_magnification(patient.atlas, pose)[cavity.box[0], None]  # (slabs, 1)

    def at_mid_body(position: np.ndarray, centre: float, angle: float) -> torch.Tensor:
        return (torch.from_numpy(position) - centre - math.tan(math.radians(angle)) * y) * magnification + centre

    x = at_mid_body(cavity.x, centre_x + pose.centre_x, pose.yaw)  # (slabs, columns)
    z = at_mid_body(-cavity.up, centre_z + pose.centre_z, pose.pitch)  # (slabs, rows)
    x = 2 * (x - float(cavity.x[0])) / float(cavity.x[-1] - cavity.x[0]) - 1
    z = 2 * (z + float(cavity.up[0])) / float(cavity.up[0] - cavity.up[-1]) - 1
    grid = torch.stack(torch.broadcast_tensors(x[:, None, :], z[:, :, None]), dim=-1)  # (slabs, rows, columns, 2)
    planes = torch.from_numpy(cavity.lateral)[None, None].expand(len(y), -1, -1, -1)
    return grid_sample(planes, grid, align_corners=True, padding_mode="border")[:, 0].numpy()


def project_box(volumes: np.ndarray, box: tuple[slice, slice, slice], patient: Patient) -> torch.Tensor:
    """Projects volumes that are zero outside a box of the atlas.

    Args:
        volumes (`np.ndarray` of shape `(channels, slabs, rows, columns)`): On the box's grid.

    Returns:
        `torch.Tensor` of shape `(channels, image_size, image_size)`: Sum along each ray times the slab's depth.
    """
    slabs, rows, columns = box
    shape = patient.atlas.volume.shape
    used = np.flatnonzero(np.abs(volumes).max(axis=(0, 2, 3)) > 1e-4)
    size = patient.image_size
    total = torch.zeros(len(volumes), size, size)
    if not len(used):
        return total
    first, last = int(used[0]), int(used[-1]) + 1
    grid = patient.grid[slabs.start + first : slabs.start + last]  # (slabs, H, W, 2)
    counts = torch.tensor([shape[2] - 1, shape[1] - 1], dtype=torch.float32)
    starts = torch.tensor([columns.start, rows.start], dtype=torch.float32)
    spans = torch.tensor([volumes.shape[3] - 1, volumes.shape[2] - 1], dtype=torch.float32)
    # Grid of the atlas -> grid of the box: g * scale + shift.
    scale = counts / spans
    shift = (counts - 2 * starts) / spans - 1
    sparse = grid[:: max(1, len(grid) // 6), ::4, ::4] * scale + shift
    inside = (sparse.abs() <= 1.05).all(-1).any(0)
    seen_rows, seen_columns = inside.any(1).nonzero()[:, 0], inside.any(0).nonzero()[:, 0]
    if not len(seen_rows):
        return total
    y = slice(max(0, 4 * int(seen_rows[0]) - 6), 4 * int(seen_rows[-1]) + 7)
    x = slice(max(0, 4 * int(seen_columns[0]) - 6), 4 * int(seen_columns[-1]) + 7)
    local = grid[:, y, x] * scale + shift
    planes = torch.from_numpy(np.ascontiguousarray(volumes[:, first:last])).transpose(0, 1)  # (slabs, channels, ...)
    seen = grid_sample(planes, local, align_corners=True, padding_mode="zeros")
    total[:, y, x] = seen.sum(0) * patient.atlas.spacing[0]
    return total
