import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from datasets import Image, load_dataset

from dataset_builder import build as build_module
from dataset_builder.build import build
from dataset_builder.pipeline import render as images
from dataset_builder.pipeline import shards as assemble_module
from dataset_builder.pipeline import workspace as folder
from dataset_builder.pipeline.workspace import only_build
from hub_medsyn.cards import dataset as dataset_card
from medsyn.errors import DiskFullError
from medsyn.files import atomic_file
from tests.fixtures.generators import FakeGenerator, fake_records

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(images, "PART_IMAGES", 7)
    monkeypatch.setattr(assemble_module, "ROW_GROUP", 10)


def rows_of(out: Path, config: str = "default") -> dict[str, dict]:
    """study_id -> its row with the encoded images."""
    rows = {}
    for split, dataset in load_dataset(str(out), config).items():
        for row in dataset.cast_column("image", Image(decode=False)):
            assert row["study_id"] not in rows, "a study stands twice"
            rows[row["study_id"]] = row | {"split": split}
    return rows


def image_hashes(out: Path, config: str = "default") -> dict[str, str]:
    return {name: hashlib.sha256(row["image"]["bytes"]).hexdigest() for name, row in rows_of(out, config).items()}


def file_bytes(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.glob("data/**/*.parquet"))}


def test_round_trip(tmp_path, monkeypatch):
    records = list(fake_records(60))
    manifest = build(records, FakeGenerator(), tmp_path / "medsyn-cxr")
    monkeypatch.chdir(tmp_path)
    dataset = load_dataset("medsyn-cxr")
    assert sum(map(len, dataset.values())) == 60
    assert {split: len(rows) for split, rows in dataset.items()} == {
        split: counts["num_examples"] for split, counts in manifest["configs"]["fake"]["splits"].items()
    }
    by_study = {record.study_id: record for record in records}
    row = next(row for row in dataset["train"] if row["prompt"].endswith("edema and cardiomegaly."))
    record = by_study[row["study_id"]]
    assert row["image_id"] == f"fake-{record.study_id}"
    assert row["prompt"] == row["impression"] == record.impression
    assert row["prompt_sha256"] == hashlib.sha256(record.impression.encode()).hexdigest()
    assert (row["findings"], row["subject_id"], row["source"]) == (record.findings, record.subject_id, "fake")
    assert row["labels"]["Edema"] == 1 and row["labels"]["No Finding"] == 0 and row["labels"]["Pneumonia"] is None
    assert (row["view"], row["generator"]) == ("PA", "fake")

    image = FakeGenerator()([record], [row["seed"]])[0]
    assert row["image"].mode == "L"
    np.testing.assert_array_equal(np.asarray(row["image"]), image.image)
    assert [entry["finding"] for entry in row["finding_masks"]] == ["edema", "cardiomegaly"]
    for entry, (_, mask) in zip(row["finding_masks"], image.masks, strict=True):
        np.testing.assert_array_equal(np.asarray(entry["mask"]), np.where(mask, 255, 0))
    assert row["boxes"] == [
        {"finding": "edema", "box": [2.0, 4.0, 6.0, 12.0]},
        {"finding": "cardiomegaly", "box": [7.0, 4.0, 11.0, 12.0]},
    ]
    occult = next(row for row in dataset["train"] if row["occult_findings"])
    assert occult["occult_findings"] == ["pleural effusion"] and occult["labels"]["Pleural Effusion"] is None


def test_streaming_columns_and_types(tmp_path):
    build(fake_records(30), FakeGenerator(), tmp_path / "d")
    plain = load_dataset(str(tmp_path / "d"), split="train")
    stream = load_dataset(str(tmp_path / "d"), split="train", streaming=True)
    assert stream.features == plain.features
    assert str(plain.features["labels"]["Edema"].dtype) == "int8" and plain.features["seed"].dtype == "int64"
    assert plain.features["boxes"].feature["box"].length == 4
    first = next(iter(stream))
    assert first["study_id"] == plain[0]["study_id"] and first["image"].size == (32, 32)
    some = load_dataset(str(tmp_path / "d"), split="train", columns=["study_id", "labels"])
    assert some.column_names == ["study_id", "labels"]


def test_shards_and_row_groups(tmp_path, monkeypatch):
    import pyarrow.parquet as pq

    monkeypatch.setattr(assemble_module, "SHARD_BYTES", 25_000)
    build(fake_records(90), FakeGenerator(), tmp_path / "d")
    shards = sorted((tmp_path / "d" / "data" / "fake").glob("train-*.parquet"))
    assert len(shards) > 2
    assert [path.name for path in shards] == [
        f"train-{number:05d}-of-{len(shards):05d}.parquet" for number in range(len(shards))
    ]
    for path in shards[:-1]:
        metadata = pq.ParquetFile(path).metadata
        assert {metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)} == {10}
        images = pq.read_table(path, columns=["image"]).column("image").to_pylist()
        assert sum(len(image["bytes"]) for image in images) < 25_000
    assert len(rows_of(tmp_path / "d")) == 90


def test_order_processes_and_batches_do_not_matter(tmp_path):
    records = list(fake_records(60))
    build(records, FakeGenerator(), tmp_path / "one")
    build(records, FakeGenerator(), tmp_path / "two", num_proc=2)
    assert file_bytes(tmp_path / "one") == file_bytes(tmp_path / "two")
    build(random.Random(0).sample(records, 60), FakeGenerator(batch_size=4), tmp_path / "shuffled")
    assert image_hashes(tmp_path / "one") == image_hashes(tmp_path / "shuffled")


def test_jpeg(tmp_path):
    build(fake_records(12), FakeGenerator(), tmp_path / "d", image_format="jpeg")
    row = load_dataset(str(tmp_path / "d"), split="train")[0]
    assert row["image"].format == "JPEG"
    assert next(iter(rows_of(tmp_path / "d").values()))["image"]["path"].endswith(".jpeg")


def test_labels_come_from_the_text_where_the_generator_knows_none(tmp_path):
    from dataset_builder.reports.labeler import report_labels

    records = list(fake_records(12))
    build(records, FakeGenerator(localizes=False), tmp_path / "d")
    rows = rows_of(tmp_path / "d")
    assert "finding_masks" not in next(iter(rows.values()))
    for record in records:
        text = f"{record.findings or ''} {record.impression}"
        assert rows[record.study_id]["labels"] == report_labels(text)
    assert rows["s00000"]["labels"]["Pneumothorax"] == 1


def test_a_second_config_keeps_the_first(tmp_path):
    out = tmp_path / "d"
    build(fake_records(30), FakeGenerator(), out)
    before = file_bytes(out)
    manifest = build(fake_records(20), FakeGenerator(name="other", localizes=False, image_size=16), out)
    assert list(manifest["configs"]) == ["fake", "other"]
    assert {name: content for name, content in file_bytes(out).items() if "fake" in name} == before
    assert len(rows_of(out)) == len(rows_of(out, "fake")) == 30 and len(rows_of(out, "other")) == 20
    assert (out / "assets" / "samples-fake.png").exists() and (out / "assets" / "samples-other.png").exists()


def test_complete_build_is_left_alone(tmp_path):
    out = tmp_path / "d"
    manifest = build(fake_records(12), FakeGenerator(), out)
    files = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert build(fake_records(12), FakeGenerator(), out) == manifest
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == files
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "assets", "data", "manifest.json"]


class Stopped(BaseException):
    """Stands for an end that no handler expects."""


@pytest.mark.parametrize(
    "module, function, call",
    [
        (images, "_write_part", 3),
        (assemble_module, "_write_shard", 1),
        (assemble_module, "_write_shard", 2),
        (assemble_module.os, "rename", 1),
        (dataset_card, "write_card", 1),
        (build_module.shutil, "rmtree", 1),
    ],
)
def test_stopped_at_any_stage_it_goes_on(tmp_path, monkeypatch, unbroken, module, function, call):
    calls = []
    original = getattr(module, function)

    def stop(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            raise Stopped
        return original(*args, **kwargs)

    monkeypatch.setattr(module, function, stop)
    with pytest.raises(Stopped):
        build(fake_records(40), FakeGenerator(), tmp_path / "d")
    for half in ("README.md", ".build/fake/films-000000.arrow", ".build/fake/shards/train-00000-of-00001.parquet"):
        if (path := tmp_path / "d" / half).parent.exists():  # as a kill leaves it
            path.with_name(f".{path.name}.999999.tmp").write_bytes(b"half of it")
    kept = sorted((tmp_path / "d" / ".build" / "fake").glob("films-*.arrow"))
    stamps = [path.stat().st_mtime_ns for path in kept]
    drawn = []
    monkeypatch.setattr(FakeGenerator, "__call__", counted(FakeGenerator.__call__, drawn))
    monkeypatch.setattr(module, function, original)
    assert len(kept) == (call - 1 if function == "_write_part" else 6) and all(stamps)
    build(fake_records(40), FakeGenerator(), tmp_path / "d")
    assert len(drawn) == (40 - 2 * 7 if function == "_write_part" else 0), "what was made is not made again"
    assert file_bytes(tmp_path / "d") == unbroken
    assert not (tmp_path / "d" / ".build").exists() and not list((tmp_path / "d").rglob("*.tmp"))


def counted(function, calls: list):
    def wrapper(self, records, seeds):
        calls.extend(records)
        return function(self, records, seeds)

    return wrapper


def test_five_kills_change_nothing(tmp_path):
    script = (
        "from dataset_builder.build import build; from tests.fixtures.generators import FakeGenerator, fake_records;"
        f"build(fake_records(400), FakeGenerator(seconds=0.01), {str(tmp_path / 'killed')!r}, num_proc=2)"
    )
    work = tmp_path / "killed" / ".build" / "fake"
    chance = random.Random(0)
    kept = 0
    for _ in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True
        ) as process:
            wanted = kept + chance.randint(1, 3)  # moments are told in finished parts, of which there are 20
            while len(list(work.glob("films-*.arrow"))) < wanted and process.poll() is None:
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        deadline = time.monotonic() + 120  # without their parent they end at their next image, when a core is free
        while group_lives(process.pid):
            assert time.monotonic() < deadline, "the rendering processes outlived their parent"
            time.sleep(0.02)
        there = len(list(work.glob("films-*.arrow")))
        assert there >= kept
        kept = there
    # Parts of 20 images, as the processes above made them.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "PART_IMAGES", 20)
        killed = build(fake_records(400), FakeGenerator(), tmp_path / "killed")
        unbroken = build(fake_records(400), FakeGenerator(), tmp_path / "unbroken")
    assert kept > 0
    assert file_bytes(tmp_path / "killed") == file_bytes(tmp_path / "unbroken")
    assert killed["configs"]["fake"]["images"] == unbroken["configs"]["fake"]["images"]
    assert not (tmp_path / "killed" / ".build").exists()


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


class DyingGenerator(FakeGenerator):
    def __call__(self, records, seeds):
        if records[0].study_id == "s00009":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(records, seeds)


def test_a_killed_rendering_process_is_told(tmp_path):
    with pytest.raises(ChildProcessError, match="smaller --num-proc"):
        build(fake_records(40), DyingGenerator(), tmp_path / "d", num_proc=2)
    build(fake_records(40), FakeGenerator(), tmp_path / "d")
    assert len(rows_of(tmp_path / "d")) == 40


class BrokenGenerator(FakeGenerator):
    def __call__(self, records, seeds):
        image = super().__call__(records, seeds)
        image[0].image = image[0].image.astype(np.float32)
        return image


def test_a_broken_image_is_named(tmp_path):
    with pytest.raises(RuntimeError, match="study s0000[0-3]: the generator returned .* type float32") as caught:
        build(fake_records(4), BrokenGenerator(), tmp_path / "d")
    assert "studies s0000" in caught.value.medsyn_input  # the sentence of `medsyn build` names them


@pytest.mark.parametrize(
    "change, named",
    [
        ({"seed": 1}, "seed (there 0, asked for 1)"),
        ({"image_format": "jpeg"}, "image_format (there 'png', asked for 'jpeg')"),
        ({"limit": 11}, "reports_sha256"),
        ({"generator": FakeGenerator(image_size=16)}, "generator.image_size (there 32, asked for 16)"),
        ({"text_policy": "public"}, "text_policy (there 'credentialed', asked for 'public')"),
    ],
)
@pytest.mark.parametrize("complete", [True, False])
def test_other_settings_are_refused(tmp_path, monkeypatch, change, named, complete):
    out = tmp_path / "d"
    if complete:
        build(fake_records(12), FakeGenerator(), out)
    else:
        with monkeypatch.context() as patch, pytest.raises(Stopped):
            patch.setattr(assemble_module, "_write_shard", stop_at_once)
            build(fake_records(12), FakeGenerator(), out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    arguments = {"generator": FakeGenerator()} | change
    with pytest.raises(ValueError) as caught:
        build(fake_records(12), arguments.pop("generator"), out, **arguments)
    assert named in str(caught.value) and "choose another --out" in str(caught.value)
    assert f"delete {out / 'data' / 'fake' if complete else out / '.build' / 'fake'} to" in str(caught.value)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_one_config_is_built_anew_after_its_folder_is_deleted(tmp_path):
    out, other = tmp_path / "d", FakeGenerator()
    other.name = "other"
    build(fake_records(12), other, out)
    kept = {path: path.read_bytes() for path in (out / "data" / "other").iterdir()}
    build(fake_records(12), FakeGenerator(), out)
    with pytest.raises(ValueError, match="delete .*fake to begin anew"):
        build(fake_records(12), FakeGenerator(), out, seed=1)
    shutil.rmtree(out / "data" / "fake")
    configs = build(fake_records(12), FakeGenerator(), out, seed=1)["configs"]
    assert configs.keys() == {"fake", "other"} and configs["fake"]["settings"]["seed"] == 1
    assert len(rows_of(out)) == 12
    assert {path: path.read_bytes() for path in (out / "data" / "other").iterdir()} == kept


def stop_at_once(*args):
    raise Stopped


def test_resume_under_other_versions_is_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(assemble_module, "_write_shard", stop_at_once)
        build(fake_records(12), FakeGenerator(), tmp_path / "d")
    state = tmp_path / "d" / ".build" / "fake" / "settings.json"
    content = json.loads(state.read_text())
    content["versions"]["pillow"] = "9.0.0"
    state.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="versions.pillow .there '9.0.0'"):
        build(fake_records(12), FakeGenerator(), tmp_path / "d")


def test_foreign_folders_are_refused(tmp_path):
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter1.tex").write_text("x")
    with pytest.raises(ValueError, match="not empty and holds no medsyn dataset"):
        build(fake_records(4), FakeGenerator(), out)
    (out / "manifest.json").write_text('{"name": "a web app"}')
    with pytest.raises(ValueError, match="not the manifest of a medsyn dataset"):
        build(fake_records(4), FakeGenerator(), out)
    with pytest.raises(ValueError, match="is a file"):
        build(fake_records(4), FakeGenerator(), out / "chapter1.tex")
    assert sorted(path.name for path in out.iterdir()) == ["chapter1.tex", "manifest.json"]
    foreign = tmp_path / "data" / "data" / "fake"
    foreign.mkdir(parents=True)
    (foreign.parents[1] / ".build").mkdir()
    with pytest.raises(ValueError, match="no build of ours"):
        build(fake_records(4), FakeGenerator(), foreign.parents[1])


def test_an_empty_folder_is_fine_and_bad_reports_leave_none(tmp_path):
    (tmp_path / "empty").mkdir()
    build(fake_records(4), FakeGenerator(), tmp_path / "empty")
    with pytest.raises(ValueError, match="no report is left"):
        build([], FakeGenerator(), tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_two_builds_at_once_are_refused(tmp_path):
    out = tmp_path / "d"
    with only_build(out):
        with pytest.raises(BlockingIOError, match="another build is running"):
            build(fake_records(4), FakeGenerator(), out)
        assert (out / folder.WORK / "lock").exists(), "the refused build leaves the other's lock"
    assert not (out / folder.WORK).exists()
    build(fake_records(4), FakeGenerator(), out)


class FullDisk:
    """`os.fsync` on a disk that fills up at the given call."""

    def __init__(self, call: int):
        self.left = call

    def __call__(self, handle):
        self.left -= 1
        if self.left == 0:
            raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> dict[str, bytes]:
    """The shards of 40 rows, built without a break."""
    out = tmp_path_factory.mktemp("unbroken")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assemble_module, "ROW_GROUP", 10)
        build(fake_records(40), FakeGenerator(), out)
    return file_bytes(out)


@pytest.mark.parametrize("call", [1, 5, 15, 17, 23])
def test_full_disk(tmp_path, monkeypatch, unbroken, call):
    out = tmp_path / "d"
    with monkeypatch.context() as patch:
        patch.setattr(images.os, "fsync", FullDisk(call))
        with pytest.raises(DiskFullError) as caught:
            build(fake_records(40), FakeGenerator(), out)
    assert "the disk is full: no room for " in str(caught.value) and "run the same command again" in str(caught.value)
    assert not list(out.rglob("*.tmp"))
    assert f" {min(40, 7 * len(list(out.rglob('films-*.arrow'))))} of 40 images are kept" in str(caught.value)
    build(fake_records(40), FakeGenerator(), out)
    assert file_bytes(out) == unbroken


def test_atomic_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_file(path) as file:
        file.write(b"half of it")
        raise RuntimeError
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    with atomic_file(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]
