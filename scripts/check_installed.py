"""Checks that an installed medsyn brings its packaged data along. Run it with the interpreter of that environment.

python scripts/check_installed.py
"""

from __future__ import annotations

import importlib
import sys
from importlib import resources

FILES = {
    "dataset_builder.generators.phantom": ("atlas.npz", "greys.json"),
    "hub_medsyn.metrics": ("dice.py", "macro_auroc.py"),
    "model_cards": ("dataset_card.md.jinja", "checkpoint_card.md.jinja"),
    "spaces_app": ("style.css", "page.js", "results.csv", "README.md", "requirements.txt"),
    "trainers": ("configs/gpu_8.yaml", "configs/cpu_2.yaml"),
}


def missing() -> list[str]:
    """Returns the packaged files that this environment lacks."""
    return [
        f"{package}/{name}"
        for package, names in FILES.items()
        for name in names
        if not resources.files(package).joinpath(name).is_file()
    ]


def main() -> int:
    for package in ("medsyn.cli", "hub_medsyn", "dataset_builder.build"):
        importlib.import_module(package)
    lacking = missing()
    for name in lacking:
        print(f"missing in this installation: {name}", file=sys.stderr)
    if not lacking:
        print("the installation is complete")
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main())
