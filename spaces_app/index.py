"""An index of a dataset's images and reports in the space of one model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import datasets
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import ProcessorMixin

from hub_medsyn.inference.embedding import embed_images, embed_texts
from hub_medsyn.inference.retrieval import nearest
from hub_medsyn.modeling_medsyn import MedSynPreTrainedModel
from medsyn.errors import UserError
from medsyn.texts import is_nothing, normal_form

BLOCK = 16384  # rows that a query is compared with at once: 8 MB of 128 float32


class ImageIndex:
    """Images and distinct reports of a dataset in the space of one model.

    Rows are numbers of rows of the dataset: the index keeps no text and no image. What is compared are the global
    embeddings: for GLoRIA, whose own similarity also attends to words, that is a part of it.

    Args:
        images (`torch.Tensor` of shape `(images, dim)`): Of unit length; row `i` is the dataset's row `i`.
        reports (`torch.Tensor` of shape `(reports, dim)`): Of unit length.
        report_rows (`torch.Tensor` of shape `(reports,)`): The first row of the dataset that has each report.
    """

    def __init__(self, images: Tensor, reports: Tensor, report_rows: Tensor):
        self.images, self.reports, self.report_rows = images, reports, report_rows

    @classmethod
    def build(
        cls,
        model: MedSynPreTrainedModel,
        processor: ProcessorMixin,
        rows: datasets.Dataset,
        text_column: str = "prompt",
        image_column: str = "image",
        batch_size: int = 32,
    ) -> ImageIndex:
        """Embeds every image and every distinct report; images are decoded a batch at a time.

        Args:
            model ([`ConVIRTModel`], [`GLoRIAModel`] or [`MGCAModel`]): On any device.
            processor (`ProcessorMixin`): Saved with the model.
            rows (`datasets.Dataset`): One split.
            text_column (`str`, *optional*, defaults to `"prompt"`): The reports; rows without one have an image only.
            image_column (`str`, *optional*, defaults to `"image"`): The images.
            batch_size (`int`, *optional*, defaults to 32): Images that are encoded at once.

        Raises:
            UserError: If a column is missing, no row has a report, or an image cannot be used.
        """
        missing = [name for name in (text_column, image_column) if name not in rows.column_names]
        if missing:
            raise UserError(f"the dataset has no column {', '.join(missing)}; it has {', '.join(rows.column_names)}")
        first: dict[str, int] = {}
        for row, text in enumerate(rows[text_column]):
            if not is_nothing(text):
                first.setdefault(normal_form(text), row)
        if not first:
            raise UserError(f"none of the {len(rows)} rows has a report in {text_column}; name another text_column")
        return cls(
            embed_images(model, processor, _Images(rows, image_column), batch_size),
            embed_texts(model, processor, [rows[text_column][row] for row in first.values()]),
            torch.tensor(list(first.values())),
        )

    def nearest(self, embed: Tensor, k: int, among: Literal["images", "reports"] = "images") -> tuple[Tensor, Tensor]:
        """The k images, or distinct reports, nearest to an embedding, by cosine.

        Cosines within 1e-6 of each other, in steps of that size, are ties; of these the earlier row comes first. The
        index is met in blocks, so that memory does not grow with it.

        Args:
            embed (`torch.Tensor` of shape `(dim,)` or `(queries, dim)`): From `embed_images` or `embed_texts`, of any
                length but 0.
            k (`int`): How many.
            among (`str`, *optional*, defaults to `"images"`): `images` or `reports`.

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: Cosines in steps of 1e-6, the best first, and rows of the dataset; for
            a report its first. `(k,)` each, or `(queries, k)`.

        Raises:
            UserError: If `k` is less than 1 or more than there are, the width differs, or `embed` is not finite or 0.
        """
        if among not in ("images", "reports"):
            raise UserError(f"among={among!r} is neither images nor reports")
        index = self.images if among == "images" else self.reports
        queries = embed.detach().float().cpu()
        queries = queries[None] if queries.ndim == 1 else queries
        if queries.ndim != 2 or queries.shape[1] != index.shape[1]:
            raise UserError(
                f"embed of shape {tuple(embed.shape)} is not ({index.shape[1]},) or (queries, {index.shape[1]})"
            )
        if not queries.isfinite().all() or not queries.norm(dim=1).all():
            raise UserError("embed holds NaN, infinite values, or nothing but zeros, which are near to nothing")
        if not 1 <= k <= len(index):
            raise UserError(f"k={k} of an index with {len(index)} {among}; pass k between 1 and that")
        cosines, numbers = nearest(F.normalize(queries, dim=1), index, k, BLOCK)
        if among == "reports":
            numbers = self.report_rows[numbers]
        return (cosines[0], numbers[0]) if embed.ndim == 1 else (cosines, numbers)


class _Images(Sequence):
    """The images of a dataset, decoded when they are asked for; its length lets progress be told."""

    def __init__(self, rows: datasets.Dataset, column: str):
        self.rows, self.column = rows.select_columns([column]), column

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row):
        return self.rows[row][self.column]

    def __iter__(self) -> Iterator:
        return (row[self.column] for row in self.rows)
