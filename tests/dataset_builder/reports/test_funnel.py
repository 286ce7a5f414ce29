import hashlib

import pytest

from dataset_builder.findings import Finding
from dataset_builder.reports.funnel import SHOWN_IDS, Funnel
from dataset_builder.reports.record import ReportRecord
from dataset_builder.reports.table import read_table


def record(study_id, impression, **more):
    return ReportRecord(study_id, "p", impression, source="made up", **more)


RECORDS = [
    record("a", "1. No acute process. 2. Clear lungs."),
    record("b", ""),
    record("c", "XXXX. ___"),
    record("d", "Normal."),
    record("e", "No acute\nprocess. Clear lungs.", findings="1. Fine.", scene=(Finding("edema"),)),
    record("f", "Small left effusion.", findings="XXXX"),
]


def test_counts_skips_and_what_is_kept():
    funnel = Funnel(min_tokens=3)
    kept = list(funnel(RECORDS))
    assert [(r.study_id, r.impression, r.findings) for r in kept] == [
        ("a", "No acute process. Clear lungs.", None),
        ("e", "No acute process. Clear lungs.", "Fine."),
        ("f", "Small left effusion.", None),
    ]
    assert kept[1].scene == (Finding("edema"),)
    summary = funnel.summary()
    left = {"with_impression": 4, "long_enough": 3, "unique": 3}
    assert summary["counts"] == {"all": 6, "readable": 6, "frontal": 6, **left}
    assert summary["skipped"]["no_impression"] == {"count": 2, "study_ids": ["b", "c"]}
    assert summary["skipped"]["too_short"] == {"count": 1, "study_ids": ["d"]}
    assert summary["study_ids_sha256"] == hashlib.sha256(b"a\ne\nf\n").hexdigest()
    assert summary["distinct_prompts"] == 2
    assert summary["repeated_prompt_share"] == pytest.approx(1 / 3, abs=1e-6)


def test_the_least_length_is_a_setting():
    assert [r.study_id for r in Funnel(min_tokens=1)(RECORDS)] == ["a", "d", "e", "f"]


def test_a_second_study_of_one_id_is_refused_by_name():
    with pytest.raises(ValueError, match="study id 'a' of made up comes twice"):
        list(Funnel()([RECORDS[0], RECORDS[4], RECORDS[0]]))


def test_or_skipped_and_counted():
    funnel = Funnel(on_duplicate="skip")
    assert [r.study_id for r in funnel([RECORDS[0], RECORDS[0], RECORDS[5]])] == ["a", "f"]
    assert funnel.summary()["skipped"]["duplicate_study"] == {"count": 1, "study_ids": ["a"]}
    assert funnel.summary()["counts"]["unique"] == 2


def test_it_streams():
    def endless():
        number = 0
        while True:
            number += 1
            yield record(str(number), "No acute process.")

    kept = Funnel()(endless())
    assert [next(kept).study_id for _ in range(3)] == ["1", "2", "3"]


def test_only_the_first_skipped_ids_are_kept():
    funnel = Funnel()
    assert list(funnel(record(str(number), "") for number in range(50))) == []
    assert funnel.summary()["skipped"]["no_impression"]["count"] == 50
    assert len(funnel.summary()["skipped"]["no_impression"]["study_ids"]) == SHOWN_IDS
    assert funnel.summary()["repeated_prompt_share"] == 0.0


@pytest.mark.parametrize(
    ("arguments", "output"), [({"min_tokens": 0}, "min_tokens 0"), ({"on_duplicate": "x"}, "'x'")]
)
def test_bad_arguments_are_named(arguments, output):
    with pytest.raises(ValueError, match=output):
        Funnel(**arguments)


def test_a_funnel_counts_once():
    funnel = Funnel()
    list(funnel(RECORDS))
    with pytest.raises(ValueError, match="make a new one"):
        funnel(RECORDS)


@pytest.mark.real
def test_open_i(real_data):
    funnel = Funnel()
    kept = list(funnel(read_table(real_data / "openi_iu" / "reports.jsonl")))
    counts = funnel.summary()["counts"]
    assert counts["all"] == 3600
    assert counts["all"] > counts["with_impression"] > counts["long_enough"] == counts["unique"] == len(kept)
    assert 0.4 < funnel.summary()["repeated_prompt_share"] < 0.6
    assert not any("XXXX" in r.impression for r in kept)
