"""What goes wrong between a folder and the Hub is one sentence and exit code 1, and leaves nothing half done."""

import pytest
from huggingface_hub import HfApi, constants

from hub_medsyn.publishing.publish import main


@pytest.fixture
def publish(capsys, monkeypatch):
    """Runs the command and returns what it says after it failed."""

    def run(*arguments: str, token: str | None = None) -> str:
        if token is not None:
            monkeypatch.setenv("HF_TOKEN", token)
        assert main(list(arguments)) == 1
        error = capsys.readouterr().err
        sentences = [line for line in error.splitlines() if line.startswith("medsyn publish: ")]
        assert len(sentences) == error.count("medsyn publish: ") == 1 and "Traceback" not in error, error
        return sentences[0]

    return run


def test_tokens_that_will_not_do(hub, publish, trained):
    def run(token, repo="your-org/anew"):
        hub.log.clear()
        said = publish("model", str(trained), "--repo", repo, token=token)
        assert hub.uploads == [] and not HfApi(token=hub.token).repo_exists(repo)
        return said

    assert "it has expired" in run(hub.expired_token) and "hf auth login" in run("hf_nobody_knows")
    assert "may only read" in run(hub.read_only_token) and "HF_TOKEN" in run(hub.read_only_token)
    assert "no member of your-org" in run(hub.somebody_elses_token)
    assert "there is no token" in run("")
    assert "no member of their-org" in run(hub.token, "their-org/anew")


def test_a_model_whose_connection_broke_is_gone_on_with(hub, publish, trained, no_waiting):
    command = ["model", str(trained), "--repo", "your-org/broken"]
    hub.log.clear()
    hub.fail_next("PUT", "^/upload/", times=6)  # the client tries six times
    assert "run the same command again" in publish(*command)
    assert HfApi().list_repo_files("your-org/broken") == [".gitattributes"]
    hub.fail_next("POST", "/your-org/broken/commit/", status=400)
    assert "refuses with 400" in publish(*command)
    arrived = [seen.path for seen in hub.asked("PUT", "^/upload/") if seen.status == 200]
    hub.log.clear()
    assert main(command) == 0
    assert arrived and not hub.asked("PUT", "^/upload/")  # what arrived is not sent again
    assert "model.safetensors" in HfApi().list_repo_files("your-org/broken")


def test_a_push_between_look_and_commit_is_kept(hub, trained, capsys):
    name = "your-org/busy"
    HfApi().create_repo(name)
    hub.before_next("POST", f"/{name}/commit/", lambda: hub.push("model", name, {"notes.txt": b"mine"}))
    assert main(["model", str(trained), "--repo", name]) == 0
    assert "was changed meanwhile" in capsys.readouterr().out
    assert {"notes.txt", "model.safetensors"} <= set(HfApi().list_repo_files(name))
    assert [seen.status for seen in hub.asked("POST", f"/{name}/commit/")] == [412, 200]


def test_a_pull_request_to_nowhere_and_to_somebody_else(hub, publish, trained, capsys):
    command = ["model", str(trained), "--repo", "their-org/theirs", "--create-pr"]
    assert "there is no model their-org/theirs" in publish(*command)
    HfApi(token=hub.somebody_elses_token).create_repo("their-org/theirs")
    assert main(command) == 0
    assert "/their-org/theirs/discussions/1" in capsys.readouterr().out
    assert HfApi().list_repo_files("their-org/theirs") == [".gitattributes"]
    assert "model.safetensors" in HfApi().list_repo_files("their-org/theirs", revision="refs/pr/1")


def test_a_hub_that_is_not_there(hub, publish, built, no_waiting, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    said = publish("dataset", str(built), "--repo", "your-org/anew")
    assert "http://127.0.0.1:9" in said and "run the same command again" in said
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in publish("dataset", str(built), "--repo", "your-org/anew")


def test_a_hub_without_xet(hub, publish, built, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    said = publish("dataset", str(built), "--repo", "your-org/by-xet")
    assert "does not take files by Xet; set HF_HUB_DISABLE_XET=1" in said
    monkeypatch.undo()
    assert main(["dataset", str(built), "--repo", "your-org/by-xet"]) == 0
