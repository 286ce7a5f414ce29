"""Credentialed reports on the whole way: images leave without them, and whoever holds them joins them back."""

import PIL.Image
import pyarrow.parquet as pq
import pytest
from datasets import Image, load_dataset
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub import HfApi

from dataset_builder.attach_reports import main as attach
from dataset_builder.build import build
from dataset_builder.reports.sources import open_reports
from hub_medsyn.publishing.publish import main, publish_dataset
from tests.fixtures.generators import FakeGenerator
from tests.fixtures.ids_only import long_findings
from tests.fixtures.report_trees import report, write_mimic_cxr
from tests.hub.repositories import Repository

IMAGES = "your-org/films-without-text"


@pytest.fixture(scope="module")
def mimic(tmp_path_factory):
    """Ten studies of five patients, whose reports are long enough to key a hash."""
    output = {
        (10000000 + number // 2, 50000000 + number): (
            report(f"1. Small effusion, image {number} today.\n 2. Stable heart.", long_findings(number)),
            ["PA"],
        )
        for number in range(10)
    }
    splits = {50000000 + number: ("train", "validate", "test")[number // 2 % 3] for number in range(10)}
    return write_mimic_cxr(tmp_path_factory.mktemp("mimic") / "mimic", output, splits=splits)


@pytest.fixture(scope="module")
def folders(mimic, tmp_path_factory):
    made = {}
    for policy in ("credentialed", "ids-only"):
        records, source = open_reports(mimic)
        made[policy] = tmp_path_factory.mktemp(policy) / "images"
        build(records, FakeGenerator(localizes=False), made[policy], text_policy=policy, source=source)
    return made


def everything(repository: Repository) -> str:
    """All that the server keeps of a repository but pixels: git's objects of every commit, and its large files."""
    output = repository.git("cat-file", "--batch-all-objects", "--batch").decode(errors="replace")
    for path in (repository.folder / "lfs").rglob("*"):
        if path.is_file() and path.read_bytes().startswith(b"PAR1"):
            with pq.ParquetFile(path) as file:
                output += f"{file.metadata.metadata} {file.read().drop_columns('image').to_pylist()}"
        elif path.is_file():
            with PIL.Image.open(path) as picture:
                output += str(picture.info)
    return output


def encoded(rows) -> list[dict]:
    return rows.cast_column("image", Image(decode=False)).to_list()


def test_images_go_without_text_and_text_comes_back(hub, mimic, folders, tmp_path, capsys):
    built = folders["ids-only"]
    assert main(["dataset", str(built), "--repo", IMAGES]) == 0
    there, here = load_dataset(IMAGES, token=False), load_dataset(str(built))
    columns = ["image", "image_id", "study_id", "subject_id", "report_hash"]
    assert there["train"].column_names == columns
    assert encoded(there["test"]) == encoded(here["test"].select_columns(columns))

    words = {word for split in here.values() for row in split for word in row["findings"].lower().split()}
    hidden = [word for word in words if len(word) == 6]  # made up, so that they stand nowhere else
    assert len(hidden) > 100
    kept = everything(hub.repository("dataset", IMAGES)).lower()
    assert "50000003" in kept and not [word for word in (*hidden, "effusion, image") if word in kept]

    capsys.readouterr()
    assert attach([IMAGES, "--reports", str(mimic), "--out", str(tmp_path / "joined"), "--strict"]) == 0
    joined = load_dataset(str(tmp_path / "joined"))
    for split in here:
        assert encoded(joined[split]) == encoded(here[split].select_columns(joined[split].column_names))
    assert {"prompt", "findings", "labels"} <= set(joined["train"].column_names)


def test_text_goes_to_a_closed_repository_alone(hub, folders, capsys):
    name, command = "your-org/with-text", ["dataset", str(folders["credentialed"]), "--repo", "your-org/with-text"]
    hub.log.clear()
    assert main(command) == 1
    assert "--text-policy ids-only" in capsys.readouterr().err
    assert hub.uploads == [] and not HfApi().repo_exists(name, repo_type="dataset")
    assert main([*command, "--private", "--gated"]) == 0
    info = HfApi().dataset_info(name)
    assert info.private and info.gated == "manual"
    for token in (False, hub.somebody_elses_token):
        with pytest.raises(DatasetNotFoundError):
            load_dataset(name, token=token)
    assert load_dataset(name, split="train")["prompt"][0].startswith("Small effusion")
    assert "effusion, image" in everything(hub.repository("dataset", name)).lower()


def test_a_gated_dataset_is_for_those_who_were_let_in(hub, built):
    name = "your-org/gated"
    publish_dataset(built, name, gated=True)
    stranger = {"token": hub.somebody_elses_token, "split": "test"}
    with pytest.raises(DatasetNotFoundError, match="gated dataset"):
        load_dataset(name, **stranger)
    HfApi().grant_access(name, user="somebody-else", repo_type="dataset")
    assert load_dataset(name, **stranger).to_list() == load_dataset(str(built), split="test").to_list()
