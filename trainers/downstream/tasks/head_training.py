"""What the trainings of all heads on frozen encoders share."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from transformers import TrainerCallback, TrainingArguments

from medsyn.errors import UserError


def check_training(settings) -> None:
    """Checks the `epochs`, `patience`, `batch_size` and `device` of a task's settings.

    Raises:
        UserError: One of the first three is not positive, the device is neither `cpu` nor `cuda`, or there is no GPU.
    """
    for name in ("epochs", "patience", "batch_size"):
        if getattr(settings, name) < 1:
            raise UserError(f"{name} {getattr(settings, name)} is not at least 1")
    if settings.device not in ("cpu", "cuda"):
        raise UserError(f"device {settings.device!r} is neither cpu nor cuda")
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device 'cuda' is asked for and torch sees no GPU; take cpu")


def training_arguments(folder: str, settings, seed: int, **more) -> TrainingArguments:
    """transformers' arguments for a task's settings: a constant learning rate, no clipping, an evaluation each epoch,
    nothing logged or saved, and one GPU at most."""
    arguments = TrainingArguments(
        output_dir=folder,
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        eval_strategy="epoch",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=settings.device == "cuda",
        use_cpu=settings.device == "cpu",
        seed=seed,
        **more,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # on several, batches would be cut apart and the encoder moved about
    return arguments


class EpochOf(TrainerCallback):
    """Sets the `epoch` of a dataset when an epoch begins.

    Not by `set_epoch`: accelerate calls that of the seedable sampler and, in some versions only, of the dataset.
    """

    def __init__(self, data: torch.utils.data.Dataset):
        self.data = data

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.data.epoch = round(state.epoch or 0)


class LowestLoss(TrainerCallback):
    """Keeps what is trained, at its lowest validation loss, in memory; stops after `patience` epochs without a lower.

    Args:
        weights (`Callable[[], dict[str, Tensor]]`): Returns a copy of them.
        patience (`int`): Epochs.
    """

    def __init__(self, weights: Callable[[], dict[str, Tensor]], patience: int):
        self.weights, self.patience = weights, patience
        self.losses: list[float] = []
        self.state: dict[str, Tensor] = {}

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        loss = metrics["eval_loss"]
        if not math.isfinite(loss):
            raise UserError(f"the validation loss is {loss} after epoch {len(self.losses) + 1}; lower learning_rate")
        if loss < min(self.losses, default=math.inf):
            self.state = self.weights()
        self.losses.append(loss)
        if len(self.losses) - 1 - int(np.argmin(self.losses)) >= self.patience:
            control.should_training_stop = True
