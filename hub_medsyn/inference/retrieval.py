"""Finding an image's report and a report's image: ranks and precision, in blocks of a fixed size."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from hub_medsyn.inference.embedding import embed_images, embed_texts, model_similarity
from medsyn.errors import UserError
from medsyn.texts import normal_form

__all__ = [
    "RetrievalResult",
    "distinct_texts",
    "embed_images",
    "embed_texts",
    "model_similarity",
    "nearest",
    "ranks_from_similarity",
    "retrieval_metrics",
    "retrieval_ranks",
]

# Scores this close are equal: single precision gives one cosine several values, depending on how it was summed.
TIE = 1e-6
# Side of a block of scores: 4 MB, which stays near the processor. Blocks of 4096 take several times as long.
CHUNK = 1024


@dataclass(frozen=True)
class RetrievalResult:
    """Where each image's report and each report's image came, 1 the best.

    Args:
        image_ranks (`np.ndarray` of shape `(images,)`): The rank of each image's own text among the distinct texts.
        text_ranks (`np.ndarray` of shape `(texts,)`):
            The best rank, among all images, of the images that each distinct text belongs to.
        text_of_image (`np.ndarray` of shape `(images,)`): The number of each image's text in `text_ranks`.
    """

    image_ranks: np.ndarray
    text_ranks: np.ndarray
    text_of_image: np.ndarray

    @property
    def num_images(self) -> int:
        return len(self.image_ranks)

    @property
    def num_texts(self) -> int:
        """Distinct texts."""
        return len(self.text_ranks)

    def metrics(self, ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
        """`image_to_text_*` and `text_to_image_*`: `recall_at_<k>`, the share of queries with rank `k` or better;
        `median_rank`; `mean_reciprocal_rank`."""
        named = {}
        for name, ranks in (("image_to_text", self.image_ranks), ("text_to_image", self.text_ranks)):
            for k in ks:
                named[f"{name}_recall_at_{k}"] = float((ranks <= k).mean())
            named[f"{name}_median_rank"] = float(np.median(ranks))
            named[f"{name}_mean_reciprocal_rank"] = float((1 / ranks).mean())
        return named

    def chance(self, ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
        """What [`~RetrievalResult.metrics`] are expected to be when images and texts are ranked at random."""
        images = np.bincount(self.text_of_image, minlength=self.num_texts)
        named = {}
        for name, reached in (
            ("image_to_text", _reached_at_random(np.ones(1, int), self.num_texts)),
            ("text_to_image", _reached_at_random(images, self.num_images)),
        ):
            ranks = np.arange(1, len(reached) + 1)
            for k in ks:
                named[f"{name}_recall_at_{k}"] = float(reached[min(k, len(reached)) - 1])
            named[f"{name}_median_rank"] = float(1 + (reached < 0.5 - 1e-12).sum())
            named[f"{name}_mean_reciprocal_rank"] = float((np.diff(reached, prepend=0.0) / ranks).sum())
        return named


def _reached_at_random(own: np.ndarray, targets: int) -> np.ndarray:
    """The chance that one of a query's `own` targets has rank r or better, mean over the queries: `(targets,)`."""
    drawn = np.arange(targets)
    reached = np.zeros(targets)
    for number, queries in zip(*np.unique(own, return_counts=True), strict=True):
        missed = np.cumprod(np.clip((targets - number - drawn) / (targets - drawn), 0, None))
        reached += (1 - missed) * queries / len(own)
    return reached


def retrieval_ranks(
    image_embeds: Tensor,
    text_embeds: Tensor,
    texts: Sequence[str] | None = None,
    text_ids: Sequence[Hashable] | None = None,
    chunk_size: int = CHUNK,
) -> RetrievalResult:
    """Ranks images and texts for each other by the product of their embeddings.

    Reports repeat, so that an image would have many equally right answers of which one counted. Equal texts are one
    target here, embedded as their first row is: an image's rank is that of its text among the distinct texts, a text's
    rank that of its best image.

    Scores within 1e-6 of each other are tied, and a tied query gets the mean of the ranks that any order of the tied
    could give it. A model that says the same of everything is therefore ranked as chance is, not first.

    Args:
        image_embeds (`torch.Tensor` of shape `(n, dim)`): From [`embed_images`]. The blocks are computed where it is.
        text_embeds (`torch.Tensor` of shape `(n, dim)`): From [`embed_texts`]; row `i` belongs to image `i`.
        texts (`Sequence[str]`, *optional*): The texts themselves: near-duplicates (see `medsyn.texts.normal_form`)
            are one target.
        text_ids (`Sequence`, *optional*): What tells texts apart instead, such as hashes. Without either every row is
            a target of its own.
        chunk_size (`int`, *optional*, defaults to 1024): Images and texts of a block; nothing larger than its
            `chunk_size` x `chunk_size` scores is made.

    Returns:
        [`RetrievalResult`]

    Raises:
        UserError: If the rows do not match, are not finite, or there are none.
    """
    image_embeds, text_embeds = _checked_pairs(image_embeds, text_embeds)
    text_of_image, first = _distinct(len(image_embeds), texts, text_ids)
    targets = text_embeds[first]  # (distinct texts, dim)
    own = [
        (image_embeds[rows] * targets[text_of_image[rows].to(targets.device)]).sum(-1)
        for rows in _slices(len(image_embeds), chunk_size)
    ]
    return _ranks(
        lambda rows, columns: image_embeds[rows] @ targets[columns].T, torch.cat(own), text_of_image, chunk_size
    )


def distinct_texts(texts: Sequence[str]) -> tuple[list[str], list[int]]:
    """Returns the first of each text and its near-duplicates, and the number of each row's text among them.

    Args:
        texts (`Sequence[str]`): One a row. Near-duplicates have one [`~medsyn.texts.normal_form`].

    Returns:
        `tuple[list[str], list[int]]`: The distinct texts in order of appearance, and what [`ranks_from_similarity`]
        takes as `text_of_image`.
    """
    numbers, first = _distinct(len(texts), texts, None)
    return [texts[row] for row in first.tolist()], numbers.tolist()


def ranks_from_similarity(
    similarity: Tensor, text_of_image: Sequence[int] | Tensor, chunk_size: int = CHUNK
) -> RetrievalResult:
    """[`retrieval_ranks`] of scores that are there already, as from [`model_similarity`].

    Args:
        similarity (`torch.Tensor` of shape `(images, texts)`): Of every image with every distinct text.
        text_of_image (`Sequence[int]` of length `images`): The column of each image's own text.
        chunk_size (`int`, *optional*, defaults to 1024): As in [`retrieval_ranks`].

    Returns:
        [`RetrievalResult`]

    Raises:
        UserError: If a score is not finite, or the columns are not those that `text_of_image` names.
    """
    scores = torch.as_tensor(similarity).float()
    columns = torch.as_tensor(text_of_image)
    if scores.ndim != 2 or columns.shape != scores.shape[:1] or not len(scores):
        raise UserError(
            f"text_of_image of shape {tuple(columns.shape)} does not give a column for each image of a similarity of "
            f"shape {tuple(scores.shape)}"
        )
    if columns.unique().tolist() != list(range(scores.shape[1])):
        raise UserError(
            f"text_of_image names {len(columns.unique())} columns from {int(columns.min())} to {int(columns.max())} "
            f"of {scores.shape[1]}: pass one column for each distinct text, and only texts of these images"
        )
    if not scores.isfinite().all():
        raise UserError("similarity holds NaN or infinite values, which have no rank")
    own = scores.gather(1, columns.to(scores.device)[:, None])[:, 0]
    return _ranks(lambda rows, texts: scores[rows, texts], own, columns.cpu(), chunk_size)


def retrieval_metrics(
    image_embeds: Tensor,
    text_embeds: Tensor,
    texts: Sequence[str] | None = None,
    text_ids: Sequence[Hashable] | None = None,
    ks: Sequence[int] = (1, 5, 10),
    image_labels: Sequence | np.ndarray | Tensor | None = None,
    text_labels: Sequence | np.ndarray | Tensor | None = None,
    chunk_size: int = CHUNK,
) -> dict[str, float]:
    """Recall, median and mean reciprocal rank in both directions and, with labels, precision.

    Precision at k (Huang et al. 2021, section 4.3) is the share of the k first answers with the query's label,
    whatever image they belong to. Of images with several labels it is the share of answers that have at least one
    positive label in common with the query; queries without a positive label take no part. Tied answers count in the
    proportion in which they are right.

    Args:
        image_embeds, text_embeds, texts, text_ids, chunk_size: As in [`retrieval_ranks`].
        ks (`Sequence[int]`, *optional*, defaults to `(1, 5, 10)`): How many answers are looked at.
        image_labels (*optional*):
            `(n,)`, the class of each image, or `(n, labels)`, 1 where a label is present and anything else where not.
        text_labels (*optional*): The same of each row's text; equal texts have equal labels.

    Returns:
        `dict[str, float]`: What [`RetrievalResult.metrics`] names; with labels also `<direction>_precision_at_<k>`
        and `<direction>_precision_chance`, the share of all targets that would be right.

    Raises:
        UserError: Beside what [`retrieval_ranks`] raises, if only one kind of labels is given, equal texts have
            different labels, or there are fewer targets than the largest k of a precision.
    """
    metrics = retrieval_ranks(image_embeds, text_embeds, texts, text_ids, chunk_size).metrics(ks)
    if image_labels is None and text_labels is None:
        return metrics
    if image_labels is None or text_labels is None:
        raise UserError("precision needs image_labels and text_labels; one of the two is missing")
    image_embeds, text_embeds = _checked_pairs(image_embeds, text_embeds)
    text_of_image, first = _distinct(len(image_embeds), texts, text_ids)
    of_images, of_texts = _labels(image_labels, text_labels, len(image_embeds), image_embeds.device)
    differ = of_texts != of_texts[first][text_of_image]
    if differ.any():
        rows = int((differ.any(1) if differ.ndim == 2 else differ).sum())
        raise UserError(
            f"{rows} rows have other text_labels than the first row with the same text: label the text that is "
            "ranked, or tell such texts apart with text_ids"
        )
    targets, of_targets = text_embeds[first], of_texts[first]
    for name, queries, others, query_labels, other_labels in (
        ("image_to_text", image_embeds, targets, of_images, of_targets),
        ("text_to_image", targets, image_embeds, of_targets, of_images),
    ):
        precision, chance = _precision(queries, others, query_labels, other_labels, ks, chunk_size)
        metrics.update({f"{name}_precision_at_{k}": value for k, value in zip(ks, precision, strict=True)})
        metrics[f"{name}_precision_chance"] = chance
    return metrics


def nearest(query_embeds: Tensor, index_embeds: Tensor, k: int, chunk_size: int = CHUNK) -> tuple[Tensor, Tensor]:
    """
    Finds the k rows of an index with the largest products with each query.

    Products within `TIE` (1e-6) of each other, in steps of that size, are ties, since single precision gives one
    product several values, depending on how it was summed; of ties the earlier row comes first. Queries and rows are
    compared in blocks, so that memory does not grow with the index.

    Args:
        query_embeds (`torch.Tensor` of shape `(queries, dim)`): From [`embed_images`] or [`embed_texts`].
        index_embeds (`torch.Tensor` of shape `(rows, dim)`): What is searched.
        k (`int`): Number of rows per query.
        chunk_size (`int`, *optional*, defaults to 1024): Queries, and rows, of a block, as in [`retrieval_ranks`].

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: Scores in steps of 1e-6 and row numbers, `(queries, k)` each, the best
        first.

    Raises:
        UserError: If `k` is less than 1 or more than there are rows.
    """
    number = len(index_embeds)
    if not 1 <= k <= number:
        raise UserError(f"k={k} of an index with {number} rows; pass k between 1 and that")
    found = []
    for queries in tqdm(list(_slices(len(query_embeds), chunk_size)), desc="nearest", unit="block", delay=2):
        best = torch.empty(len(query_embeds[queries]), 0, dtype=torch.long, device=query_embeds.device)
        for rows in _slices(number, chunk_size):
            block = query_embeds[queries] @ index_embeds[rows].T  # (chunk of queries, chunk of rows)
            places = torch.arange(rows.start, rows.start + block.shape[1], device=block.device)
            # One number to sort by: the score in steps of TIE, then the earlier row.
            keys = (block.double() / TIE).round().long() * number - places
            best = torch.cat([best, keys.topk(min(k, keys.shape[1]), dim=1).values], 1)
            best = best.topk(min(k, best.shape[1]), dim=1).values
        found.append(best)
    keys = torch.cat(found)  # (queries, k)
    numbers = -keys % number
    return ((keys + numbers) // number).double().mul(TIE).to(query_embeds.dtype), numbers


def _ranks(
    block: Callable[[slice, slice], Tensor], own: Tensor, text_of_image: Tensor, chunk_size: int
) -> RetrievalResult:
    """Counts, block by block, the scores above and around that of each image's own text, `own`, `(images,)`."""
    groups = text_of_image.to(own.device)
    images, texts = len(own), int(text_of_image.max()) + 1
    best = own.new_full((texts,), -torch.inf).scatter_reduce(0, groups, own, "amax")  # of each text's images
    alike = torch.zeros_like(groups[:texts]).index_add(0, groups, (own >= best[groups] - TIE).long())
    above_own, near_own = torch.zeros_like(groups), torch.zeros_like(groups)  # (images,)
    above_best, near_best = torch.zeros_like(alike), torch.zeros_like(alike)  # (texts,)
    blocks = list(itertools.product(_slices(images, chunk_size), _slices(texts, chunk_size)))
    for rows, columns in tqdm(blocks, desc="ranks", unit="block", delay=2):
        scores = block(rows, columns)  # (chunk of images, chunk of texts)
        above_own[rows] += (scores > own[rows, None] + TIE).count_nonzero(1)
        near_own[rows] += (scores >= own[rows, None] - TIE).count_nonzero(1)
        above_best[columns] += (scores > best[columns] + TIE).count_nonzero(0)
        near_best[columns] += (scores >= best[columns] - TIE).count_nonzero(0)
    tied = (near_own - above_own - 1).clamp(min=0)  # with the own text, which is not counted
    tied_images = (near_best - above_best - alike).clamp(min=0)  # images of other texts
    image_ranks = 1 + above_own + tied.double() / 2
    text_ranks = 1 + above_best + tied_images.double() / (alike + 1)  # where the first of the `alike` is expected
    return RetrievalResult(image_ranks.cpu().numpy(), text_ranks.cpu().numpy(), text_of_image.numpy())


def _precision(
    queries: Tensor, targets: Tensor, query_labels: Tensor, target_labels: Tensor, ks: Sequence[int], chunk_size: int
) -> tuple[list[float], float]:
    """The mean share of right answers among the first of each of `ks`, and among all targets."""
    if max(ks) > len(targets):
        raise UserError(f"precision at {max(ks)} of {len(targets)} distinct targets; pass ks of at most that")
    places = [k - 1 for k in ks]
    asked = torch.tensor(list(ks), dtype=torch.float64, device=queries.device)
    precisions, shares = [], []
    for rows in tqdm(list(_slices(len(queries), chunk_size)), desc="precision", unit="block", delay=2):
        first = queries.new_empty(len(queries[rows]), 0)
        for columns in _slices(len(targets), chunk_size):
            first = torch.cat([first, queries[rows] @ targets[columns].T], 1)
            first = first.topk(min(max(ks), first.shape[1]), dim=1).values
        last = first[:, places]  # (chunk, ks): the score of the k-th answer
        above, above_right, tied, tied_right = last.new_zeros(4, *last.shape, dtype=torch.float64)
        right_of_all = last.new_zeros(len(last), dtype=torch.float64)
        for columns in _slices(len(targets), chunk_size):
            scores = queries[rows] @ targets[columns].T  # (chunk, chunk)
            right = _share_label(query_labels[rows], target_labels[columns])
            right_of_all += right.count_nonzero(1)
            for place in range(len(ks)):
                over = scores > last[:, place, None] + TIE
                near = (scores >= last[:, place, None] - TIE) & ~over
                above[:, place] += over.count_nonzero(1)
                above_right[:, place] += (over & right).count_nonzero(1)
                tied[:, place] += near.count_nonzero(1)
                tied_right[:, place] += (near & right).count_nonzero(1)
        labelled = query_labels[rows].any(1) if query_labels.ndim == 2 else slice(None)
        precisions.append(((above_right + (asked - above) * tied_right / tied) / asked)[labelled])
        shares.append((right_of_all / len(targets))[labelled])
    mean = torch.cat(precisions).mean(0)
    if mean.isnan().any():
        raise UserError("no query has a positive label, so that no answer can be right; check the labels")
    return mean.tolist(), float(torch.cat(shares).mean())


def _share_label(queries: Tensor, targets: Tensor) -> Tensor:
    """`(queries, targets)` bool from classes, `(n,)`, or from labels, `(n, labels)`."""
    return queries[:, None] == targets if queries.ndim == 1 else queries @ targets.T > 0


def _labels(of_images, of_texts, rows: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Classes as numbers, `(n,)`, or positive labels as ones, `(n, labels)`."""
    given = [np.asarray(labels) for labels in (of_images, of_texts)]
    for name, labels in zip(("image_labels", "text_labels"), given, strict=True):
        if labels.ndim not in (1, 2) or len(labels) != rows or labels.shape[1:] != given[0].shape[1:]:
            raise UserError(
                f"{name} of shape {labels.shape} are not ({rows},) or ({rows}, labels), alike for images and texts"
            )
    if given[0].ndim == 1:
        classes = np.unique(np.concatenate(given), return_inverse=True)[1].reshape(2, rows)
        return tuple(torch.from_numpy(classes).to(device))
    return tuple(torch.from_numpy((labels == 1).astype(np.float32)).to(device) for labels in given)


def _distinct(rows: int, texts: Sequence[str] | None, text_ids: Sequence[Hashable] | None) -> tuple[Tensor, Tensor]:
    """The number of each row's text, in order of appearance, `(rows,)`, and each text's first row, `(texts,)`."""
    if texts is not None and text_ids is not None:
        raise UserError("texts and text_ids both tell texts apart; pass one of them")
    keys = list(range(rows) if text_ids is None else text_ids) if texts is None else list(map(normal_form, texts))
    if len(keys) != rows:
        raise UserError(f"{len(keys)} texts for {rows} rows: pass one for each, repeats included")
    numbers, first = {}, []
    for row, key in enumerate(keys):
        if key not in numbers:
            numbers[key] = len(numbers)
            first.append(row)
    return torch.tensor([numbers[key] for key in keys]), torch.tensor(first)


def _checked_pairs(image_embeds: Tensor, text_embeds: Tensor) -> tuple[Tensor, Tensor]:
    image_embeds = torch.as_tensor(image_embeds).float()
    text_embeds = torch.as_tensor(text_embeds).float().to(image_embeds.device)
    if image_embeds.ndim != 2 or image_embeds.shape != text_embeds.shape or not len(image_embeds):
        raise UserError(
            f"embeddings of shapes {tuple(image_embeds.shape)} and {tuple(text_embeds.shape)} are not (n, dim) of "
            "images and of the same number of texts; pass a row for every image's text, repeats included"
        )
    for name, embeds in (("image_embeds", image_embeds), ("text_embeds", text_embeds)):
        if not embeds.isfinite().all():
            row = int((~embeds.isfinite().all(1)).nonzero()[0])
            raise UserError(f"row {row} of {name} is not finite, and has no rank")
    return image_embeds, text_embeds


def _slices(length: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, length)) for start in range(0, length, size))
