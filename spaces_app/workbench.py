"""What the page does with a film or a text: reading, grounding, finding and making, by models loaded once."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor, ProcessorMixin

from dataset_builder.findings import ABSENT, UNCERTAIN, Finding
from dataset_builder.reports.record import ReportRecord
from hub_medsyn.inference.embedding import embed_images, embed_texts, text_limit
from hub_medsyn.inference.grounding import OPENING, HeatMap, ground
from hub_medsyn.inference.prompts import DESCRIPTORS, FINDING_PROMPTS
from hub_medsyn.inference.retrieval import nearest
from hub_medsyn.inference.zero_shot import ZeroShotClassifier
from hub_medsyn.modeling_medsyn import MedSynPreTrainedModel
from spaces_app.uploads import Film, Refused

if TYPE_CHECKING:
    from dataset_builder.generators.radiograph import ImageGenerator, Radiograph

BUNDLE = Path(__file__).parent / "bundle"
MAX_PROMPTS = 16  # texts that one call compares with a film
MAX_NEIGHBOURS = 20
MAX_MADE = 4  # films that one call makes
MAX_SAMPLES = 200
MAX_SEED = 2**31 - 1
PHANTOM_SIZE = 256  # pixels
STEPS = 25  # of a diffusion pipeline
PHANTOM = "phantom"
Progress = Callable[[int, int, str], object]


@dataclass
class Model:
    """An image-text model, ready to be asked.

    Args:
        name (`str`): What the page calls it.
        model ([`ConVIRTModel`], [`GLoRIAModel`] or [`MGCAModel`]): In float32, whatever it is stored in.
        processor (`ProcessorMixin`): Its own.
        classifier ([`ZeroShotClassifier`]): Of this model; encodes each prompt once.
        grounds (`bool`): Whether it has regions, so that [`Workbench.where`] can ask it.
        card (`str`): Its README.md without the metadata, Markdown.
        about (`str`): One line: method, image encoder, side of the films it sees.
    """

    name: str
    model: MedSynPreTrainedModel
    processor: ProcessorMixin
    classifier: ZeroShotClassifier
    grounds: bool
    card: str
    about: str
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)


@dataclass(frozen=True)
class Sample:
    """A film of the dataset with what is known of it.

    Args:
        id (`str`): Its `image_id`.
        film ([`Film`]): The film.
        impression (`str`): Of its report.
        findings (`str`): The FINDINGS of its report; empty where it has none.
        labels (`dict[str, int | None]`): 1 present, 0 absent, -1 uncertain, `None` unmentioned.
        masks (`list[tuple[str, np.ndarray]]`): A finding and its `(height, width)` bool mask.
        boxes (`list[tuple[str, tuple[float, ...]]]`): A finding and its box, absolute x0, y0, x1, y1.
    """

    id: str
    film: Film
    impression: str
    findings: str
    labels: dict[str, int | None]
    masks: list[tuple[str, np.ndarray]]
    boxes: list[tuple[str, tuple[float, float, float, float]]]


@dataclass(frozen=True)
class Reading:
    """How much a film speaks for a finding, from 0 to 1, by one model; ranks films and is no probability."""

    model: str
    finding: str
    score: float


@dataclass(frozen=True)
class Made:
    """A film that a generator drew.

    Args:
        film ([`Film`]): The film.
        seed (`int`): Gives the same film again.
        masks, boxes: As in [`Sample`]; empty where the generator does not know where its findings are.
        labels (`dict[str, int | None]`, *optional*): As they can be seen, where the generator knows.
        occult (`list[str]`): What was understood and cannot be seen on this film, in words.
        understood (`list[str]`): What the reader of findings took from the impression, in words.
        view (`str`, *optional*): `PA` or `AP`, where the generator knows.
    """

    film: Film
    seed: int
    masks: list[tuple[str, np.ndarray]]
    boxes: list[tuple[str, tuple[float, float, float, float]]]
    labels: dict[str, int | None] | None
    occult: list[str]
    understood: list[str]
    view: str | None = None


class Workbench:
    """The models, films and generators behind the page.

    Every model, and every generator, answers one call at a time, with one torch thread: two people then use two cores,
    and twenty wait in turn without twenty pools of threads.
    """

    def __init__(self, models: Sequence[Model], samples: Sequence[Sample], generators: Mapping[str, ImageGenerator]):
        self.models = {model.name: model for model in models}
        self.samples = list(samples)
        self.generators = dict(generators)
        self._drawing = {name: threading.Lock() for name in self.generators}
        self._embedded: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

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
            models (`Sequence[str | Path]`, *optional*): Folders or Hub ids; those of the bundle by default.
            dataset (`str` or `Path`, *optional*): A folder or Hub id of `medsyn-cxr`; that of the bundle by default.
            generators (`Sequence[str]`, *optional*): Diffusion pipelines beside the phantom: folders or Hub ids.
            device (`str`, *optional*, defaults to `"cpu"`): Where models and pipelines are.

        Raises:
            ValueError: A model is none of this project's, or a pipeline cannot be used.
            OSError: A folder is not there, or holds no model.
        """
        torch.set_num_threads(1)
        models = list(models) or sorted(path for path in (BUNDLE / "models").glob("*") if path.is_dir())
        if not models:
            raise FileNotFoundError(
                "no model was named and none is bundled; run `make demo`, or name one with --model"
            )
        names = _names([str(path) for path in models])
        loaded = [load_model(path, name, device) for path, name in zip(models, names, strict=True)]
        dataset = BUNDLE / "medsyn-cxr" if dataset is None else dataset
        drawers = {PHANTOM: _phantom(), **{name: _diffusion(name, device) for name in generators}}
        return cls(loaded, load_samples(dataset), drawers)

    def sample(self, id: str) -> Sample:
        """The sample of this id.

        Raises:
            Refused: There is none.
        """
        for sample in self.samples:
            if sample.id == id:
                return sample
        raise Refused("There is no such sample; pick one of the list.")

    def read(self, film: Film, names: Sequence[str], findings: Sequence[str] | None = None) -> list[Reading]:
        """Scores of findings by [`ZeroShotClassifier`], model by model.

        Args:
            film ([`Film`]): What to read.
            names (`Sequence[str]`): Models.
            findings (`Sequence[str]`, *optional*, defaults to all): Keys of `FINDING_PROMPTS`.

        Raises:
            Refused: A model or finding is unknown, or none is given.
        """
        findings = list(FINDING_PROMPTS) if findings is None else list(findings)
        for finding in findings:
            if finding not in FINDING_PROMPTS:
                raise Refused("There is no such finding; pick one of the list.")
        readings = []
        for model in self._models(names):
            with model.lock:
                scores = model.classifier(film.pixels)
            readings += [Reading(model.name, finding, float(scores.of(finding)[0])) for finding in findings]
        return readings

    def explain(self, film: Film, name: str, finding: str) -> list[tuple[str, float]]:
        """The visible signs of a finding, the one that the model sees most first, each from 0 to 1.

        Raises:
            Refused: The model or the finding is unknown.
        """
        if finding not in DESCRIPTORS:
            raise Refused("There is no such finding; pick one of the list.")
        (model,) = self._models([name])
        with model.lock:
            return model.classifier.explain(film.pixels, finding)

    def free_text(self, film: Film, names: Sequence[str], texts: Sequence[str]) -> dict[str, list[tuple[str, float]]]:
        """Each model's own similarity of a film with texts, the most similar first.

        These are `logits_per_image`: they compare the texts of one model, and mean nothing between models.

        Raises:
            Refused: There are too many texts, one is too long for a model, or a model is unknown.
        """
        texts = list(dict.fromkeys(texts))
        if not 1 <= len(texts) <= MAX_PROMPTS:
            raise Refused(f"There are {len(texts)} texts; give 1 to {MAX_PROMPTS}.")
        answers = {}
        for model in self._models(names):
            for text in texts:
                _check_length(model, text)
            with model.lock:
                (scores,) = model.classifier.free_text(film.pixels, texts).tolist()
            answers[model.name] = sorted(zip(texts, scores, strict=True), key=lambda pair: -pair[1])
        return answers

    def where(self, film: Film, name: str, phrase: str) -> HeatMap:
        """Where in a film a word or phrase is, by [`~hub_medsyn.inference.grounding.ground`].

        Raises:
            Refused: The model has no regions, the phrase has no word or is too long.
        """
        (model,) = self._models([name])
        if not model.grounds:
            able = [other.name for other in self.models.values() if other.grounds]
            way_out = f"{' and '.join(able)} can" if able else "none that is loaded here can"
            raise Refused(f"{name} compares whole films with whole texts and cannot point at places; {way_out}.")
        _check_length(model, phrase)
        if not any(character.isalnum() for character in phrase):
            raise Refused("The phrase holds no word; write one, such as effusion.")
        with model.lock:
            return ground(model.model, model.processor, film.pixels, phrase)

    def nearest_films(self, query: str | Film, name: str, k: int = 5) -> list[tuple[Sample, float]]:
        """The films of the dataset whose embeddings have the largest cosine with that of a text or a film.

        Raises:
            Refused: The model is unknown, `k` is out of range, or the text is too long.
        """
        films, _ = self._index(name)
        return [(self.samples[row], score) for row, score in self._nearest(query, name, films, k)]

    def nearest_reports(self, film: Film, name: str, k: int = 5) -> list[tuple[Sample, float]]:
        """The reports of the dataset nearest to a film; equal impressions once, by the first sample that has them.

        Raises:
            Refused: As in [`Workbench.nearest_films`].
        """
        _, texts = self._index(name)
        first = list({sample.impression: row for row, sample in reversed(list(enumerate(self.samples)))}.values())
        first.sort()
        found = self._nearest(film, name, texts[first], k)
        return [(self.samples[first[row]], score) for row, score in found]

    def make(
        self,
        impression: str,
        generator: str = PHANTOM,
        number: int = 1,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> list[Made]:
        """Films drawn to match an impression; film `i` has the seed `seed + i`.

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
        number, seed = _whole(number, "number of films", 1, MAX_MADE), _whole(seed, "seed", 0, MAX_SEED)
        record = ReportRecord(study_id="made", subject_id="made", impression=impression)
        drawer, made = self.generators[generator], []
        with self._drawing[generator]:
            for place in range(number):
                if progress is not None:
                    progress(place, number, f"film {place + 1} of {number}")
                (drawn,) = drawer([record], [seed + place])
                made.append(_made(drawn, seed + place, impression))
        return made

    def _models(self, names: Sequence[str]) -> list[Model]:
        if not names:
            raise Refused("No model is chosen; pick one or more.")
        for name in names:
            if name not in self.models:
                raise Refused(f"There is no such model; pick one of {', '.join(self.models)}.")
        return [self.models[name] for name in dict.fromkeys(names)]

    def _index(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        (model,) = self._models([name])
        with model.lock:
            if name not in self._embedded:
                films = embed_images(model.model, model.processor, [sample.film.pixels for sample in self.samples])
                texts = embed_texts(model.model, model.processor, [sample.impression for sample in self.samples])
                self._embedded[name] = (films, texts)
            return self._embedded[name]

    def _nearest(self, query: str | Film, name: str, index: torch.Tensor, k: int) -> Iterator[tuple[int, float]]:
        (model,) = self._models([name])
        k = min(_whole(k, "number of answers", 1, MAX_NEIGHBOURS), len(index))
        if isinstance(query, str):
            _check_length(model, query)
        with model.lock:
            if isinstance(query, str):
                embedded = embed_texts(model.model, model.processor, [query])
            else:
                embedded = embed_images(model.model, model.processor, [query.pixels])
        scores, rows = nearest(embedded, index, k)
        return zip(rows[0].tolist(), scores[0].tolist(), strict=True)


def load_model(path: str | Path, name: str, device: str = "cpu") -> Model:
    """Loads one model.

    Raises:
        ValueError: It is none of this project's.
        OSError: There is none.
    """
    import hub_medsyn  # noqa: F401  registers the models

    model = AutoModel.from_pretrained(path, dtype=torch.float32)
    if not isinstance(model, MedSynPreTrainedModel):
        raise ValueError(f"{path} is a {type(model).__name__}; name a ConVIRT, GLoRIA or MGCA of this project")
    model = model.to(device).eval()
    processor = AutoProcessor.from_pretrained(path)
    card = Path(path) / "README.md"
    kind = type(model).__name__.removesuffix("Model")
    about = f"{kind} with {model.config.vision_config.architecture}, films of {model.config.image_size} pixels"
    return Model(
        name=name,
        model=model,
        processor=processor,
        classifier=ZeroShotClassifier(model, processor),
        grounds=model.config.model_type in OPENING,
        card=_without_metadata(card.read_text(encoding="utf-8")) if card.is_file() else "",
        about=about,
    )


def load_samples(dataset: str | Path, most: int = MAX_SAMPLES) -> list[Sample]:
    """The first films of a dataset, those that no model was trained on first.

    Raises:
        ValueError: The dataset has no films, or columns are missing.
        OSError: There is no such dataset.
    """
    from datasets import Image as ImageColumn
    from datasets import load_dataset

    splits = load_dataset(str(dataset))
    samples: list[Sample] = []
    for split in sorted(splits, key=lambda name: ("test", "validation", "train").index(name)):
        rows = splits[split].cast_column("image", ImageColumn(decode=False))
        for row in rows.select(range(min(len(rows), most - len(samples)))):
            samples.append(_sample(row))
    if not samples:
        raise ValueError(f"the dataset {dataset} holds no films")
    return samples


def describe(finding: Finding) -> str:
    """A finding in words, such as `moderate left pleural effusion` or `no pneumothorax`."""
    sure = {ABSENT: "no", UNCERTAIN: "possible"}.get(finding.certainty)
    place = f"{finding.zone} zone" if finding.zone else None
    words = " ".join(word for word in (sure, finding.severity, finding.side, finding.kind) if word)
    return f"{words}, {place}" if place else words


def _sample(row: dict) -> Sample:
    pixels = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("L"))
    masks = [(entry["finding"], np.asarray(entry["mask"]) > 127) for entry in row.get("finding_masks") or ()]
    boxes = [(entry["finding"], tuple(entry["box"])) for entry in row.get("boxes") or ()]
    return Sample(
        id=row["image_id"],
        film=Film(pixels, row["image_id"]),
        impression=row["impression"],
        findings=row["findings"] or "",
        labels=row["labels"],
        masks=masks,
        boxes=boxes,
    )


def _made(drawn: Radiograph, seed: int, impression: str) -> Made:
    from dataset_builder.reports.labeler import read_findings

    return Made(
        film=Film(drawn.image, f"made with seed {seed}"),
        seed=seed,
        masks=[(finding.kind, mask) for finding, mask in drawn.masks],
        boxes=[(finding.kind, box) for finding, box in drawn.boxes],
        labels=drawn.labels,
        occult=[describe(finding) for finding in drawn.occult],
        understood=[describe(finding) for finding in read_findings(impression)],
        view=drawn.view,
    )


def _check_length(model: Model, text: str) -> None:
    limit = text_limit(model.model, model.processor)
    tokens = len(model.processor.tokenizer(text, verbose=False)["input_ids"])
    if tokens > limit:
        raise Refused(f"This text has {tokens} tokens (words and pieces) and {model.name} reads {limit}; shorten it.")


def _whole(value: float, what: str, least: int, most: int) -> int:
    if not isinstance(value, int | float) or value != value or not least <= value <= most or value != int(value):
        raise Refused(f"The {what} has to be a whole number from {least} to {most}.")
    return int(value)


def _names(paths: list[str]) -> list[str]:
    """Short names that differ: the last part of each path, with the one before it where that says too little."""
    last = [Path(path).name for path in paths]
    names = [
        f"{Path(path).parent.name}/{name}" if last.count(name) > 1 or name.startswith("checkpoint") else name
        for path, name in zip(paths, last, strict=True)
    ]
    if len(set(names)) < len(names):
        raise ValueError(f"two models are called {max(names, key=names.count)}; name folders that differ")
    return names


def _without_metadata(card: str) -> str:
    return card.split("\n---\n", 1)[1].lstrip() if card.startswith("---\n") and "\n---\n" in card else card


def _phantom() -> ImageGenerator:
    from dataset_builder.generators.phantom import PhantomGenerator

    return PhantomGenerator(image_size=PHANTOM_SIZE)


def _diffusion(name: str, device: str) -> ImageGenerator:
    from dataset_builder.generators.diffusion import DiffusionGenerator

    generator = DiffusionGenerator(name, num_inference_steps=STEPS, batch_size=1, device=device)
    generator.settings()  # finds the pipeline now, rather than when somebody waits for a film
    return generator
