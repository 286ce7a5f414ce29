"""Radiographs from DICOM files, as 8-bit pixels in which air is dark.

What is done to the stored values, in the standard's order: the bits that BitsStored and HighBit name are taken, then
modality LUT or rescale, then VOI LUT or window (the first one), then MONOCHROME1 is inverted. Without VOI LUT and
window, 8-bit values are taken as they are, and deeper ones are spread between the percentiles of `SPREAD`.

A file is foreign input: its header is checked before anything is decoded, and every error names the file and a reason
of ours alone. Names, dates and private tags of a patient never reach a message, a warning or a log.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataset_builder.radiographs.codestream import check_jpeg_is_whole, check_run_lengths, jpeg_2000_frame, jpeg_frame
from dataset_builder.radiographs.dicom_grey import BitField, grey_levels, numbers_of, overlay_bits, value_of
from medsyn.errors import UserError
from medsyn.texts import names_nobody

MAX_SIDE = 10_000  # pixels
MAX_PIXELS = 100_000_000
MAX_FILE_BYTES = 512 * 2**20
_BLOCK_ROWS = 256  # rows that are mapped to grey at a time, which bounds the memory
_UNCOMPRESSED = {f"1.2.840.10008.1.2{end}" for end in ("", ".1", ".2")}  # implicit, explicit, big endian
_JPEG = {f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70, 80, 81)}  # 80 and 81 are JPEG-LS
# Pixels that a byte can hold: a Huffman code has a bit at least, a block of 64 pixels two codes, a lossless pixel one.
_MOST_A_BYTE = {f"1.2.840.10008.1.2.4.{number}": most for number, most in ((50, 256), (51, 256), (57, 8), (70, 8))}
_JPEG_2000 = {f"1.2.840.10008.1.2.4.{number}" for number in (90, 91, 201, 202, 203)}  # 201 and up are HTJ2K
_RLE = "1.2.840.10008.1.2.5"
_OWN_SIGN = _JPEG_2000 | {"1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"}  # their decoders settle the sign
HEADER_TAGS = ("PatientID", "ViewPosition")
# Required attributes that are safe to fill in, with a value or with the attribute to follow.
DEFAULTS: dict[str, int | str] = {
    "SamplesPerPixel": 1,
    "NumberOfFrames": 1,
    "PixelRepresentation": 0,
    "BitsStored": "BitsAllocated",
    "HighBit": "BitsStored",
}
PIXEL_TAGS = (
    *("Rows", "Columns", "PhotometricInterpretation", "BitsAllocated", *DEFAULTS, "PlanarConfiguration"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PixelData"),
)


class DicomError(UserError):
    """A DICOM file that is broken or no single-frame grey radiograph; names the file and nothing of its content."""


class DicomSupportMissing(UserError, ImportError):
    """pydicom or a decoder is not installed."""


@dataclass(frozen=True)
class DicomHeader:
    """What the adapters need of a header beside the pixels; `None` where it is not told."""

    patient_id: str | None
    view: str | None


def require_dicom() -> None:
    """Raises [`DicomSupportMissing`] where the `dicom` extra is not installed."""
    try:
        import pydicom  # noqa: F401
    except ImportError:
        raise DicomSupportMissing(
            "reading DICOM files needs pydicom and its decoders; install them with pip install 'hub-medsyn[dicom]'"
        ) from None


def is_dicom(path: str | Path) -> bool:
    """Whether a file's name says that it is DICOM."""
    return Path(path).suffix.lower() in (".dcm", ".dicom")


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    """
    Keeps the parser from warning, logging and raising, all of which quote the header, while a file is read.

    Whatever goes wrong becomes a `DicomError` that names the file.
    """
    logger = logging.getLogger("pydicom")
    before, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UserError as error:
        raise DicomError(f"{name}: {error}") from None
    except Exception as error:  # the parser reads elements when they are asked for, and raises errors of a dozen kinds
        raise DicomError(f"{name}: is malformed ({type(error).__name__}); get the file anew") from None
    finally:
        logger.disabled = before


def read_dicom(source: str | Path | bytes, name: str | None = None, notes: list[str] | None = None) -> np.ndarray:
    """
    Decodes one radiograph.

    Args:
        source (`str`, `Path` or `bytes`): The file, or its content.
        name (`str`, *optional*): What errors call it, by default the path.
        notes (`list[str]`, *optional*): Gets the names of required attributes that are missing or empty, for which the
            default of `DEFAULTS` is taken.

    Returns:
        `np.ndarray` of shape `(rows, columns)`, uint8: Air is dark, bone is bright.

    Raises:
        DicomError: The file is not DICOM, cut short, malformed, in colour, of several frames, over `MAX_SIDE` pixels a
            side or `MAX_PIXELS` in all, compressed in a way that radiographs are not, or an attribute cannot be
            interpreted; the attribute is named.
        DicomSupportMissing: pydicom is not installed.
        OSError: The file cannot be opened.
    """
    require_dicom()
    name = name or (str(source) if not isinstance(source, bytes) else "the DICOM file")
    content = source if isinstance(source, bytes) else _content(source)
    with _reading(name):
        dataset = _parse(content, PIXEL_TAGS)
        taken = _take_defaults(dataset)
        rows, columns, field = _check_header(dataset)
        _check_pixel_data(dataset, rows, columns)
        words = _words(dataset)
        if words.shape != (rows, columns) or words.dtype.kind not in "iu":
            raise DicomError("its pixels decode to another size than its header says; get the file anew")
        low, high = field.limits
        blocks = [slice(start, start + _BLOCK_ROWS) for start in range(0, rows, _BLOCK_ROWS)]
        counts = sum(np.bincount((field.values(words[b]) - low).ravel(), minlength=high - low + 1) for b in blocks)
        inverted = _photometric(dataset) == "MONOCHROME1"
        table = grey_levels(dataset, low, high, counts, dataset.file_meta.TransferSyntaxUID.is_little_endian, inverted)
        pixels = np.empty((rows, columns), dtype=np.uint8)
        for block in blocks:
            pixels[block] = table[field.values(words[block]) - low]
    if notes is not None:
        notes.extend(taken)
    return pixels


def read_dicom_header(path: str | Path) -> DicomHeader:
    """
    The patient's id and the view of a file, without its pixels.

    Raises:
        DicomError: The file is not DICOM or is malformed.
        DicomSupportMissing: pydicom is not installed.
        OSError: The file cannot be opened.
    """
    require_dicom()
    content = _content(path)
    with _reading(str(path)):
        dataset = _parse(content, HEADER_TAGS, pixels=False)
        patient, view = (str(value_of(dataset, tag) or "").strip(" \0") for tag in HEADER_TAGS)
    return DicomHeader(
        None if names_nobody(patient) else patient, view.upper() if view.upper() in ("PA", "AP") else None
    )


def _content(path: str | Path) -> bytes:
    size = Path(path).stat().st_size
    if size > MAX_FILE_BYTES:
        raise DicomError(f"{path}: has {size:,} bytes, over the {MAX_FILE_BYTES:,} that a radiograph may have")
    return Path(path).read_bytes()


def _parse(content: bytes, tags: Sequence[str], pixels: bool = True):
    """The attributes `tags` of a file whose transfer syntax is one of those known; others are not even parsed."""
    import pydicom

    if content[128:132] != b"DICM":
        raise DicomError("is not a DICOM file")
    # From memory: a length in the file can claim 4 GB, but no more is read than is there.
    syntax = str(_file_header(content).get("TransferSyntaxUID") or "")
    if syntax not in (*_UNCOMPRESSED, *_JPEG, *_JPEG_2000, _RLE):  # deflated ones could unfold without bound
        known = syntax if syntax.replace(".", "").isdigit() and len(syntax) <= 64 else "unknown"
        raise DicomError(
            f"transfer syntax {known} is not one that radiographs are read in (uncompressed, JPEG, JPEG-LS, JPEG 2000 "
            "or RLE); convert the file, for example with gdcmconv --raw"
        )
    overlays = [(group << 16) + 0x0102 for group in range(0x6000, 0x6020, 2)]  # OverlayBitPosition
    return pydicom.dcmread(io.BytesIO(content), stop_before_pixels=not pixels, specific_tags=[*tags, *overlays])


def _file_header(content: bytes):
    """The elements of group 2 alone, in which the transfer syntax stands; always explicit VR little endian."""
    from pydicom.filereader import read_dataset

    file = io.BytesIO(content)
    file.seek(132)  # behind the preamble and DICM
    return read_dataset(file, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, *_: tag.group != 2)


def _number(dataset, tag: str) -> int:
    numbers = numbers_of(dataset, tag)
    if len(numbers) != 1 or numbers[0] != int(numbers[0]):
        raise DicomError(f"has no {tag} that is a whole number; it is no image, or it is malformed")
    return int(numbers[0])


def _take_defaults(dataset) -> list[str]:
    """Fills in what is missing or empty and has a safe default; returns the names of what is filled in."""
    taken = [tag for tag in DEFAULTS if value_of(dataset, tag) is None]
    for tag in taken:
        default = DEFAULTS[tag]
        if isinstance(default, str):
            default = _number(dataset, default)
        setattr(dataset, tag, default - 1 if tag == "HighBit" else default)
    return [tag for tag in taken if tag != "NumberOfFrames"]  # which is optional


def _photometric(dataset) -> str:
    return str(value_of(dataset, "PhotometricInterpretation") or "").strip(" \0").upper()


def _check_header(dataset) -> tuple[int, int, BitField]:
    """(rows, columns, bits of a pixel), after the limits that keep a decoder from unfolding without bound."""
    if "PixelData" not in dataset:
        raise DicomError("holds no pixels (PixelData), or is cut short")
    rows, columns = _number(dataset, "Rows"), _number(dataset, "Columns")
    if not (0 < rows <= MAX_SIDE and 0 < columns <= MAX_SIDE and rows * columns <= MAX_PIXELS):
        raise DicomError(
            f"has {rows} x {columns} pixels; a radiograph has at least 1 and at most {MAX_SIDE:,} a side and "
            f"{MAX_PIXELS:,} in all"
        )
    frames = _number(dataset, "NumberOfFrames")
    if frames != 1:
        raise DicomError(f"has {frames} frames; a radiograph has one, so split the file or leave it out")
    photometric = _photometric(dataset)
    if not photometric:
        raise DicomError("has no PhotometricInterpretation: whether air is dark is unknown; mend it or leave it out")
    if photometric not in ("MONOCHROME1", "MONOCHROME2") or _number(dataset, "SamplesPerPixel") != 1:
        raise DicomError("is in colour or of unknown kind, not MONOCHROME1 or MONOCHROME2; leave it out")
    allocated, bits, high = (_number(dataset, tag) for tag in ("BitsAllocated", "BitsStored", "HighBit"))
    if allocated not in (8, 16) or not 2 <= bits <= allocated:
        raise DicomError(f"has {bits} of {allocated} bits a pixel; 2 to 16 of 8 or 16 can be read")
    if not bits - 1 <= high < allocated:
        raise DicomError(f"has a HighBit of {high}, where {bits} of {allocated} bits cannot end; mend the attribute")
    representation = _number(dataset, "PixelRepresentation")
    if representation not in (0, 1):
        raise DicomError(f"has a PixelRepresentation of {representation}, not 0 or 1; mend the attribute")
    overlays = sum(1 << place for place in set(overlay_bits(dataset)) if place < allocated)
    return rows, columns, BitField(allocated, bits, high, representation == 1, overlays)


def _words(dataset) -> np.ndarray:
    """The pixels as they lie in the file or come out of the decoder, unused bits included."""
    from pydicom.pixels import pixel_array

    kept = {"correct_unused_bits": False} if str(dataset.file_meta.TransferSyntaxUID) not in _OWN_SIGN else {}
    return pixel_array(dataset, raw=True, **kept)


def _check_pixel_data(dataset, rows: int, columns: int) -> None:
    """Checks that the pixels are all there, and that a compressed frame unfolds to the size that the header says."""
    from pydicom.encaps import generate_frames

    syntax = str(dataset.file_meta.TransferSyntaxUID)
    pixel_bytes = dataset.BitsAllocated // 8
    if syntax in _UNCOMPRESSED:
        present, needed = len(dataset.PixelData), rows * columns * pixel_bytes
        if present < needed:
            raise DicomError(f"is cut short: {present:,} bytes of pixels where {needed:,} belong; get the file anew")
        return
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    try:
        if syntax == _RLE:
            check_run_lengths(frame, rows * columns)
            return
        found = jpeg_frame(frame) if syntax in _JPEG else jpeg_2000_frame(frame)
        if syntax in _JPEG and found.size == (rows, columns, 1):
            check_jpeg_is_whole(frame, rows * columns, _MOST_A_BYTE.get(syntax))
    except ValueError as error:
        raise DicomError(f"{error}; get the file anew") from None
    if found.size != (rows, columns, 1):
        raise DicomError(
            f"its compressed frame has {found.rows} x {found.columns} pixels of {found.components} samples, its "
            f"header says {rows} x {columns} of 1; get the file anew"
        )
    if found.bits > dataset.BitsAllocated:
        raise DicomError(
            f"its compressed frame has {found.bits} bits a pixel, its BitsAllocated says {dataset.BitsAllocated}; get "
            "the file anew, or mend the attribute"
        )
