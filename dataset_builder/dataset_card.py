"""The dataset's README.md and its grid of samples, made from the manifest and the rows."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

from dataset_builder.films import atomic_file
from dataset_builder.findings import CHEXPERT_LABELS, PRESENT
from dataset_builder.rows import row_features

GRID_COLUMNS, GRID_ROWS, TILE, CAPTION = 4, 3, 256, 50
# Okabe and Ito's colours: told apart by colour-blind readers too, and on a grey film.
OUTLINES = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (204, 121, 167), (213, 94, 0))
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def write_card(out: Path, manifest: dict) -> None:
    """
    Writes `README.md` and a grid of samples for every config that has none yet.

    Args:
        out (`Path`): The dataset's folder; its `data/<config>` folders are complete.
        manifest (`dict`): As it is about to be written; the first config is also the `default` one.
    """
    from huggingface_hub import DatasetCardData

    from hub_medsyn.cards import render_card

    out = out.resolve()  # "." has no name
    configs = manifest["configs"]
    grids = {}
    for name in configs:
        grids[name] = f"assets/{'samples' if name == next(iter(configs)) else f'samples-{name}'}.png"
        if not (out / grids[name]).exists():
            (out / "assets").mkdir(exist_ok=True)
            with atomic_file(out / grids[name]) as file:
                sample_grid(out / "data" / name).save(file, format="png", optimize=True)

    metadata = DatasetCardData(
        language="en",
        license="mit" if manifest["text_policy"] == "public" and list(configs) == ["phantom"] else "other",
        pretty_name=f"{out.name}: synthetic chest radiographs drawn from reports",
        size_categories=_size_category(sum(_rows(entry) for entry in configs.values())),
        task_categories=["image-to-text", "zero-shot-image-classification", "text-to-image"],
        tags=["medical", "radiology", "chest-x-ray", "synthetic", "vision-language"],
        configs=[_data_files(name, entry) for name, entry in _with_default(configs)],
        dataset_info=[_dataset_info(name, entry) for name, entry in _with_default(configs)],
    )
    card = render_card(
        "dataset_card.md.jinja",
        metadata,
        name=out.name,
        configs=configs,
        grids=grids,
        text_policy=manifest["text_policy"],
        all_grammar=all(entry["reports"]["sources"] == ["grammar"] for entry in configs.values()),
        labels=CHEXPERT_LABELS,
    )
    with atomic_file(out / "README.md") as file:
        file.write(str(card).encode())


def _with_default(configs: dict) -> list[tuple[str, dict]]:
    return [("default", next(iter(configs.values()))), *configs.items()]


def _rows(entry: dict) -> int:
    return sum(split["num_examples"] for split in entry["splits"].values())


def _size_category(rows: int) -> str:
    return next((name for limit, name in SIZES if rows < limit), "1M<n<10M")


def _data_files(name: str, entry: dict) -> dict:
    folder = entry["settings"]["generator"]["name"]
    files = [{"split": split, "path": f"data/{folder}/{split}-*.parquet"} for split in entry["splits"]]
    return {"config_name": name, "data_files": files}


def _dataset_info(name: str, entry: dict) -> dict:
    splits = [
        {"name": split, "num_bytes": counts["num_bytes"], "num_examples": counts["num_examples"]}
        for split, counts in entry["splits"].items()
    ]
    return {
        "config_name": name,
        "features": row_features(entry["settings"]["localizes"])._to_yaml_list(),
        "splits": splits,
        "download_size": sum(counts["file_bytes"] for counts in entry["splits"].values()),
        "dataset_size": sum(counts["num_bytes"] for counts in entry["splits"].values()),
    }


def sample_grid(data: Path) -> Image.Image:
    """
    A grid of films from the first row group of a config's first shard, findings outlined and named.

    The captions name labels and findings, never the report's own words, so that the grid can be shown wherever the
    images can.

    Args:
        data (`Path`): The folder of the shards.

    Returns:
        `PIL.Image.Image`: At most 4 x 3 films of 256 pixels, as varied in their findings as the row group allows.
    """
    shard = sorted(data.glob("train-*.parquet")) or sorted(data.glob("*.parquet"))
    with pq.ParquetFile(shard[0]) as file:
        rows = file.read_row_group(0)
    chosen = _varied(rows, GRID_COLUMNS * GRID_ROWS)
    columns = min(GRID_COLUMNS, len(chosen))
    height = -(-len(chosen) // columns)
    grid = Image.new("RGB", (columns * TILE, height * (TILE + CAPTION)), "white")
    draw, font = ImageDraw.Draw(grid), ImageFont.load_default(size=12)
    for place, row in enumerate(rows.take(pa.array(chosen)).to_pylist()):
        x, y = place % columns * TILE, place // columns * (TILE + CAPTION)
        tile, names = _tile(row)
        grid.paste(tile, (x, y))
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
    """One film of 256 pixels with its masks outlined, and the finding and colour of each."""
    film = Image.open(io.BytesIO(row["image"]["bytes"])).convert("L")
    film = film.resize((TILE, TILE), Image.Resampling.LANCZOS)
    pixels = np.stack([np.asarray(film)] * 3, axis=-1)  # (256, 256, 3)
    names: dict[str, tuple[int, int, int]] = {}
    for entry in row.get("finding_masks") or ():
        colour = names.setdefault(entry["finding"], OUTLINES[len(names) % len(OUTLINES)])
        mask = Image.open(io.BytesIO(entry["mask"]["bytes"])).resize((TILE, TILE), Image.Resampling.NEAREST)
        inside = np.pad(np.asarray(mask) > 127, 1)
        core = inside[1:-1, 1:-1] & inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
        pixels[inside[1:-1, 1:-1] & ~core] = colour
    return Image.fromarray(pixels), list(names.items())
