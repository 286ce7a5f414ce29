"""What people hand in: a file or a text of any content, taken as an image or a prompt or refused with one sentence.

A file is told by its content, never by its name. What a decoder would allocate is bounded before it is asked to
decode, and files are decoded one at a time, so that the memory of any number of people at once is that of one file. A
refusal holds nothing of the file: neither its name nor its path nor any value of its header.
"""

from __future__ import annotations

import os
import stat
import struct
import tempfile
import threading
import time
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dataset_builder.radiographs.codestream import check_jpeg_is_whole, jpeg_frame
from dataset_builder.radiographs.dicom import DicomError, DicomSupportMissing, read_dicom
from hub_medsyn.image_processing_medsyn import to_grey
from medsyn.errors import UserError
from medsyn.images import BROKEN, decode_file, upright
from spaces_app.guard.dicom_extract import NotUnderstood, pixel_file

MAX_BYTES = 40 * 2**20
MAX_PIXELS = 25_000_000
MAX_SIDE = 10_000  # pixels
MIN_SIDE = 32
LONGEST = 4  # how many times as long as wide an image may be
DISPLAY_SIDE = 1024  # what larger images are shrunk to
MIN_SPREAD = 8  # grey levels between the darkest and the brightest pixel
MAX_PNG_CHUNKS = 20_000
MAX_JPEG_SCANS = 32
JPEG_MOST_A_BYTE = 512  # pixels: a progressive scan of constants spends a bit on a block of 64
COLOUR_LEVELS, COLOUR_SHARE = 20, 0.15  # how far from any tint, and on how much of it, makes a picture coloured
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_OTHER_KINDS = (
    (b"GIF8", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"%PDF", "PDF"),
    (b"BM", "BMP"),
    (b"PK\x03\x04", "ZIP"),
    (b"\x1f\x8b", "gzip"),
    (b"RIFF", "WebP or other RIFF"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
)
_WANTED = "Choose a PNG, JPEG or DICOM file of a chest radiograph."
# What word processors leave in texts: soft hyphens, zero widths and form feeds.
_INVISIBLE = {0xAD: None, 0x200B: None, 0x2060: None, 0xFEFF: None, 0x0B: "\n", 0x0C: "\n"}
_DECODING = threading.Lock()


class Refused(UserError):
    """One plain sentence for the person who handed something in."""


@dataclass(frozen=True)
class Upload:
    """An image to look at and to read.

    Args:
        pixels (`np.ndarray` of shape `(height, width)`): uint8, air dark.
        name (`str`): `your image`, or the id of a sample.
        note (`str`, *optional*, defaults to `""`): What was done to it, as `shrunk from 3000 x 2500 pixels`.
    """

    pixels: np.ndarray
    name: str
    note: str = ""


def upload_folder() -> Path:
    """Where gradio keeps what people upload."""
    return Path(os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio")


def read_upload(path: str | None, folder: str | Path | None = None) -> Upload:
    """An image out of a file that somebody uploaded.

    Args:
        path (`str`, *optional*): The file; `None` where nothing was chosen.
        folder (`str` or `Path`, *optional*, defaults to gradio's): What the file has to lie in.

    Returns:
        [`Image`]: At most `DISPLAY_SIDE` pixels a side; colour and alpha are gone, and what a camera turned is
        upright.

    Raises:
        Refused: It is no image that can be read; the message says why in a sentence.
    """
    with _DECODING:
        content = _content(path, Path(folder) if folder is not None else upload_folder())
        try:
            if content.startswith(_PNG):
                pixels, notes = _from_picture(_checked_png(content), "PNG")
            elif content.startswith(_JPEG):
                pixels, notes = _from_picture(_checked_jpeg(content), "JPEG")
            elif content[128:132] == b"DICM":
                pixels, notes = _from_dicom(content)
            else:
                raise Refused(_no_picture(content))
        except MemoryError:
            raise Refused(
                "This image is too large for the memory that is free right now; try a smaller one."
            ) from None
    if int(pixels.max()) - int(pixels.min()) < MIN_SPREAD:
        raise Refused("This picture is one shade of grey all over, so there is nothing to read.")
    return Upload(pixels, "your image", "; ".join(notes))


def checked_text(text: str | None, what: str, limit: int = 2000) -> str:
    """A text as it can be shown and read: stripped, in Unicode's composed form.

    Markup is text like any other; whoever shows it escapes it.

    Args:
        text (`str`, *optional*): What somebody wrote.
        what (`str`): What the refusal calls it, such as `impression`.
        limit (`int`, *optional*, defaults to 2000): The most characters.

    Raises:
        Refused: It is empty, no text, too long, or holds characters that control or turn it. Soft hyphens and spaces
            of no width are left out silently.
    """
    if text is not None and not isinstance(text, str):
        raise Refused(f"The {what} is not a text.")
    if text is not None and len(text) > limit:
        raise Refused(f"The {what} has {len(text):,} characters and may have {limit:,}; shorten it.")
    text = unicodedata.normalize("NFC", text or "")
    text = text.translate(_INVISIBLE).replace("\r\n", "\n").replace("\r", "\n").strip()
    if not text:
        raise Refused(f"The {what} is empty; write a few words.")
    # Control characters, those that turn the direction of text, halves of characters, and no characters at all.
    hidden = [one for one in text if one not in "\n\t" and unicodedata.category(one) in ("Cc", "Cf", "Cs", "Co", "Cn")]
    if hidden:
        raise Refused(
            f"The {what} holds a character that does not show (U+{ord(hidden[0]):04X}); write it in plain letters."
        )
    return text


def forget_upload(path: str | None, folder: str | Path | None = None) -> None:
    """Deletes a file that somebody uploaded, and nothing else: a path that leads anywhere but to a regular file in the
    folder of uploads is left alone.

    Args:
        path, folder: As in [`read_upload`].
    """
    try:
        real = _inside(path, Path(folder) if folder is not None else upload_folder())
        if stat.S_ISREG(os.lstat(real).st_mode):
            os.unlink(real)
    except (OSError, ValueError, TypeError):
        return  # not there, or not ours


def delete_old(folder: str | Path, age: float) -> None:
    """Deletes files of the folder of uploads that nobody came back for.

    Args:
        folder (`str` or `Path`): With all folders in it.
        age (`float`): Seconds since a file was last written.
    """
    for path in Path(folder).rglob("*"):
        try:
            about = path.lstat()
            if not stat.S_ISDIR(about.st_mode) and time.time() - about.st_mtime > age:
                path.unlink()
        except FileNotFoundError:  # deleted meanwhile, as read
            continue


def _inside(path: str | None, folder: Path) -> Path:
    """The path of a file in `folder`, with no link between the two.

    Raises:
        UserError: It leads elsewhere.
        OSError, TypeError: It is no path.
    """
    real = Path(os.path.realpath(folder)) / Path(os.path.abspath(path)).relative_to(os.path.abspath(folder))
    if os.path.realpath(real) != str(real):
        raise UserError("a link leads elsewhere")
    return real


def _content(path: str | None, folder: Path) -> bytes:
    """The bytes of a regular file that lies in `folder`, no link among what leads to it."""
    if not path:
        raise Refused("There is no image yet: upload one, or pick a sample.")
    elsewhere = Refused("This file is not one that was uploaded here; upload it again.")
    try:
        handle = os.open(_inside(path, folder), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError, TypeError):
        raise elsewhere from None
    try:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise elsewhere
        if about.st_size > MAX_BYTES:
            raise Refused(f"This file has over {MAX_BYTES // 2**20} MB; an image has less. Choose a smaller one.")
        with os.fdopen(handle, "rb", closefd=False) as file:
            content = file.read(MAX_BYTES)
    finally:
        os.close(handle)
    if not content:
        raise Refused(f"This file is empty. {_WANTED}")
    return content


def _no_picture(content: bytes) -> str:
    start = content[:1024].lstrip().lower()
    kind = next((name for magic, name in _OTHER_KINDS if content.startswith(magic)), None)
    if start.startswith((b"<svg", b"<?xml")) or b"<svg" in start:
        kind = "SVG or XML"
    return f"This is a {kind} file. {_WANTED}" if kind else f"This file is no picture that can be read. {_WANTED}"


def _check_size(width: int, height: int) -> None:
    if width > MAX_SIDE or height > MAX_SIDE or width * height > MAX_PIXELS:
        raise Refused(
            f"This picture says it has {width:,} x {height:,} pixels, and an image may have {MAX_PIXELS // 10**6} "
            "million; choose a smaller one."
        )
    if min(width, height) < MIN_SIDE:
        raise Refused(f"This picture has {width} x {height} pixels; an image needs {MIN_SIDE} a side at least.")
    if max(width, height) > LONGEST * min(width, height):
        raise Refused(f"This picture has {width} x {height} pixels, and no image is so long; choose another.")


def _checked_png(content: bytes) -> bytes:
    """Looks at the chunks of a PNG file, without unpacking any."""
    broken = Refused("This PNG file is broken or cut short; get it anew.")
    at, ended = len(_PNG), False
    for number in range(MAX_PNG_CHUNKS + 1):
        if at + 12 > len(content):
            break
        length, kind = struct.unpack_from(">I4s", content, at)
        if (number == 0) != (kind == b"IHDR") or at + 12 + length > len(content):
            raise broken
        if kind == b"IHDR":
            if length != 13:
                raise broken
            _check_size(*struct.unpack_from(">II", content, at + 8))
        if kind == b"acTL":
            raise Refused(f"This is an animated picture. {_WANTED}")
        at += 12 + length
        if kind == b"IEND":
            ended = True
            break
    if not ended:
        raise broken
    return content[:at]


def _checked_jpeg(content: bytes) -> bytes:
    """Looks at the headers of a JPEG file, without unpacking anything."""
    broken = Refused("This JPEG file is broken or cut short; get it anew.")
    end = content.rfind(b"\xff\xd9") + 2  # what a camera writes behind the picture is left out
    if end < 2:
        raise broken
    content = content[:end]
    try:
        rows, columns, *_ = jpeg_frame(content)
    except (ValueError, struct.error):
        raise broken from None
    _check_size(columns, rows)
    try:
        check_jpeg_is_whole(content, rows * columns, JPEG_MOST_A_BYTE)
    except ValueError:
        raise broken from None
    if content.count(b"\xff\xda") > MAX_JPEG_SCANS:
        raise broken
    return content


def _from_picture(content: bytes, kind: str) -> tuple[np.ndarray, list[str]]:
    try:
        image, _ = decode_file(content, (kind,), lambda image: _check_size(*image.size))
        size = image.size
        if kind == "JPEG" and _ends_in_grey(image):
            raise Refused("The lower part of this JPEG file is missing; get it anew.")
        image = _shrunk(upright(image))
    except Refused:
        raise
    except BROKEN:
        raise Refused(f"This {kind} file is broken or cut short; get it anew.") from None
    notes = _shrinking(size)
    if image.mode == "F":
        return to_grey(np.asarray(image)), notes
    if image.mode in ("LA", "RGBA"):
        black = Image.new("RGBA", image.size, "black")
        image = Image.alpha_composite(black, image.convert("RGBA"))
    if image.mode not in ("1", "L"):
        notes += _colour_notes(image.convert("RGB"))
    return to_grey(image), notes


def _ends_in_grey(image: Image.Image) -> bool:
    """Whether the lowest rows are what decoders put in the place of pixels that are not there."""
    width, height = image.size
    rows = np.asarray(image.crop((0, height - max(8, height // 32), width, height)))
    return bool((rows == 128).all())


def _shrinking(size: tuple[int, int]) -> list[str]:
    return [] if max(size) <= DISPLAY_SIDE else [f"shrunk from {size[0]} x {size[1]} pixels"]


def _shrunk(image: Image.Image) -> Image.Image:
    """At most `DISPLAY_SIDE` a side by averaging, in the image's own depth."""
    if image.mode == "1":
        image = image.convert("L")
    elif image.mode == "P" or (image.mode in ("L", "RGB") and "transparency" in image.info):
        image = image.convert("RGBA")
    elif image.mode.startswith("I"):
        image = image.convert("F")
    scale = DISPLAY_SIDE / max(image.size)
    if scale >= 1:
        return image
    return image.resize(tuple(max(1, round(side * scale)) for side in image.size), Image.Resampling.BOX)


def _colour_notes(image: Image.Image) -> list[str]:
    """Nothing for a grey picture, a word on a tint.

    The colours of a tinted image, such as a photograph of one on a light box, lie along a line; those of other
    pictures do not.

    Raises:
        Refused: It is a picture of many colours.
    """
    pixels = np.asarray(image.resize((64, 64), Image.Resampling.BOX), dtype=np.float64).reshape(-1, 3)
    if np.ptp(pixels, axis=1).max() <= 12:
        return []
    centred = pixels - pixels.mean(0)
    axis = np.linalg.eigh(centred.T @ centred)[1][:, -1]
    aside = np.linalg.norm(centred - np.outer(centred @ axis, axis), axis=1)
    if (aside > COLOUR_LEVELS).mean() > COLOUR_SHARE:
        raise Refused(f"This looks like a colour picture and not like a radiograph. {_WANTED}")
    return ["colour taken as grey"]


def _from_dicom(content: bytes) -> tuple[np.ndarray, list[str]]:
    broken = Refused("This DICOM file is broken, cut short, or built in a way that images are not; get it anew.")
    try:
        taken = pixel_file(content)
    except NotUnderstood:
        raise broken from None
    if not taken.known:
        raise Refused(
            "This DICOM file packs its pixels in a way that is not read here; save it uncompressed, or as PNG."
        )
    if taken.frames != 1:
        raise Refused("This DICOM file holds several pictures; choose a single image.")
    if not taken.grey:
        raise Refused("This DICOM file is no grey image; choose a radiograph.")
    _check_size(taken.columns, taken.rows)
    try:
        pixels = read_dicom(taken.content)
    except DicomSupportMissing:
        raise Refused("DICOM files cannot be read here; choose a PNG or JPEG file.") from None
    except DicomError:
        raise broken from None
    return np.asarray(_shrunk(Image.fromarray(pixels))), _shrinking((taken.columns, taken.rows))
