"""Scratch folders: gone in the end, what killed processes left goes too, and those at work are left alone."""

import pytest

from medsyn.files import folder_or_hub_id, scratch_folder


def hidden(place) -> list[str]:
    return sorted(path.name for path in place.iterdir() if path.name.startswith("."))


def test_it_is_gone_in_the_end(tmp_path):
    with pytest.raises(KeyboardInterrupt), scratch_folder(tmp_path / "images") as folder:
        (folder / "copy.parquet").write_bytes(b"1")
        assert hidden(tmp_path) == [folder.name] and folder.name.startswith(".images-scratch-")
        raise KeyboardInterrupt
    assert hidden(tmp_path) == []


def test_what_a_killed_process_left_is_removed_and_no_other(tmp_path):
    with scratch_folder(tmp_path / "images") as at_work:
        for name in (".images-scratch-killed", ".images-scratch-early", ".images-2-scratch-x", ".images-mine"):
            (tmp_path / name).mkdir()
        (tmp_path / ".images-scratch-killed" / ".lock").touch()  # "early" had not come to that
        with scratch_folder(tmp_path / "images") as mine:
            kept = sorted([at_work.name, mine.name, ".images-2-scratch-x", ".images-mine"])
            assert hidden(tmp_path) == kept
    assert hidden(tmp_path) == [".images-2-scratch-x", ".images-mine"]


@pytest.mark.parametrize(
    "name", ["runs/typo", "./typo", "../typo/x", "/nowhere/x", "~/x", "a/b/c", "runs/a/typo", "typo"]
)
def test_a_mistyped_folder_is_no_id_of_the_hub(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(
        FileNotFoundError, match=f"there is no model folder {name}, and an id on the Hub reads owner/name"
    ):
        folder_or_hub_id(name, "model")


def test_folders_and_ids_of_the_hub_are_returned(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    assert folder_or_hub_id("runs/mine", "model") == "runs/mine"
    assert folder_or_hub_id("owner/name", "model") == "owner/name"
