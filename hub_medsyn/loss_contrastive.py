"""Cross-modal contrastive losses on global features: pure functions of tensors, without parameters."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def cross_modal_logits(image: Tensor, text: Tensor, temperature: float) -> Tensor:
    """Cosine similarity of every image with every text, over the temperature.

    Args:
        image (`torch.Tensor` of shape `(images, dim)`): Image features, of any length.
        text (`torch.Tensor` of shape `(texts, dim)`): Text features, of any length.
        temperature (`float`): Softmax temperature of the cosines.

    Returns:
        `torch.Tensor` of shape `(images, texts)`.
    """
    return F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T / temperature  # (images, texts)


def nt_xent(image: Tensor, text: Tensor, temperature: float = 0.1, alpha: float = 0.75) -> Tensor:
    """The bidirectional loss of ConVIRT (Zhang et al. 2020, equations 2 to 4; MedSyn, equations 1 to 3).

    `alpha * CE(S) + (1 - alpha) * CE(S^T)` with `S` the cosines over the temperature and the pairs on its diagonal:
    the negatives are the other modality's other items alone.

    Args:
        image (`torch.Tensor` of shape `(batch, dim)`): Image features, of any length.
        text (`torch.Tensor` of shape `(batch, dim)`): The features of the texts they belong to, in the same order.
        temperature (`float`, *optional*, defaults to 0.1): MedSyn states 0.07.
        alpha (`float`, *optional*, defaults to 0.75): The weight of image-to-text; MedSyn states one half.

    Returns:
        `torch.Tensor`: A scalar, in the type of the features.

    Raises:
        ValueError: If there are fewer than two pairs, or not as many texts as images.
    """
    if len(image) != len(text):
        raise ValueError(f"{len(image)} images and {len(text)} texts are not pairs; the loss needs as many of each")
    if len(image) < 2:
        raise ValueError(
            f"a contrastive loss compares each image with several texts, and this batch holds {len(text)}; "
            "use a batch size of 2 or more"
        )
    logits = cross_modal_logits(image, text, temperature)  # (batch, batch)
    targets = torch.arange(len(logits), device=logits.device)  # (batch,)
    image_to_text = F.cross_entropy(logits, targets)
    text_to_image = F.cross_entropy(logits.T, targets)
    return alpha * image_to_text + (1 - alpha) * text_to_image
