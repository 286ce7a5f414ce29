"""The image processor: the published resize, every mode of image, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor

from hub_medsyn import MedSynImageProcessor
from hub_medsyn.image_processing_medsyn import to_grey

# Inputs and outputs of _resize_img in marshuang80/gloria (commit 416466a) under opencv-python-headless 5.0.0.
PUBLISHED = Path(__file__).parent / "data" / "resize_pad.npz"


def draw_image(height=40, width=30, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


def test_resize_equals_the_published_one_within_a_grey_level():
    with np.load(PUBLISHED) as numbers:
        for number in range(6):
            expected = numbers[f"out{number}"].astype(int)
            got = MedSynImageProcessor(size=len(expected)).resize_and_pad(numbers[f"in{number}"])
            assert got.shape == expected.shape
            assert np.abs(got - expected).max() <= 1
            assert ((got == 0) | (expected > 0)).all()  # the padding is where it should be


def test_shape_scale_and_channels():
    processor = MedSynImageProcessor(size=16, image_mean=0.5, image_std=0.5)
    pixels = processor([draw_image(), draw_image(30, 50)], return_tensors="pt")["pixel_values"]
    assert pixels.shape == (2, 3, 16, 16) and pixels.dtype == torch.float32
    assert torch.equal(pixels[:, 0], pixels[:, 2])
    assert pixels.min() == -1  # the padding is black
    white = processor(np.full((8, 8), 255, np.uint8), return_tensors="pt")["pixel_values"]
    assert torch.equal(white, torch.ones(1, 3, 16, 16))
    grey = MedSynImageProcessor(size=16, num_channels=1)(draw_image(), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(grey[0, 0], pixels[0, 0])


def test_channel_statistics():
    processor = MedSynImageProcessor(size=4, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])
    pixels = processor(np.full((4, 4), 51, np.uint8), return_tensors="pt")["pixel_values"]
    expected = (torch.tensor([0.2, 0.2, 0.2]) - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor(
        [0.229, 0.224, 0.225]
    )
    torch.testing.assert_close(pixels[0, :, 0, 0], expected)


def test_centre_crop():
    square = draw_image(20, 20)
    pixels = MedSynImageProcessor(size=20, crop_size=14)(square, return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(pixels[0, 0] * 0.5 + 0.5, square[3:17, 3:17] / 255, atol=1e-6)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "CMYK", "P"])
def test_modes_of_a_grey_image_agree(mode):
    grey = Image.fromarray(draw_image())
    converted = grey.convert("RGB").convert(mode) if mode == "CMYK" else grey.convert(mode)
    assert converted.mode == mode
    assert np.abs(to_grey(converted).astype(int) - np.asarray(grey)).max() <= 1


def test_sixteen_bits_are_stretched_to_eight():
    deep = draw_image().astype(np.uint16) * 16  # a 12-bit image in 16 bits
    expected = np.rint((deep - deep.min()) / (deep.max() - deep.min()) * 255)
    np.testing.assert_array_equal(to_grey(Image.fromarray(deep)), expected)
    np.testing.assert_array_equal(to_grey(deep.astype(np.int32)), expected)
    assert to_grey(np.full((4, 4), 900, np.uint16)).max() == 0


def test_arrays_and_tensors_of_either_layout_agree():
    grey = draw_image()
    colour = np.repeat(grey[..., None], 3, axis=2)  # (height, width, 3)
    for image in (
        colour,
        colour.transpose(2, 0, 1),
        torch.tensor(grey),
        torch.tensor(grey)[None],
        grey / 255,
        torch.tensor(colour / 255).permute(2, 0, 1),
        torch.tensor(grey / 255, requires_grad=True),
    ):
        np.testing.assert_array_equal(to_grey(image), grey)
    rounded = to_grey(torch.tensor(grey / 255).bfloat16())
    np.testing.assert_allclose(rounded.astype(int), grey.astype(int), atol=1)


def test_saved_and_loaded(tmp_path):
    processor = MedSynImageProcessor(size=20, crop_size=16, image_mean=[0.4, 0.5, 0.6], num_channels=3)
    processor.save_pretrained(tmp_path)
    for loaded in (MedSynImageProcessor.from_pretrained(tmp_path), AutoImageProcessor.from_pretrained(tmp_path)):
        assert isinstance(loaded, MedSynImageProcessor) and loaded.to_dict() == processor.to_dict()
        np.testing.assert_array_equal(loaded(draw_image())["pixel_values"], processor(draw_image())["pixel_values"])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.full((8, 8), np.nan), "NaN"),
        (draw_image(1, 1), "1 x 1"),
        (draw_image(1, 40), "1 x 40"),
        (draw_image(2000, 2), "2000 x 2"),
        (np.zeros((0, 0), np.uint8), "0 x 0"),
        (np.zeros((8, 8, 5), np.uint8), r"\(8, 8, 5\)"),
    ],
)
def test_unusable_images_are_named(image, message):
    with pytest.raises(ValueError, match=f"image 1 of 2: .*{message}"):
        MedSynImageProcessor(size=16)([draw_image(), image])


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="larger than size 16"):
        MedSynImageProcessor(size=16, crop_size=20)
    with pytest.raises(ValueError, match="has no longest_edge; .* size=224"):
        MedSynImageProcessor(size={"height": 16, "width": 16})
    with pytest.raises(ValueError, match="num_channels 2"):
        MedSynImageProcessor(num_channels=2)
    with pytest.raises(ValueError, match="takes no do_flip"):
        MedSynImageProcessor()(draw_image(), do_flip=True)
