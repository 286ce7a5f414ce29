"""Where regions look: known encoders exactly, and what is planted in an image found at its place by real encoders."""

import numpy as np
import pytest
import timm
import torch
from torch.nn import functional as F
from transformers import TimmWrapperConfig, VisionTextDualEncoderProcessor

from hub_medsyn import GLoRIAConfig, GLoRIAModel
from hub_medsyn.inference.grounding import ground
from hub_medsyn.inference.region_centres import centres_in_square, traced_centres
from tests.fixtures.tiny_models import tiny_image_processor, tiny_text_config, tiny_tokenizer, tiny_vision_config

SIDE = 128
# Blocks that begin as their shortcut alone would look at single pixels.
RESNET = {"zero_init_last": False}
VIT = {"img_size": SIDE, "patch_size": 16}


def vision_config(kind):
    config = tiny_vision_config(kind)
    extra = {"vit": VIT, "swin": {"img_size": SIDE}}.get(kind, RESNET if kind.startswith("resnet") else {})
    return TimmWrapperConfig(architecture=config.architecture, model_args={**config.model_args, **extra})


@pytest.mark.parametrize(
    "architecture, arguments, expected",
    [
        ("resnet18", {"channels": [4, 4, 4, 4]}, {112: (0, 2), 56: (0, 4), 28: (0, 8), 14: (0, 16), 7: (0, 32)}),
        ("mobilenetv2_035", {}, {112: (0, 2), 56: (0, 4), 28: (0, 8), 14: (0, 16), 7: (0, 32)}),
        ("convnext_atto", {"dims": [4, 4, 4, 4]}, {56: (1.5, 4), 28: (3.5, 8), 14: (7.5, 16), 7: (15.5, 32)}),
        ("vit_tiny_patch16_224", {"embed_dim": 12, "depth": 1}, {14: (7.5, 16)}),
        ("swin_tiny_patch4_window7_224", {"embed_dim": 6, "depths": [1] * 4}, {56: (1.5, 4)}),
        ("tf_mobilenetv3_small_minimal_100", {}, {}),  # pads at one side only, outside of its convolutions
    ],
)
def test_centres_follow_from_kernels_strides_and_padding(architecture, arguments, expected):
    encoder = timm.create_model(architecture, **arguments).eval()
    with torch.no_grad(), traced_centres(encoder) as centres:
        encoder.forward_features(torch.zeros(1, 3, 224, 224))
    assert centres == {224: (0, 1), **expected}
    assert not any(module._forward_hooks for module in encoder.modules())
    middles = (7.5, 16)  # of cells, where the layers do not tell
    assert centres_in_square(centres, 14, 224) == expected.get(14, middles)


def test_an_enlarged_image_is_measured_in_pixels_of_its_own():
    centres = {299: (0.0, 1.0), 19: (0.0, 16.0)}
    first, step = centres_in_square(centres, 19, 224)
    position = np.linspace(0, 223, 299)  # of the pixels of an image that was enlarged corners on corners
    assert first == 0 and 18 * step == pytest.approx(position[18 * 16])
    assert centres_in_square({}, 8, 64) == (3.5, 8)


@pytest.mark.parametrize(
    "kind, upsample_size",
    [
        *((kind, None) for kind in ("resnet", "resnet50", "mobilenet", "convnext", "vit", "swin")),
        *((kind, 160) for kind in ("resnet", "convnext")),
    ],
)
def test_what_is_planted_is_found_at_its_place(monkeypatch, kind, upsample_size):
    """The heat of what a dot changes in the regions of random networks is centred on the dot, on average."""
    settings = VisionTextDualEncoderProcessor(tiny_image_processor(SIDE), tiny_tokenizer())
    random, misses = np.random.default_rng(0), []
    for seed in range(3):
        torch.manual_seed(seed)
        config = GLoRIAConfig(
            vision_config=vision_config(kind),
            text_config=tiny_text_config(),
            image_size=SIDE,
            freeze_batch_norm=False,
            upsample_size=upsample_size,
            last_text_layers=2,
        )
        model = GLoRIAModel(config).eval()
        model.set_vocabulary(tiny_tokenizer())
        with torch.no_grad():
            empty = model.encode_regions(torch.full((1, 3, SIDE, SIDE), -1.0))[1]

        def encode_images(pixels, model=model, empty=empty):
            change = (model.encode_regions(pixels)[1] - empty).norm(dim=-1)  # (1, regions)
            change = (change / change.max()).clamp(0.3, 1)
            return {"regions": torch.stack([change, (1 - change**2).sqrt()], -1)}

        def encode_texts(input_ids, **_):
            return {"words": F.one_hot(torch.zeros_like(input_ids), 2).float()}

        monkeypatch.setattr(model, "encode_images", encode_images)
        monkeypatch.setattr(model, "encode_texts", encode_texts)
        for _ in range(16):
            x, y = random.integers(48, 80, 2)
            image = np.zeros((SIDE, SIDE), np.uint8)
            image[y - 3 : y + 4, x - 3 : x + 4] = 255
            heat = ground(model, settings, image, "left").values - 0.3
            found = np.array([heat.sum(0) @ np.arange(SIDE), heat.sum(1) @ np.arange(SIDE)]) / heat.sum()
            misses.append(found - (x, y))
    assert np.abs(np.mean(misses, 0)).max() < 3  # a map taken for its cells is 7.5 off in a ResNet
