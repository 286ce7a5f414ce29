"""GLoRIA and MGCA as transformers models: five image families, saved, loaded, piped, and their switches."""

import pytest
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
    BertModel,
    VisionTextDualEncoderProcessor,
    pipeline,
)

from hub_medsyn import GLoRIAConfig, GLoRIAModel, MGCAConfig, MGCAModel
from hub_medsyn.loss_gloria import local_similarity
from tests.fixtures.tiny_models import (
    side_of,
    tiny_gloria,
    tiny_image_processor,
    tiny_mgca,
    tiny_text_config,
    tiny_tokenizer,
)

TEXTS = ["small left pleural effusion.", "no pneumothorax. heart normal", "cardiomegaly with edema"]
MAKERS = {"gloria": tiny_gloria, "mgca": tiny_mgca}
PARTS = {"gloria": ["loss_global", "loss_local"], "mgca": ["loss_global", "loss_local", "loss_prototype"]}
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def batch_of(kind: str = "resnet", channels: int = 3):
    generator = torch.Generator().manual_seed(0)
    text = tiny_tokenizer()(TEXTS, padding=True, return_tensors="pt")
    return {**text, "pixel_values": torch.randn(3, channels, side_of(kind), side_of(kind), generator=generator)}


@pytest.mark.parametrize("method", MAKERS)
@pytest.mark.parametrize("kind", ["resnet", "vit", "swin", "convnext", "mobilenet"])
def test_every_parameter_gets_a_gradient_and_saving_changes_no_bit(method, kind, tmp_path):
    model, batch = MAKERS[method](kind).train(), batch_of(kind)
    output = model(**batch, return_loss=True)
    output.loss.backward()
    assert torch.isfinite(output.loss) and [name for name in output if name.startswith("loss_")] == PARTS[method]
    torch.testing.assert_close(output.loss, sum(output[name] for name in PARTS[method]))
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name
    model.eval().save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    loaded = AutoModelForZeroShotImageClassification.from_pretrained(tmp_path).eval()
    assert type(loaded) is type(model)
    with torch.no_grad():
        expected, got = model(**batch, return_loss=True), loaded(**batch, return_loss=True)
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)


@pytest.mark.parametrize("method", MAKERS)
def test_forward_is_losses_of_encode_and_embeds_are_the_features(method):
    model, batch = MAKERS[method]().eval(), batch_of()
    output, features = model(**batch, return_loss=True), model(**batch, features_only=True)
    assert all(len(value) == 3 for value in features.values())
    for name, value in model.losses(features).items():
        assert torch.equal(output[name], value)
    torch.testing.assert_close(output.image_embeds, model.get_image_features(batch["pixel_values"]))
    texts = {name: value for name, value in batch.items() if name != "pixel_values"}
    torch.testing.assert_close(output.text_embeds, model.get_text_features(**texts))
    assert torch.equal(output.logits_per_text, output.logits_per_image.T)
    assert model(**batch).loss is None
    if method == "mgca":
        torch.testing.assert_close(output.logits_per_image, output.image_embeds @ output.text_embeds.T / 0.07)
    else:
        words = features["word_mask"].clone()
        words[:, 0] = False
        best = local_similarity(features["regions"], features["words"], words, aggregate="max")
        torch.testing.assert_close(output.logits_per_image, (output.image_embeds @ output.text_embeds.T + best) / 2)


@pytest.mark.parametrize("method", MAKERS)
def test_padding_and_other_items_do_not_change_an_items_features(method):
    model, batch = MAKERS[method](freeze_batch_norm=True, text_changes=STILL).train(), batch_of()
    whole = model(**batch)
    for item in range(3):
        length = int(batch["attention_mask"][item].sum())
        own = {name: value[item : item + 1] for name, value in batch.items()}
        own = {name: value if name == "pixel_values" else value[:, :length] for name, value in own.items()}
        single = model(**own)
        torch.testing.assert_close(single.logits_per_image, whole.logits_per_image[item, item].view(1, 1))


def test_words_that_each_method_aligns():
    batch = {**tiny_tokenizer()(["small cardiomegaly.", "no", ""], padding=True, return_tensors="pt")}
    batch["pixel_values"] = torch.randn(3, 3, 32, 32)

    def counts(model):
        return model.eval()(**batch, features_only=True)["word_mask"].sum(1).tolist()

    assert counts(tiny_gloria()) == [4, 2, 1]  # with the opening token: small, cardiomegaly, full stop
    assert counts(tiny_gloria(words_include_cls=False)) == [3, 1, 1]
    assert counts(tiny_mgca()) == [4, 2, 1]  # with the closing token
    assert counts(tiny_mgca(words_include_sep=False)) == [3, 1, 0]
    for model in (
        tiny_gloria(),
        tiny_gloria(words_include_cls=False),
        tiny_mgca(),
        tiny_mgca(words_include_sep=False),
    ):
        output = model.eval()(**batch, return_loss=True)
        assert torch.isfinite(output.loss) and torch.isfinite(output.logits_per_image).all()


def test_padding_is_a_negative_in_official_mgca_alone():
    batch = batch_of()
    features = {
        padded: tiny_mgca(pad_negatives=padded).eval()(**batch, features_only=True) for padded in (False, True)
    }
    assert features[True]["words"].shape[1] == 40 and features[False]["words"].shape[1] < 10
    mask = features[False]["word_mask"]
    kept = features[True]["words"][:, : mask.shape[1]][mask]
    torch.testing.assert_close(features[False]["words"][mask], kept)
    assert features[False]["words"][~mask].abs().max() == 0
    local = {
        padded: tiny_mgca(pad_negatives=padded).losses(features[padded])["loss_local"] for padded in (False, True)
    }
    assert local[True] > local[False]


def test_patch_context_is_scaled_for_maps_always_and_for_a_vit_by_the_switch():
    def local(kind, scaled):
        return tiny_mgca(kind, normalize_patch_context=scaled).eval()(**batch_of(), return_loss=True).loss_local

    assert torch.equal(local("resnet", True), local("resnet", False))
    assert local("vit", True) != local("vit", False)


@pytest.mark.parametrize("method", MAKERS)
def test_zero_shot_pipeline(method, tmp_path):
    MAKERS[method]().save_pretrained(tmp_path)
    VisionTextDualEncoderProcessor(tiny_image_processor(), tiny_tokenizer()).save_pretrained(tmp_path)
    image, labels = Image.linear_gradient("L"), ["left pleural effusion", "no effusion"]
    classify = pipeline("zero-shot-image-classification", model=str(tmp_path))
    scores = {
        item["label"]: item["score"] for item in classify(image, candidate_labels=labels, hypothesis_template="{}")
    }
    inputs = AutoProcessor.from_pretrained(tmp_path)(text=labels, images=image, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = AutoModel.from_pretrained(tmp_path).eval()(**inputs).logits_per_image
    assert [scores[label] for label in labels] == pytest.approx(logits.softmax(-1)[0].tolist(), rel=1e-5)


@pytest.mark.parametrize("method", MAKERS)
@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_gradient_checkpointing_changes_nothing(method, kind):
    gradients = []
    for checkpointing in (False, True):
        model = MAKERS[method](kind, text_changes=STILL).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(**batch_of(), return_loss=True).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_presets_hold_the_published_numbers(tmp_path):
    gloria = {name: GLoRIAConfig(preset=name) for name in ("official", "paper", "fixed")}
    assert [(c.temperature_global, c.weight_global, c.upsample_size) for c in gloria.values()] == [
        (0.1, 1.0, 299),
        (0.07, 0.5, 0),
        (0.1, 1.0, 0),
    ]
    mgca = {name: MGCAConfig(preset=name) for name in ("official", "paper", "fixed")}
    assert [(c.text_layers, c.pad_negatives, c.normalize_patch_context) for c in mgca.values()] == [
        (6, True, False),
        (-1, False, True),
        (-1, False, True),
    ]
    assert [c.text_config.num_hidden_layers for c in mgca.values()] == [6, 12, 12]
    assert all(not config.departures() for config in (*gloria.values(), *mgca.values()))
    small = GLoRIAConfig(text_config=tiny_text_config()), MGCAConfig(text_config=tiny_text_config(), preset="official")
    assert small[0].departures() == {"last_text_layers": 2} and small[1].departures() == {"text_layers": 2}
    mgca["official"].save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is MGCAConfig and loaded.text_config.num_hidden_layers == 6 and loaded.max_words == 111


def test_impossible_configurations_are_refused():
    text = tiny_text_config()
    with pytest.raises(ValueError, match="last_text_layers=4 of a text encoder with 2"):
        GLoRIAConfig(text_config=text, last_text_layers=4)
    with pytest.raises(ValueError, match=r"no projection_dim \(128\)"):
        GLoRIAConfig(text_config=text, last_text_layers=2, projection_dim=128)
    with pytest.raises(ValueError, match="text_layers=6 of a text encoder with 2"):
        MGCAConfig(text_config=text, text_layers=6)
    with pytest.raises(ValueError, match="batch size of 2"):
        tiny_gloria().eval()(**{name: value[:1] for name, value in batch_of().items()}, return_loss=True)


def test_layers_that_mgca_drops_are_dropped_from_its_own_configuration_and_before_the_lower_half_is_frozen():
    text = tiny_text_config(num_hidden_layers=12)
    config = MGCAConfig(text_config=text, preset="official", frozen_text_layers=-1)
    assert config.text_config.num_hidden_layers == 6 and text.num_hidden_layers == 12
    assert config.frozen_text_layers == 3
    with pytest.raises(ValueError, match="frozen_text_layers=9 of a text encoder with 6 layers"):
        MGCAConfig(text_config=text, preset="official", frozen_text_layers=9)


def test_from_encoders_drops_upper_text_layers_and_takes_one_channel(tmp_path):
    text = BertModel(tiny_text_config(), add_pooling_layer=False).eval()
    text.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    settings = {"image": "random:resnet10t", "text": str(tmp_path), "image_size": 32, "num_channels": 1}
    model = MGCAModel.from_encoders(**settings, text_layers=1, head_dim=16).eval()
    batch = batch_of(channels=1)
    assert len(model.text_model.encoder.layer) == 1
    with torch.no_grad():
        states = text(batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True)
        assert torch.equal(
            model.encode_tokens(batch["input_ids"], batch["attention_mask"])[0][-1], states.hidden_states[1]
        )
    gloria = GLoRIAModel.from_encoders(**settings, last_text_layers=1).eval()
    assert torch.isfinite(gloria(**batch, return_loss=True).loss)
