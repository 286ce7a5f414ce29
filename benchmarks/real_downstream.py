"""What frozen encoders are worth downstream, on the small real sets and on phantoms.

Classification on four sets, segmentation of lungs, detection on the few NIH images with boxes and on phantoms,
whose boxes are exact and plenty. Each line of the report is one `medsyn evaluate`; the same command goes on where it
stopped. What to read with care is said beside each table.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ALL = "100"
OPENI_LABELS = ["No Finding", "Cardiomegaly", "Atelectasis", "Pleural Effusion", "Lung Opacity", "Edema"]
NOTES = {
    "classify-nih_cxr14": "All images are NIH's own; 61 to test on.",
    "classify-openi_iu": "The pre-trained encoders learnt from reports (and the real arms from images) of Open-i's "
    "training patients; the test patients are others.",
    "classify-kermany_paediatric": "Children; normal and pneumonia differ in brightness and size so plainly that a "
    "ridge regression on 24 pixels a side reaches .97: high numbers mean little.",
    "classify-covid_or_normal": "COVID-19 images of Hannover against normal ones of NIH: every image of a class comes "
    "from one hospital, so that telling the hospitals apart is enough.",
    "segment-lungs": "The lung masks of covid_cohen, split anew by patient. Lungs lie where they always lie: the mean "
    "training mask, which looks at no image, has a Dice of .79 (docs/results/segmentation_lungs.md).",
    "detect-nih_boxes": "37 images have boxes, split anew by patient: a handful to test on. Nothing can be concluded "
    "from it; it shows that the path runs on real boxes.",
    "detect-phantom_boxes": "Phantoms of the built-in grammar; the encoders named after phantoms learnt from phantoms "
    "of other reports.",
}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--real-data", default="../shared/data", type=Path, help="folder with the real sets")
    add(
        "--encoder",
        action="append",
        required=True,
        metavar="NAME=WHAT",
        help="as medsyn evaluate takes it; repeatable",
    )
    add("--parts", nargs="+", choices=NOTES, default=list(NOTES), help="what to measure")
    add("--out", default="runs/real-downstream", type=Path, help="where every part leaves its results")
    add("--results", type=Path, help="folder of real_downstream.{md,csv}, such as docs/results (default: --out)")
    add("--image-size", type=int, default=160, help="pixels a side")
    add("--phantoms", type=int, default=400, help="phantoms to make for detection")
    add("--epochs", type=int, default=15, help="of segmenters and detectors, at most")
    add("--seeds", type=int, default=3, help="draws of each label budget below 100 %%, to classify")
    add("--seed", type=int, default=0)
    add("--report-only", action="store_true", help="write the report of the parts that are there")
    return parser.parse_args(argv)


def covid_or_normal(real_data: Path, out: Path) -> Path:
    """A CSV of Hannover's COVID-19 images and NIH's normal ones, each in the split it has there."""
    import pandas as pd

    tables = []
    for name in ("hannover_covid", "nih_cxr14"):
        table = pd.read_csv(real_data / name / f"{name}.csv", dtype=str, keep_default_na=False)
        table = table[table["labels"].isin(["COVID-19", "No Finding"])]
        table["file"] = [str((real_data / name / file).resolve()) for file in table["file"]]
        tables.append(table[["file", "split", "patient_id", "labels"]])
    path = out / "covid_or_normal.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.concat(tables).to_csv(path, index=False)
    return path


def phantoms(args: argparse.Namespace) -> Path:
    """Builds the phantoms that detectors learn on, or resumes that."""
    from dataset_builder.build import main as build

    folder = args.out / "phantoms" / "medsyn-cxr"
    arguments = [
        "--num-samples",
        args.phantoms,
        "--generator",
        "phantom",
        "--image-size",
        256,
        "--splits",
        0.6,
        0.2,
        0.2,
    ]
    run("medsyn build", build, [*arguments, "--num-proc", 2, "--seed", args.seed + 1, "--out", folder])
    return folder


def arguments_of(part: str, args: argparse.Namespace) -> list:
    """What `medsyn evaluate` is called with for a part, encoders apart."""
    data = args.real_data
    heads = ["--epochs", args.epochs, "--budget", ALL, "--seeds", 1, "--train-batch-size", 8]
    classify = ["classify", "--seeds", args.seeds, "--cache", args.out / "features"]
    dense = {
        "segment-lungs": ["segment", "--dataset", data / "covid_cohen" / "covid_cohen.csv"]
        + ["--mask-column", "lung_mask", "--resplit", 0.6, 0.15, 0.25, *heads],
        "detect-nih_boxes": ["detect", "--dataset", data / "nih_cxr14" / "nih_cxr14.csv"]
        + ["--resplit", 0.6, 0.2, 0.2, "--neck-width", 128, *heads],
    }
    if part in dense:
        return dense[part]
    if part == "detect-phantom_boxes":
        return [
            "detect",
            "--dataset",
            phantoms(args),
            "--neck-width",
            128,
            "--unannotated",
            "negative",
            *heads,
        ]
    if part == "classify-covid_or_normal":
        return [*classify, "--dataset", covid_or_normal(data, args.out), "--exclusive"]
    name = part.removeprefix("classify-")
    labels = {"openi_iu": OPENI_LABELS, "kermany_paediatric": ["No Finding", "Pneumonia"]}.get(name)
    chosen = ["--labels", *labels] if labels else []
    return [*classify, "--dataset", data / name / f"{name}.csv", *chosen]


def run(command: str, main, arguments: list) -> None:
    """Calls a command's `main` in this process, saying which command it stands for.

    Raises:
        RuntimeError: It failed; its own message stands on stderr.
    """
    arguments = [str(argument) for argument in arguments]
    print(f"\n$ {command} {' '.join(arguments)}", flush=True)
    if main(arguments):
        raise RuntimeError(f"{command} failed")


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    try:
        for part in () if args.report_only else args.parts:
            done = args.out / part / "results.json"
            asked = json.dumps([*args.encoder, args.image_size, args.epochs, args.seeds, args.seed, args.phantoms])
            mark = done.with_name("asked.json")
            if done.is_file() and mark.is_file() and mark.read_text(encoding="utf-8") == asked:
                continue
            from trainers.downstream.evaluate import main as evaluate

            common = ["--image-size", args.image_size, "--seed", args.seed, "--out", args.out / part]
            encoders = [word for encoder in args.encoder for word in ("--encoder", encoder)]
            run("medsyn evaluate", evaluate, [*arguments_of(part, args), *common, *encoders])
            mark.write_text(asked, encoding="utf-8")
        write_report(args)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"real_downstream: {error}", file=sys.stderr)
        return 1
    return 0


def write_report(args: argparse.Namespace) -> None:
    """Joins the tables of the parts into `real_downstream.md` and their rows into `real_downstream.csv`."""
    import pandas as pd

    folder = args.results or args.out
    folder.mkdir(parents=True, exist_ok=True)
    present = [part for part in NOTES if (args.out / part / "results.csv").is_file()]
    if not present:
        raise ValueError(f"{args.out} holds no results of any part")
    frames = [pd.read_csv(args.out / part / "results.csv").assign(part=part) for part in present]
    pd.concat(frames).to_csv(folder / "real_downstream.csv", index=False)
    parts = [
        "# Frozen encoders downstream",
        f"Made by `python benchmarks/real_downstream.py --image-size {args.image_size} --epochs {args.epochs} "
        f"--seeds {args.seeds} --seed {args.seed} --phantoms {args.phantoms}`, with an `--encoder` for each row of "
        "the tables. The encoders are those of [real_input.md](real_input.md): "
        "X(phantoms) learnt from phantoms, X from real ones of the same patients. `medsyn evaluate` is explained in "
        "[evaluation.md](../evaluation.md). Segmenters and detectors train for at most "
        f"{args.epochs} epochs with one seed.",
    ]
    for part in present:
        parts += [f"## {part}", NOTES[part], (args.out / part / "results.md").read_text(encoding="utf-8").strip()]
    (folder / "real_downstream.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print(f"\n{folder / 'real_downstream.md'} and real_downstream.csv")


if __name__ == "__main__":
    sys.exit(main())
