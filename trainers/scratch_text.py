"""A small text encoder made from a dataset's own words, for when none is to be downloaded."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from tokenizers import BertWordPieceTokenizer
from transformers import BertConfig, BertTokenizer

VOCABULARY_SIZE = 4000
MAX_TOKENS = 256


def train_tokenizer(texts: Iterable[str], vocabulary_size: int = VOCABULARY_SIZE) -> BertTokenizer:
    """A lower-casing WordPiece tokenizer whose vocabulary comes from the texts.

    Args:
        texts (`Iterable[str]`): The texts to learn words from; equal texts give equal vocabularies.
        vocabulary_size (`int`, *optional*, defaults to 4000): At most so many tokens; few reports have fewer.
    """
    learner = BertWordPieceTokenizer(lowercase=True)
    learner.train_from_iterator(texts, vocab_size=vocabulary_size, min_frequency=2, show_progress=False)
    with tempfile.TemporaryDirectory() as folder:
        learner.save_model(folder)
        return BertTokenizer(str(Path(folder) / "vocab.txt"), model_max_length=MAX_TOKENS)


def small_text_config(vocabulary_size: int) -> BertConfig:
    """A BERT of 3 layers and 192 channels: 1.3 million weights without the embeddings."""
    return BertConfig(
        vocab_size=vocabulary_size,
        hidden_size=192,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=768,
        max_position_embeddings=MAX_TOKENS,
    )
