"""What a training run leaves beside the weights: its curve and its model card."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import matplotlib
from huggingface_hub import EvalResult, ModelCardData

from hub_medsyn.cards import render_card

from .vlp_trainer import VLPTrainer

CURVE_NAME = "training_curve.png"
# What a reader needs to run it again; batch size and epochs are told with them.
HYPERPARAMETERS = (
    "learning_rate",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "optim",
    "lr_scheduler_type",
    "warmup_steps",
    "max_grad_norm",
    "bf16",
    "fp16",
    "max_text_tokens",
    "seed",
)


def write_curve(log_history: list[dict], path: Path) -> None:
    """Draws training and evaluation loss over epochs as a PNG."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for key, label in (("loss", "training"), ("eval_loss", "validation")):
        points = [(entry["epoch"], entry[key]) for entry in log_history if key in entry]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, marker="." if len(points) < 40 else None)
    axes.set(xlabel="epoch", ylabel="contrastive loss")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def dataset_fingerprint(dataset: str) -> str | None:
    """SHA-256 of `manifest.json` where the dataset is a folder that has one."""
    manifest = Path(dataset) / "manifest.json"
    return hashlib.sha256(manifest.read_bytes()).hexdigest() if manifest.is_file() else None


def write_card(trainer: VLPTrainer, model_arguments, data_arguments, folder: Path) -> None:
    """Writes `README.md` and the curve of a finished run into its folder.

    Args:
        trainer ([`~trainers.vlp_trainer.VLPTrainer`]): After training.
        model_arguments ([`~trainers.arguments.ModelArguments`]): What the model was made of.
        data_arguments ([`~trainers.arguments.DataArguments`]): What it was trained on.
        folder (`Path`): The output folder.
    """
    args, config = trainer.args, trainer.model.config
    history = trainer.state.log_history
    write_curve(history, folder / CURVE_NAME)
    losses = [entry["loss"] for entry in history if "loss" in entry]
    evaluations = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    results, evaluation = None, None
    if evaluations and trainer.eval_dataset is not None:
        sampler = trainer.eval_sampler(trainer.eval_dataset)
        evaluation = {
            "loss": evaluations[-1],
            "pairs": len(sampler) * sampler.batch_size,
            "batch": sampler.batch_size,
            "chance": math.log(sampler.batch_size),
        }
        result = EvalResult(
            task_type="zero-shot-image-classification",
            task_name="Contrastive loss",
            dataset_type=Path(data_arguments.dataset).name,
            dataset_name=Path(data_arguments.dataset).name,
            dataset_config=data_arguments.dataset_config,
            dataset_split=data_arguments.eval_split,
            metric_type="loss",
            metric_name="contrastive loss",
            metric_value=round(evaluations[-1], 4),
        )
        results = [result]
    metadata = ModelCardData(
        language="en",
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="zero-shot-image-classification",
        tags=["radiology", "chest-x-ray", "medsyn", config.model_type],
        datasets=[Path(data_arguments.dataset).name],
        model_name=folder.name,
        eval_results=results,
    )
    parameters = [(parameter.numel(), parameter.requires_grad) for parameter in trainer.model.parameters()]
    card = render_card(
        "checkpoint_card.md.jinja",
        metadata,
        title=trainer.title,
        paper=trainer.paper,
        folder=folder.name,
        config=config,
        switches=config.departures(),
        model_arguments=model_arguments,
        data_arguments=data_arguments,
        dataset_sha256=dataset_fingerprint(data_arguments.dataset),
        pairs=len(trainer.train_dataset),
        rows_without_text=trainer.train_dataset.rows_without_text,
        rows_waiting=trainer.train_sampler.rows_waiting,
        global_batch=trainer.train_sampler.batch_size,
        accumulated=args.gradient_accumulation_steps,
        processes=args.world_size,
        epochs=round(trainer.state.epoch or 0, 2),
        steps=trainer.state.global_step,
        hyperparameters={name: getattr(args, name) for name in HYPERPARAMETERS},
        parameters_total=sum(number for number, _ in parameters),
        parameters_trained=sum(number for number, trained in parameters if trained),
        loss=losses[-1] if losses else None,
        evaluation=evaluation,
        curve=CURVE_NAME,
    )
    card.save(folder / "README.md")
