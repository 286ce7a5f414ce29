"""Cards for the Hub: renders the Jinja templates of `model_cards/` and keeps what people wrote in a card."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from importlib import resources

import jinja2
import yaml
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

from medsyn.errors import UserError

CARDS: dict[type[CardData], type[RepoCard]] = {
    DatasetCardData: DatasetCard,
    ModelCardData: ModelCard,
    SpaceCardData: SpaceCard,
}
# The sections of a card that belong to people: what they add to its terms, and all else they have to say.
NOTES = ("terms", "notes")
# Metadata that cards of this package set, or set once and no more: an older card's are not carried on.
OURS = frozenset(
    "base_model configs datasets dataset_info language library_name license license_link license_name medsyn "
    "model-index model_name pipeline_tag pretty_name size_categories tags task_categories "
    "app_file colorFrom colorTo emoji python_version sdk sdk_version short_description title".split()
)
# Which questions the Hub asks of whoever wants to read a gated dataset. Whoever owns a repository may change them.
GATE = {
    "extra_gated_heading": "Reports for credentialed readers only",
    "extra_gated_prompt": (
        "The reports of this dataset come from a source that only credentialed readers may see, such as MIMIC-CXR on "
        "PhysioNet. Access is given by hand, to those alone who hold the source's credentials and have signed its "
        "data use agreement themselves."
    ),
    "extra_gated_fields": {
        "Account at the source, such as a PhysioNet user name": "text",
        "I am credentialed there and have signed its data use agreement": "checkbox",
        "I will not pass on the reports or anything that quotes them": "checkbox",
    },
    "extra_gated_button_content": "Ask for access",
}
PLACES = ("the folder's README.md", "the README.md on the Hub")
_BEGIN = re.compile(rf"<!-- ({'|'.join(NOTES)}): [^\n]*-->[ \t]*$", re.MULTILINE)
_FENCE = re.compile(r"^(```+|~~~+)([^\n`]*)\n(.*?)^\1[ \t]*$", re.MULTILINE | re.DOTALL)


class CardConflict(UserError):
    """Two cards hold different texts of people for the same place, or one that cannot be read: a person decides."""


def render_card(template_name: str, metadata: CardData, **values) -> RepoCard:
    """
    Renders one template under its metadata.

    Args:
        template_name (`str`):
            A file of `model_cards/`, such as `dataset_card.md.jinja`. It holds the body alone: the YAML block is made
            from `metadata`. In it, `notes("terms")` is an empty section of people, see [`keep_what_people_wrote`].
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
    folder = resources.files("model_cards")
    if not folder.joinpath(template_name).is_file():
        raise FileNotFoundError(f"there is no card template {template_name!r} in model_cards/")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: folder.joinpath(name).read_text(encoding="utf-8")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    body = environment.get_template(template_name).render(card_data=metadata, notes=_section, **values)
    body = re.sub(r"\n{3,}", "\n\n", body.strip())  # a block that is left out leaves its blank line
    return CARDS[type(metadata)](f"---\n{metadata.to_yaml()}\n---\n\n{body}\n")


def origin_of_weights(
    text_policy: str | None = None, vocabulary_from_reports: bool = False, manifest_sha256: str | None = None
) -> dict:
    """
    What the metadata of a model's card hold under `medsyn`, for [`~hub_medsyn.policy.verdict.judge_model`].

    Args:
        text_policy (`str`, *optional*): Of the reports it was trained on; `None` where it is not known.
        vocabulary_from_reports (`bool`, *optional*, defaults to `False`): Whether its vocabulary was counted on them.
        manifest_sha256 (`str`, *optional*): Of the dataset's `manifest.json`.
    """
    return {
        "text_policy": text_policy,
        "vocabulary_from_reports": vocabulary_from_reports,
        "manifest_sha256": manifest_sha256,
    }


def keep_what_people_wrote(new: RepoCard, *old: RepoCard | str, places: Sequence[str] = PLACES) -> RepoCard:
    """
    A card with the texts that people wrote in older ones.

    A card has sections that belong to people, named in [`NOTES`]: what stands between the line
    `<!-- notes: ... -->` and the line `<!-- end of notes -->` is never overwritten. Of the metadata, keys that cards
    of this package do not set, such as a DOI or the emissions of a training, are kept, and so are the questions of a
    gated repository (`extra_gated_...`) where people changed them.

    Args:
        new (`huggingface_hub.RepoCard`): As it was just rendered. It is not changed.
        old (`huggingface_hub.RepoCard` or `str`): Older cards, or their whole text, such as the folder's and the
            Hub's.
        places (`Sequence[str]`, *optional*): What an error calls the older cards.

    Returns:
        `huggingface_hub.RepoCard`: Of the class of `new`.

    Raises:
        CardConflict: Two older cards hold different texts for one section or different values for one key, or an older
            card cannot be read: its YAML is broken, or a section is there twice or without its last line.
    """
    sections, metadata = {}, {}  # name -> (value, place)
    named = (*places, *(f"older card {number}" for number in range(len(places) + 1, len(old) + 1)))
    for card, place in (*zip(old, named, strict=False), (new, "the new card")):
        card = _read(card, type(new), place)
        for name, text in _sections(card.text, place).items():
            _settle(sections, f"the section {name!r}", name, text, place)
        for key, value in card.data.to_dict().items():
            if key not in OURS and value != GATE.get(key):
                _settle(metadata, f"the metadata key {key!r}", key, value, place)
    body = new.text
    places_of = {name: (begin, end) for name, begin, end in _spans(body)}
    for name, (text, _) in sorted(sections.items(), key=lambda each: places_of.get(each[0], (0, 0)), reverse=True):
        if name in places_of:  # from the last to the first, so that the others stay where they are
            begin, end = places_of[name]
            body = body[:begin] + _section(name, text) + body[end:]
        else:
            body = f"{body.rstrip()}\n\n{_section(name, text)}\n"
    data = type(new.data)(**new.data.to_dict() | {key: value for key, (value, _) in metadata.items()})
    return type(new)(f"---\n{data.to_yaml()}\n---\n{body}")


def renamed_in_code(card_text: str, names: Collection[str], repo_id: str) -> str:
    """
    A card whose examples load from the Hub what they loaded from a folder.

    In fenced blocks, a quoted name becomes the repository's id, and `local-dir:<name>` becomes `hf-hub:<id>`; in
    blocks of shell commands, a bare name too. Sections of people, and all text outside the blocks, stay as they are.

    Args:
        card_text (`str`): The whole card or its body.
        names (`Collection[str]`): What the folder is called in it, such as `{"gloria", "runs/gloria"}`.
        repo_id (`str`): Such as `org/medsyn-gloria`.

    Returns:
        `str`
    """
    if not names:
        return card_text
    either = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    quoted = re.compile(rf"""(["'])(local-dir:|hf-hub:)?(?:{either})/?\1""")
    bare = re.compile(rf"(?<=\s)(?:\./)?(?:{either})/?(?=\s|$)")

    def rename(block: re.Match) -> str:
        fence, language, code = block.groups()
        code = quoted.sub(lambda found: f"{found[1]}{'hf-hub:' if found[2] else ''}{repo_id}{found[1]}", code)
        if language.strip() in ("bash", "sh", "shell", "console"):
            code = bare.sub(repo_id, code)
        return f"{fence}{language}\n{code}{fence}"

    pieces, end = [], 0
    for _, begin, stop in _spans(card_text):  # sections of people
        pieces += [_FENCE.sub(rename, card_text[end:begin]), card_text[begin:stop]]
        end = stop
    return "".join([*pieces, _FENCE.sub(rename, card_text[end:])])


def _section(name: str, text: str = "") -> str:
    """The lines of one section of people."""
    inside = f"{text}\n" if text else ""
    return (
        f"<!-- {name}: yours to write in, down to the line that ends it; medsyn never overwrites it -->\n"
        f"{inside}<!-- end of {name} -->"
    )


def _spans(body: str) -> list[tuple[str, int, int]]:
    """The sections of people in order, and where they begin and end, their two lines included; whole ones alone."""
    spans, at = [], 0
    while begin := _BEGIN.search(body, at):
        end = re.compile(rf"^<!-- end of {begin[1]} -->[ \t]*\r?$", re.MULTILINE).search(body, begin.end())
        if end is None:
            at = begin.end()
        else:
            spans.append((begin[1], begin.start(), end.end()))
            at = end.end()
    return spans


def _sections(body: str, place: str) -> dict[str, str]:
    """The texts of people in a card by section, without those that are empty."""
    body = body.replace("\r\n", "\n")
    found = {}
    for name, begin, end in _spans(body):
        rest = body[begin:end].partition("\n")[2]
        if name in found:
            raise CardConflict(f"{place} has the section {name!r} twice; make them one, then run the command again")
        found[name] = rest.rpartition("<!-- end of ")[0].strip("\n")
    whole = sum(body.count(f"<!-- {name}: ") for name in NOTES)
    ends = sum(body.count(f"<!-- end of {name} -->") for name in NOTES)
    if whole != len(found) or ends != len(found):
        raise CardConflict(
            f"{place} has a section of its own that lacks its first or last line; restore both lines, such as "
            f"'<!-- notes: mine -->' and '<!-- end of notes -->', each alone on a line, then run the command again"
        )
    return {name: text for name, text in found.items() if text.strip()}


def _read(card: RepoCard | str, kind: type[RepoCard], place: str) -> RepoCard:
    if isinstance(card, RepoCard):
        return card
    try:
        return kind(card, ignore_metadata_errors=True)
    except (yaml.YAMLError, ValueError, TypeError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = "" if line is None else f", line {line + 2}"
        raise CardConflict(
            f"the YAML block at the head of {place} cannot be read{where}; mend it, then run the command again"
        ) from None


def _settle(kept: dict, what: str, name: str, value, place: str) -> None:
    if name in kept and kept[name][0] != value:
        raise CardConflict(
            f"{what} differs between {kept[name][1]} and {place}, and both are people's own; make them equal, or "
            "empty one of them, then run the command again"
        )
    kept.setdefault(name, (value, place))
