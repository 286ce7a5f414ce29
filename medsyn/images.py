"""Image files of any depth, decoded upright; damaged metadata do not make an image unreadable.

This module travels with checkpoints as remote code: it imports numpy, Pillow and the standard library alone.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

# What Pillow raises on a broken file.
BROKEN = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, struct.error),
    *(zlib.error, Image.DecompressionBombError),
)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PHOTOMETRIC = 262  # the TIFF tag
_METADATA = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")  # where Pillow looks for an orientation
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_JPEG_DROPPED = {*range(0xE1, 0xEE), 0xEF, 0xFE}  # APP1 to APP13, APP15 and comments; APP0 and APP14 say how to decode


def orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation of an image, 1 to 8; 1, upright, where there is none that can be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of corrupt EXIF
            value = image.getexif().get(ExifTags.Base.Orientation, 1)
        return value if value in _TURNS else 1
    except BROKEN:
        return 1


def upright(image: Image.Image) -> Image.Image:
    """Returns the image turned as its EXIF orientation says, in its own mode; as it is where there is none.

    Raises:
        OSError: The file is cut short or damaged, found where it is decoded.
    """
    turn = _TURNS.get(orientation(image))
    if turn is None:
        return image
    turned = image.transpose(turn)
    for name in _METADATA:  # not to be turned once more
        turned.info.pop(name, None)
    return turned


def upright_size(content: bytes) -> tuple[int, int]:
    """Returns width and height that an image file has once it is turned upright, from its header.

    Raises:
        OSError, ValueError, ...: It is no image or damaged; one of `BROKEN`.
    """
    try:
        image = Image.open(io.BytesIO(content))
    except BROKEN:
        image = Image.open(io.BytesIO(without_metadata(content)))
    width, height = image.size
    turned = image.format != "TIFF" and orientation(image) >= 5  # Pillow turns TIFF itself
    return (height, width) if turned else (width, height)


def decode(
    content: bytes, formats: tuple[str, ...] | None = None, check: Callable[[Image.Image], None] | None = None
) -> Image.Image:
    """Decodes an image file in its own mode, turned upright.

    Args and errors as of [`decode_file`].
    """
    return upright(decode_file(content, formats, check)[0])


def decode_file(
    content: bytes, formats: tuple[str, ...] | None = None, check: Callable[[Image.Image], None] | None = None
) -> tuple[Image.Image, bytes]:
    """Decodes an image file in its own mode, not yet turned upright.

    Args:
        content (`bytes`): The file.
        formats (`tuple[str, ...]`, *optional*): The formats of Pillow to try, by default all.
        check (`Callable`, *optional*): Gets the image before its pixels are decoded, to look at its size; what it
            raises is passed on.

    Returns:
        `tuple[PIL.Image.Image, bytes]`: The image and the file that it was decoded from: `content`, without its
        metadata where these are damaged.

    Raises:
        PIL.UnidentifiedImageError: It is no image of these formats.
        OSError, ValueError, ...: It is damaged; one of `BROKEN`.
    """
    try:
        return _decode(content, formats, check), content
    except BROKEN as error:
        bare = without_metadata(content)
        if bare == content:
            raise
        try:
            image = _decode(bare, formats, check)
        except BROKEN:
            raise error from None
        return (_turned_round(image) if image.format == "TIFF" else image), bare


def _decode(
    content: bytes, formats: tuple[str, ...] | None, check: Callable[[Image.Image], None] | None
) -> Image.Image:
    image = Image.open(io.BytesIO(content), formats=formats)
    if check is not None:
        check(image)
    image.load()
    if any(name in image.info for name in _METADATA):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.getexif()  # raises where it is damaged
    return _white_is_bright(image) if isinstance(image, TiffImagePlugin.TiffImageFile) else image


def _white_is_bright(image: TiffImagePlugin.TiffImageFile) -> Image.Image:
    """A TIFF image whose 0 is white the other way round, which Pillow does for 8 bits alone."""
    if image.tag_v2.get(_PHOTOMETRIC) != 0 or image.mode in ("1", "L"):
        return image
    return _turned_round(image)


def _turned_round(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image)
    turned = Image.fromarray((pixels.max() - pixels + pixels.min()).astype(pixels.dtype.newbyteorder("=")))
    turned.format = image.format
    return turned


def without_metadata(content: bytes) -> bytes:
    """Returns a PNG or JPEG file without what its pixels do not need; any other file as it is."""
    try:
        if content.startswith(_PNG):
            return _png_without_metadata(content)
        if content.startswith(b"\xff\xd8"):
            return _jpeg_without_metadata(content)
        if content[:4] in (b"II*\0", b"MM\0*"):
            return _tiff_without_metadata(content)
    except (struct.error, IndexError):  # cut short: for the decoder to say
        pass
    return content


def _png_without_metadata(content: bytes) -> bytes:
    kept, at = [_PNG], len(_PNG)
    while at < len(content):
        length, name = struct.unpack_from(">I4s", content, at)
        if name in _PNG_KEPT:
            kept.append(content[at : at + 12 + length])
        at += 12 + length
        if name == b"IEND":
            break
    return b"".join(kept)


def _tiff_without_metadata(content: bytes) -> bytes:
    """Black is 0 in the copy where white is: Pillow knows no big-endian 16-bit TIFF with white as 0."""
    order = "<" if content[:2] == b"II" else ">"
    (at,) = struct.unpack_from(f"{order}I", content, 4)
    (entries,) = struct.unpack_from(f"{order}H", content, at)
    for place in range(at + 2, at + 2 + 12 * entries, 12):
        tag, kind, count, value = struct.unpack_from(f"{order}HHIH", content, place)
        if (tag, kind, count, value) == (_PHOTOMETRIC, 3, 1, 0):
            return content[: place + 8] + struct.pack(f"{order}H", 1) + content[place + 10 :]
    return content


def _jpeg_without_metadata(content: bytes) -> bytes:
    kept, at = [content[:2]], 2
    while content[at] == 0xFF and content[at + 1] != 0xDA:  # up to the start of the scan
        if content[at + 1] == 0xFF:  # a fill byte
            at += 1
            continue
        (length,) = struct.unpack_from(">H", content, at + 2)
        if content[at + 1] not in _JPEG_DROPPED:
            kept.append(content[at : at + 2 + length])
        at += 2 + length
    return b"".join([*kept, content[at:]])
