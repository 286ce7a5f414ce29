"""The options of `medsyn build`, those that name reports, and what is said at the end of a build."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from dataset_builder.generators.options import add_generator_options
from dataset_builder.pipeline.plan import SEED_MODES, SPLIT_SHARES
from medsyn.errors import add_debug_option
from medsyn.schema import SECRET, TEXT_POLICIES
from medsyn.texts import vetted

COLUMNS = {
    "impression": "holds the text to draw from (default: impression)",
    "findings": "holds the findings (default: findings, which may be missing)",
    "study": "holds unique ids (default: study_id, uid, id or image_id, or the row's number)",
    "subject": "holds the patient's id (default: subject_id or patient_id, or the study's id)",
    "split": "holds train, validation or test (default: split by a hash of the subject)",
    "view": "holds the view, PA or AP",
    "report": "holds the whole report",
}


def seed_option(text: str) -> int | str:
    """A whole number, or `secret`."""
    if text == SECRET:
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor the word secret") from None


def add_report_options(group: argparse._ArgumentGroup, columns: Iterable[str]) -> None:
    """Adds the options that say how to read a table, by keys of `COLUMNS`, and what is a row of MIMIC-CXR."""
    for name in columns:
        group.add_argument(f"--{name}-column", metavar="NAME", help=f"the table's column that {COLUMNS[name]}")
    group.add_argument(
        "--per", choices=["study", "image"], help="MIMIC-CXR: a row a study (default), or a row a frontal image"
    )


def report_columns(args: argparse.Namespace) -> dict[str, str]:
    """The columns that were named, as arguments of [`~dataset_builder.reports.table.read_table`]."""
    return {name: value for name, value in vars(args).items() if name.endswith("_column") and value is not None}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medsyn build",
        description="Draw a chest radiograph for every report and write a dataset that `load_dataset` reads. The same "
        "command resumes an interrupted build.",
    )
    reports = parser.add_argument_group("reports: a folder, a table, or the grammar")
    which = reports.add_mutually_exclusive_group(required=True)
    which.add_argument("--reports", metavar="PATH", help="MIMIC-CXR, Open-i, or a table (.csv, .jsonl or .parquet)")
    which.add_argument("--num-samples", type=int, metavar="N", help="let the grammar write N reports")
    add_report_options(reports, COLUMNS)
    reports.add_argument(
        "--any-view", action="store_true", help="MIMIC-CXR: keep studies without a frontal image (reads no metadata)"
    )
    reports.add_argument(
        "--min-tokens", type=int, default=3, metavar="N", help="fewest words of an impression (default: 3)"
    )
    reports.add_argument("--limit", type=int, metavar="N", help="take the first N reports that are fit for use")
    reports.add_argument(
        "--text-policy",
        choices=TEXT_POLICIES,
        help="who may read the reports: public (anyone; published with the images), credentialed (only some; kept "
        "here, or in a private and gated repository), ids-only (only some; images are published without any text). "
        "Default: public for the grammar's reports, credentialed for all others",
    )
    images = parser.add_argument_group("images")
    add_generator_options(images, parser.add_argument_group("diffusion: with any --generator but the phantom"))
    images.add_argument("--image-format", choices=["png", "jpeg"], default="png", help="default: png")
    images.add_argument(
        "--seed",
        type=seed_option,
        metavar="N",
        help="base seed of reports and images (default: 0, or secret under --text-policy ids-only). secret: drawn at "
        "random for the images and kept in manifest.json alone; publishing images without their text asks for it",
    )
    images.add_argument(
        "--seed-mode",
        choices=SEED_MODES,
        default="study",
        help="what an image's seed depends on: study (each its own; default), prompt (equal texts share an image), "
        "fixed (the base seed for all, as in the paper)",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--out", default="medsyn-cxr", metavar="FOLDER", help="default: medsyn-cxr")
    output.add_argument(
        "--num-proc",
        type=int,
        metavar="N",
        help="rendering processes (default: 2 for the phantom, otherwise 1; for several GPUs see docs/diffusion.md)",
    )
    output.add_argument(
        "--splits",
        type=float,
        nargs=3,
        default=list(SPLIT_SHARES),
        metavar=("TRAIN", "VALIDATION", "TEST"),
        help="shares of the subjects (default: 0.8 0.1 0.1)",
    )
    output.add_argument(
        "--allow-cross-split-repeats", action="store_true", help="accept equal images in two splits (they are counted)"
    )
    add_debug_option(parser)
    return parser


def summary(out: Path, entry: dict) -> str:
    """What a build made, left out and where it lies, for a person to read."""
    from dataset_builder.reports.sources import describe_source

    rows = {split: counts["num_examples"] for split, counts in entry["splits"].items()}
    lines = [f"{sum(rows.values()):,} rows: " + ", ".join(f"{split} {count:,}" for split, count in rows.items())]
    lines += describe_source(entry["settings"]["source"] or {}, entry["reports"]["counts"])
    for reason, skipped in entry["reports"]["skipped"].items():
        if skipped["count"]:
            more = ", ..." if skipped["count"] > len(skipped["study_ids"]) else ""
            ids = ", ".join(map(vetted, skipped["study_ids"]))
            lines.append(f"skipped {skipped['count']:,} ({reason.replace('_', ' ')}): {ids}{more}")
    overlong = entry["reports"]["prompts_over_text_limit"]
    if overlong:
        lines.append(f"{overlong:,} impressions are longer than the generator reads: it did not see their end")
    if len(entry["made_with"]) > 1:
        ways = ", ".join(f"{count:,} in a {how}" for how, count in entry["made_with"].items())
        lines.append(f"images were rendered in different ways, so they are not bit-identical: {ways}")
    repeats = entry["images"]["repeated_across_splits"]
    if repeats["images"]:
        lines.append(f"{repeats['images']:,} images appear in more than one split ({repeats['rows']:,} rows)")
    if entry["occult_findings"]:
        occult = ", ".join(f"{finding} {count:,}" for finding, count in entry["occult_findings"].items())
        lines.append(f"too faint to be seen or not drawn, so not labelled present: {occult}")
    lines += describe_policy(entry)
    lines.append(f"in {out}: README.md, manifest.json, data/{entry['settings']['generator']['name']}/")
    out = out.resolve()  # "." has no name
    where = "" if out.parent == Path.cwd() else f"   # in {out.parent}"
    lines.append(f'next: load_dataset("{out.name}"){where}')
    return "\n".join(lines)


def describe_policy(entry: dict) -> list[str]:
    """What the text policy of a config means for publishing it, in lines for a person."""
    settings = entry["settings"]
    if settings["text_policy"] == "public":
        return ["text policy: public (anyone may read these reports; they are published with the images)"]
    rows = sum(split["num_examples"] for split in entry["splits"].values())
    hashed = f"{entry['report_hashes']:,} of {rows:,} rows have a hash that verifies a report joined back to its image"
    if settings["text_policy"] == "ids-only":
        return [
            "text policy: ids-only (`medsyn publish` leaves all text out)",
            f"  manifest.json holds the secret seed: keep it here. {hashed}",
        ]
    lines = [
        "text policy: credentialed",
        "  with its text, this dataset may only go to a private and gated repository, or stay here",
    ]
    if settings["seed"] == SECRET and settings["seed_mode"] == "study":
        lines.append(f"  `medsyn publish --text-policy ids-only` leaves the text out. {hashed}")
    else:
        lines.append("  to publish the images without their text, build with --text-policy ids-only, or --seed secret")
    if (settings["source"] or {}).get("format") != "mimic-cxr":
        lines.append("  if anyone may read these reports, build with --text-policy public")
    return lines
