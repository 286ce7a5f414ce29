"""How well the rule-based reader agrees with the labels shipped beside the sample reports of the `radlabels` wheel.

The reports are 1,000 synthetic ones in MIMIC-CXR's form (many end in mid-sentence), the labels 49 findings as present,
absent or uncertain, found by a list of phrases over RadGraph's reading of the whole report; no person checked them.
They call most of what is in doubt ("may reflect atelectasis") present, so `present or uncertain` compares better.
`CHEXPERT` maps the findings to CheXpert's labels; what it leaves out has none. As in `dataset_builder.findings`, the
opacities count as Lung Opacity, and cardiomegaly as Enlarged Cardiomediastinum, on both sides. `text` says what our
reader was given: `sections` (findings and impression, as the build reads them) or `report` (all of it, as the
reference). Of several findings on one label, present beats uncertain beats absent. `No Finding` is left out, since
the labels do not say that an image is normal. The table holds numbers only.

    pip download radlabels --no-deps && unzip radlabels-*.whl
    python benchmarks/labeler_radlabels.py --samples radlabels/samples --out benchmarks/labeler_radlabels.csv
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

from dataset_builder.findings import ABSENT, CHEXPERT_LABELS, KINDS, PRESENT, UNCERTAIN
from dataset_builder.reports.labeler import report_labels
from dataset_builder.reports.sections import read_sections

VALUES = {"definitely present": PRESENT, "uncertain": UNCERTAIN, "definitely absent": ABSENT}
STATES = {
    "present": {PRESENT},
    "absent": {ABSENT},
    "uncertain": {UNCERTAIN},
    "present or uncertain": {PRESENT, UNCERTAIN},
}
CHEXPERT = {
    "Enlarged Cardiomediastinum": ("enlarged_cardiomediastinum",),
    "Cardiomegaly": ("cardiomegaly",),
    "Lung Opacity": ("lung_opacity", "air_space_opacity", "ground_glass_opacity", "infiltration"),
    "Lung Lesion": ("lung_lesion", "lung_nodule_or_mass"),
    "Edema": ("pulmonary_edema", "pulmonary_congestion_pulmonary_venous_congestion"),
    "Consolidation": ("consolidation",),
    "Pneumonia": ("pneumonia",),
    "Atelectasis": ("atelectasis", "lobar_segmental_collapse", "whole_lung_or_majority_collapse"),
    "Pneumothorax": ("pneumothorax",),
    "Pleural Effusion": ("pleural_effusion",),
    "Pleural Other": ("pleural_other", "pleural_thickening"),
    "Fracture": ("fracture_generic", "acute_rib_fracture", "non_acute_rib_fracture"),
    "Support Devices": (
        "central_venous_catheter",
        "endotracheal_tube",
        "enteric_tube",
        "implantable_electronic_device",
        "intercostal_drain",
        "pacemaker_electronic_cardiac_device_or_wires",
        "support_devices_generic",
        "tracheostomy_tube",
    ),
}
RANK = {PRESENT: 3, UNCERTAIN: 2, ABSENT: 1, None: 0}
BROADER = {names[0]: names[1:] for names in KINDS.values() if len(names) > 1}


def reference_labels(shipped: dict[str, str]) -> dict[str, int | None]:
    """The 13 labels that the shipped findings amount to."""
    labels = {}
    for name, keys in CHEXPERT.items():
        values = [VALUES[shipped[key]] for key in keys if key in shipped]
        labels[name] = max(values, key=RANK.get, default=None)
    for name, (broader, *_) in BROADER.items():
        if labels[name] in (PRESENT, UNCERTAIN):
            labels[broader] = max(labels[broader], labels[name], key=RANK.get)
    return labels


def scores(pairs: list[tuple[bool, bool]]) -> tuple[int, int, float, float, float]:
    """Coded, found, precision, recall and F1 of (found, coded) pairs."""
    found, coded = sum(f for f, _ in pairs), sum(c for _, c in pairs)
    both = sum(f and c for f, c in pairs)
    precision, recall = both / found if found else 0.0, both / coded if coded else 0.0
    return coded, found, precision, recall, 2 * precision * recall / (precision + recall) if both else 0.0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=Path, required=True, help="folder `samples` of the unpacked wheel")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/labeler_radlabels.csv"), help="table to write")
    parser.add_argument(
        "--min-positives", type=int, default=20, help="fewest codes for a label to enter the macro row"
    )
    args = parser.parse_args(argv)

    shipped = json.loads((args.samples / "synthetic_labels.json").read_text(encoding="utf-8"))
    files = {path.stem: path for path in sorted((args.samples / "synthetic_reports").glob("*.txt"))}
    texts = {name: files[name].read_text(encoding="utf-8") for name in sorted(shipped)}
    reference = [reference_labels(shipped[name]) for name in texts]
    rows = []
    for given in ("sections", "report"):
        read = []
        for text in texts.values():
            if given == "sections":
                sections = read_sections(text)
                text = f"{sections.findings}\n\n{sections.impression}"
            read.append(report_labels(text))
        for state, values in STATES.items():
            kept = []
            for name in CHEXPERT_LABELS:
                if name not in CHEXPERT:
                    continue
                row = scores([(a[name] in values, b[name] in values) for a, b in zip(read, reference, strict=True)])
                rows.append([given, state, name, *row])
                if row[0] >= args.min_positives:
                    kept.append(row[2:])
            if kept:
                means = [sum(column) / len(kept) for column in zip(*kept, strict=True)]
                rows.append([given, state, f"macro ({len(kept)} labels)", "", "", *means])
    with open(args.out, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["text", "state", "label", "coded", "found", "precision", "recall", "f1"])
        for row in rows:
            writer.writerow([*row[:5], *(f"{value:.3f}" for value in row[5:])])
            print("  ".join(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row))
    print(f"{len(texts)} reports; wrote {args.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
