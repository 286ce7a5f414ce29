"""The loss of the U-Net: focal cross-entropy and soft Dice, pure functions of tensors."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss


def focal_loss(logits: Tensor, masks: Tensor, gamma: float = 2.0) -> Tensor:
    """Binary cross-entropy that counts a pixel the less the surer it is right (Lin et al. 2017, equation 4).

    `mean of (1 - p)^gamma * -log p` over all pixels, `p` being the probability given to the pixel's true class. There
    is no weight for the rarer class.

    Args:
        logits (`torch.Tensor` of any shape): The log-odds of each pixel.
        masks (`torch.Tensor` of the same shape): 1 inside, 0 outside.
        gamma (`float`, *optional*, defaults to 2.0): 0 is plain cross-entropy.

    Returns:
        `torch.Tensor`: A scalar.

    Raises:
        ValueError: If the shapes differ.
    """
    if logits.shape != masks.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and masks {tuple(masks.shape)} are not of one shape")
    return sigmoid_focal_loss(logits, masks.to(logits.dtype), alpha=-1, gamma=gamma, reduction="mean")


def soft_dice(logits: Tensor, masks: Tensor, smooth: float = 1.0) -> Tensor:
    """The Dice coefficient of probabilities, over all pixels of the batch together.

    `(2 * sum(p * mask) + smooth) / (sum(p) + sum(mask) + smooth)`: one number a batch and not one an image, so that an
    image without a finding is no division by zero and a small finding weighs little beside a large one.

    Args:
        logits (`torch.Tensor` of any shape): The log-odds of each pixel.
        masks (`torch.Tensor` of the same shape): 1 inside, 0 outside.
        smooth (`float`, *optional*, defaults to 1.0): Pixels added above and below.

    Returns:
        `torch.Tensor`: A scalar, 1 at best.

    Raises:
        ValueError: If the shapes differ.
    """
    if logits.shape != masks.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and masks {tuple(masks.shape)} are not of one shape")
    probability = logits.sigmoid()
    both = (probability * masks).sum()
    return (2 * both + smooth) / (probability.sum() + masks.sum() + smooth)


def mixed_loss(logits: Tensor, masks: Tensor, alpha: float = 10.0, gamma: float = 2.0) -> Tensor:
    """`alpha * focal - log(soft Dice)`, the loss of GLoRIA's and MGCA's segmenters.

    Args:
        logits (`torch.Tensor` of any shape): The log-odds of each pixel.
        masks (`torch.Tensor` of the same shape): 1 inside, 0 outside.
        alpha (`float`, *optional*, defaults to 10.0): The weight of [`focal_loss`].
        gamma (`float`, *optional*, defaults to 2.0): Its exponent.

    Returns:
        `torch.Tensor`: A scalar, in the type of the logits.

    Raises:
        ValueError: If the shapes differ.
    """
    return alpha * focal_loss(logits, masks, gamma) - torch.log(soft_dice(logits, masks))
