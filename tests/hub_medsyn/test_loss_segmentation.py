"""The segmentation loss against the published code's own numbers, and against its formulas in plain arithmetic."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hub_medsyn.loss_segmentation import focal_loss, mixed_loss, soft_dice

LOGITS = torch.tensor([[[0.5, -1.0], [2.0, 0.0]], [[-3.0, 1.5], [0.25, -0.75]]], dtype=torch.float64)
MASKS = torch.tensor([[[1, 0], [1, 1]], [[0, 0], [0, 0]]])  # the second image has nothing to find


def test_equals_plain_arithmetic():
    probability = [1 / (1 + math.exp(-value)) for value in LOGITS.flatten().tolist()]
    inside = MASKS.flatten().tolist()
    right = [p if one else 1 - p for p, one in zip(probability, inside, strict=True)]
    focal = sum(-((1 - p) ** 2) * math.log(p) for p in right) / 8
    both = sum(p for p, one in zip(probability, inside, strict=True) if one)
    dice = (2 * both + 1) / (sum(probability) + 3 + 1)
    assert focal_loss(LOGITS, MASKS).item() == pytest.approx(focal, rel=1e-12)
    assert soft_dice(LOGITS, MASKS).item() == pytest.approx(dice, rel=1e-12)
    assert mixed_loss(LOGITS, MASKS).item() == pytest.approx(10 * focal - math.log(dice), rel=1e-12)
    assert mixed_loss(LOGITS, MASKS, alpha=1.0).item() == pytest.approx(focal - math.log(dice), rel=1e-12)


def test_equals_the_golden_numbers(golden):
    # MixedLoss(alpha=10), FocalLoss(gamma=2) and dice_loss of HKU-MedAI/MGCA, whose "dice_loss" is the coefficient.
    with np.load(golden / "segmentation_loss_f32.npz") as numbers:
        logits, masks = torch.tensor(numbers["logit"], requires_grad=True), torch.tensor(numbers["target"])
        loss = mixed_loss(logits, masks)
        loss.backward()
        np.testing.assert_allclose(loss.item(), numbers["mixed_alpha10"], rtol=1e-6)
        np.testing.assert_allclose(logits.grad.numpy(), numbers["grad"], rtol=1e-5, atol=1e-8)
        np.testing.assert_allclose(focal_loss(logits, masks).item(), numbers["focal_gamma2"], rtol=1e-6)
        np.testing.assert_allclose(soft_dice(logits, masks).item(), numbers["soft_dice_coefficient"], rtol=1e-6)


def test_the_gradient_is_that_of_the_loss():
    logits = LOGITS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda values: mixed_loss(values, MASKS), logits)


def test_without_gamma_focal_is_cross_entropy():
    expected = F.binary_cross_entropy_with_logits(LOGITS, MASKS.double())
    torch.testing.assert_close(focal_loss(LOGITS, MASKS, gamma=0.0), expected)


def test_dice_is_of_the_batch_and_not_of_its_images():
    of_images = torch.stack([soft_dice(LOGITS[place], MASKS[place]) for place in range(2)]).mean()
    assert not torch.isclose(soft_dice(LOGITS, MASKS), of_images)


@pytest.mark.parametrize("inside", [0, 1])
@pytest.mark.parametrize("sure", [-200.0, 200.0])
def test_sure_pixels_and_empty_batches_are_finite(sure, inside):
    logits = torch.full((2, 4, 4), sure, requires_grad=True)
    loss = mixed_loss(logits, torch.full((2, 4, 4), inside))
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()
    if (sure > 0) == bool(inside):
        assert loss.item() == pytest.approx(0, abs=1e-6)
    else:
        assert loss.item() > 1000


@pytest.mark.parametrize("loss", [focal_loss, soft_dice, mixed_loss])
def test_other_shapes_are_refused(loss):
    with pytest.raises(ValueError, match=r"\(2, 1, 4, 4\) and masks \(2, 4, 4\)"):
        loss(torch.zeros(2, 1, 4, 4), torch.zeros(2, 4, 4))
