"""Bones of an erect patient from the CT of a lying one whose arms were raised.

The spine stays. The ribs may be mirrored, shifted and tilted against the lungs, so that rib patterns differ between
images. Collar bone and shoulder blade of the right side, the complete ones, are taken out as flat pictures, turned to
where lowered arms put them, and mirrored for the left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import grid_sample, interpolate, max_pool3d

from dataset_builder.generators.phantom.atlas import Atlas
from dataset_builder.generators.phantom.geometry import project, smoothstep

HUMERUS_MM = (25.0, 13.0, 4.0)  # radius of the head, of the shaft, and thickness of its cortex
CORTEX = 0.9  # attenuation of cortical bone above soft tissue, water = 1


@dataclass(eq=False)
class Skeleton:
    """Attenuation of bone above soft tissue, water = 1.

    Args:
        spine, ribs (`torch.Tensor` of shape `(slabs, rows, columns)`): Volumes.
        collar, blade (`torch.Tensor` of shape `(rows, columns)`): mm along y of the right
            collar bone and shoulder blade.
        pivots (`dict[str, tuple[float, float]]`): x, z in mm about which `collar` and `blade` turn.
        middle (`tuple[float, float]`): The rib cage is symmetrical about x = middle[0] + middle[1] * z, in mm.
    """

    spine: torch.Tensor
    ribs: torch.Tensor
    collar: torch.Tensor
    blade: torch.Tensor
    pivots: dict[str, tuple[float, float]]
    middle: tuple[float, float]


def take_bones(atlas: Atlas) -> Skeleton:
    """Take the bones out of the atlas."""
    excess, size = atlas.bone / 1000, tuple(atlas.bone.shape[1:])

    def near(*names):
        return max_pool3d(atlas.share(*names)[None], (3, 5, 5), 1, (1, 2, 2))[0]

    def enlarged(share):  # to the bones' detail
        return interpolate(share[None], size=size, mode="bilinear")[0]

    spine, ribs_alone = near("vertebrae"), 1 - atlas.share("rib_")
    arms = near("clavicula", "scapula", "humerus") * ribs_alone
    ribs = torch.maximum(near("rib_") * (1 - 0.9 * arms), 0.5 * near("sternum")) * (1 - spine)
    tops, bottoms = ([atlas.landmarks[f"{end}_{side}"][2] for side in ("right", "left")] for end in ("apex", "dome"))
    cage = atlas.share("lung_").sum(0) > 2  # (rows, columns)
    rows = ((atlas.z > max(tops) + 30) & (atlas.z < min(bottoms))).nonzero()[:, 0]  # where both lungs are wide
    first, last = cage.int().argmax(1), cage.shape[1] - 1 - cage.flip(1).int().argmax(1)
    centre = (atlas.x[first] + atlas.x[last])[rows] / 2
    slope, offset = np.polyfit(atlas.z[rows].numpy(), centre.numpy(), 1)
    flat, pivots = {}, {}
    for part, name in (("collar", "clavicula_right"), ("blade", "scapula_right")):
        flat[part] = (excess * enlarged(near(name) * ribs_alone)).sum(0) * atlas.spacing[0]
        places = (atlas.share(name) > 0.5).nonzero()
        x, z = atlas.x[places[:, 2]], atlas.z[places[:, 1]]
        end = x > x.max() - 8 if part == "collar" else x < x.min() + 25
        pivots[part] = (float(x[end].mean()), float(z[end].mean()))
    return Skeleton(
        excess * enlarged(spine), excess * enlarged(ribs), **flat, pivots=pivots, middle=(float(offset), float(slope))
    )


def sample_skeleton(rng: np.random.Generator) -> dict[str, float]:
    """Draws how one patient's bones differ; angles in degrees, lengths in mm."""
    mirror, values, normal = rng.random() < 0.5, rng.uniform(size=6), np.clip(rng.normal(size=8), -2, 2)
    return {
        "mirror": mirror,
        "ribs": 2.0 + 1.2 * values[0],
        "spine": 0.40 + 0.3 * values[1],
        "rib_shift": 7 * normal[0],
        "rib_slope": 0.05 * normal[1],
        "collar_turn": -1 + 6 * normal[2],
        "collar_drop": 20 + 6 * normal[3],
        "collar_tilt": 3 * normal[4],  # one side higher than the other
        "blade_turn": 38 + 8 * normal[5],
        "blade_out": 12 + 14 * values[2],
        "blade_drop": 26 + 10 * values[3],
        "blade": 0.6 + 0.5 * values[4],
    }


def project_skeleton(skeleton: Skeleton, atlas: Atlas, grid: torch.Tensor, build: dict[str, float]) -> torch.Tensor:
    """mm of water that bone adds to each ray.

    Args:
        grid (`torch.Tensor` of shape `(slabs, height, width, 2)`): From `sampling_grid`, without the breath's warp.
        build (`dict[str, float]`): From `sample_skeleton`.

    Returns:
        `torch.Tensor` of shape `(height, width)`.
    """
    half_x, half_z = float(atlas.x[-1]), float(atlas.z[-1])
    spine = project(skeleton.spine[None], grid, atlas.spacing)[0]
    column, row = grid.unbind(-1)
    middle = (skeleton.middle[0] + skeleton.middle[1] * half_z * row) / half_x
    away = (column - middle).abs()
    if build["mirror"]:
        column = 2 * middle - column
    row = row - build["rib_shift"] / half_z - build["rib_slope"] * (away - 0.5) * half_x / half_z
    ribs = project(skeleton.ribs[None], torch.stack([column, row], -1), atlas.spacing)[0]
    front, back = grid[len(grid) // 3], grid[2 * len(grid) // 3]
    shoulders = 0
    for side in (-1, 1):  # the patient's right, left
        shoulders = shoulders + _turned(
            skeleton.collar, skeleton.pivots["collar"], atlas, front, side, skeleton.middle,
            build["collar_turn"] + side * build["collar_tilt"], 0.0, build["collar_drop"],
        )  # fmt: skip
        shoulders = shoulders + build["blade"] * _turned(
            skeleton.blade, skeleton.pivots["blade"], atlas, back, side, skeleton.middle,
            build["blade_turn"], build["blade_out"], build["blade_drop"],
        )  # fmt: skip
        shoulders = shoulders + _humerus(skeleton, atlas, back, side, build)
    return build["spine"] * spine + build["ribs"] * (ribs + 0.75 * shoulders)


def _outward(
    atlas: Atlas, plane: torch.Tensor, side: int, middle: tuple[float, float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """mm from the midline as on the right side of the atlas (negative), and z, of each pixel."""
    x, z = plane[..., 0] * float(atlas.x[-1]), plane[..., 1] * float(atlas.z[-1])
    return (x if side < 0 else 2 * (middle[0] + middle[1] * z) - x), z


def _turned(flat, pivot, atlas, plane, side, middle, turn, out, drop):
    """The flat bone turned by `turn` degrees (lateral end upwards) about its pivot, then moved: `(height, width)`."""
    x, z = _outward(atlas, plane, side, middle)
    angle = np.deg2rad(turn)
    dx, dz = x - pivot[0] + out, z - pivot[1] - drop
    x = pivot[0] + dx * np.cos(angle) + dz * np.sin(angle)
    z = pivot[1] - dx * np.sin(angle) + dz * np.cos(angle)
    at = torch.stack([x / float(atlas.x[-1]), z / float(atlas.z[-1])], -1)[None]
    return grid_sample(flat[None, None], at, align_corners=True, padding_mode="zeros")[0, 0]


def _humerus(skeleton, atlas, plane, side, build):
    """Head and shaft of the upper arm, a ball and a hollow cylinder: mm of water, `(height, width)`."""
    head, shaft, cortex = HUMERUS_MM
    x, z = _outward(atlas, plane, side, skeleton.middle)
    x0 = skeleton.pivots["blade"][0] - build["blade_out"] - 20
    z0 = skeleton.pivots["blade"][1] + build["blade_drop"] + 2
    radius2 = (x - x0) ** 2 + (z - z0) ** 2

    def chord(radius, offset2):
        return 2 * (radius**2 - offset2).clamp(min=0).sqrt()

    ball = 0.16 * chord(head, radius2) + 0.12 * (chord(head, radius2) - chord(head - 2, radius2))
    offset2 = (x - x0 + 10 + 0.10 * (z - z0)) ** 2
    tube = CORTEX * 0.6 * (chord(shaft, offset2) - chord(shaft - cortex, offset2)) + 0.1 * chord(shaft, offset2)
    return ball + tube * smoothstep((z - z0 - 5) / 25)
