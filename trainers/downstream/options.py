"""The options of `medsyn evaluate`, a sub-command per task, and of `medsyn probe`; imports no torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from medsyn.errors import add_debug_option

TASKS = ("classify", "segment", "detect")

ABOUT = {
    "classify": ("a linear classifier: macro AUROC, accuracy", "Fit a linear head on a frozen encoder."),
    "segment": ("a U-Net or DPT decoder: Dice per image", "Train a segmenter on a frozen encoder."),
    "detect": ("a YOLOv3 head: mAP at IoU .40 to .75", "Train a detector on a frozen encoder."),
}
# Options that apply to one kind of source only; with the other they are rejected.
OF_DATASETS = ("config", "uncertain")
OF_CSVS = (
    *("file_column", "labels_column", "split_column", "skip_missing"),
    *("boxes_column", "mask_column", "annotated_column"),
)
TRAINING = ("epochs", "patience", "train_batch_size", "learning_rate", "weight_decay", "augment")
Add = Callable[..., argparse.Action]


@dataclass
class EvaluateOptions:
    """
    The options of one run of `medsyn evaluate`, as [`parse`] returns them. Options of other tasks keep their defaults.

    Args:
        task (`str`): `classify`, `segment` or `detect`.
        encoder (`list[str]`): `[NAME=]WHAT` of each encoder, see [`~trainers.downstream.encoders.load_encoder`].
        dataset (`str`): A folder or Hub id for `load_dataset`, or a CSV.
    """

    task: str
    encoder: list[str]
    dataset: str
    out: str = "results"
    patient_column: str | None = None
    budget: list[float] = field(default_factory=lambda: [1, 10, 100])
    seeds: int = 3
    seed: int = 0
    resplit: list[float] | None = None
    allow_leaks: bool = False
    image_size: int = 224
    batch_size: int = 32
    device: str = "cpu"
    resamples: int = 1000
    save_models: bool = False
    update_cards: bool = False
    # classification
    labels: list[str] | None = None
    min_positives: int = 5
    unlabelled: str = "absent"
    exclusive: bool = False
    head: str = "logistic"
    cache: str | None = None
    # segmentation and detection
    findings: list[str] | None = None
    unannotated: str = "drop"
    decoder_channels: list[int] | None = None
    neck_width: int | None = None
    resize: str | None = None
    preset: str | None = None
    maps: str | None = None
    # training of heads
    epochs: int | None = None
    patience: int | None = None
    train_batch_size: int | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    augment: bool | None = None
    # a dataset
    config: str | None = None
    uncertain: str = "mask"
    # a CSV
    file_column: str = "file"
    labels_column: str = "labels"
    split_column: str = "split"
    skip_missing: bool = False
    boxes_column: str = "boxes"
    mask_column: str = "mask"
    annotated_column: str | None = None


def parser(command: str = "evaluate") -> argparse.ArgumentParser:
    """Returns the parser of `medsyn evaluate`, a sub-command per task, or of `medsyn probe`, which is `classify`."""
    if command == "probe":
        return _task_parser(
            argparse.ArgumentParser(
                prog="medsyn probe",
                description="Measure frozen image encoders with a linear head; an alias of medsyn evaluate classify.",
                epilog="example: medsyn probe --encoder ours=runs/convirt --encoder random=random:runs/convirt "
                "--dataset ./medsyn-cxr --out results",
            ),
            "classify",
        )
    arguments = argparse.ArgumentParser(
        prog="medsyn evaluate",
        description="Measure frozen image encoders: train a small head on top of each, at every label budget, and "
        "score it on the test split with a bootstrap interval by patient.",
        epilog="example: medsyn evaluate detect --encoder ours=runs/gloria --encoder random=random:runs/gloria "
        "--dataset ./medsyn-cxr --out results",
    )
    tasks = arguments.add_subparsers(dest="task", required=True, metavar="TASK", title="tasks")
    for task, (short, long) in ABOUT.items():
        _task_parser(
            tasks.add_parser(task, help=short, description=f"{long} `medsyn evaluate` compares encoders."), task
        )
    return arguments


def _task_parser(arguments: argparse.ArgumentParser, task: str) -> argparse.ArgumentParser:
    arguments.set_defaults(task=task)
    add = arguments.add_argument
    add(
        "--encoder",
        action="append",
        required=True,
        metavar="[NAME=]WHAT",
        help="checkpoint folder, folder of an exported timm encoder, timm model name (pretrained weights), or "
        "name@FILE with a file of weights; prefix random: for random weights; repeatable. An encoder named X(Y) is "
        "compared with X, all others with the first",
    )
    add("--dataset", required=True, help="folder or Hub id for load_dataset, or a CSV with one image per row")
    add("--patient-column", help="column of the patient (default: subject_id of a dataset, patient_id of a CSV)")
    add("--out", default="results", help="folder of results.{csv,parquet,md,json} and tables.{md,tex} (default: "
        "%(default)s)")  # fmt: skip
    add("--budget", type=float, nargs="+", default=[1, 10, 100], metavar="PERCENT", help="label budgets, in percent "
        "of the training patients (default: 1 10 100)")  # fmt: skip
    add("--seeds", type=int, default=3, help="number of runs per budget, each with its own sample of patients and "
        "initial weights; always one at 100 %% with logistic heads (default: %(default)s)")  # fmt: skip
    add("--seed", type=int, default=0, help="first seed of the samples; seed of random encoders and of the bootstrap "
        "(default: %(default)s)")  # fmt: skip
    add("--resplit", type=float, nargs=3, metavar=("TRAIN", "VALIDATION", "TEST"), help="relative sizes of "
        "a new split by patient that replaces the split of the data")  # fmt: skip
    add("--allow-leaks", action="store_true", help="accept a split that shares patients or images between its parts, "
        "as some published ones do, and report their number")  # fmt: skip
    add("--image-size", type=int, default=224, help="side in pixels for encoders without a medsyn image processor "
        "(default: %(default)s)")  # fmt: skip
    add("--batch-size", type=int, default=32, help="images per encoding batch (default: %(default)s)")
    add("--device", default="cpu", help="cpu or cuda, for encoders and heads (default: %(default)s)")
    add("--resamples", type=int, default=1000, help="number of bootstrap resamples (default: %(default)s)")
    add("--save-models", action="store_true", help="write every trained model to models/ in --out")
    add("--update-cards", action="store_true", help="add the results to the README.md of each encoder folder")
    if task == "classify":
        _add_classify(arguments.add_argument_group("classification").add_argument)
    else:
        _add_located(arguments, task)
    _add_training(arguments.add_argument_group("training of the head").add_argument, task)
    dataset = arguments.add_argument_group("with a dataset").add_argument
    dataset("--config", help="config of the dataset (default: its own default)")
    if task == "classify":
        dataset("--uncertain", choices=("mask", "absent", "present"), help="reading of a label of -1; unmentioned "
                "labels are always absent (default: mask)")  # fmt: skip
    csv = arguments.add_argument_group("with a CSV").add_argument
    csv("--file-column", help="column of the image file, relative to the CSV (default: file)")
    csv("--split-column", help="column of train, valid or test (default: split)")
    csv("--skip-missing", action="store_true", default=None, help="leave out images that do not exist")
    if task == "classify":
        csv("--labels-column", help="column of the label names, joined by | (default: labels)")
    if task == "detect":
        csv("--boxes-column", help='column of boxes as JSON, [{"label", "x", "y", "w", "h"}, ...] in shares of the '
            "image (default: boxes)")  # fmt: skip
    if task == "segment":
        csv("--mask-column", help="column of the mask file of the image's size, relative to the CSV (default: mask)")
    if task != "classify":
        csv("--annotated-column", help="column that is filled for annotated images; such an image without box or mask "
            "is a negative")  # fmt: skip
    add_debug_option(arguments)
    return arguments


def _add_classify(add: Add) -> None:
    add("--labels", nargs="+", help="labels to measure (default: all with enough cases, see --min-positives)")
    add("--min-positives", type=int, help="minimum number of positives and of negatives of a label in the training "
        "and in the test split; other labels are excluded by name (default: 5)")  # fmt: skip
    add("--unlabelled", choices=("absent", "drop", "error"), help="treatment of images without any label: all labels "
        "absent, left out, or an error (default: absent)")  # fmt: skip
    add("--exclusive", action="store_true", default=None, help="mutually exclusive labels: one softmax over them, and "
        "accuracy beside macro AUROC")  # fmt: skip
    add(
        "--head",
        choices=("logistic", "trained"),
        help="logistic regression on cached features with the penalty "
        "selected on the validation split, or a head trained as in MGCA with early stopping (default: logistic)",
    )
    add("--cache", help="folder for cached features (default: features/ in --out)")


def _add_located(arguments: argparse.ArgumentParser, task: str) -> None:
    add = arguments.add_argument_group("findings").add_argument
    add("--findings", nargs="+", help="findings whose boxes or masks form the target, merged (default: all)")
    add("--unannotated", choices=("drop", "negative"), help="treatment of images that were not annotated: left out, "
        "or negatives (default: drop)")  # fmt: skip
    if task == "segment":
        add("--decoder-channels", type=int, nargs="+", help="widths of the decoder, deepest first (default: those of "
            "segmentation-models-pytorch)")  # fmt: skip
        return
    add("--neck-width", type=int, help="channels of the detector's neck (default: 512)")
    add("--resize", choices=("pad", "stretch"), help="conversion of images to squares (default: pad)")
    add("--preset", choices=("fixed", "official"), help="preset of loss and decoding (default: fixed)")
    add("--maps", metavar="memory|none|FOLDER", help="place of the feature map cache; none encodes every image in "
        "every epoch (default: memory)")  # fmt: skip


def _add_training(add: Add, task: str) -> None:
    add("--epochs", type=int, help="maximum number of training epochs (default: 50)")
    add("--patience", type=int, help="number of epochs without improvement before training stops (default: 10)")
    batch = 48 if task == "classify" else 16
    add("--train-batch-size", type=int, help=f"images per training step (default: {batch})")
    add("--learning-rate", type=float, help="constant learning rate of AdamW (default: 5e-4)")
    decay = "0.05" if task == "segment" else "1e-6"
    add("--weight-decay", type=float, help=f"weight decay of AdamW (default: {decay})")
    if task != "detect":
        add("--augment", action=argparse.BooleanOptionalAction, default=None, help="augmentation of training images, "
            f"encoded in every epoch (default: {'yes' if task == 'segment' else 'no'})")  # fmt: skip


def named(encoder: str) -> tuple[str, str]:
    """Splits an `--encoder` value into `(name, what)`; without `NAME=` both are the value."""
    name, separator, what = encoder.partition("=")
    return (name, what) if separator else (encoder, encoder)


def parse(argv: list[str] | None, command: str = "evaluate") -> EvaluateOptions:
    """Parses the options and fills in defaults; exits with 2 if they contradict each other."""
    arguments = parser(command)
    args = arguments.parse_args(with_task_first(argv) if command == "evaluate" else argv)
    names = [named(encoder)[0] for encoder in args.encoder]
    if len(set(names)) < len(names):
        arguments.error(f"two encoders share a name, among {', '.join(names)}: name them with NAME=")
    if args.seeds < 1 or args.batch_size < 1 or args.resamples < 2:
        arguments.error("--seeds and --batch-size must be at least 1, --resamples at least 2")
    if any(not 0 < budget <= 100 for budget in args.budget):
        arguments.error("--budget must be above 0 and at most 100 percent")
    from_csv = is_csv(args.dataset)
    given = _given(args, OF_DATASETS if from_csv else OF_CSVS)
    if given:
        kinds = ("a dataset", "a CSV") if from_csv else ("a CSV", "a dataset")
        arguments.error(f"{', '.join(given)}: only for {kinds[0]}, and {args.dataset} is {kinds[1]}")
    options = {name: value for name, value in vars(args).items() if value is not None and name != "debug"}
    options = EvaluateOptions(**options)
    if options.task == "classify" and options.head == "logistic" and (given := _given(args, TRAINING)):
        arguments.error(f"{', '.join(given)}: only for --head trained, and the head is logistic")
    return options


def is_csv(dataset: str) -> bool:
    """Whether `--dataset` names a CSV of images; otherwise it is a dataset."""
    return dataset.lower().endswith((".csv", ".csv.gz"))


def with_task_first(argv: list[str] | None) -> list[str]:
    """Rewrites `--task TASK`, the spelling of earlier versions, as the sub-command."""
    argv = list(sys.argv[1:] if argv is None else argv)
    for place, word in enumerate(argv):
        if word == "--task" and place + 1 < len(argv):
            return [argv[place + 1], *argv[:place], *argv[place + 2 :]]
        if word.startswith("--task="):
            return [word.removeprefix("--task="), *argv[:place], *argv[place + 1 :]]
    return argv


def _given(args: argparse.Namespace, options: Iterable[str]) -> list[str]:
    return [f"--{option.replace('_', '-')}" for option in options if getattr(args, option, None) is not None]
