"""The options of transformers' Trainer, with those that are ours."""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers import TrainingArguments

from medsyn.errors import UserError

# Options of transformers' Trainer that have no part in ours, with the value that stands for "not given".
WITHOUT_EFFECT = {
    "auto_find_batch_size": (False, "the global batch is what the loss is about"),
    "data_seed": (None, "batches are drawn from seed"),
    "dataloader_drop_last": (False, "batches are always whole"),
    "label_smoothing_factor": (0.0, "pairs have no classes"),
}


@dataclass
class VLPTrainingArguments(TrainingArguments):
    """Arguments of [`~trainers.vlp_trainer.VLPTrainer`].

    Differs from `TrainingArguments` in these defaults: `logging_steps` 10, `save_strategy` and `eval_strategy`
    `"epoch"` (the latter by the command, where there is something to evaluate on), `save_total_limit` 1,
    `logging_nan_inf_filter`, `ddp_find_unused_parameters` and `remove_unused_columns` `False`,
    `prediction_loss_only` `True`, `seed` 0. The accelerator always splits global batches over the processes. Options
    that have no part in this trainer are refused.

    Args:
        max_text_tokens (`int`, *optional*, defaults to 512): Texts are cut there, or at the encoder's own limit.
        channels_last (`bool`, *optional*, defaults to `True`):
            Keeps images and image encoder channels last in memory: the same sums, in another order, sooner.
        gradient_cache_chunk_size (`int`, *optional*):
            Pairs of a process that are encoded at once; the loss stays that of the whole batch, and every pair is
            encoded twice. Default: all, once.
        sync_batch_norm (`bool`, *optional*, defaults to `False`):
            Takes BatchNorm's statistics from the batches of all GPUs.
        early_stopping_patience (`int`, *optional*):
            Evaluations without a lower `eval_loss` after which training stops. The weights of the lowest one are kept,
            which needs a checkpoint at every evaluation.
    """

    _argument_group_name = "the training"

    max_text_tokens: int = field(default=512, metadata={"help": "Cut texts after so many tokens."})
    channels_last: bool = field(
        default=True, metadata={"help": "Keep image tensors channels last: convolutions run up to 2.5 times as fast."}
    )
    gradient_cache_chunk_size: int | None = field(
        default=None,
        metadata={
            "help": "Encode so many pairs of a process at once, twice, so that memory is that of a chunk and the "
            "loss that of the whole batch; default: all at once."
        },
    )
    sync_batch_norm: bool = field(
        default=False, metadata={"help": "Take BatchNorm's statistics from the batches of all GPUs."}
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={"help": "Stop after so many evaluations without a lower eval_loss, and keep the best weights."},
    )
    logging_steps: float = field(default=10, metadata={"help": "Log every so many steps."})
    save_strategy: str = field(
        default="epoch", metadata={"help": "When checkpoints are written: no, steps, epoch, best."}
    )
    save_total_limit: int | None = field(default=1, metadata={"help": "How many checkpoints are kept."})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "A NaN loss stops the run instead."})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Every parameter is always used."}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must stay False: items are made here."})
    prediction_loss_only: bool = field(default=True, metadata={"help": "Evaluate the loss alone."})
    output_dir: str | None = field(
        default=None, metadata={"help": "Folder of the model, its card and its checkpoints; required."}
    )
    resume_from_checkpoint: str | None = field(
        default=None, metadata={"help": "Checkpoint folder to resume from; 'last' is the newest in --output_dir."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of weights, batches, sentences and image changes."})

    def __post_init__(self) -> None:
        if self.remove_unused_columns:
            raise UserError("remove_unused_columns=True would drop the images and texts; leave it False")
        for name, (unset, why) in WITHOUT_EFFECT.items():
            if getattr(self, name) != unset:
                raise UserError(f"{name}={getattr(self, name)} would have no effect ({why}); leave it out")
        if self.early_stopping_patience is not None:
            if self.early_stopping_patience < 1:
                raise UserError(f"early_stopping_patience={self.early_stopping_patience} is below 1; leave it out")
            self.load_best_model_at_end, self.metric_for_best_model, self.greater_is_better = True, "eval_loss", False
        if self.accelerator_config is None:
            self.accelerator_config = {"split_batches": True, "dispatch_batches": False}
        super().__post_init__()
        if not self.accelerator_config.split_batches:
            raise UserError(
                "accelerator_config has split_batches=False, so that equal reports would meet across processes; "
                "leave accelerator_config out or set split_batches to true"
            )
        self._check_chunks()
        self._check_device()

    def _check_chunks(self) -> None:
        size = self.gradient_cache_chunk_size
        if size is not None and self.sync_batch_norm:
            raise UserError(
                f"gradient_cache_chunk_size={size} cannot go with sync_batch_norm: BatchNorm would take its "
                "statistics from chunks; set freeze_batch_norm instead of sync_batch_norm"
            )
        if size is not None and not 1 <= size < self.train_batch_size:
            raise UserError(
                f"gradient_cache_chunk_size={size} saves nothing of the {self.train_batch_size} pairs of a process; "
                f"set it between 1 and {self.train_batch_size - 1}, or leave it out"
            )

    def _check_device(self) -> None:
        if self.mixed_precision == "fp16" and self.device.type == "cpu":
            raise UserError("fp16 has no effect on a CPU, which would train in float32; take --bf16 or leave it out")
        if self.sync_batch_norm and (self.device.type != "cuda" or self.world_size == 1):
            raise UserError(
                f"sync_batch_norm=True needs several GPUs, and this run has {self.world_size} process(es) on "
                f"{self.device.type}; leave it out"
            )
