"""What a bundled model knows of images it has not seen: their findings, where these are, and whose report it is."""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from datasets import Dataset
from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin

from dataset_builder.findings import CHEXPERT_LABELS

HEADING = "\n## Measured\n"  # in a card: the last section of its own
COMMAND = "python -m scripts.bundle --measure"
REAL_LABELS = ("No Finding", "Cardiomegaly", "Atelectasis", "Pleural Effusion", "Lung Opacity", "Edema")


@dataclass
class Area:
    """Areas under the ROC curve of scores from prompts alone.

    Args:
        macro (`float`): Their plain mean.
        interval (`tuple[float, float]`): Its 95 % bootstrap interval over patients.
        labels (`dict[str, tuple[float, int]]`): Of each label, with its number of positives.
        images (`int`): How many images.
    """

    macro: float
    interval: tuple[float, float]
    labels: dict[str, tuple[float, int]]
    images: int


@dataclass
class Scores:
    """What is measured on phantoms; `hits` and `chance` are means over findings with boxes, `None` without regions."""

    zero_shot: Area
    hits: float | None = None
    chance: float | None = None
    kinds: dict[str, tuple[float, float, int]] = field(default_factory=dict)
    retrieval: dict[str, float] = field(default_factory=dict)
    retrieval_chance: dict[str, float] = field(default_factory=dict)
    reports: int = 0

    @property
    def finds_places(self) -> bool:
        """Whether heat maps hit boxes clearly more often than pointing at random does."""
        return self.hits is not None and self.hits > 1.5 * self.chance


def targets_of(rows: Dataset, names: tuple[str, ...] = CHEXPERT_LABELS) -> np.ndarray:
    """`(images, labels)`: 1 present, NaN uncertain, 0 otherwise, for a phantom has nothing that is not labelled."""
    values = [[labels[name] for name in names] for labels in rows["labels"]]
    return np.array([[np.nan if value == -1 else float(value == 1) for value in row] for row in values])


def area_under(classifier, images: list, targets: np.ndarray, names, patients, seed: int = 0) -> Area:
    """Scores images by the classifier's prompts and measures them; labels without positives are left out."""
    from hub_medsyn.metrics.macro_auroc import bootstrap_macro_auroc, confidence_interval, macro_auroc

    result = classifier(images)
    said = result.scores[:, [result.findings.index(name) for name in names]].numpy()
    measured = macro_auroc(targets, said, names)
    positives = dict(zip(names, (targets == 1).sum(0).tolist(), strict=True))
    return Area(
        measured.value,
        confidence_interval(bootstrap_macro_auroc(targets, said, patients, seed=seed)),
        {name: (value, positives[name]) for name, value in measured.per_label.items()},
        len(images),
    )


def measure(model: PreTrainedModel, processor: ProcessorMixin, rows: Dataset, seed: int = 0) -> Scores:
    """Measures a model on rows of a phantom dataset.

    Args:
        model (`PreTrainedModel`): A ConVIRT, GLoRIA or MGCA.
        processor (`ProcessorMixin`): Saved with it.
        rows (`datasets.Dataset`): With `image`, `labels`, `boxes`, `impression` and `subject_id`.
        seed (`int`, *optional*, defaults to 0): Of the bootstrap.

    Returns:
        [`Scores`]
    """
    from hub_medsyn.inference.grounding import OPENING, ground, pointing_game, pointing_game_chance
    from hub_medsyn.inference.retrieval import distinct_texts, model_similarity, ranks_from_similarity
    from hub_medsyn.inference.zero_shot import ZeroShotClassifier

    images = list(rows["image"])
    classifier = ZeroShotClassifier(model, processor)
    scores = Scores(area_under(classifier, images, targets_of(rows), CHEXPERT_LABELS, list(rows["subject_id"]), seed))
    distinct, text_of_image = distinct_texts(list(rows["impression"]))
    similarity = model_similarity(model, processor, images, distinct)  # (images, reports)
    ranks = ranks_from_similarity(similarity, text_of_image)
    scores.retrieval, scores.retrieval_chance = ranks.metrics((1, 5)), ranks.chance((1, 5))
    scores.reports = len(distinct)
    if model.config.model_type in OPENING:
        hits, chances = defaultdict(list), defaultdict(list)
        for image, boxes in zip(images, rows["boxes"], strict=True):
            by_kind = defaultdict(list)
            for box in boxes:
                by_kind[box["finding"]].append(box["box"])
            for kind, corners in by_kind.items():
                hits[kind].append(pointing_game(ground(model, processor, image, kind), corners))
                chances[kind].append(pointing_game_chance(corners, (image.height, image.width)))
        scores.kinds = {
            kind: (float(np.mean(hits[kind])), float(np.mean(chances[kind])), len(hits[kind])) for kind in sorted(hits)
        }
        scores.hits = float(np.mean(sum(hits.values(), [])))
        scores.chance = float(np.mean(sum(chances.values(), [])))
    return scores


def measure_real(model: PreTrainedModel, processor: ProcessorMixin, folder: Path, seed: int = 0) -> Area:
    """Findings by prompts on the real radiographs of the test patients of an Open-i folder with `openi_iu.csv`.

    Raises:
        FileNotFoundError: If the folder has no such table or one of its images.
    """
    from hub_medsyn.inference.zero_shot import ZeroShotClassifier

    with (folder / "openi_iu.csv").open(encoding="utf-8", newline="") as table:
        rows = [row for row in csv.DictReader(table) if row["split"] == "test"]
    images = [Image.open(folder / row["file"]).convert("L") for row in rows]
    listed = [row["labels"].split("|") for row in rows]
    targets = np.array([[float(name in labels) for name in REAL_LABELS] for labels in listed])
    patients = [row["patient_id"] for row in rows]
    return area_under(ZeroShotClassifier(model, processor), images, targets, REAL_LABELS, patients, seed)


def section(scores: Scores, real: Area | None, before: Area | None, learnt: int) -> str:
    """The part of a model's card that tells its numbers, Markdown.

    Args:
        scores ([`Scores`]): On the bundle's images.
        real ([`Area`], *optional*): On real radiographs.
        before ([`Area`], *optional*): On the bundle's images, before the weights were stored in half precision.
        learnt (`int`): How many of the bundle's images have an impression that stands among those it learnt from.
    """
    area = scores.zero_shot
    lines = [
        HEADING.strip(),
        "",
        f"Made by `{COMMAND}` on the {area.images} phantoms of the Space's bundle. Their reports and subjects took no "
        f"part in training; {learnt} of the impressions, mostly of normal images, are worded like one that did. Three "
        "quarters of these images have findings, chosen so that each kind occurs, so these numbers cannot be compared "
        "with those of other sets.",
        "",
        f"**Findings by prompts alone**: macro AUROC {area.macro:.3f} (95 % interval over subjects "
        f"{area.interval[0]:.3f} to {area.interval[1]:.3f}), chance 0.5."
        + (f" In single precision, as it was trained, it is {before.macro:.3f}." if before else ""),
        "",
        "| finding | AUROC | images with it |",
        "|---|---|---|",
        *(f"| {name} | {value:.3f} | {positives} |" for name, (value, positives) in area.labels.items()),
        "",
    ]
    if scores.kinds:
        cases = sum(number for _, _, number in scores.kinds.values())
        best = max(scores.kinds, key=lambda kind: scores.kinds[kind][0] - scores.kinds[kind][1])
        of_best, by_chance, _ = scores.kinds[best]
        lines += [
            f"**Where a finding is**: for the finding's name the hottest pixel lies in one of its boxes in "
            f"{scores.hits:.1%} of {cases} cases; a pixel at random does in {scores.chance:.1%}. Best is {best}, "
            f"{of_best:.0%} against {by_chance:.0%}."
            + ("" if scores.finds_places else " Its heat maps tell little of where a finding is."),
            "",
            "| finding | hits | at random | cases |",
            "|---|---|---|---|",
            *(f"| {name} | {hit:.2f} | {chance:.2f} | {n} |" for name, (hit, chance, n) in scores.kinds.items()),
            "",
        ]
    found, chance = scores.retrieval, scores.retrieval_chance
    lines += [
        f"**Whose report it is**: an image's own impression comes at rank {found['image_to_text_median_rank']:g} of "
        f"{scores.reports} (median; at random {chance['image_to_text_median_rank']:g}) and among the first five for "
        f"{found['image_to_text_recall_at_5']:.1%} of the images (at random "
        f"{chance['image_to_text_recall_at_5']:.1%}).",
        "",
    ]
    if real:
        labels = ", ".join(f"{name} {value:.2f}" for name, (value, _) in real.labels.items())
        lines += [
            f"**Real radiographs**: on {real.images} images of Open-i's test patients the zero-shot macro AUROC "
            f"is {real.macro:.3f} ({real.interval[0]:.3f} to {real.interval[1]:.3f}): {labels}. It is an encoder of "
            "phantoms: what it says of patients is weak, and nothing of it should be relied on.",
            "",
        ]
    lines += [
        "**Limits**: a small network that saw some two thousand phantoms of one CT's anatomy, at 128 or 160 pixels, "
        "with the words of a grammar; words beyond it are spelt and mean little to it. Small and thin findings "
        "(nodules, tubes, bands of atelectasis) are mostly below what it resolves. Scores rank images and are no "
        "probabilities.",
    ]
    return "\n".join(lines) + "\n"


def write_section(card_path: Path, scores: Scores, real: Area | None, before: Area | None, learnt: int) -> None:
    """Puts the numbers into a card, as text and as `model-index`, in the place of earlier ones."""
    from huggingface_hub import EvalResult, ModelCard

    def result(dataset: str, metric: str, name: str, value: float) -> EvalResult:
        return EvalResult(
            task_type="zero-shot-image-classification",
            task_name="Zero-shot",
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split="test",
            metric_type=metric,
            metric_name=name,
            metric_value=round(value, 4),
        )

    card = ModelCard.load(card_path)
    phantoms, prompts, pointing = "medsyn-cxr of the bundle", "macro AUROC by prompts", "hits of the pointing game"
    results = [one for one in card.data.eval_results or [] if one.metric_name not in (prompts, pointing)]
    results.append(result(phantoms, "roc_auc", prompts, scores.zero_shot.macro))
    if scores.hits is not None:
        results.append(result(phantoms, "accuracy", pointing, scores.hits))
    if real:
        results.append(result("Open-i", "roc_auc", prompts, real.macro))
    card.data.eval_results = results
    card.text = f"{card.text.split(HEADING)[0].rstrip()}\n\n{section(scores, real, before, learnt)}"
    partial = card_path.with_name(".README.md.partial")
    card.save(partial)
    os.replace(partial, card_path)
