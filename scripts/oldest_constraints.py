"""Prints the lowest versions that `setup.cfg` allows, as constraints for pip.

python scripts/oldest_constraints.py > oldest.txt
"""

from __future__ import annotations

import configparser
import re
import sys
from pathlib import Path

SETUP = Path(__file__).resolve().parents[1] / "setup.cfg"
LOWEST = re.compile(r"^([\w.-]+)\s*>=\s*([\w.]+)")


def oldest() -> list[str]:
    """Returns `package==version` for each requirement with a lower bound, the highest of several."""
    config = configparser.ConfigParser()
    config.read(SETUP, encoding="utf-8")
    texts = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    found: dict[str, tuple[tuple[int, ...], str]] = {}
    for line in "\n".join(texts).splitlines():
        if match := LOWEST.match(line.strip()):
            name, version = match[1].lower(), match[2]
            key = tuple(int(part) for part in version.split("."))
            found[name] = max(found.get(name, ((), "")), (key, version))
    return [f"{name}=={version}" for name, (_, version) in sorted(found.items())]


if __name__ == "__main__":
    sys.stdout.write("\n".join(oldest()) + "\n")
