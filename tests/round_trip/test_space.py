"""The page, published and fetched whole."""

import ast
import shutil
import subprocess
from pathlib import Path

import yaml
from huggingface_hub import HfApi, snapshot_download

from hub_medsyn.publishing.publish import publish_space

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_lies_whole_in_its_space(hub, tmp_path, capsys):
    for name in ("spaces_app", "medsyn", "hub_medsyn", "dataset_builder", "model_cards"):
        shutil.copytree(ROOT / name, tmp_path / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["git", "init", "-q", str(tmp_path / "source")], check=True)
    subprocess.run(["git", "-C", str(tmp_path / "source"), "add", "."], check=True)
    page = tmp_path / "source" / "spaces_app"
    done = publish_space(page, "your-org/medsyn")
    assert "changed meanwhile" not in capsys.readouterr().out  # by nobody but the Hub, which starts it with a card
    folder = Path(snapshot_download("your-org/medsyn", repo_type="space", local_dir=tmp_path / "space"))
    front = yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert front["sdk"] == "gradio" and (folder / front["app_file"]).is_file()
    assert HfApi().space_info("your-org/medsyn").sdk == "gradio"
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    for name in done.files.keys() - {"README.md"}:
        source = page / name if "/" not in name and (page / name).is_file() else page.parent / name
        assert (folder / name).read_bytes() == source.read_bytes()
    assert set(done.files) <= names and "requirements.txt" in names and "hub_medsyn/__init__.py" in names
    assert not [name for name in names if "__pycache__" in name or name.startswith("tests/")]
    own, missing = ("spaces_app", "medsyn", "hub_medsyn", "dataset_builder", "model_cards", "trainers", "medsyn"), []
    for name in sorted(names):
        if name.endswith(".py") and name != "scripts/bundle.py":  # which runs where the whole package is
            for module in imported(folder / name, name):
                if module.partition(".")[0] in own:
                    place = folder / module.replace(".", "/")
                    if not place.with_suffix(".py").is_file() and not (place / "__init__.py").is_file():
                        missing.append(f"{name} imports {module}")
    assert not missing
    hub.log.clear()
    assert publish_space(page, "your-org/medsyn").commit is None and hub.uploads == []


def imported(path: Path, name: str) -> set[str]:
    """The modules that a source imports anywhere, relative ones in full."""
    package, found = name.split("/")[:-1], set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            before = package[: len(package) - node.level + 1] if node.level else []
            found.add(".".join([*before, *([node.module] if node.module else [])]))
    return found - {""}
