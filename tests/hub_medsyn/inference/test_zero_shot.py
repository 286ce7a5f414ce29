"""Findings from prompts: equal to the model's own logits, alone or in company, for all three methods."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertTokenizer, VisionTextDualEncoderProcessor, pipeline

from hub_medsyn.inference.prompts import DESCRIPTORS, FINDING_PROMPTS, PromptPair, class_prompts
from hub_medsyn.inference.zero_shot import ZeroShotClassifier
from tests.fixtures.tiny_models import tiny_convirt, tiny_gloria, tiny_image_processor, tiny_mgca, tiny_tokenizer

MAKERS = {"convirt": tiny_convirt, "gloria": tiny_gloria, "mgca": tiny_mgca}
PROMPTS = {
    "Cardiomegaly": PromptPair(("cardiomegaly",), ("heart normal",)),
    "Pleural Effusion": PromptPair(("small left pleural effusion", "effusions"), ("no pleural effusion", "clear")),
    "Edema": PromptPair(("mild edema",), ("no edema", "lungs are clear", "no acute abnormality seen")),
}


def processor_of(size: int = 32) -> VisionTextDualEncoderProcessor:
    return VisionTextDualEncoderProcessor(tiny_image_processor(size), tiny_tokenizer())


def make_images(number: int = 5) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (40, 50)).astype(np.uint8) // (1 + index) for index in range(number)]
    return [Image.fromarray(image) for image in images]


def make(method: str, **arguments) -> ZeroShotClassifier:
    """With a ViT of large weights, so that its features differ from image to image as those of a trained one do."""
    model = MAKERS[method]("vit").eval()
    with torch.no_grad():
        for parameter in model.vision_model.parameters():
            parameter.mul_(10 if parameter.ndim > 1 else 1)
    return ZeroShotClassifier(model, processor_of(), **{"prompts": PROMPTS, **arguments})


def logits_one_by_one(classifier: ZeroShotClassifier, image: Image.Image, texts) -> torch.Tensor:
    """The model's own forward pass for one image and one text at a time: `(texts,)`."""
    rows = []
    for text in texts:
        inputs = classifier.processor(text=text, images=image, return_tensors="pt")
        with torch.no_grad():
            rows.append(classifier.model(**inputs).logits_per_image[0, 0])
    return torch.stack(rows)


@pytest.mark.parametrize("method", MAKERS)
def test_scores_are_a_softmax_over_the_means_of_the_models_logits(method):
    classifier, images = make(method), make_images(3)
    result = classifier(images)
    assert result.findings == tuple(PROMPTS)
    assert result.scores.shape == (3, 3) and result.scores.dtype == torch.float32
    for row, image in enumerate(images):
        for column, pair in enumerate(PROMPTS.values()):
            sides = [logits_one_by_one(classifier, image, texts).mean() for texts in (pair.positive, pair.negative)]
            expected = torch.stack(sides).softmax(0)[0]
            torch.testing.assert_close(result.scores[row, column], expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(result.of("Edema"), result.scores[:, 2])
    assert (result.scores.std(0) > 1e-4).all(), "images that score alike would prove nothing"


@pytest.mark.parametrize("method", MAKERS)
def test_a_images_score_depends_on_no_other_image_or_finding(method):
    images = make_images()
    whole = make(method)(images).scores
    for batch_size in (1, 2, 5):
        scores = make(method, batch_size=batch_size)(images).scores
        torch.testing.assert_close(scores, whole, rtol=0, atol=1e-6)
    torch.testing.assert_close(make(method)(images[::-1]).scores.flip(0), whole, rtol=0, atol=1e-6)
    for row, image in enumerate(images):
        torch.testing.assert_close(make(method)(image).scores, whole[row : row + 1], rtol=0, atol=1e-6)
    only = {"Edema": PROMPTS["Edema"]}
    torch.testing.assert_close(make(method, prompts=only)(images).scores[:, 0], whole[:, 2], rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", MAKERS)
def test_an_image_planted_on_a_wording_gets_its_verdict(method, monkeypatch):
    prompts = {"Cardiomegaly": PROMPTS["Cardiomegaly"], "Edema": PromptPair(("edema",), ("lungs clear",))}
    classifier = make(method, prompts=prompts)
    texts = ["cardiomegaly", "heart normal", "edema", "lungs clear"]
    model = classifier.model
    with torch.no_grad():
        said = model.encode_texts(**tiny_tokenizer()(texts, padding=True, return_tensors="pt"))
    planted = {"image_embeds": said["text_embeds"]}
    if method == "gloria":  # every region of an image is the text's first word
        planted["regions"] = said["words"][:, 1:2].expand(-1, 4, -1)
    monkeypatch.setattr(model, "encode_images", lambda pixels: planted)
    scores = classifier(make_images(4)).scores
    assert scores[0, 0] > 0.5 > scores[1, 0]
    assert scores[2, 1] > 0.5 > scores[3, 1]
    best = classifier.free_text(make_images(4), texts).argmax(1)
    assert best.tolist() == [0, 1, 2, 3]
    assert classifier.class_scores(make_images(4), ["Edema", "Cardiomegaly"]).scores.shape == (4, 2)


@pytest.mark.parametrize("method", MAKERS)
def test_class_scores_are_means_by_default_and_the_published_codes_on_request(method):
    classifier, images, classes = make(method), make_images(3), ["Edema", "Pneumothorax"]
    default = classifier.class_scores(images, classes)
    largest = classifier.class_scores(images, classes, aggregate="max")
    assert default.findings == tuple(classes)
    for column, name in enumerate(classes):
        logits = torch.stack([logits_one_by_one(classifier, image, class_prompts(name, 5)) for image in images])
        torch.testing.assert_close(default.scores[:, column], logits.mean(1), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(largest.scores[:, column], logits.amax(1), rtol=1e-5, atol=1e-5)
    alone = classifier.class_scores(images[0], classes).scores
    torch.testing.assert_close(alone, default.scores[:1], rtol=1e-5, atol=1e-5)
    normal = classifier.class_scores(images, classes, normalize=True).scores
    z = (default.scores.numpy() - default.scores.numpy().mean(0)) / default.scores.numpy().std(0)
    np.testing.assert_allclose(normal.numpy(), z, rtol=1e-3, atol=1e-4)
    assert not torch.equal(classifier.class_scores(images, classes, seed=1).scores, default.scores)
    for images_alike in (images[:1], [images[0]] * 2):
        with pytest.raises(ValueError, match="leave normalize out"):
            classifier.class_scores(images_alike, classes, normalize=True)


def test_signs_are_sorted_and_weighed_against_the_denials():
    classifier, image = make("gloria"), make_images(1)[0]
    output = classifier.explain(image, "Edema")
    assert {sign for sign, _ in output} == set(DESCRIPTORS["Edema"])
    scores = [score for _, score in output]
    assert scores == sorted(scores, reverse=True) and all(0 < score < 1 for score in scores)
    signs = ["small nodule", "clear", "large mass"]
    output = dict(classifier.explain(image, "Edema", signs))
    denial = logits_one_by_one(classifier, image, PROMPTS["Edema"].negative).mean()
    for sign, logit in zip(signs, logits_one_by_one(classifier, image, signs), strict=True):
        assert output[sign] == pytest.approx(float((logit - denial).sigmoid()), rel=1e-5)


def test_prompts_are_encoded_once_and_the_model_keeps_its_mode(monkeypatch):
    model, calls = tiny_gloria("vit").train(), []
    model.vision_model.eval()  # as where a frozen encoder is trained on
    encode = model.encode_texts

    def counted(**inputs):
        assert not any(module.training for module in model.modules())
        calls.append(len(inputs["input_ids"]))
        return encode(**inputs)

    monkeypatch.setattr(model, "encode_texts", counted)
    classifier = ZeroShotClassifier(model, processor_of(), PROMPTS, batch_size=4)
    first = classifier(make_images())
    assert sum(calls) == 10 and max(calls) == 4
    assert torch.equal(classifier(make_images()).scores, first.scores) and sum(calls) == 10
    assert model.training and model.text_model.training and not model.vision_model.training
    with pytest.raises(ValueError, match="image 0"):
        classifier(["image.png"])
    assert model.training and not torch.is_inference_mode_enabled()


def test_images_come_as_images_arrays_or_pixel_values():
    classifier, images = make("gloria"), make_images(3)
    scores = classifier(images).scores
    assert torch.equal(classifier(tuple(np.asarray(image) for image in images)).scores, scores)
    pixels = classifier.processor.image_processor(images, return_tensors="pt")["pixel_values"]
    assert torch.equal(classifier(pixels).scores, scores)
    assert torch.equal(classifier.free_text(images, ["edema"]), classifier.free_text(pixels, ["edema"]))


@pytest.mark.parametrize("method", MAKERS)
def test_half_precision_scores_nearly_alike(method):
    images, classifier = make_images(3), make(method)
    exact = classifier(images).scores
    half = ZeroShotClassifier(classifier.model.to(torch.bfloat16), processor_of(), PROMPTS)(images).scores
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, exact, rtol=0, atol=0.05)


def test_the_pipelines_softmax_over_two_labels_is_the_score_of_one_wording_a_side():
    classifier, image = make("convirt"), make_images(1)[0]
    classify = pipeline(
        "zero-shot-image-classification",
        model=classifier.model,
        tokenizer=classifier.processor.tokenizer,
        image_processor=classifier.processor.image_processor,
    )
    labels = ["cardiomegaly", "heart normal"]
    said = {one["label"]: one["score"] for one in classify(image, candidate_labels=labels, hypothesis_template="{}")}
    assert float(classifier(image).of("Cardiomegaly")[0]) == pytest.approx(said["cardiomegaly"], rel=1e-5)


def test_every_finding_of_the_project_is_asked_for_by_default():
    result = ZeroShotClassifier(tiny_mgca().eval(), processor_of())(make_images(2))
    assert result.findings == tuple(FINDING_PROMPTS) and result.scores.isfinite().all()


def test_bad_input_is_named():
    classifier, image = make("gloria", batch_size=2), make_images(1)[0]
    with pytest.raises(ValueError, match="'Hernia'; there are some for Cardiomegaly, Pleural Effusion, Edema"):
        classifier.explain(image, "Hernia")
    with pytest.raises(ValueError, match="one image, not 2"):
        classifier.explain([image, image], "Edema")
    with pytest.raises(ValueError, match="'Hernia' was not asked for; these were: Cardiomegaly"):
        classifier(image).of("Hernia")
    with pytest.raises(ValueError, match="holds no image"):
        classifier([])
    with pytest.raises(ValueError, match="image 2 is a str, no image"):
        classifier([image, image, "image.png"])
    with pytest.raises(ValueError, match="starts at image 2: image 1 of 2: .*NaN"):
        classifier([image, image, image, np.full((40, 40), np.nan)])
    with pytest.raises(ValueError, match="starts at image 0: image 0 of 1: an image of 1 x 1 pixels"):
        classifier(Image.new("L", (1, 1)))
    with pytest.raises(ValueError, match="from image 0 on are not finite"):
        classifier(torch.full((1, 3, 32, 32), torch.nan))
    with pytest.raises(ValueError, match="torch.uint8"):
        classifier(torch.zeros((1, 3, 32, 32), dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"\(1, 1, 32, 32\) are not \(images, 3, side, side\)"):
        classifier(torch.zeros((1, 1, 32, 32)))
    secret = "edema " * 70
    with pytest.raises(ValueError, match="text 1 of 2 has 72 tokens and the text encoder takes 64") as error:
        classifier.free_text(image, ["edema", secret])
    assert "edema" not in str(error.value)
    for texts, message in ((["edema", " "], "text 1 of 2 is empty"), ([], "no texts"), ([3], "text 0 of 1")):
        with pytest.raises(ValueError, match=message):
            classifier.free_text(image, texts)
    with pytest.raises(ValueError, match="aggregate='sum'"):
        classifier.class_scores(image, ["Edema"], aggregate="sum")
    for classes in ("Edema", [], ["Edema", "Edema"]):
        with pytest.raises(ValueError, match="different findings"):
            classifier.class_scores(image, classes)


def test_model_and_processor_of_different_making_are_refused(tmp_path):
    model = tiny_gloria().eval()
    with pytest.raises(ValueError, match="prompts is empty"):
        ZeroShotClassifier(model, processor_of(), {})
    with pytest.raises(ValueError, match="batch_size=0"):
        ZeroShotClassifier(model, processor_of(), PROMPTS, batch_size=0)
    with pytest.raises(ValueError, match="images of 64 pixels and the model was made for 32"):
        ZeroShotClassifier(model, processor_of(64), PROMPTS)
    vocabulary = list(tiny_tokenizer().get_vocab())
    for name, words in (("longer", [*vocabulary, "hernia"]), ("shuffled", vocabulary[:5] + vocabulary[:4:-1])):
        file = tmp_path / f"{name}.txt"
        file.write_text("\n".join(words), encoding="utf-8")
        other = VisionTextDualEncoderProcessor(tiny_image_processor(), BertTokenizer(str(file)))
        with pytest.raises(ValueError, match="tokenizer .* is not the one of this GLoRIAModel"):
            ZeroShotClassifier(model, other, PROMPTS)
