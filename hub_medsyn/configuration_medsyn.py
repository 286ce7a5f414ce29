"""Configurations of the image-text models, with a preset for each published setting."""

from __future__ import annotations

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
            depend on its batch. Its scale and shift are still trained.
        frozen_text_layers (`int`, *optional*):
            How many of the text encoder's lower layers are not trained; `-1` is the lower half (6 of BERT-base's 12).
        freeze_text_embeddings (`bool`, *optional*): Whether the text encoder's embeddings are not trained.

    Raises:
        ValueError: If there is no such preset, or more layers are frozen than the text encoder has.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    sub_configs = {"vision_config": TimmWrapperConfig, "text_config": AutoConfig}
    has_no_defaults_at_init = True

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
        layers = text_config.num_hidden_layers
        if self.frozen_text_layers == -1:
            self.frozen_text_layers = layers // 2
        if not 0 <= self.frozen_text_layers <= layers:
            raise ValueError(
                f"frozen_text_layers={self.frozen_text_layers} of a text encoder with {layers} layers; "
                f"pass frozen_text_layers between 0 and {layers}, or -1 for the lower half"
            )
        super().__init__(**kwargs)

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
        temperature_global (`float`, *optional*): What cosines are divided by: 0.1, in `paper` 0.07.
        alpha (`float`, *optional*): Weight of the image-to-text direction: 0.75, in `paper` 0.5.
        text_tower_trainable (`bool`, *optional*):
            Whether the text encoder and its head are trained at all. The published code computes both without
            gradient, so that images learn to meet a random projection of a fixed BERT; `fixed` and `paper` mend this.
        freeze_text_embeddings (`bool`, *optional*):
            The published code leaves the embeddings trainable under six frozen layers; `fixed` and `paper` freeze them
            too, as the method means to keep the lower half.
        frozen_text_layers (`int`, *optional*): 6 in `official`; the lower half (-1) in `fixed` and `paper`.
        freeze_batch_norm (`bool`, *optional*): False in every preset.
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
            "freeze_batch_norm": False,
        },
    }

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
