"""`medsyn probe`: how much a linear head learns from frozen image features, with 1, 10 and 100 % of the labels."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# What a dataset or a CSV alone has, with its defaults: given for the other, an option is refused.
DATASET_OPTIONS = {"config": None, "uncertain": "mask"}
CSV_OPTIONS = {"file_column": "file", "labels_column": "labels", "split_column": "split", "skip_missing": False}


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        prog="medsyn probe",
        description="Measures frozen image encoders: features once, then a logistic head a label at each budget of "
        "labels, macro AUROC on the test split with a bootstrap interval by patient.",
        epilog="example: medsyn probe --encoder ours=runs/convirt --encoder random=random:runs/convirt "
        "--dataset ./medsyn-cxr --out results",
    )
    add = arguments.add_argument
    add("--encoder", action="append", required=True, metavar="[NAME=]WHAT", help="repeatable; a checkpoint folder, an "
        "exported timm encoder's folder, a timm model's name, or that name@FILE of weights; random: before a folder "
        "or name takes the same shape untrained; the first encoder is compared with every other")  # fmt: skip
    add("--dataset", required=True, help="a folder or name for datasets.load_dataset, or a CSV with one image a row")
    add("--patient-column", help="whose image a row is (default: subject_id of a dataset, patient_id of a CSV)")
    add("--out", default="results", help="folder of results.{csv,md,json} (default: %(default)s)")
    add("--budget", type=float, nargs="+", default=[1, 10, 100], metavar="PERCENT", help="of the training patients "
        "whose labels are used (default: 1 10 100)")  # fmt: skip
    add("--seeds", type=int, default=3, help="draws of each budget below 100 %% (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the first draw, the random encoders and the bootstrap "
        "(default: %(default)s)")  # fmt: skip
    add("--labels", nargs="+", help="the labels to measure (default: all that --min-positives admits)")
    add("--min-positives", type=int, default=5, help="leave a label out, by name, that has fewer positives or "
        "negatives than this in the training or the test split (default: %(default)s)")  # fmt: skip
    add("--image-size", type=int, default=224, help="pixels a side for encoders that carry no image processor of ours "
        "(default: %(default)s)")  # fmt: skip
    add("--batch-size", type=int, default=32, help="images an encoder sees at once (default: %(default)s)")
    add("--device", default="cpu", help="where the encoders run (default: %(default)s)")
    add("--resamples", type=int, default=1000, help="of the bootstrap (default: %(default)s)")
    add("--cache", help="folder of the cached features (default: features/ in --out)")
    dataset = arguments.add_argument_group("of a dataset alone").add_argument
    dataset("--config", help="which of its configs (default: its own default)")
    dataset("--uncertain", choices=("mask", "absent", "present"), help="what a label of -1 becomes; an unmentioned "
            "label is always absent (default: mask)")  # fmt: skip
    csv = arguments.add_argument_group("of a CSV alone").add_argument
    csv("--file-column", help="image file, relative to the CSV (default: file)")
    csv("--labels-column", help="label names joined by | (default: labels)")
    csv("--split-column", help="train, valid or test (default: split)")
    csv("--skip-missing", action="store_true", default=None, help="go on without images that do not exist")
    return arguments


def named(encoder: str) -> tuple[str, str]:
    """`(name, what)` of an `--encoder` value; without `NAME=` the name is what it is."""
    name, separator, what = encoder.partition("=")
    return (name, what) if separator else (encoder, encoder)


def main(argv: list[str] | None = None) -> int:
    """Runs `medsyn probe` and returns its exit code: 0 done, 1 failed with one sentence on stderr."""
    arguments = parser()
    args = arguments.parse_args(argv)
    names = [named(encoder)[0] for encoder in args.encoder]
    if len(set(names)) < len(names):
        arguments.error(f"two encoders of one name among {', '.join(names)}: tell them apart with NAME=")
    if args.seeds < 1 or args.batch_size < 1 or args.resamples < 2:
        arguments.error("--seeds and --batch-size are at least 1, --resamples at least 2")
    if any(not 0 < budget <= 100 for budget in args.budget):
        arguments.error("--budget is above 0 and at most 100 percent")
    from_csv = args.dataset.endswith(".csv")
    own, foreign = (CSV_OPTIONS, DATASET_OPTIONS) if from_csv else (DATASET_OPTIONS, CSV_OPTIONS)
    given = [f"--{option.replace('_', '-')}" for option in foreign if getattr(args, option) is not None]
    if given:
        kinds = ("a dataset", "a CSV") if from_csv else ("a CSV", "a dataset")
        arguments.error(f"{', '.join(given)}: of {kinds[0]} alone, and {args.dataset} is {kinds[1]}")
    for option, default in own.items():
        if getattr(args, option) is None:
            setattr(args, option, default)
    try:
        print(run(args))
    except (ValueError, OSError) as error:
        print(f"medsyn probe: {error}", file=sys.stderr)
        return 1
    return 0


def run(args: argparse.Namespace) -> str:
    """Probes as `args` says, writes the results and returns the table."""
    from tqdm import tqdm

    from trainers.downstream.features import cached_features, load_encoder
    from trainers.downstream.label_budget import budget_rows
    from trainers.downstream.labelled_images import images_from_csv, images_from_dataset
    from trainers.downstream.logistic_head import fit_head
    from trainers.downstream.probe_results import ProbeRun, result_rows, results_table, write_results

    if args.dataset.endswith(".csv"):
        patient = args.patient_column or "patient_id"
        images = images_from_csv(
            args.dataset, args.file_column, args.labels_column, args.split_column, patient, args.skip_missing
        )
    else:
        patient = args.patient_column or "subject_id"
        images = images_from_dataset(args.dataset, args.config, patient, args.uncertain)
    images, left_out = images.with_labels(args.labels, args.min_positives)
    notes = [f"left out: {name} ({why})" for name, why in left_out.items()]
    if images.missing:
        notes.append(f"skipped {len(images.missing)} missing images: {', '.join(images.missing)}")

    train_draws = [
        (budget, seed, budget_rows(images, budget, seed))
        for budget in dict.fromkeys(args.budget)
        for seed in range(args.seed, args.seed + (1 if budget == 100 else args.seeds))
    ]
    validation, test = images.rows("validation"), images.rows("test")
    features, weights = {}, {}
    for name, what in map(named, args.encoder):
        encoder = load_encoder(what, name, args.image_size, args.seed)
        weights[name] = encoder.weights_hash()[:12]
        folder = args.cache or Path(args.out) / "features"
        features[name] = cached_features(encoder, images, folder, args.batch_size, args.device)
    runs = []
    with tqdm(total=len(features) * len(train_draws), desc="fitting heads", unit="head") as bar:
        for name, table in features.items():
            for budget, seed, rows in train_draws:
                head = fit_head(table[rows], images.targets[rows], table[validation], images.targets[validation])
                constant = tuple(images.labels[label] for label in head.constant)
                scores = head(table[test])
                runs.append(ProbeRun(name, weights[name], budget, seed, scores, len(rows), head.penalty, constant))
                bar.update()
    for budget, seed, constant in {(run.budget, run.seed, run.constant) for run in runs if run.constant}:
        notes.append(f"{budget:g} %, seed {seed}: nothing to learn {', '.join(constant)} from, scored as chance")

    rows = result_rows(images, runs, args.resamples, args.seed)
    table = results_table(rows) + "".join(f"\n- {note}" for note in sorted(notes))
    write_results(args.out, rows, table, vars(args) | {"notes": sorted(notes), "images": images.counts()})
    return table


if __name__ == "__main__":
    sys.exit(main())
