"""Gradient caching: the loss and gradients of the whole batch, with the graph of a chunk."""

import contextlib

import pytest
import torch

from tests.fixtures.tiny_models import tiny_convirt, tiny_gloria, tiny_mgca
from tests.trainers.data.pairs_of_texts import tiny_pairs
from tests.trainers.test_gloria_mgca_trainers import trainer_of
from trainers import distributed
from trainers.distributed import GradientCache

STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
MAKERS = {"convirt": tiny_convirt, "gloria": tiny_gloria, "mgca": tiny_mgca}


class OneProcess:
    """Counts the chunks whose gradients would not be averaged over processes."""

    alone = 0

    @contextlib.contextmanager
    def no_sync(self, model):
        self.alone += 1
        yield


def loss_of(model, inputs, size: int | None = None, scale: float = 1.0) -> torch.Tensor:
    """The loss, and its gradients in the model: plain, or with chunks of a size."""
    model.zero_grad()
    cache = None if size is None else GradientCache(model, inputs, size)
    features = model(**inputs, features_only=True) if cache is None else cache.features
    loss = sum(model.losses(features).values())
    (scale * loss).backward()
    if cache is not None:
        cache.backward(model, OneProcess())
    return loss.detach()


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def differ(found: dict, expected: dict) -> float:
    """The largest difference of any gradient, over the largest gradient of its parameter."""
    largest = max(value.abs().max() for value in expected.values())
    # The bias of attention keys has a gradient of zero but for rounding.
    return max(
        ((found[name] - value).abs().max() / max(value.abs().max(), 1e-3 * largest)).item()
        for name, value in expected.items()
    )


@pytest.mark.parametrize("method", MAKERS)
@pytest.mark.parametrize("kind", ["resnet", "vit", "convnext"])
def test_chunks_give_the_loss_and_gradients_of_the_whole_batch(method, kind):
    model = MAKERS[method](kind, text_changes=STILL, freeze_batch_norm=True).train()
    inputs = tiny_pairs(7)
    loss, plain = loss_of(model, inputs), gradients(model)
    assert all(value.abs().max() > 0 for value in plain.values())
    for size in (1, 3):  # 7 pairs: the last chunk is shorter
        torch.testing.assert_close(loss_of(model, inputs, size), loss, rtol=1e-5, atol=0)
        assert differ(gradients(model), plain) < 1e-5


@pytest.mark.parametrize("method", MAKERS)
def test_a_chunk_draws_the_same_dropout_both_times(method, monkeypatch):
    model, inputs = MAKERS[method]("vit", freeze_batch_norm=True).train(), tiny_pairs(7)
    torch.manual_seed(3)
    chunks = [{name: tensor[start : start + 3] for name, tensor in inputs.items()} for start in (0, 3, 6)]
    features = distributed.join_chunks([model(**chunk, features_only=True) for chunk in chunks])
    loss = sum(model.losses(features).values())
    loss.backward()
    plain, drawn = gradients(model), torch.get_rng_state()
    torch.manual_seed(3)
    torch.testing.assert_close(loss_of(model, inputs, 3), loss.detach(), rtol=1e-6, atol=0)
    assert differ(gradients(model), plain) < 1e-5
    assert torch.equal(torch.get_rng_state(), drawn)
    monkeypatch.setattr(distributed.RandomStates, "again", lambda self: contextlib.nullcontext())
    torch.manual_seed(3)
    loss_of(model, inputs, 3)
    assert differ(gradients(model), plain) > 1e-2


def test_the_features_gradient_is_scaled_once_and_averaged_once():
    model, inputs = tiny_mgca("vit", text_changes=STILL, freeze_batch_norm=True).train(), tiny_pairs(7)
    loss_of(model, inputs)
    plain = {name: 1024 * value for name, value in gradients(model).items()}
    loss_of(model, inputs, 3, scale=1024)
    assert differ(gradients(model), plain) < 1e-5
    cache, process = GradientCache(model, inputs, 3), OneProcess()
    sum(model.losses(cache.features).values()).backward()
    cache.backward(model, process)
    assert (len(cache.chunks), process.alone) == (3, 2)


def test_a_frozen_text_tower_gets_no_gradient():
    model, inputs = tiny_convirt("vit", text_changes=STILL, text_tower_trainable=False), tiny_pairs(7)
    model.freeze()
    loss_of(model, inputs)
    plain = {name: value for name, value in gradients(model).items() if value is not None}
    loss_of(model, inputs, 3)
    found = {name: value for name, value in gradients(model).items() if value is not None}
    assert found.keys() == plain.keys() < dict(model.named_parameters()).keys()
    assert differ(found, plain) < 1e-5


class Saved:
    """A tensor that a graph holds on to; counts what all of them take at once."""

    bytes = peak = 0

    def __init__(self, tensor: torch.Tensor):
        self.tensor, self.size = tensor, tensor.numel() * tensor.element_size()
        Saved.bytes += self.size
        Saved.peak = max(Saved.peak, Saved.bytes)

    def __del__(self):
        Saved.bytes -= self.size


def peak_of_saved_bytes(model, inputs, size: int | None) -> int:
    """What the graph holds at most, without the weights, which are there anyway."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def pack(tensor):
        return tensor if tensor.untyped_storage().data_ptr() in weights else Saved(tensor)

    Saved.bytes = Saved.peak = 0
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: getattr(saved, "tensor", saved)):
        loss_of(model, inputs, size)
    assert Saved.bytes == 0
    return Saved.peak


def test_no_more_than_a_chunks_graph_is_held_at_once():
    model, inputs = tiny_convirt("vit").train(), tiny_pairs(16)
    plain, chunked = peak_of_saved_bytes(model, inputs, None), peak_of_saved_bytes(model, inputs, 2)
    print(f"a batch of 16 holds {plain:,} bytes, chunks of 2 {chunked:,}")
    assert chunked < 0.15 * plain


def test_the_trainer_caches_under_autocast_too(tmp_path):
    def trained(**settings):
        trainer = trainer_of(
            tmp_path, tiny_gloria("vit", text_changes=STILL), max_steps=2, gradient_accumulation_steps=2, **settings
        )
        trainer.train()
        return trainer.state.log_history[0]["loss"], trainer.model.state_dict()

    for precision, tolerance in (({}, 1e-5), ({"bf16": True}, 1e-2)):
        loss, plain = trained(**precision)
        cached_loss, cached = trained(**precision, gradient_cache_chunk_size=4)
        assert cached_loss == pytest.approx(loss, rel=tolerance)
        moved = max((cached[name].float() - value.float()).abs().max().item() for name, value in plain.items())
        assert moved < (1e-5 if not precision else 4.1e-3)  # Adam's first steps are of 1e-3 whatever the gradient


def test_a_batch_norm_that_trains_is_refused(tmp_path):
    with pytest.raises(ValueError, match="gradient_cache_chunk_size=2 cannot equal.*set freeze_batch_norm"):
        trainer_of(tmp_path, tiny_gloria(), gradient_cache_chunk_size=2)
    with pytest.raises(ValueError, match="set freeze_batch_norm"):  # that of MGCA's heads
        trainer_of(tmp_path, tiny_mgca("vit"), gradient_cache_chunk_size=2)
    trainer_of(tmp_path, tiny_gloria(freeze_batch_norm=True), gradient_cache_chunk_size=2)
    trainer_of(tmp_path, tiny_gloria("vit"), gradient_cache_chunk_size=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gradient_cache_chunk_size": 2, "sync_batch_norm": True}, "cannot go with sync_batch_norm"),
        ({"gradient_cache_chunk_size": 0}, "gradient_cache_chunk_size=0 .*between 1 and 5"),
        ({"gradient_cache_chunk_size": 6}, "gradient_cache_chunk_size=6 saves nothing of the 6 pairs"),
        ({"sync_batch_norm": True}, r"needs several GPUs, and this run has 1 process\(es\) on cpu"),
    ],
)
def test_impossible_settings_are_refused(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        trainer_of(tmp_path, tiny_gloria("vit"), **settings)
