"""Datasets by folder or Hub id, as every command of the package reads them."""

from __future__ import annotations

import datasets
import fsspec

from medsyn.errors import reading
from medsyn.files import folder_or_hub_id


def load_splits(name: str, config: str | None = None) -> datasets.DatasetDict:
    """All splits of a dataset.

    Args:
        name (`str`): A folder, or the id (`owner/name`) of a dataset on the Hub.
        config (`str`, *optional*): Which of its configs.

    Raises:
        FileNotFoundError: If `name` is neither. `datasets.load_dataset` would not say so: without a network it reads
            whatever dataset of that name it met last, in whichever folder that was.
    """
    folder_or_hub_id(name, "dataset")
    with reading(f"the dataset {name}"):
        return datasets.load_dataset(name, config)


def encoded_image(cell: dict) -> bytes:
    """Returns the encoded image of a cell of `datasets.Image(decode=False)`, embedded or stored beside the dataset."""
    if cell["bytes"] is not None:
        return cell["bytes"]
    with fsspec.open(cell["path"], "rb") as file:
        return file.read()
