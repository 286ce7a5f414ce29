"""The stand-in Hub as `huggingface_hub` sees it: who may do what, commits, listings, revisions, cards."""

import hashlib
import io
import json
import re
import subprocess
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from PIL import Image

from scripts.hub import main
from tests.hub.clients import online
from tests.hub.requests import COMMIT, DATASET, NAME, fetch, names, post, status_of, upload
from tests.hub.server import StandInHub


@pytest.fixture
def api(hub) -> HfApi:
    return HfApi()


@pytest.fixture
def images(api) -> HfApi:
    """An API after `your-org/images`, a dataset, was created."""
    api.create_repo(**DATASET)
    return api


def test_tokens_tell_who_one_is(hub, api):
    known = api.whoami()
    assert known["name"] == "you" and [one["name"] for one in known["orgs"]] == ["your-org"]
    assert known["auth"]["accessToken"]["role"] == "write"
    assert api.whoami(hub.read_only_token)["auth"]["accessToken"]["role"] == "read"
    for token in (hub.expired_token, "hf_unknown"):
        with pytest.raises(HfHubHTTPError, match="Invalid user token") as error:
            api.whoami(token)
        assert status_of(error) == 401


def test_repositories_are_created_moved_listed_and_deleted(hub, api):
    url = api.create_repo(NAME, repo_type="dataset", private=True)
    assert (url.repo_id, url.repo_type, str(url)) == (NAME, "dataset", f"{hub.endpoint}/datasets/{NAME}")
    assert api.create_repo(NAME, repo_type="dataset", exist_ok=True) == url
    with pytest.raises(HfHubHTTPError) as error:
        api.create_repo(NAME, repo_type="dataset")
    assert status_of(error) == 409
    assert api.create_repo("mine").repo_id == "you/mine"
    with pytest.raises(HfHubHTTPError, match="don't have the rights to create a model under") as error:
        api.create_repo("their-org/mine")
    assert status_of(error) == 403
    assert api.dataset_info(NAME).private and not api.model_info("you/mine").private
    assert [one.id for one in api.list_datasets(author="your-org")] == [NAME]
    assert not list(HfApi(token=hub.somebody_elses_token).list_datasets())
    status, said = post(hub, "/api/repos/create", {"name": "images.git"})
    assert (status, said) == (400, "'images.git' cannot be the name of a repository")
    api.move_repo(NAME, "your-org/moved", repo_type="dataset")
    assert not api.repo_exists(NAME, repo_type="dataset") and api.dataset_info("your-org/moved").private
    api.delete_repo("your-org/moved", repo_type="dataset")
    assert not api.repo_exists("your-org/moved", repo_type="dataset")
    with pytest.raises(RepositoryNotFoundError):
        api.delete_repo("your-org/moved", repo_type="dataset")


def test_what_is_missing_or_private_is_not_found(hub, images):
    images.update_repo_settings(**DATASET, private=True)
    stranger, nobody = HfApi(token=hub.somebody_elses_token), HfApi(token=False)
    for name in (NAME, "your-org/nothing", "bert"):
        for api, status in ((stranger, 404), (nobody, 401)):
            with pytest.raises(RepositoryNotFoundError) as error:
                api.dataset_info(name)
            assert status_of(error) == status
    with pytest.raises(RepositoryNotFoundError, match="is expired") as error:  # as huggingface.co answers
        HfApi(token=hub.expired_token).dataset_info(NAME)
    assert status_of(error) == 401
    with pytest.raises(HfHubHTTPError, match="may not write") as error:
        upload(HfApi(token=hub.read_only_token), {"a.txt": b"a"})
    assert status_of(error) == 403
    assert HfApi(token=hub.read_only_token).dataset_info(NAME).private
    images.auth_check(**DATASET, write=True)
    with pytest.raises(HfHubHTTPError):
        HfApi(token=hub.read_only_token).auth_check(**DATASET, write=True)


def test_commits_are_those_of_git(hub, images, tmp_path):
    picture = io.BytesIO()
    Image.new("L", (4, 4)).save(picture, "png")
    first = upload(images, {"a/image.png": picture.getvalue(), "notes.txt": b"plain", "b/c/d.txt": b"deep"})
    assert str(first) == f"{hub.endpoint}/datasets/{NAME}/commit/{first.oid}"
    assert images.dataset_info(NAME).sha == first.oid
    files = {one.rfilename: one for one in images.dataset_info(NAME, files_metadata=True).siblings}
    assert sorted(files) == [".gitattributes", "a/image.png", "b/c/d.txt", "notes.txt"]
    assert files["a/image.png"].lfs.sha256 == hashlib.sha256(picture.getvalue()).hexdigest()
    assert files["a/image.png"].size == len(picture.getvalue()) and files["notes.txt"].lfs is None
    assert files["notes.txt"].blob_id == hashlib.sha1(b"blob 5\0plain").hexdigest()

    second = images.create_commit(
        **DATASET,
        operations=[
            CommitOperationDelete("b/"),
            CommitOperationDelete("notes.txt"),
            CommitOperationCopy("a/image.png", "a/copy.png"),
        ],
        commit_message="tidy",
        commit_description="two went",
    )
    assert images.list_repo_files(**DATASET) == [".gitattributes", "a/copy.png", "a/image.png"]
    output = [(one.commit_id, one.title, one.message) for one in images.list_repo_commits(**DATASET)]
    assert (
        output[:2] == [(second.oid, "tidy", "two went"), (first.oid, "more", "")] and output[2][1] == "initial commit"
    )
    folder = hub.repository("dataset", NAME).folder
    git = ["git", f"--git-dir={folder}", "fsck", "--strict"]
    assert subprocess.run(git, capture_output=True).returncode == 0
    with pytest.raises(EntryNotFoundError, match="with this name doesn't exist"):
        images.delete_file("nothing.txt", **DATASET)
    header = {"key": "header", "value": {"summary": "bad"}}
    for path in ("../up.txt", ".git/config", 'a"b\n.txt', "/root.txt", "folder/"):
        status, said = post(hub, COMMIT, header, {"key": "file", "value": {"path": path, "content": "x"}})
        assert (status, said) == (400, f"{path!r} cannot be a path in a repository")
    assert post(hub, COMMIT, {"key": "file", "value": {"path": "a.txt", "content": "x"}})[0] == 400
    assert images.dataset_info(NAME).sha == second.oid


def test_a_listing_comes_in_pages(tmp_path):
    with online(tmp_path, page_size=2) as hub:
        api = HfApi()
        api.create_repo(**DATASET)
        upload(api, {f"folder/{name}.txt": name.encode() for name in "abcde"})
        hub.log.clear()
        found = list(api.list_repo_tree(**DATASET, recursive=True, expand=True))
        inside = [f"folder/{name}.txt" for name in "abcde"]
        assert names(found) == [".gitattributes", "folder", *inside]
        assert [seen.status for seen in hub.asked("GET", "/tree/")] == [200] * 4
        assert found[2].last_commit.title == "more" and found[0].last_commit.title == "initial commit"
        assert names(api.list_repo_tree(**DATASET)) == [".gitattributes", "folder"]
        assert names(api.list_repo_tree(path_in_repo="folder", **DATASET)) == inside
        assert len(api.list_repo_commits(**DATASET)) == 2
        with pytest.raises(EntryNotFoundError):
            list(api.list_repo_tree(path_in_repo="nothing", **DATASET))
        known = api.get_paths_info(paths=["folder/a.txt", "folder", "nothing"], **DATASET)
        assert names(known) == ["folder/a.txt", "folder"]
        folder = Path(api.snapshot_download(**DATASET))
        assert sorted(f"folder/{path.name}" for path in folder.glob("folder/*")) == inside


def test_revisions_branches_and_tags(hub, images):
    first = upload(images, {"a.txt": b"one"}).oid
    images.create_tag(tag="v1", **DATASET)
    images.create_branch(branch="try/it", **DATASET)
    upload(images, {"a.txt": b"two"}, revision="try/it")
    second = upload(images, {"a.txt": b"three"}).oid

    def read(revision=None) -> bytes:
        return open(images.hf_hub_download(filename="a.txt", revision=revision, **DATASET), "rb").read()

    found = [read(), read("v1"), read("try/it"), read(first), read(first[:8])]
    assert found == [b"three", b"one", b"two", b"one", b"one"]
    refs = images.list_repo_refs(**DATASET)
    assert {one.name: one.ref for one in refs.branches} == {"main": "refs/heads/main", "try/it": "refs/heads/try/it"}
    assert {one.name: one.target_commit for one in refs.tags} == {"v1": first}
    for again, name in ((images.create_tag, {"tag": "v1"}), (images.create_branch, {"branch": "main"})):
        with pytest.raises(HfHubHTTPError, match="already exists") as error:
            again(**name, **DATASET)
        assert status_of(error) == 409
    images.delete_tag(tag="v1", **DATASET)
    images.delete_branch(branch="try/it", **DATASET)
    for missing in ("v1", "try/it", "0" * 40):
        with pytest.raises(RevisionNotFoundError):
            images.dataset_info(NAME, revision=missing)
    with pytest.raises(RevisionNotFoundError):
        upload(images, {"a.txt": b"x"}, revision="nowhere")
    with pytest.raises(EntryNotFoundError):
        images.hf_hub_download(filename="b.txt", **DATASET)
    assert images.dataset_info(NAME, revision="main").sha == second


def test_a_stale_parent_is_refused(hub, images):
    before = images.dataset_info(NAME).sha
    hub.before_next("POST", "/commit/", lambda: hub.push("dataset", NAME, {"other.txt": b"mine"}))
    with pytest.raises(HfHubHTTPError, match="A commit has happened since") as error:
        upload(images, {"a.txt": b"x"}, parent_commit=before)
    assert status_of(error) == 412
    assert images.list_repo_files(**DATASET) == [".gitattributes", "other.txt"]
    upload(images, {"a.txt": b"x"}, parent_commit=images.dataset_info(NAME).sha)
    assert "a.txt" in images.list_repo_files(**DATASET)


def test_pull_requests_leave_main_alone(hub, images):
    made = upload(images, {"a.txt": b"one"}, create_pr=True)
    assert made.pr_num == 1 and made.pr_revision == "refs/pr/1"
    assert images.list_repo_files(**DATASET) == [".gitattributes"]
    assert images.list_repo_files(revision="refs/pr/1", **DATASET) == [".gitattributes", "a.txt"]
    upload(images, {"b.txt": b"two"}, revision="refs/pr/1")
    assert "b.txt" in images.list_repo_files(revision="refs/pr/1", **DATASET)
    stranger = HfApi(token=hub.somebody_elses_token)
    assert upload(stranger, {"a.parquet": b"three"}, create_pr=True).pr_num == 2
    requests = images.list_repo_refs(include_pull_requests=True, **DATASET).pull_requests
    assert [one.name for one in requests] == ["1", "2"]
    with pytest.raises(HfHubHTTPError, match="403"):
        upload(stranger, {"a.txt": b"four"})


def test_gated_repositories_are_for_those_who_were_let_in(hub, images):
    upload(images, {"a.txt": b"one", "a.parquet": b"two"})
    images.update_repo_settings(**DATASET, gated="manual")
    assert images.dataset_info(NAME).gated == "manual"
    stranger, nobody = HfApi(token=hub.somebody_elses_token), HfApi(token=False)
    assert "a.txt" in stranger.list_repo_files(**DATASET)  # names are for everybody, files are not
    for api, status in ((stranger, 403), (nobody, 401)):
        for name in ("a.txt", "a.parquet"):
            with pytest.raises(GatedRepoError) as error:
                api.hf_hub_download(filename=name, **DATASET)
            assert status_of(error) == status
        with pytest.raises(GatedRepoError):
            api.auth_check(**DATASET)
    images.grant_access(user="somebody-else", **DATASET)
    assert open(stranger.hf_hub_download(filename="a.parquet", **DATASET), "rb").read() == b"two"
    images.update_repo_settings(**DATASET, gated=False)
    output = images.dataset_info(NAME, expand=["gated"])  # nothing else
    assert output.gated is False and output.sha is None


@pytest.mark.parametrize(
    ("kind", "card", "said"),
    [
        ("model", "license: free-for-all", '"license" with value "free-for-all"'),
        ("model", "tags: [1, 2]", "array of strings"),
        ("model", "base_model: /home/runs/best", '"base_model" with value'),
        ("model", "model-index: [{results: []}]", "name"),
        ("model", "model-index: [{name: a, results: [{task: {type: b}, metrics: [{type: c}]}]}]", "dataset.type"),
        ("dataset", "a: [", "not valid"),
        ("dataset", "language: English", "ISO 639"),
        ("space", "title: a", '"sdk" must be one of'),
        ("space", "sdk: gradio\ncolorFrom: lilac", '"colorFrom" must be one of'),
        ("space", "sdk: gradio\nsdk_version: 6.31", '"sdk_version" must be a string'),
    ],
)
def test_cards_that_the_hub_would_refuse(kind, card, said, api):
    api.create_repo(NAME, repo_type=kind, space_sdk="gradio" if kind == "space" else None)
    with pytest.raises(ValueError, match="Invalid metadata in README.md") as error:
        readme = f"---\n{card}\n---\nText".encode()
        api.upload_file(path_or_fileobj=readme, path_in_repo="README.md", repo_id=NAME, repo_type=kind)
    assert said in str(error.value)


def test_a_card_becomes_metadata(hub, images):
    card = b"---\nlicense: cc-by-4.0\ntags: [images]\npretty_name: Images\n---\n# Images\n"
    upload(images, {"README.md": card})
    info = images.dataset_info(NAME)
    assert info.card_data.pretty_name == "Images" and info.tags == ["images", "license:cc-by-4.0"]
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        upload(images, {"README.md": b"# Images\n"})
    images.create_repo("a-space", repo_type="space", space_sdk="gradio")
    assert images.space_info("you/a-space").sdk == "gradio"
    assert images.list_repo_files("you/a-space", repo_type="space") == [".gitattributes", "README.md"]
    config = CommitOperationAdd("config.json", b'{"model_type": "bert", "secret": 1}')
    readme = CommitOperationAdd("README.md", b"---\nlibrary_name: timm\npipeline_tag: image-classification\n---\n")
    images.create_repo("a-model")
    images.create_commit("you/a-model", [config, readme], commit_message="model")
    model = images.model_info("you/a-model")
    assert (model.library_name, model.pipeline_tag) == ("timm", "image-classification")
    assert model.config == {"model_type": "bert"}
    page = fetch(f"{hub.endpoint}/datasets/{NAME}")[2].decode()
    assert "# Images" in page and f"{hub.endpoint}/datasets/{NAME}/resolve/main/README.md" in page


def test_the_folder_outlives_the_server(tmp_path):
    with online(tmp_path):
        api = HfApi()
        api.create_repo(**DATASET, private=True)
        upload(api, {"a.parquet": b"stays"})
    with online(tmp_path):
        assert HfApi().dataset_info(NAME).private
        found = HfApi().hf_hub_download(filename="a.parquet", force_download=True, **DATASET)
        assert open(found, "rb").read() == b"stays"
    assert constants.HF_HUB_OFFLINE
    with pytest.raises(OfflineModeIsEnabled):
        HfApi().dataset_info(NAME)


def test_the_command_says_how_to_use_it(tmp_path, capsys, monkeypatch):
    def asked_while_it_runs(hub) -> None:
        shown = capsys.readouterr().out
        settings = dict(re.findall(r"export (\w+)=(\S+)", shown))
        place, token = settings["HF_ENDPOINT"], settings["HF_TOKEN"]
        status, _, body = fetch(f"{place}/api/whoami-v2", Authorization=f"Bearer {token}")
        assert status == 200 and json.loads(body)["name"] == "you" and settings["HF_HUB_DISABLE_XET"] == "1"
        assert str(tmp_path) in shown
        assert fetch(f"{place}/")[0] == 200 and fetch(f"{place}/api/nothing")[0] == 404
        raise KeyboardInterrupt

    monkeypatch.setattr(StandInHub, "wait", asked_while_it_runs)
    assert main(["--port", "0", "--folder", str(tmp_path / "kept")]) == 0
    assert "stopped" in capsys.readouterr().out
    with StandInHub(tmp_path / "other") as hub:
        port = hub.endpoint.rsplit(":", 1)[1]
        assert main(["--port", port, "--folder", str(tmp_path / "kept")]) == 1
    assert "choose another --port" in capsys.readouterr().err
