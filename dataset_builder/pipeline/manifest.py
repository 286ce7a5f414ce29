"""`manifest.json`: what a dataset was made of and what came out, one entry a config. It is written last."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from dataset_builder.pipeline.plan import Plan, cross_split_repeats
from medsyn.schema import CHEXPERT_LABELS, FORMAT, SPLITS, strictest

PACKAGES = (
    "hub-medsyn",
    "datasets",
    "diffusers",
    "numpy",
    "peft",
    "pillow",
    "pyarrow",
    "scipy",
    "torch",
    "transformers",
)
LABEL_VALUES = {1: "present", 0: "absent", -1: "uncertain", None: "unmentioned"}


def package_versions() -> dict[str, str]:
    """The versions an image can depend on; `not installed` where a package is absent or runs from its sources."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def add_config(manifest: dict, name: str, entry: dict) -> dict:
    """The manifest with one config more; its text policy is the strictest of all its configs."""
    configs = manifest["configs"] | {name: entry}
    policy = strictest(each["settings"]["text_policy"] for each in configs.values())
    return {"format": FORMAT, "text_policy": policy, "configs": configs}


def describe(plan: Plan, data: Path, image_hashes: Sequence[str]) -> dict:
    """
    What came out, counted on the rows as they stand in the shards.

    Args:
        plan (`Plan`): The rows that were asked for.
        data (`Path`): The folder of the shards.
        image_hashes (`Sequence[str]`): sha256 of the encoded image of every image of the plan.

    Returns:
        `dict`: `splits` (rows, subjects, shards, bytes), `labels`, `occult_findings`, `images`, and the number of
            rows with a `report_hash` as `report_hashes`.

    Raises:
        RuntimeError: If the rows on disk are not those of the plan.
    """
    counts, ids = count_rows(data)
    for split, rows in plan.split_rows().items():
        if ids.get(split) != [row.record.study_id for row in rows]:
            raise RuntimeError(f"the rows of {data}/{split}-*.parquet are not those of the plan; delete {data}")
    row_hashes = sorted(image_hashes[row.image] for row in plan.rows)
    return counts | {
        "images": {
            "num_rows": len(row_hashes),
            "num_distinct": len(set(row_hashes)),
            "sha256_of_sorted_sha256": hashlib.sha256("\n".join(row_hashes).encode()).hexdigest(),
            "repeated_across_splits": cross_split_repeats(plan, image_hashes),
        },
    }


def count_rows(data: Path) -> tuple[dict, dict[str, list[str]]]:
    """
    Counts the rows of a config as they stand in its shards.

    Args:
        data (`Path`): The folder of the shards.

    Returns:
        `tuple`: `splits` (rows, subjects, shards, bytes), `labels`, `occult_findings` and `report_hashes` (rows that
            have one); and the study ids of every split that is there, in order.
    """
    splits, study_ids, hashed = {}, {}, 0
    labels: dict[str, Counter[str]] = {name: Counter() for name in CHEXPERT_LABELS}
    occult: Counter[str] = Counter()
    columns = ("study_id", "subject_id", "labels", "occult_findings", "report_hash")
    for split in SPLITS:
        paths = sorted(data.glob(f"{split}-*.parquet"))
        if not paths:
            continue
        ids, subjects, num_bytes = [], set(), 0
        for path in paths:
            with pq.ParquetFile(path) as file:
                groups = [file.metadata.row_group(group) for group in range(file.num_row_groups)]
                num_bytes += sum(group.total_byte_size for group in groups)
                table = file.read([name for name in columns if name in file.schema_arrow.names])
            ids += table.column("study_id").to_pylist()
            subjects.update(table.column("subject_id").to_pylist())
            hashed += len(table) - table.column("report_hash").null_count
            for row in table.column("labels").to_pylist():
                for name, value in row.items():
                    labels[name][LABEL_VALUES[value]] += 1
            if "occult_findings" in table.column_names:
                for row in table.column("occult_findings").to_pylist():
                    occult.update(row)
        study_ids[split] = ids
        splits[split] = {
            "num_examples": len(ids),
            "num_subjects": len(subjects),
            "num_shards": len(paths),
            "num_bytes": num_bytes,
            "file_bytes": sum(path.stat().st_size for path in paths),
        }
    counts = {
        "splits": splits,
        "labels": {name: {value: counts[value] for value in LABEL_VALUES.values()} for name, counts in labels.items()},
        "occult_findings": dict(sorted(occult.items())),
        "report_hashes": hashed,
    }
    return counts, study_ids
