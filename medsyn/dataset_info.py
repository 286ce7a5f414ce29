"""What the README of a dataset folder says of its columns and splits, in the YAML that `datasets` reads.

Features are also in the metadata of Parquet files, where `datasets` 4 and later write lists as a type that earlier
versions do not know. These read them here; tried with `datasets` 3.6.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


def dataset_info(config: str, splits: Mapping[str, Mapping[str, int]], schema: pa.Schema) -> dict:
    """Returns the entry of `dataset_info` for one config.

    Args:
        config (`str`): Its name.
        splits (`Mapping[str, Mapping[str, int]]`): Split to `num_bytes`, `num_examples` and `file_bytes`.
        schema (`pa.Schema`): Of its shards; its metadata hold the features.
    """
    from datasets import Features

    return {
        "config_name": config,
        "features": Features.from_arrow_schema(schema)._to_yaml_list(),
        "splits": [
            {"name": split, "num_bytes": counts["num_bytes"], "num_examples": counts["num_examples"]}
            for split, counts in splits.items()
        ],
        "download_size": sum(counts["file_bytes"] for counts in splits.values()),
        "dataset_size": sum(counts["num_bytes"] for counts in splits.values()),
    }
