"""What of a dataset may be published without its text: `IDS_ONLY_COLUMNS`, counts and settings, and why.

Impressions repeat so much (the 20 commonest are 38 % of Open-i's) that any plain function of one is a dictionary: its
hash, its seed, the image generated from it with a known seed, the fact that two images are equal. So without the text
leave only identifiers, images generated with a secret seed, and a hash keyed by the whole report.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from hub_medsyn.policy.images import image_format
from hub_medsyn.policy.verdict import PolicyError
from medsyn.schema import IDS_ONLY_COLUMNS, SECRET, SPLITS

_IDENTIFIER = re.compile(r"[A-Za-z0-9._-]{1,64}")
_WORD_OF_ID = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_HASH = re.compile(r"[0-9a-f]{64}")


def ids_only_problems(name: str, entry: dict) -> list[str]:
    """
    Why a config cannot be published without its text; nothing where it can.

    Args:
        name (`str`): The config.
        entry (`dict`): Its entry in `manifest.json`, as the build wrote it.

    Returns:
        `list[str]`: Sentences, each with its remedy.
    """
    settings, images = entry["settings"], entry["images"]
    again = "build it again with --text-policy ids-only"
    problems = []
    if not _IDENTIFIER.fullmatch(name):
        return [f"the name of a config is no plain name of at most 64 letters, digits and . _ -; {again}"]
    if settings["text_policy"] == "public":
        problems.append(
            f"config {name!r} was built as public, with its rows in the order of the reports, which may follow the "
            f"text: publish it with its text, or {again}"
        )
    if settings.get("seed") != SECRET:
        problems.append(
            f"the base seed of config {name!r} can be guessed: whoever knows it draws the image of every likely "
            f"impression and compares pixels; {again}, or with --seed secret"
        )
    if settings["seed_mode"] != "study":
        problems.append(
            f"config {name!r} was built with --seed-mode {settings['seed_mode']}, so equal images reveal equal texts; "
            f"{again} --seed-mode study"
        )
    if images["num_distinct"] < images["num_rows"]:
        problems.append(
            f"{images['num_rows'] - images['num_distinct']} images of config {name!r} repeat others, which may tell "
            f"of equal texts; {again}, with a generator that heeds its seed"
        )
    if "report_hashes" not in entry:
        problems.append(f"config {name!r} was built by an older version, without a column report_hash; {again}")
    return problems


def ids_only_table(table: pa.Table) -> pa.Table:
    """
    What of some rows may leave without the text: the columns of `IDS_ONLY_COLUMNS`.

    The result's schema says the types to `datasets` and nothing else: the source's own metadata are dropped. Paths of
    images are made anew from their ids.

    Args:
        table (`pa.Table`): Rows of a dataset, such as one row group.

    Raises:
        PolicyError: A column is missing or of another type, an identifier is none (it could be a sentence), a hash is
            none, or an image's file holds more than pixels.
    """
    for name in IDS_ONLY_COLUMNS:
        if name not in table.column_names:
            raise PolicyError(f"the rows have no column {name!r}; build them with medsyn build --text-policy ids-only")
    ids = {name: table.column(name).to_pylist() for name in IDS_ONLY_COLUMNS[1:]}
    for place in range(len(table)):
        study, image, hashed = (ids[name][place] for name in ("study_id", "image_id", "report_hash"))
        for name in ("study_id", "subject_id"):
            _refuse_text(ids[name][place], f"column {name!r}, row {place + 1} of its row group")
        prefix = image.removesuffix(f"-{study}") if isinstance(image, str) else ""
        if prefix == image or not _IDENTIFIER.fullmatch(prefix) or prefix != ids["image_id"][0][: len(prefix)]:
            raise PolicyError(
                f"the image_id of study {study!r} is not <config>-<study id>, as medsyn build writes it; build anew"
            )
        if hashed is not None and not (isinstance(hashed, str) and _HASH.fullmatch(hashed)):
            raise PolicyError(
                f"the report_hash of image {image!r} is not 64 hexadecimal digits; build the dataset anew"
            )
    images = []
    for image_id, image in zip(ids["image_id"], table.column("image").to_pylist(), strict=True):
        content = image.get("bytes") if isinstance(image, dict) else None
        if not isinstance(content, bytes):
            raise PolicyError(f"the image of {image_id!r} is not in the table; store images in the Parquet files")
        try:
            suffix = image_format(content)
        except ValueError as error:
            raise PolicyError(f"image {image_id!r}: {error}; store its pixels anew, as medsyn build does") from None
        images.append({"bytes": content, "path": f"{image_id}.{suffix}"})
    features = {"image": {"_type": "Image"}} | {name: {"dtype": "string", "_type": "Value"} for name in ids}
    schema = pa.schema(
        {"image": pa.struct({"bytes": pa.binary(), "path": pa.string()})} | dict.fromkeys(ids, pa.string()),
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    return pa.Table.from_pydict({"image": images} | ids, schema=schema)


_COUNTS = ("all", "readable", "frontal", "with_impression", "long_enough", "unique")
_SOURCES = ("mimic-cxr", "openi", "grammar")  # others are names of files
_GENERATOR = (
    *("name", "batch_size", "generator", "renderer", "labels", "image_size", "atlas", "visible_grey_change"),
    *("pipeline", "commit", "pipeline_sha256", "pipeline_class", "scheduler", "num_inference_steps", "guidance_scale"),
    *("height", "width", "torch_dtype", "device", "attention_slicing", "compile", "channels_last", "safety_checker"),
)
_VERSIONS = ("python", "hub-medsyn", "datasets", "diffusers", "numpy", "peft", "pillow", "pyarrow", "scipy", "torch")
_PLAIN = re.compile(r"[A-Za-z0-9._/:+-]{1,100}")
_VERSION = re.compile(r"\d[\w.+-]{0,40}|not installed")


def ids_only_entry(entry: dict) -> dict:
    """
    What of a config's entry in the manifest may leave without the text, put together from a list of what may.

    Counts of rows and of the funnel, the generator with its settings, splits, versions, and a digest of the images. No
    seed, no digest or count drawn from prompts, no labels, no ids, no names of files or columns. The sizes of the
    source's shards are left out too, since they count its text: add `num_bytes` and `file_bytes` of the shards that
    were written to each split.

    Args:
        entry (`dict`): The entry as the build wrote it.
    """
    settings, reports, images = entry["settings"], entry["reports"], entry["images"]
    generator = {key: settings["generator"].get(key) for key in _GENERATOR if key in settings["generator"]}
    if settings["generator"].get("commit") is None:
        generator.pop("pipeline", None)  # the name of a local folder
    lora = settings["generator"].get("lora")
    if isinstance(lora, dict) and _HASH.fullmatch(str(lora.get("sha256"))):
        generator["lora"] = {"sha256": lora["sha256"]}
    source = settings.get("source") or {}
    kept = {"generator": _plain(generator), "localizes": False, "text_policy": "ids-only"}
    kept |= _plain({key: settings.get(key) for key in ("seed_mode", "image_format", "min_tokens", "limit", "splits")})
    if source.get("format") in _SOURCES:
        kept["source"] = _plain({key: source[key] for key in ("format", "per", "any_view") if key in source})
    repeats = images["repeated_across_splits"]
    digest = images["sha256_of_sorted_sha256"]
    return {
        "settings": kept,
        "reports": {
            "counts": _numbers(reports["counts"], _COUNTS),
            "sources": sorted({source if source in _SOURCES else "a table" for source in reports["sources"]}),
        },
        "splits": {
            split: _numbers(entry["splits"][split], ("num_examples", "num_subjects", "num_shards"))
            for split in SPLITS
            if split in entry["splits"]
        },
        "images": _numbers(images, ("num_rows", "num_distinct"))
        | ({"sha256_of_sorted_sha256": digest} if _HASH.fullmatch(str(digest)) else {})
        | {"repeated_across_splits": _numbers(repeats, ("images", "rows"))},
        **_numbers(entry, ("report_hashes",)),
        "versions": {
            name: entry["versions"][name]
            for name in (*_VERSIONS, "transformers")
            if _VERSION.fullmatch(str(entry["versions"].get(name)))
        },
    }


def _plain(value: Any) -> Any:
    """Numbers, truth values and names; a string of any other form becomes None, since it may be a sentence."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items() if re.fullmatch(r"[A-Za-z0-9_]{1,40}", str(key))}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return value if isinstance(value, str) and _PLAIN.fullmatch(value) else None


def _numbers(counts: dict, names: Iterable[str]) -> dict[str, int]:
    numbers = {name: counts[name] for name in names if name in counts}
    for name, value in numbers.items():
        if not isinstance(value, int):
            raise PolicyError(f"the manifest's {name} is no whole number; build the dataset anew")
    return numbers


def _refuse_text(value: object, where: str) -> None:
    plain = value if isinstance(value, str) and _IDENTIFIER.fullmatch(value) else ""
    parts = [part for part in re.split(r"[._-]", plain) if part.isalpha()]
    if not plain or sum(len(_WORD_OF_ID.findall(part)) for part in parts) > 2:
        raise PolicyError(
            f"{where} holds no identifier (at most 64 letters, digits and . _ -, and not a row of words), so it may "
            "be text of a report; build the dataset with a column of plain ids"
        )
