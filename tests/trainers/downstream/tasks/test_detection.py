"""Detectors on cached maps: they learn planted squares, leave the encoder alone, and name what they cannot use."""

import io
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import TimmWrapperModel

from hub_medsyn import MedSynImageProcessor
from tests.fixtures.tiny_models import tiny_vision_config
from tests.trainers.downstream.frozen import assert_unchanged
from trainers.downstream.encoders import FrozenEncoder
from trainers.downstream.images.annotated_images import AnnotatedImages
from trainers.downstream.tasks.detection import (
    BestEpoch,
    DetectionRows,
    DetectionSettings,
    FeatureMaps,
    checked_boxes,
    detect,
    new_detector,
    score,
    train_detector,
)

SMALL = DetectionSettings(neck_width=16, batch_size=8, epochs=2, learning_rate=5e-3)


def planted_squares(train=64, validation=16, test=24, seed=0) -> AnnotatedImages:
    """Images of 80 to 120 by 60 to 100 pixels of noise; on four of five a bright rectangle, a patient each."""
    rng = np.random.default_rng(seed)
    files, boxes, splits = [], [], []
    for split, number in (("train", train), ("validation", validation), ("test", test)):
        for _ in range(number):
            width, height = int(rng.integers(80, 120)), int(rng.integers(60, 100))
            image = rng.integers(0, 90, (height, width)).astype(np.uint8)
            box = []
            if rng.random() < 0.8:
                w, h = rng.integers(18, 30, 2)
                x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
                image[y : y + h, x : x + w] += 140
                box = [x, y, x + w, y + h]
            file = io.BytesIO()
            Image.fromarray(image).save(file, "PNG")
            files.append(file.getvalue())
            boxes.append(np.float32(box).reshape(-1, 4))
            splits.append(split)
    ids = [f"image{number}" for number in range(len(files))]
    return AnnotatedImages(
        "planted", ids, lambda row: files[row], np.array(ids), np.array(splits), boxes=lambda row: boxes[row]
    )


def tiny_encoder(kind="resnet", side=64, seed=0) -> FrozenEncoder:
    config = tiny_vision_config(kind)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = TimmWrapperModel(config).timm_model
    processor = MedSynImageProcessor(size=side)
    return FrozenEncoder(kind, model.eval().requires_grad_(False), processor, config.architecture, config.model_args)


@pytest.fixture(scope="module")
def squares():
    return planted_squares()


@pytest.fixture(scope="module")
def few():
    return planted_squares(16, 8, 8, seed=1)


def with_boxes(images, row, boxes):
    return replace(images, boxes=lambda one: np.float32(boxes).reshape(-1, 4) if one == row else images.boxes(one))


def same_predictions(one, other) -> bool:
    return one.keys() == other.keys() and all(
        np.array_equal(one[row][part], other[row][part]) for row in one for part in (0, 1)
    )


def test_a_detector_on_a_frozen_random_encoder_finds_planted_squares(squares):
    encoder, settings = tiny_encoder(), replace(SMALL, neck_width=32, epochs=12)
    untrained, _ = new_detector(encoder, 0, replace(settings, preset="official"))
    rows = DetectionRows(FeatureMaps(encoder, squares, squares.rows("test"), settings), squares.rows("test"), 10)
    before = score(detect(untrained, rows, settings)[0], rows)["map"]
    with assert_unchanged(encoder):
        run = train_detector(encoder, squares, squares.rows("train"), 0, settings)
    assert before < 0.02
    assert run.metrics["map"] > 0.2 and run.metrics["map_50"] > 0.4
    assert run.metrics["validation_map"] > 0.2 and 1 < run.metrics["best_epoch"] <= run.metrics["epochs"] <= 12
    assert run.predictions.keys() == set(squares.rows("test").tolist())
    assert run.metrics == pytest.approx(
        score(run.predictions, rows) | {key: run.metrics[key] for key in ("validation_map", "best_epoch", "epochs")}
    )
    for row, (boxes, scores) in run.predictions.items():
        width, height = squares.size(row)
        assert boxes.shape == (len(scores), 4) and (scores >= 0.5).all() and (np.diff(scores) <= 0).all()
        assert (boxes >= 0).all() and (boxes <= [width, height, width, height]).all()


def test_every_weight_of_the_head_is_trained_and_none_of_the_encoder(few):
    """For a ViT, whose pyramid is trained too; its patches of 8 pixels give maps of three sizes."""
    encoder = tiny_encoder("vit", side=32)
    start, _ = new_detector(encoder, 0, SMALL)
    with assert_unchanged(encoder):
        model = train_detector(encoder, few, few.rows("train"), 0, SMALL).model
    assert model.vision_model.timm_model is encoder.model
    first = dict(start.named_parameters())
    trained = {name: value for name, value in model.named_parameters() if not name.startswith("vision_model.")}
    assert any(name.startswith("pyramid.") for name in trained)
    for name, value in trained.items():
        assert not torch.equal(value, first[name]), name


def test_where_maps_are_kept_changes_nothing_and_seeds_decide(few, tmp_path):
    encoder = tiny_encoder()
    settings = replace(SMALL, preset="official", score_threshold=0.3)  # finds something from the start
    rows = few.rows("train")
    in_memory = train_detector(encoder, few, rows, 0, settings)
    assert sum(len(boxes) for boxes, _ in in_memory.predictions.values()) > 8
    every = FeatureMaps(encoder, few, np.arange(len(few.ids)), replace(settings, cache=str(tmp_path / "maps")))
    assert len(list((tmp_path / "maps").rglob("*.npy"))) == 3
    on_disk = train_detector(encoder, few, rows, 0, settings, maps=every)
    assert same_predictions(in_memory.predictions, on_disk.predictions)
    assert in_memory.metrics == on_disk.metrics
    del every, on_disk
    assert not list((tmp_path / "maps").iterdir())

    encoded_anew = train_detector(encoder, few, rows, 0, replace(settings, cache="none"))
    for name, value in in_memory.model.head.state_dict().items():
        torch.testing.assert_close(encoded_anew.model.head.state_dict()[name], value, rtol=1e-3, atol=1e-4, msg=name)
    other = train_detector(encoder, few, rows, 1, settings)
    assert not same_predictions(in_memory.predictions, other.predictions)


def test_maps_equal_those_of_single_images(few):
    encoder = tiny_encoder()
    model, processor = new_detector(encoder, 0, SMALL)
    maps = FeatureMaps(encoder, few, few.rows("test"), SMALL)
    for row in few.rows("test")[:3]:
        expected = model.encode_maps(processor([few.open(row)], return_tensors="pt")["pixel_values"])
        kept = maps.inputs(row)["feature_maps"]
        assert [one.dtype for one in kept] == [torch.float32] * 3
        for one, other in zip(kept, expected, strict=True):
            torch.testing.assert_close(one, other[0], rtol=1e-4, atol=1e-5 * float(one.max()))


def test_maps_that_have_no_room_are_refused_at_once(few, monkeypatch, tmp_path):
    free = SimpleNamespace(available=20_000, free=20_000)  # 24 x (64 x 4 + 32 x 16 + 16 x 64) x 4 bytes are 172 kB
    monkeypatch.setattr("psutil.virtual_memory", lambda: free)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: free)
    for cache, where in (("memory", "in memory"), (str(tmp_path), f"in {tmp_path}")):
        with pytest.raises(ValueError, match=f"maps of 24 images take 0.0 GB, and 0.0 GB are free {where}"):
            FeatureMaps(tiny_encoder(), few, np.arange(8, 32), replace(SMALL, cache=cache))
    FeatureMaps(tiny_encoder(), few, np.arange(2), SMALL)


def test_stretching_fills_the_square_and_maps_boxes_back(few):
    encoder = tiny_encoder()
    settings = replace(SMALL, resize="stretch")
    maps = FeatureMaps(encoder, few, few.rows("train"), settings)
    row = next(row for row in few.rows("train") if len(few.boxes(row)))
    width, height = few.size(row)
    item = DetectionRows(maps, [row], 10)[0]
    x0, y0, x1, y1 = few.boxes(row)[0]
    expected = [(x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height]
    np.testing.assert_allclose(item["labels"]["boxes"][0], expected, rtol=1e-5)
    assert (maps.pixels(row)[0, 0] > -1).any()
    padded = FeatureMaps(encoder, few, few.rows("train"), replace(SMALL, cache="none"))
    assert (padded.pixels(row)[0, 0] == -1).all()  # wider than high: the first row is padding


def evaluated(best, epoch, value, loss, model):
    class State:
        pass

    state, control = State(), State()
    state.epoch, control.should_training_stop = float(epoch), False
    best.on_evaluate(None, state, control, {"eval_map": value, "eval_loss": loss}, model)
    return control.should_training_stop


def test_training_ends_when_neither_map_nor_loss_gets_better():
    model = torch.nn.Linear(1, 1)
    best = BestEpoch(patience=2, epochs=9)
    history = [(0, 5.0), (0, 4.0), (0, 3.0), (0.1, 6.0), (0.05, 1.0), (0.1, 6.0), (0.5, 1.0)]
    stops = []
    for epoch, (value, loss) in enumerate(history, start=1):
        with torch.no_grad():
            model.bias.fill_(epoch)
        stops.append(evaluated(best, epoch, value, loss, model))
        if stops[-1]:
            break
    assert stops == [False] * 5 + [True]
    assert best.epoch == 4 and best.weights["bias"].item() == 4


def test_the_best_epoch_is_the_one_kept(few, monkeypatch):
    """Three epochs whose validation mAP is made to fall: the test split is seen by the first one's head."""
    seen, values = [], iter((0.9, 0.5, 0.1, 0.3))

    def watched(model, rows, settings):
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return detect(model, rows, settings)

    monkeypatch.setattr("trainers.downstream.tasks.detection.detect", watched)
    monkeypatch.setattr("trainers.downstream.tasks.detection.score", lambda predictions, rows: {"map": next(values)})
    run = train_detector(tiny_encoder(), few, few.rows("train"), 0, replace(SMALL, epochs=3))
    assert run.metrics == {"map": 0.3, "validation_map": 0.9, "best_epoch": 1, "epochs": 3}
    assert len(seen) == 4
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, seen[0][name]) and torch.equal(seen[3][name], seen[0][name]), name
    assert not torch.equal(seen[2]["head.scales.0.output.bias"], seen[0]["head.scales.0.output.bias"])


def test_a_box_that_cannot_be_used_is_named(few):
    row = int(few.rows("train")[2])
    width, height = few.size(row)
    where = rf"planted: image {few.ids[row]} \({width} x {height} pixels\)"
    for box, why in (
        ([width - 5, 5, width + 5, 20], "is not inside"),
        ([-3, 5, 20, 20], "is not inside"),
        ([5, 5, float("nan"), 20], "is not inside"),
        ([5, 5, 5, 20], "has no area"),
        ([20, 5, 5, 20], "has no area"),
        ([width, 5, width + 0.5, 20], "has no area"),
    ):
        with pytest.raises(ValueError, match=f"{where}: box .* {why}"):
            train_detector(tiny_encoder(), with_boxes(few, row, box), few.rows("train"), 0, SMALL)
    with pytest.raises(ValueError, match=rf"{where} has 4 boxes, more than max_boxes 3"):
        checked_boxes(with_boxes(few, row, [[1, 1, 9, 9]] * 4), row, max_boxes=3)
    rounded = checked_boxes(with_boxes(few, row, [-0.5, 2, width + 0.9, 9]), row)
    np.testing.assert_array_equal(rounded, [[0, 2, width, 9]])


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_nothing_to_learn_from_or_to_find_is_said_before_training(few, split):
    rows = set(few.rows(split).tolist())
    empty = replace(few, boxes=lambda row: np.zeros((0, 4), np.float32) if row in rows else few.boxes(row))
    with pytest.raises(ValueError, match=f"none of the {len(rows)} images of the {split}.* has a box"):
        train_detector(tiny_encoder(), empty, few.rows("train"), 0, SMALL)


def test_what_else_cannot_be_used_is_named(few):
    row = int(few.rows("test")[1])
    wrong = replace(few, encoded=lambda one: few.encoded(one)[:60] if one == row else few.encoded(one))
    with pytest.raises(ValueError, match=f"image {few.ids[row]} cannot be decoded"):
        train_detector(tiny_encoder(), wrong, few.rows("train"), 0, SMALL)
    encoder = tiny_encoder()
    with pytest.raises(ValueError, match="encoder resnet does not tell its timm architecture"):
        train_detector(replace(encoder, architecture=None), few, few.rows("train"), 0, SMALL)
    with torch.no_grad():
        encoder.model.bn1.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match=f"maps that are not finite on image {few.ids[0]}"):
        train_detector(encoder, few, few.rows("train"), 0, SMALL)
    with torch.no_grad():
        encoder.model.bn1.weight.zero_()
        encoder.model.bn1.bias.zero_()
    with pytest.raises(ValueError, match="maps are zero on all of the 16 training images"):
        train_detector(encoder, few, few.rows("train"), 0, SMALL)
    with pytest.raises(ValueError, match="the detector's loss is .* lower learning_rate 1e\\+20"):
        train_detector(tiny_encoder(), few, few.rows("train"), 0, replace(SMALL, learning_rate=1e20))
    for setting, value in (("batch_size", 0), ("score_threshold", 1.5), ("device", "tpu"), ("preset", "paper")):
        with pytest.raises(ValueError, match=f"{setting} .*{value}"):
            new_detector(tiny_encoder(), 0, replace(SMALL, **{setting: value}))
