"""Reports in, a synthetic chest-radiograph dataset out: `medsyn build`, and [`build`] for Python."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from dataset_builder.generators.options import add_generator_options, make_generator, unused_option
from dataset_builder.plan import SEED_MODES, SPLIT_SHARES

if TYPE_CHECKING:
    from dataset_builder.generators.radiograph import ImageGenerator
    from dataset_builder.ranks import Rank
    from dataset_builder.reports.record import ReportRecord

TEXT_POLICIES = ("public", "credentialed")


def build(
    records: Iterable[ReportRecord],
    generator: ImageGenerator,
    out: str | Path = "medsyn-cxr",
    *,
    seed: int = 0,
    seed_mode: str = "study",
    num_proc: int = 1,
    image_format: str = "png",
    min_tokens: int = 3,
    limit: int | None = None,
    splits: Sequence[float] = SPLIT_SHARES,
    allow_cross_split_repeats: bool = False,
    text_policy: str | None = None,
    source: dict | None = None,
    rank: Rank | None = None,
) -> dict:
    """
    Builds one config of a dataset folder, or goes on where an interrupted build of it stopped.

    What is rendered waits under `<out>/.build`, so that a kill at any moment costs the time of a few films and nothing
    else. With `num_proc` above 1 the processes are spawned: a script that calls this needs an
    `if __name__ == "__main__":`.

    Args:
        records (`Iterable[ReportRecord]`): The reports. They go through the funnel (`dataset_builder.reports.funnel`).
        generator (`ImageGenerator`): Draws the films; its name is the config's.
        out (`str` or `Path`, *optional*, defaults to `"medsyn-cxr"`): The dataset's folder. A second generator can be
            built into the same one.
        seed (`int`, *optional*, defaults to 0): The base seed.
        seed_mode (`str`, *optional*, defaults to `"study"`): `study`, `prompt` or `fixed`; see
            [`~dataset_builder.plan.image_seed`].
        num_proc (`int`, *optional*, defaults to 1): Rendering processes of one thread each. No image depends on it.
        image_format (`str`, *optional*, defaults to `"png"`): `png`, or `jpeg` (quality 95).
        min_tokens (`int`, *optional*, defaults to 3): The fewest words of an impression.
        limit (`int`, *optional*): Take the first so many reports that pass the funnel.
        splits (`Sequence[float]`, *optional*, defaults to `(0.8, 0.1, 0.1)`): Shares of train, validation and test
            among the subjects whose split the reports do not fix.
        allow_cross_split_repeats (`bool`, *optional*, defaults to `False`): Accept equal images in two splits.
        text_policy (`str`, *optional*): `public` or `credentialed`: who may read the text. By default public for
            reports of the grammar and credentialed for all others.
        source (`dict`, *optional*): How the records came about, as JSON, for the manifest.
        rank (`~dataset_builder.ranks.Rank`, *optional*): Which process of a launch this is: each renders its share and
            rank 0 writes the dataset. By default the only one.

    Returns:
        `dict`: The manifest, as in `<out>/manifest.json`; on the other ranks as it is when their share is made.

    Raises:
        ValueError: A bad setting or report, a folder of something else, a build under other settings, or images that
            stand in two splits.
        BlockingIOError: Another build is at work in the folder.
        DiskFullError: The disk is full; what is made is kept.
        ChildProcessError: A rendering process or another rank was killed; what is made is kept.
        GenerationError: The generator cannot make an image; what is made is kept.
    """
    from tqdm import tqdm

    from dataset_builder.assemble import assemble
    from hub_medsyn.dataset_card import write_card
    from dataset_builder.films import DiskFullError, FilmParts, remove_unfinished
    from dataset_builder.folder import (
        SETTINGS,
        WORK,
        await_begin,
        begin_or_resume,
        is_built,
        only_build,
        refuse_foreign,
        refuse_other_settings,
    )
    from dataset_builder.manifest import MANIFEST, add_config, describe, package_versions, read_manifest, write_json
    from dataset_builder.plan import make_plan, refuse_repeats
    from dataset_builder.ranks import Rank, at_work
    from dataset_builder.reports.funnel import Funnel
    from dataset_builder.rows import IMAGE_FORMATS

    out = Path(out)
    started = time.perf_counter()
    if image_format not in IMAGE_FORMATS:
        raise ValueError(f"image format {image_format!r} is not one of {', '.join(IMAGE_FORMATS)}")
    if text_policy not in (None, *TEXT_POLICIES):
        raise ValueError(f"text policy {text_policy!r} is not one of {', '.join(TEXT_POLICIES)}")
    for name, value in (("num_proc", num_proc), ("limit", limit)):
        if value is not None and value < 1:
            raise ValueError(f"{name} {value} is below 1")
    refuse_foreign(out)

    funnel = Funnel(min_tokens=min_tokens)
    kept = list(tqdm(islice(funnel(records), limit), desc="reading reports", unit="report", delay=2))
    plan = make_plan(kept, generator, seed, seed_mode, splits, allow_cross_split_repeats)
    if text_policy is None:
        text_policy = "public" if all(record.source == "grammar" for record in kept) else "credentialed"
    settings = {
        "generator": {"name": generator.name, "batch_size": generator.batch_size} | generator.settings(),
        "localizes": generator.localizes,
        "seed": seed,
        "seed_mode": seed_mode,
        "image_format": image_format,
        "min_tokens": min_tokens,
        "limit": limit,
        "splits": list(splits),
        "text_policy": text_policy,
        "source": source,
        "reports_sha256": plan.digest(),
    }
    settings = json.loads(json.dumps(settings))  # tuples become lists, as they come back from a file
    rank = rank or Rank()
    parts = FilmParts(out / WORK / generator.name, plan.films, generator, image_format)
    versions = package_versions()
    state = {"settings": settings, "versions": versions, "films_per_part": parts.size}
    if rank.index > 0:
        await_begin(out, generator.name, state)
        if any(map(rank.owns, parts.missing())) and not is_built(out, generator.name):
            with at_work(rank, parts.folder):
                parts.render(num_proc, rank)
        return read_manifest(out)

    with only_build(out):
        for each in (out, out / "assets"):
            remove_unfinished(each)
        work, data = parts.folder, out / "data" / generator.name
        manifest = read_manifest(out)
        if generator.name in manifest["configs"] and not data.exists():  # deleted, to be built anew
            del manifest["configs"][generator.name]
            write_json(out / MANIFEST, manifest)
        if generator.name in manifest["configs"]:
            there = manifest["configs"][generator.name]["settings"]
            refuse_other_settings(data, there, settings, f"delete {data}")
            shutil.rmtree(work, ignore_errors=True)  # a kill between the manifest and this line
            return manifest
        if data.exists() and not (work / SETTINGS).exists():
            raise ValueError(f"{data} is there but no build of ours made it; choose another --out or remove it")

        try:
            begin_or_resume(work, state)
            parts.render(num_proc, rank)
            image_hashes = parts.column("sha256")
            if not allow_cross_split_repeats:
                refuse_repeats(plan, image_hashes)
            if not data.exists():
                assemble(plan, parts, work / "shards", data)
            render_seconds = parts.seconds()
            entry = {
                "settings": settings,
                "reports": funnel.summary()
                | {
                    "sources": sorted({record.source for record in kept}),
                    "prompts_over_text_limit": generator.overlong(
                        [plan.films[row.film].condition for row in plan.rows]
                    ),
                },
                **describe(plan, data, image_hashes),
                "made_with": dict(Counter(how for how in parts.column("made_with") if how).most_common()),
                "timing": {
                    "render_seconds": round(render_seconds, 3),
                    "images_per_second_per_process": round(len(plan.films) / max(render_seconds, 1e-9), 2),
                    "num_proc": num_proc,
                    "num_ranks": rank.count,
                    "last_run_seconds": round(time.perf_counter() - started, 3),
                },
                "versions": versions,
            }
            manifest = add_config(manifest, generator.name, entry)
            write_card(out, manifest)
            write_json(out / MANIFEST, manifest)
        except DiskFullError as error:
            done = sum(len(parts.part_films(part)) for part in set(range(parts.count)) - set(parts.missing()))
            raise DiskFullError(
                f"{error}; {done} of {len(plan.films)} images are kept in {work}: free some space and run the same "
                "command again"
            ) from None
        shutil.rmtree(work)
    return manifest


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medsyn build",
        description="Draw a chest radiograph for every report and write a dataset that `load_dataset` reads. The same "
        "command goes on where an interrupted build stopped.",
    )
    reports = parser.add_argument_group("reports: a folder, a table, or the grammar")
    which = reports.add_mutually_exclusive_group(required=True)
    which.add_argument("--reports", metavar="PATH", help="MIMIC-CXR, Open-i, or a table (.csv, .jsonl or .parquet)")
    which.add_argument("--num-samples", type=int, metavar="N", help="let the grammar write N reports")
    columns = {
        "impression": "holds the text to draw from (default: impression)",
        "findings": "holds the findings (default: findings, which may be missing)",
        "study": "holds unique ids (default: study_id, uid, id or image_id, or the row's number)",
        "subject": "holds the patient's id (default: subject_id or patient_id, or the study's id)",
        "split": "holds train, validation or test (default: split by a hash of the subject)",
        "view": "holds the view, PA or AP",
        "report": "holds the whole report",
    }
    for name, what in columns.items():
        reports.add_argument(f"--{name}-column", metavar="NAME", help=f"the table's column that {what}")
    reports.add_argument(
        "--per", choices=["study", "image"], help="MIMIC-CXR: a row a study (default), or a row a frontal image"
    )
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
        help="who may read the text (default: public for the grammar's reports, credentialed for a table's)",
    )
    images = parser.add_argument_group("images")
    add_generator_options(images, parser.add_argument_group("diffusion: with any --generator but the phantom"))
    images.add_argument("--image-format", choices=["png", "jpeg"], default="png", help="default: png")
    images.add_argument("--seed", type=int, default=0, help="base seed of reports and images (default: 0)")
    images.add_argument(
        "--seed-mode",
        choices=SEED_MODES,
        default="study",
        help="what an image's seed depends on: study (each its own; default), prompt (equal texts share a film), "
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
    return parser


def read_records(args: argparse.Namespace) -> tuple[Iterable[ReportRecord], dict]:
    """The reports that the options name, and what the manifest says of them."""
    if args.num_samples is not None:
        from dataset_builder.reports.grammar import write_reports

        if args.num_samples < 1:
            raise ValueError(f"--num-samples {args.num_samples} is below 1")
        return write_reports(args.num_samples, seed=args.seed), {"num_samples": args.num_samples}
    from dataset_builder.reports.sources import MIMIC_CXR, open_reports

    names = ("impression", "findings", "study", "subject", "split", "view", "report")
    given = {f"{name}_column": getattr(args, f"{name}_column") for name in names}
    columns = {name: column for name, column in given.items() if column is not None}
    records, source = open_reports(args.reports, per=args.per, any_view=args.any_view, columns=columns)
    if source.get("format") == MIMIC_CXR and args.text_policy == "public":
        raise ValueError("the reports of MIMIC-CXR are credentialed; leave --text-policy public out")
    return records, source


def summary(out: Path, entry: dict) -> str:
    """What a build made, left out and where it lies, for a person to read."""
    from dataset_builder.reports.sources import describe_source

    rows = {split: counts["num_examples"] for split, counts in entry["splits"].items()}
    lines = [f"{sum(rows.values()):,} rows: " + ", ".join(f"{split} {count:,}" for split, count in rows.items())]
    lines += describe_source(entry["settings"]["source"] or {}, entry["reports"]["counts"])
    for reason, skipped in entry["reports"]["skipped"].items():
        if skipped["count"]:
            more = ", ..." if skipped["count"] > len(skipped["study_ids"]) else ""
            ids = ", ".join(skipped["study_ids"])
            lines.append(f"skipped {skipped['count']:,} ({reason.replace('_', ' ')}): {ids}{more}")
    overlong = entry["reports"]["prompts_over_text_limit"]
    if overlong:
        lines.append(f"{overlong:,} impressions are longer than the generator reads: it did not see their end")
    if len(entry["made_with"]) > 1:
        ways = ", ".join(f"{count:,} in a {how}" for how, count in entry["made_with"].items())
        lines.append(f"images were not all made alike, which shows in their last bits: {ways}")
    repeats = entry["images"]["repeated_across_splits"]
    if repeats["images"]:
        lines.append(f"{repeats['images']:,} images stand in more than one split ({repeats['rows']:,} rows)")
    if entry["occult_findings"]:
        occult = ", ".join(f"{finding} {count:,}" for finding, count in entry["occult_findings"].items())
        lines.append(f"too faint to be seen or not drawn, so not labelled present: {occult}")
    policy = entry["settings"]["text_policy"]
    public = policy == "public" or (entry["settings"]["source"] or {}).get("format") == "mimic-cxr"
    hint = "" if public else " (build with --text-policy public if anyone may read these reports)"
    lines.append(f"text policy: {policy}{hint}")
    lines.append(f"in {out}: README.md, manifest.json, data/{entry['settings']['generator']['name']}/")
    out = out.resolve()  # "." has no name
    where = "" if out.parent == Path.cwd() else f"   # in {out.parent}"
    lines.append(f'next: load_dataset("{out.name}"){where}')
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.reports is None:
        given = [name for name, value in vars(args).items() if name.endswith("_column") and value is not None]
        if given:
            parser.error(f"--{given[0].replace('_', '-')} names a column of a table; give it together with --reports")
        if args.per or args.any_view:
            parser.error(f"{'--per' if args.per else '--any-view'} is for MIMIC-CXR; give it together with --reports")
    if option := unused_option(args):
        parser.error(f"{option} is for diffusion pipelines; name one with --generator")
    out = Path(args.out)
    from dataset_builder.generators.radiograph import GenerationError
    from dataset_builder.manifest import read_manifest
    from dataset_builder.ranks import Rank

    try:
        rank = Rank.of_launch()
        records, source = read_records(args)
        generator = make_generator(args)
        default_proc = 2 if args.generator == "phantom" else 1
        num_proc = default_proc if args.num_proc is None else args.num_proc
        complete = generator.name in read_manifest(out)["configs"]
        manifest = build(
            records,
            generator,
            out,
            seed=args.seed,
            seed_mode=args.seed_mode,
            num_proc=num_proc,
            image_format=args.image_format,
            min_tokens=args.min_tokens,
            limit=args.limit,
            splits=args.splits,
            allow_cross_split_repeats=args.allow_cross_split_repeats,
            text_policy=args.text_policy,
            source=source,
            rank=rank,
        )
    except (ValueError, OSError, GenerationError) as error:
        print(f"medsyn build: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"medsyn build: interrupted; what is made is kept in {out}, run the same command again", file=sys.stderr)
        return 1
    if rank.index > 0:
        return 0
    if complete:
        print(f"{out} is already complete")
    print(summary(out, manifest["configs"][generator.name]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
