"""Writes `results.csv`, the short table of the tab About, from the tables of `docs/results`.

python -m scripts.page_results
"""

from __future__ import annotations

import csv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
PROBES = {"1": "Open-i, 1 % of labels", "10": "Open-i, 10 %", "100": "Open-i, 100 %"}
PROMPTS = {"openi_iu": "Open-i, no labels", "nih_cxr14": "NIH, no labels"}
COLUMNS = [*PROBES.values(), *PROMPTS.values()]


def short(encoder: str) -> str:
    """One name for an encoder in both tables: "ConVIRT on phantoms of the real reports" is "ConVIRT on phantoms"."""
    if encoder.endswith(" untrained"):
        return ""
    name = encoder.replace(" of the real reports", "").replace("the real radiographs and reports", "real radiographs")
    return "ridge on pixels" if name.startswith("ridge on ") else name


def table() -> dict[str, dict[str, tuple[str, str, str]]]:
    """Encoder -> column -> macro AUROC with the ends of its interval, as the result files spell them."""
    cells: dict[str, dict[str, tuple[str, str, str]]] = {}
    with open(RESULTS / "real_input.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["dataset"] == "openi_iu" and row["metric"] == "macro_auroc" and row["seed"] == "mean":
                if row["encoder"]:
                    value = (row["value"], row["ci_low"], row["ci_high"])
                    cells.setdefault(short(row["encoder"]), {})[PROBES[row["budget"]]] = value
    with open(RESULTS / "real_alignment.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["task"] == "zero-shot" and row["metric"] == "macro AUROC" and row["model"] != "chance":
                if short(row["model"]):
                    value = (row["value"], row["ci_low"], row["ci_high"])
                    cells.setdefault(short(row["model"]), {})[PROMPTS[row["dataset"]]] = value
    return cells


def main() -> None:
    with open(ROOT / "spaces_app" / "results.csv", "w", encoding="utf-8", newline="") as file:
        write = csv.writer(file, lineterminator="\n")
        write.writerow(["encoder", "measure", "macro_auroc", "ci_low", "ci_high"])
        for encoder, columns in table().items():
            for name in COLUMNS:
                if name in columns:
                    write.writerow([encoder, name, *(f"{float(number):.4f}" for number in columns[name])])


if __name__ == "__main__":
    main()
