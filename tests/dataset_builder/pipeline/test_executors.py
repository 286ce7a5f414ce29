import hashlib
import threading
from pathlib import Path

import pytest

from dataset_builder.build import build, main
from dataset_builder.generators.radiograph import GenerationError
from dataset_builder.pipeline import executors as ranks
from dataset_builder.pipeline import render as images
from dataset_builder.pipeline.executors import Rank
from medsyn.schema import read_manifest
from tests.fixtures.generators import FakeGenerator, fake_records
from tests.fixtures.launch import launch

FIRST, SECOND = Rank(0, 2), Rank(1, 2)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(images, "PART_IMAGES", 7)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(ranks, "START_SECONDS", 0.6)
    monkeypatch.setattr("dataset_builder.pipeline.workspace.START_SECONDS", 0.6)


def data_files(out: Path) -> dict[str, str]:
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.glob("data/**/*.parquet"))
    }


def test_two_processes_make_the_dataset_of_one(tmp_path):
    out = tmp_path / "two"
    script = (
        "from dataset_builder.build import build; from dataset_builder.pipeline.executors import Rank;"
        "from tests.fixtures.generators import FakeGenerator, fake_records\n"
        "class Counting(FakeGenerator):\n"
        "    drawn = 0\n"
        "    def __call__(self, records, seeds):\n"
        "        Counting.drawn += len(records)\n"
        "        return super().__call__(records, seeds)\n"
        f"build(fake_records(150), Counting(seconds=0.01), {str(out)!r}, rank=Rank.of_launch())\n"
        "print(Counting.drawn)"
    )
    ended = launch(2, "-c", script)
    assert [process.returncode for process in ended] == [0, 0], ended
    assert [int(process.stdout) for process in ended] == [80, 70], (
        "every image is drawn by its rank alone, in parts of 20"
    )
    assert "rendering (2 ranks)" in ended[0].stderr and "150/150" in ended[0].stderr and "image/s" in ended[0].stderr
    assert "rendering" not in ended[1].stderr
    assert not (out / ".build").exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "PART_IMAGES", 20)
        one = build(fake_records(150), FakeGenerator(), tmp_path / "one")
    assert data_files(out) == data_files(tmp_path / "one")
    two = read_manifest(out)["configs"]["fake"]
    assert two["timing"].pop("num_ranks") == 2
    same = one["configs"]["fake"]
    assert {key: value for key, value in two.items() if key not in ("timing", "versions")} == {
        key: value for key, value in same.items() if key not in ("timing", "versions")
    }


@pytest.mark.parametrize("later", [FIRST, Rank(), Rank(0, 3)])
def test_a_silent_rank_is_told_and_its_share_made_later(tmp_path, impatient, later):
    out = tmp_path / "d"
    with pytest.raises(
        ChildProcessError, match="rank 1 of 2 has given no sign for 0.6 s and left 3 parts of the images"
    ):
        build(fake_records(40), FakeGenerator(), out, rank=FIRST)
    work = out / ".build" / "fake"
    made = sorted(path.name for path in work.glob("films-*"))
    assert made == ["films-000000.arrow", "films-000002.arrow", "films-000004.arrow"]
    for other in range(1, later.count):
        assert build(fake_records(40), FakeGenerator(), out, rank=Rank(other, later.count))["configs"] == {}
    build(fake_records(40), FakeGenerator(), out, rank=later)
    build(fake_records(40), FakeGenerator(), tmp_path / "one")
    assert data_files(out) == data_files(tmp_path / "one")
    assert not (out / ".build").exists()


class Failing(FakeGenerator):
    def __call__(self, records, seeds):
        raise GenerationError(f"study {records[0].study_id}: no image")


def test_a_failed_rank_ends_the_wait(tmp_path, monkeypatch):
    """Rank 0 learns it from the file that the other takes away, long before it would count as silent."""
    out = tmp_path / "d"
    failed = []

    def rank_0():
        try:
            build(fake_records(40), FakeGenerator(), out, rank=FIRST)
        except ChildProcessError as error:
            failed.append(str(error))

    waiting = threading.Event()
    await_other_ranks = images.await_other_ranks

    def tell(*args):
        waiting.set()
        await_other_ranks(*args)

    monkeypatch.setattr(images, "await_other_ranks", tell)
    monkeypatch.setattr(ranks, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(ranks, "START_SECONDS", 15)
    drawing = Failing.__call__

    def slowly(self, records, seeds):
        waiting.wait(20)
        threading.Event().wait(1)  # rank 0 sees the file before it goes
        return drawing(self, records, seeds)

    monkeypatch.setattr(Failing, "__call__", slowly)
    thread = threading.Thread(target=rank_0)
    thread.start()
    with pytest.raises(GenerationError, match="study s.*: no image"):
        build(fake_records(40), Failing(), out, rank=SECOND)
    thread.join(20)
    assert not thread.is_alive()
    assert len(failed) == 1 and "rank 1 of 2 has ended and left 3 parts" in failed[0]


def test_a_rank_at_work_is_waited_for(tmp_path, monkeypatch):
    """A rank that takes longer than a silent one may, but gives signs, is not given up."""
    monkeypatch.setattr(ranks, "LOST_SECONDS", 1.2)
    monkeypatch.setattr(ranks, "BEAT_SECONDS", 0.05)
    out = tmp_path / "d"
    thread = threading.Thread(
        target=build, args=(fake_records(40), FakeGenerator(seconds=0.15), out), kwargs={"rank": SECOND}
    )
    thread.start()
    build(fake_records(40), FakeGenerator(), out, rank=FIRST)
    thread.join(20)
    build(fake_records(40), FakeGenerator(), tmp_path / "one")
    assert data_files(out) == data_files(tmp_path / "one")


def test_ranks_of_other_settings_and_without_a_first(tmp_path, impatient):
    out = tmp_path / "d"
    with pytest.raises(ChildProcessError, match="rank 0 has not begun within 0.6 s; do all ranks see the same folder"):
        build(fake_records(40), FakeGenerator(), out, rank=SECOND)
    assert not out.exists()
    with pytest.raises(ChildProcessError, match="rank 1 of 2"):
        build(fake_records(40), FakeGenerator(), out, rank=FIRST)
    with pytest.raises(ValueError, match="seed .there 0, asked for 1"):
        build(fake_records(40), FakeGenerator(), out, seed=1, rank=SECOND)
    build(fake_records(40), FakeGenerator(), out)
    with pytest.raises(ValueError, match="seed .there 0, asked for 1"):
        build(fake_records(40), FakeGenerator(), out, seed=1, rank=SECOND)
    assert "fake" in build(fake_records(40), FakeGenerator(), out, rank=SECOND)["configs"]


def test_unfinished_files_of_another_rank_stay(tmp_path, impatient):
    out = tmp_path / "d"
    with pytest.raises(ChildProcessError):
        build(fake_records(40), FakeGenerator(), out, rank=FIRST)
    work = out / ".build" / "fake"
    theirs, own = work / ".films-000000.arrow.1.tmp", work / ".films-000003.arrow.1.tmp"
    theirs.touch()
    own.touch()
    build(fake_records(40), FakeGenerator(), out, rank=SECOND)
    assert theirs.exists() and not own.exists()


def test_the_command_knows_its_rank(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "dataset_builder.generators.phantom.PhantomGenerator", lambda image_size: FakeGenerator(name="phantom")
    )
    command = ["--num-samples", "12", "--out", str(tmp_path / "d"), "--num-proc", "1"]
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert main(command) == 0
    assert "12 rows" in capsys.readouterr().out
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert main(command) == 0
    assert capsys.readouterr().out == ""
    monkeypatch.setenv("RANK", "2")
    assert main(command) == 1
    assert "RANK=2 and WORLD_SIZE=2 are no rank of a launch" in capsys.readouterr().err
