"""Items to batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from hub_medsyn.image_processing_medsyn import MedSynImageProcessor


@dataclass
class PairCollator:
    """Makes the inputs of a contrastive model out of items of [`~trainers.pairs.PairDataset`].

    Args:
        tokenizer (`PreTrainedTokenizerBase`): Pads to the longest text of the batch.
        processor ([`MedSynImageProcessor`]): Normalises the films.
        max_length (`int`): Texts are cut after this many tokens.

    Returns:
        `dict`: `pixel_values` of shape `(batch, channels, side, side)`, `input_ids`, `attention_mask` and, where the
        tokenizer has them, `token_type_ids` of shape `(batch, tokens)`; `ids`, a list of `str`, for error messages;
        and `return_loss=True`, without which an evaluation silently has no loss.
    """

    tokenizer: PreTrainedTokenizerBase
    processor: MedSynImageProcessor
    max_length: int

    def __call__(self, items: list[dict]) -> dict:
        texts = self.tokenizer(
            [item["text"] for item in items],
            padding=True,
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
        )
        films = np.stack([item["film"] for item in items])  # (batch, side, side)
        return {
            "pixel_values": torch.from_numpy(self.processor.normalize_squares(films)),
            **texts,
            "ids": [item["id"] for item in items],
            "return_loss": True,
        }
