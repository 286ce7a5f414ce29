"""A published dataset, read by the last `datasets` that ran loading scripts and by the newest there is."""

import hashlib
import json
import os
import re
import subprocess
import sys
import warnings

import pytest
from datasets import load_dataset

# Runs in an environment that holds datasets and pillow alone.
READER = """
import hashlib, json, sys
import datasets, huggingface_hub
from datasets import load_dataset

def told(rows):
    return [[row["study_id"], row["prompt"], row["labels"], row["boxes"], len(row["finding_masks"]),
             hashlib.sha256(row["image"].tobytes()).hexdigest()] for row in rows]

name, out = sys.argv[1:]
answer = {"versions": [datasets.__version__, huggingface_hub.__version__]}
answer["plain"] = {split: told(rows) for split, rows in load_dataset(name).items()}
answer["streamed"] = {split: told(rows) for split, rows in load_dataset(name, streaming=True).items()}
answer["other"] = told(load_dataset(name, "other", split="train"))
answer["streamed other"] = told(load_dataset(name, "other", split="train", streaming=True))
answer["columns"] = list(next(iter(load_dataset(name, split="train", streaming=True, columns=["study_id"]))))
answer["features"] = str(sorted(load_dataset(name, split="train").features))
json.dump(answer, open(out, "w"))
"""


def output(rows) -> list:
    return [
        [
            row["study_id"],
            row["prompt"],
            row["labels"],
            row["boxes"],
            len(row["finding_masks"]),
            hashlib.sha256(row["image"].tobytes()).hexdigest(),
        ]
        for row in rows
    ]


@pytest.mark.slow
@pytest.mark.parametrize("requirement", ["datasets==3.6.0", "datasets"])
def test_other_versions_read_it(requirement, hub, dataset, built, tmp_path):
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1"]
    installed = subprocess.run([*install, requirement, "pillow"], capture_output=True, text=True)
    if installed.returncode and re.search(r"from versions: none|[Cc]onnection|name resolution", installed.stderr):
        said = f"pip reaches no index, so that nobody knows whether {requirement} reads what is published"
        warnings.warn(said, stacklevel=1)
        pytest.skip(said)
    assert installed.returncode == 0, installed.stderr

    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HF_TOKEN")}
    environment |= {"HF_HOME": str(tmp_path / "home")}
    command = [python, "-P", "-c", READER, dataset, tmp_path / "answer.json"]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    answer = json.loads((tmp_path / "answer.json").read_text())
    print(f"{requirement}: datasets and huggingface_hub", *answer["versions"])
    here = {split: json.loads(json.dumps(output(rows))) for split, rows in load_dataset(str(built)).items()}
    other = json.loads(json.dumps(output(load_dataset(str(built), "other", split="train"))))
    assert answer["plain"] == answer["streamed"] == here
    assert answer["other"] == answer["streamed other"] == other
    assert answer["columns"] == ["study_id"]
    assert answer["features"] == str(sorted(load_dataset(str(built), split="train").features))
