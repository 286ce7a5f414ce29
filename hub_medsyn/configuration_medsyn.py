"""Configurations of the image-text models, with a preset for each published setting."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig, TimmWrapperConfig


class MedSynConfig(PreTrainedConfig):
    """What the image-text models of this package have in common.

    Every switch that is left at `None` takes the value of the preset; all of them are written to `config.json`, so
    that a saved model never depends on what a preset means later.

    Args:
        vision_config (`TimmWrapperConfig` or `dict`, *optional*, defaults to a ResNet-50):
            The image encoder: any timm architecture.
        text_config (`PreTrainedConfig` or `dict`, *optional*, defaults to BERT-base):
            The text encoder: BERT or one built like it (`embeddings` and `encoder.layer`).
        preset (`str`, *optional*, defaults to `"fixed"`):
            `official` (the published code, quirks included), `paper` (the numbers that MedSyn prints) or `fixed` (the
            method with the known bugs mended).
        image_size (`int`, *optional*, defaults to 224): Side of the square images, in pixels.
        cls_token_id (`int`, *optional*, defaults to 101): Id of the token that opens a text.
        sep_token_id (`int`, *optional*, defaults to 102): Id of the token that closes a text.
        freeze_batch_norm (`bool`, *optional*):
            Whether every BatchNorm runs on its stored statistics while training, so that an item's features do not
            depend on its batch. Its scale and shift are still trained. True in `fixed` alone, where the image encoder
            starts from trained weights; [`~MedSynPreTrainedModel.from_encoders`] leaves it off for a random start.
        frozen_text_layers (`int`, *optional*):
            How many of the text encoder's lower layers are not trained; `-1` is the lower half (6 of BERT-base's 12).
        freeze_text_embeddings (`bool`, *optional*): Whether the text encoder's embeddings are not trained.

    Raises:
        ValueError: If there is no such preset, or more layers are frozen than the text encoder has.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    sub_configs = {"vision_config": TimmWrapperConfig, "text_config": AutoConfig}
    has_no_defaults_at_init = True
    # One number a batch, or a matrix whose sides are the batch: an evaluation that joins batches cannot keep them.
    keys_to_ignore_at_inference = [
        "loss_global",
        "loss_local",
        "loss_prototype",
        "logits_per_image",
        "logits_per_text",
        "region_embeds",
        "word_embeds",
        "word_mask",
    ]

    def __init__(
        self,
        vision_config: TimmWrapperConfig | dict | None = None,
        text_config: PreTrainedConfig | dict | None = None,
        preset: str = "fixed",
        image_size: int = 224,
        cls_token_id: int = 101,
        sep_token_id: int = 102,
        **kwargs,
    ):
        if preset not in self.presets:
            raise ValueError(f"preset {preset!r} of {self.model_type} is not one of {', '.join(self.presets)}")
        if not isinstance(vision_config, TimmWrapperConfig):
            # from_dict reads what timm and transformers write; it wants a number of classes even where no head is
            vision_config = TimmWrapperConfig.from_dict({"num_classes": 2, **(vision_config or {})})
        if not isinstance(text_config, PreTrainedConfig):
            text_config = AutoConfig.for_model(**{"model_type": "bert", **(text_config or {})})
        self.vision_config = vision_config
        self.text_config = text_config
        self.preset = preset
        self.image_size = image_size
        self.cls_token_id = cls_token_id
        self.sep_token_id = sep_token_id
        for switch, value in self.presets[preset].items():
            given = kwargs.pop(switch, None)
            setattr(self, switch, value if given is None else given)
        self._freeze_text_layers(self.frozen_text_layers)
        super().__init__(**kwargs)

    def _freeze_text_layers(self, frozen: int) -> None:
        layers = self.text_config.num_hidden_layers
        if not -1 <= frozen <= layers:
            raise ValueError(
                f"frozen_text_layers={frozen} of a text encoder with {layers} layers; "
                f"pass frozen_text_layers between 0 and {layers}, or -1 for the lower half"
            )
        self.frozen_text_layers = layers // 2 if frozen == -1 else frozen

    def departures(self) -> dict[str, Any]:
        """The switches that differ from the preset, with their values; what a model card has to tell."""
        expected = dict(self.presets[self.preset])
        if expected["frozen_text_layers"] == -1:
            expected["frozen_text_layers"] = self.text_config.num_hidden_layers // 2
        return {switch: getattr(self, switch) for switch, value in expected.items() if getattr(self, switch) != value}


class ConVIRTConfig(MedSynConfig):
    """Configuration of a [`ConVIRTModel`].

    Args:
        projection_dim (`int`, *optional*): Width of the shared space; 512 in every preset.
        temperature_global (`float`, *optional*): Softmax temperature: 0.1, in `paper` 0.07.
        alpha (`float`, *optional*): Weight of the image-to-text direction: 0.75, in `paper` 0.5.
        text_tower_trainable (`bool`, *optional*):
            Whether the text encoder and its head are trained at all. The published code computes both without
            gradient, so that images learn to meet a random projection of a fixed BERT; `fixed` and `paper` mend this.
        freeze_text_embeddings (`bool`, *optional*):
            The published code leaves the embeddings trainable under six frozen layers; `fixed` and `paper` freeze them
            too, as the method means to keep the lower half.
        frozen_text_layers (`int`, *optional*): 6 in `official`; the lower half (-1) in `fixed` and `paper`.
        freeze_batch_norm (`bool`, *optional*): True in `fixed` alone.
        kwargs: `vision_config`, `text_config`, `preset`, `image_size` and the token ids of [`MedSynConfig`].
    """

    model_type = "medsyn-convirt"
    presets = {
        "official": {
            "projection_dim": 512,
            "temperature_global": 0.1,
            "alpha": 0.75,
            "text_tower_trainable": False,
            "frozen_text_layers": 6,
            "freeze_text_embeddings": False,
            "freeze_batch_norm": False,
        },
        "paper": {
            "projection_dim": 512,
            "temperature_global": 0.07,
            "alpha": 0.5,
            "text_tower_trainable": True,
            "frozen_text_layers": -1,
            "freeze_text_embeddings": True,
            "freeze_batch_norm": False,
        },
        "fixed": {
            "projection_dim": 512,
            "temperature_global": 0.1,
            "alpha": 0.75,
            # differs from edreisMD/ConVIRT-pytorch: there the text tower gets no gradient
            "text_tower_trainable": True,
            "frozen_text_layers": -1,
            # differs from edreisMD/ConVIRT-pytorch: there the embeddings under the six frozen layers are trained
            "freeze_text_embeddings": True,
            # differs from edreisMD/ConVIRT-pytorch: there BatchNorm takes its statistics from the batch
            "freeze_batch_norm": True,
        },
    }

    def __init__(self, **kwargs):
        super().__init__(**kwargs)


class GLoRIAConfig(MedSynConfig):
    """Configuration of a [`GLoRIAModel`].

    Args:
        temperature_global (`float`, *optional*):
            Softmax temperature of global cosines: 0.1 (the published code multiplies by 10), in `paper` 0.07.
        attention_temperature (`float`, *optional*): What the words' shares of a region are multiplied by: 4.
        word_temperature (`float`, *optional*): What word cosines are multiplied by: 5.
        loss_temperature (`float`, *optional*): What local similarities are multiplied by: 10.
        word_aggregate (`str`, *optional*):
            Whether the local loss takes the `sum` over words, as in every preset, or their `mean`, the other option of
            the published code. A logarithm is taken of it: the sum favours long reports.
        weight_global (`float`, *optional*): Of the sum of both directions: 1, in `paper` 0.5, their mean.
        weight_local (`float`, *optional*): Likewise for the local loss.
        last_text_layers (`int`, *optional*): How many of the last text layers are added up: 4, or all.
        words_include_cls (`bool`, *optional*):
            Whether the token that opens a text counts as its first word in the local loss, as it does in the published
            code; true in every preset. The closing token never counts.
        upsample_size (`int`, *optional*):
            Side to which images are enlarged before an encoder that takes any size: 299 in `official`, for 19 x 19
            regions. 0, in `fixed` and `paper`, leaves them: 14 x 14 regions at 224 pixels, for half the work.
        freeze_batch_norm (`bool`, *optional*): True in `fixed` alone.
        frozen_text_layers (`int`, *optional*): 0 in every preset.
        freeze_text_embeddings (`bool`, *optional*): False in every preset.
        kwargs: `vision_config`, `text_config`, `preset`, `image_size` and the token ids of [`MedSynConfig`].

    Raises:
        ValueError: If the text encoder has fewer layers than are asked for, or a `projection_dim` is given: images are
            projected to the width of the text encoder.
    """

    model_type = "medsyn-gloria"
    presets = {
        "official": {
            "temperature_global": 0.1,
            "attention_temperature": 4.0,
            "word_temperature": 5.0,
            "loss_temperature": 10.0,
            "word_aggregate": "sum",
            "weight_global": 1.0,
            "weight_local": 1.0,
            "last_text_layers": 4,
            "words_include_cls": True,
            "upsample_size": 299,
            "freeze_batch_norm": False,
            "frozen_text_layers": 0,
            "freeze_text_embeddings": False,
        }
    }
    presets["fixed"] = {
        **presets["official"],
        # differs from marshuang80/gloria: there every image is enlarged to 299 pixels
        "upsample_size": 0,
        # differs from marshuang80/gloria: there BatchNorm takes its statistics from the batch
        "freeze_batch_norm": True,
    }
    presets["paper"] = {
        **presets["fixed"],
        "temperature_global": 0.07,
        "weight_global": 0.5,
        "weight_local": 0.5,
        "freeze_batch_norm": False,
    }

    def __init__(self, **kwargs):
        if kwargs.get("projection_dim") is not None:
            raise ValueError(
                f"GLoRIA takes no projection_dim ({kwargs['projection_dim']}): images are projected to the width of "
                "the text encoder; leave it out"
            )
        given = kwargs.get("last_text_layers")
        super().__init__(**kwargs)
        layers = self.text_config.num_hidden_layers
        if given is None:
            self.last_text_layers = min(self.last_text_layers, layers)
        if not 1 <= self.last_text_layers <= layers:
            raise ValueError(
                f"last_text_layers={self.last_text_layers} of a text encoder with {layers} layers; "
                f"pass last_text_layers between 1 and {layers}"
            )


class MGCAConfig(MedSynConfig):
    """Configuration of an [`MGCAModel`].

    Args:
        projection_dim (`int`, *optional*): Width of the shared space; 128 in every preset.
        head_dim (`int`, *optional*): Hidden width of the four heads: 2048.
        num_prototypes (`int`, *optional*): 500.
        temperature_global (`float`, *optional*): Softmax temperature of global cosines: 0.07.
        temperature_local (`float`, *optional*): Softmax temperature of word-patch products: 0.1.
        temperature_prototype (`float`, *optional*): Softmax temperature of prototype cosines: 0.2.
        sinkhorn_epsilon (`float`, *optional*): How soft the prototype assignments are: 0.05.
        sinkhorn_iterations (`int`, *optional*): 3.
        weight_global (`float`, *optional*):
            Of the sum of both directions: 1, in `paper` 0.5, their mean.
        weight_local (`float`, *optional*): Of the token-wise loss: 1, as the published command line always sets it.
        weight_prototype (`float`, *optional*): Of the prototype loss: 1, likewise.
        frozen_prototype_epochs (`int`, *optional*): For how many epochs the prototypes are not trained: 1.
        text_layers (`int`, *optional*):
            How many of the text encoder's layers are used: at most 6 in `official`, which drops the upper half of
            BERT-base; -1, all of them, in `fixed` and `paper`.
        words_include_sep (`bool`, *optional*):
            Whether the token that closes a text counts as its last word, as in the published code; true in every
            preset. The opening token is the whole text's feature and never counts.
        pad_negatives (`bool`, *optional*):
            Whether padding up to `max_words` is a negative of every word and part of the word head's batch statistics:
            true in `official` alone.
        max_words (`int`, *optional*): To how many words `pad_negatives` pads: 111.
        normalize_patch_context (`bool`, *optional*):
            Whether the words that a ViT's patch attends to are scaled to unit length, as they are for maps: false in
            `official` alone.
        shift_word_weights (`bool`, *optional*):
            Whether a word counts by the attention paid to the token after each of its pieces, and the closing token by
            that paid to padding, as the published code's slices make it: true in `official` alone.
        upsample_size (`int`, *optional*):
            Side to which images are enlarged before an encoder of maps that takes any size: 299 in `official`; 0, in
            `fixed` and `paper`, leaves them.
        freeze_batch_norm (`bool`, *optional*): True in `fixed` alone. The heads' BatchNorms obey it too.
        frozen_text_layers (`int`, *optional*): 0 in every preset.
        freeze_text_embeddings (`bool`, *optional*): False in every preset.
        kwargs: `vision_config`, `text_config`, `preset`, `image_size` and the token ids of [`MedSynConfig`].

    Raises:
        ValueError: If the text encoder has fewer layers than `text_layers`.
    """

    model_type = "medsyn-mgca"
    presets = {
        "official": {
            "projection_dim": 128,
            "head_dim": 2048,
            "num_prototypes": 500,
            "temperature_global": 0.07,
            "temperature_local": 0.1,
            "temperature_prototype": 0.2,
            "sinkhorn_epsilon": 0.05,
            "sinkhorn_iterations": 3,
            "weight_global": 1.0,
            "weight_local": 1.0,
            "weight_prototype": 1.0,
            "frozen_prototype_epochs": 1,
            "text_layers": 6,
            "words_include_sep": True,
            "pad_negatives": True,
            "max_words": 111,
            "normalize_patch_context": False,
            "shift_word_weights": True,
            "upsample_size": 299,
            "freeze_batch_norm": False,
            "frozen_text_layers": 0,
            "freeze_text_embeddings": False,
        }
    }
    presets["fixed"] = {
        **presets["official"],
        # differs from HKU-MedAI/MGCA: there six of BERT-base's twelve layers are used
        "text_layers": -1,
        # differs from HKU-MedAI/MGCA: there padding is a negative of every word
        "pad_negatives": False,
        # differs from HKU-MedAI/MGCA: there a ViT's patches meet unscaled vectors
        "normalize_patch_context": True,
        # differs from HKU-MedAI/MGCA: there each word counts by the attention paid to the token after it
        "shift_word_weights": False,
        # differs from HKU-MedAI/MGCA: there every image for a ResNet is enlarged to 299 pixels
        "upsample_size": 0,
        # differs from HKU-MedAI/MGCA: there BatchNorm takes its statistics from the batch
        "freeze_batch_norm": True,
    }
    presets["paper"] = {**presets["fixed"], "weight_global": 0.5, "freeze_batch_norm": False}

    def __init__(self, **kwargs):
        given = kwargs.get("text_layers")
        super().__init__(**kwargs)
        layers = self.text_config.num_hidden_layers
        if given is None:
            self.text_layers = min(self.text_layers, layers)
        if self.text_layers != -1:
            if not 1 <= self.text_layers <= layers:
                raise ValueError(
                    f"text_layers={self.text_layers} of a text encoder with {layers} layers; "
                    f"pass text_layers between 1 and {layers}, or -1 for all"
                )
            self.text_config = copy.deepcopy(self.text_config)  # the caller's keeps its layers
            self.text_config.num_hidden_layers = self.text_layers
            if kwargs.get("frozen_text_layers") is not None:
                self._freeze_text_layers(kwargs["frozen_text_layers"])
