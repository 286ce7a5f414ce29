"""Images are decoded whatever their metadata say, upright and in their own depth."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image, ImageOps

from medsyn.images import BROKEN, decode, decode_file, orientation, upright, upright_size
from tests.fixtures.damaged_metadata import damaged, encoded, tiff, turned

PIXELS = np.add.outer(np.arange(40) * 3, np.arange(60)).astype(np.uint8)  # (40, 60)
DAMAGED = damaged(PIXELS)


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_metadata_leave_the_pixels(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image, content = decode_file(DAMAGED[name])
    found = np.asarray(upright(image))
    if name.startswith("JPEG"):
        found, expected = found.astype(int), np.asarray(Image.open(io.BytesIO(encoded(PIXELS, "JPEG", quality=95))))
        assert np.abs(found - expected).max() == 0
    else:
        assert np.array_equal(found, PIXELS)
    assert upright_size(DAMAGED[name]) == (60, 40) and orientation(image) == 1
    again = Image.open(io.BytesIO(content))
    again.load()
    again.getexif()  # what is stored is sound


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "TIFF"])
def test_images_are_turned_once_as_exif_says(value, image_format):
    content = turned(PIXELS, value, image_format)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    image = decode(content)
    assert np.array_equal(np.asarray(image), expected)
    assert upright_size(content) == image.size == (expected.shape[1], expected.shape[0])
    assert np.array_equal(np.asarray(ImageOps.exif_transpose(image)), expected)  # and not once more


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_upright(value):
    assert np.asarray(decode(turned(PIXELS, value, "PNG"))).shape == (40, 60)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
@pytest.mark.parametrize("value", [3, 6])
def test_every_mode_is_turned(mode, value):
    grey = Image.fromarray(PIXELS)
    image = Image.fromarray(PIXELS.astype(np.uint16) * 200) if mode == "I;16" else grey.convert("RGB").convert(mode)
    exif = Image.Exif()
    exif[0x0112] = value
    buffer = io.BytesIO()
    image.save(buffer, "TIFF" if mode in ("CMYK", "F", "I") else "PNG", exif=exif.tobytes())
    found = decode(buffer.getvalue())
    assert np.array_equal(np.asarray(found), np.rot90(np.asarray(image), {3: 2, 6: 3}[value]))


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bits_of_either_byte_order_are_kept(order):
    deep = PIXELS.astype(np.uint16) * 257
    content = tiff(deep, order)
    assert np.array_equal(np.asarray(decode(content)).astype(np.uint16), deep)


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_whose_zero_is_white_is_turned_round(order):
    deep = PIXELS.astype(np.uint16) * 257
    found = np.asarray(decode(tiff(deep, order, photometric=0))).astype(int)
    assert np.array_equal(found, int(deep.max()) + int(deep.min()) - deep.astype(int))


def test_a_file_without_its_pixels_is_broken_still():
    noise = np.random.default_rng(0).integers(0, 256, (40, 60), dtype=np.uint8)
    for content in (b"no image", encoded(noise)[:900], encoded(noise, "JPEG")[:900], damaged(noise)["eXIf"][:900]):
        with pytest.raises(BROKEN):
            decode(content)


def test_the_check_sees_the_size_before_the_pixels_and_its_error_is_kept():
    def refuse(image):
        raise ValueError(f"{image.size} is too large")

    for content in (encoded(PIXELS), DAMAGED["eXIf"]):
        with pytest.raises(ValueError, match=r"\(60, 40\) is too large"):
            decode(content, check=refuse)
