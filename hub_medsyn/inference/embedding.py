"""Images and texts to features, a batch at a time, and to the model's own similarities."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterable, Iterator, Sized

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm
from transformers import ProcessorMixin

from hub_medsyn.modeling_medsyn import MedSynPreTrainedModel
from medsyn.errors import UserError


@contextlib.contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards each part is in the mode it was in, a frozen encoder too."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def image_inputs(model: MedSynPreTrainedModel, processor: ProcessorMixin, images: list) -> Tensor:
    """What the model's image encoder takes, `(images, channels, side, side)`, on its device."""
    pixels = processor.image_processor(images, return_tensors="pt")["pixel_values"]
    return pixels.to(model.device, model.dtype)


def text_inputs(model: MedSynPreTrainedModel, processor: ProcessorMixin, texts: list[str]) -> dict[str, Tensor]:
    """What the model's text encoder takes, `(texts, tokens)` each, on its device; cut at the encoder's limit."""
    limit = text_limit(model, processor)
    inputs = processor.tokenizer(texts, padding=True, truncation=True, max_length=limit, return_tensors="pt")
    return inputs.to(model.device)


def text_limit(model: MedSynPreTrainedModel, processor: ProcessorMixin) -> int:
    """How many tokens a text may have."""
    return min(processor.tokenizer.model_max_length, model.config.text_config.max_position_embeddings)


def embed_images(
    model: MedSynPreTrainedModel, processor: ProcessorMixin, images: Iterable, batch_size: int = 32
) -> Tensor:
    """Global features of images in the space they share with reports.

    Args:
        model ([`ConVIRTModel`], [`GLoRIAModel`] or [`MGCAModel`]): On any device.
        processor (`ProcessorMixin`): Saved with the model.
        images (`Iterable`): Images as [`MedSynImageProcessor`] takes them; a generator is read a batch at a time.
        batch_size (`int`, *optional*, defaults to 32): Images that are encoded at once.

    Returns:
        `torch.Tensor` of shape `(images, dim)`: float32 on the CPU, of unit length.

    Raises:
        UserError: If there are no images, one cannot be used, or its features are not finite.
    """
    parts, done = [], 0
    with evaluating(model):
        for batch in _batches(images, batch_size, "images"):
            try:
                pixels = image_inputs(model, processor, batch)
            except ValueError as error:
                raise UserError(f"in the batch that starts at image {done}: {error}") from error
            parts.append(F.normalize(model.get_image_features(pixels).float(), dim=-1).cpu())
            done += len(batch)
    return _joined(parts, "images")


def embed_texts(
    model: MedSynPreTrainedModel, processor: ProcessorMixin, texts: Iterable[str], batch_size: int = 64
) -> Tensor:
    """Global features of texts in the space they share with images.

    Texts of similar length are encoded together; the rows come back in the order of the texts.

    Args:
        model ([`ConVIRTModel`], [`GLoRIAModel`] or [`MGCAModel`]): On any device.
        processor (`ProcessorMixin`): Saved with the model.
        texts (`Iterable[str]`): Reports or phrases, cut where the text encoder ends.
        batch_size (`int`, *optional*, defaults to 64): Texts that are encoded at once.

    Returns:
        `torch.Tensor` of shape `(texts, dim)`: float32 on the CPU, of unit length.

    Raises:
        UserError: If there are no texts, one is empty, or its features are not finite.
    """
    texts = _checked_texts(texts)
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    parts = []
    with evaluating(model):
        for rows in _batches(order, batch_size, "texts"):
            inputs = text_inputs(model, processor, [texts[row] for row in rows])
            parts.append(F.normalize(model.get_text_features(**inputs).float(), dim=-1).cpu())
    return _joined(parts, "texts", order)


def model_similarity(
    model: MedSynPreTrainedModel,
    processor: ProcessorMixin,
    images: Iterable,
    texts: Iterable[str],
    batch_size: int = 16,
    text_batch_size: int = 64,
) -> Tensor:
    """The model's own `logits_per_image` of every image with every text, for sets of a few thousand.

    For GLoRIA these are the mean of global and word-level similarity, which no product of embeddings gives. Every
    image and every distinct text is encoded once; the features of all texts stay in memory.

    Args:
        model, processor, images, texts: As in [`embed_images`] and [`embed_texts`].
        batch_size (`int`, *optional*, defaults to 16): Images that are encoded at once.
        text_batch_size (`int`, *optional*, defaults to 64): Texts that are encoded at once.

    Returns:
        `torch.Tensor` of shape `(images, texts)`: float32 on the CPU, for `ranks_from_similarity`.
    """
    texts = _checked_texts(texts)
    distinct = sorted(set(texts), key=lambda text: (len(text), text))
    column = {text: number for number, text in enumerate(distinct)}
    rows = []
    with evaluating(model):
        encoded = [
            model.encode_texts(**text_inputs(model, processor, batch))
            for batch in _batches(distinct, text_batch_size, "texts")
        ]
        for batch in _batches(images, batch_size, "images"):
            image_features = model.encode_images(image_inputs(model, processor, batch))
            scores = [model.similarity({**image_features, **text}).float().cpu() for text in encoded]
            rows.append(torch.cat(scores, dim=1))  # (batch, distinct texts)
    return _joined(rows, "images")[:, [column[text] for text in texts]]


def _checked_texts(texts: Iterable[str]) -> list[str]:
    if isinstance(texts, str):
        raise UserError("texts is a single string; pass a list of texts")
    texts = list(texts)
    for row, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"text {row} of {len(texts)} is empty or no text; leave such rows out")
    return texts


def _batches(items: Iterable, size: int, name: str) -> Iterator[list]:
    if isinstance(items, str | Image.Image):
        raise UserError(f"{name} is a single {type(items).__name__}; pass a list")
    iterator = iter(items)
    batches = iter(lambda: list(itertools.islice(iterator, size)), [])
    total = math.ceil(len(items) / size) if isinstance(items, Sized) else None
    return iter(tqdm(batches, total=total, desc=name, unit="batch", delay=2))


def _joined(parts: list[Tensor], name: str, order: list[int] | None = None) -> Tensor:
    """Batches one below the other, row `i` at `order[i]`."""
    if not parts:
        raise UserError(f"there are no {name} to encode")
    rows = torch.cat(parts)
    if order is not None:
        rows = rows[torch.tensor(order).argsort()]
    if not rows.isfinite().all():
        row = int((~rows.isfinite().all(1)).nonzero()[0])
        raise UserError(f"the model gives values that are not finite for number {row} of the {name}")
    return rows
