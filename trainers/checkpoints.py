"""Checkpoints that a run can be resumed from: whole ones, of the same data and settings."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from transformers import AutoConfig
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, sort_checkpoints

from hub_medsyn.configuration_medsyn import MedSynConfig
from medsyn.errors import UserError, reading

# What a run shares with the one that resumes it. Written last, so that a checkpoint with it is whole.
BATCHES_NAME = "batches.json"
logger = logging.getLogger(__name__)


def last_checkpoint(folder: str | Path) -> str:
    """The newest whole checkpoint of a folder; says which newer ones were not written to the end.

    Raises:
        FileNotFoundError: If there is none.
    """
    checkpoints = sort_checkpoints(str(folder))  # by step
    torn = []
    while checkpoints and not (Path(checkpoints[-1]) / BATCHES_NAME).is_file():
        torn.append(Path(checkpoints.pop()).name)
    if not checkpoints:
        why = f": {' and '.join(torn)} was not written to the end; remove it and start anew" if torn else ""
        raise FileNotFoundError(f"there is no checkpoint in {folder} to resume from{why}")
    if torn:
        logger.warning(
            "%s in %s is incomplete (no %s): resuming from %s",
            " and ".join(torn),
            folder,
            BATCHES_NAME,
            Path(checkpoints[-1]).name,
        )
    return checkpoints[-1]


def check_same_run(checkpoint: str | Path, config: MedSynConfig, now: dict) -> None:
    """Checks that a checkpoint was written by a run of the same method with the same switches and batches.

    Args:
        checkpoint (`str` or `Path`): Its folder.
        config ([`~hub_medsyn.configuration_medsyn.MedSynConfig`]): Of the model to train further.
        now (`dict`): What else this run has to share with it.

    Raises:
        FileNotFoundError: If the folder is no whole checkpoint of this trainer.
        UserError: If it holds weights alone, or anything differs; names it.
    """
    path = Path(checkpoint) / BATCHES_NAME
    if not path.is_file():
        torn = Path(checkpoint).name.startswith(PREFIX_CHECKPOINT_DIR)
        raise FileNotFoundError(
            f"{checkpoint} is not a checkpoint of this trainer{', or not written to the end' if torn else ''}: "
            f"no {BATCHES_NAME}"
        )
    with reading(path):
        saved = dict(json.loads(path.read_text(encoding="utf-8")))
    if saved.get("weights_alone"):
        raise UserError(
            f"{checkpoint} holds weights alone, no optimiser state to resume from: it was written with save_only_model"
        )
    with reading(Path(checkpoint) / "config.json"):
        earlier = AutoConfig.from_pretrained(checkpoint)
    for name in ("model_type", *config.presets["fixed"]):
        saved[name], now[name] = getattr(earlier, name, "not recorded"), getattr(config, name)
    then = {name: saved.get(name, "not recorded") for name in now}
    differ = [f"{name} {then[name]} then, {now[name]} now" for name in now if then[name] != now[name]]
    if differ:
        raise UserError(
            f"{checkpoint} cannot be resumed with other data or settings ({'; '.join(differ)}); "
            "run it as it was, or start anew in another --output_dir"
        )
