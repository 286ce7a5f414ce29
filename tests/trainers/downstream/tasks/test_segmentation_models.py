"""Segmenters of segmentation-models-pytorch around our encoders: the same features, really frozen, saved by smp."""

import json

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from torch import nn

from hub_medsyn import MedSynImageProcessor
from tests.fixtures.tiny_models import side_of, tiny_convirt, tiny_image_processor, tiny_vision_config
from trainers.downstream.encoders import FrozenEncoder, load_encoder
from trainers.downstream.tasks.segmentation_models import build_segmenter

CONVOLUTIONAL = ("resnet", "resnet50", "mobilenet", "convnext", "swin")
TINY_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "num_heads": 2}  # of its own 12 blocks


def tiny_encoder(kind: str, channels: int = 3, **changes) -> FrozenEncoder:
    """Random weights, and BatchNorm statistics as training leaves them."""
    if kind == "vit":
        architecture, arguments = "vit_tiny_patch16_224", TINY_VIT | changes
    else:
        config = tiny_vision_config(kind)
        architecture, arguments = config.architecture, config.model_args | changes
    if channels != 3:
        arguments = arguments | {"in_chans": channels}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = timm.create_model(architecture, num_classes=0, **arguments)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 2)
    processor = MedSynImageProcessor(size=side_of(kind), num_channels=channels)
    return FrozenEncoder(kind, model.eval().requires_grad_(False), processor, architecture, arguments)


def small_channels(kind: str) -> tuple[int, ...]:
    return (8, 8, 12, 16) if kind == "vit" else (16, 12, 8, 8, 4)


def pixels_for(encoder: FrozenEncoder, batch: int = 2) -> torch.Tensor:
    side, channels = encoder.processor.output_size, encoder.processor.num_channels
    return torch.randn(batch, channels, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", [*CONVOLUTIONAL, "vit"])
def test_every_tap_is_that_of_our_encoder(kind, channels):
    encoder = tiny_encoder(kind, channels)
    model = build_segmenter(encoder, decoder_channels=small_channels(kind)).eval()
    pixels = pixels_for(encoder)
    with torch.no_grad():
        expected = encoder.model.forward_intermediates(pixels, intermediates_only=True)
        taps = model.encoder(pixels)
        shape = model(pixels).shape
    if kind == "vit":
        taps, prefix = taps
        expected = [expected[block] for block in (2, 5, 8, 11)]
        assert all(tokens.shape == (2, 1, 32) for tokens in prefix)
    else:
        assert torch.equal(taps[0], pixels)
        taps = [tap for tap in taps[1:] if tap.shape[1]]  # smp stands in for a missing 1/2 scale with no channels
    assert len(taps) == len(expected) >= 4
    for tap, own in zip(taps, expected, strict=True):
        assert own.std() > 0
        assert torch.equal(tap, own)
    assert shape == (2, 1, encoder.processor.output_size, encoder.processor.output_size)


@pytest.mark.parametrize("kind", ["mobilenet", "convnext", "vit"])
def test_the_model_is_smp_s_own_to_save_and_to_load(kind, tmp_path):
    encoder = tiny_encoder(kind, channels=1)
    model = build_segmenter(encoder, decoder_channels=small_channels(kind)).eval()
    assert type(model) is (smp.DPT if kind == "vit" else smp.Unet)
    model.save_pretrained(tmp_path)
    again = smp.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(again(pixels_for(encoder)), model(pixels_for(encoder)))
    settings = json.loads((tmp_path / "config.json").read_text())
    assert settings["encoder_name"] == f"tu-{encoder.architecture}" and settings["encoder_weights"] is None


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_training_mode_leaves_the_encoder_out(kind):
    encoder = tiny_encoder(kind)
    model = build_segmenter(encoder, decoder_channels=small_channels(kind))
    nn.ModuleList([model]).train()  # as a Trainer would, from above
    assert model.decoder.training and not any(module.training for module in model.encoder.modules())
    assert not any(parameter.requires_grad for parameter in model.encoder.parameters())
    model(pixels_for(encoder)).sum().backward()
    assert all(parameter.grad is None for parameter in model.encoder.parameters())
    for name, value in encoder.model.state_dict().items():
        assert torch.equal(model.encoder.model.state_dict()[name], value), name


def test_an_encoder_in_training_mode_would_change():
    # The published segmenters only switch gradients off, so that their "frozen" BatchNorm goes on learning.
    encoder = tiny_encoder("resnet")
    model = build_segmenter(encoder, decoder_channels=small_channels("resnet"))
    model.encoder.train()
    model(pixels_for(encoder))
    assert not torch.equal(model.encoder.model.bn1.running_mean, encoder.model.bn1.running_mean)


def test_the_segmenter_holds_a_copy_and_its_decoder_comes_of_the_seed():
    encoder = tiny_encoder("resnet")
    one, same, other = (build_segmenter(encoder, seed, small_channels("resnet")) for seed in (0, 0, 1))
    assert one.encoder.model.conv1.weight.data_ptr() != encoder.model.conv1.weight.data_ptr()
    weights = [model.segmentation_head[0].weight for model in (one, same, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_a_checkpoint_s_encoder_and_a_timm_name_can_be_built_on(tmp_path):
    tiny_convirt("convnext", channels=1).save_pretrained(tmp_path)
    MedSynImageProcessor(size=32, num_channels=1).save_pretrained(tmp_path)
    for spec in (str(tmp_path), f"random:{tmp_path}"):
        encoder = load_encoder(spec)
        model = build_segmenter(encoder, decoder_channels=small_channels("convnext")).eval()
        pixels = pixels_for(encoder)
        with torch.no_grad():
            expected = encoder.model.forward_intermediates(pixels, intermediates_only=True)
            for tap, own in zip(model.encoder(pixels)[2:], expected, strict=True):
                assert torch.equal(tap, own)
    encoder = load_encoder("random:mobilenetv3_small_050", image_size=32)
    assert build_segmenter(encoder).encoder.name == "mobilenetv3_small_050"


def test_a_vit_without_a_class_token_is_read_without():
    encoder = tiny_encoder("vit", class_token=False, global_pool="avg")
    model = build_segmenter(encoder, decoder_channels=small_channels("vit")).eval()
    with torch.no_grad():
        assert model(pixels_for(encoder)).shape == (2, 1, 32, 32)


def test_what_cannot_be_built_on_is_named():
    encoder = tiny_encoder("resnet")
    nameless = FrozenEncoder("mine", encoder.model, tiny_image_processor())
    with pytest.raises(ValueError, match="encoder mine has no architecture"):
        build_segmenter(nameless)
    plain = FrozenEncoder("plain", encoder.model, tiny_image_processor(), "resnet18")
    with pytest.raises(
        ValueError, match="encoder plain has no layer1.1.conv1.weight, which resnet18 with no arguments has"
    ):
        build_segmenter(plain)
    with pytest.raises(ValueError, match="another number of blocks than its own .depth=2"):
        build_segmenter(tiny_encoder("vit", depth=2))
    with pytest.raises(ValueError, match="patches of 14 pixels"):
        build_segmenter(tiny_encoder("vit", patch_size=14, img_size=28))
    with pytest.raises(ValueError, match="decoder_channels 8 8 are 2 widths, and a U-Net has 5 of them"):
        build_segmenter(tiny_encoder("resnet"), decoder_channels=(8, 8))
    with pytest.raises(ValueError, match="are 5 widths, and DPT, which a ViT gets, has 4 of them"):
        build_segmenter(tiny_encoder("vit"), decoder_channels=small_channels("resnet"))
    with pytest.raises(ValueError, match="cannot build on"):
        build_segmenter(tiny_encoder("resnet"), decoder_channels=(8, 8, 8, 8, -1))
