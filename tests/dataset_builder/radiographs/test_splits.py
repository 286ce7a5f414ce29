"""Splits by patient, table and lists; the official draws against scikit-learn and pandas, their leaks counted."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dataset_builder.findings import CHEXPERT_LABELS
from dataset_builder.radiographs.adapters.chexpert import TASKS, _Row, five_by_200, official_chexpert
from dataset_builder.radiographs.adapters.rsna import official_rsna
from dataset_builder.radiographs.adapters.siim import GRID, LABEL, official_siim
from dataset_builder.radiographs.records import RadiographRecord
from dataset_builder.radiographs.regions import RunLengths
from dataset_builder.radiographs.splits import (
    crossing_images,
    crossing_patients,
    shuffled_parts,
    split_by_lists,
    split_by_patient,
    split_by_table,
    split_hash,
    write_lists,
)


def draw_images(count: int = 300, a_patient: int = 3, **fields) -> list[RadiographRecord]:
    return [RadiographRecord(f"i{k}", f"p{k // a_patient}", Path(f"{k}.png"), (1,), **fields) for k in range(count)]


def ids(splits: dict[str, list[RadiographRecord]]) -> dict[str, list[str]]:
    return {split: [image.image_id for image in part] for split, part in splits.items()}


def test_patients_are_split_whole_by_seed_and_id_alone():
    splits, left_out = split_by_patient(draw_images(3000))
    assert not crossing_patients(splits) and not left_out
    shares = {split: len(part) / 3000 for split, part in splits.items()}
    assert abs(shares["train"] - 0.7) < 0.05 and abs(shares["test"] - 0.15) < 0.04
    backwards, _ = split_by_patient(draw_images(3000)[::-1])
    assert {split: sorted(part) for split, part in ids(backwards).items()} == {
        split: sorted(part) for split, part in ids(splits).items()
    }
    assert ids(split_by_patient(draw_images(3000), seed=1)[0]) != ids(splits)
    fewer, _ = split_by_patient(draw_images(1500))
    for split, part in ids(fewer).items():
        assert set(part) <= set(ids(splits)[split])  # nobody moves when others are there


def test_a_fixed_test_set_stays_and_its_patients_leave_the_rest():
    given = draw_images(300)
    given += [RadiographRecord(f"t{k}", f"p{k}", Path("t.png"), (1,), split="test") for k in range(5)]
    splits, left_out = split_by_patient(given)
    assert ids(splits)["test"] == [f"t{k}" for k in range(5)]
    assert left_out == {"patient_in_test": [f"i{k}" for k in range(15)]}
    assert not crossing_patients(splits)
    assert abs(len(splits["train"]) / 285 - 0.7 / 0.85) < 0.08


@pytest.mark.parametrize(
    ("given", "shares", "message"),
    [
        (draw_images(), (0.5, 0.5, 0.5), "do not"),
        (draw_images(3), (0.7, 0.15, 0.15), "no patient falls into"),
        (draw_images(3, split="test"), (0.0, 0.0, 1.0), "nothing else is left"),
    ],
)
def test_splits_that_cannot_be_made(given, shares, message):
    with pytest.raises(ValueError, match=message.replace("do not", "are not three numbers")):
        split_by_patient(given, shares=shares)


def test_a_patient_in_two_splits_of_the_table_is_named():
    given = [RadiographRecord(f"i{k}", f"p{k % 3}", Path("a"), (1,), split=("train", "test")[k > 3]) for k in range(6)]
    with pytest.raises(ValueError, match="2 patients are in more than one split, for example 'p1' in train and test"):
        split_by_table(given)


def test_lists_are_saved_with_count_and_hash_and_read_back(tmp_path):
    splits, _ = split_by_patient(draw_images(60))
    entries = write_lists(tmp_path / "splits", ids(splits))
    assert {split: entry["count"] for split, entry in entries.items()} == {s: len(part) for s, part in splits.items()}
    again, left_out = split_by_lists(draw_images(63), tmp_path / "splits")
    assert ids(again) == ids(splits) and left_out == {"in_no_list": ["i60", "i61", "i62"]}
    assert split_hash(ids(again)) == split_hash(ids(splits)) != split_hash({"train": ["i0"]})
    with pytest.raises(ValueError, match="names .* images that the data set lacks"):
        split_by_lists(draw_images(50), tmp_path / "splits")
    (tmp_path / "splits" / "test.txt").write_text("i0\n")
    (tmp_path / "splits" / "train.txt").write_text("i1\n")
    with pytest.raises(ValueError, match="1 patients are in more than one split"):
        split_by_lists(draw_images(60), tmp_path / "splits")
    with pytest.raises(FileNotFoundError, match="holds no train.txt"):
        split_by_lists(draw_images(), tmp_path)


def test_the_hash_is_the_one_a_probe_names():
    from trainers.downstream.images.labelled_images import LabelledImages

    splits = {"train": ["a", "b"], "validation": ["c"], "test": ["d"]}
    images = LabelledImages(
        name="x",
        ids=["d", "a", "c", "b"],
        encoded=lambda row: b"",
        labels=("l",),
        targets=np.zeros((4, 1)),
        patients=np.array(["1", "2", "3", "4"]),
        splits=np.array(["test", "train", "validation", "train"]),
    )
    assert split_hash(splits)[:12] == images.split_hash()


@pytest.mark.parametrize("count", [20, 101, 26684])
@pytest.mark.parametrize("size", [{"test": 0.3}, {"train": 0.8}, {"test": 0.5}, {"test": 0.1}, {"test": 11}])
def test_draws_are_those_of_scikit_learn(count, size):
    split = pytest.importorskip("sklearn.model_selection").train_test_split
    first, second = split(np.arange(count), random_state=0, **{f"{name}_size": value for name, value in size.items()})
    ours = shuffled_parts(count, 0, **size)
    assert np.array_equal(ours[0], first) and np.array_equal(ours[1], second)


def test_rsna_has_the_counts_of_the_published_lists():
    given = draw_images(26684, 1)
    counts = {split: len(part) for split, part in official_rsna(given).images.items()}
    assert counts == {"train": 18678, "validation": 4003, "test": 4003}
    counts = {split: len(part) for split, part in official_rsna(given, 2 * 5337).images.items()}
    assert counts == {"train": 16010, "validation": 5337, "test": 5337}


def chexpert_rows(count: int) -> tuple[list[_Row], pd.DataFrame]:
    """Rows of made-up labels, most images with one task's label alone, and the frame that pandas would read."""
    rng = np.random.default_rng(0)
    rows, table = [], []
    for k in range(count):
        raw = dict.fromkeys(CHEXPERT_LABELS)
        raw[TASKS[k % 5]] = [1, 1, 1, -1][int(rng.integers(4))]
        if rng.random() < 0.2:
            raw["Fracture"] = int(rng.integers(-1, 2))
        frontal = bool(rng.random() < 0.8)
        values = tuple(raw[name] for name in CHEXPERT_LABELS)
        rows.append(_Row(RadiographRecord(f"i{k}", f"p{k // 2}", Path(f"{k}.jpg"), values), frontal, values))
        table.append([f"i{k}", "Frontal" if frontal else "Lateral", *values])
    return rows, pd.DataFrame(table, columns=["Path", "Frontal/Lateral", *CHEXPERT_LABELS])


def test_chexpert_official_lists_leak_as_the_published_lines_do():
    """The steps that the method's description tells, done in pandas on the same rows."""
    rows, table = chexpert_rows(2000)
    frontal = table.fillna(0)[table["Frontal/Lateral"] == "Frontal"]
    others = [name for name in CHEXPERT_LABELS if name != "No Finding"]
    queries = []
    for task in TASKS:
        alone = (frontal[others] == [int(name == task) for name in others]).all(axis=1)
        queries.append(frontal[alone].sample(n=20, random_state=0))
    queries = pd.concat(queries)
    assert [f"i{k}" for k in five_by_200(rows, 20)] == list(queries["Path"])

    rest = table[~table["Path"].isin(queries["Path"])]
    np.random.seed(0)
    positions = np.random.choice(len(rest), size=300, replace=False)
    validation, train = rest.iloc[positions], rest.drop(positions, errors="ignore")
    ours = official_chexpert(rows, [], False, 20, 300)
    for split, frame in (("validation", validation), ("train", train)):
        assert ids(ours.images)[split] == list(frame[frame["Frontal/Lateral"] == "Frontal"]["Path"])
    leaked = set(ids(ours.images)["validation"]) & set(ids(ours.images)["train"])
    assert len(leaked) > 150 and f"{len(leaked)} of {len(ours.images['validation'])}" in ours.warnings[0]
    assert len(crossing_images(ours.images)) == len(leaked)


@pytest.mark.slow
def test_chexpert_leaks_4890_of_5000_validation_rows_at_full_size():
    # As many rows as CheXpert has, every one frontal, the 1,000 of 5x200 anywhere among them.
    rng = np.random.default_rng(0)
    order = rng.permutation(223_414)
    blank = (None,) * 14
    one = {task: tuple(1 if name == task else None for name in CHEXPERT_LABELS) for task in TASKS}
    labels = {int(row): one[TASKS[k % 5]] for k, row in enumerate(order[:1000])}
    image = draw_images(1)[0]
    rows = [
        _Row(RadiographRecord(f"i{k}", f"p{k}", image.path, blank), True, labels.get(k, blank)) for k in range(223_414)
    ]
    ours = official_chexpert(rows, [], False, 200, 5000)
    assert 4850 < len(crossing_images(ours.images)) < 4930


def test_siim_rows_of_one_image_land_in_two_splits_with_parts_of_its_mask():
    rows = [(f"i{k}", f"{10 * row} 5") for k in range(60) for row in range(2)] + [(f"n{k}", "-1") for k in range(60)]
    given = [
        RadiographRecord(f"i{k}", f"p{k}", Path("a"), (1,), masks=(RunLengths(LABEL, ("0 5", "10 5"), GRID),))
        for k in range(60)
    ]
    given += [RadiographRecord(f"n{k}", f"q{k}", Path("a"), (0,)) for k in range(60)]
    official = official_siim(rows, given)
    crossing = crossing_images(official.images)
    assert (
        10 < len(set(crossing)) and f"{len(set(crossing))} images are in more than one split" in official.warnings[0]
    )
    parts = [
        image.masks[0].runs for part in official.images.values() for image in part if image.image_id == crossing[0]
    ]
    assert sorted(parts) == [("0 5",), ("10 5",)]
    assert sum(len(image.masks[0].runs) for part in official.images.values() for image in part if image.masks) == 120
