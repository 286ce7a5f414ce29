"""The contrastive loss against the published code's own numbers, and where it must refuse."""

from pathlib import Path

import numpy as np
import pytest
import torch

from hub_medsyn.loss_contrastive import nt_xent

# Inputs, losses and gradients of NTXentLoss in edreisMD/ConVIRT-pytorch (commit c99ca5f, loss/nt_xent.py), float64.
PUBLISHED = Path(__file__).parent / "data" / "convirt_ntxent.npz"
SETTINGS = [(tau, alpha) for tau in (0.1, 0.07) for alpha in (0.75, 0.5)]


def assert_equals_published(numbers, tau: float, alpha: float, rtol: float):
    image = torch.tensor(numbers["img"], requires_grad=True)
    text = torch.tensor(numbers["txt"], requires_grad=True)
    loss = nt_xent(image, text, temperature=tau, alpha=alpha)
    loss.backward()
    name = f"tau{tau}_alpha{alpha}"
    np.testing.assert_allclose(loss.item(), numbers[f"loss_{name}"], rtol=rtol)
    np.testing.assert_allclose(image.grad.numpy(), numbers[f"grad_img_{name}"], rtol=rtol, atol=rtol * 1e-2)
    np.testing.assert_allclose(text.grad.numpy(), numbers[f"grad_txt_{name}"], rtol=rtol, atol=rtol * 1e-2)


@pytest.mark.parametrize(("tau", "alpha"), SETTINGS)
def test_equals_the_published_code(tau, alpha):
    with np.load(PUBLISHED) as numbers:
        assert_equals_published(numbers, tau, alpha, rtol=1e-6)


@pytest.mark.parametrize(("tau", "alpha"), SETTINGS)
@pytest.mark.parametrize(("kind", "rtol"), [("f64", 1e-6), ("f32", 1e-4)])
def test_equals_the_golden_numbers(golden, kind, rtol, tau, alpha):
    with np.load(golden / f"convirt_ntxent_{kind}.npz") as numbers:
        assert_equals_published(numbers, tau, alpha, rtol)


def test_directions_alone():
    with np.load(PUBLISHED) as numbers:
        image, text = torch.tensor(numbers["img"]), torch.tensor(numbers["txt"])
        np.testing.assert_allclose(nt_xent(image, text, 0.1, 1.0).item(), numbers["loss_i2t_tau0p1"], rtol=1e-6)
        np.testing.assert_allclose(nt_xent(image, text, 0.1, 0.0).item(), numbers["loss_t2i_tau0p1"], rtol=1e-6)


def test_order_of_the_batch_and_length_of_the_vectors_do_not_matter():
    generator = torch.Generator().manual_seed(0)
    image, text = (torch.randn(5, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    order = torch.tensor([3, 0, 4, 1, 2])
    loss = nt_xent(image, text)
    torch.testing.assert_close(loss, nt_xent(image[order] * 7, text[order] / 3))
    assert not torch.isclose(loss, nt_xent(image, text[order]))


def test_one_pair_is_refused():
    with pytest.raises(ValueError, match="batch size of 2 or more"):
        nt_xent(torch.randn(1, 4), torch.randn(1, 4))


def test_unpaired_features_are_refused():
    with pytest.raises(ValueError, match="3 images and 2 texts"):
        nt_xent(torch.randn(3, 4), torch.randn(2, 4))
