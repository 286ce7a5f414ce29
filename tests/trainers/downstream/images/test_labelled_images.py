import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.fixtures.damaged_metadata import damaged, turned
from tests.trainers.downstream.image_tables import SIZES, image_table, write_csv, write_dataset
from trainers.downstream.images.label_budget import budget_rows
from trainers.downstream.images.labelled_images import images_from_csv, images_from_dataset


def change(path, row, column, value):
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table.loc[row, column] = value
    table.to_csv(path, index=False)


def test_csv_and_dataset_give_the_same_images_labels_and_splits(tmp_path):
    from_csv = images_from_csv(write_csv(tmp_path / "csv"))
    from_dataset = images_from_dataset(str(write_dataset(tmp_path / "dataset")))
    table = image_table()
    expected = np.array([[label in labels for label in ("Cardiomegaly", "Edema")] for labels in table["labels"]])
    place = {name: row for row, name in enumerate(from_dataset.ids)}
    order = [place[name] for name in table["name"]]
    for images, rows in ((from_csv, slice(None)), (from_dataset, order)):
        assert images.labels == ("Cardiomegaly", "Edema")
        assert images.counts() == SIZES
        np.testing.assert_array_equal(images.targets[rows], expected)
        assert list(images.splits[rows]) == list(table["split"])
        assert list(images.patients[rows]) == list(table["patient"])
    assert [from_csv.encoded(row) for row in range(5)] == [from_dataset.encoded(order[row]) for row in range(5)]


def test_uncertain_labels_are_masked_or_mapped(tmp_path):
    folder = str(write_dataset(tmp_path / "dataset", uncertain=3))
    masked = images_from_dataset(folder)
    present = images_from_dataset(folder, uncertain="present")
    absent = images_from_dataset(folder, uncertain="absent")
    unsure = np.isnan(masked.targets)
    assert unsure.sum(axis=0).tolist() == [0, 9]
    assert (present.targets[unsure] == 1).all() and (absent.targets[unsure] == 0).all()
    np.testing.assert_array_equal(present.targets[~unsure], masked.targets[~unsure])


def test_missing_images_raise_without_skip_missing(tmp_path):
    path = write_csv(tmp_path)
    change(path, 4, "file", "images/gone.png")
    with pytest.raises(FileNotFoundError, match="1 of 110 images .* images/gone.png.*--skip-missing"):
        images_from_csv(path)
    images = images_from_csv(path, skip_missing=True)
    assert images.missing == ("images/gone.png",) and len(images.ids) == 109


@pytest.mark.parametrize(
    ("row", "column", "value", "message"),
    [
        (0, "split", "holdout", "row 1: split 'holdout'"),
        (1, "file", "images/train000.png", "'images/train000.png' appears twice"),
        (61, "patient_id", "train-0", "'train-0' is in train and validation"),
    ],
)
def test_invalid_rows_raise_with_their_place(tmp_path, row, column, value, message):
    path = write_csv(tmp_path)
    change(path, row, column, value)
    with pytest.raises(ValueError, match=message):
        images_from_csv(path)


def test_invalid_files_raise_with_their_name(tmp_path):
    path = write_csv(tmp_path)
    with pytest.raises(ValueError, match="no column 'path'; it has 'file', 'split', 'patient_id', 'labels'"):
        images_from_csv(path, file_column="path")
    images = images_from_csv(path)
    (tmp_path / "images" / "train001.png").write_bytes(b"\x89PNG\r\n\x1a\n not an image")
    with pytest.raises(ValueError, match="image images/train001.png cannot be decoded"):
        images.open(1)
    latin = tmp_path / "latin.csv"
    latin.write_bytes("file,split,patient_id,labels\nimages/\xe9.png,train,1,\n".encode("latin-1"))
    with pytest.raises(ValueError, match="latin.csv is not UTF-8"):
        images_from_csv(latin)


def test_an_empty_split_is_an_error(tmp_path):
    path = write_csv(tmp_path)
    table = pd.read_csv(path)
    table[table["split"] != "valid"].to_csv(path, index=False)
    with pytest.raises(ValueError, match="no images in its validation split"):
        images_from_csv(path)


def test_labels_with_few_cases_are_excluded_by_name(tmp_path):
    images = images_from_csv(write_csv(tmp_path))
    counts = (images.targets[images.rows("test")] == 1).sum(axis=0)
    assert counts[1] < counts[0]
    kept, left_out = images.with_labels(min_positives=int(counts[0]))
    assert kept.labels == ("Cardiomegaly",) and kept.targets.shape == (110, 1)
    assert left_out == {"Edema": f"{counts[1]} positives in test"}
    with pytest.raises(ValueError, match="no label 'Hernia'; it has Cardiomegaly, Edema"):
        images.with_labels(["Hernia"])
    with pytest.raises(ValueError, match="no label has 50 positives"):
        images.with_labels(min_positives=50)


def test_incomplete_dataset_rows_raise_and_images_stored_beside_it_are_read(tmp_path):
    folder = write_dataset(tmp_path / "dataset")
    whole = images_from_dataset(str(folder))

    path = folder / "data" / "test-0.parquet"
    kept = path.read_bytes()
    table = pq.read_table(path)
    cells = table["image"].to_pylist()
    (tmp_path / "image.png").write_bytes(cells[3]["bytes"])
    cells[3] = {"bytes": None, "path": str(tmp_path / "image.png")}
    column = table.column_names.index("image")
    pq.write_table(table.set_column(column, "image", pa.array(cells, table["image"].type)), path)
    again = images_from_dataset(str(folder))
    row = int(again.rows("test")[3])
    assert again.encoded(row) == whole.encoded(row) and again.split_hash() == whole.split_hash()

    cells[3] = cells[5] = None
    pq.write_table(table.set_column(column, "image", pa.array(cells, table["image"].type)), path)
    with pytest.raises(ValueError, match=f"2 of 110 rows have no image: {again.ids[row]}, {again.ids[row + 2]}"):
        images_from_dataset(str(folder))
    path.write_bytes(kept)

    labels = table["labels"].to_pylist()
    labels[4] = None
    column = table.column_names.index("labels")
    pq.write_table(table.set_column(column, "labels", pa.array(labels, table["labels"].type)), path)
    assert "no label" in images_from_dataset(str(folder), unlabelled="drop").left_out
    for split, new in (("train", "train"), ("validation", "validation"), ("test", "extra")):
        (folder / "data" / f"{split}-0.parquet").rename(folder / "data" / f"{new}-00000-of-00001.parquet")
    with pytest.raises(ValueError, match="split 'extra' is not one of train, training, validation"):
        images_from_dataset(str(folder))
    assert len(images_from_dataset(str(folder), shares=(60, 20, 20)).ids) == 110


def test_the_hashes_identify_splits_and_pixels(tmp_path):
    path = write_csv(tmp_path)
    images = images_from_csv(path)
    splits, pixels = images.split_hash(), images.pixels_hash
    change(path, 0, "labels", "Edema")
    relabelled = images_from_csv(path)
    assert (relabelled.split_hash(), relabelled.pixels_hash) == (splits, pixels)
    (tmp_path / "images" / "train000.png").write_bytes(images.encoded(1))
    assert images_from_csv(path).pixels_hash != pixels
    for row in (0, 1):
        change(path, row, "split", "test")
    assert images_from_csv(path).split_hash() != splits


def test_a_budget_samples_whole_patients_in_proportion(tmp_path):
    images = images_from_csv(write_csv(tmp_path))
    train = images.rows("train")
    np.testing.assert_array_equal(budget_rows(images, 100, seed=3), train)
    draws = [budget_rows(images, 20, seed) for seed in range(8)]
    patients_with_edema = len(set(images.patients[train[images.targets[train, 1] == 1]]))
    for rows in draws:
        assert len(rows) == 12 and set(rows) <= set(train)  # 6 of 30 patients, two images each
        assert all((images.patients[rows] == patient).sum() == 2 for patient in images.patients[rows])
        taken = len(set(images.patients[rows[images.targets[rows, 1] == 1]]))
        assert abs(taken - 0.2 * patients_with_edema) < 1  # Edema is the rarest: its share is exact to rounding
    assert len({tuple(rows) for rows in draws}) > 1
    np.testing.assert_array_equal(budget_rows(images, 20, 0), draws[0])
    with pytest.raises(ValueError, match="budget of 0 %"):
        budget_rows(images, 0, seed=0)


def test_images_without_a_label_are_counted_excluded_or_refused(tmp_path):
    table = image_table()
    without = [f"images/{name}.png" for name in table["name"][table["labels"].map(len) == 0]]
    path, folder = write_csv(tmp_path / "csv"), str(write_dataset(tmp_path / "dataset"))
    absent = images_from_csv(path)
    assert absent.left_out == {} and len(absent.ids) == 110
    (note,) = absent.remarks()
    assert note == (
        f"{len(without)} images have no label and count as negative for all: {', '.join(without[:5])}, ... "
        "(--unlabelled absent)"
    )
    dropped = images_from_csv(path, unlabelled="drop")
    assert dropped.left_out == {"no label": tuple(without)} and (dropped.targets.sum(axis=1) > 0).all()
    assert dropped.ids == [name for name in absent.ids if name not in without]
    assert dropped.remarks() == [f"left out {len(without)} images: no label: {', '.join(without[:5])}, ..."]
    assert dropped.encoded(40) == absent.encoded(absent.ids.index(dropped.ids[40]))
    assert len(images_from_dataset(folder, unlabelled="drop").ids) == 110 - len(without)
    for read in (images_from_csv, lambda path, unlabelled: images_from_dataset(folder, unlabelled=unlabelled)):
        with pytest.raises(ValueError, match=f"{len(without)} of 110 images have no label: .*--unlabelled drop"):
            read(path, unlabelled="error")
    with pytest.raises(ValueError, match="unlabelled 'maybe' is not one of absent, drop, error"):
        images_from_csv(path, unlabelled="maybe")


def leaking(tmp_path):
    """Writes a CSV with train-0 in validation too, and one training image, with its patient, in test too."""
    path = write_csv(tmp_path)
    change(path, 61, "patient_id", "train-0")
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    pd.concat([table, table.iloc[[7]].assign(split="test")]).to_csv(path, index=False)
    return path


def test_a_leaking_split_is_refused_or_its_leaks_are_counted(tmp_path):
    path = leaking(tmp_path)
    with pytest.raises(ValueError, match=r"is in .* and .* \(2 patients cross splits\).*--resplit.*--allow-leaks"):
        images_from_csv(path)
    images = images_from_csv(path, allow_leaks=True)
    assert images.leaks() == {"patients": 2, "images": 1, "test_patients": 1}
    assert images.remarks()[0] == (
        "warning: the split leaks: 2 patients and 1 images are in more than one split, 1 of the test patients in "
        "train too (--allow-leaks)"
    )
    assert images.counts() == SIZES | {"test": SIZES["test"] + 1}
    assert images.with_labels()[0].leaks() == images.leaks()


def test_an_image_in_two_splits_under_different_patients_is_refused(tmp_path):
    path = leaking(tmp_path)
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table["patient_id"] = [f"p{row}" for row in range(len(table))]
    table.to_csv(path, index=False)
    with pytest.raises(ValueError, match="image 'images/train007.png' is in test and train .1 images cross splits"):
        images_from_csv(path)
    assert images_from_csv(path, allow_leaks=True).leaks() == {"patients": 0, "images": 1, "test_patients": 0}


def test_a_set_without_leaks_reports_none(tmp_path):
    images = images_from_csv(write_csv(tmp_path), allow_leaks=True)
    assert not any(images.leaks().values()) and images.remarks() == images_from_csv(tmp_path / "images.csv").remarks()


def test_resplit_fills_an_empty_split(tmp_path):
    path = write_csv(tmp_path)
    change(path, slice(None), "split", "train")
    with pytest.raises(ValueError, match="no images in its validation split.*--resplit"):
        images_from_csv(path)
    images = images_from_csv(path, shares=(3, 1, 1), seed=2)
    assert images.counts() == {"train": 66, "validation": 22, "test": 22} and not any(images.leaks().values())
    assert images.notes[-1] == "patients are re-split, 3 : 1 : 1, seed 2"


def test_images_are_upright_and_damaged_metadata_are_passed_over(tmp_path):
    path = write_csv(tmp_path)
    wide = np.random.default_rng(0).integers(0, 256, (60, 96), dtype=np.uint8)
    (tmp_path / "images" / "train000.png").write_bytes(turned(wide, 6))
    files = damaged(wide)
    for number, content in enumerate(files.values(), start=1):
        (tmp_path / "images" / f"train{number:03d}.png").write_bytes(content)
    images = images_from_csv(path)
    assert images.size(0) == images.open(0).size == (60, 96)
    assert np.asarray(images.open(0)).astype(int).std() > 50
    for row, name in enumerate(files, start=1):
        assert images.size(row) == (96, 60)
        assert np.abs(np.asarray(images.open(row)).astype(int) - wide).mean() < 9, name


@pytest.mark.parametrize("nothing", [None, "nan", "N/A"])
def test_rows_of_a_dataset_without_a_patient_are_named(tmp_path, nothing):
    folder = write_dataset(tmp_path / "dataset")
    path = folder / "data" / "test-0.parquet"
    table = pq.read_table(path)
    patients = [nothing, nothing, *table["subject_id"].to_pylist()[2:]]
    column = table.column_names.index("subject_id")
    pq.write_table(table.set_column(column, "subject_id", pa.array(patients, pa.string())), path)
    with pytest.raises(ValueError, match="2 of 110 rows name no patient: test000, test001"):
        images_from_dataset(str(folder))


def test_a_label_of_a_dataset_that_is_none_is_left_out(tmp_path):
    folder = write_dataset(tmp_path / "dataset")
    for path in (folder / "data").glob("*.parquet"):
        table = pq.read_table(path)
        labels = [{"Edema": row["Edema"], "nan": 1} for row in table["labels"].to_pylist()]
        place = table.column_names.index("labels")
        kind = pa.struct({"Edema": pa.int8(), "nan": pa.int8()})
        table = table.replace_schema_metadata(None)
        pq.write_table(table.set_column(place, "labels", pa.array(labels, kind)), path)
    assert images_from_dataset(str(folder)).labels == ("Edema",)
