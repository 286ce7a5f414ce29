"""Spellings of nothing, and the normal form in which near-duplicates are equal."""

import math

import pytest

from medsyn.texts import is_nothing, normal_form, vetted

SPELLINGS = [
    "",
    " ",
    "nan",
    "NaN",
    "None",
    "none.",
    "null",
    "NULL",
    "N/A",
    "n/a",
    "NA",
    "<NA>",
    "#N/A",
    "NaT",
    "-",
    "--",
]


@pytest.mark.parametrize("value", [None, math.nan, *SPELLINGS, *(f"  {text} " for text in SPELLINGS)])
def test_spellings_of_nothing(value):
    assert is_nothing(value)


@pytest.mark.parametrize(
    "value", ["Normal.", "No Finding", "none seen", "nano", "0", "Nana Null", 0, False, "nan nan"]
)
def test_what_is_something(value):
    assert not is_nothing(value)


@pytest.mark.parametrize(
    "other",
    [
        "compared to ___, the nodule of 3 mm is unchanged",
        "Compared to XXXX, the nodule of 3 mm is  unchanged.",
        "COMPARED TO 2/28/2017, THE NODULE OF 3 MM IS UNCHANGED!",
        "Compared to 2019-05-03; the nodule\nof 3 mm is unchanged.",
        "Compared to May 3, 2019, the nodule of 3 mm is unchanged",
        "Compared to 3 May 2019 the nodule of 3 mm is unchanged",
        "Compared to 28.2.17 10:30 AM, the nodule of 3 mm is unchanged.",
        "Compared to [**2101-5-3**], the nodule of 3 mm is unchanged.",
        "Compared to 12345678, the nodule of 3 mm is unchanged.",
        "Compared to CR1234567, the nodule of 3 mm is unchanged.",
    ],
)
def test_near_duplicates_are_equal(other):
    assert normal_form(other) == normal_form("Compared to 3/4/2019, the nodule of 3 mm is unchanged.")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Nodule of 3 mm.", "Nodule of 8 mm."),
        ("Nodule of 2.5 cm.", "Nodule of 25 cm."),
        ("No effusion.", "Effusion."),
        ("T11 fracture.", "T12 fracture."),
        ("Grade 1/6.", "Grade 2/6."),
        ("Left effusion.", "Right effusion."),
        ("It may be edema.", "It is edema."),
        ("2 nodules.", "3 nodules."),
    ],
)
def test_what_differs_in_content_differs(one, other):
    assert normal_form(one) != normal_form(other)


@pytest.mark.parametrize(
    "value", ["s50414267", "p10/p10000032", "patient00001", "CXR1_1_IM-0001-3001", "1.5", 7, "Mass"]
)
def test_identifiers_are_shown(value):
    assert vetted(value) == str(value) and vetted(value, quoted=True) == repr(str(value))
    assert vetted("a/../../../secret.png", most_words=12) == "a/../../../secret.png"


@pytest.mark.parametrize(
    "value",
    [
        "No acute disease.",
        "No edema",
        "no-acute-cardiopulmonary-process",
        "NoAcuteDisease",
        "a" * 65,
        "",
        "x\ny",
        "Dr. Who",
    ],
)
def test_what_may_be_text_of_a_report_is_not(value):
    assert vetted(value).startswith("a value that is not shown") and (not value or value not in vetted(value))
