"""Radiographs from DICOM files, as 8-bit pixels in which air is dark.

What is done to the stored values, in the standard's order: modality LUT or rescale, then VOI LUT or window (the first
one), then MONOCHROME1 is inverted. Without VOI LUT and window, 8-bit values are taken as they are, and deeper ones
are spread between the percentiles of `SPREAD`.

A file is foreign input: its header is checked before anything is decoded, and every error names the file and a reason
of ours alone. Names, dates and private tags of a patient never reach a message, a warning or a log.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataset_builder.radiographs.codestream import check_jpeg_is_whole, check_run_lengths, jpeg_2000_size, jpeg_size
from medsyn.errors import UserError

MAX_SIDE = 10_000  # pixels
MAX_PIXELS = 100_000_000
MAX_FILE_BYTES = 512 * 2**20
SPREAD = (0.1, 99.9)  # percentiles that become black and white where the file names no window
_BLOCK_ROWS = 256  # rows that are mapped to grey at a time, which bounds the memory
_UNCOMPRESSED = {f"1.2.840.10008.1.2{end}" for end in ("", ".1", ".2")}  # implicit, explicit, big endian
_JPEG = {f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70, 80, 81)}  # 80 and 81 are JPEG-LS
# Pixels that a byte can hold: a Huffman code has a bit at least, a block of 64 pixels two codes, a lossless pixel one.
_MOST_A_BYTE = {f"1.2.840.10008.1.2.4.{number}": most for number, most in ((50, 256), (51, 256), (57, 8), (70, 8))}
_JPEG_2000 = {f"1.2.840.10008.1.2.4.{number}" for number in (90, 91, 201, 202, 203)}  # 201 and up are HTJ2K
_RLE = "1.2.840.10008.1.2.5"


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
    except DicomError as error:
        raise DicomError(f"{name}: {error}") from None
    except Exception as error:  # the parser reads elements when they are asked for, and raises errors of a dozen kinds
        raise DicomError(f"{name}: is malformed ({type(error).__name__}); get the file anew") from None
    finally:
        logger.disabled = before


def read_dicom(source: str | Path | bytes, name: str | None = None) -> np.ndarray:
    """
    Decodes one radiograph.

    Args:
        source (`str`, `Path` or `bytes`): The file, or its content.
        name (`str`, *optional*): What errors call it, by default the path.

    Returns:
        `np.ndarray` of shape `(rows, columns)`, uint8: Air is dark, bone is bright.

    Raises:
        DicomError: The file is not DICOM, cut short, malformed, in colour, of several frames, over `MAX_SIDE` pixels a
            side or `MAX_PIXELS` in all, or compressed in a way that radiographs are not.
        DicomSupportMissing: pydicom is not installed.
        OSError: The file cannot be opened.
    """
    require_dicom()
    name = name or (str(source) if not isinstance(source, bytes) else "the DICOM file")
    content = source if isinstance(source, bytes) else _content(source)
    with _reading(name):
        dataset = _parse(content)
        rows, columns, bits, signed = _check_header(dataset)
        _check_pixel_data(dataset, rows, columns)
        stored = dataset.pixel_array
        if stored.shape != (rows, columns) or stored.dtype.kind not in "iu":
            raise DicomError("its pixels decode to another size than its header says; get the file anew")
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        if not low <= stored.min() <= stored.max() <= high:
            raise DicomError(f"its pixels do not fit into the {bits} bits that its header names")
        blocks = [slice(start, start + _BLOCK_ROWS) for start in range(0, rows, _BLOCK_ROWS)]
        counts = sum(np.bincount((stored[b].astype(np.int32) - low).ravel(), minlength=high - low + 1) for b in blocks)
        table = _grey_levels(dataset, low, high, counts)
        pixels = np.empty((rows, columns), dtype=np.uint8)
        for block in blocks:
            pixels[block] = table[stored[block].astype(np.int32) - low]
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
        dataset = _parse(content, pixels=False)
        patient, view = (str(dataset.get(tag) or "").strip() for tag in ("PatientID", "ViewPosition"))
    return DicomHeader(patient or None, view.upper() if view.upper() in ("PA", "AP") else None)


def _content(path: str | Path) -> bytes:
    size = Path(path).stat().st_size
    if size > MAX_FILE_BYTES:
        raise DicomError(f"{path}: has {size:,} bytes, over the {MAX_FILE_BYTES:,} that a radiograph may have")
    return Path(path).read_bytes()


def _parse(content: bytes, pixels: bool = True):
    """The data set of a file whose transfer syntax is one of those known."""
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
    return pydicom.dcmread(io.BytesIO(content), stop_before_pixels=not pixels)


def _file_header(content: bytes):
    """The elements of group 2 alone, in which the transfer syntax stands; always explicit VR little endian."""
    from pydicom.filereader import read_dataset

    file = io.BytesIO(content)
    file.seek(132)  # behind the preamble and DICM
    return read_dataset(file, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, *_: tag.group != 2)


def _number(dataset, tag: str, default: int | None = None) -> int:
    value = dataset.get(tag, default)
    if not isinstance(value, int):
        raise DicomError(f"has no {tag} that is a number; it is no image, or it is malformed")
    return int(value)


def _check_header(dataset) -> tuple[int, int, int, bool]:
    """(rows, columns, bits stored, signed), after the limits that keep a decoder from unfolding without bound."""
    if "PixelData" not in dataset:
        raise DicomError("holds no pixels (PixelData), or is cut short")
    rows, columns = _number(dataset, "Rows"), _number(dataset, "Columns")
    if not (0 < rows <= MAX_SIDE and 0 < columns <= MAX_SIDE and rows * columns <= MAX_PIXELS):
        raise DicomError(
            f"has {rows} x {columns} pixels; a radiograph has at least 1 and at most {MAX_SIDE:,} a side and "
            f"{MAX_PIXELS:,} in all"
        )
    frames = _number(dataset, "NumberOfFrames", default=1)
    if frames != 1:
        raise DicomError(f"has {frames} frames; a radiograph has one, so split the file or leave it out")
    photometric = str(dataset.get("PhotometricInterpretation")).strip()
    if photometric not in ("MONOCHROME1", "MONOCHROME2") or _number(dataset, "SamplesPerPixel", default=1) != 1:
        raise DicomError("is in colour or of unknown kind, not MONOCHROME1 or MONOCHROME2; leave it out")
    allocated, bits = _number(dataset, "BitsAllocated"), _number(dataset, "BitsStored")
    if allocated not in (8, 16) or not 2 <= bits <= allocated:
        raise DicomError(f"has {bits} of {allocated} bits a pixel; 2 to 16 of 8 or 16 can be read")
    return rows, columns, bits, _number(dataset, "PixelRepresentation", default=0) == 1


def _check_pixel_data(dataset, rows: int, columns: int) -> None:
    """Checks that the pixels are all there, and that a compressed frame unfolds to the size that the header says."""
    from pydicom.encaps import generate_frames

    syntax = str(dataset.file_meta.TransferSyntaxUID)
    pixel_bytes = dataset.BitsAllocated // 8
    if syntax in _UNCOMPRESSED:
        there, needed = len(dataset.PixelData), rows * columns * pixel_bytes
        if there < needed:
            raise DicomError(f"is cut short: {there:,} bytes of pixels where {needed:,} belong; get the file anew")
        return
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    try:
        if syntax == _RLE:
            check_run_lengths(frame, rows * columns)
            return
        size = jpeg_size(frame) if syntax in _JPEG else jpeg_2000_size(frame)
        if syntax in _JPEG and size == (rows, columns, 1):
            check_jpeg_is_whole(frame, rows * columns, _MOST_A_BYTE.get(syntax))
    except ValueError as error:
        raise DicomError(f"{error}; get the file anew") from None
    if size != (rows, columns, 1):
        raise DicomError(
            f"its compressed frame has {size[0]} x {size[1]} pixels of {size[2]} samples, its header says {rows} x "
            f"{columns} of 1; get the file anew"
        )


def _grey_levels(dataset, low: int, high: int, counts: np.ndarray) -> np.ndarray:
    """
    The 8-bit grey of every value that can be stored, so that the work does not grow with the image.

    Args:
        dataset (`pydicom.Dataset`): The header.
        low (`int`), high (`int`): The least and the greatest value that can be stored.
        counts (`np.ndarray` of shape `(high - low + 1,)`): How many pixels hold each value.

    Returns:
        `np.ndarray` of shape `(high - low + 1,)`, uint8.
    """
    from pydicom.pixels import apply_modality_lut, apply_voi

    stored = np.arange(low, high + 1, dtype=np.int32)  # (values,)
    values = np.asarray(apply_modality_lut(stored, dataset), dtype=np.float64)  # (values,)
    if not np.isfinite(values).all():
        raise UserError("the rescaled values are not finite")
    window = _window(dataset)
    if dataset.get("VOILUTSequence"):
        depth = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        grey = np.asarray(apply_voi(np.rint(values).astype(np.int32), dataset), dtype=np.float64) / (2**depth - 1)
    elif window is not None:
        grey = window_grey(values, *window)
    elif (low, high) == (0, 255) and np.array_equal(values, stored):
        grey = stored / 255
    else:
        black, white = weighted_percentiles(values, counts, SPREAD)
        if black == white:  # an image of few values
            black, white = values[counts > 0].min(), values[counts > 0].max()
        grey = (values - black) / (white - black or 1)
    grey = np.rint(np.clip(grey, 0, 1) * 255).astype(np.uint8)
    return 255 - grey if dataset.PhotometricInterpretation.strip() == "MONOCHROME1" else grey


def _window(dataset) -> tuple[float, float, str] | None:
    """The first window as (center, width, function), or `None` where there is none that makes sense."""
    first = []
    for tag in ("WindowCenter", "WindowWidth"):
        value = dataset.get(tag)
        if value is None or value == "":
            return None
        first.append(float(value if np.isscalar(value) else value[0]))
    function = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()
    narrowest = 1 if function == "LINEAR" else 0
    if not np.isfinite(first).all() or first[1] <= narrowest or function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        return None
    return first[0], first[1], function


def window_grey(values: np.ndarray, center: float, width: float, function: str = "LINEAR") -> np.ndarray:
    """
    The grey of values under a window (DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3).

    Returns:
        `np.ndarray`, as `values`: 0 is black and 1 white; may lie beyond both.
    """
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    if function == "LINEAR_EXACT":
        return (values - center) / width + 0.5
    return (values - (center - 0.5)) / (width - 1) + 0.5


def weighted_percentiles(values: np.ndarray, counts: np.ndarray, percentiles: tuple[float, ...]) -> list[float]:
    """The percentiles of values that occur `counts` times, as the nearest value that occurs."""
    order = np.argsort(values, kind="stable")
    order = order[counts[order] > 0]
    reached = np.cumsum(counts[order])
    places = [np.searchsorted(reached, reached[-1] * percentile / 100) for percentile in percentiles]
    return [float(values[order[min(place, len(order) - 1)]]) for place in places]
