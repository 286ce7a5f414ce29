"""ConVIRT: one vector for the image, one for the report, and a contrastive loss between them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .configuration_medsyn import ConVIRTConfig
from .loss_contrastive import cross_modal_logits, nt_xent
from .modeling_medsyn import MedSynPreTrainedModel


class ConVIRTModel(MedSynPreTrainedModel):
    """Contrastive learning of visual representations from paired images and text (Zhang et al., arXiv 2010.00747).

    The pooled image feature goes through linear, ReLU, linear; the mean of the text's token features likewise.
    `logits_per_image` are the cosines of the two over the temperature. An empty text is its opening and closing token.

    Args:
        config ([`ConVIRTConfig`]): Its docstring explains every switch.

    Example:

    ```python
    >>> import hub_medsyn
    >>> from transformers import pipeline

    >>> classify = pipeline("zero-shot-image-classification", model="out/convirt")
    >>> classify("image.png", candidate_labels=["left pleural effusion", "no effusion"], hypothesis_template="{}")
    ```
    """

    config_class = ConVIRTConfig

    def __init__(self, config: ConVIRTConfig):
        super().__init__(config)
        image_width = self.vision_model.timm_model.head_hidden_size
        text_width = config.text_config.hidden_size
        self.image_head = projection_head(image_width, config.projection_dim)
        self.text_head = projection_head(text_width, config.projection_dim)
        self.post_init()

    def freeze(self) -> None:
        super().freeze()
        if not self.config.text_tower_trainable:
            self.text_model.requires_grad_(False)
            self.text_head.requires_grad_(False)

    def encode_images(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """`image_embeds`, `(images, projection_dim)`, of any length."""
        return {"image_embeds": self._project_images(pixel_values)}

    def encode_texts(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        """`text_embeds`, `(texts, projection_dim)`, of any length."""
        return {"text_embeds": self._project_texts(input_ids, attention_mask, token_type_ids)}

    def losses(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        image, text = features["image_embeds"], features["text_embeds"]  # (batch, projection_dim) each
        with torch.autocast(image.device.type, enabled=False):
            loss = nt_xent(image.float(), text.float(), self.config.temperature_global, self.config.alpha)
        return {"loss_global": loss}

    def chance_loss(self, pairs: int) -> float:
        return math.log(pairs)  # alpha and the rest add up to 1

    def similarity(self, features: Mapping[str, Tensor]) -> Tensor:
        image, text = features["image_embeds"].float(), features["text_embeds"].float()
        return cross_modal_logits(image, text, self.config.temperature_global)

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """Projected features of unit length, `(images, projection_dim)`."""
        return nn.functional.normalize(self._project_images(pixel_values), dim=-1)

    def get_text_features(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Projected features of unit length, `(texts, projection_dim)`."""
        return nn.functional.normalize(self._project_texts(input_ids, attention_mask, token_type_ids), dim=-1)

    def _project_images(self, pixel_values: Tensor) -> Tensor:
        self.check_pixels(pixel_values)
        pooled = self.vision_model(pixel_values).pooler_output  # (images, image_width)
        return self.image_head(pooled)  # (images, projection_dim)

    def _project_texts(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        self.check_tokens(input_ids)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        segments = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        tokens = self.text_model(input_ids, attention_mask=attention_mask, **segments).last_hidden_state
        mask = attention_mask[..., None].to(tokens.dtype)  # (texts, tokens, 1)
        mean = (tokens * mask).sum(1) / mask.sum(1).clamp(min=1)  # (texts, text_width)
        return self.text_head(mean)  # (texts, projection_dim)


def projection_head(width: int, projection_dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, projection_dim))
