"""ConVIRT as a transformers model: saved, loaded, frozen, registered, assembled from encoders, and its refusals."""

import pytest
import timm
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
    BertModel,
    VisionTextDualEncoderProcessor,
    pipeline,
)
from transformers.models.timm_wrapper.modeling_timm_wrapper import TimmWrapperModel

from hub_medsyn import ConVIRTConfig, ConVIRTModel, GLoRIAModel, MGCAModel
from hub_medsyn.loss_contrastive import nt_xent
from tests.fixtures.tiny_models import (
    tiny_convirt,
    tiny_image_processor,
    tiny_text_config,
    tiny_tokenizer,
    tiny_vision_config,
)

TEXTS = ["small left pleural effusion.", "no pneumothorax. heart normal", "cardiomegaly with edema"]


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(0)
    text = tiny_tokenizer()(TEXTS, padding=True, return_tensors="pt")
    return {**text, "pixel_values": torch.randn(3, 3, 32, 32, generator=generator)}


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_saved_and_loaded_bit_for_bit(kind, batch, tmp_path):
    model = tiny_convirt(kind, preset="paper", temperature_global=0.1).eval()
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    for auto in (AutoModel, AutoModelForZeroShotImageClassification):
        loaded = auto.from_pretrained(tmp_path).eval()
        assert type(loaded) is ConVIRTModel
        assert loaded.config.temperature_global == 0.1 and loaded.config.alpha == 0.5
        assert torch.equal(loaded.continues_word, model.continues_word) and model.continues_word.any()
        with torch.no_grad():
            expected, got = model(**batch, return_loss=True), loaded(**batch, return_loss=True)
        assert expected.keys() == got.keys()
        assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_forward_is_losses_of_encode(batch):
    model = tiny_convirt().eval()
    output = model(**batch, return_loss=True)
    features = model(**batch, features_only=True)
    assert set(features) == {"image_embeds", "text_embeds"}
    parts = model.losses(features)
    assert torch.equal(output.loss, parts["loss_global"]) and torch.equal(output.loss, output.loss_global)
    torch.testing.assert_close(output.loss, nt_xent(features["image_embeds"], features["text_embeds"], 0.1, 0.75))
    torch.testing.assert_close(output.logits_per_image, output.image_embeds @ output.text_embeds.T / 0.1)
    assert torch.equal(output.logits_per_text, output.logits_per_image.T)
    torch.testing.assert_close(output.image_embeds, model.get_image_features(batch["pixel_values"]))
    texts = {name: value for name, value in batch.items() if name != "pixel_values"}
    torch.testing.assert_close(output.text_embeds, model.get_text_features(**texts))
    assert model(**batch).loss is None


def test_text_feature_is_the_mean_over_tokens_without_padding(batch):
    model = tiny_convirt().eval()
    ids, mask = batch["input_ids"], batch["attention_mask"]
    assert not mask.all()  # there is padding to leave out
    hidden = model.text_model(ids, attention_mask=mask).last_hidden_state
    means = torch.stack([states[keep.bool()].mean(0) for states, keep in zip(hidden, mask, strict=True)])
    torch.testing.assert_close(model.get_text_features(ids, mask), F.normalize(model.text_head(means), dim=-1))
    torch.testing.assert_close(model.get_text_features(ids[:1, :7]), model.get_text_features(ids[:1], mask[:1]))


def test_one_image_and_one_text(batch):
    model = tiny_convirt().eval()
    single = {name: value[:1] for name, value in batch.items()}
    output = model(**single)
    assert output.logits_per_image.shape == (1, 1)
    torch.testing.assert_close(output.image_embeds, model(**batch).image_embeds[:1])
    with pytest.raises(ValueError, match="batch size of 2"):
        model(**single, return_loss=True)


def test_zero_shot_pipeline_and_processor(tmp_path):
    tiny_convirt().save_pretrained(tmp_path)
    VisionTextDualEncoderProcessor(tiny_image_processor(), tiny_tokenizer()).save_pretrained(tmp_path)
    image = Image.linear_gradient("L")
    labels = ["left pleural effusion", "no effusion"]
    classify = pipeline("zero-shot-image-classification", model=str(tmp_path))
    scores = {
        item["label"]: item["score"] for item in classify(image, candidate_labels=labels, hypothesis_template="{}")
    }
    inputs = AutoProcessor.from_pretrained(tmp_path)(text=labels, images=image, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = AutoModel.from_pretrained(tmp_path).eval()(**inputs).logits_per_image
    assert logits.shape == (1, 2)
    assert [scores[label] for label in labels] == pytest.approx(logits.softmax(-1)[0].tolist(), rel=1e-5)


def trainable(model):
    model.freeze()
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_what_each_preset_trains():
    official = trainable(tiny_convirt(preset="official", frozen_text_layers=1))
    assert official and not any(name.startswith("text_") for name in official)
    fixed = trainable(tiny_convirt(frozen_text_layers=-1, freeze_text_embeddings=True))
    assert not any("embeddings" in name or "encoder.layer.0." in name for name in fixed)
    assert any("encoder.layer.1." in name for name in fixed) and "text_head.0.weight" in fixed
    everything = trainable(tiny_convirt())
    assert everything == {name for name, _ in tiny_convirt().named_parameters()}


def test_presets_hold_the_published_numbers():
    values = {name: ConVIRTConfig(preset=name) for name in ("official", "paper", "fixed")}
    assert [(config.temperature_global, config.alpha) for config in values.values()] == [
        (0.1, 0.75),
        (0.07, 0.5),
        (0.1, 0.75),
    ]
    assert [config.text_tower_trainable for config in values.values()] == [False, True, True]
    assert values["official"].frozen_text_layers == values["fixed"].frozen_text_layers == 6
    assert values["official"].departures() == {}
    assert ConVIRTConfig(preset="official", alpha=0.5).departures() == {"alpha": 0.5}


def test_config_survives_a_round_trip(tmp_path):
    config = ConVIRTConfig(preset="paper", temperature_global=0.1, text_config=tiny_text_config(), image_size=96)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is ConVIRTConfig
    switches = (*ConVIRTConfig.presets["paper"], "preset", "image_size")
    assert {name: getattr(loaded, name) for name in switches} == {name: getattr(config, name) for name in switches}
    assert loaded.text_config.hidden_size == 32 and loaded.vision_config.architecture == "resnet50"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": "mended"}, "'mended'.*official, paper, fixed"),
        ({"preset": "official"}, "frozen_text_layers=6.*2 layers"),
    ],
)
def test_impossible_configurations_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ConVIRTConfig(text_config=tiny_text_config(), **settings)


def test_frozen_batch_norm_keeps_its_statistics(batch):
    for frozen in (True, False):
        model = tiny_convirt(freeze_batch_norm=frozen).train()
        before = {name: value.clone() for name, value in model.named_buffers() if "running" in name}
        model(**batch, return_loss=True).loss.backward()
        after = dict(model.named_buffers())
        assert before and all(torch.equal(after[name], value) for name, value in before.items()) == frozen


@pytest.mark.parametrize("model_class", [ConVIRTModel, GLoRIAModel, MGCAModel])
def test_batch_norm_is_frozen_in_fixed_alone_and_not_for_random_image_weights(model_class, tmp_path):
    presets = {name: preset["freeze_batch_norm"] for name, preset in model_class.config_class.presets.items()}
    assert presets == {"official": False, "paper": False, "fixed": True}
    TimmWrapperModel(tiny_vision_config()).save_pretrained(tmp_path / "resnet")

    def assemble(image, **switches):
        text = tiny_text_config()
        model = model_class.from_encoders(image, text, tiny_tokenizer(), image_size=32, **switches)
        assert {norm.training for norm in batch_norms(model.train())} == {not model.config.freeze_batch_norm}
        return model.config

    trained = assemble(str(tmp_path / "resnet"))
    assert trained.freeze_batch_norm and "freeze_batch_norm" not in trained.departures()
    random = assemble("random:resnet10t")
    assert not random.freeze_batch_norm and random.departures()["freeze_batch_norm"] is False
    assert assemble("random:resnet10t", freeze_batch_norm=True).freeze_batch_norm
    assert not assemble(str(tmp_path / "resnet"), freeze_batch_norm=False).freeze_batch_norm


def batch_norms(model):
    return [module for module in model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]


def test_from_encoders_takes_folders_of_both_libraries(batch, tmp_path):
    text = BertModel(tiny_text_config(), add_pooling_layer=False)
    text.save_pretrained(tmp_path / "text")
    tiny_tokenizer().save_pretrained(tmp_path / "text")
    vision = TimmWrapperModel(tiny_vision_config()).eval()
    vision.save_pretrained(tmp_path / "transformers")
    arguments = {name: value for name, value in tiny_vision_config().model_args.items()}
    timm.models.save_for_hf(
        vision.timm_model, str(tmp_path / "timm"), model_config={"architecture": "resnet18", "model_args": arguments}
    )
    for folder in ("transformers", "timm"):
        model = ConVIRTModel.from_encoders(str(tmp_path / folder), str(tmp_path / "text"), image_size=32).eval()
        expected = vision(batch["pixel_values"]).pooler_output
        assert torch.equal(model.vision_model(batch["pixel_values"]).pooler_output, expected)
        ids = {"input_ids": batch["input_ids"]}
        assert torch.equal(model.text_model(**ids).last_hidden_state, text.eval()(**ids).last_hidden_state)
        assert model.config.cls_token_id == tiny_tokenizer().cls_token_id
        assert model.config.frozen_text_layers == 1  # half of two


def test_from_encoders_reads_torchvision_weights_by_order(tmp_path):
    torchvision = pytest.importorskip("torchvision")
    source = torchvision.models.mobilenet_v2(width_mult=1.0).eval()
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    model = ConVIRTModel.from_encoders(
        "mobilenetv2_100",
        tiny_text_config(),
        tokenizer=tiny_tokenizer(),
        image_weights=tmp_path / "weights.pth",
        image_size=32,
    ).eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = source.features(images).mean((2, 3))
        torch.testing.assert_close(model.vision_model(images).pooler_output, expected, rtol=1e-5, atol=1e-6)
    assert model.config.vision_config.pretrained_cfg["mean"] == [0.485, 0.456, 0.406]
    assert model.config.frozen_text_layers == 0  # random text weights are not frozen


@pytest.mark.parametrize("inner", ["state_dict", "model"])
def test_weights_are_found_under_the_names_that_trainers_give_them(inner, tmp_path):
    weights = timm.create_model("resnet10t").state_dict()
    torch.save({inner: weights, "epoch": 3}, tmp_path / "weights.pth")
    settings = {"image_weights": tmp_path / "weights.pth", "image_size": 32}
    model = ConVIRTModel.from_encoders("resnet10t", tiny_text_config(), tiny_tokenizer(), **settings)
    assert torch.equal(model.vision_model.timm_model.conv1[0].weight, weights["conv1.0.weight"])


def test_weights_that_do_not_fit_are_refused(tmp_path):
    def assemble(image, **settings):
        return ConVIRTModel.from_encoders(image, tiny_text_config(), tokenizer=tiny_tokenizer(), **settings)

    with pytest.raises(ValueError, match="'resnet5000' is neither"):
        assemble("resnet5000")
    with pytest.raises(FileNotFoundError, match="no checkpoint .*none.pth"):
        assemble("mobilenetv2_100", image_weights=tmp_path / "none.pth")
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(ValueError, match="tensors"):
        assemble("mobilenetv2_100", image_weights=tmp_path / "resnet18.pth")
    torch.save({"weights": Image.new("L", (2, 2))}, tmp_path / "pickle.pth")
    with pytest.raises(ValueError, match="pickle.pth is refused: .* can run any code"):
        assemble("mobilenetv2_100", image_weights=tmp_path / "pickle.pth")
    for content in ([torch.ones(2)], torch.ones(2), {"state_dict": 3}, {1: torch.ones(2)}):
        torch.save(content, tmp_path / "other.pth")
        with pytest.raises(ValueError, match="other.pth holds no tensors by name"):
            assemble("mobilenetv2_100", image_weights=tmp_path / "other.pth")
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match="torn.safetensors cannot be read"):
        assemble("mobilenetv2_100", image_weights=tmp_path / "torn.safetensors")
    with pytest.raises(ValueError, match="do not belong together"):
        tiny_convirt(text_changes={"vocab_size": 50})


def test_one_channel_and_a_processor_of_another_model():
    model = ConVIRTModel.from_encoders(
        "random:resnet10t", tiny_text_config(), tokenizer=tiny_tokenizer(), num_channels=1, image_size=32
    ).eval()
    assert model.get_image_features(torch.randn(2, 1, 32, 32)).shape == (2, 512)
    with pytest.raises(ValueError, match=r"\(2, 3, 32, 32\).*num_channels=1"):
        model.get_image_features(torch.randn(2, 3, 32, 32))


def test_no_images_is_an_error(batch):
    with pytest.raises(ValueError, match="pixel_values are missing"):
        tiny_convirt()(batch["input_ids"])


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_gradient_checkpointing_changes_nothing(kind, batch):
    gradients = []
    for checkpointing in (False, True):
        # Dropout is off, so that two runs can be compared.
        model = tiny_convirt(
            kind, text_changes={"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        ).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        assert model.text_model.encoder.layer[0].gradient_checkpointing is checkpointing
        model(**batch, return_loss=True).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)
