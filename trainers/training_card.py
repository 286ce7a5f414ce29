"""What a training run leaves beside the weights: its curve and its model card."""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path

import datasets
import matplotlib
from huggingface_hub import EvalResult, ModelCardData, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

from hub_medsyn.cards.render import keep_what_people_wrote, origin_of_weights, render_card
from hub_medsyn.modeling_medsyn import without_pooler
from medsyn.schema import parse_manifest
from trainers.vlp_trainer import VLPTrainer

CURVE_NAME = "training_curve.png"
# What a reader needs to run it again; batch size and epochs are told with them.
HYPERPARAMETERS = (
    "learning_rate",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "optim",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "max_grad_norm",
    "bf16",
    "fp16",
    "max_text_tokens",
    "seed",
)


def write_curve(log_history: list[dict], path: Path, chance: dict[str, float] | None = None) -> None:
    """
    Draws training and evaluation loss over epochs as a PNG.

    Args:
        log_history (`list[dict]`): Of the trainer's state.
        path (`Path`): The PNG.
        chance (`dict[str, float]`, *optional*): The chance loss of `loss` and of `eval_loss`, each a dotted line: they
            differ where the two are taken over batches of different size.
    """
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for key, label in (("loss", "training"), ("eval_loss", "validation")):
        points = [(entry["epoch"], entry[key]) for entry in log_history if key in entry]
        if points:
            (line,) = axes.plot(*zip(*points, strict=True), label=label, marker="." if len(points) < 40 else None)
            if chance and key in chance:
                axes.axhline(chance[key], color=line.get_color(), linestyle=":", label=f"chance, {label}")
    axes.set(xlabel="epoch", ylabel="contrastive loss")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def find_manifest(dataset: str, revision: str | None) -> Path | None:
    """A dataset's `manifest.json`, from its folder or, at one commit, from the Hub; `None` where there is none."""
    if Path(dataset).is_dir():
        path = Path(dataset) / "manifest.json"
        return path if path.is_file() else None
    if revision is None:  # not from the Hub
        return None
    try:
        return Path(hf_hub_download(dataset, "manifest.json", repo_type="dataset", revision=revision))
    except (EntryNotFoundError, HfHubHTTPError, OSError):  # a dataset of someone else, or no way to it any more
        return None


def read_origin(dataset: str, config: str | None, revision: str | None = None) -> dict:
    """What a dataset's `manifest.json` says of the images and texts of one config.

    Args:
        dataset (`str`): A folder, or an id on the Hub.
        config (`str`, *optional*): Its config; by default the manifest's first, which is what `load_dataset` reads.
        revision (`str`, *optional*): The commit of a dataset on the Hub, see [`hub_revision`].

    Returns:
        `dict`: `sha256` of the manifest, `config`, `generator`, `text_policy` and `reports`, the names of the reports'
        sources; each `None` where it is not known.
    """
    origin = dict.fromkeys(("sha256", "config", "generator", "text_policy", "reports"))
    path = find_manifest(dataset, revision)
    if path is None:
        return origin
    content = path.read_bytes()
    try:
        configs = parse_manifest(content.decode(), str(path))["configs"]
    except ValueError:  # the manifest of something else
        configs = {}
    name = next(iter(configs), None) if config in (None, "default") else config
    if name in configs:
        settings, reports = configs[name]["settings"], configs[name]["reports"]
        origin |= {"config": name, "generator": settings["generator"]["name"]}
        origin |= {"text_policy": settings["text_policy"], "reports": reports["sources"]}
    return origin | {"sha256": hashlib.sha256(content).hexdigest()}


def hub_revision(rows: datasets.Dataset) -> str | None:
    """The commit of the Hub dataset that rows were loaded from; `None` for a local one."""
    folders = {Path(file["filename"]).parent.name for file in rows.cache_files}  # datasets caches each commit apart
    commits = [name for name in folders if re.fullmatch("[0-9a-f]{40}", name)]
    return commits[0] if len(commits) == 1 else None


def name_of(dataset: str | Path) -> str:
    """A folder's own name, without the path on this machine; an id on the Hub as it is."""
    return Path(dataset).resolve().name if Path(dataset).is_dir() else str(dataset)


def licence_doubts(origin: dict, borrowed: bool) -> list[str]:
    """Why no licence can be claimed for weights, in clauses; none for phantoms of the grammar's reports from scratch.

    Args:
        origin (`dict`): Of [`read_origin`].
        borrowed (`bool`): Whether an encoder started from weights that others trained.
    """
    doubts = []
    if origin["generator"] is None:
        doubts.append("it is not known what the dataset was made of, nor under which terms")
    elif origin["generator"] != "phantom":
        doubts.append(f"the terms of `{origin['generator']}`, where the images come from, may hold for them")
    if origin["text_policy"] == "credentialed":
        doubts.append("the reports may come from a source that only credentialed users may read, such as MIMIC-CXR")
    elif origin["reports"] not in (None, ["grammar"]):
        doubts.append("the terms of the reports' source may hold for them")
    if borrowed:
        doubts.append("an encoder started from weights with terms of their own")
    return doubts


def write_card(trainer: VLPTrainer, model_arguments, data_arguments, folder: Path) -> None:
    """Writes `README.md` and the curve of a finished run into its folder.

    Args:
        trainer ([`~trainers.vlp_trainer.VLPTrainer`]): After training.
        model_arguments ([`~trainers.arguments.ModelArguments`]): What the model was made of.
        data_arguments ([`~trainers.arguments.DataArguments`]): What it was trained on.
        folder (`Path`): The output folder.
    """
    args, config = trainer.args, trainer.model.config
    dataset, name = name_of(data_arguments.dataset), name_of(folder)
    history = trainer.state.log_history
    losses = [entry["loss"] for entry in history if "loss" in entry]
    evaluations = [entry for entry in history if "eval_loss" in entry]
    if args.load_best_model_at_end:  # these are the weights that are saved
        evaluations = [entry for entry in evaluations if entry["step"] == trainer.state.best_global_step]
    revision = hub_revision(trainer.train_dataset.images)
    results, evaluation = None, None
    if evaluations and trainer.eval_dataset is not None:
        batches = trainer.eval_batches(trainer.eval_dataset)
        sizes = [len(batch) for batch in batches.batches]
        evaluation = {
            "loss": evaluations[-1]["eval_loss"],
            "loss_global": evaluations[-1]["eval_loss_global"],
            "pairs": batches.num_rows,
            "batch": f"{min(sizes)} to {max(sizes)}" if min(sizes) < max(sizes) else f"{max(sizes)}",
            "chance": sum(size * trainer.model.chance_loss(size) for size in sizes) / batches.num_rows,
        }
        result = EvalResult(
            task_type="zero-shot-image-classification",
            task_name="Contrastive loss",
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_config=data_arguments.dataset_config,
            dataset_split=data_arguments.eval_split,
            dataset_revision=revision,
            metric_type="loss",
            metric_name="contrastive loss",
            metric_value=round(evaluation["loss"], 4),
        )
        results = [result]
    chance = {}
    if evaluation and math.isclose(
        evaluation["loss"], evaluation["loss_global"], rel_tol=1e-4
    ):  # no other part is added to it
        chance["loss"] = trainer.model.chance_loss(trainer.train_sampler.batch_size)
        chance["eval_loss"] = evaluation["chance"]
    write_curve(history, folder / CURVE_NAME, chance)
    origin = read_origin(data_arguments.dataset, data_arguments.dataset_config, revision)
    statistics = getattr(config.vision_config, "pretrained_cfg", None)  # only weights that were trained have them
    borrowed = bool(model_arguments.image_weights or statistics) or model_arguments.text_encoder != "scratch"
    doubts = licence_doubts(origin, borrowed)
    metadata = ModelCardData(
        language="en",
        license="other" if doubts else "apache-2.0",
        library_name="transformers",
        pipeline_tag="zero-shot-image-classification",
        tags=["radiology", "chest-x-ray", "medsyn", config.model_type],
        datasets=None if Path(data_arguments.dataset).is_dir() else [dataset],  # the Hub links to what stands here
        model_name=name if results else None,
        eval_results=results,
        medsyn=origin_of_weights(origin["text_policy"], model_arguments.text_encoder == "scratch", origin["sha256"]),
    )
    parameters = [(parameter.numel(), parameter.requires_grad) for parameter in trainer.model.parameters()]
    card = render_card(
        "checkpoint_card.md.jinja",
        metadata,
        title=trainer.title,
        paper=trainer.paper,
        folder=name,
        dataset=dataset,
        config=config,
        switches=config.departures(),
        pooler_left_out=bool(without_pooler(config.text_config)),
        model_arguments=model_arguments,
        data_arguments=data_arguments,
        origin=origin,
        revision=revision,
        licence_doubts=doubts,
        pairs=len(trainer.train_dataset),
        rows_without_text=trainer.train_dataset.rows_without_text,
        rows_waiting=trainer.train_sampler.rows_waiting,
        global_batch=trainer.train_sampler.batch_size,
        accumulated=args.gradient_accumulation_steps,
        processes=args.world_size,
        epochs=round(trainer.state.epoch or 0, 2),
        steps=trainer.state.global_step,
        hyperparameters={name: value for name in HYPERPARAMETERS if (value := getattr(args, name)) is not None},
        parameters_total=sum(number for number, _ in parameters),
        parameters_trained=sum(number for number, trained in parameters if trained),
        loss=losses[-1] if losses else None,
        evaluation=evaluation,
        curve=CURVE_NAME,
    )
    path = folder / "README.md"
    if path.exists():  # of a run that is resumed
        card = keep_what_people_wrote(card, path.read_text(encoding="utf-8"), places=(str(path),))
    card.save(path)
