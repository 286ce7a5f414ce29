"""What image-text models know of real radiographs without a label: retrieval, zero-shot findings, and where a word is.

Measured on images whose patients no model here has learnt from: retrieval and findings on Open-i's test patients, and
findings and the pointing game on NIH ChestX-ray14, all of it, since nothing learns from NIH. Beside the models stand
chance, the same models before any training (`untrained`), and baselines that need no model: the commonest report for
every image, the middle of the image for every word, and a ridge regression on 24 x 24 pixels, which unlike the rest is
fitted on the training labels. Where a row says `centred`, each report's mean over the images is taken off its scores:
what a model says of all real radiographs alike, which ranks the same reports first for every image, is then no answer.
`attended` is for GLoRIA the share of an image's regions that a word's attention in the local loss is spread over: at 1
it is on all alike.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

ARCHITECTURE = "mobilenetv2_100"
OPENI_LABELS = ["No Finding", "Cardiomegaly", "Atelectasis", "Pleural Effusion", "Lung Opacity", "Edema"]
BOOTSTRAP = 1000
RIDGE_SIDE = 24


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--real-data", default="../shared/data", type=Path, help="folder with openi_iu/ and nih_cxr14/")
    add("--model", action="append", required=True, metavar="NAME=FOLDER", help="a checkpoint; may be given repeatedly")
    add("--untrained", action="store_true", help="also measure each model with its weights before pre-training")
    add("--image-weights", type=Path, help="for --untrained: torchvision's mobilenet_v2 state dict (.pth)")
    add("--text-encoder", help="for --untrained: folder of the text encoder that training began with")
    add("--text-columns", nargs="+", default=["impression"], help="what of a report is looked for")
    add("--out", default="docs/results", type=Path, help="folder of real_alignment.{md,csv}")
    add("--limit", type=int, help="so many images of each set: to try the command out")
    add("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if args.untrained and not (args.image_weights and args.text_encoder):
        parser.error("--untrained needs --image-weights and --text-encoder")
    return args


def read_set(real_data: Path, name: str, limit: int | None):
    """The table of a real set, with an opener of its images."""
    import pandas as pd
    from PIL import Image

    table = pd.read_csv(real_data / name / f"{name}.csv", dtype=str, keep_default_na=False)
    if limit:
        table = table.groupby("split").head(limit)

    def open_images(rows):
        return [Image.open(real_data / name / file).convert("L") for file in rows["file"]]

    return table.reset_index(drop=True), open_images


def targets_of(table, labels: list[str]) -> np.ndarray:
    """`(images, labels)`: 1 where the label is listed, else 0."""
    listed = [set(row.split("|")) for row in table["labels"]]
    return np.array([[float(label in row) for label in labels] for row in listed])


def load_models(args: argparse.Namespace) -> dict:
    """Name -> (model, processor) of every checkpoint, and of its untrained twin."""
    from transformers import AutoModel, AutoProcessor, set_seed

    import hub_medsyn  # noqa: F401  registers the models

    loaded = {}
    for given in args.model:
        name, folder = given.split("=", 1)
        loaded[name] = (AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder))
    if args.untrained:
        for model, processor in list(loaded.values()):
            name = f"{type(model).__name__.removesuffix('Model')} untrained"
            if name not in loaded:
                set_seed(args.seed)
                twin = type(model).from_encoders(
                    image=ARCHITECTURE,
                    text=args.text_encoder,
                    image_weights=args.image_weights,
                    image_size=model.config.image_size,
                )
                loaded[name] = (twin.eval(), processor)
    return loaded


def interval(values: np.ndarray, groups, seed: int, statistic=np.mean) -> tuple[float, float]:
    """95 % percentile interval of a statistic of per-image values; whole patients are drawn."""
    rng = np.random.default_rng(seed)
    _, index = np.unique(np.asarray(groups), return_inverse=True)
    members = [np.flatnonzero(index == group) for group in range(index.max() + 1)]
    samples = []
    for _ in range(BOOTSTRAP):
        drawn = np.concatenate([members[group] for group in rng.integers(len(members), size=len(members))])
        samples.append(statistic(values[drawn]))
    return tuple(np.quantile(samples, [0.025, 0.975]))


def row(dataset: str, task: str, model: str, metric: str, value: float, ci=(None, None), n: int = 0) -> dict:
    return {
        "dataset": dataset,
        "task": task,
        "model": model,
        "metric": metric,
        "value": value,
        "ci_low": ci[0],
        "ci_high": ci[1],
        "n": n,
    }


def retrieval_rows(models: dict, args: argparse.Namespace) -> list[dict]:
    """Image to report and back among the images and the different reports of the test patients."""
    from hub_medsyn.inference.retrieval import embed_images, embed_texts, model_similarity, ranks_from_similarity

    table, open_images = read_set(args.real_data, "openi_iu", args.limit)
    table["text"] = table[args.text_columns].agg(" ".join, axis=1).str.strip()
    test = table[(table["split"] == "test") & (table["text"] != "")]
    distinct = list(dict.fromkeys(test["text"]))
    own, images = [distinct.index(text) for text in test["text"]], open_images(test)
    seen = table["text"][table["split"] != "test"].value_counts()
    counts = [float(seen.get(text, 0)) for text in distinct]
    similarities = {"commonest report first": np.tile(counts, (len(test), 1))}  # the same order for every image
    rows = []
    for name, (model, processor) in models.items():
        for kind, embeds in (
            ("images", embed_images(model, processor, images)),
            ("reports", embed_texts(model, processor, distinct)),
        ):
            pairs = len(embeds) * (len(embeds) - 1)
            cosine = float(embeds.sum(0).square().sum() - len(embeds)) / pairs  # features have unit length
            rows.append(row("openi_iu", "spread", name, kind, cosine, n=len(test)))
        similarity = model_similarity(model, processor, images, distinct)  # (images, reports)
        similarities[name] = similarity
        similarities[f"{name}, centred"] = similarity - similarity.mean(0, keepdim=True)
    for name, similarity in similarities.items():
        result = ranks_from_similarity(similarity, own)
        for way, task, ranks, groups in (
            ("image_to_text", "radiograph to report", result.image_ranks, test["patient_id"]),
            ("text_to_image", "report to radiograph", result.text_ranks, distinct),
        ):
            if name.endswith(", centred") and way == "text_to_image":
                continue  # a report ranks images as before
            chance = {} if any(one["task"] == task for one in rows) else result.chance()
            for metric, values, statistic in (
                *((f"recall_at_{k}", ranks <= k, np.mean) for k in (1, 5, 10)),
                ("median_rank", ranks, np.median),
            ):
                shown = metric.replace("recall_at_", "R@").replace("_", " ")
                if chance:
                    rows.append(row("openi_iu", task, "chance", shown, chance[f"{way}_{metric}"], n=len(ranks)))
                values = np.asarray(values, dtype=float)
                ci = interval(values, groups, args.seed, statistic)
                rows.append(row("openi_iu", task, name, shown, float(statistic(values)), ci, len(ranks)))
    return rows


def ridge_scores(
    images: list, targets: np.ndarray, patients, fit: np.ndarray | None, measured: np.ndarray
) -> np.ndarray:
    """What a ridge regression on small pixels says of the measured images.

    It learns from the rows `fit`; where that is `None`, each fifth of the patients is told by the other four.
    """
    from PIL import Image
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GroupKFold

    small = [image.resize((RIDGE_SIDE, RIDGE_SIDE), Image.Resampling.BOX) for image in images]
    pixels = np.stack([np.asarray(image, dtype=np.float64).ravel() / 255 for image in small])  # (images, 576)
    scores = np.zeros_like(targets)
    folds = [(fit, measured)] if fit is not None else GroupKFold(5).split(pixels, groups=np.asarray(patients))
    for train, test in folds:
        scores[test] = Ridge(alpha=10.0).fit(pixels[train], targets[train]).predict(pixels[test])
    return scores[measured]


def zero_shot_rows(models: dict, name: str, args: argparse.Namespace) -> list[dict]:
    """Macro AUROC and that of each finding, from positive and negative prompts alone."""
    from hub_medsyn.inference.zero_shot import ZeroShotClassifier
    from hub_medsyn.metrics.macro_auroc import bootstrap_macro_auroc, confidence_interval, macro_auroc

    table, open_images = read_set(args.real_data, name, args.limit)
    whole = name == "nih_cxr14"
    labels = sorted({one for listed in table["labels"] for one in listed.split("|")}) if whole else OPENI_LABELS
    targets, images = targets_of(table, labels), open_images(table)
    measured = np.arange(len(table)) if whole else np.flatnonzero(table["split"] == "test")
    fit = None if whole else np.flatnonzero(table["split"] == "train")
    patients = list(table["patient_id"][measured])
    scores = {"ridge on pixels, told the labels": ridge_scores(images, targets, table["patient_id"], fit, measured)}
    for title, (model, processor) in models.items():
        result = ZeroShotClassifier(model, processor)([images[index] for index in measured])
        scores[title] = result.scores[:, [list(result.findings).index(label) for label in labels]].numpy()
    rows = [row(name, "zero-shot", "chance", "macro AUROC", 0.5, n=len(measured))]
    for title, said in scores.items():
        result = macro_auroc(targets[measured], said, labels)
        ci = confidence_interval(bootstrap_macro_auroc(targets[measured], said, patients, BOOTSTRAP, args.seed))
        rows.append(row(name, "zero-shot", title, "macro AUROC", result.value, ci, len(measured)))
        for label, value in result.per_label.items():
            rows.append(row(name, "zero-shot", title, label, value, n=len(measured)))
    return rows


def pointing_rows(models: dict, args: argparse.Namespace) -> list[dict]:
    """How often the hottest pixel for a finding's name lies in one of its boxes, and how the inside stands out."""
    import torch

    from hub_medsyn.inference.grounding import contrast_to_noise_ratio, ground, pointing_game, pointing_game_chance
    from hub_medsyn.inference.prompts import FINDING_PROMPTS
    from hub_medsyn.loss_gloria import word_attention

    table, open_images = read_set(args.real_data, "nih_cxr14", None)
    table = table[table["boxes"] != ""].reset_index(drop=True).head(args.limit or len(table))
    cases = []  # (image, finding, boxes as absolute xyxy)
    for image, boxes, patient in zip(open_images(table), table["boxes"], table["patient_id"], strict=True):
        by_label: dict[str, list] = {}
        for box in json.loads(boxes):
            x, y = box["x"] * image.width, box["y"] * image.height
            corners = [x, y, x + box["w"] * image.width, y + box["h"] * image.height]
            by_label.setdefault(box["label"], []).append(corners)
        cases += [(image, label, corners, patient) for label, corners in by_label.items()]
    patients = [patient for *_, patient in cases]

    def attended_share(model, processor, image, text: str) -> float:
        """Of how many of the regions, as a share, a word's attention is spread out: 1 where it is the same for all."""
        inputs = processor(text=[text], images=[image], return_tensors="pt")
        with torch.inference_mode():
            features = model.encode(inputs)
        weights = word_attention(features["regions"], features["words"], features["word_mask"])
        weights = weights[features["word_mask"]][1:].double()  # (words, regions), the opening token apart
        return float((torch.special.entr(weights).sum(-1).exp() / weights.shape[-1]).mean())

    def rows_of(name: str, hits: list[float], contrast: list[float] | None) -> list[dict]:
        ci = interval(np.array(hits), patients, args.seed)
        rows = [row("nih_cxr14", "pointing", name, "hits", float(np.mean(hits)), ci, len(cases))]
        if contrast:
            ci = interval(np.array(contrast), patients, args.seed)
            rows.append(row("nih_cxr14", "pointing", name, "CNR", float(np.mean(contrast)), ci, len(cases)))
        return rows

    areas = [pointing_game_chance(boxes, (image.height, image.width)) for image, _, boxes, _ in cases]
    middles = [
        float(any(x0 <= image.width / 2 < x1 and y0 <= image.height / 2 < y1 for x0, y0, x1, y1 in boxes))
        for image, _, boxes, _ in cases
    ]
    rows = rows_of("chance (share of the radiograph in boxes)", areas, None) + rows_of(
        "middle of the radiograph", middles, None
    )
    for name, (model, processor) in models.items():
        if type(model).__name__ == "ConVIRTModel":
            continue  # it compares whole images with whole texts
        hits, contrast, shares = [], [], []
        for image, label, boxes, _ in cases:
            heat = ground(model, processor, image, FINDING_PROMPTS[label].positive[0])
            if type(model).__name__ == "GLoRIAModel":
                shares.append(attended_share(model, processor, image, FINDING_PROMPTS[label].positive[0]))
            hits.append(float(pointing_game(heat, boxes)))
            contrast.append(contrast_to_noise_ratio(heat, boxes))
        rows += rows_of(name, hits, contrast)
        if shares:
            ci = interval(np.array(shares), patients, args.seed)
            rows.append(row("nih_cxr14", "pointing", name, "attended", float(np.mean(shares)), ci, len(cases)))
    return rows


def write_report(rows: list[dict], args: argparse.Namespace, argv: list[str]) -> None:
    """Writes every number to `real_alignment.csv` and the main ones to `real_alignment.md`."""
    import pandas as pd

    args.out.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows)
    table.to_csv(args.out / "real_alignment.csv", index=False, float_format="%.4f")
    table["cell"] = [cell(one) for one in rows]
    shown = " ".join(shorten(word) for word in argv)
    parts = [
        "# What the models know of real radiographs without a label",
        f"Made by `python benchmarks/real_alignment.py {shown}`.",
    ]
    parts.append(
        __doc__.split("\n\n", 1)[1].strip()
        + " In brackets: 95 % bootstrap intervals over patients, or over reports where they look for images."
    )
    for (dataset, task), part in table.groupby(["dataset", "task"], sort=False):
        main = part[part["metric"].isin(["macro AUROC"])] if task == "zero-shot" else part
        if task == "zero-shot":
            main = part[part["metric"].eq("macro AUROC") | part["ci_low"].isna()]
        wide = main.pivot(index="model", columns="metric", values="cell")
        order = list(dict.fromkeys(main["model"]))
        wide = wide.loc[order, list(dict.fromkeys(main["metric"]))].fillna("")
        counts = main["n"].iloc[0]
        parts.append(f"## {TITLES[task]}: {dataset} ({counts} {UNITS.get(task, 'radiographs')})")
        lines = [["", *wide.columns], ["---"] * (len(wide.columns) + 1)]
        lines += [[model, *cells] for model, cells in zip(wide.index, wide.to_numpy().tolist(), strict=True)]
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    (args.out / "real_alignment.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


TITLES = {"radiograph to report": "Radiograph to report", "report to radiograph": "Report to radiograph"}
TITLES |= {"spread": "Mean cosine between two images, and between two reports"}
TITLES |= {"zero-shot": "Findings by prompts, AUROC", "pointing": "Pointing game"}
UNITS = {"report to radiograph": "different reports", "pointing": "findings with boxes"}


def shorten(word: str) -> str:
    """A word of the command line without the folders that hold it."""
    name, sign, path = word.rpartition("=")
    return name + sign + ("/".join(Path(path).parts[-2:]) if sign and Path(path).exists() else Path(path).name)


def cell(one: dict) -> str:
    digits = 0 if one["metric"] == "median rank" else 3
    value = f"{one['value']:.{digits}f}"
    return value if one["ci_low"] is None else f"{value} ({one['ci_low']:.{digits}f} to {one['ci_high']:.{digits}f})"


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    try:
        models = load_models(args)
        rows = retrieval_rows(models, args)
        rows += zero_shot_rows(models, "openi_iu", args) + zero_shot_rows(models, "nih_cxr14", args)
        rows += pointing_rows(models, args)
    except (ValueError, OSError) as error:
        print(f"real_alignment: {error}", file=sys.stderr)
        return 1
    write_report(rows, args, sys.argv[1:] if argv is None else argv)
    print(f"{args.out / 'real_alignment.md'} and real_alignment.csv")
    return 0


if __name__ == "__main__":
    sys.exit(main())
