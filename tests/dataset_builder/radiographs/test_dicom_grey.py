"""Grey of odd but lawful DICOM files, against the formulas of PS3.3 C.11 written out pixel by pixel."""

import io

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from dataset_builder.radiographs.dicom import DicomError, read_dicom
from tests.fixtures.radiograph_trees import JPEG_2000, RLE, compressed, dicom_bytes, draw_image

RAMP = np.arange(64, dtype=np.uint16).reshape(8, 8) * 64  # 0 to 4032, of 12 bits
WINDOW = {"WindowCenter": 2048, "WindowWidth": 4096}


def looked_up(value: float, first: int, entries: list[int]) -> int:
    place = round(value) - first
    return entries[0] if place < 0 else entries[-1] if place >= len(entries) else entries[place]


def reference(words, stored, high, signed=False, slope=1.0, intercept=0.0, modality=None, voi=None, window=None):
    """Grey from 0 to 255 of each word; `modality` is (first, entries), `voi` (first, entries, bits)."""
    grey = np.empty(words.shape)
    for place, word in np.ndenumerate(words):
        bits = [(int(word) >> bit) & 1 for bit in range(high - stored + 1, high + 1)]
        value = sum(bit << k for k, bit in enumerate(bits))
        if signed and bits[-1]:
            value -= 1 << stored
        value = looked_up(value, *modality) if modality else value * slope + intercept
        if voi:
            shown = looked_up(value, *voi[:2]) / (2 ** voi[2] - 1)
        else:
            center, width = window
            shown = (value - (center - 0.5)) / (width - 1) + 0.5
        grey[place] = 255 * min(max(shown, 0), 1)
    return grey


def table(first: int, bits: int, entries: list[int], data: bytes | None = None) -> Sequence:
    item = Dataset()
    item.LUTDescriptor = [len(entries) & 0xFFFF, first, bits]
    item.LUTData = np.array(entries, dtype="<u2").tobytes() if data is None else data
    item.ModalityLUTType = "US"
    return Sequence([item])


def without(*names: str) -> Sequence:
    sequence = table(0, 12, list(range(4095, -1, -1)))
    for name in names:
        if name == "LUTDescriptor":
            sequence[0]["LUTData"].VR = "OW"  # which the descriptor would decide
        delattr(sequence[0], name)
    return sequence


EMPTY = {
    "rescale": {"RescaleSlope": "", "RescaleIntercept": ""},
    "slope": {"RescaleSlope": ""},
    "no VOI items": {"VOILUTSequence": Sequence([])},
    "empty VOI item": {"VOILUTSequence": Sequence([Dataset()])},
    "VOI item without descriptor": {"VOILUTSequence": without("LUTDescriptor")},
    "VOI item without data": {"VOILUTSequence": without("LUTData")},
    "VOI item of no entries": {"VOILUTSequence": table(0, 12, [])},
    "empty modality item": {"ModalityLUTSequence": Sequence([Dataset()])},
    "modality item without descriptor": {"ModalityLUTSequence": without("LUTDescriptor")},
    "modality item without data": {"ModalityLUTSequence": without("LUTData")},
    "function": {"VOILUTFunction": ""},
    "frames": {"NumberOfFrames": ""},
    "view": {"ViewPosition": ""},
    "padding": {"PixelPaddingValue": ""},
}


@pytest.mark.parametrize("name", EMPTY)
@pytest.mark.parametrize("window", [WINDOW, {}], ids=["window", "no window"])
def test_an_optional_attribute_that_is_empty_counts_as_absent(name, window):
    notes: list[str] = []
    pixels = read_dicom(dicom_bytes(RAMP, bits=12, **EMPTY[name], **window), notes=notes)
    assert np.array_equal(pixels, read_dicom(dicom_bytes(RAMP, bits=12, **window))) and notes == []


@pytest.mark.parametrize("name", ["WindowCenter", "WindowWidth"])
def test_half_a_window_is_none(name):
    content = dicom_bytes(RAMP, bits=12, **WINDOW | {name: ""})
    assert np.array_equal(read_dicom(content), read_dicom(dicom_bytes(RAMP, bits=12)))


@pytest.mark.parametrize("name", ["SamplesPerPixel", "PixelRepresentation", "BitsStored", "HighBit"])
@pytest.mark.parametrize("value", [None, ""])
def test_a_required_attribute_with_a_safe_default_takes_it_with_a_note(name, value):
    pixels, notes = draw_image(), []
    assert np.array_equal(read_dicom(dicom_bytes(pixels, **{name: value}), notes=notes), pixels)
    assert notes == [name]


@pytest.mark.parametrize(
    ("tags", "named"),
    [
        ({"PhotometricInterpretation": ""}, "no PhotometricInterpretation"),
        ({"Rows": ""}, "no Rows"),
        ({"BitsAllocated": None}, "no BitsAllocated"),
        ({"BitsAllocated": ""}, "no BitsAllocated"),
        ({"RescaleSlope": 0, "RescaleIntercept": 7}, "a RescaleSlope of 0"),
        ({"RescaleSlope": [1, 2]}, "a RescaleSlope of several values"),
        ({"RescaleSlope": "1e300"}, "RescaleSlope and RescaleIntercept of values beyond measure"),
        ({"VOILUTFunction": "CUBIC", **WINDOW}, "a VOILUTFunction that is not one of LINEAR"),
        ({"VOILUTSequence": table(0, 8, list(range(256)), bytes(100))}, "VOILUTSequence whose LUTData"),
        ({"VOILUTSequence": table(0, 8, list(range(300)))}, "VOILUTSequence whose LUTData"),
        ({"VOILUTSequence": table(0, 7, list(range(128)))}, "VOILUTSequence of 7 bits"),
        ({"ModalityLUTSequence": table(0, 16, list(range(9)), bytes(4))}, "ModalityLUTSequence whose LUTData"),
        ({"HighBit": 3}, "a HighBit of 3"),
        ({"HighBit": 16}, "a HighBit of 16"),
        ({"PixelRepresentation": 2}, "a PixelRepresentation of 2"),
    ],
)
def test_what_cannot_be_interpreted_is_refused_by_its_name(tags, named):
    with pytest.raises(DicomError, match=named):
        read_dicom(dicom_bytes(RAMP, bits=12, **tags), "image.dcm")


@pytest.mark.parametrize("name", ["RescaleSlope", "WindowCenter", "NumberOfFrames"])
def test_text_in_place_of_a_number_is_refused_by_the_attributes_name_alone(name):
    tags = {**WINDOW, "RescaleSlope": "1", "NumberOfFrames": "1"} | {name: "1.25" if name != "NumberOfFrames" else "1"}
    content = dicom_bytes(RAMP, bits=12, **tags)
    tag = pydicom.datadict.tag_for_keyword(name)
    at = content.find((tag >> 16).to_bytes(2, "little") + (tag & 0xFFFF).to_bytes(2, "little"))
    length = int.from_bytes(content[at + 6 : at + 8], "little")
    content = content[: at + 8] + b"Zebedee"[:length].ljust(length) + content[at + 8 + length :]
    with pytest.raises(DicomError, match=f"image.dcm: has .*{name}") as raised:
        read_dicom(content, "image.dcm")
    assert "Ze" not in str(raised.value)


def test_a_voi_lut_of_8_bits_with_thousands_of_entries():
    entries = [min(255, int(255 * (k / 4095) ** 0.5)) for k in range(4096)]
    expected = reference(RAMP, 12, 11, voi=(0, entries, 8))
    assert np.abs(read_dicom(dicom_bytes(RAMP, bits=12, VOILUTSequence=table(0, 8, entries))) - expected).max() <= 0.51
    packed = table(0, 8, entries, bytes(entries))  # two entries a word
    assert np.abs(read_dicom(dicom_bytes(RAMP, bits=12, VOILUTSequence=packed)) - expected).max() <= 0.51


@pytest.mark.parametrize("first", [0, 100, -500, 3000])
@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (3.5, 700), (2, -5000), (0.01, 0)])
def test_values_beyond_a_voi_lut_take_its_ends(first, slope, intercept):
    pixels = (RAMP.astype(np.int32) - 2000).astype(np.int16)
    entries = list(range(0, 4096, 8))
    tags = {"RescaleSlope": slope, "RescaleIntercept": intercept, "VOILUTSequence": table(first, 12, entries)}
    expected = reference(
        pixels.view(np.uint16), 13, 12, signed=True, slope=slope, intercept=intercept, voi=(first, entries, 12)
    )
    assert np.abs(read_dicom(dicom_bytes(pixels, bits=13, **tags)) - expected).max() <= 0.51


def test_a_voi_lut_of_65536_entries_has_a_zero_for_their_number():
    entries = [k // 256 for k in range(65536)]
    content = dicom_bytes(RAMP * 16, VOILUTSequence=table(0, 8, entries))
    assert np.abs(read_dicom(content) - reference(RAMP * 16, 16, 15, voi=(0, entries, 8))).max() <= 0.51


def test_a_modality_lut_feeds_a_voi_lut():
    modality, voi = list(range(4000, 0, -1)), [min(4095, k * k) for k in range(64)]
    tags = {"ModalityLUTSequence": table(50, 16, modality), "VOILUTSequence": table(2000, 12, voi)}
    expected = reference(RAMP, 12, 11, modality=(50, modality), voi=(2000, voi, 12))
    assert np.abs(read_dicom(dicom_bytes(RAMP, bits=12, **tags)) - expected).max() <= 0.51


@pytest.mark.parametrize(
    ("tags", "slope", "intercept"),
    [({"RescaleSlope": 2}, 2, 0), ({"RescaleIntercept": -900}, 1, -900), ({"RescaleSlope": -1}, -1, 0)],
)
def test_a_slope_counts_without_an_intercept_and_the_other_way_round(tags, slope, intercept):
    window = {"WindowCenter": 1000, "WindowWidth": 3000}
    expected = reference(RAMP, 12, 11, slope=slope, intercept=intercept, window=(1000, 3000))
    assert np.abs(read_dicom(dicom_bytes(RAMP, bits=12, **tags, **window)) - expected).max() <= 0.51


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", RLE])
@pytest.mark.parametrize("high", [11, 12, 15])
@pytest.mark.parametrize("signed", [False, True])
def test_pixels_lie_where_the_high_bit_says(syntax, high, signed):
    values = RAMP.astype(np.int32) - (2048 if signed else 0)
    words = ((values & 0xFFF) << (high - 11)).astype(np.uint16)
    center = 0 if signed else 2048
    content = dicom_bytes(
        words,
        syntax=syntax,
        bits=12,
        HighBit=high,
        PixelRepresentation=int(signed),
        WindowCenter=center,
        WindowWidth=4096,
    )
    expected = reference(words, 12, high, signed=signed, window=(center, 4096))
    assert np.abs(read_dicom(content) - expected).max() <= 0.51
    assert expected.min() == pytest.approx(0, abs=0.1) and expected.max() > 250


@pytest.mark.parametrize("extended", [True, False])
def test_the_sign_may_fill_the_bits_above(extended):
    values = RAMP.astype(np.int32) - 2048
    words = (values & (0xFFFF if extended else 0xFFF)).astype(np.uint16)
    content = dicom_bytes(words, bits=12, PixelRepresentation=1, WindowCenter=0, WindowWidth=4096)
    expected = reference(words, 12, 11, signed=True, window=(0, 4096))
    assert np.abs(read_dicom(content) - expected).max() <= 0.51


def test_bits_that_no_attribute_explains_are_refused_and_those_of_an_overlay_left_out():
    raw = RAMP + 3  # low bits are used
    with pytest.raises(DicomError, match="bits outside the 12 that BitsStored and HighBit"):
        read_dicom(dicom_bytes(raw, bits=12, HighBit=15, **WINDOW))
    with pytest.raises(DicomError, match="bits outside the 10 that BitsStored"):
        read_dicom(dicom_bytes(raw, bits=10, **WINDOW))
    overlaid = raw | np.where(np.eye(8, dtype=bool), 1 << 13, 0).astype(np.uint16)
    with pytest.raises(DicomError, match="bits outside"):
        read_dicom(dicom_bytes(overlaid, bits=12, **WINDOW))
    dataset = pydicom.dcmread(io.BytesIO(dicom_bytes(overlaid, bits=12, **WINDOW)))
    dataset.add_new((0x6002, 0x0102), "US", 13)  # OverlayBitPosition
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset)
    assert np.array_equal(read_dicom(buffer.getvalue()), read_dicom(dicom_bytes(raw, bits=12, **WINDOW)))


def test_a_stream_of_more_bits_than_the_header_allocates_is_refused():
    deep = draw_image().astype(np.uint16) * 16
    content = dicom_bytes(draw_image(), syntax=JPEG_2000, frame=compressed(deep, JPEG_2000))
    with pytest.raises(DicomError, match="has 16 bits a pixel, its BitsAllocated says 8"):
        read_dicom(content)
    dataset = pydicom.dcmread(get_testdata_file("MR_small_jpeg_ls_lossless.dcm"))
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset)
    with pytest.raises(DicomError, match="bits a pixel, its BitsAllocated says 8"):
        read_dicom(buffer.getvalue())


def test_a_stream_of_fewer_bits_than_the_header_keeps_its_values():
    pixels = draw_image()
    content = dicom_bytes(
        pixels.astype(np.uint16), syntax=JPEG_2000, frame=compressed(pixels, JPEG_2000), bits=12, **WINDOW
    )
    assert np.abs(read_dicom(content) - reference(pixels, 12, 11, window=(2048, 4096))).max() <= 0.51


def test_a_big_endian_file_has_big_endian_tables_and_pixels():
    entries = [4095 - k for k in range(4096)]
    content = dicom_bytes(RAMP, bits=12, VOILUTSequence=table(0, 12, entries))
    dataset = pydicom.dcmread(io.BytesIO(content))
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.2"
    dataset.PixelData = RAMP.astype(">u2").tobytes()
    dataset.VOILUTSequence[0]["LUTData"].VR = "OW"
    dataset.VOILUTSequence[0].LUTData = np.array(entries, dtype=">u2").tobytes()
    dataset["PixelData"].VR = "OW"
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, implicit_vr=False, little_endian=False)
    assert np.abs(read_dicom(buffer.getvalue()) - reference(RAMP, 12, 11, voi=(0, entries, 12))).max() <= 0.51
