"""GLoRIA's word-level alignment of words with image regions: pure functions of tensors, without parameters.

The word-weighted image vectors of every image and caption are never formed. Cosines need two numbers of each: its
product with the word, which is the attention-weighted sum of the word's scores, and its length, which is a quadratic
form in the image's `(regions, regions)` Gram matrix. The derivatives are written out, since that form's is the product
already at hand, and autograd would multiply again and keep every step between.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Scores, one for every image, region and word, that are computed at once: 8 MB a tensor in single precision.
CHUNK_SCORES = 2**21
# Scores that may stay in memory for the backward pass, two tensors of them; more are computed again there.
KEPT_SCORES = 2**26
# Captions are computed together, padded to the longest of them, while that is no more than this times the shortest.
PADDED_LENGTH = 1.125


def word_attention(regions: Tensor, words: Tensor, word_mask: Tensor, temperature: float = 4.0) -> Tensor:
    """Where each word looks in the image it belongs to (Huang et al. 2021, section 3.2).

    Args:
        regions (`torch.Tensor` of shape `(batch, regions, dim)`): Region features.
        words (`torch.Tensor` of shape `(batch, words, dim)`): Features of the words of the same items.
        word_mask (`torch.Tensor` of shape `(batch, words)`, bool): Which positions hold a word.
        temperature (`float`, *optional*, defaults to 4.0): What the softmax over words is multiplied by.

    Returns:
        `torch.Tensor` of shape `(batch, words, regions)`: Weights that sum to 1 over the regions; 0 where no word is.
    """
    scores = words @ regions.transpose(1, 2)  # (batch, words, regions)
    share = scores.masked_fill(~word_mask[..., None], -torch.inf).softmax(1)  # over words
    return (temperature * share).softmax(2) * word_mask[..., None]  # over regions


def local_similarity(
    regions: Tensor,
    words: Tensor,
    word_mask: Tensor,
    attention_temperature: float = 4.0,
    word_temperature: float = 5.0,
    aggregate: Literal["sum", "mean", "max"] = "sum",
    chunk_scores: int = CHUNK_SCORES,
    kept_scores: int = KEPT_SCORES,
) -> Tensor:
    """Word-level similarity of every image with every caption (Huang et al. 2021, section 3.2).

    With `cos_j` the cosine of word `j` and the image as that word attends to it: the logarithm of the sum of
    `exp(word_temperature * cos_j)` over the caption's words (`sum`), of their mean, or of the largest (`max`).

    A few images and captions of similar length are taken at a time. Beyond `kept_scores` the backward pass computes
    their scores again instead of keeping them, so that memory grows with the number of images and captions and not
    with that of pairs. It can be differentiated once.

    Args:
        regions (`torch.Tensor` of shape `(images, regions, dim)`): Region features, of any length.
        words (`torch.Tensor` of shape `(captions, words, dim)`): Word features, of any length.
        word_mask (`torch.Tensor` of shape `(captions, words)`, bool): Which positions hold a word; one or more each.
        attention_temperature (`float`, *optional*, defaults to 4.0): See [`word_attention`].
        word_temperature (`float`, *optional*, defaults to 5.0): What the cosines are multiplied by.
        aggregate (`str`, *optional*, defaults to `"sum"`): `sum`, `mean` or `max` over words.
        chunk_scores (`int`, *optional*): Scores (images x regions x words) that are computed at once.
        kept_scores (`int`, *optional*): Scores that are kept for the backward pass.

    Returns:
        `torch.Tensor` of shape `(images, captions)`.

    Raises:
        ValueError: If a caption has no word, or `aggregate` is none of the three.
    """
    if aggregate not in ("sum", "mean", "max"):
        raise ValueError(f"aggregate={aggregate!r} is not one of sum, mean, max")
    if not word_mask.any(1).all():
        raise ValueError(f"{int((~word_mask.any(1)).sum())} of {len(words)} captions have no word to align")
    settings = _Settings(attention_temperature, word_temperature, aggregate, chunk_scores, kept_scores)
    return _LocalSimilarity.apply(regions, words, word_mask, settings, torch.is_grad_enabled())


def gloria_local_loss(
    regions: Tensor,
    words: Tensor,
    word_mask: Tensor,
    attention_temperature: float = 4.0,
    word_temperature: float = 5.0,
    loss_temperature: float = 10.0,
    aggregate: Literal["sum", "mean"] = "sum",
    chunk_scores: int = CHUNK_SCORES,
    kept_scores: int = KEPT_SCORES,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of [`local_similarity`] with the pairs on its diagonal, in both directions.

    # differs from the paper, as marshuang80/gloria does: temperatures multiply, the attention takes a softmax over
    # words before that over regions, and the logarithm is not divided by the word temperature.

    Args:
        regions, words, word_mask, attention_temperature, word_temperature, aggregate, chunk_scores, kept_scores:
            As [`local_similarity`] takes them; image `i` and caption `i` are a pair.
        loss_temperature (`float`, *optional*, defaults to 10.0): What similarities are multiplied by.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: The scalars image-to-text and text-to-image.

    Raises:
        ValueError: If there are fewer than two pairs, or not as many captions as images.
    """
    if len(regions) != len(words):
        raise ValueError(f"{len(regions)} images and {len(words)} captions are not pairs; the loss needs as many each")
    if len(regions) < 2:
        raise ValueError(
            f"a contrastive loss compares each image with several texts, and this batch holds {len(words)}; "
            "use a batch size of 2 or more"
        )
    similarity = local_similarity(
        regions, words, word_mask, attention_temperature, word_temperature, aggregate, chunk_scores, kept_scores
    )
    logits = similarity * loss_temperature  # (images, captions)
    targets = torch.arange(len(logits), device=logits.device)
    return F.cross_entropy(logits, targets), F.cross_entropy(logits.T, targets)


class _Settings(NamedTuple):
    attention_temperature: float
    word_temperature: float
    aggregate: str
    chunk_scores: int
    kept_scores: int


class _Attended(NamedTuple):
    """What words and images have in common: `(images, regions, words)`, then `(images, words)`."""

    scores: Tensor  # the lowest number where no word is
    spread: Tensor  # the Gram matrix times the attention
    product: Tensor  # word times attended image; 0 where no word is
    squared: Tensor  # length of the attended image, squared


class _LocalSimilarity(torch.autograd.Function):
    """Similarities `(images, captions)` of regions, words and their mask."""

    @staticmethod
    def forward(ctx, regions, words, word_mask, settings, with_gradient):
        similarity = regions.new_empty(len(regions), len(words))
        ctx.kept, ctx.settings = None, settings
        ctx.save_for_backward(regions, words, word_mask)
        with torch.autocast(regions.device.type, enabled=False):
            chunks, images_at_once = _chunks(word_mask, regions.shape[1], settings.chunk_scores)
            padded = sum(len(captions) * longest for captions, longest in chunks)
            if with_gradient and regions.shape[0] * regions.shape[1] * padded <= settings.kept_scores:
                ctx.kept = []
            # (captions * words, dim) each
            packs = [words[captions, :longest].flatten(0, 1) for captions, longest in chunks]
            for block in _blocks(len(regions), images_at_once):
                gram = regions[block] @ regions[block].mT  # (images, regions, regions)
                for (captions, longest), pack in zip(chunks, packs, strict=True):
                    mask = word_mask[captions, :longest]
                    attended = _attend(regions[block], gram, pack, mask, settings.attention_temperature)
                    if ctx.kept is not None:
                        ctx.kept.append(attended)
                    similarity[block, captions] = _aggregate(
                        attended.product, attended.squared, pack.norm(dim=-1), mask, settings
                    )
        return similarity

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        regions, words, word_mask = ctx.saved_tensors
        settings, kept = ctx.settings, iter(ctx.kept or ())
        of_regions = torch.zeros_like(regions)
        with torch.autocast(regions.device.type, enabled=False):
            chunks, images_at_once = _chunks(word_mask, regions.shape[1], settings.chunk_scores)
            packs = [words[captions, :longest].flatten(0, 1) for captions, longest in chunks]
            of_packs = [torch.zeros_like(pack) for pack in packs]
            lengths = [pack.norm(dim=-1) for pack in packs]  # (captions * words,) each
            of_lengths = [torch.zeros_like(length) for length in lengths]
            for block in _blocks(len(regions), images_at_once):
                flat = regions[block].flatten(0, 1)  # (images * regions, dim)
                of_gram = regions.new_zeros(len(regions[block]), regions.shape[1], regions.shape[1])
                gram = None if ctx.kept else regions[block] @ regions[block].mT
                of_block = torch.zeros_like(flat)
                for index, ((captions, longest), pack) in enumerate(zip(chunks, packs, strict=True)):
                    mask = word_mask[captions, :longest]
                    attended = (
                        next(kept)
                        if ctx.kept
                        else _attend(regions[block], gram, pack, mask, settings.attention_temperature)
                    )
                    inputs = attended.product, attended.squared, lengths[index]
                    inputs = [values.detach().requires_grad_() for values in inputs]
                    with torch.enable_grad():
                        similarity = _aggregate(*inputs, mask, settings)
                    of_product, of_squared, of_length = torch.autograd.grad(
                        similarity, inputs, gradient[block, captions]
                    )
                    of_lengths[index] += of_length
                    attention, of_scores = _score_gradient(
                        attended, of_product, of_squared, mask.shape, settings.attention_temperature
                    )
                    of_gram.baddbmm_(attention * of_squared[:, None], attention.mT)
                    of_scores = of_scores.flatten(0, 1)  # (images * regions, captions * words)
                    of_block.addmm_(of_scores, pack)
                    of_packs[index].addmm_(of_scores.T, flat)
                of_regions[block] = of_block.view_as(regions[block]).baddbmm_(of_gram, regions[block], alpha=2)
            for pack, of_pack, length, of_length in zip(packs, of_packs, lengths, of_lengths, strict=True):
                of_pack.addcmul_(pack, (of_length / length.clamp(min=1e-16))[:, None])
            del packs, pack  # before as much is taken for the words' gradient
            of_words = torch.zeros_like(words)
            for (captions, longest), of_pack in zip(chunks, of_packs, strict=True):
                of_words[captions, :longest] = of_pack.view(len(captions), longest, -1)
        return of_regions, of_words, None, None, None


def _chunks(word_mask: Tensor, regions: int, scores_at_once: int) -> tuple[list[tuple[Tensor, int]], int]:
    """Groups of captions of similar length, each with its longest, and how many images are taken with one at once."""
    positions = torch.arange(1, word_mask.shape[1] + 1, device=word_mask.device)
    lengths, order = (word_mask * positions).amax(1).sort()  # (captions,): up to the last word
    lengths = lengths.tolist()
    chunks, start = [], 0
    for stop in range(1, len(lengths) + 1):
        if (
            stop == len(lengths)
            or lengths[stop] > PADDED_LENGTH * lengths[start]
            or (stop + 1 - start) * lengths[stop] * regions > scores_at_once
        ):
            chunks.append((order[start:stop], lengths[stop - 1]))
            start = stop
    most = max(len(captions) * longest for captions, longest in chunks)
    return chunks, max(1, scores_at_once // (most * regions))


def _blocks(images: int, at_once: int) -> Iterator[slice]:
    for start in range(0, images, at_once):
        yield slice(start, start + at_once)


def _attend(regions: Tensor, gram: Tensor, words: Tensor, word_mask: Tensor, temperature: float) -> _Attended:
    """Of `(images, regions, dim)`, `(images, regions, regions)`, `(captions * words, dim)` and `(captions, words)`."""
    scores = (regions.flatten(0, 1) @ words.T).view(*regions.shape[:2], -1)  # (images, regions, captions * words)
    # Finite, so that a gradient of 0 leaves 0.
    scores.masked_fill_(~word_mask.flatten(), torch.finfo(scores.dtype).min / 4)
    _, attention = _share_and_attention(scores, word_mask.shape, temperature)
    spread = gram @ attention
    product = (attention * scores).sum(1).masked_fill_(~word_mask.flatten(), 0)  # (images, captions * words)
    squared = (attention * spread).sum(1)  # (images, captions * words)
    return _Attended(scores, spread, product, squared)


def _share_and_attention(scores: Tensor, captions_words: tuple[int, int], temperature: float) -> tuple[Tensor, Tensor]:
    """Softmax over each caption's words, and that of its multiple over regions: the shape of the scores, twice."""
    share = scores.unflatten(-1, captions_words).softmax(-1).flatten(-2)
    return share, (temperature * share).softmax(1)


def _score_gradient(
    attended: _Attended, of_product: Tensor, of_squared: Tensor, captions_words: tuple[int, int], temperature: float
) -> tuple[Tensor, Tensor]:
    """The attention, and the gradient of product and squared length with respect to the scores; both in their shape.

    That with respect to the attention is `of_product * scores + 2 * of_squared * spread`; through a softmax goes what
    it exceeds its own weighted mean by.
    """
    share, attention = _share_and_attention(attended.scores, captions_words, temperature)
    to_product, to_squared = temperature * of_product, 2 * temperature * of_squared  # (images, captions * words)
    mean = to_product * attended.product + to_squared * attended.squared
    gradient = attended.scores * to_product[:, None]
    gradient.addcmul_(attended.spread, to_squared[:, None]).sub_(mean[:, None]).mul_(attention)
    by_caption = (gradient * share).unflatten(-1, captions_words).sum(-1, keepdim=True)
    gradient.unflatten(-1, captions_words).sub_(by_caption)
    return attention, gradient.mul_(share).addcmul_(attention, of_product[:, None])


def _aggregate(product: Tensor, squared: Tensor, lengths: Tensor, word_mask: Tensor, settings: _Settings) -> Tensor:
    """Similarities `(images, captions)`; `(images, captions * words)` twice, `(captions * words,)`, and the mask."""
    both = squared.clamp(min=1e-16).sqrt() * lengths  # (images, captions * words)
    cosines = (product / both.clamp(min=1e-8)).unflatten(-1, word_mask.shape)  # (images, captions, words)
    logits = (settings.word_temperature * cosines).masked_fill(~word_mask, -torch.inf)
    if settings.aggregate == "max":
        return logits.amax(-1)
    similarity = logits.logsumexp(-1)
    return similarity - word_mask.sum(-1).log() if settings.aggregate == "mean" else similarity
