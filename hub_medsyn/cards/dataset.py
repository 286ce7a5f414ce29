"""The dataset's README.md and its grids of samples, made from the manifest and the shards."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

from hub_medsyn.cards.overlay import draw_outlines
from medsyn.dataset_info import dataset_info

if TYPE_CHECKING:
    from huggingface_hub import DatasetCard

GRID_COLUMNS, GRID_ROWS, TILE, CAPTION = 4, 3, 256, 50
# Okabe and Ito's colours: told apart by colour-blind readers too, and on a grey image.
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
PRESENT = 1  # of a label
# Settings of generators that need more words than their names.
SETTINGS = {
    "renderer": "renderer, version",
    "labels": "labels of the renderer, version",
    "atlas": "anatomy, SHA-256",
    "visible_grey_change": "grey levels that make a finding, a line visible",
    "pipeline_sha256": "pipeline, SHA-256",
    "lora": "LoRA",
    "num_inference_steps": "steps",
    "torch_dtype": "number format",
}


def write_card(out: Path, manifest: dict) -> None:
    """
    Writes `README.md` and a grid of samples for every config; what people wrote in the README.md is kept.

    Args:
        out (`Path`): The dataset's folder; its `data/<config>` folders are complete.
        manifest (`dict`): As it is about to be written; the first config is also the `default` one.

    Raises:
        CardConflict: The README.md there is cannot be read, or a section of people in it has no end.
    """
    from hub_medsyn.cards.render import keep_what_people_wrote

    out = out.resolve()  # "." has no name
    schemas, grids = {}, {}
    (out / "assets").mkdir(exist_ok=True)
    for config in manifest["configs"]:
        grids[config] = grid_path(config)
        picture = io.BytesIO()
        sample_grid(out / "data" / config).save(picture, format="png")
        _write(out / grids[config], picture.getvalue())
        schemas[config] = pq.read_schema(_shards(out / "data" / config)[0])
    card = dataset_card(manifest, out.name, schemas, grids)
    path = out / "README.md"
    if path.exists():
        card = keep_what_people_wrote(card, path.read_text(encoding="utf-8"), places=(str(path),))
    _write(path, str(card).encode())


def grid_path(config: str) -> str:
    """Where a config's grid of samples lies in the dataset's folder."""
    return f"assets/samples-{config}.png"


def dataset_card(manifest: dict, name: str, schemas: dict[str, pa.Schema], grids: dict[str, str]) -> DatasetCard:
    """
    The card of a dataset, from its manifest alone: no row, and so no report, is read for it.

    Args:
        manifest (`dict`): Of `medsyn build`, or with the entries of `hub_medsyn.policy.ids_only.ids_only_entry`. What
            an entry leaves out, the card does not tell. An entry may hold `audit`: the names of figures, each with
            extractor, size and number of images, and their values.
        name (`str`): The folder's name, or `<org>/<name>` on the Hub.
        schemas (`dict[str, pa.Schema]`): The Arrow schema of each config's shards; `datasets` reads the features in
            them.
        grids (`dict[str, str]`): Each config's grid of samples, as a path in the dataset's folder.

    Returns:
        `huggingface_hub.DatasetCard`: With all configs; the first is `default` too.
    """
    from huggingface_hub import DatasetCardData

    from hub_medsyn.cards.render import GATE, render_card

    configs = manifest["configs"]
    policies = {config: entry["settings"]["text_policy"] for config, entry in configs.items()}
    without_text = [config for config in configs if "prompt" not in schemas[config].names]
    has_text = len(without_text) < len(configs)
    phantoms = [config for config, entry in configs.items() if _generator(entry) == "phantom"]
    by_grammar = [
        config
        for config, entry in configs.items()
        if policies[config] == "public" and entry["reports"]["sources"] == ["grammar"]
    ]
    ours = len(phantoms) == len(by_grammar) == len(configs)
    tasks = ["image-to-text", "zero-shot-image-classification", "text-to-image"]
    metadata = DatasetCardData(
        language="en" if has_text else None,
        license="mit" if ours else "other",
        pretty_name=f"{name.rpartition('/')[2]}: synthetic chest radiographs drawn from reports",
        size_categories=_size_category(sum(_rows(entry) for entry in configs.values())),
        task_categories=tasks if has_text else ["image-feature-extraction"],
        tags=["medical", "radiology", "chest-x-ray", "synthetic", *(["vision-language"] if has_text else [])],
        configs=[_data_files(label, config, configs[config]) for label, config in _with_default(configs)],
        dataset_info=[
            dataset_info(label, configs[config]["splits"], schemas[config]) for label, config in _with_default(configs)
        ],
        **(GATE if "credentialed" in policies.values() else {}),
    )
    return render_card(
        "dataset_card.md.jinja",
        metadata,
        name=name,
        configs=configs,
        grids=grids,
        policies=policies,
        without_text=without_text,
        phantoms=phantoms,
        by_grammar=by_grammar,
        columns=list(dict.fromkeys(column for schema in schemas.values() for column in schema.names)),
        shown=_shown_settings,
    )


def _generator(entry: dict) -> str:
    return entry["settings"]["generator"]["name"]


def _shown_settings(generator: dict) -> dict[str, str]:
    """A generator's settings that are on, each in a few words."""
    shown = {}
    for key, value in generator.items():
        if key in ("name", "generator") or value is None or value is False:
            continue
        if isinstance(value, dict):  # a scheduler's class, a LoRA's file or, without its name, its hash
            value = next(value[name] for name in ("class", "file", "sha256") if name in value)
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        shown[SETTINGS.get(key, key.replace("_", " "))] = text if len(text) <= 40 else f"{text[:16]}..."
    return shown


def _with_default(configs: dict) -> list[tuple[str, str]]:
    """The name and the config of every entry in the metadata."""
    return [("default", next(iter(configs))), *((config, config) for config in configs)]


def _rows(entry: dict) -> int:
    return sum(split["num_examples"] for split in entry["splits"].values())


def _size_category(rows: int) -> str:
    return next((name for limit, name in SIZES if rows < limit), "1M<n<10M")


def _data_files(label: str, config: str, entry: dict) -> dict:
    files = [{"split": split, "path": f"data/{config}/{split}-*.parquet"} for split in entry["splits"]]
    return {"config_name": label, "data_files": files}


def _write(path: Path, content: bytes) -> None:
    """A file that appears whole or not at all; the build removes what a killed process left under the other name."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _shards(data: Path) -> list[Path]:
    return sorted(data.glob("train-*.parquet")) or sorted(data.glob("*.parquet"))


def sample_grid(data: Path, plain: bool = False) -> Image.Image:
    """
    A grid of images from the first row group of a config's first shard, findings outlined and named.

    The captions name labels and findings, never the report's own words.

    Args:
        data (`Path`): The folder of the shards.
        plain (`bool`, *optional*, defaults to `False`): The first images, without captions and outlines: nothing but
            images is read, for datasets whose labels are as confidential as the reports.

    Returns:
        `PIL.Image.Image`: At most 4 x 3 images of 256 pixels, as varied in their findings as the row group allows.
    """
    with pq.ParquetFile(_shards(data)[0]) as file:
        rows = file.read_row_group(0, columns=["image"] if plain else None)
    number = GRID_COLUMNS * GRID_ROWS
    chosen = list(range(min(number, len(rows)))) if plain else _varied(rows, number)
    caption = 0 if plain else CAPTION
    columns = min(GRID_COLUMNS, len(chosen))
    height = -(-len(chosen) // columns)
    grid = Image.new("RGB", (columns * TILE, height * (TILE + caption)), "white")
    draw, font = ImageDraw.Draw(grid), ImageFont.load_default(size=12)
    for place, row in enumerate(rows.take(pa.array(chosen)).to_pylist()):
        x, y = place % columns * TILE, place // columns * (TILE + caption)
        tile, names = _tile(row)
        grid.paste(tile, (x, y))
        if plain:
            continue
        if not names:
            draw.text((x + 5, y + TILE + 2), _label_caption(row["labels"]), fill="black", font=font)
        left, top = x + 5, y + TILE + 2
        for name, colour in names:
            width = 12 + draw.textlength(name, font=font)
            if left + width > x + TILE:
                left, top = x + 5, top + 15
            draw.rectangle((left, top + 4, left + 8, top + 12), fill=colour)
            draw.text((left + 12, top), name, fill="black", font=font)
            left += width + 10
    return grid


def _varied(rows: pa.Table, number: int) -> list[int]:
    """Row numbers, one for each new set of present labels first, then the others in order."""
    seen, first, rest = set(), [], []
    for place, labels in enumerate(rows.column("labels").to_pylist()):
        present = tuple(name for name, value in labels.items() if value == PRESENT)
        (rest if present in seen else first).append(place)
        seen.add(present)
    return (first + rest)[:number]


def _label_caption(labels: dict) -> str:
    present = [name for name, value in labels.items() if value == PRESENT]
    if not present:  # emphysema, for one, is none of the 14 labels
        return "none of the 14 labels present"
    return ", ".join(present[:2]) + (", ..." if len(present) > 2 else "")


def _tile(row: dict) -> tuple[Image.Image, list[tuple[str, tuple[int, int, int]]]]:
    """One image of 256 pixels with its masks outlined, and the finding and colour of each."""
    image = Image.open(io.BytesIO(row["image"]["bytes"])).convert("L")
    image = image.resize((TILE, TILE), Image.Resampling.LANCZOS)
    masks = []
    for entry in row.get("finding_masks") or ():
        mask = Image.open(io.BytesIO(entry["mask"]["bytes"])).resize((TILE, TILE), Image.Resampling.NEAREST)
        masks.append((entry["finding"], np.asarray(mask) > 127))
    pixels, colours = draw_outlines(np.asarray(image), masks)
    return Image.fromarray(pixels), list(colours.items())
