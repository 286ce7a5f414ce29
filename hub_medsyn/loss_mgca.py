"""MGCA's alignment of words with patches and of prototype assignments: pure functions, without parameters."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def clip_weights(weights: Tensor, low: float = 0.1, high: float = 0.9) -> Tensor:
    """Clips each row's weights to two quantiles of its non-zero ones and scales them to a sum of 1.

    Args:
        weights (`torch.Tensor` of shape `(batch, items)`): Attention weights; 0 where there is no item.
        low (`float`, *optional*, defaults to 0.1): The lower quantile.
        high (`float`, *optional*, defaults to 0.9): The upper quantile.

    Returns:
        `torch.Tensor` of shape `(batch, items)`, zero where `weights` is; a row of zeros stays one.
    """
    weighted = weights != 0
    known = weights.masked_fill(~weighted, torch.nan)
    bounds = torch.nanquantile(known, torch.tensor([low, high], dtype=known.dtype, device=known.device), dim=1)
    bounds = bounds.nan_to_num(0.0)[..., None]  # (2, batch, 1)
    clipped = torch.where(weighted, weights.clamp(bounds[0], bounds[1]), 0)
    return clipped / clipped.sum(1, keepdim=True).clamp(min=torch.finfo(clipped.dtype).tiny)


def token_alignment(
    queries: Tensor,
    keys: Tensor,
    weights: Tensor,
    query_mask: Tensor | None = None,
    key_mask: Tensor | None = None,
    temperature: float = 0.1,
    normalize_context: bool = True,
    pad_negatives: bool = False,
) -> Tensor:
    """One direction of cross-modal token-wise alignment (Wang et al. 2022, section 3.3).

    Each query attends to the keys of its own pair; among the vectors so made in that pair, it has to tell its own, and
    the other way round. Other pairs of the batch play no part.

    Args:
        queries (`torch.Tensor` of shape `(batch, queries, dim)`): Words or patches, of unit length.
        keys (`torch.Tensor` of shape `(batch, keys, dim)`): Patches or words, of unit length.
        weights (`torch.Tensor` of shape `(batch, queries)`): What each query counts for; rows sum to 1.
        query_mask (`torch.Tensor` of shape `(batch, queries)`, bool, *optional*): Which queries are there.
        key_mask (`torch.Tensor` of shape `(batch, keys)`, bool, *optional*): Which keys are there.
        temperature (`float`, *optional*, defaults to 0.1): Softmax temperature of word-patch products.
        normalize_context (`bool`, *optional*, defaults to `True`): Whether the attended vectors get unit length.
        pad_negatives (`bool`, *optional*, defaults to `False`): Whether padding counts among the other queries.

    Returns:
        `torch.Tensor`: A scalar, the mean over pairs.
    """
    scores = queries @ keys.transpose(1, 2) / temperature  # (batch, queries, keys)
    lowest = torch.finfo(scores.dtype).min / 4  # finite in every sum below, so that a weight of 0 leaves 0
    if key_mask is not None:
        scores = scores.masked_fill(~key_mask[:, None], lowest)
    context = scores.softmax(-1) @ keys  # (batch, queries, dim)
    if normalize_context:
        context = F.normalize(context, dim=-1)
    logits = queries @ context.transpose(1, 2) / temperature  # (batch, queries, queries)
    by_query = by_context = logits
    if query_mask is not None and not pad_negatives:
        by_query = logits.masked_fill(~query_mask[:, None], lowest)
        by_context = logits.masked_fill(~query_mask[..., None], lowest)
    own = logits.diagonal(dim1=1, dim2=2)  # (batch, queries)
    loss = by_query.logsumexp(2) + by_context.logsumexp(1) - 2 * own  # (batch, queries)
    return (loss * weights).sum() / (2 * len(queries))


def sinkhorn(scores: Tensor, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    """Soft assignments that use every prototype equally over the batch (Wang et al. 2022, section 3.4).

    Args:
        scores (`torch.Tensor` of shape `(batch, prototypes)`): Cosines; over several processes, those of all of them.
        epsilon (`float`, *optional*, defaults to 0.05): How soft the assignments are.
        iterations (`int`, *optional*, defaults to 3): How often rows and columns are scaled.

    Returns:
        `torch.Tensor` of shape `(batch, prototypes)`, without gradient; rows sum to 1.
    """
    with torch.no_grad():
        # The largest score of all leaves every ratio as it is and keeps the exponential finite.
        codes = ((scores - scores.max()) / epsilon).exp()
        codes = codes / codes.sum()
        for _ in range(iterations):
            codes = codes / (codes.sum(0, keepdim=True) * codes.shape[1])
            codes = codes / (codes.sum(1, keepdim=True) * codes.shape[0])
        return codes * codes.shape[0]


def prototype_alignment(
    image_scores: Tensor, text_scores: Tensor, temperature: float = 0.2, epsilon: float = 0.05, iterations: int = 3
) -> Tensor:
    """Each modality predicts the other's prototype assignment (Wang et al. 2022, section 3.4).

    Args:
        image_scores (`torch.Tensor` of shape `(batch, prototypes)`): Cosines of images and prototypes.
        text_scores (`torch.Tensor` of shape `(batch, prototypes)`): Cosines of texts and prototypes.
        temperature (`float`, *optional*, defaults to 0.2): Softmax temperature of predictions.
        epsilon (`float`, *optional*, defaults to 0.05): See [`sinkhorn`].
        iterations (`int`, *optional*, defaults to 3): See [`sinkhorn`].

    Returns:
        `torch.Tensor`: A scalar, the mean over both directions and the batch.
    """
    image_codes = sinkhorn(image_scores, epsilon, iterations)  # (batch, prototypes)
    text_codes = sinkhorn(text_scores, epsilon, iterations)
    by_text = (image_codes * (text_scores / temperature).log_softmax(1)).sum(1).mean()
    by_image = (text_codes * (image_scores / temperature).log_softmax(1)).sum(1).mean()
    return -(by_text + by_image) / 2
