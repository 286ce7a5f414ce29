"""What may not go to the Hub does not: credentialed text, sentences outside the rows, tokens that may not write."""

import io
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from huggingface_hub import HfApi

from dataset_builder.build import build
from hub_medsyn.policy.verdict import PolicyError
from hub_medsyn.publishing.publish import main, publish_dataset
from hub_medsyn.publishing.upload import PublishError
from medsyn.schema import IDS_ONLY_COLUMNS
from tests.fixtures.generators import FakeGenerator, fake_records

REPO = "your-org/medsyn-cxr"
CLOSED = {"private": True, "gated": True}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    made = {}
    for policy in ("public", "credentialed", "ids-only"):
        made[policy] = tmp_path_factory.mktemp(policy) / "medsyn-cxr"
        build(list(fake_records(20)), FakeGenerator(), made[policy], text_policy=policy)
    return made


@pytest.fixture
def credentialed(folders, tmp_path) -> Path:
    return shutil.copytree(folders["credentialed"], tmp_path / "medsyn-cxr")


def a_sentence(folder: Path) -> str:
    return pq.read_table(next(folder.glob("data/fake/train-*.parquet"))).column("impression")[0].as_py()


def changed(hub) -> list[str]:
    """What a client asked to be changed."""
    reading = ("paths-info", "validate-yaml", "preupload", "objects/batch")
    asked = [seen for seen in hub.log if seen.method in ("PUT", "POST", "DELETE")]
    return [f"{seen.method} {seen.path}" for seen in asked if not any(part in seen.path for part in reading)]


@pytest.mark.parametrize("options", [[], ["--private"], ["--gated"]])
def test_credentialed_text_needs_a_private_and_gated_repository(hub, folders, options, capsys):
    assert main(["dataset", str(folders["credentialed"]), "--repo", REPO, *options]) == 1
    output = capsys.readouterr().err
    assert output.startswith("medsyn publish: The text is credentialed")
    assert all(way in output for way in ("--private --gated", "--text-policy ids-only", "--text-policy public"))
    assert not changed(hub), "nothing was created"
    assert main(["dataset", str(folders["credentialed"]), "--repo", REPO, *options, "--dry-run"]) == 1
    assert "Text policy credentialed: refused" in capsys.readouterr().out


def test_a_repository_is_closed_before_anything_is_sent(hub, folders):
    HfApi().create_repo(REPO, repo_type="dataset")
    done = publish_dataset(folders["credentialed"], REPO, **CLOSED)
    info = HfApi().repo_info(REPO, repo_type="dataset")
    assert (info.private, info.gated, done.private, done.gated) == (True, "manual", True, True)
    order = changed(hub)
    settings = [place for place, asked in enumerate(order) if "/settings" in asked]
    uploads = [place for place, asked in enumerate(order) if "/upload/" in asked or "/commit/" in asked]
    assert settings and uploads and max(settings) < min(uploads)


def test_visibility_is_never_loosened(hub, folders):
    HfApi().create_repo(REPO, repo_type="dataset", private=True)
    HfApi().update_repo_settings(REPO, repo_type="dataset", gated="manual")
    assert publish_dataset(folders["public"], REPO).commit
    info = HfApi().repo_info(REPO, repo_type="dataset")
    assert (info.private, info.gated) == (True, "manual")


def test_a_gate_that_opens_by_itself_is_none(hub, folders):
    HfApi().create_repo(REPO, repo_type="dataset", private=True)
    HfApi().update_repo_settings(REPO, repo_type="dataset", gated="auto")
    with pytest.raises(PolicyError, match="credentialed"):
        publish_dataset(folders["credentialed"], REPO)
    assert publish_dataset(folders["credentialed"], REPO, gated=True).commit
    assert HfApi().repo_info(REPO, repo_type="dataset").gated == "manual"


def test_a_repository_that_opens_while_files_are_sent(hub, folders):
    def open_it():
        hub.repository("dataset", REPO).settings["private"] = False

    hub.before_next("PUT", "^/upload/", open_it)
    with pytest.raises(PolicyError, match="credentialed and the repository is public"):
        publish_dataset(folders["credentialed"], REPO, **CLOSED)
    assert not hub.asked("POST", "/commit/")


def test_a_hub_that_does_not_close_it(hub, folders, monkeypatch):
    monkeypatch.setattr(HfApi, "update_repo_settings", lambda *args, **kwargs: None)
    with pytest.raises(PublishError, match="was to be gated and the Hub says that it is not; nothing was sent"):
        publish_dataset(folders["credentialed"], REPO, **CLOSED)
    assert not hub.uploads


def test_credentialed_text_of_others_counts(hub, folders, tmp_path):
    publish_dataset(folders["credentialed"], REPO, **CLOSED)
    HfApi().update_repo_settings(REPO, repo_type="dataset", private=False)
    other = tmp_path / "other"
    build(list(fake_records(20)), FakeGenerator(name="other"), other, text_policy="public")
    with pytest.raises(PolicyError, match="credentialed and the repository is public"):
        publish_dataset(other, REPO)


@pytest.mark.parametrize("place", ["README.md", "manifest.json", "metadata", "message", "name"])
def test_a_sentence_outside_the_rows_stays_here(hub, credentialed, place, capsys):
    sentence, options = a_sentence(credentialed), []
    if place == "README.md":
        path = credentialed / place
        path.write_text(
            path.read_text().replace("<!-- end of notes -->", f"Eg. {sentence.upper()}\n<!-- end of notes -->")
        )
        match = "of README.md"
    elif place == "manifest.json":
        manifest = json.loads((credentialed / place).read_text())
        manifest["configs"]["fake"]["settings"]["source"] = {"note": sentence}
        (credentialed / place).write_text(json.dumps(manifest))
        match = "of manifest.json"
    elif place == "metadata":
        shard = next(credentialed.glob("data/fake/train-*.parquet"))
        table = pq.read_table(shard)
        table = table.replace_schema_metadata({**table.schema.metadata, "note": sentence})
        pq.write_table(table, shard, row_group_size=10)
        match = "Parquet metadata of data/fake/train"
    elif place == "message":
        options, match = ["--message", f"images with {sentence}"], "the message"
    else:
        manifest = json.loads((credentialed / "manifest.json").read_text())
        name = "-".join(sentence.rstrip(".").split())
        manifest["configs"][name] = manifest["configs"].pop("fake")
        (credentialed / "manifest.json").write_text(json.dumps(manifest))
        (credentialed / "data" / "fake").rename(credentialed / "data" / name)
        match = "holds words of a report"
    assert main(["dataset", str(credentialed), "--repo", REPO, "--private", "--gated", *options]) == 1
    output = capsys.readouterr()
    assert match in output.err and "holds words of a report" in output.err
    assert sentence.lower() not in (output.err + output.out).lower()
    assert not changed(hub)


def test_ids_only_leaves_nothing_of_the_reports(hub, folders):
    folder = folders["ids-only"]
    published = publish_dataset(folder, REPO)
    rows = load_dataset(REPO)
    assert {tuple(split.column_names) for split in rows.values()} == {IDS_ONLY_COLUMNS}
    there = load_dataset(str(folder))
    for split in rows:
        assert rows[split]["image_id"] == there[split]["image_id"]
        assert [image.tobytes() for image in rows[split]["image"]] == [
            image.tobytes() for image in there[split]["image"]
        ]
    manifest = json.loads(Path(HfApi().hf_hub_download(REPO, "manifest.json", repo_type="dataset")).read_text())
    sizes = manifest["configs"]["fake"]["splits"]["train"]
    shard = HfApi().hf_hub_download(REPO, "data/fake/train-00000-of-00001.parquet", repo_type="dataset")
    assert sizes["file_bytes"] == Path(shard).stat().st_size
    words = {text for split in there.values() for text in (*split["impression"], *split["findings"]) if text}
    local = [Path(HfApi().hf_hub_download(REPO, path, repo_type="dataset")) for path in published.files]
    whole = b"".join(path.read_bytes() for path in local)
    assert words and not any(text.encode() in whole for text in words)
    assert not list(folder.parent.glob(f".{folder.name}-*")), "the copies without text are gone"
    number = len(hub.uploads)
    assert publish_dataset(folder, REPO).commit is None and len(hub.uploads) == number


def test_ids_only_can_be_asked_for(folders):
    with pytest.raises(PolicyError, match="seed of config 'fake' can be guessed"):
        publish_dataset(folders["credentialed"], REPO, dry_run=True, text_policy="ids-only")
    with pytest.raises(ValueError, match="only ids-only can be asked for"):
        publish_dataset(folders["credentialed"], REPO, dry_run=True, text_policy="public")


def test_a_secret_seed_stays_in_the_folder(hub, tmp_path):
    folder = tmp_path / "medsyn-cxr"
    made = build(list(fake_records(20)), FakeGenerator(), folder, text_policy="credentialed", seed="secret")
    secret = str(made["configs"]["fake"]["settings"]["secret_seed"])
    publish_dataset(folder, REPO, **CLOSED)
    without = "your-org/without-text"
    assert publish_dataset(folder, without, text_policy="ids-only").commit
    for repo_id in (REPO, without):
        for name in ("manifest.json", "README.md"):
            assert secret not in Path(HfApi().hf_hub_download(repo_id, name, repo_type="dataset")).read_text()
    assert tuple(load_dataset(without)["train"].column_names) == IDS_ONLY_COLUMNS


@pytest.mark.parametrize(
    ("before", "after"), [("credentialed", "public"), ("credentialed", "ids-only"), ("public", "ids-only")]
)
def test_text_that_was_published_is_not_withdrawn_in_place(hub, folders, before, after):
    publish_dataset(folders[before], REPO, **CLOSED)
    number = len(hub.uploads)
    with pytest.raises(
        PolicyError, match=f"published with its text as {before}, which .* history keeps; .* new repository"
    ):
        publish_dataset(folders[after], REPO)
    assert len(hub.uploads) == number


def test_images_that_hold_more_than_pixels(folders, tmp_path, hub):
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    folder = shutil.copytree(folders["ids-only"], tmp_path / "medsyn-cxr")
    shard = next(folder.glob("data/fake/train-*.parquet"))
    table = pq.read_table(shard)
    rows = table.to_pylist()
    note, picture = PngInfo(), io.BytesIO()
    note.add_text("Comment", "heart size is normal")
    Image.open(io.BytesIO(rows[3]["image"]["bytes"])).save(picture, format="png", pnginfo=note)
    rows[3]["image"]["bytes"] = picture.getvalue()
    pq.write_table(type(table).from_pylist(rows, schema=table.schema), shard, row_group_size=2)
    with pytest.raises(PolicyError, match=f"{shard.name}, row group 1: image '{rows[3]['image_id']}'"):
        publish_dataset(folder, REPO)
    assert not changed(hub) and not list(tmp_path.glob(".medsyn-cxr-*"))


def test_tokens_that_may_not_write(hub, folders, monkeypatch, capsys):
    def output(repo_id: str = REPO) -> str:
        assert main(["dataset", str(folders["public"]), "--repo", repo_id]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "Traceback" not in error
        return error

    assert "no member of nobody; publish under you or your-org" in output("nobody/images")
    monkeypatch.setenv("HF_TOKEN", hub.read_only_token)
    assert "the token of you may only read; make one that may write" in output()
    monkeypatch.setenv("HF_TOKEN", hub.expired_token)
    assert "not valid" in output() and "expired" in output()
    monkeypatch.delenv("HF_TOKEN")
    assert "there is no token" in output() and "hf auth login" in output()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert "HF_HUB_OFFLINE is set" in output()
    assert not changed(hub)


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        (("POST", "/repos/create"), 402, "asks for a subscription or for credits to hold your-org/medsyn-cxr"),
        (("POST", "/repos/create"), 403, "may not write to dataset your-org/medsyn-cxr"),
        (("POST", "/repos/create"), 409, "is taken by a repository that this token may not see"),
        (("GET", "/whoami-v2"), 429, "has been asked too often; wait a few minutes and run the same command again"),
        (("GET", "/whoami-v2"), 500, "answers 500"),
        (("POST", "/commit/"), 413, "refuses with 413"),
    ],
)
def test_what_the_hub_answers_is_told(hub, no_waiting, folders, capsys, request_, status, words):
    hub.fail_next(*request_, status=status, times=100)
    assert main(["dataset", str(folders["public"]), "--repo", REPO]) == 1
    sentence = capsys.readouterr().err.partition("medsyn publish: ")[2]
    assert words in sentence and sentence.count("\n") == 1


def test_a_hub_that_is_not_there(folders, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    assert main(["dataset", str(folders["public"]), "--repo", REPO]) == 1
    assert "the connection to http://127.0.0.1:" in capsys.readouterr().err


@pytest.mark.parametrize("repo_id", ["images", "a/b/c", "org/", "org/fi lms", "org/images.git"])
def test_names_that_cannot_be(folders, repo_id, capsys):
    assert main(["dataset", str(folders["public"]), "--repo", repo_id, "--dry-run"]) == 1
    assert f"--repo {repo_id!r}" in capsys.readouterr().err


def test_usage(capsys):
    for arguments in ([], ["dataset"], ["dataset", "x"], ["images", "x", "--repo", "a/b"], ["space", "--gated"]):
        with pytest.raises(SystemExit) as exit_code:
            main(arguments)
        assert exit_code.value.code == 2
