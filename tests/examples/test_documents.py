"""Every command that README and docs show exists: its sub-command, its options, and the files that it names."""

import re
import shlex
from pathlib import Path

import pytest

from medsyn import cli

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").glob("*.md"))]
BLOCK = re.compile(r"^```(?:bash|shell|sh)\n(.*?)^```", re.S | re.M)


def commands(document: Path) -> list[list[str]]:
    """The command lines of a document's shell blocks, continued lines joined and comments dropped."""
    found = []
    for block in BLOCK.findall(document.read_text(encoding="utf-8")):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            line = re.sub(r"<[^>]*>", "PLACEHOLDER", line.split("  #")[0].split(" > ")[0]).strip()
            if line.startswith("medsyn ") and "..." not in line:
                found.append(shlex.split(line, comments=True))
    return found


SHOWN = [(document.relative_to(ROOT).as_posix(), line) for document in DOCUMENTS for line in commands(document)]


@pytest.mark.parametrize(("document", "line"), SHOWN, ids=[f"{name}: {' '.join(line)[:60]}" for name, line in SHOWN])
def test_a_command_of_the_documents_is_known(document, line, capsys):
    """`--help` appended: the parser accepts everything before it, or exits with 2."""
    options = {word.split("=")[0] for word in line if word.startswith("--")}
    words = [word for word in line[1:3] if not word.startswith("-")]
    subcommand = words if line[1] in ("data", "publish", "evaluate") else words[:1]
    if line[1] == "data":
        subcommand = line[1:4]
    for shown in ("--help", "--help-all") if line[1] == "pretrain" else ("--help",):
        with pytest.raises(SystemExit) as stop:
            cli.main([*subcommand, shown])
        assert stop.value.code == 0
    text = capsys.readouterr().out
    missing = sorted(option for option in options if not re.search(rf"{option}\b", text))
    assert not missing, f"{document} shows {' '.join(line)}, whose {missing} `medsyn {' '.join(subcommand)}` lacks"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_files_that_a_document_links_to_exist(document):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8"))
    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_modules_that_a_document_runs_exist(document):
    text = document.read_text(encoding="utf-8")
    modules = re.findall(r"python -m ((?:benchmarks|scripts|trainers|dataset_builder|spaces_app)[\w.]*)", text)
    files = re.findall(
        r"(?<![\w/])((?:benchmarks|scripts|examples|tests|trainers|dataset_builder|hub_medsyn)/[\w/]+\.py)\b", text
    )
    paths = [ROOT / f"{module.replace('.', '/')}.py" for module in modules] + [ROOT / file for file in files]
    assert [path.relative_to(ROOT).as_posix() for path in paths if not path.exists()] == []
