"""Findings on an image from prompts alone: each finding asked for by itself, each image scored by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm
from transformers import ProcessorMixin

from hub_medsyn.image_processing_medsyn import MedSynImageProcessor
from hub_medsyn.inference.embedding import evaluating, text_limit
from hub_medsyn.inference.prompts import DESCRIPTORS, FINDING_PROMPTS, PromptPair, class_prompts, known
from hub_medsyn.modeling_medsyn import MedSynPreTrainedModel, continues_word
from medsyn.errors import UserError


@dataclass(frozen=True)
class ZeroShotScores:
    """How much each image speaks for each finding.

    Args:
        findings (`tuple[str, ...]`): What the columns stand for.
        scores (`torch.FloatTensor` of shape `(images, findings)`): On the CPU; larger means more likely present.
    """

    findings: tuple[str, ...]
    scores: Tensor

    def of(self, finding: str) -> Tensor:
        """The scores of one finding, `(images,)`.

        Raises:
            UserError: If it was not asked for, naming those that were.
        """
        if finding not in self.findings:
            raise UserError(f"{finding!r} was not asked for; these were: {', '.join(self.findings)}")
        return self.scores[:, self.findings.index(finding)]


class ZeroShotClassifier:
    """Reads findings off images by prompts, without a labelled example.

    A finding's logit is the mean of the model's similarities (its `logits_per_image`) over its positive wordings, less
    that over its negative ones; its score is the softmax over this pair, between 0 and 1. Findings are independent: a
    image may have several or none. An image's score depends on no other image. Scores rank images; they are no
    calibrated probabilities, and 0.5 is no threshold that was tuned on anything.

    Prompts are encoded once: after training on, make a new classifier. The model is used in evaluation mode and gets
    its own mode back.

    Args:
        model ([`ConVIRTModel`], [`GLoRIAModel`] or [`MGCAModel`]): On any device, in any floating type.
        processor (`ProcessorMixin`): The model's own, with an `image_processor` and a `tokenizer`.
        prompts (`Mapping[str, PromptPair]`, *optional*, defaults to `FINDING_PROMPTS`): What to ask for.
        batch_size (`int`, *optional*, defaults to 32): Images, and prompts, encoded at once.

    Raises:
        UserError: If there are no prompts, `batch_size` is not positive, or model and processor do not match.

    Example:

    ```python
    >>> import hub_medsyn
    >>> from transformers import AutoModel, AutoProcessor
    >>> from hub_medsyn.inference.zero_shot import ZeroShotClassifier

    >>> model, processor = AutoModel.from_pretrained("out/gloria"), AutoProcessor.from_pretrained("out/gloria")
    >>> classifier = ZeroShotClassifier(model, processor)
    >>> classifier([image]).of("Pleural Effusion")
    >>> classifier.explain(image, "Pleural Effusion")
    ```
    """

    def __init__(
        self,
        model: MedSynPreTrainedModel,
        processor: ProcessorMixin,
        prompts: Mapping[str, PromptPair] = FINDING_PROMPTS,
        batch_size: int = 32,
    ):
        if not prompts:
            raise UserError("prompts is empty; pass one PromptPair or more")
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size} is not 1 or more")
        check_belong_together(model, processor)
        self.model, self.processor, self.prompts, self.batch_size = model, processor, dict(prompts), batch_size
        self._encoded: dict[tuple[str, ...], dict[str, Tensor]] = {}

    def __call__(self, images) -> ZeroShotScores:
        """Scores of every finding in `prompts`.

        Args:
            images (`PIL.Image.Image`, `np.ndarray`, a sequence of them, or `torch.FloatTensor`):
                Images; a tensor is `pixel_values` of shape `(images, channels, side, side)`, already processed.

        Returns:
            [`ZeroShotScores`]

        Raises:
            UserError: If there is no image, one is no image or holds NaN, or a prompt is over the encoder's limit.
        """
        sides = [side for pair in self.prompts.values() for side in (pair.positive, pair.negative)]
        means = self._group_means(images, sides).unflatten(1, (-1, 2))  # (images, findings, 2)
        return ZeroShotScores(tuple(self.prompts), means.softmax(-1)[..., 0])

    def class_scores(
        self,
        images,
        classes: Sequence[str],
        number: int | None = 5,
        seed: int = 0,
        normalize: bool = False,
        aggregate: Literal["mean", "max"] = "mean",
    ) -> ZeroShotScores:
        """Similarities to classes that exclude each other, by class prompts as GLoRIA does (Huang et al. 2021).

        Args:
            images: As in `__call__`.
            classes (`Sequence[str]`): Findings that [`class_prompts`] knows; an image's class is the largest of its
                row.
            number (`int`, *optional*, defaults to 5): How many prompts of each class are drawn; `None` takes all.
            seed (`int`, *optional*, defaults to 0): Of the draw.
            normalize (`bool`, *optional*, defaults to `False`):
                Whether each class is brought to mean 0 and standard deviation 1 over the images, as
                marshuang80/gloria does. An image's scores then depend on the images beside it.
            aggregate (`str`, *optional*, defaults to `"mean"`):
                Over a class's prompts: `mean`, or `max` as marshuang80/gloria does where its comment says average.

        Returns:
            [`ZeroShotScores`]: Similarities, or their z-scores; no probabilities.

        Raises:
            UserError: If a class is unknown or given twice, `normalize` is asked for fewer than two images or images
                that score alike, and as in `__call__`.
        """
        if aggregate not in ("mean", "max"):
            raise UserError(f"aggregate={aggregate!r} is neither mean nor max")
        if not classes or len(set(classes)) < len(classes) or isinstance(classes, str):
            raise UserError(f"classes={classes!r} is not a sequence of one or more different findings")
        groups = [tuple(class_prompts(name, number, seed)) for name in classes]
        scores = self._group_means(images, groups, aggregate)  # (images, classes)
        if normalize:
            spread = scores.std(0, correction=0)  # (classes,)
            if len(scores) < 2 or not spread.min() > 0:
                raise UserError(
                    f"normalize compares images with each other, and {len(scores)} that differ in no score cannot be; "
                    "leave normalize out"
                )
            scores = (scores - scores.mean(0)) / spread
        return ZeroShotScores(tuple(classes), scores)

    def explain(self, image, finding: str, descriptors: Sequence[str] | None = None) -> list[tuple[str, float]]:
        """Which visible signs of a finding the model sees in an image.

        A sign's score is the softmax over its similarity and the mean of the finding's negative wordings: all signs
        meet one and the same denial, so that their order is that of their similarities.

        Args:
            image: One image as in `__call__`.
            finding (`str`): One of `prompts`.
            descriptors (`Sequence[str]`, *optional*, defaults to `DESCRIPTORS[finding]`): The signs to look for.

        Returns:
            `list[tuple[str, float]]`: Signs with scores between 0 and 1, the most visible first.

        Raises:
            UserError: If the finding is unknown, has no descriptors, there are several images, and as in `__call__`.
        """
        negative = self.prompts[known(finding, self.prompts)].negative
        signs = tuple(DESCRIPTORS[known(finding, DESCRIPTORS)] if descriptors is None else descriptors)
        means = self._group_means(image, [*((sign,) for sign in signs), negative])  # (1, signs + 1)
        if len(means) != 1:
            raise UserError(f"explain takes one image, not {len(means)}")
        scores = (means[0, :-1] - means[0, -1]).sigmoid()  # (signs,): the softmax over a pair
        return sorted(zip(signs, scores.tolist(), strict=True), key=lambda pair: -pair[1])

    def free_text(self, images, texts: Sequence[str]) -> Tensor:
        """The model's similarity, its `logits_per_image`, of images with any texts: `(images, texts)`.

        Raises:
            UserError: As in `__call__`.
        """
        return self._similarity(images, tuple(texts))

    def _group_means(self, images, groups: Sequence[tuple[str, ...]], aggregate: str = "mean") -> Tensor:
        """Mean, or maximum, similarity of images with each group of prompts: `(images, groups)`."""
        texts = tuple(dict.fromkeys(text for group in groups for text in group))  # each once
        column = {text: number for number, text in enumerate(texts)}
        similarity = self._similarity(images, texts, keep=True)  # (images, texts)
        columns = [similarity[:, [column[text] for text in group]] for group in groups]
        return torch.stack([one.mean(1) if aggregate == "mean" else one.amax(1) for one in columns], dim=1)

    def _similarity(self, images, texts: tuple[str, ...], keep: bool = False) -> Tensor:
        if isinstance(images, Image.Image | np.ndarray):
            images = [images]
        if isinstance(images, str) or len(images) == 0:
            raise UserError(f"images={images!r} holds no image; pass PIL images or pixel_values")
        starts = range(0, len(images), self.batch_size)
        rows = []
        with evaluating(self.model):
            encoded = self._encoded[texts] if texts in self._encoded else self._encode(texts)
            if keep:
                self._encoded[texts] = encoded
            encoded = {name: value.to(self.model.device) for name, value in encoded.items()}
            for start in tqdm(starts, desc="images", delay=2, leave=False):
                pixels = self._pixels(images[start : start + self.batch_size], start)
                features = self.model.encode_images(pixels)
                rows.append(self.model.similarity({**features, **encoded}).cpu())  # (batch, texts)
        return torch.cat(rows)

    def _pixels(self, images, start: int) -> Tensor:
        if isinstance(images, Tensor):
            pixels = images
            if not pixels.is_floating_point() or not pixels.isfinite().all():
                raise UserError(
                    f"pixel_values of type {pixels.dtype} from image {start} on are not finite floats; "
                    "pass PIL images, or what the image processor makes of them"
                )
        else:
            for position, image in enumerate(images, start):
                if not isinstance(image, Image.Image | np.ndarray):
                    raise UserError(
                        f"image {position} is a {type(image).__name__}, no image; open it with PIL.Image.open"
                    )
            try:
                pixels = self.processor.image_processor(list(images), return_tensors="pt")["pixel_values"]
            except ValueError as error:
                raise UserError(f"in the batch that starts at image {start}: {error}") from error
        self.model.check_pixels(pixels)
        return pixels.to(self.model.device, self.model.dtype)

    def _encode(self, texts: tuple[str, ...]) -> dict[str, Tensor]:
        """Features of prompts, shorter ones filled up with zeros, which no mask counts."""
        for position, text in enumerate(texts):
            if not isinstance(text, str) or not text.strip():
                raise UserError(f"text {position} of {len(texts)} is empty or no text")
        if not texts:
            raise UserError("there are no texts to compare images with")
        tokenizer = self.processor.tokenizer
        limit = text_limit(self.model, self.processor)
        for position, ids in enumerate(tokenizer(list(texts), verbose=False)["input_ids"]):
            if len(ids) > limit:
                raise UserError(
                    f"text {position} of {len(texts)} has {len(ids)} tokens and the text encoder takes {limit}; "
                    "shorten it"
                )
        parts = []
        for start in range(0, len(texts), self.batch_size):
            batch = list(texts[start : start + self.batch_size])
            tokens = tokenizer(batch, padding=True, return_tensors="pt").to(self.model.device)
            names = ("input_ids", "attention_mask", "token_type_ids")
            parts.append(self.model.encode_texts(**{name: tokens[name] for name in names if name in tokens}))
        return {name: join_padded([part[name] for part in parts]) for name in parts[0]}


def check_belong_together(model: MedSynPreTrainedModel, processor: ProcessorMixin) -> None:
    """Refuses a processor whose tokens or images are not those that the model was made for.

    Raises:
        UserError: If the tokenizer divides words otherwise than the model's own, or images have another size.
    """
    size, tokenizer = model.config.text_config.vocab_size, processor.tokenizer
    same = len(tokenizer) <= size and torch.equal(continues_word(tokenizer, size), model.continues_word.cpu())
    if not same or tokenizer.sep_token_id != model.config.sep_token_id:
        raise UserError(
            f"the processor's tokenizer ({len(tokenizer)} tokens) is not the one of this {type(model).__name__} "
            f"({size} tokens); load both from one folder, or call model.set_vocabulary"
        )
    images = processor.image_processor
    if isinstance(images, MedSynImageProcessor) and images.output_size != model.config.image_size:
        raise UserError(
            f"the processor makes images of {images.output_size} pixels and the model was made for "
            f"{model.config.image_size}; load both from one folder"
        )


def join_padded(parts: Sequence[Tensor]) -> Tensor:
    """Joins `(texts, words, ...)` of various numbers of words, zero or `False` where there is none."""
    longest = max(part.shape[1] for part in parts)
    ends = [(0, 0) * (part.ndim - 2) + (0, longest - part.shape[1]) for part in parts]
    return torch.cat([F.pad(part, end) for part, end in zip(parts, ends, strict=True)])
