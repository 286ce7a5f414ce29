"""Heat maps at the image's own size, with features planted where the answer is known, and their measures."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import VisionTextDualEncoderProcessor

from hub_medsyn import MedSynImageProcessor
from hub_medsyn.inference.grounding import (
    contrast_to_noise_ratio,
    ground,
    ground_words,
    pointing_game,
    pointing_game_chance,
    shown_box,
)
from tests.fixtures.tiny_models import (
    side_of,
    tiny_convirt,
    tiny_gloria,
    tiny_image_processor,
    tiny_mgca,
    tiny_tokenizer,
)

SHAPES = [(100, 300), (300, 100), (90, 70), (128, 128), (37, 41)]  # height, width


def processor(**settings):
    images = MedSynImageProcessor(**settings) if settings else tiny_image_processor()
    return VisionTextDualEncoderProcessor(images, tiny_tokenizer())


def plant_brightness(model, monkeypatch, rows=16):
    """The model's cosine of a region with a word becomes the region's brightness, from 0 to 1; with the tokens that
    open and close the text it becomes -1."""

    def encode_images(pixels):
        bright = F.adaptive_avg_pool2d(pixels[:, :1] / 2 + 0.5, rows).flatten(2).transpose(1, 2)  # (1, regions, 1)
        return {"regions": torch.cat([bright, (1 - bright**2).clamp(min=0).sqrt()], -1) * 7}

    def encode_texts(input_ids, **_):
        words = torch.tensor([3.0, 0.0]).repeat(1, input_ids.shape[1], 1)  # as many as tokens: none is split
        words[:, -1] = words[:, 0] = torch.tensor([-1.0, 0.0])
        return {"words": words if model.config.model_type == "medsyn-gloria" else words[:, 1:]}

    monkeypatch.setattr(model, "encode_images", encode_images)
    monkeypatch.setattr(model, "encode_texts", encode_texts)
    return model


@pytest.mark.parametrize("crop", [None, 96])
@pytest.mark.parametrize("shape", SHAPES)
def test_brightness_comes_back_where_it_was(monkeypatch, shape, crop):
    """Of a ramp the cells' means and what lies between them are exact, where cells see neither padding nor an edge."""
    height, width = shape
    settings = processor(size=128, crop_size=crop)
    side = crop or 128
    cell = side / 16
    for make, axis in ((tiny_gloria, 1), (tiny_mgca, 0)):
        model = plant_brightness(make(), monkeypatch)
        ramp = np.indices(shape)[axis] + 0.5
        image = (ramp / shape[axis] * 255).round().astype(np.uint8)
        heat = ground(model, settings, Image.fromarray(image), "left effusion")
        assert heat.values.shape == shape and heat.values.dtype == np.float32 and heat.regions.shape == (16, 16)
        left, top, right, bottom = shown_box(settings.image_processor, height, width)
        x = left + (np.arange(width) + 0.5) / width * (right - left)
        y = top + (np.arange(height) + 0.5) / height * (bottom - top)
        inside = [
            (place > max(low, 0) + 1.5 * cell) & (place < min(high, side) - 1.5 * cell)
            for place, low, high in ((y, top, bottom), (x, left, right))
        ]
        clear = np.ix_(*inside)
        assert heat.values[clear].size > 20
        # A 255th from rounding; where the image is enlarged, a pixel's step of the ramp too.
        np.testing.assert_allclose(heat.values[clear], image[clear] / 255, atol=0.01 + 0.5 / min(shape))


@pytest.mark.parametrize("make", [tiny_gloria, tiny_mgca])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_largest_value_is_within_a_cell_of_what_was_planted(monkeypatch, make, shape):
    height, width = shape
    model = plant_brightness(make(), monkeypatch, rows=8)
    cell = max(shape) / 8
    for share_y, share_x in ((0.25, 0.7), (0.8, 0.2), (0.5, 0.5)):
        y, x = share_y * height, share_x * width
        image = np.zeros(shape, np.uint8)
        image[round(y - cell / 2) : round(y + cell / 2), round(x - cell / 2) : round(x + cell / 2)] = 255
        heat = ground(model, processor(size=64), image, "left")
        found = np.unravel_index(heat.values.argmax(), shape)
        assert np.abs(np.array(found) + 0.5 - (y, x)).max() <= cell
        box = [max(x - cell, 0), max(y - cell, 0), min(x + cell, width), min(y + cell, height)]
        assert pointing_game(heat, [box]) == 1
        elsewhere = 1 - np.array(box)[[2, 3, 0, 1]] / (width, height, width, height)
        if abs(share_y - 0.5) + abs(share_x - 0.5) > 0.3:  # the box mirrored at the middle is another one
            assert pointing_game(heat, [elsewhere * (width, height, width, height)]) == 0
        assert contrast_to_noise_ratio(heat, [box]) > 0.5


@pytest.mark.parametrize("settings", [{"size": 64}, {"size": 80, "crop_size": 64}, {"size": 81, "crop_size": 64}])
def test_the_image_is_where_the_processor_puts_it(settings):
    images = MedSynImageProcessor(**settings)
    for shape in [*SHAPES, (2, 60), (61, 200)]:
        square = images(np.full(shape, 255, np.uint8), return_tensors="np")["pixel_values"][0, 0] > 0
        rows, columns = np.flatnonzero(square.any(1)), np.flatnonzero(square.any(0))
        box = np.clip(shown_box(images, *shape), 0, 64)
        assert box.tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


@pytest.mark.parametrize("make", [tiny_gloria, tiny_mgca])
@pytest.mark.parametrize("kind", ["resnet", "vit", "swin"])
def test_maps_are_the_cosines_of_regions_and_words(make, kind):
    model, side = make(kind).train(), side_of(kind)
    image = np.random.default_rng(0).integers(0, 256, (side, side), np.uint8)
    settings = processor(size=side)
    text = "Small cardiomegaly, no effusion."
    maps = ground_words(model, settings, image, text)
    assert [word for word, _ in maps] == ["small", "cardiomegaly", "no", "effusion"]  # words, not pieces or points
    assert [heat.text for _, heat in maps] == [word for word, _ in maps] and model.training
    with torch.no_grad():
        model.eval()
        inputs = tiny_tokenizer()([text], return_tensors="pt")
        features = model.encode(
            {**inputs, "pixel_values": settings.image_processor(image, return_tensors="pt")["pixel_values"]}
        )
        places = [1, 2, 4, 5] if make is tiny_gloria else [0, 1, 3, 4]  # the comma between
        words = features["words"][0, places]
        expected = F.cosine_similarity(words[:, None], features["regions"][0], dim=-1)  # (4, regions)
    for (_, heat), values in zip(maps, expected, strict=True):
        np.testing.assert_allclose(heat.regions.ravel(), values, rtol=1e-4, atol=1e-5)
        assert np.abs(heat.values).max() <= 1 + 1e-6 and heat.values.shape == (side, side)
        pixels, number = np.arange(side), len(heat.regions)
        centres = np.arange(number) * 16 if kind == "resnet" else (np.arange(number) + 0.5) * side / number - 0.5
        down = np.stack([np.interp(pixels, centres, column) for column in heat.regions.T], axis=1)
        np.testing.assert_allclose(heat.values, [np.interp(pixels, centres, row) for row in down], atol=1e-5)
    phrase = ground(model, settings, image, text)
    assert phrase.text == "small cardiomegaly no effusion"
    np.testing.assert_allclose(phrase.values, np.mean([heat.values for _, heat in maps], 0), atol=1e-6)


def test_every_kind_of_image_gives_the_map_of_its_own_size():
    model, image = tiny_gloria(), np.random.default_rng(0).integers(0, 256, (40, 30), np.uint8)
    expected = ground(model, processor(), image, "left").values
    assert expected.std() > 0
    for other in (
        Image.fromarray(image).convert("RGB"),
        np.repeat(image[None], 3, axis=0),
        np.where(image == image, image / 255, 0),
    ):
        np.testing.assert_allclose(ground(model, processor(), other, "left").values, expected, atol=1e-3)


def test_what_cannot_be_grounded_is_told():
    image = np.zeros((8, 8), np.uint8)
    with pytest.raises(ValueError, match="medsyn-convirt .* use GLoRIA or MGCA"):
        ground(tiny_convirt(), processor(), image, "effusion")
    model = tiny_gloria()
    with pytest.raises(ValueError, match="is empty"):
        ground(model, processor(), image, " ")
    with pytest.raises(ValueError, match="no word with a letter or digit"):
        ground_words(model, processor(), image, ". ,")
    with pytest.raises(ValueError, match="NaN"):
        ground(model, processor(), np.full((8, 8), np.nan), "effusion")
    with pytest.raises(ValueError, match="1 x 8"):
        ground(model, processor(), image[:1], "effusion")
    with torch.no_grad():
        model.region_head.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="not finite"):
        ground(model, processor(), image, "effusion")


def test_contrast_to_noise_is_the_published_ratio_with_its_sign():
    values = np.random.default_rng(0).normal(size=(20, 30))
    values[5:10, 4:12] += 2
    values[12:15, 20:25] += 2
    mask = np.zeros((20, 30), bool)
    mask[5:10, 4:12] = mask[12:15, 20:25] = True
    inside, outside = values[mask], values[~mask]
    expected = (inside.mean() - outside.mean()) / np.sqrt(inside.std() ** 2 + outside.std() ** 2)
    boxes = [[4, 5, 12, 10], [20, 12, 25, 15], [5.2, 6, 7, 8]]  # the last lies in the first
    assert expected > 1
    assert contrast_to_noise_ratio(values, mask) == pytest.approx(expected)
    assert contrast_to_noise_ratio(values, boxes) == pytest.approx(expected)
    assert contrast_to_noise_ratio(-values, boxes) == pytest.approx(-expected)
    assert contrast_to_noise_ratio(3 * values + 5, boxes) == pytest.approx(expected)
    assert contrast_to_noise_ratio(np.full((20, 30), 0.3) + 1e-9 * values, boxes) == 0
    assert contrast_to_noise_ratio(mask.astype(float), boxes) == np.inf
    drawn = [contrast_to_noise_ratio(np.random.default_rng(seed).normal(size=(20, 30)), mask) for seed in range(200)]
    assert abs(np.mean(drawn)) < 4 * np.std(drawn) / 200**0.5


def test_pointing_counts_one_box_of_several_and_shares_out_ties():
    values = np.zeros((10, 20))
    values[3, 4] = 1
    assert pointing_game(values, [[15, 5, 18, 9], [4, 3, 5, 4]]) == 1
    assert pointing_game(values, [[5, 3, 9, 9]]) == 0
    assert pointing_game(values, [[5, 3, 9, 9]], tolerance=0.4) == 0  # its centre is half a pixel away
    assert pointing_game(values, [[5, 3, 9, 9]], tolerance=0.5) == 1
    values[8, [1, 2, 16]] = 1
    assert pointing_game(values, [[15, 5, 18, 9]]) == 0.25
    boxes = [[0, 0, 5, 10], [2, 0, 10, 10]]
    for constant in (0.0, -0.7, 3.0):
        noise = 1e-8 * np.random.default_rng(0).normal(size=(10, 20)) * constant
        assert pointing_game(constant + noise, boxes) == pointing_game_chance(boxes, (10, 20)) == 0.5


def test_pointing_at_random_hits_as_often_as_chance_says():
    boxes, draws = [[3, 2, 11, 7]], np.random.default_rng(0).random((2000, 10, 16))
    chance = pointing_game_chance(boxes, (10, 16))
    assert chance == 8 * 5 / 160
    assert np.mean([pointing_game(heat, boxes) for heat in draws]) == pytest.approx(chance, abs=0.035)
    around = pointing_game_chance(boxes, (10, 16), tolerance=1)
    assert around == (8 * 5 + 2 * 8 + 2 * 5 + 4) / 160  # corners are 0.7 away
    assert pointing_game_chance([[0, 0, 16, 10]], (10, 16)) == 1


def test_boxes_and_maps_that_mean_nothing_are_told():
    values = np.random.default_rng(0).random((10, 20))
    with pytest.raises(ValueError, match="leave out images without"):
        pointing_game(values, [])
    for wrong in ([5, 5, 22, 9], [-3, 1, 4, 4], [5, 5, 5, 9], [9, 1, 5, 4], [0, 0, np.nan, 4]):
        with pytest.raises(ValueError, match="20 wide and 10 high"):
            pointing_game(values, [[1, 1, 3, 3], wrong])
    assert pointing_game(values, [[-0.4, 0, 20.3, 10.2]]) == 1  # rounded corners
    with pytest.raises(ValueError, match="every pixel"):
        contrast_to_noise_ratio(values, [[0, 0, 20, 10]])
    with pytest.raises(ValueError, match="no pixel"):
        contrast_to_noise_ratio(values, [[1.6, 1, 2.4, 4]])
    with pytest.raises(ValueError, match=r"mask of shape \(20, 10\)"):
        contrast_to_noise_ratio(values, values.T > 0.5)
    values[2, 3] = np.nan
    for measure in (pointing_game, contrast_to_noise_ratio):
        with pytest.raises(ValueError, match="1 values that are not finite"):
            measure(values, [[1, 1, 3, 3]])
        with pytest.raises(ValueError, match=r"\(3, 10, 20\)"):
            measure(np.zeros((3, 10, 20)), [[1, 1, 3, 3]])
