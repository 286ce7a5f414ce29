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

from dataset_builder.generators.options import make_generator, unused_option
from dataset_builder.pipeline.options import build_parser, report_columns, summary
from dataset_builder.pipeline.plan import SPLIT_SHARES
from medsyn.errors import DiskFullError, UserError, command
from medsyn.files import remove_unfinished, write_json
from medsyn.schema import MANIFEST, SECRET, TEXT_POLICIES, read_manifest

if TYPE_CHECKING:
    from dataset_builder.generators.radiograph import ImageGenerator
    from dataset_builder.pipeline.executors import Rank
    from dataset_builder.reports.record import ReportRecord


def build(
    records: Iterable[ReportRecord],
    generator: ImageGenerator,
    out: str | Path = "medsyn-cxr",
    *,
    seed: int | str | None = None,
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
    Builds one config of a dataset folder, or resumes an interrupted build of it.

    What is rendered waits under `<out>/.build`, so that a kill at any moment costs the time of a few images and
    nothing else. With `num_proc` above 1 the processes are spawned: a script that calls this needs an
    `if __name__ == "__main__":`.

    Args:
        records (`Iterable[ReportRecord]`): The reports. They go through the funnel (`dataset_builder.reports.funnel`).
        generator (`ImageGenerator`): Draws the images; its name is the config's.
        out (`str` or `Path`, *optional*, defaults to `"medsyn-cxr"`): The dataset's folder. A second generator can be
            built into the same one.
        seed (`int` or `str`, *optional*): The base seed; `"secret"` draws one that nobody can guess and that stands in
            the local manifest alone, where resuming finds it. By default 0, and secret under the policy `ids-only`.
        seed_mode (`str`, *optional*, defaults to `"study"`): `study`, `prompt` or `fixed`; see
            [`~dataset_builder.pipeline.plan.image_seed`].
        num_proc (`int`, *optional*, defaults to 1): Rendering processes of one thread each. No image depends on it.
        image_format (`str`, *optional*, defaults to `"png"`): `png`, or `jpeg` (quality 95).
        min_tokens (`int`, *optional*, defaults to 3): The fewest words of an impression.
        limit (`int`, *optional*): Take the first so many reports that pass the funnel.
        splits (`Sequence[float]`, *optional*, defaults to `(0.8, 0.1, 0.1)`): Shares of train, validation and test
            among the subjects whose split the reports do not fix.
        allow_cross_split_repeats (`bool`, *optional*, defaults to `False`): Accept equal images in two splits.
        text_policy (`str`, *optional*): Who may read the text, and what `medsyn publish` does with it: `public`,
            `credentialed` or `ids-only` (see `hub_medsyn/policy/verdict.py`). By default public for reports of the
            grammar and credentialed for all others. All but public put the rows in the order of hashed ids.
        source (`dict`, *optional*): How the records came about, as JSON, for the manifest.
        rank (`~dataset_builder.pipeline.executors.Rank`, *optional*): Which process of a launch this is: each renders
            its share and rank 0 writes the dataset. By default the only one.

    Returns:
        `dict`: The manifest, as in `<out>/manifest.json`; on the other ranks as it is when their share is made.

    Raises:
        UserError: A bad setting or report, a folder of something else, a build under other settings, or images that
            stand in two splits.
        BlockingIOError: Another build is at work in the folder.
        DiskFullError: The disk is full; finished parts are kept.
        ChildProcessError: A rendering process or another rank was killed; finished parts are kept.
        GenerationError: The generator cannot make an image; finished parts are kept.
    """
    from tqdm import tqdm

    from dataset_builder.pipeline.executors import Rank, at_work
    from dataset_builder.pipeline.manifest import add_config, describe, package_versions
    from dataset_builder.pipeline.plan import default_policy, make_plan, refuse_repeats
    from dataset_builder.pipeline.render import ImageParts
    from dataset_builder.pipeline.rows import IMAGE_FORMATS
    from dataset_builder.pipeline.shards import assemble
    from dataset_builder.pipeline.workspace import (
        SECRET_SEED,
        SETTINGS,
        WORK,
        await_begin,
        begin_or_resume,
        is_built,
        only_build,
        refuse_foreign,
        refuse_other_settings,
        secret_seed,
    )
    from dataset_builder.reports.funnel import Funnel
    from hub_medsyn.cards.dataset import write_card

    out = Path(out)
    started = time.perf_counter()
    if image_format not in IMAGE_FORMATS:
        raise UserError(f"image format {image_format!r} is not one of {', '.join(IMAGE_FORMATS)}")
    if text_policy not in (None, *TEXT_POLICIES):
        raise UserError(f"text policy {text_policy!r} is not one of {', '.join(TEXT_POLICIES)}")
    if text_policy == "ids-only" and (seed not in (None, SECRET) or seed_mode != "study"):
        given = f"seed_mode {seed_mode!r}" if seed in (None, SECRET) else f"seed {seed}"
        raise UserError(
            f"text policy 'ids-only' and {given} do not go together: images could be drawn again from every likely "
            "impression and compared; leave the seed out (one is drawn in secret), and seed_mode at 'study'"
        )
    for name, value in (("num_proc", num_proc), ("limit", limit)):
        if value is not None and value < 1:
            raise UserError(f"{name} {value} is below 1")
    refuse_foreign(out)

    funnel = Funnel(min_tokens=min_tokens)
    kept = list(tqdm(islice(funnel(records), limit), desc="reading reports", unit="report", delay=2))
    text_policy = text_policy or default_policy(kept)
    rank = rank or Rank()
    if seed is None:
        seed = SECRET if text_policy == "ids-only" else 0
    base_seed = secret_seed(out, generator.name, rank) if seed == SECRET else seed
    order_by_id = text_policy != "public"
    plan = make_plan(kept, generator, base_seed, seed_mode, splits, allow_cross_split_repeats, order_by_id)
    settings = {
        "generator": {"name": generator.name, "batch_size": generator.batch_size} | generator.settings(),
        "localizes": generator.localizes,
        "seed": seed,
        **({SECRET_SEED: base_seed} if seed == SECRET else {}),
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
    parts = ImageParts(out / WORK / generator.name, plan.images, generator, image_format)
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
            built = manifest["configs"][generator.name]["settings"]
            refuse_other_settings(data, built, settings, f"delete {data}")
            shutil.rmtree(work, ignore_errors=True)  # a kill between the manifest and this line
            return manifest
        if data.exists() and not (work / SETTINGS).exists():
            raise UserError(f"{data} is there but no build of ours made it; choose another --out or remove it")

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
                        [plan.images[row.image].condition for row in plan.rows]
                    ),
                },
                **describe(plan, data, image_hashes),
                "made_with": dict(Counter(how for how in parts.column("made_with") if how).most_common()),
                "timing": {
                    "render_seconds": round(render_seconds, 3),
                    "images_per_second_per_process": round(len(plan.images) / max(render_seconds, 1e-9), 2),
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
            done = sum(len(parts.part_images(part)) for part in set(range(parts.count)) - set(parts.missing()))
            raise DiskFullError(
                f"{error}; {done} of {len(plan.images)} images are kept in {work}: free some space and run the same "
                "command again"
            ) from None
        shutil.rmtree(work)
    return manifest


def read_records(args: argparse.Namespace) -> tuple[Iterable[ReportRecord], dict]:
    """The reports that the options name, and what the manifest says of them."""
    if args.num_samples is not None:
        from dataset_builder.reports.grammar import write_reports

        if args.num_samples < 1:
            raise UserError(f"--num-samples {args.num_samples} is below 1")
        seed = args.seed if isinstance(args.seed, int) else 0
        return write_reports(args.num_samples, seed=seed), {"num_samples": args.num_samples}
    from dataset_builder.reports.sources import MIMIC_CXR, open_reports

    columns = report_columns(args)
    records, source = open_reports(args.reports, per=args.per, any_view=args.any_view, columns=columns)
    if source.get("format") == MIMIC_CXR and args.text_policy == "public":
        raise UserError(
            "the reports of MIMIC-CXR are credentialed; leave --text-policy public out, or take ids-only to publish "
            "the images without their text"
        )
    return records, source


@command("medsyn build", interrupted="finished parts are kept, run the same command again")
def main(argv: list[str] | None = None) -> int:
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.reports is None:
        if given := list(report_columns(args)):
            parser.error(f"--{given[0].replace('_', '-')} names a column of a table; give it together with --reports")
        if args.per or args.any_view:
            parser.error(f"{'--per' if args.per else '--any-view'} is for MIMIC-CXR; give it together with --reports")
    if option := unused_option(args):
        parser.error(f"{option} is for diffusion pipelines; name one with --generator")
    out = Path(args.out)
    from dataset_builder.pipeline.executors import Rank

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
    if rank.index > 0:
        return 0
    if complete:
        print(f"{out} is already complete")
    print(summary(out, manifest["configs"][generator.name]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
