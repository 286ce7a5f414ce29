"""What a plain installation needs: every package that the reports and the phantom import."""

import ast
import configparser
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = {"yaml": "pyyaml", "PIL": "pillow"}  # import -> package, where the names differ


def test_the_default_generator_needs_no_extra():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    required = {
        re.match(r"[\w-]+", line)[0] for line in config["options"]["install_requires"].split("\n") if line.strip()
    }
    builder = ROOT / "dataset_builder"
    imported = set()
    for file in [
        *builder.glob("generators/phantom/*.py"),
        *builder.glob("reports/*.py"),
        *builder.glob("pipeline/*.py"),
        *builder.glob("*.py"),
    ]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.split(".")[0])
    foreign = imported - set(sys.stdlib_module_names) - {"dataset_builder", "hub_medsyn", "medsyn"}
    assert "scipy" in foreign
    assert {PACKAGES.get(name, name) for name in foreign} <= required
