"""`medsyn evaluate`: small heads on frozen encoders, trained with 1, 10 and 100 % of the labels."""

from __future__ import annotations

import re
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from medsyn.errors import UserError, command
from trainers.downstream.options import TRAINING, EvaluateOptions, is_csv, named, parse

if TYPE_CHECKING:
    import numpy as np

    from trainers.downstream.encoders import FrozenEncoder
    from trainers.downstream.images.annotated_images import AnnotatedImages
    from trainers.downstream.images.image_set import ImageSet
    from trainers.downstream.images.labelled_images import LabelledImages

FEW_PATIENTS = 5
Draws = list[tuple[float, int, "np.ndarray"]]


@command("medsyn evaluate", interrupted="cached features are kept")
def main(argv: list[str] | None = None) -> int:
    """Runs `medsyn evaluate` and returns its exit code: 0 done, 1 failed with one sentence on stderr."""
    measure(parse(argv))
    return 0


def measure(options: EvaluateOptions) -> None:
    """Runs the command with parsed options: prints the table and where the results are."""
    print(run(options))
    print(f"\nresults.{{csv,parquet,md,json}} and tables.{{md,tex}} are in {options.out}")


def run(args: EvaluateOptions) -> str:
    """Measures the encoders, writes the results and returns the table."""
    from trainers.downstream.images.label_budget import budget_notes, budget_rows
    from trainers.downstream.results.model_index import add_to_card, eval_results
    from trainers.downstream.results.paper_tables import write_tables
    from trainers.downstream.results.rows import results_frame, results_table, write_results

    if args.update_cards:
        cards = {name: Path(what) / "README.md" for name, what in map(named, args.encoder) if Path(what).is_dir()}
        for card in cards.values():
            if not card.is_file():
                raise FileNotFoundError(f"there is no model card {card} for --update-cards")
    images, notes = _labelled(args) if args.task == "classify" else _annotated(args)
    notes += images.remarks()
    draws: Draws = []
    for budget in dict.fromkeys(args.budget):
        # At 100 % nothing is sampled, and a logistic head has no random initial weights.
        once = budget == 100 and args.task == "classify" and args.head == "logistic"
        seeds = range(args.seed, args.seed + (1 if once else args.seeds))
        rows = {seed: budget_rows(images, budget, seed) for seed in seeds}
        notes += budget_notes(images, budget, rows)
        draws += [(budget, seed, selected) for seed, selected in rows.items()]
    measure = {"classify": _classify, "segment": _segment, "detect": _detect}[args.task]
    rows, leaks = measure(args, images, draws, notes), images.leaks()
    if any(leaks.values()):  # tables and cards carry the name but not the notes
        rows = [row | {"dataset": f"{row['dataset']} (split leaks)"} for row in rows]

    notes = sorted(notes)
    table = results_table(rows) + "".join(f"\n- {note}" for note in notes)
    settings = asdict(args) | {"notes": notes, "images": images.counts(), "leaks": leaks}
    settings |= {"left_out": {why: list(ids) for why, ids in images.left_out.items()}}
    write_results(args.out, rows, table, settings)
    write_tables(results_frame(rows), args.out)
    for name, card in cards.items() if args.update_cards else ():
        add_to_card(card, eval_results(rows, name))
    return table


def _labelled(args: EvaluateOptions) -> tuple[LabelledImages, list[str]]:
    """Reads labelled images; returns them with notes on their labels."""
    from trainers.downstream.images.labelled_images import images_from_csv, images_from_dataset

    common = {"shares": args.resplit, "seed": args.seed, "allow_leaks": args.allow_leaks}
    if is_csv(args.dataset):
        patient = args.patient_column or "patient_id"
        columns = (args.file_column, args.labels_column, args.split_column, patient)
        images = images_from_csv(args.dataset, *columns, args.skip_missing, args.unlabelled, **common)
    else:
        patient = args.patient_column or "subject_id"
        images = images_from_dataset(args.dataset, args.config, patient, args.uncertain, args.unlabelled, **common)
    images, left_out = images.with_labels(args.labels, args.min_positives)
    notes = [f"left out: {name} ({why})" for name, why in left_out.items()]
    if args.exclusive:
        images.one_label_each()
    for split, consequence in (("validation", "not used to select a head"), ("test", "not part of macro AUROC")):
        targets = images.targets[images.rows(split)]
        for column, label in enumerate(images.labels):
            lacking = [word for value, word in ((1, "positives"), (0, "negatives")) if value not in targets[:, column]]
            if lacking:
                notes.append(f"{label} has no {' and no '.join(lacking)} in {split}: {consequence}")
    test = images.rows("test")
    for column, label in enumerate(images.labels):
        patients = len(set(images.patients[test[images.targets[test, column] == 1]]))
        if 0 < patients < FEW_PATIENTS:
            notes.append(f"{label} has positives of only {patients} patients in test: its interval is unreliable")
    return images, notes


def _annotated(args: EvaluateOptions) -> tuple[AnnotatedImages, list[str]]:
    """Reads images with boxes or masks; returns them with notes on their annotations."""
    from trainers.downstream.images.annotated_images import annotated_from_csv, annotated_from_dataset

    common = {"unannotated": args.unannotated, "shares": args.resplit, "seed": args.seed}
    common["allow_leaks"] = args.allow_leaks
    if is_csv(args.dataset):
        images = annotated_from_csv(
            args.dataset,
            args.boxes_column if args.task == "detect" else None,
            args.mask_column if args.task == "segment" else None,
            args.findings,
            args.file_column,
            args.split_column,
            args.patient_column or "patient_id",
            args.annotated_column,
            skip_missing=args.skip_missing,
            **common,
        )
    else:
        kind = {"detect": "boxes", "segment": "masks"}[args.task]
        patient = args.patient_column or "subject_id"
        images = annotated_from_dataset(args.dataset, args.findings, args.config, patient, (kind,), **common)
    shown = {split: int(images.shown[images.rows(split)].sum()) for split in images.counts()}
    remarks = ", ".join(f"{shown[split]} of {count} {split} images" for split, count in images.counts().items())
    notes = [f"with {images.shown_names[0]}: {remarks}"]
    absent = [split for split in ("train", "test") if not shown[split]]
    if absent:
        raise UserError(
            f"{images.name}: no image of {' and '.join(absent)} shows {images.shown_names[0]} ({remarks}); choose "
            "other --findings, or re-split the patients with --resplit"
        )
    return images, notes


def _encoders(args: EvaluateOptions) -> list[tuple[FrozenEncoder, str]]:
    """Loads all encoders before the first is measured, so that one that fails to load costs no training; returns each
    with the first digits of its weights' hash."""
    from trainers.downstream.encoders import load_encoder

    loaded = [load_encoder(what, name, args.image_size, args.seed) for name, what in map(named, args.encoder)]
    return [(encoder, encoder.weights_hash()[:12]) for encoder in loaded]


def _settings(args: EvaluateOptions, kind: type):
    """Fills a dataclass of settings with the options given on the command line; the others keep its defaults."""
    given = {name: getattr(args, name) for name in (*TRAINING, "neck_width", "resize", "preset")}
    given["decoder_channels"] = tuple(args.decoder_channels) if args.decoder_channels else None
    given |= {"batch_size": args.train_batch_size, "cache": args.maps, "device": args.device}
    known = {field.name for field in fields(kind)}
    return kind(**{name: value for name, value in given.items() if name in known and value is not None})


def _model_folder(args: EvaluateOptions, encoder: FrozenEncoder, budget: float, seed: int) -> Path:
    name = re.sub(r"[^\w.+-]+", "_", encoder.name)
    return Path(args.out) / "models" / f"{name}-{budget:g}-{seed}"


def _classify(args: EvaluateOptions, images: ImageSet, draws: Draws, notes: list[str]) -> list[dict]:
    from tqdm import tqdm

    from trainers.downstream.encoders import cached_features
    from trainers.downstream.results.probe import ProbeRun, result_rows
    from trainers.downstream.tasks.classifier_folder import save_classifier
    from trainers.downstream.tasks.logistic_head import fit_head
    from trainers.downstream.tasks.trained_head import HeadSettings, train_head

    validation, test, runs = images.rows("validation"), images.rows("test"), []
    settings, encoders = _settings(args, HeadSettings), _encoders(args)
    with tqdm(total=len(args.encoder) * len(draws), desc="fitting heads", unit="head") as bar:
        for encoder, weights in encoders:
            folder = args.cache or Path(args.out) / "features"
            table = cached_features(encoder, images, folder, args.batch_size, args.device)
            for budget, seed, rows in draws:
                if args.head == "trained":
                    head = train_head(encoder, images, table, rows, seed, settings, args.exclusive)
                else:
                    known = images.targets[rows], table[validation], images.targets[validation]
                    head = fit_head(table[rows], *known, exclusive=args.exclusive)
                constant = tuple(images.labels[label] for label in head.constant)
                base = (encoder.name, weights, budget, seed)
                runs.append(ProbeRun(*base, head(table[test]), len(rows), head.penalty, constant))
                if args.save_models:
                    folder = _model_folder(args, encoder, budget, seed)
                    save_classifier(folder, encoder, *head.plain(), images.labels, args.exclusive)
                bar.update()
    for budget, seed, constant in {(run.budget, run.seed, run.constant) for run in runs if run.constant}:
        notes.append(
            f"{budget:g} %, seed {seed}: no training cases of {', '.join(constant)}, left out of every macro AUROC"
        )
    return result_rows(images, runs, args.resamples, args.seed, args.exclusive)


def _needs_findings(images: ImageSet, draws: Draws) -> None:
    without = [f"{budget:g} % with seed {seed}" for budget, seed, rows in draws if not images.shown[rows].any()]
    if without:
        raise UserError(
            f"{images.name}: no training image shows {images.shown_names[0]} in {len(without)} of {len(draws)} "
            f"samples ({', '.join(without)}): choose a larger --budget or another --seed"
        )


def _segment(args: EvaluateOptions, images: ImageSet, draws: Draws, notes: list[str]) -> list[dict]:
    from hub_medsyn.metrics.macro_auroc import patient_draws
    from trainers.downstream.results.rows import MeasuredRun, measured_rows, weighted_means
    from trainers.downstream.tasks.segmentation import SegmentationSettings, train_segmenter
    from trainers.downstream.tasks.segmentation_models import build_segmenter

    _needs_findings(images, draws)
    settings, encoders, runs = _settings(args, SegmentationSettings), _encoders(args), []
    for encoder, _ in encoders:
        build_segmenter(encoder, args.seed, settings.decoder_channels)  # refuses before anything is trained
    resamples = patient_draws(images.patients[images.rows("test")], args.resamples, args.seed)
    for encoder, weights in encoders:
        for budget, seed, rows in draws:
            run = train_segmenter(encoder, images, rows, seed, settings)
            metrics = {name: run.metrics[name] for name in ("dice_per_image", "dice_dataset", "dice_official")}
            samples = {"dice_per_image": weighted_means(run.dice, resamples)}
            runs.append(MeasuredRun(encoder.name, weights, budget, seed, len(rows), metrics, samples))
            if args.save_models:
                folder = _model_folder(args, encoder, budget, seed)
                run.model.save_pretrained(folder)
                run.processor.save_pretrained(folder)
    return measured_rows(images, "segmentation", runs)


def _detect(args: EvaluateOptions, images: ImageSet, draws: Draws, notes: list[str]) -> list[dict]:
    import numpy as np

    from hub_medsyn.metrics.macro_auroc import patient_draws
    from hub_medsyn.metrics.mean_average_precision import IOU_THRESHOLDS
    from trainers.downstream.results.rows import MeasuredRun, measured_rows
    from trainers.downstream.tasks.detection import checked_boxes, train_detector
    from trainers.downstream.tasks.detection_bootstrap import match, resampled_map
    from trainers.downstream.tasks.detection_maps import DetectionSettings, FeatureMaps, new_detector

    _needs_findings(images, draws)
    settings, runs, test = _settings(args, DetectionSettings), [], images.rows("test")
    settings = replace(settings, encoding_batch_size=args.batch_size)
    resamples = patient_draws(images.patients[test], args.resamples, args.seed)
    boxes, encoders = [checked_boxes(images, row) for row in test], _encoders(args)
    for encoder, _ in encoders:
        new_detector(encoder, args.seed, settings)  # refuses before anything is trained
    for encoder, weights in encoders:
        used = np.unique(np.concatenate([*(rows for *_, rows in draws), images.rows("validation"), test]))
        maps = FeatureMaps(encoder, images, used, settings)
        for budget, seed, rows in draws:
            run = train_detector(encoder, images, rows, seed, settings, maps)
            metrics = {"map_40_75": run.metrics["map"]}
            metrics |= {name: run.metrics[name] for name in ("map_50", "map_75", "map_official")}
            found = match([run.predictions[row] for row in test], boxes, IOU_THRESHOLDS)
            samples = {"map_40_75": resampled_map(found, resamples)}
            runs.append(MeasuredRun(encoder.name, weights, budget, seed, len(rows), metrics, samples))
            if args.save_models:
                folder = _model_folder(args, encoder, budget, seed)
                run.model.save_pretrained(folder)
                run.processor.save_pretrained(folder)
    return measured_rows(images, "detection", runs)


if __name__ == "__main__":
    sys.exit(main())
