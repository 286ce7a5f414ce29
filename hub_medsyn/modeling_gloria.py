"""GLoRIA: the image's regions attend to the report's words, beside one vector for each."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .configuration_medsyn import GLoRIAConfig
from .loss_contrastive import cross_modal_logits, nt_xent
from .loss_gloria import gloria_local_loss, local_similarity
from .modeling_local import LocalFeaturesModel, sum_words, word_numbers


class GLoRIAModel(LocalFeaturesModel):
    """Global and local representations of images and text (Huang et al., ICCV 2021).

    A word is the sum of its pieces over the last text layers; a text is the mean of its words. The image's pooled
    feature and its regions are projected to the text encoder's width.

    `logits_per_image` are the mean of two similarities: the cosine of image and text, and five times the best cosine
    of any word with the image as that word attends to it. Words are counted as words and neither the opening nor the
    closing token is one; a text without any is compared by its opening token. Each score depends on its own image and
    text alone.

    Args:
        config ([`GLoRIAConfig`]): Its docstring explains every switch.
    """

    config_class = GLoRIAConfig

    def __init__(self, config: GLoRIAConfig):
        super().__init__(config)
        width = config.text_config.hidden_size
        self.image_head = nn.Linear(self.vision_model.timm_model.head_hidden_size, width)
        self.region_head = nn.Linear(self.region_width, width, bias=False)
        self.post_init()

    def encode_images(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """`image_embeds`, `(images, dim)`, of any length; `regions`, `(images, regions, dim)`, row by row."""
        pooled, regions, _ = self.encode_regions(pixel_values)
        return {"image_embeds": self.image_head(pooled), "regions": self.region_head(regions)}

    def encode_texts(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        """`text_embeds`, `(texts, dim)`, of any length; `words`, `(texts, words, dim)`, the opening token first;
        `word_mask`, `(texts, words)`, the words that the local loss aligns."""
        text, words, mask = self._encode_words(input_ids, attention_mask, token_type_ids)
        return {"text_embeds": text, "words": words, "word_mask": mask}

    def losses(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        config = self.config
        with torch.autocast(features["words"].device.type, enabled=False):
            values = {name: value.float() for name, value in features.items() if name != "word_mask"}
            both_ways = 2 * nt_xent(values["image_embeds"], values["text_embeds"], config.temperature_global, 0.5)
            local = gloria_local_loss(
                values["regions"],
                values["words"],
                features["word_mask"],
                config.attention_temperature,
                config.word_temperature,
                config.loss_temperature,
                config.word_aggregate,
            )
        return {"loss_global": config.weight_global * both_ways, "loss_local": config.weight_local * sum(local)}

    def chance_loss(self, pairs: int) -> float:
        return self.config.weight_global * 2 * math.log(pairs)  # both directions, added

    def similarity(self, features: Mapping[str, Tensor]) -> Tensor:
        mask = features["word_mask"].clone()  # (texts, words)
        # differs from marshuang80/gloria: there the characters of the text are counted, so that padding takes part
        mask[:, 0] = ~mask[:, 1:].any(1)
        local = local_similarity(
            features["regions"].float(),
            features["words"].float(),
            mask,
            self.config.attention_temperature,
            self.config.word_temperature,
            aggregate="max",
        )
        return (cross_modal_logits(features["image_embeds"].float(), features["text_embeds"].float(), 1.0) + local) / 2

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """Projected features of unit length, `(images, dim)`."""
        return nn.functional.normalize(self.image_head(self.encode_regions(pixel_values)[0]), dim=-1)

    def get_text_features(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Features of unit length, `(texts, dim)`."""
        return nn.functional.normalize(self._encode_words(input_ids, attention_mask, token_type_ids)[0], dim=-1)

    def _encode_words(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        hidden, attention_mask = self.encode_tokens(input_ids, attention_mask, token_type_ids)
        tokens = torch.stack(hidden[-self.config.last_text_layers :]).sum(0)  # (texts, tokens, dim)
        numbers, counts, closed = word_numbers(
            input_ids, attention_mask, self.continues_word, self.config.sep_token_id
        )
        words = sum_words(tokens, numbers, int(counts.max()))  # (texts, words, dim)
        # differs from marshuang80/gloria: the mean is over a text's own words, not 97 places; cosines are the same
        text = words.sum(1) / counts[:, None]  # (texts, dim)
        position = torch.arange(words.shape[1], device=words.device)
        mask = position < (counts - closed.long())[:, None]  # (texts, words): the closing token is left out
        if not self.config.words_include_cls:
            mask = mask & ((position > 0) | (mask.sum(1, keepdim=True) == 1))  # but for a text without words
        return text, words, mask
