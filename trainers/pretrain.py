"""`medsyn pretrain`, and what `accelerate launch -m trainers.pretrain` runs: pre-trains an image-text model.

The options are the dataclasses of [`trainers.arguments`] and [`trainers.training_arguments`]; method and preset set
the defaults.
"""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from medsyn.errors import UserError, command, reading
from medsyn.files import means_a_folder, only_writer
from trainers.arguments import DataArguments, ModelArguments, launch_config, read_config, short_parser

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, ProcessorMixin

    from hub_medsyn.modeling_medsyn import MedSynPreTrainedModel
    from trainers.data.pairs import PairDataset
    from trainers.training_arguments import VLPTrainingArguments


@command("medsyn pretrain", interrupted="--resume_from_checkpoint last continues from the last checkpoint")
def main(argv: list[str] | None = None) -> int:
    """Runs `argv` (*optional*, defaults to `sys.argv[1:]`) and returns the exit code: 0 done, 1 failed.

    Bad usage exits with 2, as `argparse` does.
    """
    if (arguments := parse(argv)) is not None:
        run(*arguments)
    return 0


def parse(argv: list[str] | None = None) -> tuple[ModelArguments, DataArguments, VLPTrainingArguments] | None:
    """
    Reads the command line; options that are not given take the defaults of the method's preset.

    What is ours is checked first, so that a typo or `--help` costs no import of torch.

    Returns:
        `tuple` or `None`: The three groups of options; `None` after `--print-config`.

    Raises:
        SystemExit: With code 2 on bad usage, and 0 after a help text, as `argparse` does.
        UserError: If the file of `--config` cannot be read, or names an option that does not exist.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    short = short_parser()
    given, _ = short.parse_known_args(argv)
    if "print_config" in given:
        print(launch_config(given.print_config), end="")
        return None
    file = getattr(given, "config", None)
    config = {} if file is None else read_config(file)
    argv = without_option(argv, "--config")
    words = [word for name, values in config.items() for word in (f"--{name}", *values)] + argv  # the last one wins
    given, _ = short.parse_known_args(words)
    help_all = "help_all" in given
    if not help_all and "output_dir" not in given:
        short.error("the following arguments are required: --output_dir")

    from transformers import HfArgumentParser  # seconds, which a typo must not cost

    from trainers.method_trainers import METHODS
    from trainers.training_arguments import VLPTrainingArguments

    groups = (ModelArguments, DataArguments, VLPTrainingArguments)
    parser = HfArgumentParser(groups, prog="medsyn pretrain", usage=short.usage, description=short.description)
    known = {option.name for group in groups for option in fields(group)}
    if unknown := sorted(config.keys() - known):
        raise UserError(
            f"{file} names {', '.join(map(repr, unknown))}, "
            "which is no option; `medsyn pretrain --help-all` lists them")  # fmt: skip
    presets = METHODS[getattr(given, "model", "convirt")].presets
    parser.set_defaults(eval_strategy="epoch", **presets[getattr(given, "preset", "fixed")])
    if help_all:
        parser.print_help()
        raise SystemExit(0)
    try:
        return parser.parse_args_into_dataclasses(words, look_for_args_file=False)
    except ValueError as error:
        parser.error(str(error))


def without_option(argv: list[str], option: str) -> list[str]:
    """Returns `argv` without an option and its value, in both spellings of argparse."""
    kept, skip = [], False
    for word in argv:
        if skip:
            skip = False
        elif word == option:
            skip = True
        elif not word.startswith(f"{option}="):
            kept.append(word)
    return kept


def run(
    model_arguments: ModelArguments,
    data_arguments: DataArguments,
    training_arguments: VLPTrainingArguments,
    make_model: Callable[..., tuple[PreTrainedModel, ProcessorMixin]] | None = None,
) -> None:
    """Pre-trains one model and leaves its folder.

    Args:
        model_arguments ([`~trainers.arguments.ModelArguments`]): What is trained.
        data_arguments ([`~trainers.arguments.DataArguments`]): What on.
        training_arguments ([`~trainers.training_arguments.VLPTrainingArguments`]): How; `output_dir` receives
            `config.json`, `model.safetensors`, tokenizer, image processor, card, curve and checkpoints.
        make_model (`Callable`, *optional*, defaults to [`model_of_encoders`]):
            Makes the untrained model and its processor of an architecture that no option names.

    Raises:
        UserError: If the folder holds a model already, or the data cannot be used.
        BlockingIOError: If another command is writing the folder.
        FileNotFoundError: If dataset, split, weights or checkpoint are not there.
    """
    first = training_arguments.process_index == 0  # the others of one launch write nothing of their own
    with only_writer(Path(training_arguments.output_dir), "--output_dir") if first else contextlib.nullcontext():
        _run(model_arguments, data_arguments, training_arguments, make_model or model_of_encoders)


def _run(
    model_arguments: ModelArguments,
    data_arguments: DataArguments,
    training_arguments: VLPTrainingArguments,
    make_model: Callable[..., tuple[PreTrainedModel, ProcessorMixin]],
) -> None:
    from transformers import EarlyStoppingCallback, set_seed

    from trainers.checkpoints import last_checkpoint
    from trainers.method_trainers import METHODS
    from trainers.training_card import write_card

    folder = Path(training_arguments.output_dir)
    resume = training_arguments.resume_from_checkpoint
    if resume == "last":
        resume = last_checkpoint(folder)
    if resume is None and (folder / "config.json").exists():
        raise UserError(f"{folder} already holds a model; choose another --output_dir or remove it")
    set_seed(training_arguments.seed)
    method = METHODS[model_arguments.model]
    train_rows, eval_rows = load_rows(data_arguments)
    model, processor = make_model(method.model_class, model_arguments, data_arguments, train_rows)
    train_pairs = make_pairs(train_rows, processor, data_arguments, training_arguments.seed)
    eval_pairs, evaluation_note = None, "no validation split"
    if eval_rows is not None:
        eval_pairs = make_pairs(eval_rows, processor, data_arguments, training_arguments.seed, evaluation=True)
        texts = len(set(eval_pairs.distinct_keys()))
        if texts < 2:
            evaluation_note = f"no evaluation: {texts} different report(s) in {data_arguments.eval_split} are too few"
            eval_pairs = None
    if eval_pairs is None:
        training_arguments.eval_strategy = "no"
        training_arguments.load_best_model_at_end = False
        training_arguments.early_stopping_patience = None
    trainer = method(
        model=model,
        args=training_arguments,
        train_dataset=train_pairs,
        eval_dataset=eval_pairs,
        processor=processor,
    )
    if training_arguments.early_stopping_patience is not None:
        trainer.add_callback(EarlyStoppingCallback(training_arguments.early_stopping_patience))
    sampler = trainer.train_sampler
    if eval_pairs is not None:
        batches = trainer.eval_batches(eval_pairs)
        left_out = f" ({batches.rows_left_out:,} repeat a report too often)" if batches.rows_left_out else ""
        evaluation_note = f"{batches.num_rows:,} pairs to evaluate on{left_out}"
    if trainer.is_world_process_zero():
        print(
            f"{len(train_pairs):,} pairs ({train_pairs.rows_without_text:,} rows without text left out), "
            f"{len(sampler):,} batches of {sampler.batch_size} different reports an epoch, "
            f"{sampler.rows_waiting:,} pairs waiting; "
            f"{evaluation_note}"
        )
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_model()
    trainer.save_state()
    if trainer.is_world_process_zero():
        write_card(trainer, model_arguments, data_arguments, folder)
        config = ["--config", data_arguments.dataset_config] if data_arguments.dataset_config else []
        probe = ["medsyn", "probe", "--encoder", str(folder), "--encoder", f"random:{folder}"]
        probe += ["--dataset", data_arguments.dataset, *config, "--out", f"{folder}-probe"]
        print(f"{folder} holds the model and its card. Measure it:\n  {shlex.join(probe)}")


def load_rows(data_arguments: DataArguments) -> tuple[Dataset, Dataset | None]:
    """The training split and, where the dataset has it, the evaluation split."""
    from trainers.data.dataset_by_name import load_splits

    splits = load_splits(data_arguments.dataset, data_arguments.dataset_config)
    if data_arguments.train_split not in splits:
        raise UserError(
            f"{data_arguments.dataset} has no split {data_arguments.train_split!r}, only {', '.join(splits)}; "
            "name one with --train_split"
        )
    train = splits[data_arguments.train_split]
    if data_arguments.max_train_samples is not None:
        train = train.select(range(min(data_arguments.max_train_samples, len(train))))
    if data_arguments.eval_split not in (*splits, "validation", "none"):
        raise UserError(
            f"{data_arguments.dataset} has no split {data_arguments.eval_split!r}, only {', '.join(splits)}; "
            "name one with --eval_split, or none"
        )
    return train, splits.get(data_arguments.eval_split)


def model_of_encoders(
    model_class: type[MedSynPreTrainedModel],
    model_arguments: ModelArguments,
    data_arguments: DataArguments,
    rows: Dataset,
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The model and its processor, out of the encoders that were asked for."""
    from transformers import AutoTokenizer, VisionTextDualEncoderProcessor

    from hub_medsyn import MedSynImageProcessor
    from trainers.scratch_text import small_text_config, train_tokenizer

    if model_arguments.text_encoder == "scratch":
        columns = [column for column in data_arguments.text_columns if column in rows.column_names]
        tokenizer = train_tokenizer(text for column in columns for text in rows[column] if text)
        text = small_text_config(len(tokenizer))
    else:
        text = model_arguments.text_encoder
        if not Path(text).is_dir() and means_a_folder(text):
            raise UserError(f"there is no folder {text} of a text encoder; name another --text_encoder, or scratch")
        with reading(f"the tokenizer of {text}"):
            tokenizer = AutoTokenizer.from_pretrained(text)
    switches = {
        "projection_dim": model_arguments.projection_dim,
        "temperature_global": model_arguments.temperature,
        "frozen_text_layers": model_arguments.frozen_text_layers,
        "freeze_batch_norm": model_arguments.freeze_batch_norm,
    }
    with reading("an encoder", "check --image_encoder, --image_weights and --text_encoder"):
        model = model_class.from_encoders(
            image=model_arguments.image_encoder,
            text=text,
            tokenizer=tokenizer,
            preset=model_arguments.preset,
            image_weights=model_arguments.image_weights,
            image_size=model_arguments.image_size,
            num_channels=model_arguments.num_channels,
            **{name: value for name, value in switches.items() if value is not None},
        )
    # Weights that were trained on other statistics keep them; a random start takes the methods' own 0.5.
    statistics = getattr(model.config.vision_config, "pretrained_cfg", {"mean": 0.5, "std": 0.5})
    images = MedSynImageProcessor(
        size=model_arguments.image_size,
        image_mean=statistics["mean"],
        image_std=statistics["std"],
        num_channels=model_arguments.num_channels,
    )
    return model, VisionTextDualEncoderProcessor(images, tokenizer)


def make_pairs(
    rows: Dataset, processor: ProcessorMixin, data_arguments: DataArguments, seed: int, evaluation: bool = False
) -> PairDataset:
    """A split as items; evaluation sees whole reports and unchanged images."""
    from trainers.data.pairs import PairDataset

    # differs from edreisMD/ConVIRT-pytorch: there images are changed at random for validation too

    return PairDataset(
        rows,
        processor.image_processor,
        text_columns=data_arguments.text_columns,
        image_column=data_arguments.image_column,
        id_column=data_arguments.id_column,
        seed=seed,
        augmentation="none" if evaluation else data_arguments.augmentation,
        flip=data_arguments.horizontal_flip and not evaluation,
        text_sampling="full" if evaluation else data_arguments.text_sampling,
        sentence_rule=data_arguments.sentence_rule,
        cache_gb=data_arguments.cache_gb,
    )


if __name__ == "__main__":
    sys.exit(main())
