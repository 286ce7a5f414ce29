"""What the image-text models have in common: two encoders, their freezing, and the seam that trainers use."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.timm_wrapper.modeling_timm_wrapper import TimmWrapperModel
from transformers.utils import logging

from .configuration_medsyn import MedSynConfig
from .encoder_weights import load_image_encoder
from .modeling_outputs import ContrastiveOutput

logger = logging.get_logger(__name__)


def continues_word(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> Tensor:
    """Which token ids continue the word before them: `(vocab_size,)` bool.

    WordPiece marks the pieces that continue (`##`), byte-level BPE and SentencePiece those that begin a word. These
    are characters like others, which a vocabulary of another kind may hold too: its own mark is the commonest.
    """
    vocabulary = tokenizer.get_vocab()
    continues = torch.zeros(vocab_size, dtype=torch.bool)
    mark = max(("##", "\u0120", "\u2581"), key=lambda mark: sum(token.startswith(mark) for token in vocabulary))
    special = set(tokenizer.all_special_tokens)
    for token, index in vocabulary.items():
        if token not in special:
            continues[index] = token.startswith(mark) == (mark == "##")
    return continues


def without_pooler(config: PreTrainedConfig) -> dict[str, bool]:
    """The option that leaves out a text encoder's pooler; none for those that have no pooler, such as ELECTRA."""
    options = inspect.signature(MODEL_MAPPING[type(config)]).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in options else {}


class MedSynPreTrainedModel(PreTrainedModel):
    """Two encoders and the seam `encode(inputs) -> features`, `losses(features) -> parts`.

    A subclass adds its heads, defines `encode_images`, `encode_texts`, `losses` and `similarity`, and calls
    `post_init`. `encode` is the two encodings together, and `similarity` needs no more than the two. All of its
    parameters are used in `encode` and none in `losses`: a trainer may gather the features of several processes
    between the two, and a model wrapped for distributed training still sees every parameter in its forward pass.

    Raises:
        ValueError: If the text encoder is not built like BERT.
    """

    config_class = MedSynConfig
    base_model_prefix = "medsyn"
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config: MedSynConfig):
        super().__init__(config)
        self.vision_model = TimmWrapperModel(config.vision_config)
        self.text_model = AutoModel.from_config(config.text_config, **without_pooler(config.text_config))
        layers = getattr(getattr(self.text_model, "encoder", None), "layer", None)
        if layers is None or not hasattr(self.text_model, "embeddings"):
            raise ValueError(
                f"the text encoder {type(self.text_model).__name__} is not built like BERT, with `embeddings` and "
                "`encoder.layer`; choose one that is, such as BERT, RoBERTa, ELECTRA, MPNet or DeBERTa"
            )
        self.register_buffer("continues_word", torch.zeros(config.text_config.vocab_size, dtype=torch.bool))

    def _init_weights(self, module: nn.Module):
        """Heads start as torch makes them, as in the published code; the encoders start their own way."""
        if isinstance(module, nn.Linear):
            module.reset_parameters()

    def encode(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Features of images and of texts: what `encode_images` and `encode_texts` return."""
        text_inputs = {name: inputs.get(name) for name in ("input_ids", "attention_mask", "token_type_ids")}
        return {**self.encode_images(inputs["pixel_values"]), **self.encode_texts(**text_inputs)}

    def encode_images(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """Features whose first dimension is the images, `image_embeds` among them."""
        raise NotImplementedError

    def encode_texts(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Features whose first dimension is the texts, `text_embeds` among them."""
        raise NotImplementedError

    def losses(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The parts of the loss by their names in [`ContrastiveOutput`]; pure, in full precision."""
        raise NotImplementedError

    def similarity(self, features: Mapping[str, Tensor]) -> Tensor:
        """Scaled similarities of every image with every text, `(images, texts)`."""
        raise NotImplementedError

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        return_loss: bool | None = None,
        features_only: bool = False,
        output_local_features: bool = False,
    ) -> ContrastiveOutput | dict[str, Tensor]:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(texts, tokens)`): Token ids.
            attention_mask (`torch.Tensor` of shape `(texts, tokens)`, *optional*): 1 for tokens, 0 for padding.
            token_type_ids (`torch.LongTensor` of shape `(texts, tokens)`, *optional*): Segment ids.
            pixel_values (`torch.FloatTensor` of shape `(images, channels, side, side)`): Processed images.
            return_loss (`bool`, *optional*): Whether the images and texts are pairs whose loss is wanted.
            features_only (`bool`, *optional*, defaults to `False`):
                Returns what `encode` returns and nothing else; trainers gather it across processes.
            output_local_features (`bool`, *optional*, defaults to `False`):
                Whether regions and words are returned too.

        Returns:
            [`~hub_medsyn.modeling_outputs.ContrastiveOutput`]: See the model's own docstring for `logits_per_image`.

        Raises:
            ValueError: If there are no images, images or texts are not what the encoders take, or local features are
                asked of a model that has none.
        """
        if pixel_values is None:
            raise ValueError("pixel_values are missing: pass images, or call get_text_features for texts alone")
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "pixel_values": pixel_values,
        }
        features = self.encode(inputs)
        if features_only:
            return features
        if output_local_features and "regions" not in features:
            raise ValueError(f"{type(self).__name__} has no local features; GLoRIAModel and MGCAModel do")
        local = {"region_embeds": "regions", "word_embeds": "words", "word_mask": "word_mask"}
        parts = self.losses(features) if return_loss else {}
        logits = self.similarity(features)  # (images, texts)
        return ContrastiveOutput(
            loss=sum(parts.values()) if return_loss else None,
            **parts,
            logits_per_image=logits,
            logits_per_text=logits.T,
            image_embeds=nn.functional.normalize(features["image_embeds"], dim=-1),
            text_embeds=nn.functional.normalize(features["text_embeds"], dim=-1),
            **({field: features[name] for field, name in local.items()} if output_local_features else {}),
        )

    def chance_loss(self, pairs: int) -> float:
        """`loss_global` of a batch of so many pairs when all similarities are equal; what training has to beat."""
        raise NotImplementedError

    def check_pixels(self, pixel_values: Tensor) -> None:
        """
        Raises:
            ValueError: If the images have other channels, or another size than an encoder of one size takes.
        """
        channels = (self.config.vision_config.model_args or {}).get("in_chans", 3)
        if pixel_values.ndim != 4 or pixel_values.shape[1] != channels:
            raise ValueError(
                f"pixel_values of shape {tuple(pixel_values.shape)} are not (images, {channels}, side, side); "
                f"this model takes what MedSynImageProcessor(num_channels={channels}) makes"
            )
        patches = getattr(self.vision_model.timm_model, "patch_embed", None)
        if getattr(patches, "strict_img_size", False) and tuple(pixel_values.shape[2:]) != patches.img_size:
            raise ValueError(
                f"pixel_values of shape {tuple(pixel_values.shape)} are not {patches.img_size} pixels, the one size "
                f"that {self.config.vision_config.architecture} takes here; process the images with "
                f"MedSynImageProcessor(size={patches.img_size[0]}), or make the model with another image_size"
            )

    def check_tokens(self, input_ids: Tensor) -> None:
        """
        Raises:
            ValueError: If a text has more tokens than the text encoder has places for, or, while the model does not
                train, a token that it does not know.
        """
        places = getattr(self.text_model.embeddings, "position_embeddings", None)  # none where they are relative
        limit = math.inf if places is None else places.num_embeddings
        if places is not None and places.padding_idx is not None:
            limit -= places.padding_idx + 1  # RoBERTa and its like begin after the place of padding
        if input_ids.shape[1] > limit:
            raise ValueError(
                f"a text has {input_ids.shape[1]} tokens, and the text encoder takes {limit}: shorten the text, or "
                f"cut it with tokenizer(..., truncation=True, max_length={limit})"
            )
        size = self.config.text_config.vocab_size
        if not self.training and not torch.compiler.is_compiling() and int(input_ids.max()) >= size:
            raise ValueError(
                f"token id {int(input_ids.max())} is not among the text encoder's {size}: the tokenizer belongs to "
                "another model; load the one that was saved with this model"
            )

    def freeze(self) -> None:
        """Marks what the configuration does not let train. Trainers call it; a model that is loaded is not frozen."""
        if self.config.freeze_text_embeddings:
            self.text_model.embeddings.requires_grad_(False)
        for layer in list(self.text_model.encoder.layer)[: self.config.frozen_text_layers]:
            layer.requires_grad_(False)

    def train(self, mode: bool = True):
        super().train(mode)
        if self.config.freeze_batch_norm:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def get_input_embeddings(self) -> nn.Module:
        """The text encoder's, which accelerate asks for when it shards a model."""
        return self.text_model.get_input_embeddings()

    def _set_gradient_checkpointing(self, enable: bool = True, **kwargs):
        """Reaches the image encoder too: timm keeps a switch of its own, which Transformers does not look for."""
        super()._set_gradient_checkpointing(enable, **kwargs)
        if not self.vision_model.supports_gradient_checkpointing:
            raise ValueError(
                f"timm has no gradient checkpointing for {self.config.vision_config.architecture}; leave it out"
            )
        self.vision_model._set_gradient_checkpointing(enable)

    def set_vocabulary(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Takes from the tokenizer all that words need: what opens and closes a text and which pieces continue one.

        Raises:
            ValueError: If the tokenizer knows more tokens than the text encoder.
        """
        size = self.config.text_config.vocab_size
        if len(tokenizer) > size:
            raise ValueError(
                f"the tokenizer has {len(tokenizer)} tokens, the text encoder {size}; they do not belong together: "
                "take the tokenizer that was saved with the encoder"
            )
        self.config.cls_token_id = tokenizer.cls_token_id
        self.config.sep_token_id = tokenizer.sep_token_id
        self.continues_word.copy_(continues_word(tokenizer, size))

    @classmethod
    def from_encoders(
        cls,
        image: str,
        text: str | PreTrainedConfig,
        tokenizer: PreTrainedTokenizerBase | str | None = None,
        preset: str = "fixed",
        image_weights: str | Path | None = None,
        image_size: int = 224,
        num_channels: int = 3,
        **switches,
    ):
        """Makes a model out of two encoders; the heads are new.

        Args:
            image (`str`):
                A timm model name (its pretrained weights), `random:` before such a name, a local timm or Transformers
                folder, or a Hub id. With random weights BatchNorm is not frozen unless `switches` say so: a random
                network has no statistics to run on. The departure is logged and recorded in the configuration.
            text (`str` or `PreTrainedConfig`):
                A local folder or Hub id of a BERT-like encoder. A configuration gives random weights, and then no
                layer is frozen unless `switches` say so.
            tokenizer (`PreTrainedTokenizerBase` or `str`, *optional*, defaults to that of `text`):
                Tells how tokens make words.
            preset (`str`, *optional*, defaults to `"fixed"`): `official`, `paper` or `fixed`.
            image_weights (`str` or `Path`, *optional*): A `.pth` or `.safetensors` file, in place of the fetched
                weights.
            image_size (`int`, *optional*, defaults to 224): Side of the images in pixels.
            num_channels (`int`, *optional*, defaults to 3): Channels of the images, 1 or 3.
            switches: Any switch of the configuration.

        Raises:
            ValueError: If an encoder or switch is unknown, or encoder, weights and tokenizer do not belong together.
        """
        vision, vision_config = load_image_encoder(image, image_size, num_channels, image_weights)
        random_start = getattr(vision_config, "pretrained_cfg", None) is None
        if random_start and switches.get("freeze_batch_norm") is None:
            switches = {**switches, "freeze_batch_norm": False}
            if cls.config_class.presets.get(preset, {}).get("freeze_batch_norm"):
                logger.warning_once(
                    f"freeze_batch_norm is False, though True in preset {preset}: the image encoder starts from "
                    "random weights, which have no statistics to run on"
                )
        if isinstance(text, str):
            encoder = AutoModel.from_pretrained(text, **without_pooler(AutoConfig.from_pretrained(text)))
            text_config = encoder.config
            text_config.name_or_path = Path(text).name if Path(text).is_dir() else text  # no path of this machine
        else:
            encoder, text_config = None, text
            switches = {"frozen_text_layers": 0, "freeze_text_embeddings": False, **switches}
        if tokenizer is None or isinstance(tokenizer, str):
            if tokenizer is None and encoder is None:
                raise ValueError("a text configuration has no tokenizer of its own: pass tokenizer")
            tokenizer = AutoTokenizer.from_pretrained(tokenizer or text)
        config = cls.config_class(
            vision_config=vision_config, text_config=text_config, preset=preset, image_size=image_size, **switches
        )
        unknown = [name for name in switches if name not in config.presets[preset]]
        if unknown:
            raise ValueError(
                f"{cls.config_class.__name__} has no switch {', '.join(unknown)}; "
                f"its switches are {', '.join(config.presets[preset])}"
            )
        model = cls(config)
        model.vision_model.timm_model.load_state_dict(vision.state_dict())
        if encoder is not None:
            weights = encoder.state_dict()
            kept = model.text_model.state_dict()  # without the layers that the configuration leaves out
            model.text_model.load_state_dict({name: weights[name] for name in kept})
        model.set_vocabulary(tokenizer)
        return model
