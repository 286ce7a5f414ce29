"""What cannot be used is named, with its remedy; what looks unusable and is not behaves as the docs say."""

import base64
import functools
import http.server
import threading
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AlbertConfig,
    AutoProcessor,
    DebertaV2Config,
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    ElectraModel,
    RobertaConfig,
    Trainer,
    TrainingArguments,
    VisionTextDualEncoderProcessor,
    ViTImageProcessor,
    pipeline,
)
from transformers.models.timm_wrapper.modeling_timm_wrapper import TimmWrapperModel
from transformers.pipelines import PIPELINE_REGISTRY

from hub_medsyn import ConVIRTModel, GLoRIAModel, MedSynImageProcessor, MGCAModel
from hub_medsyn.image_processing_medsyn import open_image, to_grey
from hub_medsyn.inference import pipelines
from tests.fixtures.tiny_models import (
    side_of,
    tiny_convirt,
    tiny_gloria,
    tiny_image_processor,
    tiny_mgca,
    tiny_text_config,
    tiny_tokenizer,
    tiny_vision_config,
)

MAKERS = {"convirt": tiny_convirt, "gloria": tiny_gloria, "mgca": tiny_mgca}
IMAGE = np.random.default_rng(0).integers(0, 256, (40, 30), dtype=np.uint8)


def inputs_of(texts, images=2, side=32):
    generator = torch.Generator().manual_seed(0)
    text = tiny_tokenizer()(texts, padding=True, return_tensors="pt")
    return {**text, "pixel_values": torch.randn(images, 3, side, side, generator=generator)}


@pytest.mark.parametrize("method", MAKERS)
def test_an_empty_prompt_is_its_opening_and_closing_token(method):
    model = MAKERS[method]().eval()
    with torch.no_grad():
        output = model(**inputs_of(["", "no edema", ""]))
        alone = model(**inputs_of([""]))
    assert torch.isfinite(output.logits_per_image).all()
    torch.testing.assert_close(output.logits_per_image[:, 0], output.logits_per_image[:, 2])
    # Whatever stands beside it.
    torch.testing.assert_close(alone.logits_per_image[:, 0], output.logits_per_image[:, 0])


@pytest.mark.parametrize("method", MAKERS)
def test_equal_captions_are_fine_for_inference(method):
    with torch.no_grad():
        logits = MAKERS[method]().eval()(**inputs_of(["no edema"] * 3)).logits_per_image
    torch.testing.assert_close(logits, logits[:, :1].expand(2, 3))


@pytest.mark.parametrize("method", MAKERS)
def test_a_batch_of_one_pair_has_no_loss(method):
    with pytest.raises(ValueError, match="this batch holds 1; use a batch size of 2"):
        MAKERS[method]().eval()(**inputs_of(["no edema"], images=1), return_loss=True)


@pytest.mark.parametrize("method", MAKERS)
def test_a_text_over_the_limit_is_refused_with_the_remedy(method):
    model = MAKERS[method]().eval()
    with torch.no_grad():
        model(**inputs_of(["effusion " * 62]))  # 64 tokens, as many as there are places
        message = "65 tokens, and the text encoder takes 64: shorten the text, or cut it with .*max_length=64"
        with pytest.raises(ValueError, match=message):
            model(**inputs_of(["effusion " * 63]))


def test_the_limit_of_an_encoder_that_keeps_places_for_padding():
    text = RobertaConfig(
        vocab_size=130, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=20
    )
    model = ConVIRTModel.from_encoders("random:resnet10t", text, tiny_tokenizer(), image_size=32).eval()
    with torch.no_grad():
        assert model.get_text_features(torch.full((1, 18), 7)).shape == (1, 512)
    with pytest.raises(ValueError, match="19 tokens, and the text encoder takes 18"):
        model.get_text_features(torch.full((1, 19), 7))


SMALL = {
    "vocab_size": 130,
    "hidden_size": 16,
    "embedding_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


@torch.no_grad()
def test_text_encoders_without_a_pooler(tmp_path):
    electra = ElectraModel(ElectraConfig(**SMALL)).eval()
    electra.save_pretrained(tmp_path / "electra")
    texts = dict(tiny_tokenizer()(["no edema", "small effusion"], padding=True, return_tensors="pt"))
    for model_class in (ConVIRTModel, GLoRIAModel, MGCAModel):
        folder = str(tmp_path / "electra")
        model = model_class.from_encoders("random:resnet10t", folder, tiny_tokenizer(), image_size=32).eval()
        assert torch.equal(model.text_model(**texts).last_hidden_state, electra(**texts).last_hidden_state)
        loss = model(**inputs_of(["no edema", "small effusion"]), return_loss=True).loss
        model.save_pretrained(tmp_path / "model")
        again = model_class.from_pretrained(tmp_path / "model").eval()
        torch.testing.assert_close(again(**inputs_of(["no edema", "small effusion"]), return_loss=True).loss, loss)
    deberta = DebertaV2Config(**{name: value for name, value in SMALL.items() if name != "embedding_size"})
    model = GLoRIAModel.from_encoders("random:resnet10t", deberta, tiny_tokenizer(), image_size=32).eval()
    assert torch.isfinite(model(**inputs_of(["no edema", "small effusion"]), return_loss=True).loss)
    with pytest.raises(ValueError, match="DebertaV2Model has no encoder.layer.* as BERT, RoBERTa and ELECTRA have"):
        MGCAModel.from_encoders("random:resnet10t", deberta, tiny_tokenizer(), image_size=32)


def test_text_encoders_of_another_build_are_refused(tmp_path):
    distil = DistilBertConfig(vocab_size=130, dim=16, hidden_dim=32, n_layers=1, n_heads=2)
    DistilBertModel(distil).save_pretrained(tmp_path)
    for text, name in ((distil, "DistilBert"), (str(tmp_path), "DistilBert"), (AlbertConfig(**SMALL), "Albert")):
        with pytest.raises(ValueError, match=f"{name}Model is not built like BERT.*choose one that is, such as BERT"):
            ConVIRTModel.from_encoders("random:resnet10t", text, tiny_tokenizer(), image_size=32)


@pytest.mark.parametrize("method", MAKERS)
def test_pipeline_refuses_a_label_of_two_thousand_words(method, tmp_path):
    MAKERS[method]().save_pretrained(tmp_path)
    VisionTextDualEncoderProcessor(tiny_image_processor(), tiny_tokenizer()).save_pretrained(tmp_path)
    classify = pipeline("zero-shot-image-classification", model=str(tmp_path))
    with pytest.raises(ValueError, match="2002 tokens, and the text encoder takes 64: shorten the text"):
        classify(Image.fromarray(IMAGE), candidate_labels=["edema " * 2000, "no edema"], hypothesis_template="{}")


def test_a_tokenizer_of_another_model_is_named():
    model = tiny_convirt().eval()
    size = model.config.text_config.vocab_size
    with pytest.raises(ValueError, match=f"token id {size} is not among the text encoder's {size}: the tokenizer"):
        model.get_text_features(torch.tensor([[2, size, 3]]))
    small = tiny_text_config(vocab_size=50)
    with pytest.raises(ValueError, match=f"tokenizer has {len(tiny_tokenizer())} tokens, the text encoder 50"):
        ConVIRTModel.from_encoders("random:resnet10t", small, tiny_tokenizer(), image_size=32)


@pytest.mark.parametrize("method", MAKERS)
@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_images_of_another_size_are_refused_where_the_encoder_has_one(method, kind):
    model, side = MAKERS[method](kind).eval(), side_of(kind)
    with pytest.raises(ValueError, match=rf"\(2, 3, 48, 48\).*{side}.*MedSynImageProcessor\(size={side}\)"):
        model.get_image_features(torch.randn(2, 3, 48, 48))
    with torch.no_grad():
        assert len(MAKERS[method]("resnet").eval().get_image_features(torch.randn(2, 3, 48, 48))) == 2


def test_a_saved_encoder_of_other_channels_or_size_is_refused(tmp_path):
    for kind in ("resnet", "vit"):
        TimmWrapperModel(tiny_vision_config(kind)).save_pretrained(tmp_path / kind)

    def assemble(kind, **settings):
        return ConVIRTModel.from_encoders(str(tmp_path / kind), tiny_text_config(), tiny_tokenizer(), **settings)

    with pytest.raises(ValueError, match="has in_chans=3, and in_chans=1 is asked for"):
        assemble("resnet", image_size=32, num_channels=1)
    with pytest.raises(ValueError, match="has img_size=32, and img_size=64 is asked for"):
        assemble("vit", image_size=64)
    assert assemble("vit", image_size=32).config.image_size == 32


def test_a_switch_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="ConVIRTConfig has no switch tempreature; its switches are projection_dim"):
        ConVIRTModel.from_encoders("random:resnet10t", tiny_text_config(), tiny_tokenizer(), tempreature=0.1)


def test_sixteen_bit_files_are_scaled_and_not_clipped(tmp_path):
    deep = IMAGE.astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "image.png")
    assert Image.open(tmp_path / "image.png").mode == "I;16"
    processor = MedSynImageProcessor(size=40)
    scaled = (IMAGE.astype(float) - IMAGE.min()) / (IMAGE.max() - IMAGE.min())
    for given in (tmp_path / "image.png", str(tmp_path / "image.png"), Image.open(tmp_path / "image.png"), deep):
        pixels = processor(given)["pixel_values"][0, 0, :, 5:35] * 0.5 + 0.5
        np.testing.assert_allclose(pixels, scaled, atol=1 / 255)


def test_the_pipeline_and_the_processor_read_sixteen_bits_in_full_depth(tmp_path):
    tiny_convirt().save_pretrained(tmp_path)
    VisionTextDualEncoderProcessor(tiny_image_processor(), tiny_tokenizer()).save_pretrained(tmp_path)
    classify = pipeline("zero-shot-image-classification", model=str(tmp_path))
    values = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    deep = Image.fromarray(values)
    deep.save(tmp_path / "image.png")

    def scores(image):
        found = classify(image, candidate_labels=["edema", "no edema"], hypothesis_template="{}")
        return sorted((item["label"], item["score"]) for item in found)

    grey = to_grey(deep)
    assert len(np.unique(grey)) > 200
    expected = scores(Image.fromarray(grey))
    given = (
        deep,
        tmp_path / "image.png",
        "data:image/png;base64," + base64.b64encode((tmp_path / "image.png").read_bytes()).decode(),
    )
    for image in (deep, *map(str, given[1:])):
        assert scores(image) == expected
    processor = AutoProcessor.from_pretrained(tmp_path)
    expected = processor(images=Image.fromarray(grey), return_tensors="np")["pixel_values"]
    for image in (*map(str, given[1:]), [deep], values, torch.tensor(values.astype(np.int32))):
        np.testing.assert_array_equal(processor(images=image, return_tensors="np")["pixel_values"], expected)


def test_an_image_behind_a_url_keeps_its_depth(tmp_path):
    values = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "image.png")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        image = open_image(f"http://127.0.0.1:{server.server_port}/image.png")
        with pytest.raises(OSError, match="404"):
            open_image(f"http://127.0.0.1:{server.server_port}/nowhere.png")
        server.shutdown()
    np.testing.assert_array_equal(np.asarray(image), values)


def test_pipelines_of_other_models_are_those_of_transformers(tmp_path):
    for task, ours in pipelines.TASKS.items():
        assert PIPELINE_REGISTRY.check_task(task)[1]["impl"] is ours
    other = pipelines.RadiographClassificationPipeline.__new__(pipelines.RadiographClassificationPipeline)
    other.image_processor = ViTImageProcessor(size={"height": 8, "width": 8})
    other.model = SimpleNamespace(dtype=torch.float32)
    colour = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    pixels = other.preprocess(colour)["pixel_values"]
    expected = other.image_processor(images=colour, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels, expected)


@pytest.mark.parametrize("mode", ["CMYK", "P", "RGBA", "LA", "1", "I;16", "F"])
def test_files_of_every_mode_are_read(mode, tmp_path):
    grey = Image.fromarray(IMAGE)
    made = {
        "I;16": lambda: Image.fromarray(IMAGE.astype(np.uint16)),
        "CMYK": lambda: grey.convert("RGB").convert(mode),
    }
    image = made.get(mode, lambda: grey.convert(mode))()
    path = tmp_path / ("image.tif" if mode in ("CMYK", "F") else "image.png")
    image.save(path)
    pixels = MedSynImageProcessor(size=40)([path, image])["pixel_values"]
    assert np.isfinite(pixels[0]).all() and pixels[0].std() > 0.1
    np.testing.assert_array_equal(pixels[0], pixels[1])


def test_files_that_are_no_images_are_named(tmp_path):
    (tmp_path / "notes.png").write_text("no image")
    processor = MedSynImageProcessor(size=16)
    with pytest.raises(OSError, match="notes.png"):
        processor(tmp_path / "notes.png")
    with pytest.raises(FileNotFoundError, match="none.png"):
        processor(str(tmp_path / "none.png"))


def test_no_image_at_all_is_named():
    with pytest.raises(ValueError, match="no images were given"):
        MedSynImageProcessor(size=16)([])


@pytest.mark.parametrize(
    ("image", "message"), [(np.full((8, 8), np.nan, np.float32), "NaN"), (IMAGE[:1, :1], "1 x 1 pixels")]
)
def test_nan_and_one_pixel_images_are_named_by_their_place(image, message):
    with pytest.raises(ValueError, match=f"image 2 of 3: .*{message}"):
        MedSynImageProcessor(size=16)([IMAGE, IMAGE, image])


@pytest.mark.parametrize("method", ["gloria", "mgca"])
def test_local_features_are_returned_when_asked_for(method):
    model, inputs = MAKERS[method]().eval(), inputs_of(["small cardiomegaly.", "no"])
    with torch.no_grad():
        plain, local = model(**inputs), model(**inputs, output_local_features=True)
        features = model.encode(inputs)
    assert not {"region_embeds", "word_embeds", "word_mask"} & plain.keys()
    for field, name in (("region_embeds", "regions"), ("word_embeds", "words"), ("word_mask", "word_mask")):
        assert torch.equal(local[field], features[name])
    dim = 32 if method == "gloria" else 16
    assert local.region_embeds.shape == (2, 4, dim) and local.word_embeds.shape[::2] == (2, dim)
    assert local.word_mask.shape == local.word_embeds.shape[:2] and local.word_mask.dtype is torch.bool


def test_convirt_has_no_local_features():
    with pytest.raises(ValueError, match="ConVIRTModel has no local features; GLoRIAModel and MGCAModel do"):
        tiny_convirt().eval()(**inputs_of(["no edema"]), output_local_features=True)


@pytest.mark.parametrize("method", MAKERS)
def test_a_plain_trainer_can_evaluate_batches_of_unequal_size(method, tmp_path):
    model = MAKERS[method]()
    inputs = inputs_of(["no edema", "edema", "mass", "small nodule", "tube"], images=5)
    rows = datasets.Dataset.from_dict({"row": list(range(5))})

    def collate(items):
        chosen = torch.tensor([item["row"] for item in items])
        return {**{name: value[chosen] for name, value in inputs.items()}, "return_loss": True}

    arguments = TrainingArguments(
        str(tmp_path),
        per_device_eval_batch_size=3,
        use_cpu=True,
        remove_unused_columns=False,
        report_to=[],
        disable_tqdm=True,
    )
    trainer = Trainer(model, arguments, data_collator=collate)
    result = trainer.predict(rows)
    assert np.isfinite(result.metrics["test_loss"])
    image, text = result.predictions  # what the configuration leaves: one row an item
    assert image.shape == text.shape and len(image) == 5
    torch.testing.assert_close(torch.tensor(image), model.get_image_features(inputs["pixel_values"]).detach())
