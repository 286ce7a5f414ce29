"""Precision, recomputed activations, compilation, synchronised BatchNorm: each option does what it says."""

import pytest
import torch
from torch import nn

from tests.fixtures.tiny_models import tiny_convirt, tiny_gloria, tiny_mgca
from tests.trainers.test_gloria_mgca_trainers import trainer_of
from trainers.training_arguments import VLPTrainingArguments
from trainers.vlp_trainer import takes_batch_statistics, training_batch_norms

MAKERS = {"convirt": tiny_convirt, "gloria": tiny_gloria, "mgca": tiny_mgca}
SETTINGS = {"max_steps": 2, "num_train_epochs": 1}


def trained(folder, model, **settings):
    """The trainer after two steps, in which every trainable parameter moved."""
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    trainer = trainer_of(folder, model, **SETTINGS, **settings)
    trainer.train()
    for name, parameter in trainer.accelerator.unwrap_model(trainer.model).named_parameters():
        assert torch.isfinite(parameter).all() and parameter.dtype == torch.float32
        assert torch.equal(parameter, before[name]) is not parameter.requires_grad, name
    return trainer, trainer.state.log_history[0]["loss"]


def changes(method: str) -> dict:
    return {"frozen_prototype_epochs": 0} if method == "mgca" else {}


@pytest.mark.parametrize("method", MAKERS)
def test_bf16_computes_in_it_and_stays_close(method, tmp_path):
    kinds = set()

    def note(module, inputs, output):
        kinds.add(output.dtype)

    _, loss = trained(tmp_path, MAKERS[method]("vit", **changes(method)))
    model = MAKERS[method]("vit", **changes(method))
    model.text_model.encoder.layer[0].output.dense.register_forward_hook(note)
    _, rounded = trained(tmp_path, model, bf16=True)
    assert kinds == {torch.bfloat16}
    assert rounded == pytest.approx(loss, rel=0.05) and rounded != loss


def test_fp16_on_the_cpu_is_refused_rather_than_ignored(tmp_path):
    with pytest.raises(ValueError, match="fp16 has no effect on a CPU.*take --bf16"):
        trainer_of(tmp_path, tiny_convirt("vit"), fp16=True)


@pytest.mark.parametrize("method", MAKERS)
@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_gradient_checkpointing_reaches_both_encoders_and_changes_nothing(method, kind, tmp_path):
    def run(**settings):
        # Not BatchNorm's statistics: it would update them twice.
        model = MAKERS[method](kind, freeze_batch_norm=True, **changes(method))
        layers = [
            model.vision_model.timm_model.get_submodule("layer1.0.conv1" if kind == "resnet" else "blocks.0.attn")
        ]
        layers.append(model.text_model.encoder.layer[0].intermediate)
        passes = []
        for layer in layers:
            layer.register_forward_hook(lambda layer, inputs, output: passes.append(layer))
        trainer, loss = trained(tmp_path, model, **settings)
        return loss, trainer.model.state_dict(), [passes.count(layer) for layer in layers]

    loss, plain, passes = run()
    recomputed_loss, recomputed, more = run(gradient_checkpointing=True)
    assert passes == [2, 2] and more == [4, 4]
    assert recomputed_loss == pytest.approx(loss, rel=1e-6)
    for name, value in plain.items():
        torch.testing.assert_close(recomputed[name], value, rtol=1e-5, atol=2e-5, msg=name)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_compiled_model_trains_the_same(backend, tmp_path):
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    _, loss = trained(tmp_path, tiny_convirt("vit", text_changes=still))
    trainer, compiled = trained(
        tmp_path, tiny_convirt("vit", text_changes=still), torch_compile=True, torch_compile_backend=backend
    )
    assert isinstance(trainer.model_wrapped, torch._dynamo.OptimizedModule)
    assert compiled == pytest.approx(loss, rel=1e-4)


def test_synchronised_batch_norm_is_every_batch_norm_and_keeps_the_weights(tmp_path, monkeypatch):
    """What the GPUs would get: the layers themselves run on CUDA alone."""
    monkeypatch.setattr(VLPTrainingArguments, "_check_device", lambda self: None)
    for model in (tiny_mgca(), tiny_convirt("mobilenet")):  # BatchNorm with an activation of timm's own, too
        state, number = model.state_dict(), len(training_batch_norms(model))
        assert takes_batch_statistics(model) and number > 0
        synchronised = trainer_of(tmp_path, model, sync_batch_norm=True).model
        assert not takes_batch_statistics(synchronised)
        assert len(training_batch_norms(synchronised)) == number
        assert all(isinstance(norm, nn.SyncBatchNorm) for norm in training_batch_norms(synchronised))
        assert all(torch.equal(value, state[name]) for name, value in synchronised.state_dict().items())
    for model in (tiny_gloria("vit"), tiny_gloria(freeze_batch_norm=True)):
        with pytest.raises(ValueError, match="sync_batch_norm has nothing to synchronise.*freeze_batch_norm"):
            trainer_of(tmp_path, model, sync_batch_norm=True)
