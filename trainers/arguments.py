"""The options of pre-training, over those of transformers' Trainer."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field

from transformers import HfArgumentParser, TrainingArguments

from medsyn.errors import UserError


@dataclass
class ModelArguments:
    """Which model is trained, and out of what."""

    _argument_group_name = "the model"

    model: str = field(default="convirt", metadata={"help": "Method.", "choices": ["convirt", "gloria", "mgca"]})
    preset: str = field(
        default="fixed",
        metadata={
            "help": "official: the published code, quirks included; paper: the numbers MedSyn prints; fixed: known "
            "bugs mended. Sets the model's switches and the defaults of the options below.",
            "choices": ["official", "paper", "fixed"],
        },
    )
    image_encoder: str = field(
        default="resnet50",
        metadata={"help": "timm architecture (random weights), local timm or transformers folder, or Hub id."},
    )
    image_weights: str | None = field(
        default=None, metadata={"help": ".pth or .safetensors file of weights for the architecture."}
    )
    text_encoder: str = field(
        default="emilyalsentzer/Bio_ClinicalBERT",
        metadata={
            "help": "Folder or Hub id of a BERT-like encoder; 'scratch' trains a small one on the dataset's words."
        },
    )
    image_size: int = field(default=224, metadata={"help": "Side of the images in pixels."})
    num_channels: int = field(
        default=3,
        metadata={"help": "Channels of the images: 3 repeats the grey image, 1 does not.", "choices": [1, 3]},
    )
    projection_dim: int | None = field(
        default=None,
        metadata={"help": "Width of the shared space; default: the preset's; gloria has none of its own."},
    )
    temperature: float | None = field(
        default=None, metadata={"help": "Contrastive temperature; default: the preset's."}
    )
    frozen_text_layers: int | None = field(
        default=None, metadata={"help": "Lower text layers that are not trained, -1 for half; default: the preset's."}
    )
    freeze_batch_norm: bool | None = field(
        default=None,
        metadata={
            "help": "Run BatchNorm on stored statistics, so that ranks equal one big batch; default: the preset's, "
            "but off for an image encoder with random weights.",
            "nargs": "?",
            "const": True,
        },
    )


@dataclass
class DataArguments:
    """What it is trained on; the command takes the preset's values instead of these where it has them."""

    _argument_group_name = "the data"

    dataset: str = field(default="medsyn-cxr", metadata={"help": "Folder or Hub id that load_dataset reads."})
    dataset_config: str | None = field(default=None, metadata={"help": "Its config; default: its own default."})
    train_split: str = field(default="train", metadata={"help": "Split to learn from."})
    eval_split: str = field(
        default="validation", metadata={"help": "Split for eval_loss, where the dataset has it; 'none' skips it."}
    )
    text_columns: list[str] = field(
        default_factory=lambda: ["prompt"],
        metadata={"help": "Text columns, joined in this order: prompt, or findings impression."},
    )
    image_column: str = field(default="image", metadata={"help": "Column of the images."})
    id_column: str = field(default="image_id", metadata={"help": "Column of unique ids."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Use only the first so many rows."})
    text_sampling: str = field(
        default="full",
        metadata={
            "help": "One random sentence a time, or the full text; default: the preset's.",
            "choices": ["sentence", "full"],
        },
    )
    sentence_rule: str = field(
        default="fixed",
        metadata={
            "help": "fixed keeps decimals whole; convirt, gloria and mgca cut and clean as their published code does.",
            "choices": ["fixed", "convirt", "gloria", "mgca"],
        },
    )
    augmentation: str = field(
        default="film",
        metadata={
            "help": "none; crop of 80 to 100 %% of the image; image: also small turns, contrast, brightness, blur.",
            "choices": ["none", "crop", "film"],
        },
    )
    horizontal_flip: bool = field(
        default=False, metadata={"help": "Mirror half of the images: left and right lose their meaning."}
    )
    cache_gb: float = field(
        default=4.0, metadata={"help": "Decode images once if all of them fit in so many GB of memory."}
    )


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
        default=None, metadata={"help": "Checkpoint folder to go on from; 'last' is the newest in --output_dir."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of weights, batches, sentences and image changes."})

    def __post_init__(self):
        if self.remove_unused_columns:
            raise UserError("remove_unused_columns=True would drop the images and texts; leave it False")
        for name, (unset, why) in WITHOUT_EFFECT.items():
            if getattr(self, name) != unset:
                raise UserError(f"{name}={getattr(self, name)} would have no effect ({why}); leave it out")
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
            raise UserError("fp16 has no effect on a CPU, which would go on in float32; take --bf16 or leave it out")
        if self.sync_batch_norm and (self.device.type != "cuda" or self.world_size == 1):
            raise UserError(
                f"sync_batch_norm=True needs several GPUs, and this run has {self.world_size} process(es) on "
                f"{self.device.type}; leave it out"
            )


# What most runs set; the help shows it before the rest of transformers' options.
COMMON = (
    "output_dir per_device_train_batch_size per_device_eval_batch_size num_train_epochs max_steps learning_rate "
    "lr_scheduler_type warmup_steps weight_decay max_grad_norm gradient_accumulation_steps bf16 fp16 use_cpu seed "
    "eval_strategy eval_steps save_strategy save_steps save_total_limit logging_steps resume_from_checkpoint "
    "dataloader_num_workers max_text_tokens channels_last gradient_cache_chunk_size sync_batch_norm"
).split()


def set_common_options_apart(parser: argparse.ArgumentParser) -> None:
    """Moves all that few runs set into a last group of its own in the help."""
    training = next(group for group in parser._action_groups if group.title == "the training")
    actions = training._group_actions
    rest = parser.add_argument_group("the training: the rest of transformers.TrainingArguments")
    rest._group_actions.extend(action for action in actions if action.dest not in COMMON)
    actions[:] = sorted((action for action in actions if action.dest in COMMON), key=lambda a: COMMON.index(a.dest))


def parse(argv: list[str] | None = None) -> tuple[ModelArguments, DataArguments, VLPTrainingArguments]:
    """Reads the command line; options that are not given take the defaults of the method's preset.

    Exits with code 2 on bad usage, as `argparse` does.
    """
    from trainers.method_trainers import METHODS

    parser = HfArgumentParser(
        (ModelArguments, DataArguments, VLPTrainingArguments),
        prog="medsyn pretrain",
        usage="medsyn pretrain --output_dir FOLDER [--dataset FOLDER|HUB-ID] [--model METHOD] [options]",
        description="Pre-train an image-text model on pairs of image and report. Research only: not for clinical use.",
    )
    set_common_options_apart(parser)
    chosen = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    chosen.add_argument("--model", default="convirt")
    chosen.add_argument("--preset", default="fixed")
    chosen.add_argument("--output_dir", "--output-dir")
    named, _ = chosen.parse_known_args(argv)
    if named.model in METHODS and named.preset in METHODS[named.model].presets:
        parser.set_defaults(eval_strategy="epoch", **METHODS[named.model].presets[named.preset])
    try:
        arguments = parser.parse_args_into_dataclasses(argv, look_for_args_file=False)
    except ValueError as error:
        parser.error(str(error))
    if named.output_dir is None:
        parser.error("the following arguments are required: --output_dir")
    return arguments
