"""Reading DICOM: grey scale and polarity on files of known pixels, real radiographs, broken and hostile files."""

import io
import logging
import re
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from dataset_builder.radiographs import dicom
from dataset_builder.radiographs.dicom import (
    DicomError,
    DicomSupportMissing,
    read_dicom,
    read_dicom_header,
)
from dataset_builder.radiographs.dicom_grey import SPREAD, window_grey
from tests.fixtures.radiograph_trees import (
    EXPLICIT_LITTLE,
    JPEG_2000,
    JPEG_BASELINE,
    PATIENT_NAME,
    RLE,
    compressed,
    dicom_bytes,
    draw_image,
)

RAMP = np.arange(64, dtype=np.uint16).reshape(8, 8) * 64  # 0 to 4032, of 12 bits


def test_jpeg_ls_and_the_others_decode_signed_values_alike():
    import pydicom

    folder = Path(pydicom.__file__).parent / "data" / "test_files"  # they come with pydicom
    names = ("MR_small", "MR_small_RLE", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless")
    images = [read_dicom(folder / f"{name}.dcm") for name in names]
    assert images[0].shape == (64, 64) and images[0].std() > 20
    assert all(np.array_equal(image, images[0]) for image in images)


def test_eight_bits_are_taken_as_they_are_and_monochrome1_is_inverted():
    pixels = draw_image()
    assert np.array_equal(read_dicom(dicom_bytes(pixels)), pixels)
    assert np.array_equal(read_dicom(dicom_bytes(pixels, photometric="MONOCHROME1")), 255 - pixels)


@pytest.mark.parametrize("syntax", [EXPLICIT_LITTLE, "1.2.840.10008.1.2", JPEG_2000, RLE])
@pytest.mark.parametrize("deep", [False, True])
def test_lossless_syntaxes_decode_to_equal_pixels(syntax, deep):
    pixels = draw_image()
    tags = {}
    if deep:
        pixels = pixels.astype(np.uint16) * 16
        tags = {"bits": 12, "WindowCenter": 2048.5, "WindowWidth": 4081}
    if syntax == "1.2.840.10008.1.2":
        content = dicom_bytes(pixels, **tags)
        import pydicom

        dataset, buffer = pydicom.dcmread(io.BytesIO(content)), io.BytesIO()
        dataset.file_meta.TransferSyntaxUID = syntax
        pydicom.dcmwrite(buffer, dataset, implicit_vr=True, little_endian=True)
        content = buffer.getvalue()
    else:
        content = dicom_bytes(pixels, syntax=syntax, **tags)
    decoded = read_dicom(content)
    expected = draw_image() if not deep else np.clip((pixels - 2048.0) / 4080 + 0.5, 0, 1) * 255
    assert np.abs(decoded.astype(float) - expected).max() <= (0.51 if deep else 0)


def test_jpeg_baseline_decodes_close_to_the_pixels():
    pixels = draw_image()
    assert np.abs(read_dicom(dicom_bytes(pixels, syntax=JPEG_BASELINE)).astype(int) - pixels).mean() < 2


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_windows_equal_pydicoms(function):
    import pydicom
    from pydicom.pixels import apply_windowing

    dataset = pydicom.dcmread(io.BytesIO(dicom_bytes(RAMP, bits=12)))
    dataset.WindowCenter, dataset.WindowWidth, dataset.VOILUTFunction = 1500, 900, function
    expected = apply_windowing(RAMP, dataset) / 4095
    np.testing.assert_allclose(
        np.clip(window_grey(RAMP.astype(float), 1500, 900, function), 0, 1), expected, atol=1e-9
    )
    decoded = read_dicom(dicom_bytes(RAMP, bits=12, WindowCenter=1500, WindowWidth=900, VOILUTFunction=function))
    assert np.abs(decoded - expected * 255).max() <= 0.501


def test_the_first_of_several_windows_counts():
    decoded = read_dicom(dicom_bytes(RAMP, bits=12, WindowCenter=[1000, 3000], WindowWidth=[400, 400]))
    assert decoded[RAMP < 790].max() == 0 and decoded[RAMP > 1210].min() == 255


def test_rescale_comes_before_the_window_and_signed_values_are_kept():
    pixels = (RAMP.astype(np.int16) - 2000).astype(np.int16)
    content = dicom_bytes(pixels, bits=13, RescaleSlope=2, RescaleIntercept=100, WindowCenter=100.5, WindowWidth=2001)
    expected = np.clip((pixels * 2.0 + 100 - 100) / 2000 + 0.5, 0, 1) * 255
    assert np.abs(read_dicom(content) - expected).max() <= 0.501


def lookup(first: int, depth: int, values: list[int], named: int | None = None):
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    item = Dataset()
    item.LUTDescriptor = [named or len(values), first, depth]
    item.LUTData = np.array(values, dtype="<u2").tobytes()
    item.ModalityLUTType = "US"
    return Sequence([item])


def test_a_voi_lut_is_used_before_a_window_and_a_modality_lut_before_both():
    inverse = lookup(0, 8, list(range(255, -1, -1)))
    pixels = draw_image()
    content = dicom_bytes(pixels, VOILUTSequence=inverse, WindowCenter=10, WindowWidth=2)
    assert np.array_equal(read_dicom(content), 255 - pixels)
    doubled = lookup(0, 16, [2 * k for k in range(256)])
    content = dicom_bytes(
        pixels, ModalityLUTSequence=doubled, WindowCenter=256, WindowWidth=512, VOILUTFunction="LINEAR_EXACT"
    )
    assert np.abs(read_dicom(content) - np.clip(pixels * 2.0 / 512, 0, 1) * 255).max() <= 0.501


@pytest.mark.parametrize("window", [{}, {"WindowCenter": 5, "WindowWidth": 0}, {"WindowCenter": 5, "WindowWidth": -3}])
def test_without_a_window_that_makes_sense_deep_values_spread_between_percentiles(window):
    pixels = np.random.default_rng(0).normal(2000, 200, (100, 100)).astype(np.uint16)
    pixels[0, 0] = 4095  # a marker: must not make everything else grey
    decoded = read_dicom(dicom_bytes(pixels, bits=12, **window))
    pixels = pixels.astype(float)
    low, high = np.percentile(pixels, SPREAD, method="inverted_cdf")
    expected = np.rint(np.clip((pixels - low) / (high - low), 0, 1) * 255)
    assert np.abs(decoded - expected).max() <= 1
    assert decoded.std() > 30


def test_an_image_of_one_value_or_two_does_not_divide_by_zero():
    assert set(np.unique(read_dicom(dicom_bytes(np.full((9, 9), 700, np.uint16), bits=12)))) == {0}
    pixels = np.full((100, 100), 700, np.uint16)
    pixels[:1] = 900
    assert set(np.unique(read_dicom(dicom_bytes(pixels, bits=12)))) == {0, 255}


def test_header_tells_patient_and_view(tmp_path):
    (tmp_path / "a.dcm").write_bytes(dicom_bytes(draw_image(), patient_id="p7", view="AP"))
    assert read_dicom_header(tmp_path / "a.dcm") == dicom.DicomHeader("p7", "AP")
    (tmp_path / "b.dcm").write_bytes(dicom_bytes(draw_image(), patient_id="", view="LL"))
    assert read_dicom_header(tmp_path / "b.dcm") == dicom.DicomHeader(None, None)


def resident(what: str) -> int:
    """KiB that the process holds (`VmRSS`), or held at most (`VmHWM`); Linux alone tells."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(what)).split()[1])


class Measured:
    """Time and memory that a block takes: within a second, and less than 150 MB more than before."""

    def __enter__(self):
        Path("/proc/self/clear_refs").write_text("5")  # the peak of earlier tests would hide this one's
        self.start, self.memory = time.process_time(), resident("VmRSS")
        return self

    def __exit__(self, *_):
        assert time.process_time() - self.start < 1
        assert resident("VmHWM") - self.memory < 150_000


def test_the_measure_sees_memory_that_is_given_back():
    with pytest.raises(AssertionError), Measured():
        np.ones(40_000_000)  # 320 MB


def grown(jpeg: bytes) -> bytes:
    """The stream with a header that says 9999 x 9999 pixels, over the data of a small image."""
    at = jpeg.find(b"\xff\xc0") + 5
    return jpeg[:at] + (9999).to_bytes(2, "big") * 2 + jpeg[at + 4 :]


SMALL = draw_image(size=(8, 8))
HUGE = draw_image(size=(64, 64))
BAD_FILES = {
    "empty": (b"", "not a DICOM file"),
    "text": (b"patient,label\n" * 100, "not a DICOM file"),
    "png": (compressed(draw_image(), JPEG_BASELINE), "not a DICOM file"),
    "huge": (dicom_bytes(SMALL, Rows=30000, Columns=30000), "30000 x 30000 pixels"),
    "long": (dicom_bytes(SMALL, Rows=1, Columns=20000), "1 x 20000 pixels"),
    "nothing": (dicom_bytes(SMALL, Rows=0), "0 x 8 pixels"),
    "no rows": (dicom_bytes(SMALL, Rows=None), "no Rows"),
    "no pixels": (dicom_bytes(SMALL, PixelData=None), "no pixels"),
    "short": (dicom_bytes(SMALL, Rows=5000, Columns=5000), "cut short: 64 bytes of pixels where 25,000,000"),
    "frames": (dicom_bytes(SMALL, NumberOfFrames=7), "7 frames"),
    "colour": (dicom_bytes(SMALL, SamplesPerPixel=3, PhotometricInterpretation="RGB"), "in colour"),
    "palette": (dicom_bytes(SMALL, PhotometricInterpretation="PALETTE COLOR"), "in colour"),
    "32 bits": (dicom_bytes(SMALL, BitsAllocated=32), "of 32 bits"),
    "9 of 8 bits": (dicom_bytes(SMALL, BitsStored=9), "9 of 8 bits"),
    "jpeg bomb": (
        dicom_bytes(SMALL, syntax=JPEG_BASELINE, frame=compressed(HUGE, JPEG_BASELINE)),
        "64 x 64 pixels of 1",
    ),
    "j2k bomb": (dicom_bytes(SMALL, syntax=JPEG_2000, frame=compressed(HUGE, JPEG_2000)), "64 x 64 pixels of 1"),
    "rle bomb": (dicom_bytes(SMALL, syntax=RLE, frame=compressed(HUGE, RLE)), "does not have the image's size"),
    "no jpeg": (dicom_bytes(SMALL, syntax=JPEG_BASELINE, frame=b"\0" * 100), "no JPEG"),
    "no j2k": (dicom_bytes(SMALL, syntax=JPEG_2000, frame=b"\0" * 100), "no JPEG 2000"),
    "half a jpeg": (dicom_bytes(SMALL, syntax=JPEG_BASELINE, frame=b"\xff\xd8\xff\xe0\0\x04ab"), "no frame header"),
    "jpeg cut short": (
        dicom_bytes(HUGE, syntax=JPEG_BASELINE, frame=compressed(HUGE, JPEG_BASELINE)[:-400]),
        "JPEG frame is cut short",
    ),
    "jpeg of few bytes": (
        dicom_bytes(
            SMALL, syntax=JPEG_BASELINE, frame=grown(compressed(SMALL, JPEG_BASELINE)), Rows=9999, Columns=9999
        ),
        "JPEG frame is cut short",
    ),
    "no rle": (dicom_bytes(SMALL, syntax=RLE, frame=b"\xff" * 100), "RLE frame"),
    "video": (
        dicom_bytes(SMALL, syntax="1.2.840.10008.1.2.4.100", frame=b"\0" * 10),
        "transfer syntax 1.2.840.10008.1.2.4.100",
    ),
    "deflated": (
        dicom_bytes(SMALL).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")[:300],
        "transfer syntax",
    ),
    "bad LUT": (
        dicom_bytes(draw_image(), VOILUTSequence=lookup(0, 8, [1], named=256)),
        "VOILUTSequence whose LUTData",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_named_within_a_second_and_without_memory(name, tmp_path):
    content, message = BAD_FILES[name]
    path = tmp_path / "image.dcm"
    path.write_bytes(content)
    read_dicom(dicom_bytes(SMALL))  # imports what is imported once
    with Measured(), pytest.raises(DicomError, match=message) as raised:
        read_dicom(path)
    assert str(path) in str(raised.value) and "Zebedee" not in str(raised.value)


def test_a_jpeg_2000_stream_that_claims_to_be_huge_is_not_decoded():
    stream = bytearray(compressed(SMALL, JPEG_2000))
    at = stream.find(b"\xff\x4f\xff\x51")
    stream[at + 8 : at + 16] = (60000).to_bytes(4, "big") * 2
    content = dicom_bytes(SMALL, syntax=JPEG_2000, frame=bytes(stream))
    with Measured(), pytest.raises(DicomError, match="60000 x 60000"):
        read_dicom(content)


def test_a_file_that_is_too_long_is_not_read(tmp_path):
    path = tmp_path / "image.dcm"
    with path.open("wb") as file:
        file.truncate(dicom.MAX_FILE_BYTES + 1)  # sparse
    with Measured(), pytest.raises(DicomError, match="bytes, over the"):
        read_dicom(path)


@pytest.mark.parametrize("syntax", [EXPLICIT_LITTLE, JPEG_BASELINE, JPEG_2000, RLE])
def test_files_cut_anywhere_or_with_flipped_bytes_raise_nothing_else(syntax):
    content = dicom_bytes(draw_image(), syntax=syntax)
    rng = np.random.default_rng(0)
    failed = 0
    for trial in range(80):
        broken = bytearray(content)
        if trial % 2:
            del broken[int(rng.integers(len(content))) :]
        else:
            for place in rng.integers(132, len(content), 6):
                broken[place] = rng.integers(256)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # a warning could tell what the header holds
                pixels = read_dicom(bytes(broken))
            assert pixels.dtype == np.uint8
        except DicomError as error:
            failed += 1
            assert "Zebedee" not in str(error)
    assert failed > 40


def test_names_of_patients_reach_no_message_warning_or_log(caplog, capsys):
    caplog.set_level(logging.DEBUG)
    messages: list[str] = []
    content = dicom_bytes(draw_image())
    at = content.find(EXPLICIT_LITTLE.encode())
    broken = content[:at] + b"Zebedee" + content[at + 7 :]  # no UID: pydicom warns and logs it
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for file in (broken, broken[:-100], content[:-100]):
            with pytest.raises(DicomError) as raised:
                read_dicom(file)
            messages.append(str(raised.value))
    output = (
        "".join(messages)
        + caplog.text
        + "".join(str(warning.message) for warning in caught)
        + "".join(capsys.readouterr())
    )
    assert "Zebedee" not in output and PATIENT_NAME not in output


def test_without_pydicom_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    with pytest.raises(DicomSupportMissing, match=re.escape("hub-medsyn[dicom]")):
        read_dicom(b"\0" * 128 + b"DICM")


@pytest.mark.real
def test_real_images_have_dark_lungs(real_data):
    for name in ("gdcm_chest_mono1_10bit", "pydicom_rg1_chest_mono1_15bit_j2k", "rsna_ap_mono2", "siim_pa_mono2"):
        pixels = read_dicom(real_data / "dicom" / f"{name}.dcm").astype(float)
        rows, columns = pixels.shape
        band = pixels[int(0.3 * rows) : int(0.6 * rows)]  # through both lungs
        lungs = min(band[:, int(a * columns) : int(b * columns)].mean() for a, b in ((0.2, 0.35), (0.65, 0.8)))
        spine = band[:, int(0.46 * columns) : int(0.54 * columns)].mean()
        assert lungs < spine - 30, name
        assert pixels.max() - pixels.min() > 180, name


@pytest.mark.real
def test_a_real_image_retagged_as_monochrome1_is_the_negative_of_itself(real_data):
    # One byte of its tag differs: its stored pixels are those of MONOCHROME2, and no reader can know that.
    pair = [read_dicom(real_data / "dicom" / f"siim_pa_{name}.dcm") for name in ("mono2", "mono1_variant")]
    assert np.array_equal(pair[1], 255 - pair[0])
