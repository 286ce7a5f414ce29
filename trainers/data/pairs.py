"""Images with their reports, each item drawn by (seed, epoch, id) alone."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Literal

import datasets
import numpy as np
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from hub_medsyn.image_processing_medsyn import MedSynImageProcessor, to_grey
from medsyn.errors import UserError
from medsyn.images import BROKEN, decode
from medsyn.texts import is_nothing, normal_form, shared_groups
from trainers.data.augmentation import augment
from trainers.data.dataset_by_name import encoded_image
from trainers.data.sentences import CLEANING_RULES, SentenceRule, split_sentences


def draw(seed: int, epoch: int, sample_id: str, stream: str) -> np.random.Generator:
    """The random numbers of one use of one item in one epoch: no order, process or interruption changes them."""
    digest = hashlib.sha256(f"{stream}\0{sample_id}".encode()).digest()
    return np.random.default_rng([seed, epoch, int.from_bytes(digest[:8], "little")])


def cleaned(text: str, rule: SentenceRule) -> str:
    """The whole text as its method's published code feeds it."""
    return " ".join(split_sentences(text, rule)) if rule in CLEANING_RULES else text


_TEXT = (datasets.Value("string"), datasets.Value("large_string"), datasets.Value("null"))


class PairDataset(Dataset):
    """Rows of an image-text dataset as training or evaluation items.

    An index is a row, or `(epoch, row)` as [`~trainers.data.samplers.DistinctTextBatchSampler`] gives it. Rows
    without text are left out and counted, and so are those in which `gloria` and `mgca` find no sentence.

    Args:
        rows (`datasets.Dataset`): One split, of the columns below.
        processor ([`MedSynImageProcessor`]): Says how images are resized.
        text_columns (`list[str]`): Joined by a space in this order; empty ones are skipped.
        image_column (`str`, *optional*, defaults to `"image"`): The images.
        id_column (`str`, *optional*, defaults to `"image_id"`): Unique; they seed the draws and stand in errors.
        seed (`int`, *optional*, defaults to 0): Of the draws.
        augmentation (`str`, *optional*, defaults to `"none"`):
            `none`, or a kind of [`~trainers.data.augmentation.augment`].
        flip (`bool`, *optional*, defaults to `False`): Whether images are mirrored at random.
        text_sampling (`str`, *optional*, defaults to `"full"`): `full`, or one random `sentence` each time.
        sentence_rule (`str`, *optional*, defaults to `"fixed"`):
            See [`~trainers.data.sentences.split_sentences`]. Under `gloria` and `mgca` a full text is the sentences
            that they leave of it, joined by spaces; under the others it stays as it is.
        cache_gb (`float`, *optional*, defaults to 4.0):
            Images are decoded and resized once and kept when all of them fit in this many GB; otherwise each time.

    Raises:
        UserError: If a column is missing, no row has text, or an image cannot be read, naming its id.
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        processor: MedSynImageProcessor,
        text_columns: list[str],
        image_column: str = "image",
        id_column: str = "image_id",
        seed: int = 0,
        augmentation: Literal["none", "crop", "film"] = "none",
        flip: bool = False,
        text_sampling: Literal["full", "sentence"] = "full",
        sentence_rule: SentenceRule = "fixed",
        cache_gb: float = 4.0,
    ):
        missing = [name for name in (image_column, id_column, *text_columns) if name not in rows.column_names]
        if missing:
            raise UserError(
                f"the dataset has no column {', '.join(missing)}; it has {', '.join(rows.column_names)}. "
                "Name others with --image_column, --id_column, --text_columns"
            )
        for name in text_columns:
            if rows.features[name] not in _TEXT:
                raise UserError(
                    f"column {name} holds no text but {rows.features[name]}; name others with --text_columns"
                )
        columns = rows.select_columns([id_column, *dict.fromkeys(text_columns)])[:]
        texts = [
            " ".join(value.strip() for value in values if not is_nothing(value))
            for values in zip(*(columns[name] for name in text_columns), strict=True)
        ]
        kept = [number for number, text in enumerate(texts) if text and cleaned(text, sentence_rule)]
        if not kept:
            raise UserError(
                f"none of the {len(texts)} rows has text in {', '.join(text_columns)}; nothing to learn from"
            )
        self.rows_without_text = len(texts) - len(kept)
        self.ids = [str(columns[id_column][number]) for number in kept]
        self.texts = [texts[number] for number in kept]
        self.images = rows.select_columns([image_column]).select(kept)
        if isinstance(self.images.features[image_column], datasets.Image):  # which cannot read damaged metadata
            self.images = self.images.cast_column(image_column, datasets.Image(decode=False))
        self.image_column = image_column
        self.processor = processor
        self.seed = seed
        self.augmentation = augmentation
        self.flip = flip
        self.text_sampling = text_sampling
        self.sentence_rule = sentence_rule
        side = processor.size["longest_edge"]
        # A crop of 80 % of an image that is stored an eighth larger loses no detail.
        self.stored_side = side if augmentation == "none" else side + side // 8
        self.cached: np.ndarray | None = None
        if len(kept) * self.stored_side**2 <= cache_gb * 1e9:
            self.cached = np.empty((len(kept), self.stored_side, self.stored_side), np.uint8)
            for row in tqdm(range(len(kept)), desc="reading images", unit="image", leave=False):
                self.cached[row] = self._read(row)

    def __len__(self) -> int:
        return len(self.ids)

    def distinct_keys(self) -> list[str]:
        """Returns equal strings for texts that say the same, see [`~medsyn.texts.normal_form`], or are fed the same.

        Both are looked at, since `gloria` and `mgca` take the signs out by which dates and measures are recognised.
        """
        return self._keys

    @cached_property
    def _keys(self) -> list[str]:
        fed = [" ".join(cleaned(text, self.sentence_rule).lower().split()) for text in self.texts]
        # Keys are texts in lower case, since their order decides which rows make a batch.
        return [fed[first] for first in shared_groups(fed, [normal_form(text) for text in self.texts])]

    def fingerprint(self) -> str:
        """Twelve hex digits that name the ids and texts in their order."""
        pairs = json.dumps([self.ids, self.texts])
        return hashlib.sha256(pairs.encode()).hexdigest()[:12]

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        """`id` (`str`), `text` (`str`) and `image` (`(side, side)`, grey values 0 to 255) of one item."""
        epoch, row = key if isinstance(key, tuple) else (0, key)
        return {"id": self.ids[row], "text": self._text(epoch, row), "image": self._image(epoch, row)}

    def _text(self, epoch: int, row: int) -> str:
        if self.text_sampling == "full":
            return cleaned(self.texts[row], self.sentence_rule)
        sentences = split_sentences(self.texts[row], self.sentence_rule) or [self.texts[row]]
        return sentences[draw(self.seed, epoch, self.ids[row], "sentence").integers(len(sentences))]

    def _image(self, epoch: int, row: int) -> np.ndarray:
        square = self._read(row) if self.cached is None else self.cached[row]  # (stored_side, stored_side)
        side = self.processor.output_size
        if self.augmentation == "none":
            start = (self.stored_side - side) // 2
            return square[start : start + side, start : start + side].astype(np.float32)
        generator = draw(self.seed, epoch, self.ids[row], "film")
        return augment(square, side, generator, self.augmentation, self.flip)

    def _read(self, row: int) -> np.ndarray:
        try:
            image = self.images[row][self.image_column]
            image = decode(encoded_image(image)) if isinstance(image, dict) else image
            return self.processor.resize_and_pad(to_grey(image), self.stored_side)
        except BROKEN as error:
            raise UserError(f"the image {self.ids[row]} cannot be read: {error}") from error
