"""Counts how many cut section headers are recognised, and how many lines of prose are taken for headers.

Every known name is cut at every place, at either end, down to four letters, and put into a made report. A cut header
counts as recognised where the report reads as with the whole header. `unambiguous` leaves out cuts that names of
another meaning share (ATION) and those that leave another whole name or a word of one (FINAL). Prose is what the
grammar writes, wrapped at many widths, in sentence case and in capitals, and `PROSE`. The table holds numbers only.

    python benchmarks/section_headers.py --out benchmarks/section_headers.csv
"""

from __future__ import annotations

import argparse
import csv
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from dataset_builder.reports.grammar import write_reports
from dataset_builder.reports.headers import NAMES
from dataset_builder.reports.sections import Sections, read_sections

# Form -> fewest letters that must be left, and how the header is written.
FORMS = {
    "IMPRES: text": (4, lambda name: f"{name}: "),
    "IMPRES:": (4, lambda name: f"{name}:\n\n "),
    "IMPRES :: text": (4, lambda name: f"{name} :: "),
    "IMPRES": (5, lambda name: f"{name}\n\n "),
    "IMPRES text": (6, lambda name: f"{name}  "),
    "Impres: text": (5, lambda name: f"{name.capitalize()}: "),
    "impres: text": (5, lambda name: f"{name.lower()}: "),
    "I M P R E S: text": (5, lambda name: f"{' '.join(name)}: "),
}
SLIPS = {  # one letter of a name of seven letters or more
    "missing": lambda name, i: name[:i] + name[i + 1 :],
    "wrong": lambda name, i: f"{name[:i]}X{name[i + 1 :]}",
    "doubled": lambda name, i: name[: i + 1] + name[i:],
    "swapped": lambda name, i: name[:i] + name[i : i + 2][::-1] + name[i + 2 :],
}
ALIKE = str.maketrans("IOSB", "1058")  # what character recognition makes of letters
# Where the header stands, and what stands around it.
BEFORE = "EXAM: CHEST\n\n HISTORY: Dyspnea.\n\n {}The heart is large.\n\n COMPARISON: None.\n"
AFTER = "FINDINGS: Large heart.\n\n IMPRESSION: Normal lungs.\n\n {}The cough is old.\n"
# Lines that begin, or hold, words like headers and head nothing.
PROSE = (
    "The findings: edema, effusion and a small nodule.",
    "Findings of edema remain.",
    "Findings consistent with pneumonia.",
    "History of asthma and of smoking.",
    "history of: asthma, smoking",
    "Comparison is made with the study of May.",
    "Comparison with prior images shows no change.",
    "comparison is made: no change",
    "Indication for the tube is unclear.",
    "Impression of the aortic knob on the trachea.",
    "Impressions upon the esophagus are seen.",
    "Technique limits the study: low volumes.",
    "This study: no change.",
    "This exam: edema.",
    "Conclusions cannot be drawn.",
    "Right: small effusion. Left: none.",
    "RIGHT: small effusion.",
    "LEFT LUNG: clear.",
    "Lungs: Clear.",
    "LUNGS: Clear.",
    "Heart: Normal in size.",
    "HEART: Normal in size.",
    "Bones: Intact.",
    "PLEURA: no effusion.",
    "MEDIASTINUM: midline.",
    "Support devices: unchanged.",
    "LINES AND TUBES: unchanged.",
    "Port: tip in the right atrium.",
    "PORT: tip in the right atrium.",
    "PORT-A-CATH: tip in the right atrium.",
    "Station: 4R lymph nodes calcified.",
    "STATION: 4R lymph nodes calcified.",
    "Medications: furosemide: 40 mg, aspirin: 100 mg.",
    "aspirin: 100 mg daily; heparin: 5000 units",
    "MEDICATION: furosemide 40 mg.",
    "10:30 the patient was told.",
    "At 10:30 AM: seen again.",
    "TIME: 10:30 PM seen again.",
    "CHF: improved.",
    "COPD: stable.",
    "EFFUSION: small, right.",
    "COMPRESSION: of T8, old.",
    "DEPRESSION: of the left diaphragm.",
    "Expression: none.",
    "OCCLUSION: none seen.",
    "INCLUSION: of the upper abdomen.",
    "CONCUSSION: not assessed.",
    "POSITION: unchanged.",
    "LOCATION: right apex.",
    "CALCIFICATION: aortic arch.",
    "CONSOLIDATION: none.",
    "INFLATION: low.",
    "ASPIRATION: possible.",
    "VENTILATION: mechanical.",
    "INTERPRETATION: limited.",
    "ATTENTION: to the left base.",
    "CONTENT: of the stomach, fluid.",
    "WINDING: of the aorta.",
    "Story: told before.",
    "Ending: in the stomach, the tube is too deep.",
    "Recommend: a CT of the chest.",
    "RECOMMEND: a CT of the chest.",
    "Overall: no change.",
    "OVERALL: no change.",
    "Final: no change.",
    "Preliminary: no change.",
    "CRITICAL: pneumothorax.",
    "CONDITION: stable.",
    "Reference: guidelines for nodules.",
    "Under: exposed film.",
    "Over: the left base is an opacity.",
    "Sign: of edema.",
    "SIGN: silhouette.",
    "Text: burnt in.",
    "sion: this wraps",
    "tion: this wraps",
)


def cut_headers() -> Iterator[tuple[str, str, str]]:
    """(Meaning, name, what is left) of every cut."""
    for meaning, names in NAMES.items():
        for name in names:
            for lost in range(1, len(name)):
                for left in (name[lost:].strip(" ()"), name[:-lost].strip(" ()")):
                    yield meaning, name, left


def ambiguous(meaning: str, left: str) -> bool:
    """Whether another meaning has as good a claim to what is left, or it is a whole name or word."""
    for other, names in NAMES.items():
        for name in names:
            if left == name or left in name.split():
                return True
            if other != meaning and (name.startswith(left) or name.endswith(left)):
                return True
    return False


def read_alike(write: Callable[[str], str], name: str, left: str) -> bool:
    """Whether reports with the cut header read as those with the whole one, before and after the impression."""
    for layout in (BEFORE, AFTER):
        whole = read_sections(layout.format(f"{name}: "))
        if _texts(read_sections(layout.format(write(left)))) != _texts(whole):
            return False
    return True


def _texts(sections: Sections) -> tuple[str, str]:
    return " ".join(sections.impression.split()), " ".join(sections.findings.split())


def prose_lines(reports: int = 200) -> Iterator[str]:
    """Lines of prose, as they may stand at the start of a line."""
    yield from PROSE
    for record in write_reports(reports, seed=11):
        for text in (record.findings, record.impression):
            for width in (20, 35, 60):
                for line in textwrap.wrap(text, width):
                    if line.strip(".").upper() not in ("FINDINGS", "FINDING"):  # alone on a line, it is a header
                        yield line
                        yield line.upper()


def is_header(line: str) -> bool:
    """Whether a line amid findings, or amid an impression, is taken for a header."""
    for header in ("FINDINGS", "IMPRESSION"):
        for before in ("Large heart.\n\n", "Large heart.\n", "Large heart and\n"):
            sections = read_sections(f"{header}: {before} {line}\n as before.\n")
            got = sections.findings if header == "FINDINGS" else sections.impression
            if " ".join(got.split()) != " ".join(f"{before} {line} as before.".split()):
                return True
    return False


def measure() -> list[tuple[str, str, int, int]]:
    """(Form, which, how many, how many recognised), then the lines of prose and those taken for headers."""
    total, right = Counter(), Counter()
    for meaning, name, left in cut_headers():
        whiches = ("all cuts",) if ambiguous(meaning, left) else ("all cuts", "unambiguous")
        for form, (fewest, write) in FORMS.items():
            if len(re.sub(r"[^A-Z]", "", left)) >= fewest:
                total.update((form, which) for which in whiches)
                right.update((form, which) for which in whiches if read_alike(write, name, left))
    for name in {name for names in NAMES.values() for name in names if len(name.replace(" ", "")) > 6}:
        slips = [(slip, change(name, i)) for slip, change in SLIPS.items() for i in range(len(name)) if name[i] != " "]
        for slip, spelt in [*slips, ("read as digits", name.translate(ALIKE))]:
            total[slip, "one letter"] += 1
            right[slip, "one letter"] += read_alike(FORMS["IMPRES: text"][1], name, spelt)
    rows = [(*key, total[key], right[key]) for key in total]
    lines = set(prose_lines())
    return [*rows, ("prose", "lines", len(lines), sum(is_header(line) for line in lines))]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/section_headers.csv"), help="table to write")
    args = parser.parse_args(argv)
    with open(args.out, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["form", "which", "count", "recognised", "share"])
        for form, which, count, found in measure():
            writer.writerow([form, which, count, found, f"{found / count:.3f}"])
            print(f"{form:15} {which:12} {found} of {count}: {found / count:.3f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
