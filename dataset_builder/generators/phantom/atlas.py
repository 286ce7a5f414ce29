"""The anatomy that the phantom renders: a CT averaged to coronal slabs, its label map, and landmarks.

Axes of every volume are `(slab, row, column)`: slab 0 is the patient's front, row 0 the top, column 0 the patient's
right, which is the viewer's left. Points in mm are `(x, y, z)` from the centre of the volume: x to the patient's left,
y to the patient's back, z towards the feet.
"""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from medsyn.errors import UserError

ATLAS_FILE = Path(__file__).with_name("atlas.npz")
SOFT_HU = 70.0  # soft tissue is no denser; what lies above is bone and kept apart
FULL_DETAIL_ABOVE = 320  # image size in pixels up to which the half-resolution volume is sharp enough
LANDMARKS = ("carina", "trachea_top", "heart", "heart_apex") + tuple(
    f"{place}_{side}" for place in ("dome", "apex", "base", "hilum") for side in ("right", "left")
)


@dataclass(eq=False)
class Atlas:
    """One patient.

    Args:
        volume (`torch.Tensor` of shape `(slabs, rows, columns)`): HU without bone, float32. Shared by images: never
            edit in place.
        bone (`torch.Tensor` of shape `(slabs, bone_rows, bone_columns)`): What bone adds in HU, always in full detail.
        spacing (`tuple[float, float, float]`): mm per slab, row and column.
        labels (`np.ndarray` of shape `(slabs, label_rows, label_columns)`): Label ids, on a coarser grid.
        bones (`np.ndarray`, shape of `labels`): Ids of bones, wherever a bone has any part of a voxel.
        wall_depth (`torch.Tensor` of shape `(label_rows, label_columns)`): Largest depth below the inner wall of chest
            and abdomen along a frontal ray in mm, up to 60; 0 where it meets the wall only.
        structures (`dict[str, int]`): Label ids by TotalSegmentator's names.
        landmarks (`dict[str, tuple[float, float, float]]`): Points `(x, y, z)` in mm: `carina`, `trachea_top`, `heart`
            (centroid), `heart_apex`, and for each side `dome` (top of the organ below the diaphragm), `apex` and
            `base` (the lung's ends) and `hilum`.
        fingerprint (`str`): SHA-256 of the file.
    """

    volume: torch.Tensor
    bone: torch.Tensor
    spacing: tuple[float, float, float]
    labels: np.ndarray
    bones: np.ndarray
    wall_depth: torch.Tensor
    structures: dict[str, int]
    landmarks: dict[str, tuple[float, float, float]]
    fingerprint: str
    _shares: dict = field(default_factory=dict, repr=False)

    @property
    def y(self) -> torch.Tensor:
        """mm of each slab, `(slabs,)`."""
        return self._millimetres(0)

    @property
    def z(self) -> torch.Tensor:
        """mm of each row, `(rows,)`."""
        return self._millimetres(1)

    @property
    def x(self) -> torch.Tensor:
        """mm of each column, `(columns,)`."""
        return self._millimetres(2)

    def _millimetres(self, axis: int) -> torch.Tensor:
        count = self.volume.shape[axis]
        return (torch.arange(count, dtype=torch.float32) - (count - 1) / 2) * self.spacing[axis]

    def share(self, *prefixes: str) -> torch.Tensor:
        """How much of each voxel belongs to the structures whose names start with one of `prefixes`.

        Returns:
            `torch.Tensor` of shape `(slabs, rows, columns)`, 0 to 1, interpolated from the label grid. Cached.
            Bones are counted full wherever they have a part of a voxel.

        Raises:
            UserError: No structure's name starts so.
        """
        if prefixes not in self._shares:
            names = [name for name in self.structures if name.startswith(prefixes)]
            if not names:
                raise UserError(f"no structure of the atlas starts with {' or '.join(map(repr, prefixes))}")
            self._shares[prefixes] = self._share_of(names)
        return self._shares[prefixes]

    def lung(self, side: str) -> torch.Tensor:
        """The share of the `left` or `right` lung, `(slabs, rows, columns)`."""
        names = tuple(name for name in self.structures if name.startswith("lung_") and name.endswith(side))
        if not names:
            raise UserError(f"the atlas has no {side!r} lung; side is 'left' or 'right'")
        return self.share(*names)

    def _share_of(self, names: list[str]) -> torch.Tensor:
        ids = [self.structures[name] for name in names]
        chosen = torch.from_numpy(np.isin(self.labels, ids) | np.isin(self.bones, ids))
        # (slabs, label_rows, label_columns) -> (slabs, rows, columns)
        return torch.nn.functional.interpolate(
            chosen[None].float(), size=self.volume.shape[1:], mode="bilinear", align_corners=False
        )[0]


def detail_for(image_size: int) -> str:
    """`half` where images of `image_size` pixels lose nothing by it, else `full`."""
    return "half" if image_size <= FULL_DETAIL_ABOVE else "full"


def cubic_rows(count: int, factor: float) -> torch.Tensor:
    """Catmull-Rom interpolation from `count` rows to `round(count * factor)`: a matrix `(rows, count)`."""
    rows = int(round(count * factor))
    at = (torch.arange(rows, dtype=torch.float64) + 0.5) * count / rows - 0.5
    first = at.floor()
    t = at - first
    weights = torch.stack(
        [
            -0.5 * t**3 + t**2 - 0.5 * t,
            1.5 * t**3 - 2.5 * t**2 + 1,
            -1.5 * t**3 + 2 * t**2 + 0.5 * t,
            0.5 * t**3 - 0.5 * t**2,
        ]
    )
    matrix = torch.zeros(rows, count, dtype=torch.float64)
    for shift, weight in zip((-1, 0, 1, 2), weights, strict=True):
        matrix.scatter_add_(1, (first + shift).long().clamp(0, count - 1)[:, None], weight[:, None])
    return matrix.float()


def load_atlas(path: str | Path | None = None, detail: str = "half") -> Atlas:
    """Reads an atlas made by `scripts.atlas`.

    Args:
        path (`str` or `Path`, *optional*): The file, or a folder with an `atlas.npz`; the one that ships by default.
        detail (`str`, *optional*, defaults to `"half"`): `half` (about 1.7 x 1.4 mm) or `full` (0.8 x 0.7 mm).

    Raises:
        FileNotFoundError: There is no such file.
        UserError: The file is damaged, or was not written by `scripts.atlas`.
    """
    path = ATLAS_FILE if path is None else Path(path)
    if path.is_dir():
        path = path / "atlas.npz"
    if not path.is_file():
        raise FileNotFoundError(f"no atlas at {path}: make one with `python -m scripts.atlas`")
    if detail not in ("half", "full"):
        raise UserError(f"detail {detail!r} is not 'half' or 'full'")
    return _load(path.resolve(), path.stat().st_mtime_ns, detail)


@lru_cache(maxsize=2)
def _load(path: Path, modified: int, detail: str) -> Atlas:
    try:
        with np.load(path, allow_pickle=False) as file:
            content = {name: file[name] for name in file.files}
        volume = content["volume"]
        lowest, step, bone_step = content["quantisation"]
        bone = torch.from_numpy(content["bone"]).float() * bone_step
        ids = [int(number) for number in content["structure_ids"]]
        structures = dict(zip(content["structure_names"].tolist(), ids, strict=True))
        marks = zip(content["landmark_names"].tolist(), content["landmarks"].tolist(), strict=True)
        landmarks = {name: tuple(point) for name, point in marks}
        spacing, labels = content["spacing"].tolist(), content["labels"]
        bones = content["bones"]
        depth = torch.from_numpy(content["wall_depth"]).float().amax(0)
    except (OSError, EOFError, KeyError, ValueError, TypeError, zipfile.BadZipFile, zipfile.error) as error:
        raise UserError(f"{path} is damaged or is not an atlas written by scripts.atlas ({error})") from error
    missing = [name for name in LANDMARKS if name not in landmarks]
    if missing:
        raise UserError(f"{path} lacks the landmarks {', '.join(missing)}; rebuild it with `python -m scripts.atlas`")
    hu = torch.from_numpy(np.cumsum(volume, axis=2, dtype=np.uint8)).float() * step + lowest  # (slabs, rows, columns)
    factor = 3.0 if detail == "full" else 1.5
    if detail == "half":
        hu = torch.nn.functional.avg_pool2d(hu[None], (1, 2))[0]
        spacing[2] *= 2
    rows = hu.shape[1]
    hu = torch.matmul(cubic_rows(rows, factor), hu).clamp_(-1000.0, SOFT_HU)  # cubic rows overshoot
    bone = torch.matmul(cubic_rows(rows, 3.0), bone).clamp_(min=0.0)
    spacing[1] *= rows / hu.shape[1]
    fingerprint = hashlib.sha256(path.read_bytes()).hexdigest()
    return Atlas(hu, bone, tuple(spacing), labels, bones, depth, structures, landmarks, fingerprint)
