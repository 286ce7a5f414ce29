"""GLoRIA's word-level alignment of words with image regions: pure functions of tensors, without parameters.

The word-weighted image vectors of every image and caption are never formed. Cosines need two numbers of each: its
product with the word, which is the attention-weighted sum of the word's scores, and its length, which is a quadratic
form in the image's `(regions, regions)` Gram matrix.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

# Scores, one for every image, region and word, that are computed at once: 16 MB a tensor in single precision.
CHUNK_SCORES = 2**22
# Scores that may stay in memory for the backward pass, about four tensors of them; more are computed again there.
KEPT_SCORES = 2**26


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
    attention = _attention(scores, word_mask, temperature)
    return attention * word_mask[..., None]


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

    Captions are taken in chunks of similar length. Beyond `kept_scores` the backward pass computes each chunk again
    instead of keeping it, so that memory grows with the number of images and not with that of pairs.

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
    positions = torch.arange(1, word_mask.shape[1] + 1, device=words.device)
    lengths = (word_mask * positions).amax(1)  # (captions,): up to the last word
    lengths, order = lengths.sort()
    gram = regions @ regions.transpose(1, 2)  # (images, regions, regions)
    rows = regions.shape[0] * regions.shape[1]
    recompute = torch.is_grad_enabled() and rows * int(lengths.sum()) > kept_scores
    columns = []
    for chunk, longest in _chunks(order, lengths.tolist(), chunk_scores // rows):
        inputs = regions, gram, words[chunk, :longest], word_mask[chunk, :longest]
        settings = attention_temperature, word_temperature, aggregate
        if recompute:
            columns.append(checkpoint(_chunk_similarity, *inputs, *settings, use_reentrant=False))
        else:
            columns.append(_chunk_similarity(*inputs, *settings))
    return torch.cat(columns, dim=1)[:, order.argsort()]  # (images, captions)


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


def _attention(scores: Tensor, word_mask: Tensor, temperature: float) -> Tensor:
    """Softmax over words, then over regions: `(..., words, regions)` from scores and a mask `(..., words)`."""
    share = scores.masked_fill(~word_mask[..., None], -torch.inf).softmax(-2)  # over words
    return (temperature * share).softmax(-1)  # over regions


def _chunks(order: Tensor, lengths: list[int], words_at_once: int):
    """Captions in ascending length, cut where the padded words of a chunk would exceed `words_at_once`."""
    start = 0
    for stop in range(1, len(lengths) + 1):
        if stop == len(lengths) or (stop + 1 - start) * lengths[stop] > words_at_once:
            yield order[start:stop], lengths[stop - 1]
            start = stop


def _chunk_similarity(
    regions: Tensor,
    gram: Tensor,
    words: Tensor,
    word_mask: Tensor,
    attention_temperature: float,
    word_temperature: float,
    aggregate: str,
) -> Tensor:
    images, (captions, length, _) = len(regions), words.shape
    scores = words.flatten(0, 1) @ regions.transpose(1, 2)  # (images, captions * words, regions)
    split = (images, captions, length, -1)
    attention = _attention(scores.view(split), word_mask, attention_temperature).flatten(1, 2)
    product = (attention * scores).sum(-1)  # (images, captions * words): word times attended image
    squared = ((attention @ gram) * attention).sum(-1)  # (images, captions * words): length of the latter, squared
    lengths = squared.clamp(min=1e-16).sqrt() * words.flatten(0, 1).norm(dim=-1)
    cosines = (product / lengths.clamp(min=1e-8)).view(images, captions, length)
    logits = (word_temperature * cosines).masked_fill(~word_mask, -torch.inf)
    if aggregate == "max":
        return logits.amax(-1)
    similarity = logits.logsumexp(-1)  # (images, captions)
    return similarity - word_mask.sum(-1).log() if aggregate == "mean" else similarity
