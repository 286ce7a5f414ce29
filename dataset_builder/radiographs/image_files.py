"""Reading an image file of a data set: PNG and JPEG keep their bytes, DICOM and TIFF become an 8-bit PNG."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dataset_builder.pipeline.rows import IMAGE_FORMATS
from dataset_builder.radiographs.dicom import (
    MAX_FILE_BYTES,
    MAX_PIXELS,
    MAX_SIDE,
    is_dicom,
    read_dicom,
    read_dicom_header,
)
from medsyn.errors import UserError
from medsyn.images import BROKEN, decode_file, orientation, upright

_EIGHT_BIT = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")
FORMATS = ("PNG", "JPEG", "TIFF")


@dataclass(frozen=True)
class StoredImage:
    """An image as the data set holds it.

    Args:
        encoded (`bytes`): The file.
        suffix (`str`): `png` or `jpg`.
        size (`tuple[int, int]`): Width and height.
        original (`tuple[int, int]`): Width and height in the download.
        view (`str`, *optional*): `PA` or `AP`, where the file tells it.
        defaults (`tuple[str, ...]`): Required DICOM attributes that the file lacks, for which a default was taken.
    """

    encoded: bytes
    suffix: str
    size: tuple[int, int]
    original: tuple[int, int]
    view: str | None = None
    defaults: tuple[str, ...] = ()


def open_image(path: Path, content: bytes | None = None) -> Image.Image:
    """
    Opens and decodes a file of one of `FORMATS`, upright, after a look at its size.

    Raises:
        UserError: Of another format, broken, cut short or too large; names the file.
        OSError: The file cannot be read.
    """
    if content is None:
        content = _bounded_bytes(path)
    return upright(_decoded(path, content)[0])


def _decoded(path: Path, content: bytes) -> tuple[Image.Image, bytes]:
    try:
        return decode_file(content, FORMATS, _check_size)
    except Image.UnidentifiedImageError:
        raise UserError(f"{path}: is not one of {', '.join(FORMATS)}, or is broken") from None
    except BROKEN as error:
        raise UserError(f"{path}: cannot be decoded: {error}") from None


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise UserError(
            f"has {width} x {height} pixels, over the {MAX_SIDE:,} a side or {MAX_PIXELS:,} in all of a radiograph"
        )
    if getattr(image, "n_frames", 1) > 1 and image.format == "TIFF":
        raise UserError(f"has {image.n_frames} pages; a radiograph has one, so split the file or leave it out")


def _bounded_bytes(path: Path) -> bytes:
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise UserError(f"{path}: has {size:,} bytes, over the {MAX_FILE_BYTES:,} that a radiograph may have")
    return path.read_bytes()


def read_image(path: Path, image_size: int | None = None, image_format: str = "png") -> StoredImage:
    """
    Reads a file as it will be stored.

    An 8-bit PNG or JPEG keeps its bytes unless it is made smaller; metadata that cannot be read are cut out. What is
    encoded anew: DICOM (see [`read_dicom`]), TIFF, images of more than 8 bits (their least value becomes black, their
    greatest white), and images that their Exif tag turns (they are turned).

    Args:
        path (`Path`): A PNG, JPEG, TIFF or DICOM file; DICOM by its suffix `.dcm` or `.dicom`.
        image_size (`int`, *optional*): The longer side, in pixels. A larger image is shrunk to it, keeping its aspect;
            no image is padded or enlarged. Shrunk images are grey.
        image_format (`str`, *optional*, defaults to `"png"`): `png` or `jpeg`, for what is encoded anew.

    Raises:
        UserError: The file cannot be decoded; it is named.
        OSError: The file cannot be read.
    """
    view, defaults = None, []
    if is_dicom(path):
        content, view = None, read_dicom_header(path).view
        image = Image.fromarray(read_dicom(path, notes=defaults))
    else:
        image, content = _decoded(path, _bounded_bytes(path))
        if image.format == "TIFF" or orientation(image) != 1:
            content, image = None, upright(image)
        if image.mode not in _EIGHT_BIT:
            content, image = None, _eight_bit(image)
    original = image.size
    scale = 1 if image_size is None else min(1, image_size / max(original))
    if scale < 1:
        size = tuple(max(1, round(side * scale)) for side in original)
        content, image = None, image.convert("L").resize(size, Image.Resampling.LANCZOS)
    if content is not None:
        return StoredImage(
            content, "png" if image.format == "PNG" else "jpg", image.size, original, view, tuple(defaults)
        )
    buffer = io.BytesIO()
    image.convert("L").save(buffer, format=image_format, **IMAGE_FORMATS[image_format])
    return StoredImage(
        buffer.getvalue(), {"jpeg": "jpg"}.get(image_format, "png"), image.size, original, view, tuple(defaults)
    )


def _eight_bit(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image).astype(np.float64)  # (height, width)
    low, high = pixels.min(), pixels.max()
    return Image.fromarray(np.rint((pixels - low) * (255 / ((high - low) or 1))).astype(np.uint8))
