"""Every data set, from a tree in its official layout to what `load_dataset` gives."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from dataset_builder.findings import CHEXPERT_LABELS
from dataset_builder.radiographs.adapters.chexpert import OFFICIAL_UNCERTAIN, read_chexpert
from dataset_builder.radiographs.adapters.covidx import read_covidx
from dataset_builder.radiographs.adapters.nih import read_boxes, read_nih
from dataset_builder.radiographs.adapters.object_cxr import read_object_cxr
from dataset_builder.radiographs.adapters.rsna import read_rsna
from dataset_builder.radiographs.adapters.siim import read_siim
from dataset_builder.radiographs.prepare import main
from dataset_builder.radiographs.splits import shuffled_parts
from tests.fixtures import radiograph_trees as trees


def prepared(out, *arguments):
    """What the command writes, as `load_dataset` reads it, and its manifest."""
    from datasets import load_dataset

    assert main(["prepare", *map(str, arguments), "--out", str(out)]) == 0
    return load_dataset(str(out), cache_dir=str(out.parent / "cache")), json.loads((out / "manifest.json").read_text())


def rows(dataset) -> dict[str, dict]:
    return {row["image_id"]: row for part in dataset.values() for row in part}


def test_chexpert(tmp_path):
    import datasets

    root = trees.write_chexpert(tmp_path / "chexpert", patients=40)
    dataset, manifest = prepared(tmp_path / "out", "chexpert", "--root", root)
    found = rows(dataset)
    assert len(found) == 43 and all(name.endswith("view1_frontal") for name in found)
    assert {row["subject_id"] for row in dataset["test"]} == {"patient64541", "patient64542", "patient64543"}
    assert manifest["funnel"] == {"rows": 86, "frontal": 43, "in_splits": 43, "written": 43}
    row = found["patient00001/study1/view1_frontal"]
    assert row["view"] == "AP" and row["subject_id"] == "patient00001"
    for number, name in enumerate(CHEXPERT_LABELS):  # 1, 0, -1, empty in turn
        assert row["labels"][name] == [1, 0, OFFICIAL_UNCERTAIN.get(name, -1), 0][number % 4]
    path = root / "train/patient00001/study1/view1_frontal.jpg"
    stored = rows(dataset.cast_column("image", datasets.Image(decode=False)))
    assert stored[row["image_id"]]["image"]["bytes"] == path.read_bytes()  # JPEG bytes as they are


def test_chexpert_in_the_batches_of_the_full_download(tmp_path):
    root = trees.write_chexpert(tmp_path / "small", patients=7, prefix="CheXpert-v1.0")
    small = read_chexpert(root)
    batches = read_chexpert(trees.as_batches(root))
    assert [image.image_id for image in batches.images] == [image.image_id for image in small.images]
    assert [image.labels for image in batches.images] == [image.labels for image in small.images]
    assert not any(image.path.is_file() for image in small.images) and all(
        image.path.is_file() for image in batches.images
    )


@pytest.mark.parametrize(
    ("rule", "uncertain", "unmentioned"), [("keep", -1, None), ("absent", 0, 0), ("present", 1, 0)]
)
def test_rules_for_uncertain_labels_of_chexpert(rule, uncertain, unmentioned, tmp_path):
    images = read_chexpert(trees.write_chexpert(tmp_path, patients=1), uncertain=rule, any_view=True)
    assert len(images.images) == 8
    assert images.images[0].labels == tuple([1, 0, uncertain, unmentioned][k % 4] for k in range(14))


def test_the_official_rule_is_the_published_table():
    assert OFFICIAL_UNCERTAIN == {
        "Atelectasis": 1,
        "Edema": 1,
        "Pleural Effusion": 1,
        "Cardiomegaly": 0,
        "Consolidation": 0,
    }


def test_rsna(tmp_path):
    dataset, manifest = prepared(tmp_path / "out", "rsna", "--root", trees.write_rsna(tmp_path / "rsna", 40))
    found = rows(dataset)
    assert len(found) == 40
    row = found["0000-a0"]
    assert row["labels"] == {"Pneumonia": 1} and row["rsna_class"] == "Lung Opacity" and row["view"] == "AP"
    assert [box["box"] for box in row["boxes"]] == [[5, 8, 15, 28], [28, 10, 40, 22]]
    mask = np.array(row["finding_masks"][0]["mask"])
    assert len(row["finding_masks"]) == 1 and mask.shape == (40, 48)
    assert (mask > 0).sum() == 10 * 20 + 12 * 12 and mask[10, 30] == 255
    assert np.abs(np.array(row["image"]).astype(int) - trees.draw_image(0)).mean() < 3
    other = found["0002-a2"]
    assert other["labels"] == {"Pneumonia": 0} and other["boxes"] == other["finding_masks"] == []
    assert other["rsna_class"] == "No Lung Opacity / Not Normal"
    assert manifest["boxes"] == {"Pneumonia": 28} and manifest["funnel"]["rows"] == 54


def test_covidx_9a_and_6(tmp_path):
    root = trees.write_covidx(tmp_path / "covidx")
    dataset, manifest = prepared(tmp_path / "out", "covidx", "--root", root)
    found = rows(dataset)
    assert found["train/train image-1.png"]["labels"] == {"Normal": 0, "Pneumonia": 1, "COVID-19": 0}
    assert found["test/test-0.png"]["subject_id"] == "cohen/3" and found["train/train-3.png"]["subject_id"] == "rsna/3"
    # Patient 3 of `cohen` is in the official test list, so two images leave the training list.
    assert manifest["left_out"]["patient_in_test"] == {"count": 2, "first": ["train/train-0.png", "train/train-4.png"]}
    assert len(found) == 24 and len(dataset["test"]) == 6
    images = read_covidx(trees.write_covidx(tmp_path / "six", "6"), "6")
    assert images.labels == ("COVID-19",) and [image.labels for image in images.images[:2]] == [(0,), (1,)]
    assert read_covidx(trees.write_covidx(tmp_path / "five", "5"), "5").labels == ("Normal", "Pneumonia", "COVID-19")
    with (root / "train_COVIDx9A.txt").open("a") as file:
        file.write("1 a.png positive cohen\n")
    with pytest.raises(ValueError, match="line 21: does not read .* with a label of normal, pneumonia, COVID-19$"):
        read_covidx(root)
    (root / "train_COVIDx9A.txt").write_text("1 a.png covid cohen\n")
    with pytest.raises(ValueError, match="a label of normal, pneumonia, COVID-19 or negative, positive"):
        read_covidx(root)


def test_covidx_spells_a_source_in_two_ways_and_may_repeat_a_line(tmp_path):
    root = trees.write_covidx(tmp_path)
    path = root / "train_COVIDx9A.txt"
    lines = path.read_text().splitlines()
    lines[5] = "t5 train-5.png COVID-19 rnsa"  # a patient of the test list, there of `rsna`
    path.write_text("\n".join([*lines, lines[7]]) + "\n")
    images = read_covidx(root)
    subjects = {image.image_id: image.subject_id for image in images.images}
    assert subjects["train/train-5.png"] == subjects["test/test-5.png"] == "rsna/t5"
    assert images.funnel == {"lines": 27, "images": 26} and images.left_out == {
        "repeated_lines": ["train/train-7.png"]
    }
    official = images.official["official"]().images
    train, _ = shuffled_parts(21, 0, train=0.8)
    drawn = dict.fromkeys((lines + [lines[7]])[k].rsplit(" ", 2)[0].split(" ", 1)[1] for k in train)
    assert [image.image_id for image in official["train"]] == [f"train/{name}" for name in drawn]


@pytest.mark.parametrize(("marker", "image_format"), [(" -1", "dcm"), ("-1", "png")])
def test_siim(marker, image_format, tmp_path):
    root = trees.write_siim(tmp_path / "siim", 24, marker, image_format)
    dataset, manifest = prepared(tmp_path / "out", "siim", "--root", root)
    found = rows(dataset)
    assert len(found) == 24 and manifest["funnel"]["rows"] == 30
    expected = trees.siim_masks(2)
    row = found["1.2.276.0.0"]  # two rows, one mask, at the image's own size
    assert row["labels"] == {"Pneumothorax": 1} and len(row["finding_masks"]) == 1
    mask = np.array(row["finding_masks"][0]["mask"]) > 0
    assert mask.shape == (40, 48)
    assert abs(mask.mean() - (expected[0] | expected[1]).mean()) < 0.005
    assert mask[int(160 / 1024 * 40), int(650 / 1024 * 48)] and mask[int(460 / 1024 * 40), int(650 / 1024 * 48)]
    assert found["1.2.276.0.1"]["labels"] == {"Pneumothorax": 0} and found["1.2.276.0.1"]["finding_masks"] == []
    patients = {row["subject_id"] for row in found.values()}
    assert len(patients) == (12 if image_format == "dcm" else 24) and not patients & {"p0", "p1"}
    assert (row["subject_id"] == found["1.2.276.0.1"]["subject_id"]) == (image_format == "dcm")


def test_object_cxr(tmp_path):
    dataset, _ = prepared(tmp_path / "out", "object-cxr", "--root", trees.write_object_cxr(tmp_path / "object"))
    found = rows(dataset)
    assert len(dataset["test"]) == 5 and len(found) == 25
    assert found["train/00000"]["boxes"] == [{"finding": "Foreign Object", "box": [10, 5, 30, 20]}]
    assert found["train/00002"]["boxes"][0]["box"] == [5, 5, 25, 35]  # bounds of the polygon
    assert found["train/00003"]["boxes"] == [] and found["train/00003"]["labels"] == {"Foreign Object": 0}
    several = found["train/00004"]
    assert len(several["boxes"]) == 3 and len(several["finding_masks"]) == 1
    mask = np.array(several["finding_masks"][0]["mask"]) > 0
    assert mask[5, 5] and mask[25, 30] and not mask[28, 38]  # rectangle; ellipse; a corner outside the ellipse


def test_nih(tmp_path):
    dataset, manifest = prepared(tmp_path / "out", "nih", "--root", trees.write_nih(tmp_path / "nih"))
    found = rows(dataset)
    assert len(found) == 32 and {row["subject_id"] for row in dataset["test"]} == {"14", "15", "16"}
    assert len(found["00000001_000"]["labels"]) == 15
    assert [name for name, value in found["00000001_000"]["labels"].items() if value] == ["Infiltration", "Mass"]
    assert found["00000001_000"]["boxes"] == [
        {"finding": "Infiltration", "box": [256.5 / 16, 512.25 / 16, 384.5 / 16, 576.25 / 16]}
    ]
    assert found["00000002_000"]["boxes"][0]["box"] == [0, 0, 64, 64] and found["00000003_000"]["boxes"] is None
    assert manifest["boxes"] == {"Infiltration": 1, "Mass": 1}
    official, _ = prepared(tmp_path / "official", "nih", "--root", tmp_path / "nih", "--split", "official")
    assert set(official) == {"train", "test"} and len(official["train"]) == 26


def test_official_splits_say_how_they_leak(tmp_path, capsys):
    root = trees.write_siim(tmp_path / "siim", 24)
    dataset, manifest = prepared(tmp_path / "out", "siim", "--root", root, "--split", "official")
    assert sum(map(len, dataset.values())) == 24 + manifest["crossing"]["images"]
    assert manifest["crossing"]["patients"] > 0
    output = capsys.readouterr().out
    assert "goes by mask row" in output and "official split leaks" in output
    assert "not disjoint" in (tmp_path / "out" / "README.md").read_text()


def test_images_can_be_shrunk_with_boxes_and_masks(tmp_path):
    root = trees.write_object_cxr(tmp_path / "object")
    dataset, _ = prepared(tmp_path / "out", "object-cxr", "--root", root, "--image-size", 24, "--image-format", "jpeg")
    row = rows(dataset)["train/00000"]
    assert row["image"].size == (24, 20) and row["original_size"] == [48, 40] and row["image"].mode == "L"
    assert row["boxes"][0]["box"] == [5, 2.5, 15, 10]
    mask = np.array(row["finding_masks"][0]["mask"]) > 0
    assert mask.shape == (20, 24) and mask[3:10, 5:15].all() and mask.sum() <= 80


@pytest.mark.parametrize("read", [read_chexpert, read_rsna, read_covidx, read_siim, read_object_cxr, read_nih])
def test_a_folder_of_something_else_is_told(read, tmp_path):
    with pytest.raises(FileNotFoundError, match="name the folder of the unpacked download"):
        read(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        read(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["../../secret.png", "/etc/secret.png", "a/../../../secret.png"])
def test_tables_cannot_name_files_outside_their_folder(name, tmp_path):
    root = trees.write_object_cxr(tmp_path / "object")
    (root / "dev.csv").write_text(f"image_name,annotation\n{name},\n")
    with pytest.raises(ValueError, match="dev.csv, row 1: .*secret.png' leads out of"):
        read_object_cxr(root)
    root = trees.write_covidx(tmp_path / "covidx")
    (root / "test_COVIDx9A.txt").write_text(f"1 {name} normal cohen\n")
    with pytest.raises(ValueError, match="COVIDx9A.txt, line 1: .*leads out of"):
        read_covidx(root)
    root = trees.write_chexpert(tmp_path / "chexpert", patients=1)
    text = (root / "valid.csv").read_text()
    (root / "valid.csv").write_text(text.replace("valid/patient64541/study1", "valid/../.."))
    with pytest.raises(ValueError, match="valid.csv, row 1: .*leads out of"):
        read_chexpert(root)


def test_broken_lists_and_tables_are_named(tmp_path):
    root = trees.write_nih(tmp_path / "nih")
    (root / "BBox_List_2017.csv").write_text('Image Index,Finding Label,Bbox [x,y,w,h],,,\n"a.png,Mass,0,0,1,1\n')
    with pytest.raises(ValueError, match="BBox_List_2017.csv, line 2 is not CSV"):
        read_nih(root)
    (root / "test_list.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="test_list.txt is not UTF-8"):
        read_nih(root)
    root = trees.write_covidx(tmp_path / "covidx")
    (root / "test_COVIDx9A.txt").write_bytes("1 \xe9.png normal cohen\n".encode("latin-1"))
    with pytest.raises(ValueError, match="test_COVIDx9A.txt is not UTF-8"):
        read_covidx(root)


@pytest.mark.real
def test_real_nih_images_have_the_boxes_of_the_official_list(real_data, tmp_path):
    """The boxes of the CSV, told as shares, against those of `BBox_List_2017.csv`, told in pixels of 1024."""
    options = ["--boxes-column", "boxes", "--view-column", "view"]
    dataset, manifest = prepared(tmp_path / "out", "folder-csv", "--root", real_data / "nih_cxr14", *options)
    found = rows({split: part.filter(lambda row: bool(row["boxes"])) for split, part in dataset.items()})
    assert manifest["funnel"]["written"] == 588 and len(found) == 37
    boxes = read_boxes(real_data / "annotations" / "nih_BBox_List_2017.csv.gz")
    assert sum(map(len, boxes.values())) == 984
    compared = 0
    for name, row in found.items():
        for shape in boxes.get(name.removeprefix("images/").replace(".jpg", ".png"), ()):
            ours = [
                b["box"] for b in row["boxes"] if b["finding"] == shape.finding.replace("Infiltration", "Infiltrate")
            ]
            theirs = np.array(shape.corners) / 2  # images of 512
            if ours:
                assert min(np.abs(np.subtract(box, theirs)).max() for box in ours) < 0.02
                compared += 1
    assert compared >= 12


@pytest.mark.real
def test_real_lung_masks_lie_on_their_images(real_data, tmp_path):
    options = ["--mask-column", "lung_mask", "--image-size", "256"]
    dataset, manifest = prepared(tmp_path / "out", "folder-csv", "--root", real_data / "covid_cohen", *options)
    assert manifest["masks"] == {"lung_mask": 73}
    assert any("1 images have a mask without a pixel: images/covid-19" in warning for warning in manifest["warnings"])
    darker = 0
    for row in rows(dataset).values():
        if row["finding_masks"]:
            mask = np.array(row["finding_masks"][0]["mask"]) > 0
            assert mask.shape == row["image"].size[::-1]
            if not mask.any():
                continue
            assert 0.05 < mask.mean() < 0.7
            pixels = np.array(row["image"])
            darker += pixels[mask].mean() < pixels[~mask].mean()
    assert darker >= 45


def test_images_of_more_than_eight_bits_and_turned_ones_are_encoded_anew(tmp_path):
    from dataset_builder.radiographs.image_files import read_image

    deep = (trees.draw_image().astype(np.uint16) + 100) * 200
    Image.fromarray(deep).save(tmp_path / "deep.png")
    stored = Image.open(io.BytesIO(read_image(tmp_path / "deep.png").encoded))
    assert stored.mode == "L"
    expected = (deep - float(deep.min())) / (deep.max() - deep.min()) * 255
    assert np.abs(np.array(stored) - expected).max() <= 0.51
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(trees.draw_image()).save(tmp_path / "turned.png", exif=exif)
    turned = read_image(tmp_path / "turned.png")
    assert turned.size == turned.original == (40, 48)
    assert np.array_equal(np.array(Image.open(io.BytesIO(turned.encoded))), np.rot90(trees.draw_image(), -1))


@pytest.mark.parametrize("nothing", ["", "nan", "None", "N/A"])
def test_spellings_of_nothing_in_downloads(nothing, tmp_path):
    root = trees.write_siim(tmp_path / "siim", 4)
    table = root / "train-rle.csv"
    table.write_text(
        "\n".join(
            f"{line.split(',')[0]},{nothing}" if n else line for n, line in enumerate(table.read_text().splitlines())
        )
    )
    with pytest.raises(ValueError, match="row 1: names no mask; write -1"):
        read_siim(root)
    root = trees.write_rsna(tmp_path / "rsna")
    table = root / "stage_2_detailed_class_info.csv"
    table.write_text(table.read_text().replace(",Normal", f",{nothing}"))
    assert {image.extra[0] for image in read_rsna(root).images} == {None, *trees.RSNA_CLASSES} - {"Normal"}
    root = trees.write_nih(tmp_path / "nih")
    table = root / "Data_Entry_2017.csv"
    table.write_text(table.read_text().replace(",AP,", f",{nothing},").replace(",PA,", f",{nothing},"))
    assert {image.view for image in read_nih(root).images} == {None}
