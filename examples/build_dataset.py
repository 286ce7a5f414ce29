"""Builds a dataset from a table of reports: `python examples/build_dataset.py my-cxr`."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from datasets import load_dataset

from dataset_builder.build import build
from dataset_builder.generators.phantom import PhantomGenerator
from dataset_builder.reports.table import read_table

IMPRESSIONS = (
    "No acute cardiopulmonary process.",
    "Moderate left pleural effusion.",
    "Small right pneumothorax.",
    "Cardiomegaly with mild pulmonary edema.",
    "Right lower lobe pneumonia.",
    "Left upper lobe mass.",
)


def main(out: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        table = Path(scratch) / "reports.jsonl"
        rows = [{"study_id": f"study-{number}", "impression": text} for number, text in enumerate(IMPRESSIONS)]
        table.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
        # These reports are ours, so anyone may read them; without `text_policy` they would count as credentialed.
        generator = PhantomGenerator(image_size=128)
        build(read_table(table), generator, out, splits=(1.0, 0.0, 0.0), text_policy="public", min_tokens=1)
    for row in load_dataset(out, split="train"):
        present = [name for name, value in row["labels"].items() if value == 1]
        print(f"{row['study_id']}: {row['impression']} -> {', '.join(present)}")


if __name__ == "__main__":  # the build spawns processes, which import this file
    main(sys.argv[1] if len(sys.argv) > 1 else "my-cxr")
