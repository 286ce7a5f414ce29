"""Renders the Jinja templates of `model_cards/` into huggingface_hub cards."""

from __future__ import annotations

from importlib import resources

import jinja2
from huggingface_hub import (
    CardData,
    DatasetCard,
    DatasetCardData,
    ModelCard,
    ModelCardData,
    RepoCard,
    SpaceCard,
    SpaceCardData,
)

CARDS: dict[type[CardData], type[RepoCard]] = {
    DatasetCardData: DatasetCard,
    ModelCardData: ModelCard,
    SpaceCardData: SpaceCard,
}


def render_card(template_name: str, metadata: CardData, **values) -> RepoCard:
    """
    Renders one template under its metadata.

    Args:
        template_name (`str`):
            A file of `model_cards/`, such as `dataset_card.md.jinja`. It holds the body alone: the YAML block is made
            from `metadata`.
        metadata (`huggingface_hub.CardData`):
            A `DatasetCardData`, `ModelCardData` or `SpaceCardData`; decides which card is returned, and is `card_data`
            in the template.
        values:
            What the template names. A name that is missing raises `jinja2.UndefinedError`: a card never says less than
            its template.

    Returns:
        `huggingface_hub.RepoCard`: The `DatasetCard`, `ModelCard` or `SpaceCard`; `card.save(path)` writes it.

    Raises:
        FileNotFoundError: If there is no such template.
    """
    template = resources.files("model_cards").joinpath(template_name)
    if not template.is_file():
        raise FileNotFoundError(f"there is no card template {template_name!r} in model_cards/")
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    body = environment.from_string(template.read_text(encoding="utf-8")).render(card_data=metadata, **values)
    return CARDS[type(metadata)](f"---\n{metadata.to_yaml()}\n---\n\n{body.lstrip()}")
