"""MGCA: alignment of images and reports, of their patches and words, and of their prototypes."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .configuration_medsyn import MGCAConfig
from .loss_contrastive import cross_modal_logits, nt_xent
from .loss_mgca import clip_weights, prototype_alignment, token_alignment
from .modeling_local import LocalFeaturesModel, sum_words, word_numbers


def shift_weights(weights: Tensor) -> Tensor:
    """Gives each token of `(texts, tokens)` the weight of the one after it, and the last none."""
    return F.pad(weights[:, 1:], (0, 1))


class ProjectionHead(nn.Sequential):
    """Linear, BatchNorm, ReLU, linear, BatchNorm without scale and shift; takes `(..., width)`."""

    def __init__(self, width: int, hidden: int, projection_dim: int):
        super().__init__(
            nn.Linear(width, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, projection_dim),
            nn.BatchNorm1d(projection_dim, affine=False),
        )

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.flatten(0, -2)).unflatten(0, features.shape[:-1])


class MGCAModel(LocalFeaturesModel):
    """Multi-granularity cross-modal alignment (Wang et al., NeurIPS 2022).

    Four heads project the pooled image, its patches, the text's opening token and its words. Three losses align whole
    images with whole texts, patches with words within a pair, and the prototypes that image and text are assigned to.

    `logits_per_image` are the cosines of image and text over the temperature. An empty text is its opening token.

    Args:
        config ([`MGCAConfig`]): Its docstring explains every switch.

    Raises:
        ValueError: If the last text layer has no `attention.self` to read how much the text's feature looks at a word.
    """

    config_class = MGCAConfig

    def __init__(self, config: MGCAConfig):
        super().__init__(config)
        attention = getattr(self.text_model.encoder.layer[-1], "attention", None)
        if not isinstance(getattr(getattr(attention, "self", None), "query", None), nn.Linear):
            raise ValueError(
                f"MGCA weighs words by the attention of the last text layer, and {type(self.text_model).__name__} has "
                "no encoder.layer[-1].attention.self as BERT, RoBERTa and ELECTRA have; choose one of these"
            )
        image_width, text_width = self.vision_model.timm_model.head_hidden_size, config.text_config.hidden_size
        self.image_head = ProjectionHead(image_width, config.head_dim, config.projection_dim)
        self.region_head = ProjectionHead(self.region_width, config.head_dim, config.projection_dim)
        self.text_head = ProjectionHead(text_width, config.head_dim, config.projection_dim)
        self.word_head = ProjectionHead(text_width, config.head_dim, config.projection_dim)
        self.prototypes = nn.Linear(config.projection_dim, config.num_prototypes, bias=False)
        self.post_init()

    def encode_images(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """`image_embeds`, `(images, projection_dim)`, of any length; `image_prototypes`, `(images, num_prototypes)`,
        cosines; `regions`, `(images, regions, projection_dim)`, row by row, of any length; `region_weights`, `(images,
        regions)`, what each counts for."""
        pooled, regions, attention = self.encode_regions(pixel_values)
        image = self.image_head(pooled)  # (images, projection_dim)
        if attention is None:
            attention = regions.new_ones(regions.shape[:2], dtype=torch.float32)
        return {
            "image_embeds": image,
            "image_prototypes": self._prototype_cosines(image),
            "regions": self.region_head(regions),
            "region_weights": attention,
        }

    def encode_texts(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        """`text_embeds`, `(texts, projection_dim)`, of any length; `text_prototypes`, `(texts, num_prototypes)`,
        cosines; `words`, `(texts, words, projection_dim)`, of any length; `word_weights`, `(texts, words)`, what each
        counts for; `word_mask`, `(texts, words)`, which words are there."""
        text, words, mask, weights = self._encode_words(input_ids, attention_mask, token_type_ids)
        return {
            "text_embeds": text,
            "text_prototypes": self._prototype_cosines(text),
            "words": words,
            "word_mask": mask,
            "word_weights": weights,
        }

    def losses(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        config, mask = self.config, features["word_mask"]
        with torch.autocast(mask.device.type, enabled=False):
            values = {name: value.float() for name, value in features.items() if name != "word_mask"}
            words, regions = F.normalize(values["words"], dim=-1), F.normalize(values["regions"], dim=-1)
            both_ways = 2 * nt_xent(values["image_embeds"], values["text_embeds"], config.temperature_global, 0.5)
            by_word = token_alignment(
                words,
                regions,
                clip_weights(values["word_weights"]),
                query_mask=mask,
                temperature=config.temperature_local,
                pad_negatives=config.pad_negatives,
            )
            by_region = token_alignment(
                regions,
                words,
                clip_weights(values["region_weights"]),
                key_mask=mask,
                temperature=config.temperature_local,
                normalize_context=config.normalize_patch_context or self.region_stage is not None,
            )
            prototype = prototype_alignment(
                values["image_prototypes"],
                values["text_prototypes"],
                config.temperature_prototype,
                config.sinkhorn_epsilon,
                config.sinkhorn_iterations,
            )
        return {
            "loss_global": config.weight_global * both_ways,
            "loss_local": config.weight_local * (by_word + by_region),
            "loss_prototype": config.weight_prototype * prototype,
        }

    def chance_loss(self, pairs: int) -> float:
        return self.config.weight_global * 2 * math.log(pairs)  # both directions, added

    def similarity(self, features: Mapping[str, Tensor]) -> Tensor:
        image, text = features["image_embeds"].float(), features["text_embeds"].float()
        return cross_modal_logits(image, text, self.config.temperature_global)

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """Projected features of unit length, `(images, projection_dim)`."""
        return F.normalize(self.image_head(self.encode_regions(pixel_values)[0]), dim=-1)

    def get_text_features(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Projected features of unit length, `(texts, projection_dim)`."""
        hidden, _ = self.encode_tokens(input_ids, attention_mask, token_type_ids)
        return F.normalize(self.text_head(hidden[-1][:, 0]), dim=-1)

    def _prototype_cosines(self, features: Tensor) -> Tensor:
        # differs from HKU-MedAI/MGCA: there the weights themselves are replaced by their normalised rows at each step
        prototypes = F.normalize(self.prototypes.weight, dim=-1)  # (num_prototypes, projection_dim)
        return F.linear(F.normalize(features, dim=-1), prototypes)

    def _encode_words(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        hidden, attention_mask = self.encode_tokens(input_ids, attention_mask, token_type_ids)
        numbers, counts, closed = word_numbers(
            input_ids, attention_mask, self.continues_word, self.config.sep_token_id
        )
        number = int(counts.max())
        # differs from HKU-MedAI/MGCA: there a text without padding loses its last word and its closing token
        weights = self._attention_of_text(hidden[-2], attention_mask)  # (texts, tokens)
        if self.config.shift_word_weights:
            weights = shift_weights(weights)
        words = sum_words(hidden[-1], numbers, number)[:, 1:]  # (texts, words, text_width), without the opening token
        weights = sum_words(weights[..., None], numbers, number)[:, 1:, 0]  # (texts, words)
        if self.config.pad_negatives:
            missing = max(self.config.max_words - words.shape[1], 0)
            words, weights = F.pad(words, (0, 0, 0, missing)), F.pad(weights, (0, missing))
        last = counts - 1 if self.config.words_include_sep else counts - 1 - closed.long()  # (texts,)
        mask = torch.arange(words.shape[1], device=words.device) < last[:, None]  # (texts, words)
        if self.config.pad_negatives:
            projected = self.word_head(words)
        else:
            # differs from HKU-MedAI/MGCA: there padding takes part in the head's batch statistics
            vectors = self.word_head(words[mask])  # (all words, projection_dim)
            projected = vectors.new_zeros(*mask.shape, vectors.shape[-1]).masked_scatter(mask[..., None], vectors)
        return self.text_head(hidden[-1][:, 0]), projected, mask, weights * mask

    @torch.no_grad()
    def _attention_of_text(self, tokens: Tensor, attention_mask: Tensor) -> Tensor:
        """Attention of the opening token to each token in the last layer, mean over heads: `(texts, tokens)`."""
        # differs from HKU-MedAI/MGCA: computed here, so that the encoder may use fused attention, which tells none
        attention = self.text_model.encoder.layer[-1].attention.self
        heads = self.config.text_config.num_attention_heads
        queries = attention.query(tokens[:, :1]).unflatten(-1, (heads, -1)).transpose(1, 2)  # (texts, heads, 1, dim)
        keys = attention.key(tokens).unflatten(-1, (heads, -1)).transpose(1, 2)  # (texts, heads, tokens, dim)
        scores = (queries @ keys.transpose(2, 3)).float() / keys.shape[-1] ** 0.5  # (texts, heads, 1, tokens)
        scores = scores.masked_fill(~attention_mask.bool()[:, None, None], torch.finfo(scores.dtype).min)
        return scores.softmax(-1).mean(1)[:, 0]
