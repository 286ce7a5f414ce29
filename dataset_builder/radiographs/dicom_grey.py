"""The grey of stored DICOM values: bit field, modality LUT or rescale, VOI LUT or window, polarity (PS3.3 C.11).

What is optional and empty counts as absent. What cannot be interpreted is refused by the name of its attribute.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from medsyn.errors import UserError

SPREAD = (0.1, 99.9)  # percentiles that become black and white where the file names no window
WINDOW_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
_MOST = 1e12  # a rescaled value beyond is no measurement


def value_of(dataset, tag: str) -> Any:
    """Returns the value of an attribute; `None` if it is absent or empty.

    Raises:
        UserError: The value cannot be parsed as its kind; names the attribute and not the value.
    """
    try:
        value = dataset.get(tag)
        if value is None or isinstance(value, (int, float)):
            return value
        if isinstance(value, str):
            return value if value.strip(" \0") else None
        return value if len(value) else None
    except Exception:  # the parser reads an element when it is asked for, and raises errors of a dozen kinds
        raise UserError(f"has a {tag} that cannot be read; mend or remove the attribute") from None


def numbers_of(dataset, tag: str) -> list[float]:
    """Returns the numbers of an attribute, none if it is absent or empty.

    Raises:
        UserError: One is not a finite number; names the attribute.
    """
    value = value_of(dataset, tag)
    values = [] if value is None else [value] if np.isscalar(value) else list(value)
    try:
        numbers = [float(number) for number in values if number is not None and str(number).strip(" \0")]
    except (TypeError, ValueError):
        numbers = [np.nan]
    if not np.isfinite(numbers).all():
        raise UserError(f"has a {tag} that is not a finite number; mend or remove the attribute")
    return numbers


class BitField(NamedTuple):
    """Where the pixel of a word lies, and what it may hold.

    Args:
        allocated (`int`), stored (`int`), high (`int`): The attributes BitsAllocated, BitsStored and HighBit.
        signed (`bool`): Whether values are two's complement.
        overlays (`int`): A mask of the bits that belong to overlays.
    """

    allocated: int
    stored: int
    high: int
    signed: bool
    overlays: int = 0

    @property
    def limits(self) -> tuple[int, int]:
        """The least and the greatest value that can be stored."""
        half = 2 ** (self.stored - 1)
        return (-half, half - 1) if self.signed else (0, 2 * half - 1)

    def values(self, words: np.ndarray) -> np.ndarray:
        """Returns the pixels of some words as they are in the file, int32.

        Raises:
            UserError: Bits that belong neither to the pixel, nor to its sign, nor to an overlay are set: the
                attributes do not describe these pixels.
        """
        words = words.astype(np.int32) & ((1 << self.allocated) - 1)
        lowest = self.high + 1 - self.stored
        field = ((1 << self.stored) - 1) << lowest
        values = (words & field) >> lowest
        if self.signed:
            half = 1 << (self.stored - 1)
            values = (values ^ half) - half
        outside = words & ~field & ~self.overlays
        if outside.any():
            above = ((1 << self.allocated) - 1) & ~((1 << (self.high + 1)) - 1) & ~self.overlays
            if not (self.signed and np.array_equal(outside, np.where(values < 0, above, 0))):
                raise UserError(
                    f"has pixels with bits outside the {self.stored} that BitsStored and HighBit ({self.high}) name; "
                    "get the file anew, or mend these attributes"
                )
        return values


class LookupTable(NamedTuple):
    """A table of DICOM (PS3.3 C.11.1.1 and C.11.2.1.1): `data[0]` is the output of `first` and of all below it."""

    first: int
    bits: int
    data: np.ndarray

    def __call__(self, values: np.ndarray) -> np.ndarray:
        index = np.rint(values) - self.first
        return self.data[np.clip(index, 0, len(self.data) - 1).astype(np.int64)].astype(np.float64)


def lookup_table(dataset, tag: str, signed: bool, little_endian: bool) -> LookupTable | None:
    """Returns the first table of a sequence that has a descriptor and data, or `None` if there is none.

    Args:
        tag (`str`): `ModalityLUTSequence` or `VOILUTSequence`.
        signed (`bool`): Whether the input of the table can be negative.
        little_endian (`bool`): Of the file.

    Raises:
        UserError: Descriptor and data do not fit together; names the attribute.
    """
    for item in value_of(dataset, tag) or ():
        descriptor, data = value_of(item, "LUTDescriptor"), value_of(item, "LUTData")
        if descriptor is None or data is None:
            continue
        try:
            entries, first, bits = (int(value) for value in descriptor)
        except (TypeError, ValueError):
            raise UserError(f"has a {tag} whose LUTDescriptor is not three numbers; mend or remove it") from None
        entries = entries & 0xFFFF or 65536
        first &= 0xFFFF
        if signed and first >= 32768:
            first -= 65536
        if not 8 <= bits <= 16:
            raise UserError(f"has a {tag} of {bits} bits an entry; 8 to 16 can be read")
        table = _entries(data, entries, little_endian)
        if table is None or table.max() >= 2**bits:
            raise UserError(
                f"has a {tag} whose LUTData are not the {entries} entries of {bits} bits of its LUTDescriptor; "
                "mend or remove it"
            )
        return LookupTable(first, bits, table)
    return None


def _entries(data, entries: int, little_endian: bool) -> np.ndarray | None:
    """The entries of LUTData, parsed as numbers or left as words or bytes; `None` if they are not `entries`."""
    if not isinstance(data, bytes):
        values = np.atleast_1d(np.asarray(data, dtype=np.int64)) & 0xFFFF
        return values if len(values) == entries else None
    if len(data) == 2 * entries:
        return np.frombuffer(data, dtype="<u2" if little_endian else ">u2")
    if len(data) == entries + entries % 2:
        packed = np.frombuffer(data, dtype=np.uint8)
        return (packed if little_endian else packed.reshape(-1, 2)[:, ::-1].ravel())[:entries]
    return None


def grey_levels(dataset, low: int, high: int, counts: np.ndarray, little_endian: bool, inverted: bool) -> np.ndarray:
    """
    The 8-bit grey of every value that can be stored, so that the work does not grow with the image.

    Args:
        dataset (`pydicom.Dataset`): The header.
        low (`int`), high (`int`): The least and the greatest value that can be stored.
        counts (`np.ndarray` of shape `(high - low + 1,)`): How many pixels hold each value.
        little_endian (`bool`): Of the file.
        inverted (`bool`): Whether the least value is white (MONOCHROME1).

    Returns:
        `np.ndarray` of shape `(high - low + 1,)`, uint8.

    Raises:
        UserError: An attribute cannot be interpreted; it is named.
    """
    stored = np.arange(low, high + 1, dtype=np.int32)  # (values,)
    values = _rescaled(dataset, stored, low < 0, little_endian)  # (values,)
    voi = lookup_table(dataset, "VOILUTSequence", values.min() < 0, little_endian)
    window = None if voi else _window(dataset)
    if voi is not None:
        grey = voi(values) / (2**voi.bits - 1)
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
    return 255 - grey if inverted else grey


def _rescaled(dataset, stored: np.ndarray, signed: bool, little_endian: bool) -> np.ndarray:
    table = lookup_table(dataset, "ModalityLUTSequence", signed, little_endian)
    if table is not None:
        return table(stored)
    slope, intercept = _one_number(dataset, "RescaleSlope", 1.0), _one_number(dataset, "RescaleIntercept", 0.0)
    if slope == 0:
        raise UserError("has a RescaleSlope of 0, which makes all pixels equal; mend or remove the attribute")
    values = stored * slope + intercept
    if not (np.abs(values) < _MOST).all():
        raise UserError("has RescaleSlope and RescaleIntercept of values beyond measure; mend or remove them")
    return values


def _one_number(dataset, tag: str, default: float) -> float:
    numbers = set(numbers_of(dataset, tag))
    if len(numbers) > 1:
        raise UserError(f"has a {tag} of several values; mend or remove the attribute")
    return numbers.pop() if numbers else default


def _window(dataset) -> tuple[float, float, str] | None:
    """The first window as (center, width, function), or `None` where there is none that makes sense."""
    centers, widths = numbers_of(dataset, "WindowCenter"), numbers_of(dataset, "WindowWidth")
    if not centers or not widths:
        return None
    function = str(value_of(dataset, "VOILUTFunction") or "LINEAR").strip(" \0").upper()
    if function not in WINDOW_FUNCTIONS:
        raise UserError(f"has a VOILUTFunction that is not one of {', '.join(WINDOW_FUNCTIONS)}; mend or remove it")
    return (centers[0], widths[0], function) if widths[0] > (1 if function == "LINEAR" else 0) else None


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


def overlay_bits(dataset) -> Iterator[int]:
    """Yields the positions of overlays in unused bits of the pixels (retired: PS3.5 8.1.2)."""
    for group in range(0x6000, 0x6020, 2):
        element = dataset.get((group, 0x0102))
        if element is not None and isinstance(element.value, int) and element.value > 0:
            yield element.value
