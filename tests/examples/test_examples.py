"""The examples run as they stand: three scripts in processes of their own, and the notebook."""

import subprocess
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(*arguments: str | Path) -> str:
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, cwd=EXAMPLES.parent)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_a_dataset_of_own_reports_trains_a_tiny_encoder(tmp_path):
    printed = run(EXAMPLES / "build_dataset.py", tmp_path / "my-cxr")
    assert "Moderate left pleural effusion. -> Pleural Effusion" in printed
    assert "ConVIRTModel torch.Size([1, " in run(EXAMPLES / "pretrain_tiny.py", tmp_path / "my-cxr", tmp_path / "tiny")


def test_findings_and_a_heat_map_of_the_bundled_encoder():
    assert "heat map (256, 256) hottest pixel" in run(EXAMPLES / "zero_shot.py")


def test_the_notebook():
    notebook = nbformat.read(EXAMPLES / "counterfactual.ipynb", as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(EXAMPLES.parent)}}).execute()
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "inside the mask" in printed
