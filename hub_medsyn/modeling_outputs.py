"""What the models of this package return."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput


@dataclass
class ContrastiveOutput(ModelOutput):
    """The output of an image-text model.

    Args:
        loss (`torch.FloatTensor` of shape `(1,)`, *optional*, returned when `return_loss=True`):
            The sum of the parts below.
        loss_global (`torch.FloatTensor` of shape `(1,)`, *optional*): Between whole images and whole texts.
        loss_local (`torch.FloatTensor` of shape `(1,)`, *optional*): Between regions and words.
        loss_prototype (`torch.FloatTensor` of shape `(1,)`, *optional*): Between prototype assignments.
        logits_per_image (`torch.FloatTensor` of shape `(images, texts)`): Scaled similarities, each model says which.
        logits_per_text (`torch.FloatTensor` of shape `(texts, images)`): Its transpose.
        image_embeds (`torch.FloatTensor` of shape `(images, dim)`): Projected image features of unit length.
        text_embeds (`torch.FloatTensor` of shape `(texts, dim)`): Projected text features of unit length.
        region_embeds (`torch.FloatTensor` of shape `(images, regions, dim)`, *optional*, returned when
            `output_local_features=True`): Projected regions row by row, of any length; GLoRIA and MGCA have them.
        word_embeds (`torch.FloatTensor` of shape `(texts, words, dim)`, *optional*, likewise):
            Words in the regions' space, of any length. GLoRIA's first is the token that opens the text.
        word_mask (`torch.BoolTensor` of shape `(texts, words)`, *optional*, likewise):
            Which words the local loss aligns: the others are padding, or tokens that the model's switches leave out.
    """

    loss: torch.FloatTensor | None = None
    loss_global: torch.FloatTensor | None = None
    loss_local: torch.FloatTensor | None = None
    loss_prototype: torch.FloatTensor | None = None
    logits_per_image: torch.FloatTensor | None = None
    logits_per_text: torch.FloatTensor | None = None
    image_embeds: torch.FloatTensor | None = None
    text_embeds: torch.FloatTensor | None = None
    region_embeds: torch.FloatTensor | None = None
    word_embeds: torch.FloatTensor | None = None
    word_mask: torch.BoolTensor | None = None
