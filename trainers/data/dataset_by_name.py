"""Datasets by folder or Hub id, as every command of the package reads them."""

from __future__ import annotations

from pathlib import Path

import datasets


def load_splits(name: str, config: str | None = None) -> datasets.DatasetDict:
    """All splits of a dataset.

    Args:
        name (`str`): A folder, or the id (`owner/name`) of a dataset on the Hub.
        config (`str`, *optional*): Which of its configs.

    Raises:
        FileNotFoundError: If `name` is neither. `datasets.load_dataset` would not say so: without a network it reads
            whatever dataset of that name it met last, in whichever folder that was.
    """
    if not Path(name).exists() and (name.startswith((".", "/", "~")) or name.count("/") != 1):
        raise FileNotFoundError(f"there is no dataset folder {name}, and an id on the Hub reads owner/name")
    return datasets.load_dataset(name, config)
