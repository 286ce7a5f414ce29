"""Spellings of nothing, and the normal form in which near-duplicates are equal."""

import math
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from medsyn.texts import is_nothing, names_nobody, normal_form, quoted_id, quoted_path, shared_groups, vetted

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


OTHER_SPELLINGS = [
    # what pandas reads as missing
    *("#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA"),
    *("N / A", "N.A.", "n.a", "[null]", "(none)", "<none>", "'nan'", '"None"', "None!", "\ufeffnan", r"\N", "nil"),
    *("\u2014", "\u2013", "----", "___", "?", "...", "/", "Not available.", "not applicable", "missing", "undefined"),
    *("#REF!", "#DIV/0!", "#NULL!"),
]


@pytest.mark.parametrize("value", OTHER_SPELLINGS)
def test_what_pandas_excel_and_people_write_for_nothing(value):
    assert is_nothing(value) and is_nothing(f" {value.upper()}\t") and names_nobody(value)


@pytest.mark.parametrize("value", [pd.NA, pd.NaT, np.float32("nan"), np.float64("nan"), Decimal("NaN")])
def test_nothing_in_other_types(value):
    assert is_nothing(value)


@pytest.mark.parametrize(
    "value",
    ["[]", "{}", "[[]]", "N", "No", "+", "-1", "1.0", "value", "name", "Nancy", "na.png", "unknown", "a" * 10_000],
)
def test_what_resembles_nothing_and_is_something(value):
    assert not is_nothing(value)


@pytest.mark.parametrize(
    "value", ["unknown", "UNKNOWN ", "<unknown>", "Anonymous", "anonymized", "___", "XXXX", "[**Patient Name**]"]
)
def test_ids_that_name_nobody(value):
    assert names_nobody(value)


@pytest.mark.parametrize("value", ["p1", 0, "ANON123", "anon1", "unknown-7", "X1", "XX", 7.5])
def test_ids_of_somebody(value):
    assert not names_nobody(value)


@pytest.mark.parametrize(
    "others",
    [
        ["seen on 3/4/2019", "seen on 2019-03-04T10:32:15", "Seen on 4-Mar-19.", "seen in 2015", "seen on May 4"],
        ["seen on 3/4", "seen on ___ ___", "seen at 5 p.m. on XXXX", "SEEN.", "seen on [DATE] at 1430 hrs"],
        ["seen by Dr. ___.", "seen (MRN 123)", "seen, 617-555-1234", "seen: accession number A-123", "seen #12345"],
        ["seen 12345", "seen [**1-2**]", "seen xxxx", "seen\u00a0", "se\u00aden"],
    ],
)
def test_dates_and_numbers_of_persons_do_not_count(others):
    assert {normal_form(text) for text in others} == {"seen"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("3mm nodule", "3 mm nodule"),
        ("2 x 3 cm", "2\u00d73cm"),
        ("< 3 mm", "<3mm"),
        (".5 cm", "0.5 cm"),
        ("1,200 ml", "1200 ml"),
        ("pe\u0301ricarde", "p\u00e9ricarde"),
        ("\uff33mall effusion", "small effusion"),
        ("x-XXXX", "X-ray"),
    ],
)
def test_spellings_of_one_text(one, other):
    assert normal_form(one) == normal_form(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("<3 mm", ">3 mm"),
        ("<3 mm", "3 mm"),
        (".5 cm", "5 cm"),
        ("2.5 cm", "2 5 cm"),
        ("Lesion 2 may be a cyst.", "Lesion 3 may be a cyst."),
        ("There may be 2 nodules.", "There may be 3 nodules."),
        ("Seen on 1/2 views.", "Seen on 2/2 views."),
        ("Ratio 1:10.", "Ratio 1:20."),
        ("2000 ml drained.", "1900 ml drained."),
        ("Clip 2 cm away.", "Clip 3 cm away."),
        ("Ribs 3-5.", "Ribs 3-6."),
        ("50%", "60%"),
        ("C3-4 fusion", "C4-5 fusion"),
        ("10 of 12 images", "11 of 12 images"),
        ("1200 HU", "1300 HU"),
    ],
)
def test_measures_and_counts_stay(one, other):
    assert normal_form(one) != normal_form(other)


@pytest.mark.parametrize("piece", ["[**", "___ ", " on ___", "1,", "1/1/", "march 3 ", "mrn-", "a-1-", "on by ", "x"])
def test_a_form_is_its_own_form_and_long_litter_has_one(piece):
    form = normal_form(piece * 20_000)
    assert normal_form(form) == form


def test_rows_that_share_a_key_directly_or_through_others_are_one_group():
    assert shared_groups(["a", "b", "c", "b", "d"], [1, 2, 2, 3, 4]) == [0, 1, 1, 1, 4]
    assert shared_groups(["a", "b", "c"], [1, 2, 1], [3, 3, 4]) == [0, 0, 0]
    assert shared_groups([]) == []


@pytest.mark.parametrize(
    "value", ["s50414267", "p10/p10000032", "patient00001", "CXR1_1_IM-0001-3001", "1.5", 7, "Mass"]
)
def test_identifiers_are_shown(value):
    assert vetted(value) == str(value) and quoted_id(value) == repr(str(value))
    assert quoted_path("a/../../../secret.png") == repr("a/../../../secret.png")


@pytest.mark.parametrize(
    "value",
    [
        *("No acute disease.", "No edema", "no-acute-cardiopulmonary-process", "NoAcuteDisease", "a" * 65, "", "x\ny"),
        "Dr. Who",
    ],
)
def test_what_may_be_text_of_a_report_is_not(value):
    assert vetted(value).startswith("a value that is not shown") and (not value or value not in vetted(value))
