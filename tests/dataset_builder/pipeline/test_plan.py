from collections import Counter
from dataclasses import replace

import pytest

from dataset_builder.pipeline.plan import assign_splits, cross_split_repeats, image_seed, make_plan, split_of
from tests.fixtures.generators import FakeGenerator, fake_records


def test_seed_depends_on_what_its_mode_names():
    study = image_seed(0, "study", "s1", "text")
    assert 0 <= study < 2**63
    assert study == image_seed(0, "study", "s1", "text")
    assert len({study, *(image_seed(*of) for of in ((1, "study", "s1", "text"), (0, "study", "s2", "text")))}) == 3
    assert study != image_seed(0, "study", "s1", "other")
    assert image_seed(0, "prompt", "s1", "text") == image_seed(0, "prompt", "s2", "text")
    assert image_seed(0, "prompt", "s1", "text") != image_seed(1, "prompt", "s1", "text")
    assert image_seed(0, "prompt", "s1", "text") != image_seed(0, "prompt", "s1", "other")
    assert image_seed(7, "fixed", "s1", "text") == 7
    # Study and condition cannot run into each other.
    assert image_seed(0, "study", "s1", "2 text") != image_seed(0, "study", "s12", " text")


def test_seeds_are_those_of_earlier_releases():
    """A change here changes every image that was ever built."""
    assert image_seed(0, "study", "g0000001", "No acute process.") == 2482685408176298680
    assert image_seed(0, "prompt", "g0000001", "No acute process.") == 4106959544659234528


def test_equal_conditions_share_an_image_except_in_study_mode():
    records = list(fake_records(20, repeated=8))
    for mode, images in (("study", 20), ("prompt", 13), ("fixed", 13)):
        plan = make_plan(records, FakeGenerator(), seed_mode=mode, allow_cross_split_repeats=True)
        assert len(plan.images) == images and len(plan.rows) == 20
        for row in plan.rows:
            assert plan.images[row.image].condition == row.record.impression
    assert {image.seed for image in plan.images} == {0}


def test_splits_follow_the_subject():
    assert Counter(split_of(f"p{index}") for index in range(5000)).keys() == {"train", "validation", "test"}
    shares = Counter(split_of(f"p{index}", (0.5, 0.3, 0.2)) for index in range(5000))
    assert abs(shares["train"] / 5000 - 0.5) < 0.03 and abs(shares["test"] / 5000 - 0.2) < 0.03
    assert {split_of(f"p{index}", (0, 0, 1)) for index in range(50)} == {"test"}
    plan = make_plan(fake_records(200), FakeGenerator())
    of_subject = {}
    for row in plan.rows:
        assert of_subject.setdefault(row.record.subject_id, row.split) == row.split
    assert set(of_subject.values()) == {"train", "validation", "test"}


def test_a_fixed_split_wins_for_all_studies_of_a_subject():
    records = list(fake_records(4))
    for split in ("train", "validation", "test"):
        fixed = [replace(records[0], split=split), *records[1:]]
        assert assign_splits(fixed)[:2] == [split, split]


def test_a_subject_in_two_splits_is_refused():
    first, second = fake_records(2)
    with pytest.raises(ValueError, match="subject 'p00000' is in splits train and test"):
        assign_splits([replace(first, split="train"), replace(second, split="test")])
    with pytest.raises(ValueError, match="split 'holdout' is not one of"):
        assign_splits([replace(first, split="holdout")])


@pytest.mark.parametrize("shares", [(0.8, 0.1), (0.8, 0.1, 0.2), (1.2, -0.1, -0.1), (float("nan"), 0.5, 0.5)])
def test_bad_shares_are_refused(shares):
    with pytest.raises(ValueError, match="add up to 1"):
        assign_splits(list(fake_records(2)), shares)


def test_repeats_over_splits():
    records = [replace(record, split=split) for record, split in zip(fake_records(6, repeated=4), SPLITS, strict=True)]
    plan = make_plan(records, FakeGenerator(), seed_mode="prompt", allow_cross_split_repeats=True)
    assert cross_split_repeats(plan, range(len(plan.images))) == {"images": 1, "rows": 4}
    with pytest.raises(
        ValueError, match=r"1 images .* \(4 of 6 rows\), for example s00000 \(train\) = s00002 \(test\)"
    ):
        make_plan(records, FakeGenerator(), seed_mode="prompt")
    assert len(make_plan(records, FakeGenerator()).images) == 6


SPLITS = ("train", "train", "test", "test", "validation", "validation")


def test_bad_settings_are_refused():
    records = list(fake_records(2))
    with pytest.raises(ValueError, match="'weekly' is not one of study, prompt, fixed"):
        make_plan(records, FakeGenerator(), seed_mode="weekly")
    with pytest.raises(ValueError, match="comes twice"):
        make_plan(records + records[:1], FakeGenerator())
    for seed in (-1, 2**63):
        with pytest.raises(ValueError, match="not between"):
            make_plan(records, FakeGenerator(), seed=seed)


def test_digest_sees_every_field():
    records = list(fake_records(5))
    digest = make_plan(records, FakeGenerator()).digest()
    assert digest == make_plan(records, FakeGenerator()).digest()
    for change in ({"findings": "x"}, {"view": "AP"}, {"source": "x"}, {"impression": "x y z"}, {"report": "x"}):
        assert make_plan([replace(records[0], **change), *records[1:]], FakeGenerator()).digest() != digest
    assert make_plan(records, FakeGenerator(), seed=1).digest() != digest


def test_without_patients_no_text_crosses_splits_and_other_splits_stay():
    texts = [
        "No acute disease.",
        "NO ACUTE DISEASE",
        "No  acute disease, ___.",
        *(f"Nodule of {k} mm." for k in range(60)),
    ]
    records = [
        replace(record, study_id=f"s{number}", subject_id=f"s{number}", impression=text, subject_known=False)
        for number, (record, text) in enumerate(zip(fake_records(len(texts)), texts, strict=True))
    ]
    splits = assign_splits(records)
    assert set(splits[:3]) == {split_of("s0")}
    assert splits[3:] == [split_of(record.subject_id) for record in records[3:]]
    assert len({split_of(f"s{number}") for number in range(3)}) > 1  # which alone would put the text into two
    assert splits == assign_splits(records[::-1])[::-1]
    known = [replace(record, subject_known=True) for record in records]
    assert assign_splits(known) == [split_of(record.subject_id) for record in known]


def test_a_fixed_split_wins_for_all_studies_with_one_text_where_patients_are_unknown():
    texts = ["No acute disease.", "no acute disease", "NO ACUTE DISEASE ___", "Edema.", "edema", "Mass."]
    fixed = [None, "test", None, "train", "test", None]
    records = [
        replace(record, subject_id=record.study_id, impression=text, split=split, subject_known=False)
        for record, text, split in zip(fake_records(6), texts, fixed, strict=True)
    ]
    splits = assign_splits(records)
    assert splits[:5] == ["test", "test", "test", "train", "test"]  # what the source fixes stays
    more = replace(records[3], study_id="more", subject_id="more", split=None)
    assert assign_splits([*records, more])[-1] == "train"
    known = [replace(record, subject_known=True) for record in records]
    assert assign_splits(known)[0] == split_of(known[0].subject_id)
