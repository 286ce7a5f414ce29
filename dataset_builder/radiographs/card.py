"""The README of a prepared folder: what `load_dataset` needs to know, and the counts."""

from __future__ import annotations

import pyarrow as pa
import yaml

from dataset_builder.pipeline.manifest import LABEL_VALUES
from medsyn.dataset_info import dataset_info

LEAKS = (
    "These splits are not disjoint. They are kept as published, to compare with published numbers; trust none that is "
    "measured on them."
)


def readme(manifest: dict, schema: pa.Schema) -> str:
    """The README of a manifest: YAML with files and columns, then tables of splits, labels and what was left out."""
    splits = manifest["splits"]
    header = {
        "pretty_name": manifest["title"],
        "license": "other",
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": name, "path": f"data/{name}-*.parquet"} for name in splits],
            }
        ],
        "dataset_info": [dataset_info("default", splits, schema)],
    }
    lines = [
        "---",
        yaml.safe_dump(header, sort_keys=False).rstrip(),
        "---",
        f"# {manifest['title']}",
        "",
        f"Made by `medsyn data prepare {manifest['name']}` from the images and tables as they are distributed.",
        f"Terms: {manifest['terms']}.",
        "",
        "| split | images | patients |",
        "|---|---|---|",
        *(f"| {name} | {counts['num_examples']:,} | {counts['num_subjects']:,} |" for name, counts in splits.items()),
        "",
        f"Split: {manifest['settings']['split']}, sha256 {manifest['split_sha256'][:12]}; image ids in `splits/`.",
        *([LEAKS] if manifest["crossing"]["patients"] else []),
        "",
        f"| label ({' / '.join(LABEL_VALUES.values())}) | {' | '.join(splits)} |",
        "|---|" + "---|" * len(splits),
    ]
    for label, counts in manifest["labels"].items():
        cells = [" / ".join(f"{counts[name].get(value, 0):,}" for value in LABEL_VALUES.values()) for name in splits]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    for what in ("boxes", "masks"):
        if manifest[what]:
            counts_of = ", ".join(f"{finding} {count:,}" for finding, count in manifest[what].items())
            lines += ["", f"{what.capitalize()}: {counts_of}."]
    funnel = " -> ".join(f"{step.replace('_', ' ')} {count:,}" for step, count in manifest["funnel"].items())
    lines += ["", f"Funnel: {funnel}."]
    for reason, entry in manifest["left_out"].items():
        lines.append(f"- left out, `left_out/{reason}.txt`: {entry['count']:,}")
    lines += [f"- {what.replace('_', ' ')}: {count:,}" for what, count in manifest["mended"].items()]
    lines += [f"- {warning}" for warning in manifest["warnings"]]
    return "\n".join(lines) + "\n"
