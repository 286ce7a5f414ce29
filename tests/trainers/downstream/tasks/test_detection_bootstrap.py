import numpy as np
import pytest

from hub_medsyn.metrics.macro_auroc import patient_draws
from hub_medsyn.metrics.mean_average_precision import IOU_THRESHOLDS, mean_average_precision
from trainers.downstream.tasks.detection_bootstrap import Matches, match, overlaps, resampled_map


def scenes(images=40, seed=0):
    """Boxes with predictions that are near them, doubled, missing or made up; some scores tie."""
    rng = np.random.default_rng(seed)
    predictions, references = [], []
    for _ in range(images):
        start = rng.uniform(0, 150, (rng.integers(0, 4), 2))
        true = np.hstack([start, start + rng.uniform(20, 60, start.shape)]).astype(np.float32)
        near = np.repeat(true, rng.integers(0, 3, len(true)), axis=0)
        near = near + rng.normal(0, 4, near.shape)
        start = rng.uniform(0, 150, (rng.integers(0, 3), 2))
        boxes = np.vstack([near, np.hstack([start, start + 30])]).astype(np.float32)
        predictions.append((boxes, rng.random(len(boxes)).round(2).astype(np.float32)))
        references.append(true)
    return predictions, references


def reference_map(predictions, references, images):
    found = [{"boxes": predictions[image][0], "scores": predictions[image][1]} for image in images]
    return mean_average_precision(found, [{"boxes": references[image]} for image in images])["map"]


@pytest.mark.parametrize("seed", range(4))
def test_the_plain_value_is_pycocotools(seed):
    predictions, references = scenes(seed=seed)
    value = resampled_map(match(predictions, references, IOU_THRESHOLDS), np.ones((1, 40)))[0]
    assert value == pytest.approx(reference_map(predictions, references, range(40)), abs=1e-6)
    assert 0.05 < value < 0.95


def test_a_resample_is_the_set_with_repeated_images():
    predictions, references = scenes()
    patients = np.arange(40) // 2
    draws = patient_draws(patients, 5, seed=1)
    values = resampled_map(match(predictions, references, IOU_THRESHOLDS), draws)
    for draw, value in zip(draws, values, strict=True):
        images = np.repeat(np.arange(40), draw.astype(int))
        assert value == pytest.approx(reference_map(predictions, references, images), abs=2e-3)  # ties may fall apart
    assert len(set(values)) == 5


def test_more_than_a_hundred_boxes_are_cut_as_in_the_metric():
    rng = np.random.default_rng(0)
    start = rng.uniform(0, 100, (130, 2))
    boxes = np.hstack([start, start + 40]).astype(np.float32)
    predictions, references = [(boxes, rng.random(130).astype(np.float32))], [boxes[:120] + 1]
    value = resampled_map(match(predictions, references, IOU_THRESHOLDS), np.ones((1, 1)))[0]
    assert value == pytest.approx(reference_map(predictions, references, [0]), abs=1e-6)


def test_without_predictions_it_is_0_and_without_boxes_there_is_none():
    nothing = (np.zeros((0, 4)), np.zeros(0))
    box = np.array([[0, 0, 10, 10]], dtype=np.float32)
    matches = match([nothing, nothing], [box, np.zeros((0, 4))], IOU_THRESHOLDS)
    values = resampled_map(matches, np.array([[1, 1], [0, 2]]))
    assert values[0] == 0 and np.isnan(values[1])
    assert isinstance(matches, Matches) and matches.to_find.tolist() == [1, 0]


def test_overlaps():
    one = np.array([[0, 0, 10, 10], [20, 20, 20, 20]])
    np.testing.assert_allclose(overlaps(one, np.array([[5, 0, 15, 10], [0, 0, 10, 10]])), [[1 / 3, 1], [0, 0]])
