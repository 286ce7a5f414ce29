"""Segmentation models around a frozen encoder: segmentation-models-pytorch's own `Unet`, and `DPT` for a ViT."""

from __future__ import annotations

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from medsyn.errors import UserError
from trainers.downstream.encoders import FrozenEncoder

DPT_PATCHES = (4, 8, 16, 32)


def build_segmenter(
    encoder: FrozenEncoder, seed: int = 0, decoder_channels: tuple[int, ...] | None = None
) -> smp.Unet | smp.DPT:
    """Puts a copy of the encoder's weights under a new decoder.

    An encoder whose maps shrink from stage to stage (ResNet, MobileNet, ConvNeXt, Swin) gets a U-Net, one whose blocks
    all keep a patch's size (ViT) gets a DPT that reads four of its blocks. `model.train()` leaves the encoder in eval
    mode, and none of its parameters takes a gradient: nothing in it changes, BatchNorm statistics included.

    The model is segmentation-models-pytorch's alone: `model.save_pretrained(folder)` writes what
    `segmentation_models_pytorch.from_pretrained(folder)` reads, encoder included.

    Args:
        encoder ([`FrozenEncoder`]): With the `architecture` that [`load_encoder`] gives it.
        seed (`int`, *optional*, defaults to 0): Of the decoder's first weights.
        decoder_channels (`tuple[int, ...]`, *optional*): Of the U-Net's five blocks, by default
            `(256, 128, 64, 32, 16)`; or of DPT's four maps, by default `(256, 512, 1024, 1024)`, which are fused in
            as many channels as the least of them.

    Returns:
        `smp.Unet` or `smp.DPT`: `(batch, channels, side, side)` to log-odds `(batch, 1, side, side)`.

    Raises:
        UserError: The architecture is not known, or segmentation-models-pytorch cannot build on it.
    """
    if encoder.architecture is None:
        raise UserError(f"encoder {encoder.name} has no architecture: load it with load_encoder, or name timm's")
    arguments = dict(encoder.arguments)
    settings = {
        "encoder_name": f"tu-{encoder.architecture}",
        "encoder_weights": None,
        "in_channels": arguments.pop("in_chans", 3),
        "classes": 1,
    }
    plain = len({stage["reduction"] for stage in encoder.model.feature_info}) == 1
    if decoder_channels and len(decoder_channels) != (4 if plain else 5):
        raise UserError(
            f"encoder {encoder.name}: decoder_channels {' '.join(map(str, decoder_channels))} are "
            f"{len(decoder_channels)} widths, and {'DPT, which a ViT gets,' if plain else 'a U-Net'} has "
            f"{4 if plain else 5} of them"
        )
    if plain:
        _check_dpt(encoder)
        # The encoder is made without the classifier that the frozen one lacks too.
        settings |= {"decoder_readout": "cat" if encoder.model.num_prefix_tokens else "ignore", "num_classes": 0}
        if decoder_channels:
            settings |= {
                "decoder_intermediate_channels": list(decoder_channels),
                "decoder_fusion_channels": min(decoder_channels),
            }
    elif decoder_channels:
        settings["decoder_channels"] = list(decoder_channels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = (smp.DPT if plain else smp.Unet)(**settings, **arguments)
        except (ValueError, RuntimeError) as error:
            raise UserError(
                f"encoder {encoder.name}: segmentation-models-pytorch cannot build on {encoder.architecture} ({error})"
            ) from error
    model.encoder.model.load_state_dict(_renamed(encoder, model.encoder.model))
    model.freeze_encoder()  # from here on model.train() leaves the encoder out
    model.encoder.eval()  # its dropout too, beside its BatchNorm
    return model


def decoder_state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of everything in a segmenter but its encoder."""
    return {name: value.clone() for name, value in model.state_dict().items() if not name.startswith("encoder.")}


def _check_dpt(encoder: FrozenEncoder) -> None:
    patch = encoder.model.feature_info[0]["reduction"]
    if patch not in DPT_PATCHES:
        raise UserError(
            f"encoder {encoder.name}: DPT cannot bring patches of {patch} pixels to the image's size; it takes "
            f"patches of {', '.join(map(str, DPT_PATCHES))}"
        )
    if "depth" in encoder.arguments:
        raise UserError(
            f"encoder {encoder.name}: segmentation-models-pytorch cannot make {encoder.architecture} with another "
            f"number of blocks than its own (depth={encoder.arguments['depth']})"
        )


def _renamed(encoder: FrozenEncoder, target: nn.Module) -> dict[str, Tensor]:
    """The encoder's weights under the names of `target`: timm's feature extractors write some dots as `_`."""
    own = {name.replace(".", "_"): value for name, value in encoder.model.state_dict().items()}
    state = {name: own.get(name.replace(".", "_")) for name in target.state_dict()}
    absent = [name for name, value in state.items() if value is None]
    if absent:
        raise UserError(
            f"encoder {encoder.name} has no {absent[0]}, which {encoder.architecture} with "
            f"{encoder.arguments or 'no arguments'} has: its architecture is another one"
        )
    return state
