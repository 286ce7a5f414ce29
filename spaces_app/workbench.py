"""What the page does with an image or a text: reading, grounding, finding and making, by models loaded once."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from datasets import Dataset

from dataset_builder.findings import ABSENT, UNCERTAIN, Finding
from dataset_builder.generators.diffusion import DiffusionGenerator
from dataset_builder.generators.phantom import PhantomGenerator
from dataset_builder.generators.radiograph import GenerationError, Radiograph
from dataset_builder.reports.labeler import read_findings
from dataset_builder.reports.record import ReportRecord
from hub_medsyn.inference.embedding import embed_images, embed_texts, text_limit
from hub_medsyn.inference.grounding import HeatMap, ground
from hub_medsyn.inference.prompts import DESCRIPTORS, FINDING_PROMPTS
from medsyn.errors import UserError
from spaces_app.bundled import bundle_paths
from spaces_app.guard.uploads import Refused, Upload, checked_text
from spaces_app.index import ImageIndex
from spaces_app.loading import (
    Model,
    Sample,
    load_images,
    load_model,
    load_pipeline,
    sample_of,
    share_heaps,
    short_names,
)

if TYPE_CHECKING:
    from dataset_builder.generators.radiograph import ImageGenerator

MAX_PROMPTS = 16  # texts that one call compares with an image
MAX_NEIGHBOURS = 20
MAX_MADE = 4  # images that one call makes
MAX_SEED = 2**31 - 1
PHANTOM = "phantom"
PHANTOM_SIZE = 256  # pixels
Progress = Callable[[int, int, str], object]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reading:
    """How much an image speaks for a finding, from 0 to 1, by one model; ranks images and is no probability."""

    model: str
    finding: str
    score: float


@dataclass(frozen=True)
class Made:
    """An image that a generator drew.

    Args:
        image ([`Image`]): The image.
        seed (`int`): Gives the same image again.
        masks, boxes: As in [`Sample`]; empty where the generator does not know where its findings are.
        labels (`dict[str, int | None]`, *optional*): As they can be seen, where the generator knows.
        occult (`list[str]`): What was understood and cannot be seen on this image, in words.
        understood (`list[str]`): What the reader of findings took from the impression, in words.
        view (`str`, *optional*): `PA` or `AP`, where the generator knows.
    """

    image: Upload
    seed: int
    masks: list[tuple[str, np.ndarray]]
    boxes: list[tuple[str, tuple[float, float, float, float]]]
    labels: dict[str, int | None] | None
    occult: list[str]
    understood: list[str]
    view: str | None = None


class Workbench:
    """The models, images and generators behind the page.

    Every model, and every generator, answers one call at a time, with one torch thread: two people then use two cores,
    and twenty wait in turn without twenty pools of threads.

    Args:
        models (`Sequence[Model]`): As [`load_model`] makes them.
        rows (`datasets.Dataset`): Images to pick from and to search, as [`load_images`] reads them.
        generators (`Mapping[str, ImageGenerator]`): By the names that the page shows.
    """

    def __init__(self, models: Sequence[Model], rows: Dataset, generators: Mapping[str, ImageGenerator]):
        self.models = {model.name: model for model in models}
        self.rows = rows
        self.samples = [sample_of(row) for row in rows]
        self.generators = dict(generators)
        self.index: dict[str, ImageIndex] = {}  # of each model, from its first search on
        self._drawing = {name: threading.Lock() for name in self.generators}

    @classmethod
    def start(
        cls,
        models: Sequence[str | Path] = (),
        dataset: str | Path | None = None,
        generators: Sequence[str] = (),
        device: str = "cpu",
    ) -> Workbench:
        """Loads what the page needs.

        Args:
            models (`Sequence[str | Path]`, *optional*): Folders or Hub ids; by default those of the bundle, and of a
                demo that was run in the working directory.
            dataset (`str` or `Path`, *optional*): A folder or Hub id of `medsyn-cxr`; that of the bundle by default.
            generators (`Sequence[str]`, *optional*): Diffusion pipelines beside the phantom: folders or Hub ids.
            device (`str`, *optional*, defaults to `"cpu"`): Where models and pipelines are.

        Raises:
            UserError: A model is none of this project's, or a pipeline cannot be used.
            OSError: A folder is not there, or holds no model.
        """
        torch.set_num_threads(1)
        share_heaps()
        named = short_names([str(path) for path in models])
        if not models or dataset is None:
            openable = bundle_paths()
            if not models:
                named = {name: str(path) for one in openable for name, path in one.models.items()}
            dataset = openable[0].dataset if dataset is None else dataset
        drawers: dict[str, ImageGenerator] = {PHANTOM: PhantomGenerator(image_size=PHANTOM_SIZE)}
        for pipeline in generators:
            drawer = load_pipeline(pipeline, device)
            if drawer.name in drawers:
                raise UserError(f"two generators are called {drawer.name}; name folders that differ")
            drawers[drawer.name] = drawer
        loaded = [load_model(path, name, device) for name, path in named.items()]
        return cls(loaded, load_images(dataset), drawers)

    def warm_up(self) -> None:
        """Does what the first visitor would wait for: encodes the prompts, builds the indexes, renders a phantom."""
        for name in self.models:
            self.read(self.samples[0].image, [name])
            if self._searchable:
                self.nearest_images(self.samples[0].image, name, 1)
        self.make("Normal chest.")

    @property
    def _searchable(self) -> bool:
        return any(sample.impression for sample in self.samples)

    def sample(self, id: str) -> Sample:
        """The sample of this id.

        Raises:
            Refused: There is none.
        """
        for sample in self.samples:
            if sample.id == id:
                return sample
        raise Refused("There is no such sample; pick one of the list.")

    def read(self, image: Upload, names: Sequence[str], findings: Sequence[str] | None = None) -> list[Reading]:
        """Scores of findings by [`ZeroShotClassifier`], model by model.

        Args:
            image ([`Image`]): What to read.
            names (`Sequence[str]`): Models.
            findings (`Sequence[str]`, *optional*, defaults to all): Keys of `FINDING_PROMPTS`.

        Raises:
            Refused: A model or finding is unknown, or none is given.
        """
        findings = list(FINDING_PROMPTS) if findings is None else list(findings)
        for finding in findings:
            _known_finding(finding)
        readings = []
        for model in self._models(names):
            with model.lock:
                scores = model.classifier(image.pixels)
            readings += [Reading(model.name, finding, float(scores.of(finding)[0])) for finding in findings]
        return readings

    def explain(self, image: Upload, name: str, finding: str) -> list[tuple[str, float]]:
        """The visible signs of a finding, the one that the model sees most first, each from 0 to 1.

        Raises:
            Refused: The model or the finding is unknown.
        """
        (model,) = self._models([name])
        if _known_finding(finding) not in DESCRIPTORS:
            raise Refused(f"{finding} has no signs of its own; pick another finding.")
        with model.lock:
            return model.classifier.explain(image.pixels, finding)

    def free_text(
        self, image: Upload, names: Sequence[str], texts: Sequence[str]
    ) -> dict[str, list[tuple[str, float]]]:
        """Each model's own similarity of an image with texts, the most similar first.

        These are `logits_per_image`: they compare the texts of one model, and mean nothing between models.

        Raises:
            Refused: There are too many texts, one is too long for a model, or a model is unknown.
        """
        texts = list(dict.fromkeys(checked_text(text, "prompt") for text in texts))
        if not 1 <= len(texts) <= MAX_PROMPTS:
            raise Refused(f"There are {len(texts)} texts; give 1 to {MAX_PROMPTS}.")
        answers = {}
        for model in self._models(names):
            for text in texts:
                _check_readable(model, text)
            with model.lock:
                (scores,) = model.classifier.free_text(image.pixels, texts).tolist()
            answers[model.name] = sorted(zip(texts, scores, strict=True), key=lambda pair: -pair[1])
        return answers

    def where(self, image: Upload, name: str, phrase: str) -> HeatMap:
        """Where in an image a word or phrase is, by [`~hub_medsyn.inference.grounding.ground`].

        Raises:
            Refused: The model has no regions, the phrase has no word or is too long.
        """
        (model,) = self._models([name])
        phrase = checked_text(phrase, "phrase")
        if not model.grounds:
            able = [other.name for other in self.models.values() if other.grounds]
            way_out = f"{' and '.join(able)} can" if able else "none that is loaded here can"
            raise Refused(f"{name} compares whole images with whole texts and cannot point at places; {way_out}.")
        _check_readable(model, phrase)
        if not any(character.isalnum() for character in phrase):
            raise Refused("The phrase holds no word; write one, such as effusion.")
        with model.lock:
            return ground(model.model, model.processor, image.pixels, phrase)

    def nearest_images(self, query: str | Upload, name: str, k: int = 5) -> list[tuple[Sample, float]]:
        """The images of the dataset whose embeddings have the largest cosine with that of a text or an image.

        Raises:
            Refused: The model is unknown, `k` is out of range, or the text is too long.
        """
        return self._nearest(query, name, "images", k)

    def nearest_reports(self, image: Upload, name: str, k: int = 5) -> list[tuple[Sample, float]]:
        """The reports of the dataset nearest to an image; equal impressions once, by the first sample that has them.

        Raises:
            Refused: As in [`Workbench.nearest_images`].
        """
        return self._nearest(image, name, "reports", k)

    def make(
        self,
        impression: str,
        generator: str = PHANTOM,
        number: int = 1,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> list[Made]:
        """Images drawn to match an impression; image `i` has the seed `seed + i`.

        Args:
            impression (`str`): As a report's.
            generator (`str`, *optional*, defaults to `"phantom"`): One of `generators`.
            number (`int`, *optional*, defaults to 1): How many, up to `MAX_MADE`.
            seed (`int`, *optional*, defaults to 0): From 0 to `MAX_SEED`.
            progress (`Callable`, *optional*): Told steps done, steps in all, and what is being done.

        Raises:
            Refused: The generator is unknown, a number is out of range, or the image could not be made.
        """
        if generator not in self.generators:
            raise Refused(f"There is no such generator; pick one of {', '.join(self.generators)}.")
        number = _whole(number, "number of images", 1, MAX_MADE)
        seed = _whole(seed, "seed", 0, MAX_SEED + 1 - number)
        impression = checked_text(impression, "impression")
        drawer, drawn = self.generators[generator], []
        if drawer.overlong([impression]):
            raise Refused(f"This impression is longer than {generator} reads; shorten it.")
        record = ReportRecord(study_id="made", subject_id="made", impression=impression)
        seeds = range(seed, seed + number)
        report = progress or _nobody
        try:
            with self._drawing[generator]:
                for place, one in enumerate(seeds):
                    drawn += _draw(drawer, record, one, functools.partial(_in_all, report, place, number))
        except GenerationError:
            logger.exception("the generator %s could not make an image", generator)
            raise Refused(f"{generator} could not make this image; try another seed or another generator.") from None
        return [_made(image, one, impression) for image, one in zip(drawn, seeds, strict=True)]

    def _models(self, names: Sequence[str]) -> list[Model]:
        if not names:
            raise Refused("No model is chosen; pick one or more.")
        for name in names:
            if not isinstance(name, str) or name not in self.models:
                raise Refused(f"There is no such model; pick one of {', '.join(self.models)}.")
        return [self.models[name] for name in dict.fromkeys(names)]

    def _nearest(
        self, query: str | Upload, name: str, among: Literal["images", "reports"], k: int
    ) -> list[tuple[Sample, float]]:
        (model,) = self._models([name])
        k = _whole(k, "number of answers", 1, MAX_NEIGHBOURS)
        if not self._searchable:
            raise Refused("The images loaded here have no reports, so there is nothing to search.")
        image = isinstance(query, Upload)
        if not image:
            query = checked_text(query, "report")
            _check_readable(model, query)
        with model.lock:
            if name not in self.index:
                self.index[name] = ImageIndex.build(model.model, model.processor, self.rows, "impression")
            index = self.index[name]
            if image:
                (embedded,) = embed_images(model.model, model.processor, [query.pixels])
            else:
                (embedded,) = embed_texts(model.model, model.processor, [query])
        cosines, rows = index.nearest(
            embedded, min(k, len(index.images if among == "images" else index.reports)), among
        )
        return [(self.samples[row], cosine) for row, cosine in zip(rows.tolist(), cosines.tolist(), strict=True)]


def describe(finding: Finding) -> str:
    """A finding in words, such as `moderate left pleural effusion` or `no pneumothorax`."""
    sure = {ABSENT: "no", UNCERTAIN: "possible"}.get(finding.certainty)
    place = f"{finding.zone} zone" if finding.zone else None
    words = " ".join(word for word in (sure, finding.severity, finding.side, finding.kind) if word)
    return f"{words}, {place}" if place else words


def _made(drawn: Radiograph, seed: int, impression: str) -> Made:
    return Made(
        image=Upload(drawn.image, f"made with seed {seed}"),
        seed=seed,
        masks=[(finding.kind, mask) for finding, mask in drawn.masks],
        boxes=[(finding.kind, box) for finding, box in drawn.boxes],
        labels=drawn.labels,
        occult=[describe(finding) for finding in drawn.occult],
        understood=[describe(finding) for finding in read_findings(impression)],
        view=drawn.view,
    )


def _nobody(*_) -> None:
    """Progress that nobody asked for."""


def _in_all(report: Progress, place: int, number: int, step: int, steps: int) -> None:
    """Tells the steps of one image of several as steps of all."""
    report(place * steps + step, number * steps, f"image {place + 1} of {number}, step {step} of {steps}")


def _draw(
    drawer: ImageGenerator, record: ReportRecord, seed: int, on_step: Callable[[int, int], object]
) -> list[Radiograph]:
    if isinstance(drawer, DiffusionGenerator):
        return drawer([record], [seed], on_step=on_step)
    drawn = drawer([record], [seed])
    on_step(1, 1)
    return drawn


def _known_finding(finding: str) -> str:
    if not isinstance(finding, str) or finding not in FINDING_PROMPTS:
        raise Refused("There is no such finding; pick one of the list.")
    return finding


def _check_readable(model: Model, text: str) -> None:
    """Refuses what the model would cut off, or knows no word of."""
    tokenizer, limit = model.processor.tokenizer, text_limit(model.model, model.processor)
    tokens = tokenizer(text, verbose=False)["input_ids"]
    if len(tokens) > limit:
        raise Refused(
            f"This text has {len(tokens)} tokens (words and pieces of words) and {model.name} reads {limit}; "
            "shorten it."
        )
    if not set(tokens) - set(tokenizer.all_special_ids):
        raise Refused(f"{model.name} knows none of these words; try those of a radiology report.")


def _whole(value: float, what: str, least: int, most: int) -> int:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not least <= value <= most or value != int(value):  # NaN is in no range
        raise Refused(f"The {what} has to be a whole number from {least} to {most}.")
    return int(value)
