"""Mean average precision against cases worked out by hand and against pycocotools itself."""

from pathlib import Path

import evaluate
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import hub_medsyn.metrics.mean_average_precision as module
from hub_medsyn.metrics.mean_average_precision import IOU_THRESHOLDS, MeanAveragePrecision, mean_average_precision

SQUARE = [0, 0, 10, 10]
NOTHING = {"boxes": [], "scores": []}


def found(*boxes, scores=None):
    return {"boxes": list(boxes), "scores": scores or [0.9] * len(boxes)}


def true(*boxes):
    return {"boxes": list(boxes)}


def test_a_detector_that_says_nothing_gets_0():
    scores = mean_average_precision([NOTHING, NOTHING], [true(SQUARE), true()])
    assert scores == {
        "map": 0.0, "map_50": 0.0, "map_75": 0.0, "map_official": 0.0, "images": 2.0, "images_official": 0.0
    }  # fmt: skip


def test_a_perfect_detector_gets_1():
    scores = mean_average_precision([found(SQUARE), NOTHING], [true(SQUARE), true()])
    assert scores["map"] == scores["map_official"] == scores["map_75"] == 1
    assert (scores["images"], scores["images_official"]) == (2, 1)


def test_missed_and_empty_images_count_unless_official():
    """One box found, one missed, and before both a false one on an empty image.

    Precision is 1/2 where recall is at most 1/2, at 51 of the 101 points, and 0 beyond.
    """
    predictions = [found(SQUARE, scores=[0.8]), NOTHING, found([5, 5, 9, 9], scores=[0.9])]
    scores = mean_average_precision(predictions, [true(SQUARE), true(SQUARE), true()])
    np.testing.assert_allclose(scores["map"], 51 / 101 / 2, rtol=1e-6)
    assert scores["map_official"] == 1
    assert (scores["images"], scores["images_official"]) == (3, 1)
    no_empty = mean_average_precision(predictions[:2], [true(SQUARE), true(SQUARE)])
    np.testing.assert_allclose(no_empty["map"], 51 / 101, rtol=1e-6)


@pytest.mark.parametrize(("overlap", "passed"), [(0.39, 0), (0.41, 1), (0.62, 5), (0.74, 7), (0.76, 8)])
def test_the_mean_is_over_eight_thresholds(overlap, passed):
    """A box of share `overlap` of the true one, inside it, has that IoU."""
    scores = mean_average_precision([found([0, 0, 10, 10 * overlap])], [true(SQUARE)])
    np.testing.assert_allclose(scores["map"], passed / 8, rtol=1e-6)
    assert scores["map_50"] == (overlap >= 0.5) and scores["map_75"] == (overlap >= 0.75)


def random_case(images=40):
    rng = np.random.default_rng(0)
    predictions, references = [], []
    for _ in range(images):
        corner = rng.random((rng.integers(0, 4), 2)) * 200
        boxes = np.concatenate([corner, corner + 20 + rng.random(corner.shape) * 60], 1)
        moved = np.sort((boxes + rng.normal(0, 5, boxes.shape)).reshape(-1, 2, 2), 1).reshape(-1, 4)
        wrong = rng.random((rng.integers(0, 3), 4)) * 20 + [0, 0, 50, 50]
        answer = np.concatenate([moved[rng.random(len(moved)) < 0.8], wrong])
        predictions.append({"boxes": answer, "scores": rng.random(len(answer))})
        references.append({"boxes": boxes})
    return predictions, references


def coco_map(predictions, references) -> float:
    def sized(boxes):
        return [[x0, y0, x1 - x0, y1 - y0] for x0, y0, x1, y1 in np.asarray(boxes).reshape(-1, 4).tolist()]

    annotations = [
        {"image_id": image, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for image, reference in enumerate(references)
        for box in sized(reference["boxes"])
    ]
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": image} for image in range(len(references))],
        "categories": [{"id": 1}],
        "annotations": [one | {"id": number + 1} for number, one in enumerate(annotations)],
    }
    coco.createIndex()
    results = [
        {"image_id": image, "category_id": 1, "bbox": box, "score": score}
        for image, prediction in enumerate(predictions)
        for box, score in zip(sized(prediction["boxes"]), prediction["scores"], strict=True)
    ]
    evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
    evaluation.params.iouThrs = np.array(IOU_THRESHOLDS)
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, 0, 0, 2]  # thresholds, recalls; all areas, 100 detections
    return float(precision.mean())


def test_equals_pycocotools():
    predictions, references = random_case()
    scores = mean_average_precision(predictions, references)
    np.testing.assert_allclose(scores["map"], coco_map(predictions, references), rtol=1e-6)
    both = [
        image
        for image in range(len(references))
        if len(predictions[image]["boxes"]) and len(references[image]["boxes"])
    ]
    assert 10 < len(both) < 40
    official = coco_map([predictions[image] for image in both], [references[image] for image in both])
    np.testing.assert_allclose(scores["map_official"], official, rtol=1e-6)
    assert scores["map_official"] > scores["map"]
    shuffled = np.random.default_rng(1).permutation(len(references))
    again = mean_average_precision([predictions[i] for i in shuffled], [references[i] for i in shuffled])
    np.testing.assert_allclose(again["map"], scores["map"], rtol=1e-6)


def test_is_an_evaluate_module_by_path_and_by_import(tmp_path):
    predictions, references = random_case(12)
    expected = mean_average_precision(predictions, references)
    by_path = evaluate.load(str(Path(module.__file__)), cache_dir=str(tmp_path))
    assert by_path.compute(predictions=predictions, references=references) == pytest.approx(expected, rel=1e-5)
    imported = MeanAveragePrecision(cache_dir=str(tmp_path))
    for start in (0, 6):
        imported.add_batch(predictions=predictions[start : start + 6], references=references[start : start + 6])
    assert imported.compute() == pytest.approx(expected, rel=1e-5)
    assert "0.40 to 0.75" in imported.description


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="none of the 2 images has a box"):
        mean_average_precision([found(SQUARE), NOTHING], [true(), true()])
    with pytest.raises(ValueError, match="1 predictions for 2 references"):
        mean_average_precision([NOTHING], [true(SQUARE), true()])
    with pytest.raises(ValueError, match=r"prediction 1: \[10.0, 0.0, 0.0, 10.0\] are not corners"):
        mean_average_precision([NOTHING, found([10, 0, 0, 10])], [true(SQUARE), true()])
    with pytest.raises(ValueError, match=r"reference 0: boxes of shape \(1, 3\)"):
        mean_average_precision([NOTHING], [true([1, 2, 3])])
    with pytest.raises(ValueError, match="prediction 0: 1 boxes need as many finite scores, not 2"):
        mean_average_precision([found(SQUARE, scores=[0.1, 0.2])], [true(SQUARE)])
    with pytest.raises(ValueError, match="prediction 0: 1 boxes need as many finite scores"):
        mean_average_precision([found(SQUARE, scores=[float("nan")])], [true(SQUARE)])
