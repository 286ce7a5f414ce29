"""Scratch folders: gone in the end, what killed processes left goes too, and those at work are left alone."""

import pytest

from medsyn.files import scratch_folder


def hidden(place) -> list[str]:
    return sorted(path.name for path in place.iterdir() if path.name.startswith("."))


def test_it_is_gone_in_the_end(tmp_path):
    with pytest.raises(KeyboardInterrupt), scratch_folder(tmp_path / "films") as folder:
        (folder / "copy.parquet").write_bytes(b"1")
        assert hidden(tmp_path) == [folder.name] and folder.name.startswith(".films-scratch-")
        raise KeyboardInterrupt
    assert hidden(tmp_path) == []


def test_what_a_killed_process_left_is_removed_and_no_other(tmp_path):
    with scratch_folder(tmp_path / "films") as at_work:
        for name in (".films-scratch-killed", ".films-scratch-early", ".films-2-scratch-x", ".films-mine"):
            (tmp_path / name).mkdir()
        (tmp_path / ".films-scratch-killed" / ".lock").touch()  # "early" had not come to that
        with scratch_folder(tmp_path / "films") as mine:
            kept = sorted([at_work.name, mine.name, ".films-2-scratch-x", ".films-mine"])
            assert hidden(tmp_path) == kept
    assert hidden(tmp_path) == [".films-2-scratch-x", ".films-mine"]
