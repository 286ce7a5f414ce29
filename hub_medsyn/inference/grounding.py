"""Where in an image a phrase is: heat maps at the image's own size, and how well they meet boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import ProcessorMixin

from hub_medsyn.image_processing_medsyn import MedSynImageProcessor, to_grey
from hub_medsyn.inference.embedding import evaluating, image_inputs, text_inputs
from hub_medsyn.inference.region_centres import centres_in_square, traced_centres
from hub_medsyn.modeling_local import LocalFeaturesModel, word_numbers
from medsyn.errors import UserError

# How many of the features in `words` come before the first word, by `config.model_type`: GLoRIA's opening token.
OPENING = {"medsyn-gloria": 1, "medsyn-mgca": 0}


@dataclass(frozen=True)
class HeatMap:
    """How much each pixel of an image looks like a text.

    Args:
        values (`np.ndarray` of shape `(height, width)`): float32 cosines between -1 and 1, at the image's own size.
        regions (`np.ndarray` of shape `(rows, columns)`): The same as the model has them, of the square it saw.
        text (`str`): The word or phrase.
    """

    values: np.ndarray
    regions: np.ndarray
    text: str

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.array(self.values, dtype=dtype, copy=copy)


def ground(
    model: LocalFeaturesModel, processor: ProcessorMixin, image: Image.Image | np.ndarray, text: str
) -> HeatMap:
    """Where in an image a word or phrase is.

    A region's value is its cosine with a word in the space that the model's local loss aligns, the mean over the
    words. Tokens that open and close the text and punctuation are no words. A region lies where its encoder's
    convolutions are centred ([`~hub_medsyn.inference.region_centres.traced_centres`]) and values are bilinear between
    such centres; pixels beyond, and those that a centre crop hid from the model, have the value of the nearest region.

    Args:
        model ([`GLoRIAModel`] or [`MGCAModel`]): On any device.
        processor (`ProcessorMixin`): Saved with the model; it shrinks, pads and crops, and all of this is undone.
        image (`PIL.Image.Image` or `np.ndarray`): An image as [`MedSynImageProcessor`] takes it.
        text (`str`): A word or a short phrase, such as `left pleural effusion`.

    Returns:
        [`HeatMap`]

    Raises:
        UserError: If the model compares whole images with whole texts only, the text has no word, the image cannot be
            used, or the features are not finite.
    """
    words, cosines, placed = _word_cosines(model, processor, image, text)
    regions = cosines.mean(0)  # (rows, columns)
    return HeatMap(_at_image_size(regions[None], *placed)[0], regions.numpy(), " ".join(words))


def ground_words(
    model: LocalFeaturesModel, processor: ProcessorMixin, image: Image.Image | np.ndarray, text: str
) -> list[tuple[str, HeatMap]]:
    """[`ground`] for each word of a text, from one pass of the model: the words as the tokenizer reads them, in order,
    each with its heat map."""
    words, cosines, placed = _word_cosines(model, processor, image, text)
    maps = _at_image_size(cosines, *placed)
    return [
        (word, HeatMap(values, regions.numpy(), word))
        for word, values, regions in zip(words, maps, cosines, strict=True)
    ]


def shown_box(processor: MedSynImageProcessor, height: int, width: int) -> tuple[float, float, float, float]:
    """Where the processor puts an image in the square that the model sees.

    Args:
        processor ([`MedSynImageProcessor`]): Shrinks, pads and crops.
        height (`int`): Of the image, in pixels.
        width (`int`): Likewise.

    Returns:
        `tuple[float, float, float, float]`: Left, top, right, bottom in pixels of the square; negative, or beyond the
        square, where a centre crop cuts the image.
    """
    side = processor.size["longest_edge"]
    longest = max(height, width)
    new_height, new_width = height * side // longest, width * side // longest
    cut = (side - processor.output_size) // 2
    left, top = (side - new_width) // 2 - cut, (side - new_height) // 2 - cut
    return left, top, left + new_width, top + new_height


def _word_cosines(
    model: LocalFeaturesModel, processor: ProcessorMixin, image, text: str
) -> tuple[list[str], Tensor, tuple]:
    """The words, `(words, rows, columns)` cosines, and what [`_at_image_size`] needs."""
    kind = model.config.model_type
    if kind not in OPENING:
        raise UserError(
            f"{kind} compares whole images with whole texts and has no regions to ground in; use GLoRIA or MGCA"
        )
    if not isinstance(text, str) or not text.strip():
        raise UserError("the text to ground is empty; pass a word or a phrase")
    grey = to_grey(image)  # (height, width)
    with evaluating(model):
        pixels = image_inputs(model, processor, [grey])
        with traced_centres(model.vision_model) as traced:
            images = model.encode_images(pixels)
        inputs = text_inputs(model, processor, [text])
        texts = model.encode_texts(**inputs)
        numbers, counts, closed = word_numbers(
            inputs["input_ids"], inputs["attention_mask"], model.continues_word, model.config.sep_token_id
        )
    ids, numbers = inputs["input_ids"][0].cpu(), numbers[0].cpu()
    spelt = [
        processor.tokenizer.decode(ids[numbers == word]).strip() for word in range(1, int(counts - closed.long()))
    ]
    kept = [place for place, word in enumerate(spelt) if any(character.isalnum() for character in word)]
    if not kept:
        raise UserError("the text to ground has no word with a letter or digit; pass a word or a phrase")
    start = OPENING[kind]
    words = F.normalize(texts["words"][0, start : start + len(spelt)].float(), dim=-1)[kept]  # (words, dim)
    regions = F.normalize(images["regions"][0].float(), dim=-1)  # (regions, dim)
    cosines = (words @ regions.T).cpu()  # (words, regions)
    if not cosines.isfinite().all():
        raise UserError("the model's local features are not finite: it has diverged, or the image is not usable")
    side = round(cosines.shape[1] ** 0.5)
    box = shown_box(processor.image_processor, *grey.shape)
    centres = centres_in_square(traced, side, pixels.shape[-1])
    return [spelt[place] for place in kept], cosines.view(-1, side, side), (box, centres, grey.shape)


def _at_image_size(
    maps: Tensor, box: tuple[float, float, float, float], centres: tuple[float, float], shape: tuple[int, int]
) -> np.ndarray:
    """`(maps, rows, columns)` of the square that the model saw to `(maps, height, width)` of the image in its `box`;
    `centres` are the pixel of the square that the first region is on, and the pixels from one to the next."""
    left, top, right, bottom = box
    first, step = centres
    side = maps.shape[-1]
    # Pixels of the image as pixels of the square, then as numbers of regions, then as grid_sample counts.
    across = torch.arange(shape[1]).add(0.5).div(shape[1]).mul(right - left).add(left - 0.5)
    down = torch.arange(shape[0]).add(0.5).div(shape[0]).mul(bottom - top).add(top - 0.5)
    across, down = (((places - first) / step * 2 + 1) / side - 1 for places in (across, down))
    grid = torch.stack([across.expand(shape), down[:, None].expand(shape)], dim=-1)  # (height, width, 2)
    sampled = F.grid_sample(maps[None], grid[None], mode="bilinear", padding_mode="border", align_corners=False)
    return sampled[0].numpy()


def contrast_to_noise_ratio(
    heat_map: HeatMap | np.ndarray, boxes_or_mask: Sequence[Sequence[float]] | np.ndarray
) -> float:
    """How far the values inside boxes stand above those outside (Boecking et al. 2022, section 4.2).

    `(mean_in - mean_out) / sqrt(variance_in + variance_out)`. The published ratio is the absolute value; with the sign
    a map that avoids the boxes is below 0, and one that knows nothing is 0 on average.

    Args:
        heat_map ([`HeatMap`] or `np.ndarray` of shape `(height, width)`): Larger means more likely there.
        boxes_or_mask: Boxes `(n, 4)` as absolute x0, y0, x1, y1, of which the union counts, or a bool mask like the
            map.

    Returns:
        `float`: 0 for a map of one value; infinite where inside and outside have one value each.

    Raises:
        UserError: If the map is not finite, or boxes are missing, reach outside, or cover no pixel or all.
    """
    values = _checked_map(heat_map).astype(np.float64)
    given = np.asarray(boxes_or_mask)
    if given.dtype == bool:
        if given.shape != values.shape:
            raise UserError(f"a mask of shape {given.shape} is not one of a heat map of shape {values.shape}")
        inside = given
    else:
        inside = _box_mask(given, values.shape)
    if inside.all() or not inside.any():
        raise UserError(
            f"the boxes cover {'every' if inside.all() else 'no'} pixel of the image, and there is nothing to compare"
        )
    difference = values[inside].mean() - values[~inside].mean()
    noise = np.sqrt(values[inside].var() + values[~inside].var())
    if np.ptp(values) <= _tie(values):
        return 0.0
    return float(difference / noise) if noise > 0 else float(np.copysign(np.inf, difference))


def pointing_game(
    heat_map: HeatMap | np.ndarray, boxes: Sequence[Sequence[float]] | np.ndarray, tolerance: float = 0
) -> float:
    """Whether the largest value lies in a box (Zhang et al. 2018, section 4.1).

    Args:
        heat_map ([`HeatMap`] or `np.ndarray` of shape `(height, width)`): Larger means more likely there.
        boxes (`(n, 4)`): Absolute x0, y0, x1, y1; one of them is enough.
        tolerance (`float`, *optional*, defaults to 0): How many pixels outside still count.

    Returns:
        `float`: 1 for a hit and 0 for a miss. Of tied largest values the share that hits, so that a map of one value
        gets [`pointing_game_chance`] and no more.

    Raises:
        UserError: If the map is not finite, or boxes are missing or reach outside.
    """
    values = _checked_map(heat_map)
    inside = _box_mask(boxes, values.shape, tolerance)
    return float(inside[values >= values.max() - _tie(values)].mean())


def pointing_game_chance(
    boxes: Sequence[Sequence[float]] | np.ndarray, shape: tuple[int, int], tolerance: float = 0
) -> float:
    """The share of an image of `shape` `(height, width)` that [`pointing_game`] counts as hits: what pointing at
    random gets."""
    return float(_box_mask(boxes, shape, tolerance).mean())


def _tie(values: np.ndarray) -> float:
    """What single precision makes of equal values."""
    return 1e-6 * float(np.abs(values).max())


def _checked_map(heat_map: HeatMap | np.ndarray) -> np.ndarray:
    values = np.asarray(heat_map)
    if values.ndim != 2 or not values.size:
        raise UserError(f"a heat map of shape {values.shape} is not (height, width)")
    if not np.isfinite(values).all():
        raise UserError(f"the heat map has {int((~np.isfinite(values)).sum())} values that are not finite")
    return values


def _box_mask(
    boxes: Sequence[Sequence[float]] | np.ndarray, shape: tuple[int, int], tolerance: float = 0
) -> np.ndarray:
    """`(height, width)` bool: pixels whose centre is in a box, or not further from one than `tolerance`."""
    boxes = np.asarray(boxes, dtype=np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not len(boxes):
        raise UserError(f"boxes of shape {boxes.shape} are not (n, 4) with n of at least 1; leave out images without")
    height, width = shape
    x0, y0, x1, y1 = boxes.T
    # Corners that were rounded may lie a little outside.
    wrong = ~((x0 > -1) & (y0 > -1) & (x1 < width + 1) & (y1 < height + 1) & (x0 < x1) & (y0 < y1))
    if wrong.any():
        raise UserError(
            f"box {boxes[wrong][0].tolist()} is not x0 < x1, y0 < y1 within an image {width} wide and {height} high; "
            "boxes are absolute x0, y0, x1, y1 in pixels of the image"
        )
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    beside = np.maximum(np.maximum(x0[:, None] - x, x - x1[:, None]), 0)  # (boxes, width): distance to the box
    above = np.maximum(np.maximum(y0[:, None] - y, y - y1[:, None]), 0)  # (boxes, height)
    return (above[:, :, None] ** 2 + beside[:, None] ** 2 <= tolerance**2).any(0)
