"""What models with regions and words have in common: both are read from the encoders and from `input_ids` alone."""

from __future__ import annotations

import timm
import torch
from timm.models.vision_transformer import Attention, Block, VisionTransformer
from torch import Tensor, nn

from .configuration_medsyn import MedSynConfig
from .modeling_medsyn import MedSynPreTrainedModel

REGION_REDUCTION = 16


def region_stage(encoder: nn.Module) -> tuple[int | None, int]:
    """Where a timm encoder's regions come from, and their number of channels.

    The stage is the deepest map with at least one region for every 16 pixels of height and width: `layer3` of a
    ResNet, the third stage of Swin and ConvNeXt, the last stage but one of a MobileNet. It is `None` for encoders
    whose maps all have one size, as of a ViT: their regions are the patch tokens after the last norm.

    Raises:
        ValueError: If timm tells nothing of the encoder's stages, or all of them are coarser.
    """
    stages = list(getattr(encoder, "feature_info", None) or ())
    if stages and len({stage["reduction"] for stage in stages}) == 1:
        return None, stages[-1]["num_chs"]
    fine = [(index, stage["num_chs"]) for index, stage in enumerate(stages) if stage["reduction"] <= REGION_REDUCTION]
    if not fine:
        raise ValueError(
            f"the image encoder {type(encoder).__name__} has no map of a sixteenth of the image or finer; "
            "choose a timm encoder that forward_intermediates works for, such as resnet50 or vit_base_patch16_224"
        )
    return fine[-1]


def attends_from_class_token(encoder: nn.Module) -> bool:
    """Whether the last block is a plain attention block with a class token, whose weights can be told."""
    return (
        isinstance(encoder, VisionTransformer)
        and encoder.cls_token is not None
        and len(encoder.blocks) > 1
        and type(encoder.blocks[-1]) is Block
        and type(encoder.blocks[-1].attn) is Attention
    )


@torch.no_grad()
def class_token_attention(encoder: VisionTransformer, tokens: Tensor) -> Tensor:
    """Attention of the class token to each patch in the last block, the mean over heads: `(images, patches)`.

    Args:
        encoder (`VisionTransformer`): One for which [`attends_from_class_token`] holds.
        tokens (`torch.Tensor` of shape `(images, prefix + patches, dim)`): What the last block gets.
    """
    block = encoder.blocks[-1]
    attention = block.attn
    images, number, _ = tokens.shape
    qkv = attention.qkv(block.norm1(tokens)).reshape(images, number, 3, attention.num_heads, -1)
    queries, keys, _ = qkv.permute(2, 0, 3, 1, 4)  # (images, heads, tokens, head_dim) each
    queries, keys = attention.q_norm(queries[:, :, :1]), attention.k_norm(keys)
    weights = (queries @ keys.transpose(2, 3) * attention.scale).float().softmax(-1)  # (images, heads, 1, tokens)
    return weights.mean(1)[:, 0, encoder.num_prefix_tokens :]


def word_numbers(
    input_ids: Tensor, attention_mask: Tensor, continues_word: Tensor, sep_token_id: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Which word each token belongs to.

    The token that opens the text is word 0; pieces that continue a word have its number; the first closing token is
    the last word. What follows it, and padding, belongs to none.

    Args:
        input_ids (`torch.LongTensor` of shape `(texts, tokens)`): Token ids.
        attention_mask (`torch.Tensor` of shape `(texts, tokens)`): 1 for tokens, 0 for padding.
        continues_word (`torch.Tensor` of shape `(vocab,)`, bool): Which ids continue the word before them.
        sep_token_id (`int`): Id of the closing token.

    Returns:
        `tuple[torch.Tensor, torch.Tensor, torch.Tensor]`: The number of each token's word, `(texts, tokens)`, -1 where
        there is none; how many words each text has, `(texts,)`; whether the last of them closes the text, `(texts,)`.
    """
    closes = input_ids == sep_token_id  # (texts, tokens)
    in_text = attention_mask.bool() & (closes.cumsum(1) - closes.long() == 0)
    begins = ~continues_word[input_ids] | closes
    begins[:, :2] = True  # the opening token, and the first word, which byte-level pieces do not mark
    numbers = (begins & in_text).cumsum(1) - 1
    return numbers.masked_fill(~in_text, -1), numbers.amax(1) + 1, (closes & in_text).any(1)


def sum_words(tokens: Tensor, numbers: Tensor, words: int) -> Tensor:
    """Adds up the tokens of each word.

    Args:
        tokens (`torch.Tensor` of shape `(texts, tokens, dim)`): Features of tokens.
        numbers (`torch.Tensor` of shape `(texts, tokens)`): The first of what [`word_numbers`] returns.
        words (`int`): How many words to return a text.

    Returns:
        `torch.Tensor` of shape `(texts, words, dim)`, zero after a text's last word.
    """
    index = (numbers + 1)[..., None].expand_as(tokens)  # tokens of no word go to a place of their own
    sums = tokens.new_zeros(len(tokens), words + 1, tokens.shape[-1]).scatter_add(1, index, tokens)
    return sums[:, 1:]


class LocalFeaturesModel(MedSynPreTrainedModel):
    """A model that also compares regions of the image with words of the report.

    Raises:
        ValueError: If the image encoder has no map to take regions from.
    """

    def __init__(self, config: MedSynConfig):
        super().__init__(config)
        encoder = self.vision_model.timm_model
        self.region_stage, self.region_width = region_stage(encoder)
        self.attends_from_class_token = attends_from_class_token(encoder)

    def encode_regions(self, pixel_values: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """One pass of the image encoder.

        Returns:
            `tuple`: The pooled features, `(images, image_width)`; the regions row by row, `(images, regions,
            region_width)`; and, for a ViT with class token, its attention to each of them, `(images, regions)`.
        """
        self.check_pixels(pixel_values)
        encoder = self.vision_model.timm_model
        if self.region_stage is not None:
            fixed_size = timm.get_pretrained_cfg(self.config.vision_config.architecture).fixed_input_size
            if self.config.upsample_size and not fixed_size:
                size = (self.config.upsample_size,) * 2
                pixel_values = nn.functional.interpolate(pixel_values, size, mode="bilinear", align_corners=True)
            output = self.vision_model(pixel_values, output_hidden_states=[self.region_stage])
            regions = output.hidden_states[0].flatten(2).transpose(1, 2)  # (images, regions, region_width)
            return output.pooler_output, regions, None
        if not self.attends_from_class_token:
            output = self.vision_model(pixel_values)
            return output.pooler_output, self._patches(output.last_hidden_state), None
        before_last = [len(encoder.blocks) - 2]
        output = self.vision_model(pixel_values, output_hidden_states=before_last, return_prefix_tokens=True)
        ((patches, prefix),) = output.hidden_states  # (images, dim, rows, columns), (images, prefix, dim)
        tokens = torch.cat([prefix, patches.flatten(2).transpose(1, 2)], dim=1)
        attention = class_token_attention(encoder, tokens)  # (images, patches)
        return output.pooler_output, self._patches(output.last_hidden_state), attention

    def _patches(self, tokens: Tensor) -> Tensor:
        return tokens[:, getattr(self.vision_model.timm_model, "num_prefix_tokens", 0) :]

    def encode_tokens(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """The text encoder's hidden states, embeddings first, `(texts, tokens, text_width)` each, and its mask."""
        self.check_tokens(input_ids)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        segments = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        output = self.text_model(input_ids, attention_mask=attention_mask, output_hidden_states=True, **segments)
        return output.hidden_states, attention_mask
