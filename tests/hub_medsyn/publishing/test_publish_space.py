"""The page to a Space: what lies where, what is left out, and that no text goes along that may not."""

import json
import subprocess
from pathlib import Path

import pytest
from huggingface_hub import HfApi, SpaceCard, snapshot_download

from hub_medsyn.policy.verdict import PolicyError
from hub_medsyn.publishing.publish import main, publish_space

REPO = "your-org/medsyn"
FILES = {
    "spaces_app/__init__.py": "",
    "spaces_app/app.py": "from hub_medsyn import model\n",
    "spaces_app/README.md": "---\ntitle: medsyn\nsdk: gradio\napp_file: app.py\n---\n\n# medsyn\n",
    "spaces_app/requirements.txt": "torch\n",
    "spaces_app/style.css": "body {}\n",
    "spaces_app/bundle/models/tiny/config.json": "{}",
    "medsyn/__init__.py": "",
    "hub_medsyn/__init__.py": "",
    "hub_medsyn/model.py": "",
    "hub_medsyn/inference/__init__.py": "",
    "dataset_builder/__init__.py": "",
    "dataset_builder/phantom/atlas.npz": "numbers",
    "model_cards/__init__.py": "",
    "model_cards/space_card.md.jinja": "",
    "LICENSE": "Apache",
}
STAY = {
    "spaces_app/__pycache__/app.cpython-311.pyc": "",
    "spaces_app/.gradio/flagged.csv": "",
    "trainers/__init__.py": "",
    "tests/test_app.py": "",
    ".env": "",
}


@pytest.fixture
def page(tmp_path) -> Path:
    for name, text in {**FILES, **STAY}.items():
        path = tmp_path / "checkout" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    checkout = tmp_path / "checkout"
    subprocess.run(["git", "init", "-q", str(checkout)], check=True)
    subprocess.run(["git", "-C", str(checkout), "add", *FILES], check=True)
    return checkout / "spaces_app"


def test_a_space_runs_from_its_root(hub, page, capsys):
    assert main(["space", str(page), "--repo", REPO]) == 0
    there = {
        str(path.relative_to(root)): path.read_text()
        for root in [Path(snapshot_download(REPO, repo_type="space"))]
        for path in root.rglob("*")
        if path.is_file() and path.name != ".gitattributes"
    }
    inside = {
        name: text
        for name, text in FILES.items()
        if name not in ("spaces_app/README.md", "spaces_app/requirements.txt")
    }
    assert there.keys() == {*inside, "app.py", "README.md", "requirements.txt"}
    assert {name: there[name] for name in inside} == inside
    assert there["app.py"] == there["spaces_app/app.py"] and there["requirements.txt"] == "torch\n"
    assert SpaceCard.load(REPO, repo_type="space").data.sdk == "gradio"
    assert HfApi().space_info(REPO).sdk == "gradio"
    number = len(hub.uploads)
    assert main(["space", str(page), "--repo", REPO]) == 0
    assert "nothing to do" in capsys.readouterr().out and len(hub.uploads) == number

    (page / "style.css").unlink()
    hub.push("space", REPO, {"ours.txt": b"ours"})
    assert publish_space(page, REPO).removed == ("spaces_app/style.css",)


@pytest.mark.parametrize("name", ["app.py", "README.md", "requirements.txt", "../hub_medsyn/__init__.py"])
def test_a_page_that_is_not_whole(page, name):
    (page / name).unlink()
    with pytest.raises(FileNotFoundError, match="hub_medsyn is not there" if "/" in name else f"holds no {name}"):
        publish_space(page, REPO, dry_run=True)


@pytest.mark.parametrize(
    "name",
    [
        "reports.csv",
        "notes.txt",
        "image.dcm",
        "tests/test_app.py",
        "bundle/mine/data/train-00000-of-00001.parquet",
        "bundle/models/tiny/tokenizer.json",
        "../dataset_builder/x.txt",
        "../model_cards/mine.md.jinja",
    ],
)
def test_a_file_that_is_not_the_packages_own_is_named_and_nothing_leaves(hub, page, capsys, name):
    path = page / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("A report.")
    assert main(["space", str(page), "--repo", REPO]) == 1
    said = capsys.readouterr().err
    assert Path(name).name in said and "--include" in said and "A report" not in said and not hub.uploads


def test_a_folder_that_is_neither_checkout_nor_installed_is_refused(page, tmp_path):
    page.parent.joinpath(".git").rename(tmp_path / "away")
    with pytest.raises(ValueError, match="neither a git checkout .* nor an installed package"):
        publish_space(page, REPO, dry_run=True)


def test_a_folder_that_is_named_is_judged_by_what_it_is(hub, page, capsys):
    model = page / "bundle" / "models" / "mine"
    model.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (model / name).write_text("{}")
    arguments = ["space", str(page), "--repo", REPO, "--dry-run", "--include", str(model)]
    assert main(arguments) == 1 and "neither a dataset" in capsys.readouterr().err
    (model / "README.md").write_text("---\nmedsyn:\n  text_policy: public\n---\n")
    assert main(arguments) == 0 and "bundle/models/mine/tokenizer.json" in capsys.readouterr().out
    (model / "reports.csv").write_text("A report.")
    assert main(arguments) == 1 and "reports.csv" in capsys.readouterr().err
    (model / "reports.csv").unlink()
    (model / "README.md").write_text(
        "---\nmedsyn:\n  text_policy: credentialed\n  vocabulary_from_reports: true\n---\n"
    )
    assert main(arguments) == 1


@pytest.mark.parametrize("options", [{}, {"private": True}])
def test_text_in_the_bundle_is_judged(hub, page, options):
    bundle = page / "bundle" / "medsyn-cxr"
    bundle.mkdir()
    built = {"text_policy": "ids-only", "seed": "secret", "secret_seed": 5}  # with its text, as `medsyn build` left it
    for settings in ({"text_policy": "credentialed"}, built):
        configs = {"phantom": {"settings": settings}}
        bundle.joinpath("manifest.json").write_text(json.dumps({"format": "medsyn-cxr", "configs": configs}))
        with pytest.raises(PolicyError, match="bundle/medsyn-cxr holds text .* a Space cannot be gated"):
            publish_space(page, REPO, include=[bundle], **options)
    bundle.joinpath("manifest.json").unlink()
    card = page / "bundle" / "models" / "tiny" / "README.md"
    card.write_text("---\nmedsyn:\n  text_policy: credentialed\n  vocabulary_from_reports: true\n---\n")
    with pytest.raises(PolicyError, match="bundle/models/tiny holds text .* a Space cannot be gated"):
        publish_space(page, REPO, include=[card.parent], **options)
    assert not hub.asked("POST", "/repos/create")


def test_images_published_without_text_may_go_along(page):
    settings = {"text_policy": "ids-only", "generator": {"name": "phantom"}}  # of `ids_only_entry`: no seed
    entry = {"settings": settings, "reports": {"sources": ["a table"]}, "splits": {"train": {"num_examples": 2}}}
    folder = page / "bundle" / "medsyn-cxr"
    folder.mkdir()
    folder.joinpath("manifest.json").write_text(json.dumps({"format": "medsyn-cxr", "configs": {"phantom": entry}}))
    done = publish_space(page, REPO, dry_run=True, include=[folder])
    assert done.verdict.allowed and "spaces_app/bundle/medsyn-cxr/manifest.json" in done.files


def test_without_a_folder_it_is_the_page_of_this_package(hub, capsys):
    assert main(["space", "--repo", REPO, "--dry-run"]) == 0
    assert "app.py" in capsys.readouterr().out and not hub.uploads
