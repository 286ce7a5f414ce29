import io
import logging
import os

import numpy as np
import pytest
from PIL import Image

from dataset_builder.radiographs.dicom import read_dicom
from spaces_app.guard import uploads
from spaces_app.guard.uploads import DISPLAY_SIDE, Refused, checked_text, delete_old, forget_upload, read_upload
from tests.fixtures.damaged_metadata import damaged
from tests.fixtures.radiograph_trees import EXPLICIT_LITTLE, JPEG_2000, JPEG_BASELINE, RLE, dicom_bytes, draw_image
from tests.spaces_app.guard.abuse_files import (
    ABUSE,
    MEGABYTES,
    SECONDS,
    Measured,
    behind_the_head,
    chunk,
    element,
    encoded,
)

PERSON = (b"Zebedee^Quentin", b"19450312")


@pytest.fixture
def hand_in(tmp_path):
    """Writes a file into the folder of uploads and reads it from there."""

    def read(content: bytes, name: str = "an image.PNG"):
        (tmp_path / name).write_bytes(content)
        return read_upload(str(tmp_path / name), tmp_path)

    return read


def alike(pixels: np.ndarray, expected: np.ndarray) -> float:
    return float(np.corrcoef(pixels.ravel().astype(float), expected.ravel().astype(float))[0, 1])


@pytest.mark.parametrize(
    "name", ["image.png", "image.dcm", "image.jpg.exe", "фильм", "a" * 200, "-rf", "<script>.svg"]
)
def test_eight_bit_pixels_stay_as_they_are_whatever_the_file_is_called(hand_in, name):
    taken = hand_in(encoded(draw_image()), name)
    np.testing.assert_array_equal(taken.pixels, draw_image())
    assert taken.pixels.dtype == np.uint8 and (taken.name, taken.note) == ("your image", "")


MODES = {"PNG": ("L", "LA", "P", "RGB", "RGBA"), "JPEG": ("L", "RGB", "CMYK", "YCbCr")}


@pytest.mark.parametrize(("kind", "mode"), [(kind, mode) for kind, modes in MODES.items() for mode in modes])
def test_every_mode_gives_the_same_image(hand_in, mode, kind):
    taken = hand_in(encoded(Image.fromarray(draw_image()).convert(mode), kind))
    assert alike(taken.pixels, draw_image()) > 0.98
    assert taken.note == ""


def test_one_bit_pictures_are_read(hand_in):
    taken = hand_in(encoded(Image.fromarray(draw_image() > 100)))
    np.testing.assert_array_equal(taken.pixels, np.where(draw_image() > 100, 255, 0))


@pytest.mark.parametrize("highest", [1_000, 4_095, 65_535])
def test_sixteen_bits_are_spread_and_not_clipped(hand_in, highest):
    deep = np.tile(np.linspace(0, highest, 512), (512, 1)).astype(np.uint16)
    taken = hand_in(encoded(deep)).pixels[0].astype(int)
    assert (taken[0], taken[-1]) == (0, 255)
    assert len(np.unique(taken)) == 256 and (np.diff(taken) >= 0).all() and np.diff(taken).max() == 1


def test_larger_images_are_shrunk_by_averaging_and_say_so(hand_in):
    large = np.zeros((3000, 2000), np.uint8)
    large[:, ::2] = 200  # stripes of a pixel
    large[:1500] //= 2
    taken = hand_in(encoded(large))
    assert taken.pixels.shape == (DISPLAY_SIDE, 683)
    assert abs(taken.pixels[:500].mean() - 50) < 2 and abs(taken.pixels[-500:].mean() - 100) < 2
    assert taken.pixels[-500:].std() < 35  # the stripes themselves have 100
    assert taken.note == "shrunk from 2000 x 3000 pixels"


def test_what_a_camera_turned_is_put_upright(hand_in):
    tall = draw_image(size=(90, 60))
    lying = Image.fromarray(np.rot90(tall))  # as a camera stores it that was turned clockwise
    exif = Image.Exif()
    exif[0x0112] = 6
    taken = hand_in(encoded(lying, "JPEG", exif=exif, quality=98))
    assert taken.pixels.shape == tall.shape and alike(taken.pixels, tall) > 0.98


@pytest.mark.parametrize("name", damaged(draw_image()))
def test_damaged_metadata_do_not_make_a_picture_unreadable(hand_in, name):
    pixels = draw_image(size=(64, 64))
    np.testing.assert_allclose(
        hand_in(damaged(pixels)[name]).pixels, pixels, atol=12 if name.startswith("JPEG") else 0
    )


def test_what_is_transparent_is_black(hand_in):
    pixels = np.dstack([np.full((40, 48), 255, np.uint8)] * 3 + [draw_image()])
    np.testing.assert_allclose(hand_in(encoded(pixels)).pixels, draw_image(), atol=1)


def test_a_tinted_image_is_read_and_a_picture_of_many_colours_is_not(hand_in):
    blue = np.dstack([(draw_image(size=(200, 200)) * weight).astype(np.uint8) for weight in (0.6, 0.8, 1.0)])
    assert hand_in(encoded(blue)).note == "colour taken as grey"
    marked = np.dstack([draw_image(size=(200, 200))] * 3)
    marked[10:30, 10:40] = (255, 0, 0)  # somebody's arrow
    assert hand_in(encoded(marked)).note == "colour taken as grey"
    hues = np.asarray(Image.linear_gradient("L").resize((200, 200)))
    colourful = Image.merge("HSV", [Image.fromarray(hues), *[Image.new("L", (200, 200), 200)] * 2])
    with pytest.raises(Refused, match="colour picture"):
        hand_in(encoded(colourful.convert("RGB")))


@pytest.mark.parametrize("syntax", [EXPLICIT_LITTLE, JPEG_BASELINE, JPEG_2000, RLE])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_dicom_images_are_those_that_the_reader_of_data_sets_gives(hand_in, syntax, photometric):
    content = dicom_bytes(draw_image(), syntax=syntax, photometric=photometric, WindowCenter=100, WindowWidth=150)
    taken = hand_in(content, "looks.png")
    np.testing.assert_array_equal(taken.pixels, read_dicom(content))


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"])
@pytest.mark.parametrize("undefined", [False, True])
def test_lookup_tables_rescaling_and_sequences_go_along_in_every_byte_order(hand_in, syntax, undefined):
    import pydicom

    dataset = pydicom.dcmread(io.BytesIO(dicom_bytes(draw_image().astype(np.uint16) * 16, bits=12)))
    table = pydicom.Dataset()
    table.LUTDescriptor, table.LUTData = [256, 0, 8], (np.arange(256)[::-1] // 2).astype(np.uint16).tolist()
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    dataset.VOILUTSequence = pydicom.Sequence([table])
    dataset.RescaleSlope, dataset.RescaleIntercept = 0.0625, 0
    inner = pydicom.Dataset()
    inner.PatientName, inner.Rows = "Zebedee^Quentin", 7  # of a small picture inside
    dataset.IconImageSequence = pydicom.Sequence([inner])
    for sequence in ("VOILUTSequence", "IconImageSequence"):
        dataset[sequence].is_undefined_length = undefined
    buffer = io.BytesIO()
    little, implicit = not syntax.endswith(".2.2"), syntax.endswith("1.2")
    dataset.file_meta.TransferSyntaxUID = syntax
    if not little:
        dataset.PixelData = (draw_image().astype(np.uint16) * 16).astype(">u2").tobytes()
    pydicom.dcmwrite(buffer, dataset, implicit_vr=implicit, little_endian=little, force_encoding=True)
    content = buffer.getvalue()
    expected = read_dicom(content)
    assert alike(expected, draw_image()) < -0.9  # the table turns light and dark round
    np.testing.assert_array_equal(hand_in(content).pixels, expected)


def test_the_decoder_of_dicom_sees_nothing_of_a_person(monkeypatch, hand_in):
    seen = []

    def spy(content, *_):
        seen.append(content)
        return read_dicom(content)

    monkeypatch.setattr(uploads, "read_dicom", spy)
    content = dicom_bytes(draw_image(), PatientBirthDate="19450312")
    assert all(word in content for word in PERSON)
    hand_in(content)
    assert len(seen) == 1 and not any(word in seen[0] for word in PERSON)


def test_refusals_and_logs_of_broken_dicom_files_hold_nothing_of_a_person(hand_in, caplog, capsys, recwarn):
    caplog.set_level(logging.DEBUG)
    whole = dicom_bytes(draw_image(), patient_id="19450312", PatientBirthDate="19450312")
    broken = [whole[: len(whole) // 2], whole[:-100], behind_the_head(element(0x00281052, b"DS", PERSON[1] * 90))]
    broken.append(behind_the_head(element(0x00281050, b"DS", PERSON[0] + b" ")))
    broken.append(dicom_bytes(draw_image(), patient_id="19450312", NumberOfFrames=19450312))
    broken.append(whole.replace(b"1.2.840.10008.1.2.1\0", b"1.19450312.10008.1\0\0"))
    for content in broken:
        with pytest.raises(Refused) as refusal:
            hand_in(content, "Zebedee^Quentin 19450312.dcm")
        output = f"{refusal.value!r} {refusal.value.__cause__} {caplog.text} {capsys.readouterr()}"
        output += " ".join(str(warning.message) for warning in recwarn)
        assert not any(word.decode() in output for word in PERSON) and "Zebedee" not in output


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "progressive", EXPLICIT_LITTLE, JPEG_BASELINE, JPEG_2000, RLE])
def test_files_cut_anywhere_or_with_flipped_bytes_are_read_or_refused_and_nothing_else(hand_in, kind):
    if kind in ("PNG", "JPEG"):
        whole = encoded(draw_image(), kind)
    else:
        whole = (
            encoded(draw_image(), "JPEG", progressive=True)
            if kind == "progressive"
            else dicom_bytes(draw_image(), syntax=kind)
        )
    draw = np.random.default_rng(7)
    refused = 0
    for _ in range(150):
        content = bytearray(whole[: int(draw.integers(1, len(whole)))] if draw.random() < 0.4 else whole)
        for at in draw.integers(0, len(content), int(draw.integers(0, 6))):
            content[at] = draw.integers(0, 256)
        try:
            taken = hand_in(bytes(content))
        except Refused as refusal:
            refused += 1
            assert str(refusal).endswith(".") and "Error" not in str(refusal)
        else:
            assert taken.pixels.ndim == 2 and taken.pixels.dtype == np.uint8
    assert refused > 40


def test_only_regular_files_inside_the_folder_of_uploads_are_read(tmp_path):
    folder, outside = tmp_path / "uploads", tmp_path / "secret.png"
    (folder / "deep").mkdir(parents=True)
    outside.write_bytes(encoded(draw_image()))
    (folder / "image.png").write_bytes(encoded(draw_image()))
    (folder / "link.png").symlink_to(outside)
    (folder / "own link.png").symlink_to(folder / "image.png")
    (folder / "way out").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe")
    assert read_upload(str(folder / "deep" / ".." / "image.png"), folder).pixels.shape == (40, 48)
    for path in (
        outside,
        folder / ".." / "secret.png",
        folder / "link.png",
        folder / "own link.png",
        folder / "way out" / "secret.png",
        folder / "pipe",
        folder / "deep",
        folder,
        folder / "not there.png",
        "/dev/zero",
        "/etc/passwd",
        "/proc/self/environ",
        "image.png",
        "image\0.png",
        "https://example.org/image.png",
        "a" * 5000,
        42,
        {"path": "x"},
    ):
        with pytest.raises(Refused, match="not one that was uploaded here") as refusal:
            read_upload(path if isinstance(path, int | dict) else str(path), folder)
        assert str(tmp_path) not in str(refusal.value)
        assert refusal.value.__suppress_context__ or refusal.value.__context__ is None
    for nothing in (None, ""):
        with pytest.raises(Refused, match="no image yet"):
            read_upload(nothing, folder)


def test_only_what_was_uploaded_is_deleted(tmp_path):
    folder, outside = tmp_path / "uploads", tmp_path / "keep.png"
    (folder / "deep").mkdir(parents=True)
    outside.write_bytes(b"keep")
    (folder / "link.png").symlink_to(outside)
    (folder / "way out").symlink_to(tmp_path)
    (folder / "deep" / "image.png").write_bytes(b"no image at all")
    for path in (
        None,
        "",
        42,
        "a\0b",
        str(outside),
        folder / ".." / "keep.png",
        folder / "link.png",
        folder / "deep",
        folder / "way out" / "keep.png",
        folder,
        folder / "not there",
        "keep.png",
    ):
        forget_upload(path if path is None or isinstance(path, int) else str(path), folder)
    assert outside.read_bytes() == b"keep" and (folder / "link.png").is_symlink()
    forget_upload(str(folder / "deep" / "image.png"), folder)
    assert not (folder / "deep" / "image.png").exists() and (folder / "deep").is_dir()


def test_the_folder_of_uploads_is_gradios(monkeypatch, tmp_path):
    gradio = pytest.importorskip("gradio")
    for folder in (str(tmp_path / "other"), None):
        monkeypatch.setenv("GRADIO_TEMP_DIR", folder) if folder else monkeypatch.delenv("GRADIO_TEMP_DIR")
        assert str(uploads.upload_folder()) == gradio.utils.get_upload_folder()


def test_a_folder_of_uploads_that_is_a_link_itself_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "uploads").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "image.png").write_bytes(encoded(draw_image()))
    assert read_upload(str(tmp_path / "uploads" / "image.png"), tmp_path / "uploads").pixels.shape == (40, 48)


@pytest.mark.parametrize("name", ABUSE)
def test_abuse_is_refused_with_a_sentence_in_little_time_and_memory(hand_in, name):
    make, word = ABUSE[name]
    content = make()
    with Measured() as cost, pytest.raises(Refused, match=word) as refusal:
        hand_in(content)
    sentence = str(refusal.value)
    assert sentence[0].isupper() and sentence.endswith(".") and "\n" not in sentence and len(sentence) < 200
    assert cost.seconds < SECONDS and cost.megabytes < MEGABYTES, (cost.seconds, cost.megabytes)


def test_the_measure_sees_memory_that_is_given_back():
    with Measured() as cost:
        np.ones(20_000_000)
    assert 140 < cost.megabytes < 180


def test_what_lies_behind_a_picture_is_left_out(hand_in):
    for kind in ("PNG", "JPEG"):
        whole = encoded(draw_image(), kind)
        np.testing.assert_array_equal(hand_in(whole + b"<script>" * 1000).pixels, hand_in(whole).pixels)


def test_a_wide_text_chunk_does_not_keep_an_image_from_being_read(hand_in):
    whole = encoded(draw_image())
    with_text = whole[:33] + chunk(b"tEXt", b"Comment\0" + b"a" * 5000) + whole[33:]
    np.testing.assert_array_equal(hand_in(with_text).pixels, draw_image())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  No effusion. \r\n", "No effusion."),
        ("a\rb\x0cc\tde\u00adf\ufeff", "a\nb\nc\tdef"),
        ("Zu\u0308rich", "Zürich"),
        ("<script>alert(1)</script>", "<script>alert(1)</script>"),
        ("{{7*7}} ${x} %s \\u202e", "{{7*7}} ${x} %s \\u202e"),
        ("לא נראה נוזל", "לא נראה נוזל"),
        ("x" * 2000, "x" * 2000),
    ],
)
def test_texts_are_kept_as_they_are_read(text, expected):
    assert checked_text(text, "phrase") == expected


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (None, "empty"),
        ("", "empty"),
        (" \n\t\u00ad\ufeff ", "empty"),
        ("x" * 2001, "2,001 characters and may have 2,000"),
        ("x" * 10**6, "1,000,000 characters"),
        ("a\0b", r"U\+0000"),
        ("a\x1b[31mb", r"U\+001B"),
        ("safe\u202egnp.exe", r"U\+202E"),
        ("\u2066hidden\u2069", r"U\+2066"),
        ("half \ud800", r"U\+D800"),
        ("\ufdd0", r"U\+FDD0"),
        (42, "no text|not a text"),
        (["a"], "not a text"),
    ],
)
def test_other_texts_are_refused_with_a_sentence_that_does_not_repeat_them(text, word):
    with pytest.raises(Refused, match=word) as refusal:
        checked_text(text, "phrase")
    sentence = str(refusal.value)
    assert sentence.startswith("The phrase ") and sentence.endswith(".") and len(sentence) < 120
    assert sentence.isprintable()


def test_files_that_nobody_came_back_for_are_deleted(tmp_path):
    folder = tmp_path / "uploads"
    (folder / "deep").mkdir(parents=True)
    (tmp_path / "mine.png").write_bytes(b"mine")
    for name in ("tmpk92vpt84", "deep/old.png", "deep/new.png"):
        (folder / name).write_bytes(b"x")
    (folder / "link").symlink_to(tmp_path / "mine.png")
    (folder / "way").symlink_to(tmp_path)
    for name in ("tmpk92vpt84", "deep/old.png", "link", "way"):
        os.utime(folder / name, (1, 1), follow_symlinks=False)
    os.utime(tmp_path / "mine.png", (1, 1))
    delete_old(folder, 600)
    assert {str(path.relative_to(folder)) for path in folder.rglob("*")} == {"deep", "deep/new.png"}
    assert (tmp_path / "mine.png").exists()
