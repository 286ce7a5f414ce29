"""The command: what it writes, that it is the same each time, and what becomes of bad input."""

import json
import os
import re
import struct
import time
import zlib

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from dataset_builder.radiographs import write
from dataset_builder.radiographs.dicom import DicomSupportMissing
from dataset_builder.radiographs.image_files import read_image
from dataset_builder.radiographs.prepare import main
from medsyn.files import only_writer
from medsyn.images import decode
from tests.fixtures import radiograph_trees as trees
from tests.fixtures.damaged_metadata import damaged, tiff

HEADER = ["file", "split", "patient_id", "labels", "boxes", "mask"]


def write_folder(root, count: int = 12, **cells) -> str:
    """A folder with a CSV of `count` images; `cells` names a column and its value in row 0."""
    rows = []
    for number in range(count):
        trees.write_image(root / f"{number}.png", trees.draw_image(number))
        labels = ("Edema|Mass", "Mass", "No Finding")[number % 3]
        rows.append([f"{number}.png", ("train", "valid", "test")[number // 4 % 3], f"p{number // 2}", labels, "", ""])
    for column, value in cells.items():
        rows[0][HEADER.index(column)] = value
    trees.write_csv(root / "images.csv", HEADER, rows)
    return str(root)


def run(root, out, *arguments) -> int:
    return main(["prepare", "folder-csv", "--root", str(root), "--out", str(out), *map(str, arguments)])


def failure(capsys, *arguments) -> str:
    assert run(*arguments) == 1
    output = capsys.readouterr()
    assert output.err.startswith("medsyn data: ") and output.err.count("\n") == 1 and not output.out
    return output.err


def test_the_folder_holds_data_lists_manifest_and_readme(tmp_path, capsys):
    root = write_folder(tmp_path / "images")
    assert run(root, tmp_path / "out") == 0
    out = tmp_path / "out"
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert files == [
        "README.md",
        *(f"data/{split}-00000-of-00001.parquet" for split in ("test", "train", "validation")),
        "manifest.json",
        *(f"splits/{split}.txt" for split in ("test", "train", "validation")),
    ]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["splits"]["train"]["num_examples"] == 4 and manifest["splits"]["train"]["num_subjects"] == 2
    assert manifest["labels"]["Mass"]["test"] == {"present": 2, "absent": 2}
    assert (out / "splits" / "validation.txt").read_text().split() == ["4.png", "5.png", "6.png", "7.png"]
    assert str(tmp_path) not in (out / "manifest.json").read_text() + (out / "README.md").read_text()
    assert "train 4, validation 4, test 4" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_probe_reads_it(tmp_path):
    from trainers.downstream.images.labelled_images import images_from_dataset

    root = write_folder(tmp_path / "images")
    assert run(root, tmp_path / "out") == 0
    images = images_from_dataset(str(tmp_path / "out"))
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert images.labels == ("Edema", "Mass", "No Finding") and images.counts() == dict.fromkeys(images.counts(), 4)
    assert images.split_hash() == manifest["split_sha256"][:12]
    assert images.encoded(0) == (tmp_path / "images" / images.ids[0]).read_bytes()
    assert images.targets[images.ids.index("0.png")].tolist() == [1, 1, 0]


def test_equal_input_gives_equal_bytes_with_any_number_of_processes(tmp_path):
    root = write_folder(tmp_path / "images", 24)
    assert run(root, tmp_path / "one", "--split", "patient", "--image-size", 20) == 0
    assert run(root, tmp_path / "two", "--split", "patient", "--image-size", 20, "--workers", 2) == 0
    for path in sorted((tmp_path / "one").rglob("*.*")):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes(), path


def test_saved_lists_make_the_same_split_again(tmp_path):
    root = write_folder(tmp_path / "images", 24)
    assert run(root, tmp_path / "one", "--split", "patient", "--seed", 3) == 0
    table = tmp_path / "images" / "images.csv"
    table.write_text(table.read_text().replace("file,split,", "file,holdout,"))  # no split column is needed for this
    assert run(root, tmp_path / "two", "--split-lists", tmp_path / "one" / "splits") == 0
    one, two = (json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("one", "two"))
    assert one["split_sha256"] == two["split_sha256"] and two["settings"]["split"] == "lists"


def test_memory_is_bounded_by_row_groups_and_shards_by_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(write, "GROUP_BYTES", 6000)
    monkeypatch.setattr(write, "SHARD_BYTES", 12000)
    largest = []
    monkeypatch.setattr(write, "_row_bytes", lambda row: largest.append(len(row["image"]["bytes"])) or largest[-1])
    assert run(write_folder(tmp_path / "images", 36), tmp_path / "out") == 0
    shards = sorted((tmp_path / "out" / "data").glob("train-*.parquet"))
    assert len(shards) > 1 and shards[0].name == f"train-00000-of-{len(shards):05d}.parquet"
    groups = [
        pq.ParquetFile(shard).metadata.row_group(k).num_rows
        for shard in shards
        for k in range(pq.ParquetFile(shard).num_row_groups)
    ]
    assert max(groups) <= 6000 // min(largest) + 1 < 12 and sum(groups) == 12


def test_out_that_is_in_use_is_refused(tmp_path, capsys):
    root = write_folder(tmp_path / "images")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    assert "out is not empty" in failure(capsys, root, tmp_path / "out")
    assert (tmp_path / "out" / "mine.txt").read_text() == "keep"


def test_missing_images_are_counted_and_named_or_left_out(tmp_path, capsys):
    root = write_folder(tmp_path / "images", 24)
    for number in range(7):
        os.remove(tmp_path / "images" / f"{number}.png")
    output = failure(capsys, root, tmp_path / "out")
    assert (
        "7 of the 24 images" in output
        and "0.png, 1.png, 2.png, 3.png, 4.png, ..." in output
        and "--skip-missing" in output
    )
    assert not (tmp_path / "out").exists()
    assert run(root, tmp_path / "out", "--skip-missing") == 0
    assert "left out 7 (missing image): 0.png" in capsys.readouterr().out
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["funnel"] == {"rows": 24, "in_splits": 24, "written": 17}
    assert (tmp_path / "out" / "left_out" / "missing_image.txt").read_text().split() == [f"{k}.png" for k in range(7)]


def broken_files(folder) -> dict[str, str]:
    """Files that cannot be decoded, with what is told of each."""
    whole = (folder / "0.png").read_bytes()
    (folder / "0.png").write_bytes(whole[: len(whole) // 2])
    (folder / "1.png").write_text("not an image")
    size = struct.pack(">4sIIBBBBB", b"IHDR", 30000, 30000, 8, 0, 0, 0, 0)
    header = struct.pack(">I", 13) + size + struct.pack(">I", zlib.crc32(size))
    (folder / "2.png").write_bytes(whole[:8] + header + whole[33:])
    (folder / "3.png").write_bytes(b"")
    (folder / "4.png").write_bytes(whole[:60] + bytes(40) + whole[100:])
    return {
        "0.png": "truncated",
        "1.png": "is not one of PNG, JPEG, TIFF",
        "2.png": "900000000 pixels",
        "3.png": "is not one of PNG, JPEG, TIFF",
        "4.png": "",
    }


def test_unreadable_images_are_named_or_left_out_within_a_second(tmp_path, capsys):
    root = write_folder(tmp_path / "images", 24)
    expected = broken_files(tmp_path / "images")
    start = time.process_time()
    output = failure(capsys, root, tmp_path / "out")
    assert time.process_time() - start < 3
    assert "5 with unreadable image" in output and "--skip-unreadable" in output
    for name, reason in expected.items():
        assert name in output and reason in output
    assert not (tmp_path / "out").exists()
    assert run(root, tmp_path / "out", "--skip-unreadable") == 0
    assert "left out 5 (unreadable image): 0.png, 1.png" in capsys.readouterr().out


def test_damaged_metadata_are_cut_out_and_the_pixels_kept(tmp_path):
    files = damaged(trees.draw_image(0))
    root = write_folder(tmp_path / "images", 24)
    for number, content in enumerate(files.values()):
        (tmp_path / "images" / f"{number}.png").write_bytes(content)
    assert run(root, tmp_path / "out") == 0
    rows = [row for path in (tmp_path / "out" / "data").glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    rows = {row["image_id"]: row["image"]["bytes"] for row in rows}
    for number, name in enumerate(files):
        image = datasets.Image().decode_example({"bytes": rows[f"{number}.png"], "path": None})  # looks at metadata
        expected = decode(files[name])
        assert np.array_equal(np.asarray(image.convert("L")), np.asarray(expected.convert("L"))), name


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bit_tiff_of_either_byte_order_is_spread_over_eight(tmp_path, order):
    deep = np.random.default_rng(0).integers(100, 4000, (20, 30)).astype(np.uint16)
    (tmp_path / "a.tif").write_bytes(tiff(deep, order))
    stored = read_image(tmp_path / "a.tif")
    expected = np.rint((deep - deep.min()) * (255 / (deep.max() - deep.min())))
    assert stored.suffix == "png" and np.array_equal(np.asarray(decode(stored.encoded)), expected)


def test_a_tiff_of_several_pages_is_refused(tmp_path):
    pages = [Image.fromarray(trees.draw_image(k)) for k in range(2)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match="a.tif: .*has 2 pages; a radiograph has one"):
        read_image(tmp_path / "a.tif")


def test_defaults_taken_for_dicom_attributes_are_counted(tmp_path, capsys):
    root = write_folder(tmp_path / "images", 12, file="a.dcm")
    (tmp_path / "images" / "a.dcm").write_bytes(trees.dicom_bytes(trees.draw_image(0), BitsStored=None, HighBit=""))
    assert run(root, tmp_path / "out") == 0
    assert "dicom files without BitsStored: 1" in capsys.readouterr().out
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["mended"] == {"dicom_files_without_BitsStored": 1, "dicom_files_without_HighBit": 1}


def boxes(*values) -> str:
    return json.dumps([dict(zip(("x", "y", "w", "h"), value, strict=True)) | {"label": "Mass"} for value in values])


def test_boxes_outside_the_image_or_without_area_are_named_or_mended_and_counted(tmp_path, capsys):
    bad = boxes((0.5, 0.5, 0.7, 0.2), (0.1, 0.1, 0, 0.5), (0.25, 0.25, 0.5, 0.5))
    root = write_folder(tmp_path / "images", boxes=bad)
    output = failure(capsys, root, tmp_path / "out", "--boxes-column", "boxes")
    assert "1 with bad box: 0.png" in output and "is not inside the image" in output and "--fix-boxes" in output
    assert run(root, tmp_path / "out", "--boxes-column", "boxes", "--fix-boxes") == 0
    assert "boxes cut at the edge: 1" in capsys.readouterr().out
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["mended"] == {"boxes_cut_at_the_edge": 1, "boxes_without_area_dropped": 1}
    table = pq.read_table(tmp_path / "out" / "data" / "train-00000-of-00001.parquet").to_pylist()
    assert [box["box"] for box in table[0]["boxes"]] == [pytest.approx([24, 20, 48, 28]), [12, 10, 36, 30]]


def test_masks_that_do_not_fit_are_named(tmp_path, capsys):
    root = write_folder(tmp_path / "images", mask="mask.png")
    assert "mask.png" in failure(capsys, root, tmp_path / "out", "--mask-column", "mask")
    trees.write_image(tmp_path / "images" / "mask.png", np.full((9, 9), 255, np.uint8))
    output = failure(capsys, root, tmp_path / "out", "--mask-column", "mask")
    assert "1 with bad mask: 0.png" in output and "9 x 9 pixels, its image 48 x 40" in output


def test_runs_that_overrun_are_named_with_their_image(tmp_path, capsys):
    root = trees.write_siim(tmp_path / "siim", image_format="png")
    text = (root / "train-rle.csv").read_text()
    (root / "train-rle.csv").write_text(text.replace("1.2.276.0.3, -1", "1.2.276.0.3, 1048570 9"))
    assert main(["prepare", "siim", "--root", str(root), "--out", str(tmp_path / "out")]) == 1
    assert "1 with bad mask: 1.2.276.0.3 (the run lengths end at pixel 1,048,579" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"labels": ""}, "1 of 12 rows have no labels: 0.png"),
        ({"split": "holdout"}, "row 1: split 'holdout' is not one of"),
        ({"split": "test"}, "1 patients are in more than one split, for example 'p0' in train and test"),
        ({"patient_id": ""}, "row 1: names no patient; fill"),
        ({"file": "1.png"}, "1 images are in the tables more than once: 1.png"),
        ({"file": "../0.png"}, "row 1: '../0.png' leads out of"),
    ],
)
def test_bad_rows_are_named(cells, message, tmp_path, capsys):
    assert message in failure(capsys, write_folder(tmp_path / "images", **cells), tmp_path / "out")


@pytest.mark.parametrize(
    "cell", ["[", '{"x": 1}', '[{"label": "a", "x": 0}]', '[{"label":"a","x":"b","y":0,"w":1,"h":1}]']
)
def test_boxes_of_another_form_are_named(cell, tmp_path, capsys):
    root = write_folder(tmp_path / "images", boxes=cell)
    assert "images.csv, row 1" in failure(capsys, root, tmp_path / "out", "--boxes-column", "boxes")


def test_rows_without_labels_can_be_absent_or_dropped(tmp_path, capsys):
    root = write_folder(tmp_path / "images", labels="")
    assert run(root, tmp_path / "absent", "--unlabelled", "absent") == 0
    assert run(root, tmp_path / "drop", "--unlabelled", "drop") == 0
    assert "left out 1 (without labels): 0.png" in capsys.readouterr().out
    counts = [
        json.loads((tmp_path / name / "manifest.json").read_text())["funnel"]["written"] for name in ("absent", "drop")
    ]
    assert counts == [12, 11]


def test_a_class_absent_from_a_split_is_named(tmp_path, capsys):
    assert run(write_folder(tmp_path / "images", labels="Hernia"), tmp_path / "out") == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert "no image of the validation split shows Hernia" in manifest["warnings"]
    assert "warning: no image of the test split shows Hernia" in capsys.readouterr().out


def test_images_without_labels_in_the_tables_are_counted(tmp_path, capsys):
    root = trees.write_rsna(tmp_path / "rsna")
    (root / "stage_2_train_images" / "unlisted.dcm").write_bytes(trees.dicom_bytes(trees.draw_image()))
    assert main(["prepare", "rsna", "--root", str(root), "--out", str(tmp_path / "out")]) == 0
    assert "left out 1 (images without labels): unlisted" in capsys.readouterr().out


def test_without_pydicom_the_extra_is_named_before_any_work(tmp_path, capsys, monkeypatch):
    root = trees.write_rsna(tmp_path / "rsna")
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    assert main(["prepare", "rsna", "--root", str(root), "--out", str(tmp_path / "out")]) == 1
    assert "hub-medsyn[dicom]" in capsys.readouterr().err
    assert issubclass(DicomSupportMissing, ImportError)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nih", "--split", "official", "--seed", "1"], "--seed: of --split patient alone"),
        (["folder-csv", "--shares", "1", "0", "0"], "--shares: of --split patient alone"),
        (["nih", "--split-lists", "x", "--seed", "1"], "--seed: of --split patient alone"),
        (["nih", "--split", "official", "--split-lists", "x"], "not allowed with argument"),
        (["chexpert", "--fix-boxes"], "unrecognized arguments: --fix-boxes"),
        (["nih", "--workers", "0"], "--workers 0 is below 1"),
    ],
)
def test_options_that_do_not_go_together_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["prepare", *arguments, "--root", "a", "--out", "b"])
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_help_names_the_data_sets(capsys):
    for argv in (["--help"], ["prepare", "--help"]):
        with pytest.raises(SystemExit) as stopped:
            main(argv)
        output = capsys.readouterr().out
        assert stopped.value.code == 0
        assert all(
            name in output for name in ("chexpert", "rsna", "covidx", "siim", "object-cxr", "nih", "folder-csv")
        )
    with pytest.raises(SystemExit) as stopped:
        main(["prepare", "padchest"])
    assert stopped.value.code == 2


def test_the_readme_describes_columns_and_splits_for_older_versions_of_datasets(tmp_path):
    mass = boxes((0.1, 0.1, 0.2, 0.2))
    assert run(write_folder(tmp_path / "images", boxes=mass), tmp_path / "out", "--boxes-column", "boxes") == 0
    (info,) = yaml.safe_load((tmp_path / "out" / "README.md").read_text().split("---")[1])["dataset_info"]
    features = {feature["name"]: feature for feature in info["features"]}
    assert features["image"]["dtype"] == "image" and [each["name"] for each in features["boxes"]["list"]] == [
        "finding",
        "box",
    ]
    files = sum(path.stat().st_size for path in (tmp_path / "out" / "data").iterdir())
    assert info["download_size"] == files and {split["num_examples"] for split in info["splits"]} == {4}
    loaded = datasets.load_dataset(str(tmp_path / "out"))
    assert (
        loaded["train"].features["boxes"]
        == datasets.Features.from_arrow_schema(pq.read_schema(next((tmp_path / "out" / "data").glob("train-*"))))[
            "boxes"
        ]
    )


def test_the_same_command_again_finds_the_folder_complete(tmp_path, capsys):
    root = write_folder(tmp_path / "images")
    assert run(root, tmp_path / "out") == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    capsys.readouterr()
    assert run(root, tmp_path / "out") == 0
    assert "is already complete: nothing to do" in capsys.readouterr().out
    assert before == {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert "is not empty" in failure(capsys, root, tmp_path / "out", "--image-size", "20")
    other = write_folder(tmp_path / "others", labels="Mass")
    assert "is not empty" in failure(capsys, other, tmp_path / "out")


def test_a_second_command_cannot_write_the_same_folder(tmp_path, capsys):
    root = write_folder(tmp_path / "images")
    with only_writer(tmp_path / "out"):
        assert "another command is writing" in failure(capsys, root, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert run(root, tmp_path / "out") == 0 and not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "a\nb", "..\\secret"])
@pytest.mark.parametrize("adapter", ["siim", "rsna"])
def test_ids_that_lead_out_of_the_folder_are_refused(tmp_path, capsys, adapter, name):
    write = {"siim": trees.write_siim, "rsna": trees.write_rsna}[adapter]
    root = write(tmp_path / adapter)
    for table in root.glob("*.csv"):
        lines = table.read_text().splitlines()
        first = lines[1].split(",")[0]
        table.write_text(table.read_text().replace(first, '"' + name + '"'))
    (tmp_path / "secret.dcm").write_bytes(trees.dicom_bytes(trees.draw_image()))
    assert main(["prepare", adapter, "--root", str(root), "--out", str(tmp_path / "out")]) == 1
    assert re.search("leads? out of|control characters", capsys.readouterr().err) and not (tmp_path / "out").exists()


def test_dots_before_a_file_name_are_the_same_file(tmp_path, capsys):
    root = write_folder(tmp_path / "images", file="./1.png")
    assert "1 images are in the tables more than once: 1.png" in failure(capsys, root, tmp_path / "out")
