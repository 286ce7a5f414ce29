"""`medsyn probe`: how much a linear head learns from frozen image features, with 1, 10 and 100 % of the labels.

Short for `medsyn evaluate --task classify`.
"""

from __future__ import annotations

import argparse
import sys

from trainers.downstream import evaluate, options


def parser() -> argparse.ArgumentParser:
    """The options of `medsyn probe`."""
    return options.parser("probe")


def main(argv: list[str] | None = None) -> int:
    """Runs `medsyn probe` and returns its exit code: 0 done, 1 failed with one sentence on stderr."""
    return evaluate.main(argv, "probe")


if __name__ == "__main__":
    sys.exit(main())
