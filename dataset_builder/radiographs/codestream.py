"""What a compressed frame will unfold to, read from its own header before any decoder allocates memory for it."""

from __future__ import annotations

import struct
from typing import NamedTuple

from medsyn.errors import UserError

_SIZE_OF_IMAGE = b"\xff\x4f\xff\x51"  # start of a JPEG 2000 codestream and its SIZ marker
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD8)}  # JPEG markers with no segment behind them
_FRAME_HEADERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15, and JPEG-LS


class Frame(NamedTuple):
    """What a compressed frame says of itself; `bits` are those of a sample, signed or not."""

    rows: int
    columns: int
    components: int
    bits: int

    @property
    def size(self) -> tuple[int, int, int]:
        """Rows, columns, components."""
        return self.rows, self.columns, self.components


def jpeg_frame(stream: bytes) -> Frame:
    """
    Reads the frame header of a JPEG or JPEG-LS stream.

    Raises:
        UserError: No frame header.
    """
    if stream[:2] != b"\xff\xd8":
        raise UserError("the compressed frame is no JPEG")
    at = 2
    while at + 4 <= len(stream):
        if stream[at] != 0xFF:
            break
        marker = stream[at + 1]
        if marker == 0xFF or marker in _WITHOUT_LENGTH:  # fill byte, or a marker alone
            at += 1 if marker == 0xFF else 2
            continue
        (length,) = struct.unpack_from(">H", stream, at + 2)
        if marker in _FRAME_HEADERS and at + 10 <= len(stream):
            bits, rows, columns, components = struct.unpack_from(">BHHB", stream, at + 4)
            return Frame(rows, columns, components, bits)
        at += 2 + length
    raise UserError("the compressed JPEG frame has no frame header")


def check_jpeg_is_whole(stream: bytes, pixels: int, most_a_byte: int | None) -> None:
    """
    Checks that a JPEG or JPEG-LS stream has its end and enough bytes: decoders silently pad truncated data and trust
    the size in the header.

    Args:
        stream (`bytes`): The stream, maybe with padding behind its end.
        pixels (`int`): That it has to unfold to.
        most_a_byte (`int`, *optional*): Pixels that a byte can hold in this kind of JPEG; `None` if there is no bound.

    Raises:
        UserError: It has not.
    """
    if b"\xff\xd9" not in stream[-16:] or (most_a_byte and pixels > most_a_byte * len(stream)):
        raise UserError("the compressed JPEG frame is cut short")


def jpeg_2000_frame(stream: bytes) -> Frame:
    """
    Reads the SIZ marker of a JPEG 2000 codestream, bare or in a JP2 file.

    Raises:
        UserError: No SIZ marker in the first 4 KiB.
    """
    at = stream.find(_SIZE_OF_IMAGE, 0, 4096)
    if at < 0 or at + 43 > len(stream):
        raise UserError("the compressed frame is no JPEG 2000 codestream")
    right, bottom, left, top = struct.unpack_from(">4I", stream, at + 8)
    components, depth = struct.unpack_from(">HB", stream, at + 40)
    return Frame(bottom - top, right - left, components, (depth & 0x7F) + 1)


def check_run_lengths(frame: bytes, segment_bytes: int) -> None:
    """
    Checks that every PackBits segment of a DICOM RLE frame unfolds to `segment_bytes`, give or take a byte of padding.

    Raises:
        UserError: A segment lies outside the frame, or unfolds to more or less.
    """
    if len(frame) < 64:
        raise UserError("the RLE frame is cut short")
    count, *offsets = struct.unpack_from("<16I", frame)
    if not 1 <= count <= 15 or any(not 64 <= offset <= len(frame) for offset in offsets[:count]):
        raise UserError("the RLE frame's header names segments that are not there")
    for start, end in zip(offsets[:count], [*offsets[1:count], len(frame)], strict=True):
        at, unfolded = start, 0
        while at < end and unfolded <= segment_bytes:
            control = frame[at]
            if control < 128:
                at += control + 2
                unfolded += control + 1
            elif control > 128:
                at += 2
                unfolded += 257 - control
            else:
                at += 1
        if not segment_bytes <= unfolded <= segment_bytes + 1:
            raise UserError("a segment of the RLE frame does not have the image's size")
