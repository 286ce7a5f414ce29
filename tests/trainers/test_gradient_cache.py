"""Gradient caching: the loss and gradients of the whole batch, with the graph of a chunk."""

import contextlib

import pytest
import torch
from accelerate import Accelerator

from tests.fixtures.tiny_models import tiny_convirt, tiny_gloria, tiny_mgca, tiny_tokenizer
from tests.trainers.test_gloria_mgca_trainers import trainer_of
from trainers.gradient_cache import GradientCache

STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
MAKERS = {"convirt": tiny_convirt, "gloria": tiny_gloria, "mgca": tiny_mgca}
TEXTS = (
    "No acute process.",
    "Small left pleural effusion and mild edema in the left lower lobe.",
    "Cardiomegaly.",
    "Right upper lobe nodule of 4 mm is stable.",
    "Lungs are clear.",
    "New bilateral consolidation with large pleural effusions, moderate pulmonary edema, and atelectasis.",
    "Fracture of the left rib.",
)


def pairs(size: int = 7) -> dict[str, torch.Tensor]:
    """As many films and reports; reports have 3 to 14 words."""
    generator = torch.Generator().manual_seed(1)
    texts = tiny_tokenizer()([TEXTS[row % len(TEXTS)] for row in range(size)], padding=True, return_tensors="pt")
    return {"pixel_values": torch.randn(size, 3, 32, 32, generator=generator), **texts}


def double(model):
    """The model in float64 with its losses, which are computed in float32 otherwise."""
    model = model.double().train()
    model.losses_of = model.losses
    return model


def gradients(model) -> dict[str, torch.Tensor]:
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    return found


def cached(model, inputs, size: int):
    cache = GradientCache(model, inputs, size)
    loss = sum(model.losses(cache.features).values())
    loss.backward()
    cache.backward(model, Accelerator(cpu=True))
    return loss.detach(), gradients(model)


def close(found, expected, tolerance: float) -> None:
    assert found.keys() == expected.keys()
    largest = max(value.abs().max().item() for value in expected.values() if value is not None)
    for name, value in expected.items():
        # The bias of attention keys has a gradient of zero but for rounding.
        torch.testing.assert_close(found[name], value, rtol=tolerance, atol=tolerance * largest, msg=name)


@pytest.mark.parametrize("method", MAKERS)
@pytest.mark.parametrize("kind", ["resnet", "vit", "convnext"])
def test_chunks_give_the_loss_and_gradients_of_the_whole_batch(method, kind):
    model = MAKERS[method](kind, text_changes=STILL, freeze_batch_norm=True).train()
    inputs = pairs()
    loss = model(**inputs, return_loss=True).loss
    loss.backward()
    plain = gradients(model)
    assert all(value.abs().max() > 0 for value in plain.values())
    for size in (1, 3, 6):  # 7 pairs: the last chunk is shorter
        found, given = cached(model, inputs, size)
        torch.testing.assert_close(found, loss.detach(), rtol=1e-6, atol=0)
        close(given, plain, 1e-5)
