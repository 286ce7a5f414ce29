"""What became of every tensor of a checkpoint, as data, as text and as a model card."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

from huggingface_hub import ModelCardData
from transformers import PreTrainedModel

from hub_medsyn.cards.render import origin_of_weights, render_card
from hub_medsyn.checkpoints.convert_keys import LAYOUTS
from hub_medsyn.modeling_medsyn import without_pooler

REPORT_NAME = "conversion.json"


@dataclasses.dataclass
class ConversionReport:
    """What was read and what was not; every tensor of the file stands in exactly one of the first three.

    Args:
        placed (`dict[str, str]`): Names of the file that were read, and their names here.
        not_needed (`dict[str, str]`): Names of the file that have no counterpart here for a known reason, and it.
        unknown (`list[str]`): Names of the file that nothing is known of. They were not read.
        made (`dict[str, str]`): Names here that the method's files do not hold, and what they were made of.
        missing (`list[str]`): Names here that the file should hold and does not; they start at random.
        other_entries (`list[str]`): What the file holds beside the tensors, such as the optimizer's state.
        notes (`list[str]`): How inputs are treated otherwise than by the published code.
        file (`str`): Name of the file, without its folder.
        sha256 (`str`): Of the file.
        method (`str`): `gloria`, `mgca` or `convirt`.
        prefix (`str`): What stood before all names, such as `gloria.`.
        preset (`str`): Of the configuration.
        image_encoder (`str`): timm's name of it.
        text_encoder (`str`): Name of the encoder whose configuration was used.
        text_layers (`int`): How many layers it has here.
    """

    placed: dict[str, str]
    not_needed: dict[str, str]
    unknown: list[str]
    made: dict[str, str]
    missing: list[str]
    other_entries: list[str]
    notes: list[str]
    file: str
    sha256: str
    method: str
    prefix: str
    preset: str
    image_encoder: str
    text_encoder: str
    text_layers: int

    def __str__(self) -> str:
        """What `medsyn convert` prints: numbers of tensors by module, and the names of all that are not known."""
        lines = [
            f"{self.file}: {LAYOUTS[self.method].title} with {self.image_encoder} and {self.text_layers} text layers",
            "",
            f"read: {len(self.placed)} tensors",
            *table((number, f"{published}*", f"-> {ours}*") for (published, ours), number in self._modules().items()),
            f"not needed: {len(self.not_needed)}",
            *table((number, why) for why, number in Counter(self.not_needed.values()).items()),
            f"unknown, not read: {len(self.unknown)}",
            *(f"  {name}" for name in self.unknown),
            f"made here: {len(self.made)}",
            *table(self.made.items()),
            f"missing, random: {len(self.missing)}",
            *(f"  {name}" for name in self.missing),
        ]
        if self.other_entries:
            lines.append(f"beside the tensors, not read: {', '.join(self.other_entries)}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def _modules(self) -> Counter:
        places = LAYOUTS[self.method].places
        names = (name.removeprefix(self.prefix) for name in self.placed)
        starts = (next(start for start in places if name.startswith(start)) for name in names)
        return Counter((start, places[start]) for start in starts)

    def save(self, folder: Path) -> None:
        """Writes `conversion.json`, every name included."""
        text = json.dumps(dataclasses.asdict(self), indent=2)
        (folder / REPORT_NAME).write_text(text + "\n", encoding="utf-8")


def table(rows) -> list[str]:
    """Rows of cells as indented lines, columns aligned; numbers stand on the right."""
    rows = [[f"{cell:>4}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def write_card(model: PreTrainedModel, report: ConversionReport, folder: Path) -> None:
    """Writes `README.md`: where the weights come from, and what was read of them."""
    layout = LAYOUTS[report.method]
    metadata = ModelCardData(
        language="en",
        license="other",
        library_name="transformers",
        pipeline_tag="zero-shot-image-classification",
        tags=["radiology", "chest-x-ray", "medsyn", model.config.model_type],
        medsyn=origin_of_weights(),
    )
    card = render_card(
        "converted_card.md.jinja",
        metadata,
        folder=folder.name,
        layout=layout,
        report=report,
        switches=model.config.departures(),
        pooler_left_out=bool(without_pooler(model.config.text_config)),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )
    card.save(folder / "README.md")
