"""A published dataset, as `datasets` reads it in each way."""

import pytest
from datasets import get_dataset_config_names, load_dataset
from huggingface_hub import HfApi

from hub_medsyn.publishing.publish import main, publish_dataset


def studies(rows) -> list[str]:
    return [row["study_id"] for row in rows]


def test_rows_are_those_of_the_folder(dataset, built):
    there, here = load_dataset(dataset), load_dataset(str(built))
    assert list(there) == list(here) == ["train", "validation", "test"]
    assert there["train"].features == here["train"].features
    for split in here:
        assert there[split].to_list() == here[split].to_list() and len(here[split])


def test_streaming_gives_the_same_rows(dataset, built):
    streamed, here = load_dataset(dataset, streaming=True), load_dataset(str(built))
    assert streamed["train"].features == here["train"].features
    rows = list(streamed["test"])
    assert [row["image"].tobytes() for row in rows] == [row["image"].tobytes() for row in here["test"]]
    assert [row["finding_masks"] for row in rows] == [row["finding_masks"] for row in here["test"]]


def test_configs_by_name(dataset, built):
    assert set(get_dataset_config_names(dataset)) == {"default", "fake", "other"}
    first, other = (load_dataset(dataset, name, split="train") for name in ("default", "other"))
    assert first["image_id"][0].startswith("fake-") and other["image_id"][0].startswith("other-")
    assert other.to_list() == load_dataset(str(built), "other", split="train").to_list()
    assert studies(load_dataset(dataset, "other", split="train", streaming=True)) == other["study_id"]
    with pytest.raises(ValueError, match="'third' not found"):
        load_dataset(dataset, "third")


def test_columns_that_are_not_asked_for_are_not_read(dataset, built):
    rows = load_dataset(dataset, split="train", streaming=True, columns=["study_id", "labels"])
    here = load_dataset(str(built), split="train")
    assert [set(row) for row in rows] == [{"study_id", "labels"}] * len(here)
    assert studies(rows) == here["study_id"]
    assert load_dataset(dataset, "other", split="train", columns=["prompt"]).column_names == ["prompt"]


def test_a_revision_stays_what_it_was(hub, built, tmp_path):
    from dataset_builder.build import build
    from tests.fixtures.generators import FakeGenerator, fake_records

    repo_id = "your-org/revised"
    first = publish_dataset(built, repo_id).commit
    build(list(fake_records(20)), FakeGenerator(name="fake"), tmp_path / "anew", text_policy="public")
    second = publish_dataset(tmp_path / "anew", repo_id).commit
    HfApi().create_tag(repo_id, tag="v1", revision=first, repo_type="dataset")
    numbers = {
        revision: sum(map(len, load_dataset(repo_id, revision=revision).values()))
        for revision in (first, second, "v1", "main")
    }
    assert numbers == {first: 60, second: 20, "v1": 60, "main": 20}
    assert len(load_dataset(repo_id, "other", revision=second)["train"])


def test_the_second_time_sends_nothing(hub, dataset, built, capsys):
    hub.log.clear()
    assert main(["dataset", str(built), "--repo", dataset]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert hub.uploads == [] and not hub.asked("POST", "objects/batch|preupload|repos/create")
