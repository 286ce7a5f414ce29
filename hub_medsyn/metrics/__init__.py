"""Metrics, each a function of arrays and an `evaluate` module."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

from medsyn.errors import UserError

if TYPE_CHECKING:
    from evaluate import EvaluationModule


def load(name: str, **options: object) -> EvaluationModule:
    """
    Loads one of these metrics as an `evaluate` module, wherever the package is installed.

    Args:
        name (`str`): `chexpert_at_k`, `dice`, `macro_auroc` or `mean_average_precision`.
        options: As `evaluate.load` takes them, such as `cache_dir`.

    Raises:
        UserError: If there is no metric of that name.

    Example:

        >>> from hub_medsyn.metrics import load
        >>> load("dice").compute(predictions=[[[0, 1]]], references=[[[0, 1]]])["dice_per_image"]
        1.0
    """
    import evaluate  # not needed by those who call the functions

    file = resources.files(__name__).joinpath(f"{name}.py")
    if name.startswith("_") or not file.is_file():
        known = sorted(path.name.removesuffix(".py") for path in resources.files(__name__).iterdir())
        names = [each for each in known if not each.startswith("_")]
        raise UserError(f"there is no metric {name!r}; choose one of {', '.join(names)}")
    return evaluate.load(str(file), **options)
