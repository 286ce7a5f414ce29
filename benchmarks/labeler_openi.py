"""How well the rule-based reader finds Open-i's human codes: precision, recall and F1 per label, as CSV.

The reference is the `labels` column of openi_iu.csv (CheXpert names mapped from the MeSH codes that people gave each
report; coded means present, a doubt is coded like a certainty). One row a report. As in `dataset_builder.findings`,
consolidation, pneumonia, edema and atelectasis count as lung opacity on both sides. `No Finding` holds in the
reference where none of the other labels that CheXpert knows is coded, support devices aside. `reading` says what
counts as found: `present`, or `present or uncertain`. The table holds numbers only.

    python benchmarks/labeler_openi.py --data ../shared/data/openi_iu --out benchmarks/labeler_openi.csv
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

from dataset_builder.findings import ABSENT, CHEXPERT_LABELS, KINDS, PRESENT, UNCERTAIN
from dataset_builder.reports.labeler import report_labels
from dataset_builder.reports.lexicon import LABEL_TERMS

OPACITIES = {name for names in KINDS.values() if "Lung Opacity" in names for name in names}
READ = {name for names in KINDS.values() for name in names} | {"No Finding", *LABEL_TERMS}


def read_reports(folder: Path) -> list[tuple[str, set[str]]]:
    """The text and the coded CheXpert labels of each report (the images of one report share both)."""
    reports = {}
    with open(folder / "openi_iu.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            coded = {name for name in row["labels"].split("|") if name in CHEXPERT_LABELS} - {"No Finding"}
            if coded & OPACITIES:
                coded.add("Lung Opacity")
            if not coded - {"Support Devices"}:
                coded.add("No Finding")
            reports.setdefault(row["patient_id"], (row["findings"] + "\n\n" + row["impression"], coded))
    return list(reports.values())


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/openi_iu"), help="folder of openi_iu.csv")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/labeler_openi.csv"), help="table to write")
    parser.add_argument(
        "--min-positives", type=int, default=20, help="fewest codes for a label to enter the macro row"
    )
    args = parser.parse_args(argv)

    reports = read_reports(args.data)
    start = time.perf_counter()
    read = [report_labels(text) for text, _ in reports]
    speed = len(reports) / (time.perf_counter() - start)
    rows = []
    for reading, hits in (("present", {PRESENT}), ("present or uncertain", {PRESENT, UNCERTAIN})):
        scores = []
        for name in CHEXPERT_LABELS:
            pairs = [(labels[name] in hits, name in coded) for labels, (_, coded) in zip(read, reports, strict=True)]
            found, coded = sum(f for f, _ in pairs), sum(c for _, c in pairs)
            both = sum(f and c for f, c in pairs)
            precision, recall = both / found if found else 0.0, both / coded if coded else 0.0
            f1 = 2 * precision * recall / (precision + recall) if both else 0.0
            denied = sum(labels[name] == ABSENT for labels in read)
            rows.append([reading, name, name in READ, coded, found, denied, precision, recall, f1])
            if coded >= args.min_positives and name in READ:
                scores.append((precision, recall, f1))
        means = [sum(values) / len(scores) for values in zip(*scores, strict=True)]
        rows.append([reading, f"macro ({len(scores)} labels)", True, "", "", "", *means])
    with open(args.out, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["reading", "label", "read", "coded", "found", "denied", "precision", "recall", "f1"])
        for row in rows:
            writer.writerow([*row[:6], *(f"{value:.3f}" for value in row[6:])])
            print("  ".join(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row))
    print(f"{len(reports)} reports at {speed:.0f} a second, sentences read once and remembered; wrote {args.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
