import json
import textwrap

import pytest

from benchmarks.section_headers import is_header, main, measure
from dataset_builder.reports.headers import NAMES, exact_meaning, near_meaning, squeeze
from dataset_builder.reports.sections import read_sections


@pytest.fixture(scope="module")
def measured():
    return {(form, which): (count, found) for form, which, count, found in measure()}


def test_cut_headers_are_recognised(measured):
    shares = {form: found / count for (form, which), (count, found) in measured.items() if which == "unambiguous"}
    assert len(shares) == 8 and sum(count for count, _ in measured.values()) > 20_000
    assert min(shares[form] for form in shares if form != "IMPRES text") >= 0.95  # neither colon nor line of its own
    assert shares["IMPRES text"] >= 0.94
    assert min(found / count for (_, which), (count, found) in measured.items() if which == "all cuts") >= 0.85
    assert min(found / count for (_, which), (count, found) in measured.items() if which == "one letter") >= 0.97


def test_prose_holds_no_header(measured):
    count, found = measured["prose", "lines"]
    assert count > 5_000
    assert found == 0


def test_table_of_the_benchmark(measured, monkeypatch, tmp_path):
    rows = [(*key, *value) for key, value in measured.items()]
    monkeypatch.setattr("benchmarks.section_headers.measure", lambda: rows)
    assert main(["--out", str(tmp_path / "table.csv")]) == 0
    assert len((tmp_path / "table.csv").read_text().splitlines()) == len(rows) + 1


def test_names_agree_with_the_patterns():
    for meaning, names in NAMES.items():
        for name in names:
            assert exact_meaning(name) == (None if meaning == "views" else meaning)
            assert near_meaning(squeeze(name), after_text=False) == meaning


@pytest.mark.parametrize(
    ("header", "meaning"),
    [
        ("MPRESSION", "impression"),
        ("IMPRES", "impression"),
        ("MPRESSIO", "impression"),
        ("SION", "impression"),
        ("lMPRESSlON", "impression"),
        ("1MPRESS10N", "impression"),
        ("IMPRFSSION", "impression"),
        ("INDINGS", "findings"),
        ("FINDINGS/IMPR", "findings and impression"),
        ("FINDINGS AND", "findings and impression"),
        ("INDINGS & IMPRESSION", "findings and impression"),
        ("ET READ", "wet read"),
        ("EASON FOR EXA", "other"),
        ("PRELIMINARY", None),
        ("OVERALL", None),
        ("DING", None),  # FINDING or ATTENDING
        ("PORT", None),
        ("MEDICATION", None),
        ("COMPRESSION", None),
    ],
)
def test_near_meaning(header, meaning):
    word = squeeze(header.replace("l", "I"))
    assert near_meaning(word, after_text=False) == meaning


def test_what_two_names_share_is_read_by_its_place():
    assert near_meaning("ICATION", after_text=False) == "other"  # INDICATION
    assert near_meaning("ICATION", after_text=True) == "closing"  # NOTIFICATION


@pytest.mark.parametrize("text", ["text ", ""])
def test_a_hyphenated_word_is_no_header(text):
    assert not is_header(f"{text}with hyperinfla-\ntion: small. Impres-\nsion: none. IMPRES-\nSION: none.")


# 2415 holds a second report inside its impression; 3368 a cut header, "Pression:", inside its findings, which counts
# where wrapping puts it at the start of a line.
@pytest.mark.real
@pytest.mark.parametrize(("width", "with_headers_inside"), [(9_999, [2415]), (40, [2415]), (78, [2415, 3368])])
def test_real_reports_read_the_same(real_data, width, with_headers_inside):
    """Sections of Open-i, laid out as MIMIC-CXR does, come back as they went in."""
    lines = (real_data / "openi_iu" / "reports.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 3600
    unlike = []
    for row in map(json.loads, lines):
        given = {name: " ".join(row[name].split()) for name in ("indication", "comparison", "findings", "impression")}
        wrapped = (
            textwrap.fill(f"{name.upper()}:  {text}", width, break_long_words=False, break_on_hyphens=False)
            for name, text in given.items()
        )
        sections = read_sections("\n\n".join(wrapped))
        read = {"findings": " ".join(sections.findings.split()), "impression": " ".join(sections.impression.split())}
        if read != {name: given[name] for name in read}:
            unlike.append(row["uid"])
    assert unlike == with_headers_inside
