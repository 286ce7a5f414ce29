"""The options of `medsyn evaluate`, and of `medsyn probe`, which are those of one of its tasks."""

from __future__ import annotations

import argparse

from medsyn.errors import add_debug_option

TASKS = ("classify", "segment", "detect")

# What one kind of source or some of the tasks alone have, with the defaults; given for another, an option is refused.
OF_DATASETS = {"config": None, "uncertain": "mask"}
OF_CSVS = {"file_column": "file", "labels_column": "labels", "split_column": "split", "skip_missing": False}
OF_CSVS |= {"boxes_column": "boxes", "mask_column": "mask", "annotated_column": None}
TRAINING = {"epochs": None, "patience": None, "train_batch_size": None, "learning_rate": None, "weight_decay": None}
OF_TASKS = {
    ("classify",): {"labels": None, "min_positives": 5, "uncertain": "mask", "labels_column": "labels"}
    | {"unlabelled": "absent", "head": "logistic", "exclusive": False, "cache": None},
    ("segment", "detect"): {"findings": None, "unannotated": "drop", "annotated_column": None},
    ("segment",): {"mask_column": "mask", "decoder_channels": None},
    ("detect",): {"boxes_column": "boxes", "neck_width": None, "resize": None, "preset": None, "maps": None},
    ("classify", "segment"): {"augment": None},
}


def parser(command: str = "evaluate") -> argparse.ArgumentParser:
    """The parser of `medsyn evaluate`, or of `medsyn probe`: the same with `--task classify` set."""
    if command == "probe":
        description = (
            "Measures frozen image encoders: features once, then a logistic head a label at each budget of labels, "
            "macro AUROC on the test split with a bootstrap interval by patient. Short for medsyn evaluate --task "
            "classify."
        )
        example = "medsyn probe --encoder ours=runs/convirt --encoder random=random:runs/convirt"
    else:
        description = (
            "Measures frozen image encoders by what a small head learns on top of them, at each budget of labels: a "
            "linear classifier (macro AUROC or accuracy), a segmenter (Dice per image) or a detector (mAP at IoU .40 "
            "to .75), on the test split with a bootstrap interval by patient."
        )
        example = "medsyn evaluate --task detect --encoder ours=runs/gloria --encoder random=random:runs/gloria"
    task = "" if command == "probe" else f"--task {'|'.join(TASKS)} "
    arguments = argparse.ArgumentParser(
        prog=f"medsyn {command}",
        usage=f"medsyn {command} {task}--encoder [NAME=]WHAT [--encoder ...] --dataset FOLDER|NAME|CSV [options]",
        description=description,
        epilog=f"example: {example} --dataset ./medsyn-cxr --out results",
    )
    add = arguments.add_argument
    if command == "probe":
        arguments.set_defaults(task="classify")
    else:
        add("--task", choices=TASKS, required=True, help="what the head has to learn")
    add(
        "--encoder",
        action="append",
        required=True,
        metavar="[NAME=]WHAT",
        help="repeatable; a checkpoint folder, an "
        "exported timm encoder's folder, a timm model's name, or that name@FILE of weights; random: before a folder "
        "or name takes the same shape untrained; one named X(Y) is compared with X, others with the first",
    )
    add("--dataset", required=True, help="a folder or name for datasets.load_dataset, or a CSV with one image a row")
    add("--patient-column", help="whose image a row is (default: subject_id of a dataset, patient_id of a CSV)")
    add("--out", default="results", help="folder of results.{csv,parquet,md,json} and tables.{md,tex} (default: "
        "%(default)s)")  # fmt: skip
    add("--budget", type=float, nargs="+", default=[1, 10, 100], metavar="PERCENT", help="of the training patients "
        "whose labels are used (default: 1 10 100)")  # fmt: skip
    add("--seeds", type=int, default=3, help="runs of each budget, each with its own patients and first "
        "weights; one at 100 %% with logistic heads (default: %(default)s)")  # fmt: skip
    add("--seed", type=int, default=0, help="of the first draw, the random encoders and the bootstrap "
        "(default: %(default)s)")  # fmt: skip
    add("--resplit", type=float, nargs=3, metavar=("TRAIN", "VALIDATION", "TEST"), help="split the patients anew, by "
        "these shares, instead of as the data say")  # fmt: skip
    add("--allow-leaks", action="store_true", help="take a split in which patients or images stand twice, as some "
        "published ones, and count them in the results, instead of refusing it")  # fmt: skip
    add("--image-size", type=int, default=224, help="pixels a side for encoders that carry no image processor of ours "
        "(default: %(default)s)")  # fmt: skip
    add("--batch-size", type=int, default=32, help="images an encoder sees at once (default: %(default)s)")
    add("--device", default="cpu", help="cpu or cuda, where encoders and heads run (default: %(default)s)")
    add("--resamples", type=int, default=1000, help="of the bootstrap (default: %(default)s)")
    add("--save-models", action="store_true", help="write every trained model into models/ in --out")
    add("--update-cards", action="store_true", help="add the results to README.md of each encoder that is a folder")
    _add_classify(arguments.add_argument_group("of classification").add_argument)
    if command == "evaluate":
        _add_located(arguments)
    _add_training(arguments.add_argument_group("of the training of heads").add_argument)
    dataset = arguments.add_argument_group("of a dataset alone").add_argument
    dataset("--config", help="which of its configs (default: its own default)")
    dataset("--uncertain", choices=("mask", "absent", "present"), help="what a label of -1 becomes; an unmentioned "
            "label is always absent (default: mask)")  # fmt: skip
    csv = arguments.add_argument_group("of a CSV alone").add_argument
    csv("--file-column", help="image file, relative to the CSV (default: file)")
    csv("--labels-column", help="label names joined by | (default: labels)")
    csv("--split-column", help="train, valid or test (default: split)")
    csv("--skip-missing", action="store_true", default=None, help="go on without images that do not exist")
    if command == "evaluate":
        csv("--boxes-column", help='boxes as JSON, [{"label", "x", "y", "w", "h"}, ...] in shares of the image '
            "(default: boxes)")  # fmt: skip
        csv("--mask-column", help="a mask file of the image's size, relative to the CSV (default: mask)")
        csv("--annotated-column", help="filled where somebody looked: an image without box or mask is a negative "
            "there")  # fmt: skip
    add_debug_option(arguments)
    return arguments


def _add_classify(add) -> None:
    add("--labels", nargs="+", help="the labels to measure (default: all that --min-positives admits)")
    add("--min-positives", type=int, help="leave a label out, by name, that has fewer positives or negatives than "
        "this in the training or the test split (default: 5)")  # fmt: skip
    add("--unlabelled", choices=("absent", "drop", "error"), help="what to do with images that name no label at all: "
        "they are free of all, left out, or an error (default: absent)")  # fmt: skip
    add("--exclusive", action="store_true", default=None, help="each image has exactly one of the labels: a softmax "
        "over them, and accuracy beside macro AUROC")  # fmt: skip
    add("--head", choices=("logistic", "trained"), help="logistic regression on cached features, its penalty chosen "
        "on the validation split; or a head trained as MGCA does, kept where the validation loss is lowest (default: "
        "logistic)")  # fmt: skip
    add("--cache", help="folder of the cached features (default: features/ in --out)")


def _add_located(arguments: argparse.ArgumentParser) -> None:
    add = arguments.add_argument_group("of segmentation and detection").add_argument
    add("--findings", nargs="+", help="whose boxes and masks, united, are to be found (default: all)")
    add("--unannotated", choices=("drop", "negative"), help="images at which nobody looked are left out, or count as "
        "having nothing to find (default: drop)")  # fmt: skip
    add("--decoder-channels", type=int, nargs="+", help="widths of the segmenter's decoder, deepest first (default: "
        "those of segmentation-models-pytorch)")  # fmt: skip
    add = arguments.add_argument_group("of detection").add_argument
    add("--neck-width", type=int, help="channels of the detector's neck (default: 512)")
    add("--resize", choices=("pad", "stretch"), help="how images become squares (default: pad)")
    add("--preset", choices=("fixed", "official"), help="of loss and decoding (default: fixed)")
    add("--maps", metavar="memory|none|FOLDER", help="where an encoder's maps are kept; none encodes every image in "
        "every epoch (default: memory)")  # fmt: skip


def _add_training(add) -> None:
    add("--epochs", type=int, help="at most (default: 50)")
    add("--patience", type=int, help="epochs without a better one after which training ends (default: 10)")
    add("--train-batch-size", type=int, help="images a step (default: 48 to classify, 16 to segment or detect)")
    add("--learning-rate", type=float, help="of AdamW, constant (default: 5e-4)")
    add("--weight-decay", type=float, help="of AdamW (default: 1e-6, and 0.05 to segment)")
    add("--augment", action=argparse.BooleanOptionalAction, default=None, help="move training images, and encode them "
        "anew in every epoch (default: no to classify, yes to segment)")  # fmt: skip


def named(encoder: str) -> tuple[str, str]:
    """`(name, what)` of an `--encoder` value; without `NAME=` the name is what it is."""
    name, separator, what = encoder.partition("=")
    return (name, what) if separator else (encoder, encoder)


def parse(argv: list[str] | None, command: str = "evaluate") -> argparse.Namespace:
    """The options, their defaults filled in; exits with 2 where they do not go together."""
    arguments = parser(command)
    args = arguments.parse_args(argv)
    names = [named(encoder)[0] for encoder in args.encoder]
    if len(set(names)) < len(names):
        arguments.error(f"two encoders of one name among {', '.join(names)}: tell them apart with NAME=")
    if args.seeds < 1 or args.batch_size < 1 or args.resamples < 2:
        arguments.error("--seeds and --batch-size are at least 1, --resamples at least 2")
    if any(not 0 < budget <= 100 for budget in args.budget):
        arguments.error("--budget is above 0 and at most 100 percent")
    from_csv = args.dataset.endswith(".csv")
    given = _given(args, OF_DATASETS if from_csv else OF_CSVS)
    if given:
        kinds = ("a dataset", "a CSV") if from_csv else ("a CSV", "a dataset")
        arguments.error(f"{', '.join(given)}: of {kinds[0]} alone, and {args.dataset} is {kinds[1]}")
    for tasks, options in OF_TASKS.items():
        if args.task not in tasks and (given := _given(args, options)):
            arguments.error(f"{', '.join(given)}: of --task {' and '.join(tasks)} alone, not of {args.task}")
    for option, default in {**OF_DATASETS, **OF_CSVS, **TRAINING, **_all_of_tasks()}.items():
        if getattr(args, option, None) is None:
            setattr(args, option, default)
    if args.task == "classify" and args.head == "logistic" and (given := _given(args, {**TRAINING, "augment": None})):
        arguments.error(f"{', '.join(given)}: of --head trained, and the head is logistic")
    return args


def _all_of_tasks() -> dict:
    return {option: default for options in OF_TASKS.values() for option, default in options.items()}


def _given(args: argparse.Namespace, options: dict) -> list[str]:
    return [f"--{option.replace('_', '-')}" for option in options if getattr(args, option, None) is not None]
