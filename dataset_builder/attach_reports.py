"""Joins reports to a dataset that was published without its text: `medsyn attach-reports`, and [`attach_reports`].

Studies are matched by id, and `report_hash`, which the whole report keys, proves that a report is the one its image
was drawn from. A report whose hash differs is never attached. No message holds text of a report.

```python
from dataset_builder.attach_reports import attach_reports

dataset, result = attach_reports("<org>/medsyn-cxr", "/data/mimic-cxr")
result.attached, result.missing, result.differing, result.unverified
```
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from dataset_builder.pipeline.options import add_report_options, report_columns
from dataset_builder.pipeline.report_join import (
    NEEDED,
    AttachResult,
    StudyText,
    check_columns,
    in_order,
    join_text,
    read_texts,
    text_values,
)
from medsyn.errors import UserError, add_debug_option, command, reading
from medsyn.files import folder_or_hub_id, only_writer

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


def attach_reports(
    dataset: Dataset | DatasetDict | str,
    reports: str | Path,
    *,
    per: str | None = None,
    any_view: bool | None = None,
    columns: dict[str, str] | None = None,
) -> tuple[Dataset | DatasetDict, AttachResult]:
    """
    Joins reports to a dataset of the policy `ids-only`.

    Args:
        dataset (`Dataset`, `DatasetDict` or `str`): The dataset, or its folder or id on the Hub.
        reports (`str` or `Path`): MIMIC-CXR (its folder or zip), Open-i, or a table.
        per (`str`, *optional*): Of MIMIC-CXR alone: `study` (the default) or `image`, as the dataset was built.
        any_view (`bool`, *optional*): See [`read_texts`].
        columns (`dict`, *optional*): Columns of a table, as arguments of
            [`~dataset_builder.reports.table.read_table`]. Hashes are verified against `report_column`.

    Returns:
        `tuple`: The dataset with the columns of `TEXT_COLUMNS`, all rows kept and null where there is no text, and
            what became of the rows. `labels` are those of the reports; masks and boxes do not come back.

    Raises:
        UserError: It has no `study_id` or `report_hash`, has text already, or the reports cannot be read.
        FileNotFoundError: No such dataset or reports.
    """
    from datasets import DatasetDict, load_dataset

    from dataset_builder.pipeline.rows import row_features

    name = "the dataset"
    if isinstance(dataset, (str, Path)):
        name = str(dataset)
        with reading(f"the dataset {name}"):
            dataset = load_dataset(folder_or_hub_id(name, "dataset"))
    splits = dataset if isinstance(dataset, DatasetDict) else {"": dataset}
    for split in splits.values():
        check_columns(split.column_names, name)
    wanted = (study for split in splits.values() for study in split["study_id"])
    texts = read_texts(reports, wanted, per=per, any_view=any_view, columns=columns)
    result = AttachResult()
    features = row_features(localizes=False)
    joined = {}
    for key, split in splits.items():
        ids = zip(split["study_id"], split["report_hash"], strict=True)
        for column, values in text_values(result.match(*row, texts) for row in ids).items():
            split = split.add_column(column, values, feature=features[column])
        joined[key] = split.select_columns(in_order(split.column_names))
    return (DatasetDict(joined) if isinstance(dataset, DatasetDict) else joined[""]), result


def attach_to_folder(
    dataset: str,
    out: str | Path,
    reports: str | Path,
    *,
    per: str | None = None,
    columns: dict[str, str] | None = None,
    strict: bool = False,
    keep_all: bool = False,
) -> AttachResult:
    """
    Writes a dataset folder with the reports joined to it, which `load_dataset` and `medsyn pretrain` read; all configs
    without text, and no others.

    All hashes are verified before anything is written. Images go through in row groups: memory grows with the texts
    alone. The folder appears when it is complete.

    Args:
        dataset (`str`): A folder, or an id on the Hub, of the policy `ids-only`.
        out (`str` or `Path`): The folder to write; must be empty or not there.
        reports, per, columns: As in [`attach_reports`].
        strict (`bool`, *optional*, defaults to `False`): Raise unless every row gets its text.
        keep_all (`bool`, *optional*, defaults to `False`): Keep rows without text, with nulls in their text columns.

    Raises:
        UserError: No row can be given its text, some cannot under `strict`, or something cannot be read.
    """
    import pyarrow.parquet as pq

    from hub_medsyn.cards.dataset import write_card
    from medsyn.files import scratch_folder
    from medsyn.schema import read_manifest

    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists already; choose another --out or remove it")
    folder = _folder(dataset)
    manifest = read_manifest(folder)
    configs = {n: entry for n, entry in manifest["configs"].items() if entry["settings"]["text_policy"] == "ids-only"}
    if not configs:
        raise UserError(f"{dataset} has no manifest.json with a config published without its text (ids-only)")
    shards = {name: sorted((folder / "data" / name).glob("*.parquet")) for name in configs}
    wanted: list[tuple[str, str | None]] = []
    for paths in shards.values():
        for path in paths:
            with reading(path):
                check_columns(pq.read_schema(path).names, str(dataset))
                table = pq.read_table(path, columns=list(NEEDED))
            wanted += zip(*(table.column(name).to_pylist() for name in NEEDED), strict=True)
    texts = read_texts(reports, (study for study, _ in wanted), per=per, columns=columns)
    result = AttachResult()
    for study, hashed in wanted:
        result.match(study, hashed, texts)
    if not result.attached or (strict and not result.complete):
        hint = "" if result.attached else f"; {_hint(result, texts, columns or {})}"
        raise UserError(f"{'; '.join(result.lines())}{hint}. Nothing was written")

    out.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(out) as work:
        entries = {
            name: _write_config(entry, shards[name], work / "data" / name, texts, keep_all)
            for name, entry in configs.items()
        }
        entries = {name: entry for name, entry in entries.items() if entry["splits"]}
        _finish(work, out, manifest | {"text_policy": "credentialed", "configs": entries}, write_card)
    return result


def _finish(work: Path, out: Path, manifest: dict, write_card) -> None:
    from medsyn.files import write_json
    from medsyn.schema import MANIFEST

    named = work / out.resolve().name  # the card is headed by the folder's name
    named.mkdir()
    (work / "data").rename(named / "data")
    write_card(named, manifest)
    write_json(named / MANIFEST, manifest)
    if out.exists():
        out.rmdir()
    named.rename(out)


def _write_config(entry: dict, paths: list[Path], data: Path, texts: dict[str, StudyText], keep_all: bool) -> dict:
    """Writes the shards of a config that have rows left, and returns its entry for the manifest."""
    import pyarrow.parquet as pq
    from tqdm import tqdm

    from dataset_builder.pipeline.manifest import count_rows
    from medsyn.parquet import ShardWriter

    data.mkdir(parents=True)
    result = AttachResult()
    images: list[tuple[str, str]] = []  # sha256 of every image, and its split
    written: dict[str, list[Path]] = defaultdict(list)
    with tqdm(total=sum(pq.read_metadata(path).num_rows for path in paths), unit="row", delay=2) as bar:
        for path in paths:
            split = path.name.partition("-")[0]
            with pq.ParquetFile(path) as file, ShardWriter(data / path.name) as writer:
                for number in range(file.num_row_groups):
                    with reading(path):
                        rows = file.read_row_group(number)
                    table = join_text(rows, texts, result, keep_all)
                    bar.update(file.metadata.row_group(number).num_rows)
                    writer.write(table)
                    for image in table.column("image").to_pylist():
                        images.append((hashlib.sha256(image["bytes"]).hexdigest(), split))
            if writer.num_rows:
                written[split].append(data / path.name)
    for split, shards in written.items():
        for number, path in enumerate(shards):  # upwards, so that no shard takes the place of one to come
            path.rename(data / f"{split}-{number:05d}-of-{len(shards):05d}.parquet")
    settings = entry["settings"] | {"text_policy": "credentialed", "localizes": False, "seed": "secret"}
    sources = sorted({text.source for text in texts.values()})
    names = ("rows", "attached", "missing", "differing", "unverified")
    changed = {"settings": settings, "reports": entry["reports"] | {"sources": sources}, "images": _images(images)}
    return entry | changed | count_rows(data)[0] | {"attached": {name: getattr(result, name) for name in names}}


def _images(images: list[tuple[str, str]]) -> dict:
    """What the manifest tells of the images of a config, from the hash and split of each."""
    splits = defaultdict(set)
    for digest, split in images:
        splits[digest].add(split)
    shared = {digest for digest, names in splits.items() if len(names) > 1}
    return {
        "num_rows": len(images),
        "num_distinct": len(splits),
        "sha256_of_sorted_sha256": hashlib.sha256("\n".join(sorted(each for each, _ in images)).encode()).hexdigest(),
        "repeated_across_splits": {"images": len(shared), "rows": sum(digest in shared for digest, _ in images)},
    }


def _folder(dataset: str) -> Path:
    """The dataset's folder; one of the Hub is downloaded first, into the cache of huggingface_hub."""
    if Path(folder_or_hub_id(dataset, "dataset")).is_dir():
        return Path(dataset)
    from huggingface_hub import snapshot_download

    from hub_medsyn.publishing.hub_errors import as_publish_errors

    with as_publish_errors(str(dataset), "dataset"):
        return Path(snapshot_download(str(dataset), repo_type="dataset", allow_patterns=["data/**", "manifest.json"]))


def _hint(result: AttachResult, texts: dict[str, StudyText], columns: dict[str, str]) -> str:
    if not result.differing:
        return (
            "are these the reports it was drawn from? For MIMIC-CXR say --per image if a row is an image; for a table "
            "name the column of the ids with --study-column"
        )
    if all(text.report_hash is None for text in texts.values()) and "report_column" not in columns:
        return "a table needs --report-column, which names the whole reports that the hashes were made of"
    return "the reports may be of another version than those it was drawn from"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medsyn attach-reports",
        description="Join reports to a dataset that was published without its text (ids-only). Studies are matched by "
        "id; a hash keyed by the whole report proves that each is the one its image was drawn from.",
    )
    parser.add_argument("dataset", help="the dataset: a folder, or owner/name on the Hub")
    parser.add_argument(
        "--reports", required=True, metavar="PATH", help="MIMIC-CXR (folder or zip), Open-i, or a table of reports"
    )
    parser.add_argument("--out", required=True, metavar="FOLDER", help="the folder to write; it may not hold anything")
    parser.add_argument(
        "--strict", action="store_true", help="fail, and write nothing, unless every row gets its text"
    )
    parser.add_argument(
        "--keep-all", action="store_true", help="keep rows that get no text (default: leave them out, counted)"
    )
    options = parser.add_argument_group("how to read the reports, as in medsyn build")
    add_report_options(options, ("impression", "findings", "study", "report"))
    add_debug_option(parser)
    return parser


@command("medsyn attach-reports")
def main(argv: list[str] | None = None) -> int:
    """Runs `argv` (*optional*, defaults to `sys.argv[1:]`); returns the exit code: 0 done, 1 failed."""
    args = build_parser().parse_args(argv)
    with only_writer(Path(args.out)):
        result = attach_to_folder(
            args.dataset,
            args.out,
            args.reports,
            per=args.per,
            columns=report_columns(args),
            strict=args.strict,
            keep_all=args.keep_all,
        )
    for line in result.lines():
        print(line)
    left_out = result.rows - result.attached
    if left_out and not args.keep_all:
        print(f"{left_out:,} rows without text were left out of {args.out} (--keep-all keeps them)")
    print(f"text policy: credentialed; keep {args.out} where only holders of the reports can read it")
    print(f'next: load_dataset("{Path(args.out).resolve().name}") in {Path(args.out).resolve().parent}')
    return 0


if __name__ == "__main__":
    sys.exit(main())
