"""What all tabs share: the workbench, the images chosen from it, and what has to be said of every answer."""

from __future__ import annotations

import functools
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from spaces_app.guard.uploads import Refused, Upload, forget_upload, read_upload
from spaces_app.view import viewer
from spaces_app.view.pictures import image_picture

if TYPE_CHECKING:
    from spaces_app.workbench import Workbench

IMAGE_SIDE = 768  # pixels of an image as the page shows it
MEANING = (
    "A score weighs the model's similarity to sentences that name a finding against sentences that deny it. It is no "
    "probability, nothing was calibrated, and 0.5 is no threshold. On an abnormal image most scores tend to be high: "
    "compare images with each other, not findings."
)
STANDING = "Research only. Not for clinical use."
OBVIOUS = ("cardiomegaly", "pleural effusion", "pneumothorax", "mass")  # that people and models see, to begin with


@dataclass(frozen=True)
class Chosen:
    """The image that a visitor looks at, with what is known of it.

    Args:
        image ([`Image`]): The image.
        key (`str`): Equal for the same image alone.
        impression (`str`, *optional*): Its report's impression, where it has one.
        labels (`dict`, *optional*): Finding -> 1, 0, -1 or `None`; empty where nothing is known.
        boxes (`tuple`, *optional*): Finding and xyxy corners in pixels of the image.
    """

    image: Upload
    key: str
    impression: str = ""
    labels: dict = field(default_factory=dict)
    boxes: tuple = ()

    @property
    def alt(self) -> str:
        if self.impression:
            return f"Chest image, {self.image.name}. Its report: {self.impression}"
        return f"Chest image, {self.image.name}"

    @property
    def caption(self) -> str:
        parts = [self.image.name, self.image.note, f"“{self.impression}”" if self.impression else ""]
        return " · ".join(part for part in parts if part)


class Session:
    """What the tabs work with: the workbench, and the images that were chosen from it.

    Args:
        bench ([`Workbench`]): Models, samples, generators and index.
        seed (`int`, *optional*, defaults to 0): The first seed that the page proposes.
    """

    def __init__(self, bench: Workbench, seed: int = 0):
        self.bench, self.seed = bench, seed
        self.samples = {sample.id: sample for sample in bench.samples}
        self.shown = viewer.varied(bench.samples)

    @functools.cached_property
    def first(self) -> Chosen | None:
        """The image that the page opens with: one with the first of `OBVIOUS` that there is, if there is one."""
        if not self.shown:
            return None
        plain = [one for finding in OBVIOUS for one in self.shown if any(name == finding for name, _ in one.boxes)]
        return self.sample((plain or self.shown)[0].id)

    def sample(self, name: str) -> Chosen:
        if name not in self.samples:
            raise Refused(f"There is no sample of that name; there are {len(self.samples)}, such as {self._some()}.")
        one = self.samples[name]
        return Chosen(one.image, f"sample {one.id}", one.impression or "", dict(one.labels), tuple(one.boxes))

    def _some(self) -> str:
        return ", ".join(list(self.samples)[:3]) or "none"

    def uploaded(self, path: str | None) -> Chosen:
        """The image in a file that was handed in, which is deleted whether it can be read or not."""
        try:
            image = read_upload(path)
        finally:
            forget_upload(path)
        return Chosen(image, f"upload {secrets.token_hex(8)}")

    def one(self, chosen: Chosen | None) -> Chosen:
        """The image to work on, the page's first where none was chosen."""
        chosen = chosen or self.first
        if chosen is None:
            raise Refused("There is no image yet: open one of your own.")
        return chosen

    def known_model(self, name: str | None, grounding: bool = False) -> str:
        """A model's name as it was given, or the first; `grounding` where it has to show where a word is."""
        names = self.grounding if grounding else list(self.bench.models)
        if not names:
            raise Refused(
                "None of the loaded models can show where a word is; load a GLoRIA or MGCA with --model."
                if grounding
                else "No model is loaded; start the page with --model <folder>."
            )
        if name in (None, ""):
            return names[0]
        if name not in names:
            raise Refused(f"There is no such model for this; there are: {', '.join(names)}.")
        return name

    def known_models(self, names: Sequence[str] | None) -> list[str]:
        if isinstance(names, str):
            names = [names]
        return [self.known_model(name) for name in names] if names else [self.known_model(None)]

    @property
    def grounding(self) -> list[str]:
        return [name for name, model in self.bench.models.items() if model.grounds]

    def image_html(self, chosen: Chosen, **layers) -> str:
        height, width = chosen.image.pixels.shape
        return viewer.image_html(
            image_picture(chosen.image, IMAGE_SIDE), chosen.alt, chosen.caption, size=(width, height), **layers
        )


def sentence(error: Exception) -> str:
    """What a refusal says, as a sentence of its own."""
    text = str(error).strip()
    return text if text.endswith((".", "!", "?")) else text + "."
