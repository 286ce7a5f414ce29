"""One normal patient in one pose: the anatomy that findings are put into, and its attenuation in the image."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn.functional import avg_pool3d

from dataset_builder.generators.phantom.atlas import SOFT_HU, Atlas
from dataset_builder.generators.phantom.geometry import (
    project,
    sample_pose,
    sample_warp,
    sampling_grid,
    smoothstep,
    stream,
    to_image,
)
from dataset_builder.generators.phantom.skeleton import (
    Skeleton,
    project_skeleton,
    sample_skeleton,
    take_bones,
)
from dataset_builder.generators.phantom.vessels import project_vessels, vessel_planes

MU_WATER = 0.019  # per mm, at the mean energy behind the patient
VESSEL_CONTRAST = 0.85  # of blood against aerated lung, in water's attenuation


@dataclass(eq=False)
class Tissues:
    """The atlas taken apart: what every image of it shares.

    Args:
        soft (`torch.Tensor` of shape `(slabs, rows, columns)`): HU without bone, the lungs' vessels sharpened.
        skeleton (`Skeleton`): The bones.
        lungs (`torch.Tensor` of shape `(slabs, rows, columns)`): Share of lung.
    """

    soft: torch.Tensor
    skeleton: Skeleton
    lungs: torch.Tensor


_TISSUES: weakref.WeakKeyDictionary[Atlas, Tissues] = weakref.WeakKeyDictionary()


def tissues(atlas: Atlas) -> Tissues:
    """The atlas's tissues, taken apart once."""
    if atlas not in _TISSUES:
        hu, lungs = atlas.volume, atlas.share("lung_")
        smooth = avg_pool3d(hu[None], (3, 7, 7), 1, (1, 3, 3), count_include_pad=False)[0]
        soft = torch.where(lungs > 0.9, hu + 0.4 * (hu - smooth), hu).clamp(-1000, SOFT_HU)
        _TISSUES[atlas] = Tissues(soft, take_bones(atlas), lungs)
    return _TISSUES[atlas]


class Patient:
    """A normal patient, drawn from `seed`.

    Args:
        atlas (`Atlas`): The anatomy.
        seed (`int`): Pose, warp and vessels follow from it, each through its own random stream.
        view (`str`, *optional*): `PA` or `AP`; drawn where `None`.
        image_size (`int`, *optional*, defaults to 256): Pixels a side.
        heart, inflation (`float`, *optional*): Replace the drawn expansion of the heart and depth of breath,
            and shift no other draw; see `Warp`.
        vessels (`float`, *optional*, defaults to 1.0): Strength of the vessels relative to the drawn one.
    """

    def __init__(
        self,
        atlas: Atlas,
        seed: int,
        view: str | None = None,
        image_size: int = 256,
        heart: float | None = None,
        inflation: float | None = None,
        vessels: float = 1.0,
    ):
        self.atlas, self.seed, self.image_size = atlas, seed, image_size
        rng = stream(seed, "pose")
        self.pose = sample_pose(rng, view)
        self.build = _sample_build(rng)
        self.bones = sample_skeleton(rng)
        self.warp = sample_warp(stream(seed, "warp"), self.pose, heart, inflation)
        self.grid = sampling_grid(atlas, self.pose, self.warp, image_size)
        self._tissues = tissues(atlas)
        self.hu = _fill_stomach(atlas, self._tissues.soft, self.build)
        rng = stream(seed, "vessels")
        self._vessel_strength = vessels * rng.uniform(0.22, 0.5)
        self._vessels = vessel_planes(rng, atlas)
        self._fixed = None

    def project(self, shares: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
        """mm of each `(slabs, rows, columns)` share along the rays: `(channels, height, width)`."""
        volumes = shares if isinstance(shares, torch.Tensor) else torch.stack(tuple(shares))
        return project(volumes, self.grid, self.atlas.spacing)

    def to_image(self, points: np.ndarray) -> np.ndarray:
        """Image pixels `(points, 2)` of points `(points, 3)` in mm."""
        return to_image(points, self.atlas, self.grid)

    def line_integral(self, hu: torch.Tensor | None = None, aerated: torch.Tensor | None = None) -> torch.Tensor:
        """Attenuation along each ray in nepers.

        Args:
            hu (`torch.Tensor` of shape `(slabs, rows, columns)`, *optional*): The patient's `hu` with findings in it;
                bone comes from the atlas. The normal patient by default.
            aerated (`torch.Tensor` of shape `(slabs, rows, columns)`, *optional*): Share of aerated lung, where
                vessels show; the lungs by default.

        Returns:
            `torch.Tensor` of shape `(image_size, image_size)`.
        """
        hu = self.hu if hu is None else hu
        aerated = self._tissues.lungs if aerated is None else aerated
        water = (hu.clamp(max=SOFT_HU) / 1000 + 1)[None]
        soft = project(water, self.grid, self.atlas.spacing)[0]
        if self._fixed is None:
            still = replace(self.warp, inflation=0.25 * self.warp.inflation, lift=0.0, heart=0.0)
            grid = sampling_grid(self.atlas, self.pose, still, self.image_size)
            bones = project_skeleton(self._tissues.skeleton, self.atlas, grid, self.bones)
            self._fixed = bones + self._breasts()
            self._shoulders = self._shoulder_line()
        blood = self._vessel_strength * VESSEL_CONTRAST * project_vessels(self._vessels, self.grid, aerated)
        return MU_WATER * self.pose.thickness * ((soft + self._fixed) * self._shoulders + blood)

    def _breasts(self) -> torch.Tensor:
        """mm of breast in front of the chest, `(height, width)`."""
        x = self.grid[4, :, :, 0] * float(self.atlas.x[-1]) - self.atlas.landmarks["trachea_top"][0]
        z = self.grid[4, :, :, 1] * float(self.atlas.z[-1])
        total = 0
        for side in (-1, 1):
            across = (x - side * self.build["breast_x"]) / self.build["breast_width"]
            down = z - self.build["breast_z"]
            # a long slope above, a round lower edge
            down = down / torch.where(down > 0, self.build["breast_drop"], 2.2 * self.build["breast_drop"])
            total = total + smoothstep(1.0 - (across**2 + down**2).sqrt()).sqrt()
        return self.build["breast_mm"] * total

    def _shoulder_line(self) -> torch.Tensor:
        """0 in the air above the shoulders, 1 below: `(height, width)`. The CT's arms are raised; these are not."""
        plane = self.grid[len(self.grid) // 2]
        x = (plane[..., 0] * float(self.atlas.x[-1]) - self.atlas.landmarks["trachea_top"][0]).abs()
        z = plane[..., 1] * float(self.atlas.z[-1])
        apex = (self.atlas.landmarks["apex_left"][2] + self.atlas.landmarks["apex_right"][2]) / 2
        neck = 55 * smoothstep((105 - x) / 65)  # the neck rises steeply
        line = apex + self.build["shoulder"] + self.build["shoulder_fall"] * (x - 75).clamp(min=0) - neck
        return smoothstep((z - line + 14) / 30)


def _sample_build(rng: np.random.Generator) -> dict[str, float]:
    """Draws that make one patient's body: shoulders, breasts, gas in the stomach."""
    female, gas = rng.random() < 0.45, rng.random() < 0.55
    values = rng.uniform(size=12)
    return {
        "shoulder": -30 + 16 * values[0],
        "shoulder_fall": 0.08 + 0.26 * values[1],
        "breast_mm": (14 + 26 * values[2]) if female else 4 + 8 * values[2],
        "breast_x": 68 + 22 * values[3],
        "breast_z": 12 + 34 * values[4],
        "breast_width": 52 + 18 * values[5],
        "breast_drop": 24 + 22 * values[6],
        "gas": (0.5 + 0.5 * values[7]) if gas else 0.0,
        "gas_width": 16 + 20 * values[8],
        "gas_height": 8 + 12 * values[9],
        "gas_x": -26 + 22 * values[10],
        "gas_tilt": values[11],
    }


def _fill_stomach(atlas: Atlas, hu: torch.Tensor, build: dict[str, float]) -> torch.Tensor:
    """A gas bubble under the left dome: flat below where the patient stands."""
    if not build["gas"]:
        return hu
    x, y, z = atlas.landmarks["dome_left"]
    dx = (atlas.x[None, None] - x - build["gas_x"]) / build["gas_width"]
    dy = (atlas.y[:, None, None] - y) / 24
    dz = (atlas.z[None, :, None] - z - build["gas_height"] - 7) / build["gas_height"]
    radius = (dx**2 + dy**2 + dz**2).sqrt()
    share = build["gas"] * ((1.08 - radius) / 0.16).clamp(0, 1) * (1 - atlas.share("lung_"))
    return hu + share * (-950 - hu)
