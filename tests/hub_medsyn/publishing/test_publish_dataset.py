"""Datasets to the stand-in Hub: one commit, none the second time, configs side by side, broken connections."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import get_dataset_config_names, load_dataset
from huggingface_hub import HfApi

from dataset_builder.build import build
from dataset_builder.pipeline import shards as assemble
from hub_medsyn.publishing import shards as dataset_shards
from hub_medsyn.publishing import upload
from hub_medsyn.publishing.publish import main, publish_dataset
from medsyn.parquet import ShardWriter
from tests.fixtures.generators import FakeGenerator, fake_records

REPO = "your-org/medsyn-cxr"


def make(folder: Path, name: str = "fake", number: int = 30, **settings) -> Path:
    build(list(fake_records(number)), FakeGenerator(name=name), folder, **{"text_policy": "public", **settings})
    return folder


@pytest.fixture(scope="module")
def public(tmp_path_factory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assemble, "ROW_GROUP", 10)
        return make(tmp_path_factory.mktemp("public") / "medsyn-cxr")


@pytest.fixture
def dataset(public, tmp_path) -> Path:
    """A copy to write in."""
    return shutil.copytree(public, tmp_path / "medsyn-cxr")


def commits(repo_id: str = REPO) -> list[str]:
    return [commit.title for commit in HfApi().list_repo_commits(repo_id, repo_type="dataset")]


def text_of(path: str, repo_id: str = REPO) -> str:
    return Path(HfApi().hf_hub_download(repo_id, path, repo_type="dataset")).read_text(encoding="utf-8")


def test_one_commit_then_none(hub, public):
    done = publish_dataset(public, REPO)
    assert (done.commit, done.removed, done.private) == (HfApi().repo_info(REPO, repo_type="dataset").sha, (), False)
    assert (
        set(done.sent)
        == set(done.files)
        == {
            "README.md",
            "manifest.json",
            "assets/samples-fake.png",
            *(f"data/fake/{split}-00000-of-00001.parquet" for split in ("train", "validation", "test")),
        }
    )
    assert commits()[0] == "Publish fake: 30 rows" and len(commits()) == 2, "one commit on the one that creates"
    rows, there = load_dataset(str(public)), load_dataset(REPO)
    for split in rows:
        assert there[split].to_list() == rows[split].to_list()
    assert text_of("manifest.json") == (public / "manifest.json").read_text(encoding="utf-8")
    assert f'load_dataset("{REPO}")' in text_of("README.md")

    before = len(hub.uploads)
    again = publish_dataset(public, REPO)
    assert (again.commit, again.sent, again.removed) == (None, (), ())
    assert len(hub.uploads) == before and len(commits()) == 2


def test_configs_stand_beside_each_other(hub, public, tmp_path):
    publish_dataset(public, REPO)
    other = make(tmp_path / "other", name="other", number=40)
    done = publish_dataset(other, REPO)
    assert all("fake" not in path for path in done.sent) and not done.removed
    assert set(get_dataset_config_names(REPO)) == {"default", "fake", "other"}
    default, first, second = (load_dataset(REPO, name, split="train") for name in ("default", "fake", "other"))
    assert default["study_id"] == first["study_id"] and len(second) > len(first)
    assert list(json.loads(text_of("manifest.json"))["configs"]) == ["fake", "other"]
    assert "## Config `fake` (also `default`)" in text_of("README.md") and "## Config `other`" in text_of("README.md")
    assert publish_dataset(public, REPO).commit is None, "the first config again changes nothing of the second"
    assert publish_dataset(other, REPO).commit is None


def test_stale_shards_go_in_the_same_commit(hub, public, tmp_path, monkeypatch):
    publish_dataset(public, REPO)
    monkeypatch.setattr(assemble, "ROW_GROUP", 10)
    monkeypatch.setattr(assemble, "SHARD_BYTES", 1)
    done = publish_dataset(make(tmp_path / "anew"), REPO)
    assert set(done.removed) == {
        f"data/fake/{split}-00000-of-00001.parquet"
        for split in ("train", "validation", "test")
        if f"data/fake/{split}-00000-of-00001.parquet" not in done.files
    }
    assert "data/fake/train-00000-of-00001.parquet" in done.removed
    assert len(commits()) == 3
    assert sum(map(len, load_dataset(REPO).values())) == 30


def test_the_hub_keeps_what_people_wrote_there(hub, public, dataset):
    publish_dataset(public, REPO)
    card = text_of("README.md").replace("<!-- end of notes -->", "Ask Ada before use.\n<!-- end of notes -->")
    hub.push("dataset", REPO, {"README.md": card.encode(), "figures/atlas.txt": b"ours"})
    assert publish_dataset(public, REPO).commit is None
    anew = make(dataset.parent / "anew", number=40)
    publish_dataset(anew, REPO)
    assert "Ask Ada before use." in text_of("README.md") and "| train |" in text_of("README.md")
    assert text_of("figures/atlas.txt") == "ours"

    local = anew / "README.md"
    local.write_text(local.read_text().replace("<!-- end of notes -->", "Ask Bob.\n<!-- end of notes -->"))
    with pytest.raises(ValueError, match=f"'notes' differs between .*README.md and the README.md of {REPO}"):
        publish_dataset(anew, REPO)


def test_a_push_in_between_is_kept(hub, public, dataset):
    """Both change the card: theirs comes right before our commit, which is then made for what they wrote."""
    publish_dataset(public, REPO)
    card = text_of("README.md").replace("<!-- end of notes -->", "Ask Ada before use.\n<!-- end of notes -->")
    push = {"README.md": card.encode(), "figures/atlas.txt": b"theirs"}
    path = dataset / "README.md"
    path.write_text(path.read_text().replace("<!-- end of terms -->", "As agreed.\n<!-- end of terms -->"))
    hub.before_next("POST", f"/{REPO}/commit/", lambda: hub.push("dataset", REPO, push))
    assert publish_dataset(dataset, REPO).sent == ("README.md",)
    assert len(commits()) == 4, "made, published, theirs, ours"
    assert text_of("figures/atlas.txt") == "theirs"
    assert "Ask Ada before use." in text_of("README.md") and "As agreed." in text_of("README.md")


def test_a_gitignore_there_drops_nothing(hub, public):
    HfApi().create_repo(REPO, repo_type="dataset")
    hub.push("dataset", REPO, {".gitignore": b"*.parquet\nmanifest.json\n"})
    done = publish_dataset(public, REPO)
    assert set(done.files) < set(HfApi().list_repo_files(REPO, repo_type="dataset"))


def test_pushes_without_end_are_told(hub, public, monkeypatch, capsys):
    monkeypatch.setattr(upload, "ATTEMPTS", 2)
    publish_dataset(public, REPO)
    hub.push("dataset", REPO, {"manifest.json": None})
    for number in range(2):
        push = {"atlas.txt": str(number).encode()}
        hub.before_next("POST", f"/{REPO}/commit/", lambda push=push: hub.push("dataset", REPO, push))
    assert main(["dataset", str(public), "--repo", REPO]) == 1
    assert "was changed by others 2 times meanwhile; run the same command later" in capsys.readouterr().err


def test_a_pull_request_leaves_main_alone(hub, public, capsys):
    assert main(["dataset", str(public), "--repo", REPO, "--create-pr"]) == 1
    assert f"there is no dataset {REPO} to open a pull request in" in capsys.readouterr().err
    HfApi().create_repo(REPO, repo_type="dataset")
    done = publish_dataset(public, REPO, create_pr=True, message="images of August")
    assert done.pull_request.endswith("/discussions/1")
    assert HfApi().list_repo_files(REPO, repo_type="dataset") == [".gitattributes"]
    assert sum(map(len, load_dataset(REPO, revision="refs/pr/1").values())) == 30
    assert HfApi().list_repo_commits(REPO, repo_type="dataset", revision="refs/pr/1")[0].title == "images of August"


def test_a_broken_connection_is_gone_on_with(hub, public, no_waiting, capsys):
    hub.fail_next("PUT", "^/upload/", skip=2, times=2 * 6)  # each of the other two files is tried six times
    assert main(["dataset", str(public), "--repo", REPO]) == 1
    assert "run the same command again: what arrived is not sent again" in capsys.readouterr().err
    assert len(commits()) == 1
    arrived = len(hub.asked("PUT", "^/upload/"))
    done = publish_dataset(public, REPO)
    assert done.commit
    assert len(hub.asked("PUT", "^/upload/")) - arrived == 4 - 2, "three shards and the samples, two were there"


@pytest.mark.parametrize("status", [429, 500, None])
def test_a_busy_hub_is_asked_again(hub, public, no_waiting, status):
    hub.fail_next("POST", "/preupload/", status=status)
    hub.fail_next("PUT", "^/upload/", status=status)
    hub.fail_next("POST", "/commit/", status=status)
    assert publish_dataset(public, REPO).commit
    assert len(commits()) == 2


def test_dry_run_sends_nothing(hub, public, monkeypatch, capsys):
    def writes():
        return [seen for seen in hub.log if seen.method in ("PUT", "POST", "DELETE") and "paths-info" not in seen.path]

    arguments = ["dataset", str(public), "--repo", REPO, "--dry-run"]
    assert main(arguments) == 0
    output = capsys.readouterr().out
    assert "data/fake/train-00000-of-00001.parquet" in output and "6 files; 6 to send" in output
    assert f'load_dataset("{REPO}")' in output and "Text policy public: allowed" in output
    assert not writes()
    publish_dataset(public, REPO)
    monkeypatch.delenv("HF_TOKEN")
    number = len(writes())
    assert main(arguments) == 0, "a public repository is read without a token"
    assert "6 files; 0 to send" in capsys.readouterr().out
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(arguments) == 0
    output = capsys.readouterr().out
    assert "could not be looked at" in output and "6 files; 6 to send" in output
    assert len(writes()) == number


@pytest.mark.parametrize(("name", "limit"), [("SHARD_BYTES", 1000), ("ROW_GROUP_ROWS", 9), ("ROW_GROUP_BYTES", 1000)])
def test_shards_that_the_viewer_does_not_read(public, monkeypatch, name, limit):
    monkeypatch.setattr(dataset_shards, name, limit)
    with pytest.raises(ValueError, match=r"(?s)train-00000-of-00001.parquet.*(write it anew|row groups of 100 rows)"):
        publish_dataset(public, REPO, dry_run=True)


def test_folders_that_are_not_whole(dataset, tmp_path):
    data = dataset / "data" / "fake"

    def refused(match):
        with pytest.raises((ValueError, OSError), match=match):
            publish_dataset(dataset, REPO, dry_run=True)

    (data / "notes.txt").write_text("mine")
    refused("fake holds notes.txt, which is no shard")
    (data / "notes.txt").unlink()
    shard = data / "train-00000-of-00001.parquet"
    table = pq.read_table(shard)
    pq.write_table(table.slice(1), shard)
    refused(rf"holds {table.num_rows - 1} rows of train and the manifest says {table.num_rows}")
    shard.rename(data / "train-00001-of-00002.parquet")
    refused("does not hold all shards of train")
    (dataset / "manifest.json").write_text('{"format": "else"}')
    refused("is not the manifest of a medsyn dataset")
    (dataset / "manifest.json").write_text('{"format": "medsyn-cxr", "configs": {}}')
    refused("lists no config")
    (dataset / "manifest.json").unlink()
    refused("is no dataset: it holds no manifest.json; `medsyn build` writes one")
    with pytest.raises(FileNotFoundError, match="nowhere is no dataset"):
        publish_dataset(tmp_path / "nowhere", REPO, dry_run=True)


def test_repositories_of_something_else(hub, public):
    publish_dataset(public, REPO)
    hub.push("dataset", REPO, {"medsyn-cxr.py": b"import datasets"})
    with pytest.raises(ValueError, match="holds medsyn-cxr.py, which makes load_dataset refuse"):
        publish_dataset(public, REPO)
    hub.push("dataset", REPO, {"medsyn-cxr.py": None, "manifest.json": b"[]"})
    with pytest.raises(ValueError, match=f"manifest.json of {REPO} is not the manifest of a medsyn dataset"):
        publish_dataset(public, REPO)


@pytest.mark.parametrize(
    ("configs", "said"),
    [({}, "lacks its configs"), ({"configs": {"fake": {"settings": {}}}}, "lacks the text policy of config 'fake'")],
)
def test_a_damaged_manifest(tmp_path, configs, said):
    (tmp_path / "manifest.json").write_text(json.dumps({"format": "medsyn-cxr", **configs}))
    with pytest.raises(ValueError, match=f"manifest.json is damaged, it {said}; build"):
        publish_dataset(tmp_path, REPO, dry_run=True)


def test_a_shard_cut_short_is_named(tmp_path):
    path = tmp_path / "train-00000-of-00001.parquet"
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=f"{path.name} is no Parquet file, or cut short"):
        dataset_shards.check_shard(path)


def retyped(table):
    return table.set_column(table.column_names.index("seed"), "seed", table["seed"].cast("string"))


def redescribed(table):
    info = json.loads(table.schema.metadata[b"huggingface"])
    info["info"]["features"]["view"] = {"names": ["PA", "AP"], "_type": "ClassLabel"}
    return table.replace_schema_metadata({"huggingface": json.dumps(info)})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: table.append_column("extra", table["view"]), "column 'extra', which .* (has|lacks)"),
        (lambda table: table.drop_columns("view"), "column 'view', which .* (has|lacks)"),
        (retyped, "has a column 'seed' of type (string|int64), in .* it is (string|int64)"),
        (redescribed, "describe column 'view' in another way"),
    ],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_shards_that_do_not_fit_together_are_named_before_anything_is_sent(hub, dataset, capsys, change, words, split):
    path = next((dataset / "data" / "fake").glob(f"{split}-*.parquet"))
    pq.write_table(change(pq.read_table(path)), path)
    assert main(["dataset", str(dataset), "--repo", REPO]) == 1
    said = capsys.readouterr().err
    assert re.search(words, said) and ".parquet" in said and not hub.uploads


def test_row_groups_stay_below_the_limit_whatever_the_images_weigh(tmp_path):
    noise = [np.random.default_rng(k).bytes(4_000_000) for k in range(110)]
    path = tmp_path / "train-00000-of-00001.parquet"
    with ShardWriter(path) as writer:
        writer.write(pa.table({"image": pa.array([{"bytes": each} for each in noise])}))
    assert dataset_shards.check_shard(path) == 110
    groups = [pq.read_metadata(path).row_group(k) for k in range(pq.read_metadata(path).num_row_groups)]
    assert max(group.total_byte_size for group in groups) <= 210_000_000
    pq.write_table(pq.read_table(path), path, row_group_size=100)
    with pytest.raises(ValueError, match="batch_size=(\\d+)") as raised:
        dataset_shards.check_shard(path)
    rows = int(re.search(r"batch_size=(\d+)", str(raised.value))[1])
    pq.write_table(pq.read_table(path), path, row_group_size=rows)  # the remedy helps
    assert dataset_shards.check_shard(path) == 110
