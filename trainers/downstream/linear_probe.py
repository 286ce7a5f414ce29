"""`medsyn probe`: a linear probe on frozen image features, with 1, 10 and 100 % of the labels.

An alias of `medsyn evaluate classify`.
"""

from __future__ import annotations

import argparse
import sys

from medsyn.errors import command
from trainers.downstream import evaluate, options
from trainers.downstream.options import parse


def parser() -> argparse.ArgumentParser:
    """Returns the parser of `medsyn probe`."""
    return options.parser("probe")


@command("medsyn probe", interrupted="cached features are kept")
def main(argv: list[str] | None = None) -> int:
    """Runs `medsyn probe` and returns its exit code: 0 done, 1 failed with one sentence on stderr."""
    evaluate.measure(parse(argv, "probe"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
