import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_builder.reports.text import clean_impression, count_tokens


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("1. Small effusion 2. No pneumothorax.", "Small effusion. No pneumothorax."),
        ("1.No edema. 2.Low volumes.", "No edema. Low volumes."),
        ("1) Small effusion.\n2) Clear lungs.", "Small effusion. Clear lungs."),
        ("A 2.5 cm nodule, 12.10.2009.", "A 2.5 cm nodule, 12.10.2009."),
        ("1. 2.5 cm nodule. 2. A 5 mm one.", "2.5 cm nodule. A 5 mm one."),
        ("No acute findings. 3 nodules. Seen in 2. Stable.", "No acute findings. 3 nodules. Seen in 2. Stable."),
        ("Normal.", "Normal."),
        ("  wrapped\r\n over \t lines\u00a0here. ", "wrapped over lines here."),
        ("First paragraph\n\nsecond one", "First paragraph. second one"),
        ("- small effusion\n- no edema", "small effusion. no edema"),
        ("Nodule as seen on ___.", "Nodule as seen."),
        ("As discussed with Dr. ___ at ___, no change.", "As discussed, no change."),
        ("Normal chest x-XXXX.", "Normal chest x-ray."),
        ("XXXX XXXX opacity, XXXX atelectasis. . ", "opacity, atelectasis."),
        ("[**Known lastname 12**] has an effusion", "has an effusion"),
        ("caf\ufffd\x00 opacity", "caf opacity"),
        ("half a \ud83d smile", "half a smile"),
        ("XXXX, XXXX. ___", ""),
        ("...", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_clean_impression(raw, clean):
    assert clean_impression(raw) == clean


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab12.,:;-()_X \n?", max_size=40))
def test_cleaning_twice_is_cleaning_once(raw):
    once = clean_impression(raw)
    assert clean_impression(once) == once


@pytest.mark.parametrize("piece", ["word ", "1. ", "XXXX ", ", ", "\n", "_", "[**", ". ", " ", "(", ",;"])
def test_a_megabyte_is_cleaned_in_seconds(piece):
    start = time.process_time()
    clean_impression(piece * (1_000_000 // len(piece)) + ".")
    assert time.process_time() - start < 10


def test_tokens_are_words():
    assert count_tokens("No acute process.") == 3
    assert count_tokens("2.5 cm") == 3
    assert count_tokens("") == 0
