"""The options of `medsyn data`, a sub-command a data set, and the adapter that each names."""

from __future__ import annotations

import argparse

from dataset_builder.radiographs.adapters import chexpert, covidx, folder_csv, nih, object_cxr, rsna, siim
from dataset_builder.radiographs.records import RadiographSet
from dataset_builder.radiographs.splits import SHARES

WITH_BOXES = (rsna.NAME, object_cxr.NAME, nih.NAME, folder_csv.NAME)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medsyn data",
        description="Read real radiographs, with labels, boxes, masks and patients, from their official downloads.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    names = "chexpert, rsna, covidx, siim, object-cxr, nih, folder-csv"
    prepare_parser = commands.add_parser(
        "prepare",
        help=f"write a folder that load_dataset reads, from one of: {names}",
        description="Write a folder that load_dataset and `medsyn evaluate --dataset` read. "
        "`medsyn data prepare NAME --help` tells the options and the layout of one.",
    )
    sets = prepare_parser.add_subparsers(dest="name", required=True, metavar="NAME")

    def add(name: str, text: str, layout: str, splits: list[str], split_help: str):
        sub = sets.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}. {layout}")
        common(sub, splits, split_help, boxes=name in WITH_BOXES)
        return sub.add_argument_group(f"{name} alone")

    options = add(
        chexpert.NAME,
        "CheXpert (14 labels; valid.csv is the test set)",
        "--root holds train.csv, valid.csv, train/ and valid/, or the four batches of the full download.",
        ["patient", "official"],
        "official: MGCA's lists, in which most validation images are in train too",
    )
    options.add_argument(
        "--uncertain",
        choices=chexpert.UNCERTAIN_RULES,
        default="official",
        help="what becomes of -1: official (1 or 0 by disease, the default), keep, absent or present; all but keep "
        "also turn unmentioned into 0",
    )
    options.add_argument("--any-view", action="store_true", help="keep lateral images too")
    options.add_argument("--without-5x200", action="store_true", help="leave out the zero-shot set CheXpert 5x200")
    add(
        rsna.NAME,
        "RSNA Pneumonia Detection Challenge (boxes, and their union as mask)",
        "--root holds stage_2_train_labels.csv, stage_2_detailed_class_info.csv and stage_2_train_images/.",
        ["patient", "official", "official-detection"],
        "official: MGCA's lists for classification; official-detection: for detection and segmentation",
    )
    options = add(
        covidx.NAME,
        "COVIDx (normal, pneumonia, COVID-19)",
        "--root holds train_COVIDx9A.txt, test_COVIDx9A.txt, train/ and test/.",
        ["patient", "official"],
        "official: MGCA's lists, 80 / 20 of the training list by image",
    )
    options.add_argument(
        "--version", default="9A", metavar="V", help="of the lists, as in their names: 9A (default), 8B, 6, ..."
    )
    add(
        siim.NAME,
        "SIIM-ACR Pneumothorax Segmentation (masks)",
        "--root holds train-rle.csv and dicom-images-train/, png_images/ or images/.",
        ["patient", "official"],
        "official: the lists of GLoRIA and MGCA, which put parts of one mask into two splits",
    )
    add(
        object_cxr.NAME,
        "Object-CXR (boxes and masks of foreign objects; dev.csv is the test set)",
        "--root holds train.csv, dev.csv, train/ and dev/.",
        ["patient", "official"],
        "official: MGCA's lists, 90 / 10 of train.csv",
    )
    add(
        nih.NAME,
        "NIH ChestX-ray14 (14 labels and No Finding, boxes on some)",
        "--root holds Data_Entry_2017.csv, train_val_list.txt, test_list.txt, images*/ and maybe BBox_List_2017.csv.",
        ["patient", "official"],
        "official: the two lists, without a validation split",
    )
    options = add(
        folder_csv.NAME,
        "any folder of images with a CSV",
        "A row an image: its file relative to --root, its patient, and its labels joined by |.",
        ["table", "patient"],
        "table: as the split column says (default); patient: by a hash, whatever the column says",
    )
    options.add_argument("--csv", metavar="NAME", help="the CSV in --root (default: the only one there)")
    for column, default, holds in (
        ("file", "file", "image files, relative to --root"),
        ("patient", "patient_id", "whose image it is; name the column of files if no patients are known"),
        ("labels", "labels", "the labels that are present, joined by |"),
        ("split", "split", "train, validation or test"),
    ):
        options.add_argument(f"--{column}-column", default=default, metavar="C", help=f"{holds} (default: {default})")
    options.add_argument("--view-column", metavar="C", help="PA, AP or another view (default: not read)")
    options.add_argument(
        "--boxes-column",
        metavar="C",
        help='[{"label", "x", "y", "w", "h"}, ...] as JSON, with x and y of the left upper corner; [] if nothing is '
        "there, empty if nobody looked (default: not read)",
    )
    options.add_argument(
        "--box-units",
        choices=folder_csv.BOX_UNITS,
        default="share",
        help="in which boxes are told: share (default), from 0 to 1 of the image's width and height, or pixels",
    )
    options.add_argument(
        "--mask-column",
        metavar="C",
        help="files of masks, relative to --root, empty if nobody looked; the finding is called as the column "
        "(default: not read)",
    )
    options.add_argument(
        "--unlabelled",
        choices=folder_csv.UNLABELLED,
        default="error",
        help="rows with empty labels: error (default), absent (of all labels), or drop",
    )
    return parser


def common(parser: argparse.ArgumentParser, splits: list[str], split_help: str, boxes: bool) -> None:
    """The options that every data set has."""
    parser.add_argument("--root", required=True, metavar="FOLDER", help="the unpacked download")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="the folder to make")
    how = parser.add_argument_group("splits")
    text = "patient (default): by a hash of the patient, the fixed test set kept; " if splits[0] == "patient" else ""
    one = how.add_mutually_exclusive_group()
    one.add_argument("--split", choices=splits, default=splits[0], help=text + split_help)
    one.add_argument("--split-lists", metavar="FOLDER", help="use the saved lists of a prepared folder (its splits/)")
    how.add_argument("--seed", type=int, help="of --split patient's hash (default: 0)")
    how.add_argument(
        "--shares",
        type=float,
        nargs=3,
        metavar=("TRAIN", "VALIDATION", "TEST"),
        help="of the patients, for --split patient (default: 0.7 0.15 0.15); where the test set is fixed, the first "
        "two share the rest",
    )
    images = parser.add_argument_group("images")
    images.add_argument(
        "--image-size",
        type=int,
        metavar="N",
        help="shrink the longer side to N pixels, boxes and masks too (default: keep the size, and the bytes of "
        "PNG and JPEG)",
    )
    images.add_argument("--image-format", choices=["png", "jpeg"], default="png", help="of images encoded anew")
    images.add_argument("--workers", type=int, default=1, metavar="N", help="processes that read images (default: 1)")
    bad = parser.add_argument_group(
        "bad input", "Without these options such images are named and counted, and nothing is written."
    )
    bad.add_argument("--skip-missing", action="store_true", help="leave out and count images without a file")
    bad.add_argument(
        "--skip-unreadable", action="store_true", help="leave out and count images whose image or mask is broken"
    )
    if boxes:
        bad.add_argument(
            "--fix-boxes", action="store_true", help="cut boxes at the edges, drop those without area, and count both"
        )
    parser.set_defaults(fix_boxes=False)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The options; exits with 2 where they do not go together."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.workers < 1:
        parser.error(f"--workers {args.workers} is below 1")
    if args.image_size is not None and args.image_size < 1:
        parser.error(f"--image-size {args.image_size} is below 1")
    if args.split_lists or args.split != "patient":
        given = [f"--{name}" for name in ("seed", "shares") if getattr(args, name) is not None]
        if given:
            parser.error(f"{' and '.join(given)}: of --split patient alone")
    args.seed, args.shares = args.seed or 0, args.shares or SHARES
    return args


def read_images(args: argparse.Namespace) -> RadiographSet:
    """What the adapter that `args` names reads."""
    if args.name == chexpert.NAME:
        return chexpert.read_chexpert(
            args.root, any_view=args.any_view, uncertain=args.uncertain, without_5x200=args.without_5x200
        )
    if args.name == covidx.NAME:
        return covidx.read_covidx(args.root, args.version)
    if args.name == folder_csv.NAME:
        return folder_csv.read_folder_csv(
            args.root,
            args.csv,
            file_column=args.file_column,
            patient_column=args.patient_column,
            labels_column=args.labels_column,
            split_column=args.split_column if args.split == "table" and not args.split_lists else None,
            view_column=args.view_column,
            boxes_column=args.boxes_column,
            box_units=args.box_units,
            mask_column=args.mask_column,
            unlabelled=args.unlabelled,
        )
    read = {
        rsna.NAME: rsna.read_rsna,
        siim.NAME: siim.read_siim,
        object_cxr.NAME: object_cxr.read_object_cxr,
        nih.NAME: nih.read_nih,
    }
    return read[args.name](args.root)
