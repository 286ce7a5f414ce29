"""The data contract: columns, splits, labels, text policies, and the manifest of a dataset folder."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from medsyn.errors import UserError

SPLITS = ("train", "validation", "test")
SPLIT_NAMES = {  # of tables and data sets, to `SPLITS`
    "train": "train",
    "training": "train",
    "validation": "validation",
    "validate": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
CHEXPERT_LABELS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
TEXT_POLICIES = ("public", "ids-only", "credentialed")  # from the least to the most restrictive
IDS_ONLY_COLUMNS = ("image", "image_id", "study_id", "subject_id", "report_hash")
SECRET = "secret"  # stands for a base seed that is drawn at random and kept in the local manifest alone
MANIFEST = "manifest.json"
FORMAT = "medsyn-cxr"  # of a manifest


def strictest(policies: Iterable[str]) -> str:
    """
    The text policy that holds for the whole of several parts; `public` for none.

    Raises:
        UserError: If one is not of `TEXT_POLICIES`.
    """
    return max((known_policy(policy) for policy in policies), key=TEXT_POLICIES.index, default="public")


def known_policy(policy: str) -> str:
    """`policy` itself.

    Raises:
        UserError: If it is not of `TEXT_POLICIES`.
    """
    if policy not in TEXT_POLICIES:
        raise UserError(f"text policy {policy!r} is not one of {', '.join(TEXT_POLICIES)}")
    return policy


def parse_manifest(text: str, place: str) -> dict:
    """
    The manifest of a dataset.

    Args:
        text (`str`): What the file holds.
        place (`str`): The file, for messages.

    Raises:
        UserError: If it is not the manifest of a dataset of this package, or lacks the text policy of a config.
    """
    try:
        manifest = json.loads(text)
    except ValueError:
        manifest = None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError(f"{place} is not the manifest of a medsyn dataset")
    for name, entry in manifest.get("configs", {"": {}}).items():
        if "text_policy" not in entry.get("settings", {}):
            lacking = f"the text policy of config {name!r}" if name else "its configs"
            raise UserError(f"{place} is damaged, it lacks {lacking}; build the dataset again")
    return manifest


def read_manifest(folder: Path) -> dict:
    """
    The manifest of a dataset folder, with no configs where there is none.

    Raises:
        UserError: If the folder holds a `manifest.json` of something else, or a damaged one.
    """
    path = folder / MANIFEST
    if not path.exists():
        return {"format": FORMAT, "text_policy": "public", "configs": {}}
    try:
        return parse_manifest(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError:
        raise UserError(f"{path} is not the manifest of a medsyn dataset") from None
