"""The options of `medsyn pretrain` that are ours, and its short help; imports neither torch nor transformers."""

from __future__ import annotations

import argparse
import typing
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path

import yaml

from medsyn.errors import UserError, add_debug_option


@dataclass
class ModelArguments:
    """Which model is trained, and out of what."""

    _argument_group_name = "the model"

    model: str = field(default="convirt", metadata={"help": "Method.", "choices": ["convirt", "gloria", "mgca"]})
    preset: str = field(
        default="fixed",
        metadata={
            "help": "official: the published code, quirks included; paper: the numbers that the paper prints; "
            "fixed: known bugs fixed. Sets the model's switches and the defaults of the options below.",
            "choices": ["official", "paper", "fixed"],
        },
    )
    image_encoder: str = field(
        default="resnet50",
        metadata={
            "help": "timm model name (its pretrained weights), random:NAME (random weights), local folder of timm or "
            "transformers, or Hub id."
        },
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
            "help": "none; crop of 80 to 100 %% of the image; film: also small rotations, contrast, brightness, blur.",
            "choices": ["none", "crop", "film"],
        },
    )
    horizontal_flip: bool = field(
        default=False, metadata={"help": "Mirror half of the images: left and right lose their meaning."}
    )
    cache_gb: float = field(
        default=4.0, metadata={"help": "Decode images once if all of them fit in so many GB of memory."}
    )


# Options of transformers.TrainingArguments that most runs set, as the short help shows them.
COMMON = {
    "output_dir": "folder of the model, its card and its checkpoints; required",
    "per_device_train_batch_size": "pairs per process and step (default: the preset's)",
    "per_device_eval_batch_size": "pairs per process and evaluation step (default: the preset's)",
    "num_train_epochs": "number of epochs (default: the preset's)",
    "max_steps": "number of steps, instead of epochs",
    "learning_rate": "peak learning rate (default: the preset's)",
    "lr_scheduler_type": "learning-rate schedule, such as cosine or constant (default: the preset's)",
    "warmup_steps": "warm-up steps, or their share of all steps below 1 (default: the preset's)",
    "weight_decay": "AdamW's weight decay (default: the preset's)",
    "max_grad_norm": "gradient clipping, 0 for none (default: the preset's)",
    "gradient_accumulation_steps": "batches per optimiser step (default: 1)",
    "bf16": "bfloat16 mixed precision",
    "fp16": "float16 mixed precision, on a GPU",
    "use_cpu": "train on the CPU even if there is a GPU",
    "seed": "seed of weights, batches, sentences and augmentation (default: 0)",
    "eval_strategy": "when to evaluate: no, steps or epoch (default: epoch)",
    "eval_steps": "steps between evaluations",
    "early_stopping_patience": "evaluations without a lower eval_loss before training stops; keeps the best",
    "save_strategy": "when to write checkpoints: no, steps, epoch or best (default: epoch)",
    "save_steps": "steps between checkpoints",
    "save_total_limit": "number of checkpoints kept (default: 1)",
    "logging_steps": "steps between log lines (default: 10)",
    "report_to": "tensorboard, wandb, mlflow ... or none (default: none)",
    "resume_from_checkpoint": "checkpoint folder to resume from; 'last' is the newest in --output_dir",
    "dataloader_num_workers": "processes that load images (default: 0)",
    "max_text_tokens": "tokens after which texts are truncated (default: 512)",
    "channels_last": "channels-last image tensors, faster convolutions (default: true)",
    "gradient_cache_chunk_size": "pairs encoded at once under gradient caching (default: all)",
    "sync_batch_norm": "BatchNorm statistics over the batches of all GPUs",
}
CONFIGS = "trainers", "configs"


def short_parser() -> argparse.ArgumentParser:
    """Returns the parser of the short help and of early usage errors; the rest is parsed by transformers."""
    parser = argparse.ArgumentParser(
        prog="medsyn pretrain",
        usage="medsyn pretrain --output_dir FOLDER [--dataset FOLDER|HUB-ID] [--model METHOD] [options]",
        description="Pre-train an image-text model on pairs of image and report. Research only: not for clinical use.",
        epilog="--help-all adds all options of transformers.TrainingArguments. Encoders by name are downloaded once; "
        "with the default encoders a run wants a GPU and hours. docs/cpu_recipe.md has one for a laptop.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    run = parser.add_argument_group("the run")
    run.add_argument("--config", metavar="YAML", help="file of options, one `name: value` per line; flags win over it")
    run.add_argument("--print-config", metavar="NAME", choices=launch_configs(), help="print a packaged accelerate "
        f"configuration and exit: {', '.join(launch_configs())}")  # fmt: skip
    run.add_argument("--help-all", action="store_true", help="show every option, those of transformers included")
    add_debug_option(run)
    for options in (ModelArguments, DataArguments):
        group = parser.add_argument_group(options._argument_group_name)
        for option in fields(options):
            _add_option(group, options, option)
    training = parser.add_argument_group("the training (common options of transformers.TrainingArguments)")
    for name, text in COMMON.items():
        training.add_argument(*_spellings(name), nargs="?", metavar="VALUE", help=text)
    return parser


def _add_option(group: argparse._ArgumentGroup, options: type, option: typing.Any) -> None:
    hint = typing.get_type_hints(options)[option.name]
    kinds = [kind for kind in typing.get_args(hint) or (hint,) if kind is not type(None)]
    many = typing.get_origin(hint) is list
    kind = kinds[0] if kinds[0] in (int, float) else str
    choices = option.metadata.get("choices")
    group.add_argument(
        *_spellings(option.name),
        type=kind,
        nargs="+" if many else "?" if kinds[0] is bool else None,
        choices=choices,
        metavar=None if choices else kind.__name__.upper() if kind is not str else "VALUE",
        help=option.metadata["help"] + ("" if option.default in (None, False) else f" (default: {option.default})"),
    )


def _spellings(name: str) -> list[str]:
    return list(dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}")))


def launch_configs() -> list[str]:
    """Returns the names of the packaged accelerate configurations."""
    folder = resources.files(CONFIGS[0]).joinpath(CONFIGS[1])
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def launch_config(name: str) -> str:
    """Returns a packaged accelerate configuration, as YAML."""
    return resources.files(CONFIGS[0]).joinpath(CONFIGS[1]).joinpath(f"{name}.yaml").read_text(encoding="utf-8")


def read_config(path: str | Path) -> dict[str, list[str]]:
    """
    Reads a YAML file of options.

    Args:
        path (`str` or `Path`): A mapping from an option's name to a value, a list of values, or null for "not given".

    Returns:
        `dict[str, list[str]]`: The words that stand for each option on a command line, without its name.

    Raises:
        FileNotFoundError: If there is no such file.
        UserError: If it is no YAML mapping, or a value is no scalar and no list of scalars.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is not a YAML file ({type(error).__name__}); write one `name: value` per line"
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no options: write one `name: value` per line")
    words = {}
    for name, value in content.items():
        values = value if isinstance(value, list) else [value]
        if any(isinstance(one, dict | list) for one in values):
            raise UserError(f"{path}: the value of {name!r} is nested; an option takes a value or a list of values")
        if value is not None:
            words[str(name).replace("-", "_")] = [
                str(one).lower() if isinstance(one, bool) else str(one) for one in values
            ]
    return words
