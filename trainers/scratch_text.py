"""A small text encoder made from a dataset's own words, for when none is to be downloaded."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from transformers import BertConfig, BertTokenizer

VOCABULARY_SIZE = 4000
MAX_TOKENS = 256
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def train_tokenizer(texts: Iterable[str], vocabulary_size: int = VOCABULARY_SIZE) -> BertTokenizer:
    """A lower-casing WordPiece tokenizer whose vocabulary comes from the texts.

    Every character of the texts is a piece, and every word that stands in them twice or more, the commonest first; a
    rarer word is spelt. The trainers of the `tokenizers` library give another vocabulary each time, with which neither
    processes nor a resumed run would agree on what a token id means.

    Args:
        texts (`Iterable[str]`): The texts to learn words from; equal texts in any order give equal vocabularies.
        vocabulary_size (`int`, *optional*, defaults to 4000): At most so many words beside the characters.
    """
    normalizer, splitter = BertNormalizer(lowercase=True), BertPreTokenizer()
    words: Counter[str] = Counter()
    for text in texts:
        words.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    characters = sorted(set("".join(words)))
    common = sorted((word for word, count in words.items() if count > 1), key=lambda word: (-words[word], word))
    pieces = (*SPECIAL, *characters, *(f"##{character}" for character in characters), *common[:vocabulary_size])
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = Path(folder) / "vocab.txt"
        vocabulary.write_text("\n".join(dict.fromkeys(pieces)), encoding="utf-8")
        return BertTokenizer(str(vocabulary), model_max_length=MAX_TOKENS)


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
