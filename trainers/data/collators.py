"""Items to batches."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from hub_medsyn.image_processing_medsyn import MedSynImageProcessor
from medsyn.errors import UserError

logger = logging.getLogger(__name__)


@dataclass
class PairCollator:
    """Makes the inputs of a contrastive model out of items of [`~trainers.data.pairs.PairDataset`].

    Args:
        tokenizer (`PreTrainedTokenizerBase`): Pads to the longest text of the batch.
        processor ([`MedSynImageProcessor`]): Normalises the images.
        max_length (`int`): Texts are cut after this many tokens; the first batch in which that happens is logged.

    Returns:
        `dict`: `pixel_values` of shape `(batch, channels, side, side)`, `input_ids`, `attention_mask` and, where the
        tokenizer has them, `token_type_ids` of shape `(batch, tokens)`; `ids`, a list of `str`, for error messages;
        and `return_loss=True`, without which an evaluation silently has no loss.

    Raises:
        UserError: If a text is empty, naming its item: an image cannot be told apart by what all empty texts share.
    """

    tokenizer: PreTrainedTokenizerBase
    processor: MedSynImageProcessor
    max_length: int
    _told: bool = field(default=False, init=False, repr=False)

    def __call__(self, items: list[dict]) -> dict:
        empty = [item["id"] for item in items if not item["text"].strip()]
        if empty:
            raise UserError(f"{', '.join(empty)} have no text to learn from; leave these pairs out")
        texts = self.tokenizer(
            [item["text"] for item in items],
            padding=True,
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
        )
        if not self._told:
            self._tell_of_cut_texts(items, texts["attention_mask"].sum(1).tolist())
        images = np.stack([item["image"] for item in items])  # (batch, side, side)
        return {
            "pixel_values": torch.from_numpy(self.processor.normalize_squares(images)),
            **texts,
            "ids": [item["id"] for item in items],
            "return_loss": True,
        }

    def _tell_of_cut_texts(self, items: list[dict], lengths: list[int]) -> None:
        full = [item for item, length in zip(items, lengths, strict=True) if length == self.max_length]
        if not full:
            return
        tokens = self.tokenizer([item["text"] for item in full], verbose=False)["input_ids"]
        cut = [item["id"] for item, ids in zip(full, tokens, strict=True) if len(ids) > self.max_length]
        if cut:
            self._told = True
            logger.warning(
                "texts of more than %d tokens are cut there, %d of %d in this batch (%s); this is said once",
                self.max_length,
                len(cut),
                len(items),
                ", ".join(cut),
            )
