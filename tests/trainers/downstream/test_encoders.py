from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from transformers import TimmWrapperModel

from hub_medsyn import MedSynImageProcessor
from tests.fixtures.tiny_models import tiny_convirt, tiny_gloria, tiny_image_processor, tiny_mgca, tiny_vision_config
from tests.trainers.downstream.image_tables import write_csv
from trainers.downstream.encoders import FrozenEncoder, cached_features, load_encoder, pooled_features
from trainers.downstream.images.labelled_images import images_from_csv
from trainers.downstream.tasks.classifier_folder import save_classifier


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return images_from_csv(write_csv(tmp_path_factory.mktemp("images")))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("convirt")
    model = tiny_convirt()
    for module in model.modules():  # statistics as training leaves them
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(generator=torch.Generator().manual_seed(0))
    model.save_pretrained(folder)
    tiny_image_processor(size=24).save_pretrained(folder)
    return folder


def tiny_encoder(name="tiny"):
    arguments = tiny_vision_config().model_args
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=0, **arguments)
    return FrozenEncoder(name, model.train(), MedSynImageProcessor(size=32))


def test_extraction_changes_nothing_and_does_not_depend_on_the_batch(images):
    encoder = tiny_encoder()
    before = {name: value.clone() for name, value in encoder.model.state_dict().items()}
    features = pooled_features(encoder, images, batch_size=7)
    assert features.shape == (110, 64) and features.dtype == np.float32
    for name, value in encoder.model.state_dict().items():  # BatchNorm statistics and counts included
        assert torch.equal(value, before[name]), name
    np.testing.assert_allclose(pooled_features(encoder, images, batch_size=110), features, atol=1e-5)
    assert all(parameter.grad is None for parameter in encoder.model.parameters())


def test_a_checkpoint_loads_with_its_pooled_features_and_processor(checkpoint, images):
    encoder = load_encoder(str(checkpoint))
    assert encoder.processor.output_size == 24
    model = tiny_convirt()
    model.load_state_dict(type(model).from_pretrained(checkpoint).state_dict())
    model.eval()
    pixels = tiny_image_processor(24)([images.open(0), images.open(1)], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = model.vision_model(pixels).pooler_output
        assert torch.equal(encoder.model(pixels), expected)
    assert not any(parameter.requires_grad for parameter in encoder.model.parameters())
    assert not encoder.model.training


@pytest.mark.parametrize("make", [tiny_gloria, tiny_mgca])
def test_images_are_enlarged_before_pooling_as_in_the_model(make, images, tmp_path):
    model = make(upsample_size=56).eval()
    model.save_pretrained(tmp_path / "model")
    tiny_image_processor(size=32).save_pretrained(tmp_path / "model")
    encoder = load_encoder(str(tmp_path / "model"))
    pixels = encoder.processor([images.open(0), images.open(1)], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = model.encode_regions(pixels)[0]
    assert torch.equal(encoder.pooled(pixels), expected) and not torch.equal(encoder.model(pixels), expected)
    plain = replace(encoder, enlarge=None)
    different = [cached_features(one, images, tmp_path / "cache") for one in (encoder, plain)]
    assert (different[0] != different[1]).any()
    assert load_encoder(f"random:{tmp_path / 'model'}").enlarge == 56

    # The stock classifier resizes images to that size in one step, an approximation.
    weight, bias = np.random.default_rng(0).normal(size=(expected.shape[1], 2)), np.zeros(2)
    save_classifier(tmp_path / "classifier", encoder, weight, bias, ("a", "b"))
    saved = load_encoder(str(tmp_path / "classifier"))
    assert saved.processor.output_size == 56 and saved.weights_hash() == encoder.weights_hash()
    near = saved.pooled(saved.processor([images.open(0), images.open(1)], return_tensors="pt")["pixel_values"])
    assert (near - expected).norm() < 0.5 * (encoder.model(pixels) - expected).norm()


def test_a_random_encoder_has_the_same_shape_and_processor_and_untrained_weights(checkpoint):
    trained, random = load_encoder(str(checkpoint)), load_encoder(f"random:{checkpoint}", seed=1)
    assert random.settings() == trained.settings()
    shapes = {name: value.shape for name, value in trained.model.state_dict().items()}
    assert {name: value.shape for name, value in random.model.state_dict().items()} == shapes
    assert not random.model.bn1.running_mean.any() and (random.model.bn1.running_var == 1).all()
    assert load_encoder(f"random:{checkpoint}", seed=1).weights_hash() == random.weights_hash()
    assert load_encoder(f"random:{checkpoint}", seed=2).weights_hash() != random.weights_hash()


def test_exported_encoders_load_with_and_without_a_classifier(tmp_path):
    model = timm.create_model("resnet18", num_classes=4, **tiny_vision_config().model_args).eval()
    timm.models.save_for_hf(model, tmp_path / "timm", safe_serialization=True)
    wrapper = TimmWrapperModel(tiny_vision_config()).eval()
    wrapper.save_pretrained(tmp_path / "wrapper")
    pixels = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        exported = load_encoder(str(tmp_path / "timm"), image_size=32)
        assert torch.allclose(
            exported.model(pixels), model.forward_head(model.forward_features(pixels), pre_logits=True)
        )
        assert torch.allclose(load_encoder(str(tmp_path / "wrapper")).model(pixels), wrapper(pixels).pooler_output)
    assert exported.processor.output_size == 32
    assert exported.settings()["image_mean"] == list(timm.get_pretrained_cfg("resnet18").mean)


def test_a_timm_name_loads_a_file_of_weights(tmp_path):
    model = timm.create_model("test_resnet")
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    encoder = load_encoder(f"test_resnet@{tmp_path / 'weights.pth'}", "file", image_size=32)
    assert encoder.name == "file"
    assert torch.equal(encoder.model.conv1[0].weight, model.conv1[0].weight)
    with pytest.raises(FileNotFoundError, match="gone.pth"):
        load_encoder(f"test_resnet@{tmp_path / 'gone.pth'}")


@pytest.mark.parametrize(("name", "size", "asked"), [
    ("vit_tiny_patch16_224.augreg_in21k", 64, {"img_size": 64}),
    ("vit_tiny_patch16_224.augreg_in21k", 224, {}),
    ("resnet18.a1_in1k", 64, {}),
])  # fmt: skip
def test_pretrained_weights_of_timm_are_adapted_to_the_image_size(name, size, asked, monkeypatch):
    made, create = [], timm.create_model

    def without_network(name, pretrained, **arguments):
        made.append(arguments)
        return create(name, **arguments)

    monkeypatch.setattr("timm.create_model", without_network)
    encoder = load_encoder(name, image_size=size)
    assert made == [{"num_classes": 0, **asked}] and encoder.arguments == asked
    pixels = encoder.processor(np.zeros((80, 60), np.uint8), return_tensors="pt")["pixel_values"]
    assert encoder.model(pixels).shape == (1, encoder.model.num_features)


@pytest.mark.parametrize("spec", ["no_such_model", "random:no_such_model", "folder"])
def test_an_unknown_encoder_is_refused(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="neither a folder nor a timm model|no config.json"):
        load_encoder(spec)


def test_the_cache_is_read_only_for_equal_weights_pixels_and_settings(images, tmp_path, monkeypatch):
    calls = []

    def counted(encoder, *args):
        calls.append(encoder.name)
        return pooled_features(encoder, *args)

    monkeypatch.setattr("trainers.downstream.encoders.pooled_features", counted)
    first = cached_features(tiny_encoder("first"), images, tmp_path)
    np.testing.assert_array_equal(cached_features(tiny_encoder("again"), images, tmp_path), first)
    assert calls == ["first"]
    moved = tiny_encoder("moved statistics")
    moved.model.bn1.running_mean += 1
    assert (cached_features(moved, images, tmp_path) != first).any()
    smaller = FrozenEncoder("other size", tiny_encoder().model, MedSynImageProcessor(size=24))
    assert (cached_features(smaller, images, tmp_path) != first).any()
    assert calls == ["first", "moved statistics", "other size"]
    assert len(list(tmp_path.iterdir())) == 3


def test_images_are_hashed_once_for_all_encoders(images, tmp_path):
    reads = []

    def encoded(row):
        reads.append(row)
        return images.encoded(row)

    counted = replace(images, encoded=encoded)
    rows = list(range(len(images.ids)))
    cached_features(tiny_encoder(), counted, tmp_path)
    assert reads == rows * 2  # hashed, then seen by the encoder
    smaller = FrozenEncoder("other size", tiny_encoder().model, MedSynImageProcessor(size=24))
    cached_features(smaller, counted, tmp_path)
    assert reads == rows * 3
    cached_features(tiny_encoder("again"), counted, tmp_path)
    assert reads == rows * 3


def test_non_finite_features_raise_with_the_image(images):
    encoder = tiny_encoder("broken")
    encoder.model.bn1.bias.data[:] = float("nan")
    with pytest.raises(ValueError, match="broken gives features that are not finite on image images/train000.png"):
        pooled_features(encoder, images)
