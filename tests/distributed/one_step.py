"""Trains two steps on global batches of eight and saves losses and gradients: one process, or one of several."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import distributed as dist
from transformers import VisionTextDualEncoderProcessor

from tests.fixtures.tiny_models import tiny_convirt, tiny_gloria, tiny_image_processor, tiny_mgca, tiny_tokenizer
from tests.trainers.data.image_pairs import image_pairs
from trainers.training_arguments import VLPTrainingArguments
from trainers.vlp_trainer import VLPTrainer

GLOBAL_BATCH = 8
MODELS = {
    "resnet": lambda **settings: tiny_convirt("resnet", **settings),
    "vit": lambda **settings: tiny_convirt("vit", **settings),
    "gloria": tiny_gloria,
    "mgca": lambda **settings: tiny_mgca("vit", **settings),
}


class GradientKeeper(VLPTrainer):
    """Keeps the gradients as the first step leaves them for the optimiser."""

    gradients: dict[str, torch.Tensor] | None = None

    def _clip_grad_norm(self, model):
        if self.gradients is None:
            model = self.accelerator.unwrap_model(model)
            self.gradients = {name: value.grad.clone() for name, value in model.named_parameters()}
        return super()._clip_grad_norm(model)


def one_step(kind: str, processes: int, out: Path, **settings) -> None:
    """Leaves `losses` and `gradients` in `<kind>.pt`."""
    args = VLPTrainingArguments(
        output_dir=str(out / "run"),
        per_device_train_batch_size=GLOBAL_BATCH // processes,
        per_device_eval_batch_size=GLOBAL_BATCH // processes,
        max_steps=2,
        learning_rate=1e-3,
        max_grad_norm=1e9,
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        **settings,
    )
    world = dist.get_world_size() if dist.is_initialized() else 1
    assert world == processes == args.world_size, f"{world} processes, {processes} wanted"
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    trainer = GradientKeeper(
        model=MODELS[kind](text_changes=still, freeze_batch_norm=True),
        args=args,
        train_dataset=image_pairs(),
        eval_dataset=image_pairs(23, repeats=2, augmentation="none"),  # no whole number of batches
        processor=VisionTextDualEncoderProcessor(tiny_image_processor(), tiny_tokenizer()),
    )
    trainer.train()
    evaluation = trainer.evaluate()["eval_loss"]
    if trainer.is_world_process_zero():
        losses = [entry["loss_global"] for entry in trainer.state.log_history if "loss_global" in entry]
        result = {"losses": torch.tensor([*losses, evaluation]), "gradients": trainer.gradients}
        torch.save(result, out / f"{kind}.pt")


def every_step(runs: dict[str, dict], processes: int, out: Path) -> None:
    """Each kind in `runs/<name>`, with the settings of that name."""
    for name, settings in runs.items():
        (out / name).mkdir(exist_ok=True)
        for kind in MODELS:
            one_step(kind, processes, out / name, **settings)
