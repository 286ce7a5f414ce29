import io
import json
from dataclasses import replace

import datasets
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.trainers.downstream.image_tables import (
    SIZES,
    image_table,
    square_of,
    write_annotated_csv,
    write_annotated_dataset,
    write_csv,
)
from trainers.downstream.images.annotated_images import annotated_from_csv, annotated_from_dataset
from trainers.downstream.images.image_set import patient_splits
from trainers.downstream.images.label_budget import budget_notes, budget_rows


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    return write_annotated_csv(tmp_path_factory.mktemp("csv"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return str(write_annotated_dataset(tmp_path_factory.mktemp("dataset"), unannotated=3))


def change(path, row, column, value):
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table.loc[row, column] = value
    table.to_csv(path, index=False)


def test_a_csv_gives_boxes_in_pixels_and_masks(csv):
    images = annotated_from_csv(csv, annotated_column="looked")
    assert images.counts() == SIZES and images.finding is None and images.left_out == {}
    for row, labels in enumerate(image_table()["labels"]):
        assert {tuple(box) for box in images.boxes(row)} == {square_of(label) for label in labels}
        assert images.boxes(row).dtype == np.float32 and images.boxes(row).shape == (len(labels), 4)
        mask = images.mask(row)
        assert mask.shape == (32, 32) and mask.dtype == bool and mask.sum() == 144 * len(labels)
        assert images.shown[row, 0] == bool(labels)
        for x0, y0, x1, y1 in map(square_of, labels):
            assert mask[y0:y1, x0:x1].all()


def test_a_dataset_equals_the_csv_and_excludes_images_not_annotated(csv, dataset):
    images, table = annotated_from_dataset(dataset), image_table().set_index("name")
    assert images.counts() == {split: count - 3 for split, count in SIZES.items()}
    assert len(images.left_out["not annotated"]) == 9 and "train000" in images.left_out["not annotated"]
    assert images.remarks() == [
        f"left out 9 images: not annotated: {', '.join(images.left_out['not annotated'][:5])}, ..."
    ]
    for row, name in enumerate(images.ids):
        labels = table["labels"][name]
        assert {tuple(box) for box in images.boxes(row)} == {square_of(label) for label in labels}
        assert images.mask(row).sum() == 144 * len(labels)
        np.testing.assert_array_equal(np.asarray(images.open(row)), np.asarray(_png(csv, name)))


def _png(csv, name):
    return Image.open(csv.parent / "images" / f"{name}.png")


def test_not_annotated_differs_from_nothing_found(csv, dataset):
    labels = image_table()["labels"]
    unsure = annotated_from_csv(csv, mask_column=None)  # no column says which images were annotated
    assert len(unsure.ids) == sum(map(bool, labels))
    assert unsure.left_out["not annotated"][0] == f"images/{image_table()['name'][labels.map(len) == 0].iloc[0]}.png"
    negative = annotated_from_csv(csv, mask_column=None, unannotated="negative")
    assert len(negative.ids) == len(labels)
    without = sum(not one for one in labels)
    assert negative.notes[0].startswith(f"{without} images without annotation count as negatives: images/train")
    counted = annotated_from_dataset(dataset, unannotated="negative")
    assert len(counted.ids) == len(labels) and len(counted.boxes(0)) == 0 and not counted.mask(0).any()


def test_images_without_the_selected_findings_are_negatives(csv, dataset):
    labels = image_table()["labels"]
    images = annotated_from_csv(csv, findings=["Edema"], annotated_column="looked", mask_column=None)
    assert images.finding == "Edema" and images.mask is None and len(images.ids) == len(labels)
    assert [len(images.boxes(row)) for row in range(len(labels))] == ["Edema" in one for one in labels]
    chosen = annotated_from_dataset(dataset, ["Edema"])
    rows = {name: row for row, name in enumerate(chosen.ids)}
    for name, one in zip(image_table()["name"], labels, strict=True):
        if name in rows:
            assert chosen.mask(rows[name]).sum() == 144 * ("Edema" in one)
            assert len(chosen.boxes(rows[name])) == ("Edema" in one)
    for read in (
        lambda: annotated_from_csv(csv, findings=["Mass"]),
        lambda: annotated_from_dataset(dataset, ["Mass"]),
    ):
        with pytest.raises(ValueError, match="no annotation of 'Mass'; it has annotations of Cardiomegaly, Edema"):
            read()


def test_only_the_requested_annotations_are_read(csv, dataset, tmp_path):
    assert annotated_from_csv(csv, boxes_column=None).boxes is None
    assert annotated_from_dataset(dataset, kinds=("masks",)).boxes is None
    with pytest.raises(ValueError, match="no column 'boxes' or 'mask'; it has 'file'"):
        annotated_from_csv(write_csv(tmp_path))
    with pytest.raises(ValueError, match="unannotated 'maybe' is not one of drop, negative"):
        annotated_from_csv(csv, unannotated="maybe")


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("no boxes", "row 3: the boxes are not"),
        ('[{"label": "Mass", "x": 0.1}]', "row 3: the boxes are not"),
        ('[{"label": "Mass", "x": 0.5, "y": 0.5, "w": 0.6, "h": 0.1}]', "row 3: box x 0.5.*not inside its image"),
        (
            '[{"label": "Mass", "x": NaN, "y": 0.5, "w": 0.1, "h": 0.1}]',
            "row 3: box x nan.*not made of finite numbers",
        ),
        ('[{"label": "Mass", "x": 0.5, "y": 0.5, "w": 0, "h": 0.1}]', "row 3: box x 0.5.*no area"),
        ('[{"label": "Mass", "x": 50, "y": 60, "w": 10, "h": 10}]', "row 3: box x 50.*from 0 to 1"),
    ],
)
def test_invalid_boxes_raise_with_their_row(tmp_path, cell, message):
    path = write_annotated_csv(tmp_path)
    change(path, 2, "boxes", cell)
    with pytest.raises(ValueError, match=message):
        annotated_from_csv(path)


def test_a_box_outside_by_rounding_is_clipped(tmp_path):
    path = write_annotated_csv(tmp_path)
    change(path, 0, "boxes", json.dumps([{"label": "Mass", "x": 0.5, "y": 0.5, "w": 0.502, "h": 0.1}]))
    assert annotated_from_csv(path, annotated_column="looked").boxes(0)[0].tolist() == pytest.approx(
        [16, 16, 32, 19.2]
    )


def test_invalid_masks_and_images_raise_with_their_name(tmp_path):
    path = write_annotated_csv(tmp_path)
    images = annotated_from_csv(path, boxes_column=None)
    Image.new("L", (16, 16)).save(tmp_path / "masks" / "train001.png")
    (tmp_path / "masks" / "train002.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="mask of image images/train001.png has 16 x 16 pixels, its image 32 x 32"):
        images.mask(1)
    with pytest.raises(ValueError, match="a mask of image images/train002.png cannot be decoded"):
        images.mask(2)
    (tmp_path / "masks" / "train003.png").unlink()
    with pytest.raises(FileNotFoundError, match="1 masks that .* do not exist: masks/train003.png"):
        annotated_from_csv(path, boxes_column=None)
    (tmp_path / "images" / "train004.png").unlink()
    with pytest.raises(FileNotFoundError, match="1 of 110 images"):
        annotated_from_csv(path)


def test_invalid_datasets_raise_with_their_name(tmp_path):
    folder = write_annotated_dataset(tmp_path / "all", unannotated=60)
    with pytest.raises(ValueError, match="none of the 110 images is annotated"):
        annotated_from_dataset(str(folder))
    plain = datasets.load_dataset(str(folder))["train"].remove_columns(["boxes", "finding_masks"])
    (tmp_path / "plain" / "data").mkdir(parents=True)
    plain.to_parquet(tmp_path / "plain" / "data" / "train-0.parquet")
    with pytest.raises(ValueError, match="no column of boxes or masks; it has image, image_id, subject_id"):
        annotated_from_dataset(str(tmp_path / "plain"))
    whole = datasets.load_dataset(str(write_annotated_dataset(tmp_path / "whole")))["train"]
    rows = whole.to_list()
    rows[2]["boxes"] = [{"finding": "Edema", "box": None}]
    (tmp_path / "boxes" / "data").mkdir(parents=True)
    datasets.Dataset.from_list(rows, features=whole.features).to_parquet(
        tmp_path / "boxes" / "data" / "train-0.parquet"
    )
    with pytest.raises(ValueError, match=f"image {rows[2]['image_id']} has a box that is not four numbers"):
        annotated_from_dataset(str(tmp_path / "boxes"), shares=(1, 1, 1))


def test_resplit_keeps_patients_whole_and_follows_the_shares(csv, tmp_path):
    images = annotated_from_csv(csv, annotated_column="looked", shares=(60, 20, 20), split_column="no such column")
    assert images.counts() == {"train": 66, "validation": 22, "test": 22}  # of 55 patients of two images each
    assert "patients are re-split, 60 : 20 : 20, seed 0" in images.notes
    again = annotated_from_csv(csv, annotated_column="looked", shares=(60, 20, 20), seed=1)
    assert again.split_hash() != images.split_hash()
    splits = patient_splits(np.array(["b", "a", "b", "c"]), (1, 1, 1))
    assert splits[0] == splits[2] and sorted(set(splits)) == ["test", "train", "validation"]
    with pytest.raises(ValueError, match="not three positive numbers"):
        patient_splits(np.array(["a"]), (1, 0, 1))


def test_budgets_sample_patients_with_findings_in_proportion_and_note_absent_ones(csv):
    images = annotated_from_csv(csv, findings=["Edema"], mask_column=None, annotated_column="looked")
    train = images.rows("train")
    patients = len(set(images.patients[train[images.shown[train, 0]]]))
    draws = {seed: budget_rows(images, 20, seed) for seed in range(6)}
    for rows in draws.values():
        assert abs(len(set(images.patients[rows[images.shown[rows, 0]]])) - 0.2 * patients) < 1
    assert budget_notes(images, 20, draws) == []
    one = {seed: budget_rows(images, 1, seed) for seed in range(6)}
    notes = budget_notes(images, 1, one)
    assert notes[0] == "1 % of 30 training patients is less than one: one was taken"
    lacking = [seed for seed, rows in one.items() if not images.shown[rows].any()]
    assert lacking and notes[1:] == [f"1 %, seed {seed}: none of 2 images shows Edema" for seed in lacking]


def test_sizes_come_from_the_header(csv):
    images = annotated_from_csv(csv, annotated_column="looked")
    assert images.size(0) == (32, 32)
    file = io.BytesIO()
    Image.new("L", (20, 10)).save(file, "PNG")
    assert replace(images, encoded=lambda row: file.getvalue()).size(5) == (20, 10)
    with pytest.raises(ValueError, match="image images/train000.png cannot be decoded"):
        replace(images, encoded=lambda row: b"no image").size(0)


@pytest.mark.real
def test_real_boxes_and_masks(real_data):
    folder = real_data / "covid_cohen"
    images = annotated_from_csv(folder / "covid_cohen.csv", mask_column="lung_mask")
    assert (
        images.counts() == {"train": 56, "validation": 16, "test": 1} and len(images.left_out["not annotated"]) == 33
    )
    for row in range(0, len(images.ids), 9):
        assert 0.05 < images.mask(row).mean() < 0.8
    boxed = annotated_from_csv(
        real_data / "nih_cxr14" / "nih_cxr14.csv", findings=["Lung Opacity"], annotated_column="rsna_class"
    )
    assert boxed.shown.sum() == 24 and len(boxed.ids) == 217
    row = int(np.flatnonzero(boxed.shown[:, 0])[0])
    width, height = boxed.size(row)
    assert (boxed.boxes(row)[:, 2:] <= [width, height]).all() and (boxed.boxes(row) >= 0).all()
