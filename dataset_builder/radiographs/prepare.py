"""`medsyn data prepare`: from the official download of a data set to a folder that `load_dataset` and the probes read.

```
medsyn data prepare chexpert --root CheXpert-v1.0-small --out chexpert --image-size 512
medsyn evaluate --task classify --dataset ./chexpert --encoder ...
```

The folder appears whole or not at all: `data/<split>-0000N-of-0000M.parquet`, `splits/<split>.txt` (image ids),
`left_out/<reason>.txt`, `manifest.json` and `README.md`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from dataset_builder.pipeline.manifest import package_versions
from dataset_builder.radiographs.card import readme
from dataset_builder.radiographs.dicom import is_dicom, require_dicom
from dataset_builder.radiographs.options import parse, read_images
from dataset_builder.radiographs.records import OfficialSplit, RadiographRecord, RadiographSet
from dataset_builder.radiographs.splits import (
    SHARES,
    crossing_images,
    crossing_patients,
    split_by_lists,
    split_by_patient,
    split_by_table,
    split_hash,
    write_lists,
)
from dataset_builder.radiographs.write import (
    BAD_BOX,
    BAD_MASK,
    UNREADABLE,
    ImageSettings,
    Written,
    schema,
    write_splits,
)
from medsyn.errors import UserError, command, reading
from medsyn.files import only_writer, write_json
from medsyn.schema import SPLITS
from medsyn.tables import first_few

FORMAT = "medsyn-radiographs"
PACKAGES = ("datasets", "hub-medsyn", "numpy", "pillow", "pyarrow", "python")
_REMEDIES = {UNREADABLE: "--skip-unreadable", BAD_MASK: "--skip-unreadable", BAD_BOX: "--fix-boxes"}


def prepare(
    images: RadiographSet,
    out: str | Path,
    *,
    split: str = "patient",
    split_lists: str | Path | None = None,
    seed: int = 0,
    shares: Sequence[float] = SHARES,
    settings: ImageSettings | None = None,
    skip_missing: bool = False,
    skip_unreadable: bool = False,
    workers: int = 1,
) -> dict:
    """
    Writes a data set's folder.

    Args:
        images (`RadiographSet`): What an adapter read.
        out (`str` or `Path`): The folder; must not exist, or be empty.
        split (`str`, *optional*, defaults to `"patient"`): `patient`: by a hash of the patient, a fixed test set kept.
            `table`: as the source has it for all images. Else one of `images.official`: published lists, leaks and
                all.
        split_lists (`str` or `Path`, *optional*): A folder of `train.txt`, `validation.txt` and `test.txt`, as this
            function writes them; then `split` is not used.
        seed (`int`, *optional*, defaults to 0), shares (`Sequence[float]`, *optional*): See [`split_by_patient`].
        settings (`ImageSettings`, *optional*): `image_size` and `image_format` as in [`read_image`]. `fix_boxes`: cut
            boxes at the image's edges, drop those without area, and count both; otherwise they are errors.
        skip_missing (`bool`, *optional*, defaults to `False`): Leave out, and count, images without a file.
        skip_unreadable (`bool`, *optional*, defaults to `False`): Leave out, and count, images whose image or mask
            cannot be read.
        workers (`int`, *optional*, defaults to 1): Processes that read images; the result does not depend on it.

    Returns:
        `dict`: The manifest.

    Raises:
        FileNotFoundError: Missing images, counted, the first five named.
        UserError: `out` is in use, a split that cannot be made, or images that cannot be stored.
        DicomSupportMissing: There are DICOM files and pydicom is not installed.
    """
    settings, out = settings or ImageSettings(), Path(out)
    described = {
        "source": images.source,
        "split": "lists" if split_lists else split,
        "seed": None if split_lists or split != "patient" else seed,
        "shares": None if split_lists or split != "patient" else list(shares),
        "image_size": settings.image_size,
        "image_format": settings.image_format,
        "fix_boxes": settings.fix_boxes,
        "skip_missing": skip_missing,
        "skip_unreadable": skip_unreadable,
        "images_sha256": _digest(images),
    }
    with only_writer(out):
        finished = finished_before(out, images, described)
        if finished is not None:
            return finished
        splits, left_out, warnings = choose_split(images, split, split_lists, seed, shares)
        return _write(images, out, splits, left_out, warnings, settings, described, workers)


def _write(
    images: RadiographSet,
    out: Path,
    splits: dict[str, list[RadiographRecord]],
    left_out: dict[str, list[str]],
    warnings: list[str],
    settings: ImageSettings,
    described: dict,
    workers: int,
) -> dict:
    """Writes the folder of `prepare` and returns its manifest."""
    funnel = images.funnel | {"in_splits": len({image.image_id for part in splits.values() for image in part})}
    splits, missing = drop_missing(splits, images.title, described["skip_missing"])
    left_out = images.left_out | left_out
    if missing:
        left_out["missing_image"] = missing
    if any(is_dicom(image.path) for part in splits.values() for image in part):
        require_dicom()

    work = out.parent / f".{out.name}.medsyn-partial"
    shutil.rmtree(work, ignore_errors=True)  # of a run that was killed
    try:
        written = write_splits(images, splits, work / "data", settings, workers)
        refuse_problems(written, images.title, described["skip_unreadable"])
        left_out |= {kind: list(problems) for kind, problems in written.problems.items()}
        funnel["written"] = len({image_id for ids in written.ids.values() for image_id in ids})
        warnings += absent_classes(written)
        if written.empty_masks:
            warnings.append(
                f"{len(written.empty_masks):,} images have a mask without a pixel: {first_few(written.empty_masks)}"
            )
        manifest = {
            "format": FORMAT,
            "name": images.name,
            "title": images.title,
            "terms": images.terms,
            "settings": described,
            "funnel": funnel,
            "left_out": {reason: {"count": len(ids), "first": ids[:5]} for reason, ids in left_out.items()},
            "splits": written.splits,
            "split_lists": write_lists(work / "splits", written.ids),
            "split_sha256": split_hash(written.ids),
            "crossing": {"patients": len(crossing_patients(splits)), "images": len(crossing_images(splits))},
            "labels": {
                name: {s: dict(counts[name]) for s, counts in written.labels.items()} for name in images.labels
            },
            "boxes": dict(sorted(written.boxes.items())),
            "masks": dict(sorted(written.masks.items())),
            "mended": {what: count for what, count in sorted(written.mended.items()) if count},
            "warnings": warnings,
            "versions": {name: version for name, version in package_versions().items() if name in PACKAGES},
        }
        if left_out:
            (work / "left_out").mkdir()
        for reason, names in left_out.items():
            (work / "left_out" / f"{reason}.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        (work / "README.md").write_text(readme(manifest, schema(images)), encoding="utf-8")
        write_json(work / "manifest.json", manifest)
        if out.exists():
            out.rmdir()
        work.rename(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return manifest


def _digest(images: RadiographSet) -> str:
    """Hashes what the tables say of every image, so that two inputs are not taken for one."""
    digest = hashlib.sha256()
    for image in images.images:
        digest.update(repr((image.image_id, image.subject_id, image.labels, image.split, image.view)).encode())
    return digest.hexdigest()


def finished_before(out: Path, images: RadiographSet, settings: dict) -> dict | None:
    """Returns the manifest of a finished run of the same command, `None` where the folder is free.

    Raises:
        UserError: If the folder holds anything else.
    """
    if not out.exists() or out.is_dir() and not any(out.iterdir()):
        return None
    path = out / "manifest.json"
    if out.is_dir() and path.is_file():
        with reading(path):
            manifest = json.loads(path.read_text(encoding="utf-8"))
        same = json.loads(json.dumps({"format": FORMAT, "name": images.name, "settings": settings}))
        if isinstance(manifest, dict) and all(manifest.get(key) == value for key, value in same.items()):
            return manifest | {"complete_before": True}
    raise UserError(f"{out} is not empty; choose another --out or delete it")


def choose_split(
    records: RadiographSet, split: str, split_lists: str | Path | None, seed: int, shares: Sequence[float]
) -> tuple[dict[str, list[RadiographRecord]], dict[str, list[str]], list[str]]:
    """(records by split, image ids left out by reason, warnings)."""
    if split_lists is not None:
        return *split_by_lists(records.images, Path(split_lists)), []
    if split == "table":
        splits = split_by_table(records.images)
        return splits, {}, [f"the table has no {name} split" for name in SPLITS if name not in splits]
    if split == "patient":
        return *split_by_patient(records.images, seed, shares), []
    if split not in records.official:
        raise UserError(f"split {split!r} is not one of {', '.join(['patient', *records.official])}")
    official: OfficialSplit = records.official[split]()
    warnings = list(official.warnings)
    crossing, images = crossing_patients(official.images), crossing_images(official.images)
    if crossing:
        warnings.append(
            f"{records.title}'s {split} split leaks: {len(crossing):,} patients and {len(images):,} images are in "
            f"more than one split, for example {first_few(list(crossing))}"
        )
    return official.images, {}, warnings


def drop_missing(
    splits: dict[str, list[RadiographRecord]], title: str, skip: bool
) -> tuple[dict[str, list[RadiographRecord]], list[str]]:
    """
    The splits without images that have no file, and the ids of those.

    Raises:
        FileNotFoundError: There are any, and `skip` does not forgive them.
    """
    images = {image.image_id: image for part in splits.values() for image in part}
    missing = [
        image.image_id
        for image in tqdm(images.values(), desc="looking for images", unit="image", delay=2)
        if not image.path.is_file()
    ]
    if not missing:
        return splits, []
    if not skip or len(missing) == len(images):
        first = images[missing[0]].path
        hint = "" if len(missing) == len(images) else ", or leave them out with --skip-missing"
        raise FileNotFoundError(
            f"{len(missing):,} of the {len(images):,} images that the tables of {title} name do not exist: "
            f"{first_few(missing)}; the first was looked for at {first}: complete the download{hint}"
        )
    gone = set(missing)
    return {split: [image for image in part if image.image_id not in gone] for split, part in splits.items()}, missing


def refuse_problems(written: Written, title: str, skip_unreadable: bool) -> None:
    """Raises `UserError` for images that could not be stored and are not forgiven; all counted, some named."""
    sentences = []
    for kind, problems in written.problems.items():
        if not (skip_unreadable and kind in (UNREADABLE, BAD_MASK)):
            sentences.append(
                f"{len(problems):,} with {kind.replace('_', ' ')}: {first_few(list(problems.values()))} "
                f"(mend them, or see {_REMEDIES[kind]})"
            )
    if sentences:
        raise UserError(f"images of {title} cannot be stored: {'; '.join(sentences)}")
    if not any(written.ids.values()):
        raise UserError(f"no image of {title} can be read")


def absent_classes(written: Written) -> list[str]:
    """A sentence for each split on the labels that no image of it shows."""
    absent = {
        split: [name for name, values in counts.items() if not values["present"]]
        for split, counts in written.labels.items()
    }
    return [f"no image of the {split} split shows {', '.join(names)}" for split, names in absent.items() if names]


def summary(out: Path, manifest: dict) -> str:
    """What was made and left out, for a person to read."""
    splits = manifest["splits"]
    lines = [
        f"{manifest['title']}: " + ", ".join(f"{name} {counts['num_examples']:,}" for name, counts in splits.items()),
        "funnel: " + " -> ".join(f"{step.replace('_', ' ')} {count:,}" for step, count in manifest["funnel"].items()),
    ]
    for reason, entry in manifest["left_out"].items():
        more = ", ..." if entry["count"] > len(entry["first"]) else ""
        lines.append(f"left out {entry['count']:,} ({reason.replace('_', ' ')}): {', '.join(entry['first'])}{more}")
    lines += [f"{what.replace('_', ' ')}: {count:,}" for what, count in manifest["mended"].items()]
    lines += [f"warning: {warning}" for warning in manifest["warnings"]]
    lines.append(f"split {manifest['split_sha256'][:12]}; terms: {manifest['terms']}")
    lines.append(f"in {out}: README.md, manifest.json, splits/, data/")
    return "\n".join(lines)


@command("medsyn data", interrupted="nothing is kept")
def main(argv: list[str] | None = None) -> int:
    """Runs `medsyn data` and returns its exit code: 0 done, 1 failed with one sentence on stderr, 2 bad usage."""
    args = parse(argv)
    manifest = prepare(
        read_images(args),
        args.out,
        split=args.split,
        split_lists=args.split_lists,
        seed=args.seed,
        shares=args.shares,
        settings=ImageSettings(args.image_size, args.image_format, args.fix_boxes),
        skip_missing=args.skip_missing,
        skip_unreadable=args.skip_unreadable,
        workers=args.workers,
    )
    if manifest.get("complete_before"):
        print(f"{args.out} is already complete: nothing to do")
    print(summary(Path(args.out), manifest))
    return 0


if __name__ == "__main__":
    sys.exit(main())
