import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from transformers import pipeline

from hub_medsyn import MedSynImageProcessor
from hub_medsyn.metrics.macro_auroc import macro_auroc
from tests.fixtures.tiny_models import tiny_vision_config
from tests.trainers.downstream.frozen import assert_unchanged
from tests.trainers.downstream.image_tables import write_csv
from trainers.downstream.encoders import FrozenEncoder, load_encoder, pooled_features
from trainers.downstream.images.labelled_images import LabelledImages, images_from_csv
from trainers.downstream.tasks.classifier_folder import save_classifier, stock_processor
from trainers.downstream.tasks.logistic_head import NEVER, fit_head
from trainers.downstream.tasks.trained_head import Crops, HeadSettings, train_head


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return images_from_csv(write_csv(tmp_path_factory.mktemp("images")))


@pytest.fixture(scope="module")
def encoder():
    config = tiny_vision_config()
    torch.manual_seed(0)
    model = timm.create_model(config.architecture, num_classes=0, **config.model_args).requires_grad_(False).eval()
    for module in model.modules():  # statistics as training leaves them
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
    return FrozenEncoder("tiny", model, MedSynImageProcessor(size=32), config.architecture, config.model_args)


def table_images(targets, splits):
    """A set of no pixels, a patient an image."""
    ids = [str(row) for row in range(len(targets))]
    labels = tuple("abc"[: targets.shape[1]])
    return LabelledImages(
        "table", ids, lambda row: b"", np.array(ids), np.array(splits), labels=labels, targets=targets
    )


def separable(n, seed, features=3, noise=2.0):
    """Features `(n, features)` of which the first two tell the labels, noisily."""
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(n, features)).astype(np.float32)
    return table, (table[:, :2] + noise * rng.normal(size=(n, 2)) > 0).astype(float)


def test_both_heads_reach_the_same_optimum(encoder):
    features, targets = separable(200, 0)
    others, truths = separable(300, 1)
    # The validation split repeats the training one, so that the epoch kept is the best of the loss that is minimised.
    table, both = np.concatenate([features, features, others]), np.concatenate([targets, targets, truths])
    images = table_images(both, ["train"] * 200 + ["validation"] * 200 + ["test"] * 300)
    settings = HeadSettings(epochs=150, patience=150, learning_rate=5e-2, batch_size=200, weight_decay=0)
    trained = train_head(encoder, images, table, images.rows("train"), 0, settings)
    for label in range(2):
        optimum = LogisticRegression(C=1e6, max_iter=5000, tol=1e-8).fit(features, targets[:, label])
        np.testing.assert_allclose(trained.weight[:, label], optimum.coef_[0], atol=0.01)
        np.testing.assert_allclose(trained.bias[label], optimum.intercept_[0], atol=0.01)
    fast = fit_head(features, targets, features, targets)
    areas = [macro_auroc(truths, head(others)).value for head in (trained, fast)]
    assert abs(areas[0] - areas[1]) < 0.01 and min(areas) > 0.6, areas


@pytest.mark.parametrize("augment", [False, True])
def test_training_never_touches_the_encoder(images, encoder, augment):
    features = pooled_features(encoder, images)
    settings = HeadSettings(epochs=2, batch_size=16, augment=augment)
    with assert_unchanged(encoder):
        head = train_head(encoder, images, features, images.rows("train"), 0, settings)
    assert len(head.validation_losses) == 2 and head.weight.shape == (64, 2) and head.constant == ()


@pytest.mark.parametrize("what", ["training mode", "a gradient", "BatchNorm", "a graph"])
def test_the_assertion_sees_what_is_not_frozen(encoder, what):
    model = timm.create_model("resnet18", num_classes=0, **encoder.arguments).requires_grad_(False).eval()
    broken = dataclasses.replace(encoder, model=model)
    pixels = torch.rand(2, 3, 32, 32)
    with pytest.raises(AssertionError, match="training mode|gradient|bn1.running_mean changed|kept a graph"):
        with assert_unchanged(broken):
            if what == "training mode":
                model.layer1.train()
                model(pixels)
                model.eval()
                model.load_state_dict(encoder.model.state_dict())
            elif what == "a gradient":
                model.conv1.weight.requires_grad_(True)
            elif what == "BatchNorm":
                model.bn1.running_mean += 1e-3
            else:
                model(pixels.requires_grad_(True))


def test_masked_rows_take_no_part_and_labels_without_cases_are_named(encoder):
    features, targets = separable(60, 0)
    splits = ["train"] * 30 + ["validation"] * 15 + ["test"] * 15
    masked = targets.copy()
    masked[:10, 0] = np.nan
    masked[:30, 1] = 0
    spoiled = features.copy()
    spoiled[:10] *= -5
    settings = HeadSettings(epochs=3, batch_size=30)
    images = table_images(masked, splits)
    one, other = (
        train_head(encoder, images, table, images.rows("train"), 0, settings) for table in (features, spoiled)
    )
    assert one.constant == (1,)
    np.testing.assert_array_equal(one.weight[:, 0], other.weight[:, 0])  # whatever the masked rows hold
    seen = train_head(encoder, table_images(targets, splits), spoiled, images.rows("train"), 0, settings)
    assert (seen.weight[:, 0] != one.weight[:, 0]).any()  # where they are not masked, they matter
    assert not one.weight[:, 1].any()  # nothing to learn: chance, and not what random weights say


def test_exclusive_classes_are_told_apart_and_an_unseen_one_is_never_said(encoder):
    rng = np.random.default_rng(0)
    truth = np.concatenate([np.arange(90) % 2, np.arange(30) % 3])
    classes = np.eye(3)[truth]
    features = (rng.normal(size=(120, 3)) + 3 * classes).astype(np.float32)
    images = table_images(classes, ["train"] * 60 + ["validation"] * 30 + ["test"] * 30)
    train, validation = images.rows("train"), images.rows("validation")
    settings = HeadSettings(epochs=60, learning_rate=0.05)
    trained = train_head(encoder, images, features, train, 0, settings, exclusive=True)
    fast = fit_head(features[train], classes[train], features[validation], classes[validation], exclusive=True)
    assert trained.constant == fast.constant == (2,) and trained.bias[2] == fast.bias[2] == NEVER
    for head in (trained, fast):
        assert (head(features[train]).argmax(axis=1) == truth[:60]).mean() > 0.9
        assert not (head(features).argmax(axis=1) == 2).any()


def test_the_softmax_is_scikit_learns():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 200)
    features = rng.normal(size=(200, 5)) + np.eye(5)[truth]
    head = fit_head(features, np.eye(3)[truth], features, np.eye(3)[truth], (0.1,), exclusive=True)
    standard = (features - features.mean(0)) / features.std(0)
    reference = LogisticRegression(C=0.1, max_iter=1000).fit(standard, truth)
    scores = head(features)
    chances = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(chances, reference.predict_proba(standard), atol=1e-3)
    two = truth < 2
    head = fit_head(features[two], np.eye(3)[truth[two]], features, np.eye(3)[truth], (0.1,), exclusive=True)
    standard = (features[two] - features[two].mean(0)) / features[two].std(0)
    reference = LogisticRegression(C=0.1, max_iter=1000).fit(standard, truth[two])
    scores = head(features[two])[:, :2]
    np.testing.assert_allclose(scores[:, 1] - scores[:, 0], reference.decision_function(standard), atol=1e-3)
    weight, bias = head.plain()
    np.testing.assert_allclose(features @ weight + bias, head(features), atol=1e-8)


def test_crops_depend_on_seed_epoch_and_row_alone(images, encoder):
    targets = torch.from_numpy(images.targets.astype(np.float32))
    rows = images.rows("train")
    one, other = Crops(encoder, images, rows, targets, 0), Crops(encoder, images, rows[::-1], targets, 0)
    first = one[3]["pixel_values"]
    assert first.shape == (3, 32, 32) and torch.equal(other[len(rows) - 4]["pixel_values"], first)
    one.epoch = 1
    assert not torch.equal(one[3]["pixel_values"], first)


@pytest.fixture(scope="module")
def folder(images, encoder, tmp_path_factory):
    """A classifier of the logistic head, and what that head says of the test images."""
    features, train, validation = pooled_features(encoder, images), images.rows("train"), images.rows("validation")
    head = fit_head(features[train], images.targets[train], features[validation], images.targets[validation])
    folder = tmp_path_factory.mktemp("classifier")
    save_classifier(folder, encoder, *head.plain(), images.labels)
    return folder, head(features[images.rows("test")])


def test_the_pipeline_says_what_the_probe_says(images, encoder, folder):
    folder, scores = folder
    classify = pipeline("image-classification", model=str(folder), device="cpu")
    assert type(classify.model).__module__.startswith("transformers.")
    assert type(classify.image_processor).__module__.startswith("transformers.")
    for place, row in enumerate(images.rows("test")[:6]):
        said = {entry["label"]: entry["score"] for entry in classify(images.open(row).convert("RGB"))}
        expected = 1 / (1 + np.exp(-scores[place]))  # a sigmoid each: they need not add up to 1
        assert [said[label] for label in images.labels] == pytest.approx(expected.tolist(), abs=1e-4)
    again = load_encoder(str(folder))
    assert again.weights_hash() == encoder.weights_hash() and again.settings() == encoder.settings()


@pytest.mark.slow
def test_it_works_where_nothing_of_ours_is_installed(images, folder, tmp_path):
    images.open(int(images.rows("test")[0])).convert("RGB").save(tmp_path / "image.png")
    code = (
        "import sys; from transformers import pipeline\n"
        f"classify = pipeline('image-classification', model={str(folder[0])!r}, device='cpu')\n"
        "said = classify('image.png')\n"
        "assert not any(name.split('.')[0] in ('hub_medsyn', 'trainers') for name in sys.modules)\n"
        "print({entry['label']: entry['score'] for entry in said})"
    )
    run = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr[-2000:]
    said, expected = eval(run.stdout), 1 / (1 + np.exp(-folder[1][0]))
    assert [said[label] for label in images.labels] == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.parametrize(("size", "crop"), [(64, None), (64, 56)])
def test_the_stock_image_processor_comes_near(size, crop):
    ours = MedSynImageProcessor(size=size, crop_size=crop, image_mean=[0.4] * 3, image_std=[0.2] * 3)
    stock = stock_processor(ours)
    rng = np.random.default_rng(0)
    for shape, limit in (((64, 64), 1e-6), ((160, 160), 0.05), ((128, 200), 0.12)):
        small = Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8))
        image = small.resize(shape[::-1], Image.Resampling.BICUBIC)
        one = ours(image, return_tensors="pt")["pixel_values"]
        other = stock(image.convert("RGB"), return_tensors="pt")["pixel_values"]
        assert one.shape == other.shape
        assert (one - other).abs().mean() < limit, shape


def test_settings_and_encoders_that_do_not_do_are_named(encoder):
    with pytest.raises(ValueError, match="epochs 0"):
        HeadSettings(epochs=0)
    with pytest.raises(ValueError, match="device 'tpu'"):
        HeadSettings(device="tpu")
    with pytest.raises(ValueError, match="not one linear layer on 5 pooled features"):
        save_classifier("x", encoder, np.zeros((5, 2)), np.zeros(2), ("a", "b"))
    with pytest.raises(ValueError, match="does not say what timm calls it"):
        nameless = dataclasses.replace(encoder, architecture=None)
        save_classifier("x", nameless, np.zeros((64, 2)), np.zeros(2), ("a", "b"))
