"""MGCA's losses against the published code's own numbers, and their properties."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hub_medsyn.loss_contrastive import nt_xent
from hub_medsyn.loss_mgca import clip_weights, prototype_alignment, sinkhorn, token_alignment

# Inputs, losses and gradients that MGCA.forward of HKU-MedAI/MGCA (commit 680fe4a, mgca/models/mgca/mgca_module.py)
# gives for fixed random features, float64; numbers alone.
PUBLISHED = Path(__file__).parent / "data"


def assert_equals_published(numbers, rtol: float):
    def tensor(name):
        return torch.tensor(numbers[name])

    image, report, patch, word = (tensor(name).requires_grad_() for name in ("img", "report", "patch", "word"))
    temperature, local_temperature, prototype_temperature, epsilon, iterations = (float(n) for n in numbers["hp"])
    vit = "attention_map" in numbers
    mask = torch.arange(word.shape[1]) < tensor("n_words")[:, None]
    words, patches = F.normalize(word, dim=-1), F.normalize(patch, dim=-1)
    weights = tensor("attention_map")[:, :, 0, 1:].mean(1) if vit else torch.ones(patch.shape[:2], dtype=patch.dtype)
    loss_word = token_alignment(
        words, patches, clip_weights(tensor("word_attn")), mask, None, local_temperature, pad_negatives=True
    )
    loss_patch = token_alignment(
        patches, words, clip_weights(weights), None, mask, local_temperature, normalize_context=not vit
    )
    np.testing.assert_allclose(loss_word.item(), numbers["loss_word"], rtol=rtol)
    np.testing.assert_allclose(loss_patch.item(), numbers["loss_patch"], rtol=rtol)
    loss_ita = 2 * nt_xent(image, report, temperature, 0.5)
    np.testing.assert_allclose(loss_ita.item(), numbers["loss_ita"], rtol=rtol)
    prototypes = F.normalize(tensor("proto_weight_raw"), dim=-1)
    scores = {name: F.normalize(value, dim=-1) @ prototypes.T for name, value in (("img", image), ("report", report))}
    for name, value in scores.items():
        np.testing.assert_allclose(value.detach(), numbers[f"proto_scores_{name}"], rtol=rtol, atol=rtol * 1e-1)
        codes = sinkhorn(value, epsilon, int(iterations))
        np.testing.assert_allclose(codes, numbers[f"sinkhorn_{name}"], rtol=max(rtol, 1e-5), atol=1e-7)
    loss_proto = prototype_alignment(*scores.values(), prototype_temperature, epsilon, int(iterations))
    np.testing.assert_allclose(loss_proto.item(), numbers["loss_proto"], rtol=max(rtol, 1e-6))
    for part, loss in (("ita", loss_ita), ("local", loss_word + loss_patch), ("proto", loss_proto)):
        inputs = {"img": image, "report": report, "patch": patch, "word": word}
        gradients = torch.autograd.grad(loss, list(inputs.values()), retain_graph=True, allow_unused=True)
        for name, gradient in zip(inputs, gradients, strict=True):
            expected = numbers[f"grad_{part}_{name}"]
            assert (gradient is None) == (expected.size == 0), (part, name)
            if gradient is not None:
                np.testing.assert_allclose(gradient, expected, rtol=rtol, atol=max(rtol * 1e-1, 2e-8))


@pytest.mark.parametrize("kind", ["resnet_50", "vit_base"])
def test_equals_the_published_code(kind):
    with np.load(PUBLISHED / f"mgca_{kind}.npz") as numbers:
        assert_equals_published(numbers, rtol=1e-6)


@pytest.mark.parametrize("kind", ["resnet_50", "vit_base"])
@pytest.mark.parametrize(("precision", "rtol"), [("f64", 1e-6), ("f32", 1e-4)])
def test_equals_the_golden_numbers(golden, kind, precision, rtol):
    with np.load(golden / f"mgca_{kind}_{precision}.npz") as numbers:
        assert_equals_published(numbers, rtol)


def test_instance_loss_of_the_convirt_in_the_same_code(golden):
    with np.load(golden / "mgca_convirt_infonce_f64.npz") as numbers:
        image, text = torch.tensor(numbers["img"]), torch.tensor(numbers["txt"])
        loss = 2 * nt_xent(image, text, float(numbers["temperature"]), 0.5)
        np.testing.assert_allclose(loss.item(), numbers["loss"], rtol=1e-6)


def features(padding: int):
    generator = torch.Generator().manual_seed(0)
    words = torch.randn(3, 4, 8, generator=generator, dtype=torch.float64)
    patches = F.normalize(torch.randn(3, 5, 8, generator=generator, dtype=torch.float64), dim=-1)
    mask = torch.arange(4 + padding) < torch.tensor([4, 2, 1])[:, None]
    words = torch.cat([words, torch.ones(3, padding, 8, dtype=torch.float64)], 1)
    return F.normalize(words, dim=-1), patches, mask, clip_weights(mask.double())


def test_padding_counts_only_where_the_switch_says_so():
    def losses(padding, **settings):
        words, patches, mask, weights = features(padding)
        uniform = torch.full((3, 5), 0.2, dtype=torch.float64)
        return torch.stack(
            [
                token_alignment(words, patches, weights, mask, None, **settings),
                token_alignment(patches, words, uniform, None, mask, **settings),
            ]
        )

    torch.testing.assert_close(losses(0), losses(6))
    with_padding = losses(0, pad_negatives=True), losses(6, pad_negatives=True)
    assert with_padding[1][0] > with_padding[0][0] and with_padding[1][1] == with_padding[0][1]


def test_one_word_is_told_without_loss_and_no_word_is_no_number_lost():
    words, patches, mask, weights = features(0)
    loss = token_alignment(words[2:], patches[2:], weights[2:], mask[2:], None)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    nothing = torch.zeros(1, 4, dtype=torch.bool)
    assert clip_weights(nothing.double()).sum() == 0
    assert token_alignment(words[:1], patches[:1], clip_weights(nothing.double()), nothing, None) == 0


def test_weights_are_clipped_among_the_items_that_are_there():
    weights = torch.tensor([[0.1, 0.2, 0.3, 0.9, 0.0, 0.0]], dtype=torch.float64)
    low, high = np.quantile([0.1, 0.2, 0.3, 0.9], [0.1, 0.9])
    expected = np.array([low, 0.2, 0.3, high, 0, 0]) / (low + 0.5 + high)
    np.testing.assert_allclose(clip_weights(weights)[0], expected)
    assert weights[0, 0] == 0.1  # the input stays as it was


def test_sinkhorn_sums_to_one_a_row_balances_prototypes_and_has_no_gradient():
    scores = torch.randn(40, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tanh()
    codes = sinkhorn(scores.requires_grad_(), epsilon=0.5, iterations=100)
    assert not codes.requires_grad
    torch.testing.assert_close(codes.sum(1), torch.ones(40, dtype=torch.float64))
    torch.testing.assert_close(codes.sum(0), torch.full((5,), 8.0, dtype=torch.float64))
    assert torch.isfinite(sinkhorn(scores.detach().float())).all()
    # What every process of a launch gets from the batch of all is not what it would get from its own.
    assert not torch.allclose(sinkhorn(scores.detach())[:20], sinkhorn(scores.detach()[:20]))
