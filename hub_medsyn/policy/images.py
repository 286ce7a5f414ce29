"""Checks that the file of an image holds its pixels and nothing else: no text, EXIF, comment, profile or hidden tail.

Such a file is refused rather than encoded anew: what is published then keeps the digests of the build's manifest, and
a JPEG its size and pixels.
"""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image

from medsyn.errors import UserError

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_CHANNELS = {0: 1, 2: 3}  # colour type -> channels: grey, RGB
# Tables, frame, restart interval: what a decoder needs. Everything else (APPn, COM) can hold words.
_NEEDED = {0xDB, 0xC0, 0xC1, 0xC2, 0xC4, 0xDD}


def image_format(content: bytes) -> str:
    """
    The format of a file that holds pixels only.

    What was worked into the pixels themselves, or by hand into the compressed stream, is not found.

    Args:
        content (`bytes`): The file.

    Returns:
        `str`: `png` or `jpeg`.

    Raises:
        UserError: It is neither, is broken, or holds something beside its pixels; says what, never the content.
    """
    if content.startswith(_PNG):
        _check_png(content)
        found = "png"
    elif content.startswith(_JPEG):
        _check_jpeg(content)
        found = "jpeg"
    else:
        raise UserError("it is neither PNG nor JPEG")
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
    except (OSError, SyntaxError, Image.DecompressionBombError):
        raise UserError("it cannot be decoded") from None
    return found


def _check_png(content: bytes) -> None:
    place = len(_PNG)
    names: list[bytes] = []
    data: list[bytes] = []
    while place < len(content) and names[-1:] != [b"IEND"]:
        if place + 12 > len(content):
            raise UserError("it is cut short")
        length, name = struct.unpack_from(">I4s", content, place)
        body, check = content[place + 8 : place + 8 + length], content[place + 8 + length : place + 12 + length]
        if len(check) != 4 or zlib.crc32(name + body) != int.from_bytes(check, "big"):
            raise UserError("it is cut short or damaged")
        if name not in (b"IHDR", b"IDAT", b"IEND"):
            raise UserError("it holds a chunk beside its pixels, such as text or EXIF")
        if name == b"IDAT":
            data.append(body)
        elif name == b"IHDR":
            width, height, depth, colour, *_, interlaced = struct.unpack(">IIBBBBB", body) if length == 13 else [0] * 7
        elif length:
            raise UserError("its last chunk is not empty")
        names.append(name)
        place += 12 + length
    if names[:1] != [b"IHDR"] or names.count(b"IHDR") != 1 or names[-1] != b"IEND" or not data:
        raise UserError("its chunks are not those of an image")
    if place != len(content):
        raise UserError("something follows the end of the image")
    if colour not in _CHANNELS or interlaced:
        raise UserError("it is not plain grey or RGB")
    size = height * (1 + -(-width * _CHANNELS[colour] * depth // 8))
    stream = zlib.decompressobj()
    try:
        pixels = stream.decompress(b"".join(data), size + 1)
    except zlib.error:
        raise UserError("its pixels are damaged") from None
    if len(pixels) != size or not stream.eof or stream.unused_data:
        raise UserError("its data hold more or less than its pixels")


def _check_jpeg(content: bytes) -> None:
    place = len(_JPEG)
    while True:
        if (
            content[place : place + 1] != b"\xff"
            or place + 4 > len(content)
            and content[place + 1 : place + 2] != b"\xd9"
        ):
            raise UserError("it is cut short or damaged")
        marker = content[place + 1]
        if marker == 0xD9:
            if place + 2 != len(content):
                raise UserError("something follows the end of the image")
            return
        length = int.from_bytes(content[place + 2 : place + 4], "big")
        body = content[place + 4 : place + 2 + length]
        place += 2 + length
        if marker == 0xDA:
            place = _end_of_scan(content, place)
        elif marker == 0xE0 and len(body) == 14 and body.startswith(b"JFIF\0") and body.endswith(b"\0\0"):
            continue  # version and density, no thumbnail
        elif marker not in _NEEDED:
            raise UserError("it holds a segment beside its pixels, such as a comment or EXIF")


def _end_of_scan(content: bytes, place: int) -> int:
    """Where the next marker stands that neither restarts the scan nor is a stuffed byte of it."""
    while (place := content.find(b"\xff", place)) >= 0:
        following = content[place + 1 : place + 2]
        if following and following != b"\0" and not b"\xd0" <= following <= b"\xd7":
            return place
        place += 2
    raise UserError("it is cut short")
