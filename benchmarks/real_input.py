"""Measures encoders that saw synthetic radiographs alone on radiographs of real patients, with real reports as input.

The reports of the Open-i training patients are drawn by the phantom, a MobileNetV2 with ImageNet weights learns from
the pairs, and a linear probe tells what it is worth on the images of Open-i and NIH ChestX-ray14, beside the same
network untrained and with its ImageNet weights. No report and no image of a test patient is learnt from, and no real
image at all but in the arm `real`. Every stage is kept in --out: the same command resumes where it stopped.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from pathlib import Path

ARCHITECTURE = "mobilenetv2_100"
# Open-i's mapped labels with enough test images to measure; NIH's are those with five or more.
LABELS = {
    "openi_iu": ["No Finding", "Cardiomegaly", "Atelectasis", "Pleural Effusion", "Lung Opacity", "Edema"],
    "nih_cxr14": [],
}
PAIRS = {
    "phantom": "phantoms of the real reports",
    "grammar": "phantoms of grammar-made reports",
    "real": "the real radiographs and reports",
}
UNTRAINED = {"imagenet": "ImageNet weights", "random": "random weights"}  # arms that learn from no pairs
MODELS = {"convirt": "ConVIRT", "gloria": "GLoRIA", "mgca": "MGCA"}


def encoders_of(args: argparse.Namespace) -> dict[str, str]:
    """What is compared: a folder's name under --out for each encoder, and how the tables call it."""
    trained = [arm for arm in args.arms if arm in PAIRS]
    names = {f"{model}-{arm}": f"{MODELS[model]} on {PAIRS[arm]}" for arm in trained for model in args.models}
    return names | {arm: UNTRAINED[arm] for arm in args.arms if arm in UNTRAINED}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--real-data", default="../shared/data", type=Path, help="folder with openi_iu/ and nih_cxr14/")
    add("--image-weights", required=True, type=Path, help="torchvision's mobilenet_v2 state dict (.pth)")
    add("--text-encoder", required=True, help="folder of a BERT-like encoder with its tokenizer")
    add("--out", default="runs/real-input", type=Path, help="where all stages leave their results")
    add(
        "--arms",
        nargs="+",
        choices=[*PAIRS, *UNTRAINED],
        default=["phantom", "imagenet", "random"],
        help="what is learnt from; the first is the one compared",
    )
    add("--models", nargs="+", choices=MODELS, default=["convirt"], help="methods that learn from it")
    add("--results", type=Path, help="folder of the final real_input.{md,csv}, such as docs/results (default: --out)")
    add("--image-size", type=int, default=160, help="pixels a side for training and probing")
    add("--render-size", type=int, default=256, help="pixels a side of the phantoms")
    add("--epochs", type=float, default=10, help="the one with the lowest validation loss is kept")
    add("--batch-size", type=int, default=48)
    add("--learning-rate", type=float, default=3e-4)
    add("--text-columns", nargs="+", default=["impression"], help="findings, impression or both")
    add("--max-text-tokens", type=int, default=40, help="longer texts are cut")
    add("--text-sampling", choices=["full", "sentence"], default="full", help="what of a report meets its image")
    add("--num-proc", type=int, default=2, help="rendering processes")
    add("--seeds", type=int, default=3, help="draws of each label budget below 100 %%")
    add("--seed", type=int, default=0)
    add("--limit", type=int, help="so many pairs to learn from and images a split to probe: to try the command out")
    return parser.parse_args(argv)


def training_reports(real_data: Path, out: Path) -> Path:
    """Writes the Open-i reports of the training patients alone, and returns the file."""
    with open(real_data / "openi_iu" / "openi_iu.csv", encoding="utf-8", newline="") as file:
        patients = {row["patient_id"] for row in csv.DictReader(file) if row["split"] == "train"}
    path = out / "openi_train.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(real_data / "openi_iu" / "reports.jsonl", encoding="utf-8") as reports:
        kept = [line for line in reports if f"openi{json.loads(line)['uid']}" in patients]
    path.write_text("".join(kept), encoding="utf-8")
    return path


def real_pairs(real_data: Path, out: Path, limit: int | None) -> Path:
    """A dataset of the real Open-i images and texts of the training and validation patients."""
    import datasets
    import pandas as pd

    folder = real_data / "openi_iu"
    table = pd.read_csv(folder / "openi_iu.csv", dtype=str, keep_default_na=False)
    table = table[(table["findings"] + table["impression"]).str.strip() != ""]
    features = datasets.Features(
        {"image": datasets.Image()}
        | {name: datasets.Value("string") for name in ("image_id", "subject_id", "findings", "impression")}
    )
    (out / "data").mkdir(parents=True, exist_ok=True)
    for split, name in (("train", "train"), ("valid", "validation")):
        part = table[table["split"] == split].head(limit or len(table))
        rows = [
            {
                "image": {"bytes": (folder / row["file"]).read_bytes(), "path": None},
                "image_id": row["file"],
                "subject_id": row["patient_id"],
                "findings": row["findings"],
                "impression": row["impression"],
            }
            for row in part.to_dict("records")
        ]
        datasets.Dataset.from_list(rows, features=features).to_parquet(out / "data" / f"{name}-00000-of-00001.parquet")
    return out


def run(command: str, main, arguments: list) -> None:
    """Calls a command's `main` in this process, saying which command it stands for.

    Raises:
        RuntimeError: It failed; its own message stands on stderr.
    """
    arguments = [str(argument) for argument in arguments]
    print(f"\n$ {command} {' '.join(arguments)}", flush=True)
    start = time.perf_counter()
    code = main(arguments)
    print(f"({time.perf_counter() - start:.0f} s)", flush=True)
    if code:
        raise RuntimeError(f"{command} failed with exit code {code}")


def dataset_of(arm: str, args: argparse.Namespace) -> Path:
    """Builds what an arm learns from, or resumes that, and returns its folder."""
    from dataset_builder.build import main as build

    folder = args.out / arm / "medsyn-cxr"
    if arm == "real":
        return folder if (folder / "data").exists() else real_pairs(args.real_data, folder, args.limit)
    reports = training_reports(args.real_data, args.out)
    held_out = 0.3 if args.limit else 0.1  # few pairs need a larger share for a batch to evaluate on
    common = ["--generator", "phantom", "--image-size", args.render_size, "--splits", 1 - held_out, held_out, 0]
    common += ["--num-proc", args.num_proc, "--seed", args.seed, "--out", folder]
    if arm == "phantom":
        limit = ["--limit", args.limit] if args.limit else []
        run("medsyn build", build, ["--reports", reports, *limit, *common])
    else:
        count = args.limit or sum(1 for _ in open(reports, encoding="utf-8"))
        run("medsyn build", build, ["--num-samples", count, *common])
    return folder


def encoder_of(name: str, args: argparse.Namespace) -> str:
    """Trains an encoder, unless it is there, and returns what `medsyn probe --encoder` takes."""
    if name == "random":
        return f"random:{ARCHITECTURE}"
    if name == "imagenet":
        return f"{ARCHITECTURE}@{args.image_weights}"
    from trainers.pretrain import main as pretrain

    model, arm = name.split("-")
    checkpoint = args.out / name / "checkpoint"
    done = args.out / name / "pretrained.json"
    settings = ["--image_size", args.image_size, "--num_train_epochs", args.epochs, "--seed", args.seed]
    settings += ["--per_device_train_batch_size", args.batch_size, "--learning_rate", args.learning_rate]
    settings += ["--image_encoder", ARCHITECTURE, "--image_weights", args.image_weights]
    settings += ["--text_encoder", args.text_encoder, "--text_columns", *args.text_columns]
    settings += ["--text_sampling", args.text_sampling, "--max_text_tokens", args.max_text_tokens]
    settings += ["--load_best_model_at_end", "true", "--metric_for_best_model", "eval_loss"]
    said = json.dumps([str(setting) for setting in settings])
    if done.is_file():
        if done.read_text(encoding="utf-8") != said:
            raise ValueError(f"{checkpoint} was trained with other settings: {done.read_text()}; choose another --out")
        return str(checkpoint)
    dataset = dataset_of(arm, args)
    resume = ["--resume_from_checkpoint", "last"] if any(checkpoint.glob("checkpoint-*")) else []
    folders = ["--dataset", dataset, "--output_dir", checkpoint]
    run("medsyn pretrain", pretrain, ["--model", model, *folders, *settings, *resume])
    done.write_text(said, encoding="utf-8")
    return str(checkpoint)


def probe_csv(name: str, args: argparse.Namespace) -> Path:
    """The CSV of a real set: its own, or with --limit one of its first images of each split."""
    path = args.real_data / name / f"{name}.csv"
    if args.limit is None:
        return path
    import pandas as pd

    table = pd.read_csv(path, dtype=str, keep_default_na=False).groupby("split").head(args.limit)
    table["file"] = [str((path.parent / file).resolve()) for file in table["file"]]
    small = args.out / f"{name}.csv"
    table.to_csv(small, index=False)
    return small


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    try:
        encoders = {title: encoder_of(name, args) for name, title in encoders_of(args).items()}
        from trainers.downstream.linear_probe import main as probe

        for name, labels in LABELS.items():
            arguments = ["--dataset", probe_csv(name, args), "--image-size", args.image_size, "--seeds", args.seeds]
            arguments += ["--seed", args.seed, "--out", args.out / name, "--cache", args.out / "features"]
            arguments += ["--min-positives", 1 if args.limit else 5, *(["--labels", *labels] if labels else [])]
            for title, encoder in encoders.items():
                arguments += ["--encoder", f"{title}={encoder}"]
            run("medsyn probe", probe, arguments)
        write_report(args, argv if argv is not None else sys.argv[1:])
    except (ValueError, OSError, RuntimeError) as error:
        print(f"real_input: {error}", file=sys.stderr)
        return 1
    return 0


def learnt_from(name: str, args: argparse.Namespace) -> str:
    """How many pairs an encoder learnt from, for how many steps, and which it kept, as its checkpoint tells."""
    checkpoint = args.out / name / "checkpoint"
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    batches = next(checkpoint.glob("checkpoint-*/batches.json"))  # that of the best epoch at least is there
    pairs = json.loads(batches.read_text(encoding="utf-8"))["rows"]
    losses = {entry["step"]: entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry}
    best = min(losses, key=losses.get)
    return (
        f"{pairs:,} pairs, {state['global_step']:,} steps, kept that after {best:,} "
        f"(validation loss {losses[best]:.2f}; {losses[max(losses)]:.2f} at the end)"
    )


def probed_images(name: str, args: argparse.Namespace) -> str:
    """How many images of a real set the probe learnt from, chose its penalty on, and was tested on."""
    results = json.loads((args.out / name / "results.json").read_text(encoding="utf-8"))
    return ", ".join(f"{count:,} {split}" for split, count in results["settings"]["images"].items())


def write_report(args: argparse.Namespace, argv: list[str]) -> None:
    """Joins the tables of the sets into `real_input.md` and their rows into `real_input.csv`."""
    import pandas as pd

    folder = args.results or args.out
    folder.mkdir(parents=True, exist_ok=True)
    frames = [pd.read_csv(args.out / name / "results.csv") for name in LABELS]
    pd.concat(frames).to_csv(folder / "real_input.csv", index=False)
    titles = encoders_of(args)
    shown = " ".join(Path(word).name if "/" in word and Path(word).exists() else word for word in argv)
    parts = [
        "# Real radiographs",
        f"Made by `python benchmarks/real_input.py {shown}`: {args.epochs:g} epochs, of which that with the lowest "
        f"validation loss is kept, in batches of {args.batch_size} "
        f"at {args.image_size} px, learning rate {args.learning_rate:g}, {args.text_sampling} texts of "
        f"{' and '.join(args.text_columns)} cut at {args.max_text_tokens} tokens, on the reports "
        "of the Open-i training patients, then a linear probe on frozen "
        "features. Random weights are timm's at the start, BatchNorm in evaluation mode.",
        "\n".join(f"- {title}: {learnt_from(name, args)}" for name, title in titles.items() if name not in UNTRAINED),
    ]
    for name in LABELS:
        parts += [
            f"## {name}",
            f"Images probed: {probed_images(name, args)}.",
            (args.out / name / "results.md").read_text(encoding="utf-8").strip(),
        ]
    (folder / "real_input.md").write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    print(f"\n{folder / 'real_input.md'} and real_input.csv")


if __name__ == "__main__":
    sys.exit(main())
