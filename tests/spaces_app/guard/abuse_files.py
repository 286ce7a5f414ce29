"""Files that nobody should hand in, each built in memory, and what reading one may cost."""

from __future__ import annotations

import ctypes
import gc
import io
import struct
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.fixtures.radiograph_trees import dicom_bytes, draw_image

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
ITEM = b"\xfe\xff\x00\xe0\0\0\0\0"
SECONDS, MEGABYTES = 10, 256  # on a busy machine; the largest image that is taken needs 211 MB


class Measured:
    """Time and memory that a block takes beyond what the process held before; Linux alone tells."""

    def __enter__(self):
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what earlier tests left free would hold what this one takes
        Path("/proc/self/clear_refs").write_text("5")  # the peak of earlier tests would hide this one's
        self.start, self.before = time.process_time(), _kilobytes("VmRSS")
        return self

    def __exit__(self, *_):
        self.seconds = time.process_time() - self.start
        self.megabytes = (_kilobytes("VmHWM") - self.before) / 1024


def _kilobytes(what: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(what)).split()[1])


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    body = kind + data
    return struct.pack(">I", len(data) if length is None else length) + body + struct.pack(">I", zlib.crc32(body))


def png(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 0) -> bytes:
    """A PNG file of a header, these chunks, and an end."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return PNG_SIGNATURE + head + b"".join(chunks) + chunk(b"IEND")


def blank_png(width: int, height: int, row_bytes: int, **kind) -> bytes:
    """A whole PNG file of zeros, thousands of times smaller than what it unpacks to."""
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(row_bytes + 1)) for _ in range(height)) + packer.flush()
    return png(width, height, chunk(b"IDAT", packed), **kind)


def with_size(jpeg: bytes, height: int, width: int) -> bytes:
    """A JPEG whose header says another size."""
    at = next(at for at in range(len(jpeg)) if jpeg[at : at + 2] in (b"\xff\xc0", b"\xff\xc2"))
    return jpeg[: at + 5] + struct.pack(">HH", height, width) + jpeg[at + 9 :]


def many_scans(number: int) -> bytes:
    """A progressive JPEG whose last scan is told over and over."""
    jpeg = encoded(draw_image(size=(512, 512)), "JPEG", progressive=True)
    last = jpeg.rfind(b"\xff\xda")
    return jpeg[:last] + jpeg[last:-2] * number + b"\xff\xd9"


def element(tag: int, kind: bytes, value: bytes) -> bytes:
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, kind)
    if kind in (b"OB", b"OW", b"SQ", b"UN"):
        return head + struct.pack("<HI", 0, len(value)) + value
    return head + struct.pack("<H", len(value)) + value


def dicom_head(syntax: bytes = b"1.2.840.10008.1.2.1\0") -> bytes:
    return bytes(128) + b"DICM" + element(0x00020010, b"UI", syntax)


def behind_the_head(more: bytes) -> bytes:
    """A DICOM image with more elements in front of those of the pixels."""
    whole = dicom_bytes(draw_image())
    at = whole.index(struct.pack("<HH", 0x28, 2))
    return whole[:at] + more + whole[at:]


def long_value(tag: int, kind: bytes, text: bytes) -> bytes:
    """An element in implicit form, as many megabytes long as one likes."""
    return struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, b"UN", 0, len(text)) + text


def zipped(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image.png", content)
    return buffer.getvalue()


def animated(kind: str) -> bytes:
    frames = [Image.fromarray(draw_image(seed)) for seed in range(3)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


def photograph() -> bytes:
    colours = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    return encoded(Image.fromarray(colours).resize((400, 400)), "JPEG")


def whole(kind: str) -> bytes:
    return encoded(draw_image(size=(300, 300)), kind)


def after_head(chunks: bytes) -> bytes:
    """A whole PNG image with more chunks behind its header."""
    return whole("PNG")[:33] + chunks + whole("PNG")[33:]


def half_packed() -> bytes:
    rows = np.random.default_rng(0).integers(0, 5, 301 * 300).astype(np.uint8)
    return png(300, 300, chunk(b"IDAT", zlib.compress(rows.tobytes())[:20_000]))


def unpacking_to(size: int) -> bytes:
    return zlib.compress(bytes(size), 9)


def deflated_dicom() -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return dicom_head(b"1.2.840.10008.1.2.1.99") + packer.compress(bytes(100_000_000)) + packer.flush()


def empty_elements(number: int) -> bytes:
    return b"".join(struct.pack("<HH2sH", 0x0009, place & 0xFFFF, b"LO", 0) for place in range(number))


SEQUENCE = struct.pack("<HH2sHI", 9, 0x10, b"SQ", 0, 0xFFFFFFFF)
PIXELS = struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OB", 0, 0xFFFFFFFF)
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
# Name -> what makes the file, and a word of the sentence that refuses it.
ABUSE: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "empty"),
    "one byte": (lambda: b"\x89", "no picture"),
    "text": (lambda: b"This is a chest radiograph, believe me.\n" * 100, "no picture"),
    "html": (lambda: b"<!doctype html><script>alert(1)</script>", "no picture"),
    "noise": (lambda: np.random.default_rng(0).bytes(100_000), "no picture"),
    "svg": (lambda: b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
    "pdf": (lambda: b"%PDF-1.7\n1 0 obj\n", "PDF"),
    "gif": (lambda: animated("GIF"), "GIF"),
    "tiff": (lambda: animated("TIFF"), "TIFF"),
    "webp": (lambda: encoded(draw_image(), "WEBP"), "WebP"),
    "zip": (lambda: zipped(whole("PNG")), "ZIP"),
    "zip bomb": (lambda: zipped(bytes(100_000_000)), "ZIP"),
    "animated png": (lambda: animated("PNG"), "animated"),
    "png signature alone": (lambda: PNG_SIGNATURE, "broken"),
    "png cut short": (lambda: whole("PNG")[:-2000], "broken"),
    "png without pixels": (lambda: png(300, 300), "broken"),
    "png with a chunk beyond its end": (lambda: png(300, 300, chunk(b"IDAT", b"x", 2**31 - 1)), "broken"),
    "png with half its pixels": (half_packed, "broken"),
    "png of 200 megapixels": (lambda: blank_png(10_000, 20_000, 10_000), "20,000"),
    "png of 4 gigapixels": (lambda: png(65_000, 65_000, chunk(b"IDAT", bytes(5_000_000))), "65,000"),
    "png longer than it is wide": (lambda: blank_png(9_000, 40, 9_000), "so long"),
    "png of three million chunks": (lambda: after_head(chunk(b"tEXt") * 3_000_000), "broken"),
    "png of 36 megapixels": (lambda: blank_png(6_000, 6_000, 6_000), "6,000 x 6,000"),
    "png with a text bomb": (lambda: png(300, 300, chunk(b"zTXt", b"a\0\0" + unpacking_to(60_000_000))), "broken"),
    "png with a profile bomb": (lambda: png(300, 300, chunk(b"iCCP", b"a\0\0" + unpacking_to(60_000_000))), "broken"),
    "png of one shade, as large as may be": (lambda: blank_png(5_000, 5_000, 5_000), "one shade"),
    "png of one shade, deep, with alpha": (lambda: blank_png(5_000, 5_000, 40_000, depth=16, colour=6), "one shade"),
    "png of one shade, deep": (lambda: blank_png(5_000, 5_000, 10_000, depth=16), "one shade"),
    "small png": (lambda: encoded(draw_image(size=(31, 31))), "31 x 31"),
    "jpeg cut short": (lambda: whole("JPEG")[:-2000], "broken"),
    "jpeg cut short with an end": (lambda: whole("JPEG")[:9_000] + b"\xff\xd9", "missing"),
    "jpeg that says 65000 x 65000": (lambda: with_size(whole("JPEG"), 65_000, 65_000), "65,000"),
    "jpeg that says 4900 x 4900": (lambda: with_size(whole("JPEG"), 4_900, 4_900), "broken"),
    "jpeg of a thousand scans": (lambda: many_scans(1_000), "broken"),
    "jpeg start alone": (lambda: b"\xff\xd8\xff", "broken"),
    "photograph": (photograph, "colour"),
    "over the limit of bytes": (lambda: PNG_SIGNATURE + bytes(45 * 2**20), "MB"),
    "dicom head alone": (lambda: bytes(128) + b"DICM", "broken"),
    "dicom without pixels": (lambda: dicom_head(), "broken"),
    "dicom cut short": (lambda: dicom_bytes(draw_image())[:-500], "broken"),
    "dicom of several frames": (lambda: dicom_bytes(draw_image(), NumberOfFrames=3), "several"),
    "dicom in colour": (lambda: dicom_bytes(draw_image(), photometric="RGB", SamplesPerPixel=3), "no grey"),
    "dicom of 200 megapixels": (lambda: dicom_bytes(draw_image(), Rows=20_000, Columns=10_000), "20,000"),
    "dicom with a deflate bomb": (deflated_dicom, "packs its pixels"),
    "dicom of half a million elements": (lambda: behind_the_head(empty_elements(500_000)), "broken"),
    "dicom of a million items": (lambda: behind_the_head(SEQUENCE + ITEM * 1_000_000), "broken"),
    "dicom of a million fragments": (lambda: dicom_head() + PIXELS + ITEM * 1_000_000, "broken"),
    "dicom with ten million windows": (
        lambda: behind_the_head(long_value(0x00281050, b"DS", b"1\\" * 10**7)),
        "broken",
    ),
    "dicom of a thousand scans": (
        lambda: dicom_bytes(draw_image(size=(512, 512)), syntax=JPEG_BASELINE, frame=many_scans(1_000)),
        "broken",
    ),
    "dicom that is a colour jpeg": (
        lambda: dicom_bytes(
            draw_image(), syntax=JPEG_BASELINE, frame=encoded(np.zeros((40, 48, 3), np.uint8), "JPEG")
        ),
        "broken",
    ),
}
