"""The card of the demo page's Space: what the page says of itself, and the models and images that come with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from medsyn.schema import parse_manifest

if TYPE_CHECKING:
    from huggingface_hub import SpaceCard

LOCAL = "http://127.0.0.1:7860"  # where the page is while it runs at home


def space_card(folder: str | Path, repo_id: str) -> SpaceCard:
    """
    The `README.md` of the page with what lies in its `bundle/`, for one Space.

    Args:
        folder (`str` or `Path`): The folder `spaces_app`; its `README.md` gives the metadata and the text.
        repo_id (`str`): `<org>/<name>` of the Space, which examples ask in the place of the page at home.

    Returns:
        `huggingface_hub.SpaceCard`

    Raises:
        FileNotFoundError: If the folder has no `README.md`.
    """
    from huggingface_hub import ModelCard, SpaceCard

    from hub_medsyn.cards.render import renamed_in_code, render_card

    folder = Path(folder)
    readme = folder / "README.md"
    if not readme.is_file():
        raise FileNotFoundError(f"{folder} is no Space: it holds no README.md")
    page = SpaceCard(readme.read_text(encoding="utf-8"))
    models = {}
    for card in sorted(folder.glob("bundle/models/*/README.md")):
        data = ModelCard.load(card, ignore_metadata_errors=True).data
        kind = json.loads((card.parent / "config.json").read_text(encoding="utf-8")).get("model_type")
        models[card.parent.name] = {"path": f"{folder.resolve().name}/{card.relative_to(folder).as_posix()}"}
        models[card.parent.name] |= {"kind": kind, "licence": data.license}
    images = {}
    for path in sorted(folder.glob("bundle/*/manifest.json")):
        for name, entry in parse_manifest(path.read_text(encoding="utf-8"), str(path))["configs"].items():
            number = sum(split["num_examples"] for split in entry["splits"].values())
            images[f"{path.parent.name}, {name}"] = {"number": number, "reports": entry["reports"]["sources"]}
    text = renamed_in_code(page.text, {LOCAL}, repo_id).strip()
    return render_card("space_card.md.jinja", page.data, page=text, models=models, images=images)
