"""What of a DICOM file is needed to decode its pixels, taken out of a file that nobody vouches for.

A parser that reads all of a header can be made to build millions of objects, and then holds the patient's name. Here a
flat walk takes the few elements of `NEEDED`, none longer than it has reason to be, and puts them into a file of their
own, which is all that the decoder ever sees. What the walk does not understand it refuses.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from medsyn.errors import UserError

MAX_ELEMENTS = 50_000  # with those in sequences and the fragments of compressed pixels
MAX_SCANS = 32  # of a JPEG frame: each costs the time of the whole picture
_SYNTAX, _FRAMES, _PHOTOMETRIC = 0x00020010, 0x00280008, 0x00280004
_ROWS, _COLUMNS, _PIXELS = 0x00280010, 0x00280011, 0x7FE00010
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_IMPLICIT, _EXPLICIT, _BIG_ENDIAN, _RLE = (f"1.2.840.10008.1.2{end}" for end in ("", ".1", ".2", ".5"))
_COMPRESSED = "1.2.840.10008.1.2.4."  # JPEG and its kin
_LONG_FORM = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())  # their lengths have four bytes
# Tag -> kind of value and the most bytes of it.
NEEDED: dict[int, tuple[bytes, int]] = {
    **dict.fromkeys((0x00280002, 0x00280006, _ROWS, _COLUMNS, *range(0x00280100, 0x00280104)), (b"US", 2)),
    **dict.fromkeys((_PHOTOMETRIC, 0x00281056), (b"CS", 64)),  # and the function of the window
    _FRAMES: (b"IS", 12),
    **dict.fromkeys((0x00281050, 0x00281051, 0x00281052, 0x00281053), (b"DS", 512)),  # windows and rescaling
    0x00281054: (b"LO", 64),
    **dict.fromkeys((0x00283000, 0x00283010), (b"SQ", 2**20)),  # lookup tables
    _PIXELS: (b"OW", _UNDEFINED),
}


class NotUnderstood(ValueError):
    """A DICOM file that is broken, or built in a way that images are not."""


@dataclass(frozen=True)
class PixelFile:
    """A DICOM file of pixels alone.

    Args:
        content (`bytes`): The file, without anything that tells of a person, a place or a time.
        rows (`int`): As its header says.
        columns (`int`): Likewise.
        frames (`int`): Likewise.
        grey (`bool`): Whether it is one sample a pixel, of black and white.
        known (`bool`): Whether its pixels are stored in one of the common ways; where not, the walk ends there, and
            there are no pixels in `content`.
    """

    content: bytes
    rows: int
    columns: int
    frames: int
    grey: bool
    known: bool


def pixel_file(content: bytes) -> PixelFile:
    """Takes the pixels and what they mean out of a DICOM file.

    Args:
        content (`bytes`): With `DICM` at byte 128.

    Raises:
        NotUnderstood: It is broken, has no pixels, or has more elements than an image.
    """
    try:
        meta, at = _walk(content, 132, _EXPLICIT, stop_at_group=2)
        syntax = meta[_SYNTAX].decode("ascii").rstrip("\0 ")
        if syntax not in (_IMPLICIT, _EXPLICIT, _BIG_ENDIAN, _RLE) and not syntax.startswith(_COMPRESSED):
            return PixelFile(b"", 0, 0, 0, False, known=False)
        elements, _ = _walk(content, at, syntax)
        number = ">H" if syntax == _BIG_ENDIAN else "<H"
        rows, columns = (struct.unpack(number, elements[tag])[0] for tag in (_ROWS, _COLUMNS))
        frames = int(elements.get(_FRAMES, b"").strip(b"\0 ") or b"1")
        grey = elements[_PHOTOMETRIC].strip(b"\0 ") in (b"MONOCHROME1", b"MONOCHROME2")
        pixels = elements[_PIXELS]
    except (struct.error, UnicodeDecodeError, ValueError, KeyError) as error:
        raise NotUnderstood(f"the header is not that of an image ({type(error).__name__})") from None
    if syntax.startswith(_COMPRESSED) and pixels.count(b"\xff\xda") > MAX_SCANS:
        raise NotUnderstood("a compressed frame has too many scans")
    return PixelFile(_written(syntax, elements), rows, columns, frames, grey, known=True)


def _walk(content: bytes, at: int, syntax: str, stop_at_group: int = 0) -> tuple[dict[int, bytes], int]:
    """
    The needed elements from `at` on, up to the pixels, or up to the first that is not of a group.

    Sequences of a stated length are skipped as they are; those without are walked through without their elements being
    taken, but for the ones that are needed themselves.
    """
    big, explicit = syntax == _BIG_ENDIAN, syntax != _IMPLICIT
    head, long_length = struct.Struct(">HH2sH" if big else "<HH2sH"), struct.Struct(">I" if big else "<I")
    found: dict[int, bytes] = {}
    depth, begun = 0, None  # the needed sequence without a length that the walk is in: its tag and start
    for _ in range(MAX_ELEMENTS):
        if at == len(content) and depth == 0:
            return found, at
        group, element, kind, short = head.unpack_from(content, at)
        tag = group << 16 | element
        if stop_at_group and group != stop_at_group:
            return found, at
        if group == 0xFFFE:
            at += 8
            if tag == _SEQUENCE_END:
                depth -= 1
                if depth < 0:
                    raise UserError("a sequence ends that did not begin")
                if depth == 0 and begun:
                    found[begun[0]], begun = content[begun[1] : at - 8], None
            continue
        named_kind = explicit and kind.isalpha() and kind.isupper()
        if named_kind and kind not in _LONG_FORM:
            at, length = at + 8, short
        else:
            at += 8 if named_kind else 4
            (length,) = long_length.unpack_from(content, at)
            at += 4
        if tag == _PIXELS and length == _UNDEFINED:
            end = _end_of_fragments(content, at)
        elif length == _UNDEFINED:
            depth += 1
            if depth == 1 and tag in NEEDED:
                begun = (tag, at)
            continue
        else:
            end = at + length
        if end > len(content):
            raise UserError("an element reaches beyond the end of the file")
        if depth == 0 and (tag in NEEDED or tag == _SYNTAX):
            most = NEEDED.get(tag, (b"UI", 64))[1]
            if end - at > most:
                raise UserError("an element is longer than it has reason to be")
            found[tag] = content[at:end]
            if tag == _PIXELS:
                return found, end
        at = end
    raise UserError("there are too many elements")


def _end_of_fragments(content: bytes, at: int) -> int:
    """Where compressed pixels end, which come in fragments."""
    for _ in range(MAX_ELEMENTS):
        group, element, length = struct.unpack_from("<HHI", content, at)
        at += 8
        if group << 16 | element == _SEQUENCE_END:
            return at
        if group << 16 | element != _ITEM:
            break
        at += length
    raise UserError("compressed pixels without an end")


def _written(syntax: str, elements: dict[int, bytes]) -> bytes:
    """A DICOM file of these elements, in the syntax they were read in."""
    name = syntax.encode() + b"\0" * (len(syntax) % 2)
    parts = [bytes(128), b"DICM", struct.pack("<HH2sH", 2, 0x10, b"UI", len(name)), name]
    order = ">" if syntax == _BIG_ENDIAN else "<"
    compressed = syntax == _RLE or syntax.startswith(_COMPRESSED)
    for tag in sorted(set(elements) & set(NEEDED)):
        value, kind = elements[tag], NEEDED[tag][0]
        if kind == b"SQ" and len(value) > NEEDED[tag][1]:
            raise NotUnderstood("a lookup table is longer than it has reason to be")
        undefined = tag == _PIXELS and compressed
        length = _UNDEFINED if undefined else len(value)
        kind = b"OB" if undefined else kind
        if syntax == _IMPLICIT:
            parts.append(struct.pack("<HHI", tag >> 16, tag & 0xFFFF, length))
        elif kind in _LONG_FORM:
            parts.append(struct.pack(f"{order}HH2sHI", tag >> 16, tag & 0xFFFF, kind, 0, length))
        else:
            parts.append(struct.pack(f"{order}HH2sH", tag >> 16, tag & 0xFFFF, kind, length))
        parts.append(value)
    return b"".join(parts)
