"""The trainers of GLoRIA and MGCA: what moves, what the presets say, and the prototypes' frozen epochs."""

import pytest
import torch
from transformers import VisionTextDualEncoderProcessor

from tests.fixtures.tiny_models import tiny_gloria, tiny_image_processor, tiny_mgca, tiny_tokenizer
from tests.trainers.data.image_pairs import image_pairs
from trainers.method_trainers import METHODS, GLoRIATrainer, MGCATrainer
from trainers.pretrain import parse
from trainers.training_arguments import VLPTrainingArguments

MAKERS = {"gloria": tiny_gloria, "mgca": tiny_mgca}


def trainer_of(folder, model, eval_dataset=None, **settings):
    settings = {"num_train_epochs": 2, "learning_rate": 1e-3, "logging_steps": 1, "save_strategy": "no", **settings}
    arguments = VLPTrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=6,
        per_device_eval_batch_size=6,
        disable_tqdm=True,
        use_cpu=True,
        **settings,
    )
    return METHODS[model.config.model_type.removeprefix("medsyn-")](
        model=model,
        args=arguments,
        train_dataset=image_pairs(),
        eval_dataset=eval_dataset,
        processor=VisionTextDualEncoderProcessor(tiny_image_processor(), tiny_tokenizer()),
    )


@pytest.mark.parametrize("method", MAKERS)
@pytest.mark.parametrize("kind", ["resnet", "vit"])
@pytest.mark.parametrize("switches", [{}, {"frozen_text_layers": 1, "freeze_text_embeddings": True}])
def test_every_trainable_parameter_changes_and_no_frozen_one(method, kind, switches, tmp_path):
    trainer = trainer_of(tmp_path, MAKERS[method](kind, **switches))
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    for name, parameter in trainer.model.named_parameters():
        assert torch.isfinite(parameter).all()
        assert torch.equal(parameter, before[name]) is not parameter.requires_grad, name
    assert all(parameter.requires_grad for parameter in trainer.model.parameters()) == (not switches)
    parts = {"gloria": {"loss_global", "loss_local"}, "mgca": {"loss_global", "loss_local", "loss_prototype"}}[method]
    assert {name for name in trainer.state.log_history[0] if name.startswith("loss_")} == parts


@pytest.mark.parametrize(("epochs", "moved"), [(1, False), (2, True)])
def test_prototypes_move_after_their_frozen_epochs_alone(epochs, moved, tmp_path):
    trainer = trainer_of(tmp_path, tiny_mgca(), num_train_epochs=epochs, weight_decay=0.1)
    before = trainer.model.prototypes.weight.clone()
    trainer.train()
    assert torch.equal(trainer.model.prototypes.weight, before) is not moved


def test_prototypes_without_frozen_epochs_move_at_once(tmp_path):
    trainer = trainer_of(tmp_path, tiny_mgca(frozen_prototype_epochs=0), max_steps=1)
    before = trainer.model.prototypes.weight.clone()
    trainer.train()
    assert not torch.equal(trainer.model.prototypes.weight, before)


@pytest.mark.parametrize("method", MAKERS)
def test_evaluation_has_a_loss_and_its_parts(method, tmp_path):
    trainer = trainer_of(tmp_path, MAKERS[method](), image_pairs(12, repeats=2, augmentation="none"))
    metrics = trainer.evaluate()
    parts = [value for name, value in metrics.items() if name.startswith("eval_loss_")]
    assert len(parts) == {"gloria": 2, "mgca": 3}[method]
    assert metrics["eval_loss"] == pytest.approx(sum(parts), rel=1e-4)


@pytest.mark.parametrize("method", ["gloria", "mgca"])
@pytest.mark.parametrize("preset", ["official", "paper", "fixed"])
def test_presets_reach_the_arguments(method, preset, tmp_path):
    argv = ["--output_dir", str(tmp_path), "--model", method, "--preset", preset, "--use_cpu"]
    model, data, training = parse(argv)
    assert model.model == method
    for name, value in METHODS[method].presets[preset].items():
        holder = data if hasattr(data, name) else training
        assert getattr(holder, name) == value, name
    assert parse([*argv, "--learning_rate", "0.5"])[2].learning_rate == 0.5


def test_presets_hold_the_published_numbers():
    gloria, mgca = GLoRIATrainer.presets["official"], MGCATrainer.presets["official"]
    assert (gloria["learning_rate"], gloria["adam_beta1"], gloria["max_grad_norm"]) == (5e-5, 0.5, 0.25)
    assert (gloria["per_device_train_batch_size"], gloria["max_text_tokens"]) == (48, 97)
    assert (mgca["learning_rate"], mgca["weight_decay"], mgca["warmup_steps"]) == (2e-5, 0.05, 0.4)
    assert (mgca["per_device_train_batch_size"], mgca["max_text_tokens"]) == (72, 112)
    assert mgca["text_columns"] == ["impression", "findings"]


def test_gloria_official_lowers_its_rate_by_eval_loss(tmp_path):
    settings = {"lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"factor": 0.5, "patience": 0}}
    evaluated = image_pairs(12, repeats=2, augmentation="none")
    trainer = trainer_of(
        tmp_path, tiny_gloria(), evaluated, eval_strategy="steps", eval_steps=1, max_steps=8, **settings
    )
    trainer.train()
    assert trainer.optimizer.param_groups[0]["lr"] < 1e-3
