from pathlib import Path

import numpy as np
import pytest

import hub_medsyn.metrics
from hub_medsyn.metrics.chexpert_at_k import CheXpertAtK, chexpert_at_k, hits_at_k
from hub_medsyn.metrics.macro_auroc import MacroAUROCMetric, bootstrap_macro_auroc, confidence_interval, macro_auroc

FOLDER = Path(hub_medsyn.metrics.__file__).parent


def scores(seed=0):
    rng = np.random.default_rng(seed)
    targets = (rng.random((60, 3)) < 0.4).astype(float)
    targets[:5, 0] = np.nan
    targets[:, 2] = 0
    return targets, rng.normal(size=targets.shape) + np.nan_to_num(targets)


@pytest.fixture
def load(tmp_path):
    """`evaluate.load` by path."""
    import evaluate

    return lambda name: evaluate.load(str(FOLDER / f"{name}.py"), cache_dir=str(tmp_path))


def test_macro_auroc_loads_by_path_and_is_the_function(load):
    targets, values = scores()
    names, patients = ["Edema", "Mass", "Hernia"], np.arange(60) // 2
    expected = macro_auroc(targets, values, names)
    interval = confidence_interval(bootstrap_macro_auroc(targets, values, patients, 50, 3))
    for metric in (load("macro_auroc"), MacroAUROCMetric()):
        for start in (0, 30):
            metric.add_batch(predictions=values[start : start + 30], references=targets[start : start + 30])
        found = metric.compute(names=names, patients=patients, resamples=50, seed=3)
        assert found["macro_auroc"] == expected.value and found["auroc"] == expected.per_label
        assert found["left_out"] == {"Hernia": "no positives"}
        assert (found["ci_low"], found["ci_high"]) == interval


def test_chexpert_at_k_loads_by_path_and_is_the_function(load):
    rng = np.random.default_rng(0)
    classes = np.arange(50) % 5
    similarities = rng.normal(size=(50, 50)) + (classes[:, None] == classes[None])
    names = ["Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion"]
    expected = chexpert_at_k(similarities, classes, k=(1, 5), names=names)
    for metric in (load("chexpert_at_k"), CheXpertAtK()):
        metric.add_batch(predictions=similarities, references=classes)
        assert metric.compute(k=(1, 5), names=names) == expected
    assert expected["precision@1"] == expected["accuracy@1"] > 0.3
    by_class = [expected[f"precision@5:{name}"] for name in names]
    assert np.mean(by_class) == pytest.approx(expected["precision@5"])  # the classes are of one size


@pytest.mark.parametrize("name", ["dice", "mean_average_precision"])
def test_the_others_load_by_path(load, name):
    assert load(name).inputs_description


def test_precision_counts_the_nearest():
    similarities = np.array([[0.9, 0.8, 0.7, 0.1], [0.1, 0.2, 0.3, 0.4]])
    found = chexpert_at_k(similarities, [0, 1], candidate_classes=[0, 1, 0, 1], k=(1, 2, 3))
    assert found == {"precision@1": 1, "accuracy@1": 1, "precision@2": 0.5, "accuracy@2": 1,
                     "precision@3": pytest.approx((2 / 3 + 2 / 3) / 2), "accuracy@3": 1}  # fmt: skip


def test_ties_are_the_mean_over_their_orders():
    rng = np.random.default_rng(0)
    similarities = rng.integers(0, 3, (30, 8)).astype(float)
    right = rng.random((30, 8)) < 0.3
    for k in (1, 3, 6, 8):
        precision, accuracy = hits_at_k(similarities, right, k)
        drawn = []
        for _ in range(3000):
            order = np.argsort(-(similarities + 1e-3 * rng.random(similarities.shape)), axis=1)[:, :k]
            drawn.append(np.take_along_axis(right, order, axis=1))
        drawn = np.array(drawn)  # (draws, queries, k)
        np.testing.assert_allclose(precision, drawn.mean(axis=(0, 2)), atol=0.04)
        np.testing.assert_allclose(accuracy, drawn.any(axis=2).mean(axis=0), atol=0.04)
    assert chexpert_at_k(np.zeros((10, 10)), np.arange(10) % 5, k=(5,))["precision@5"] == pytest.approx(0.2)  # chance


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"similarities \(2, 3\) do not fit 2 queries and 2 candidates"):
        chexpert_at_k(np.zeros((2, 3)), [0, 1])
    with pytest.raises(ValueError, match="k 5 is not between 1 and the 2 candidates"):
        chexpert_at_k(np.zeros((2, 2)), [0, 1])
    with pytest.raises(ValueError, match="1 similarities are not finite"):
        chexpert_at_k(np.array([[np.nan, 0], [0, 0]]), [0, 1], k=(1,))
    with pytest.raises(ValueError, match="class 3 has none of 2 names"):
        chexpert_at_k(np.zeros((2, 2)), [0, 3], k=(1,), names=["a", "b"])


def test_metrics_load_by_name_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    metric = hub_medsyn.metrics.load("dice", cache_dir=str(tmp_path))
    assert metric.compute(predictions=[[[0, 1]]], references=[[[0, 1]]])["dice_per_image"] == 1
    with pytest.raises(ValueError, match="no metric 'dise'; choose one of chexpert_at_k, dice, macro_auroc, mean_ave"):
        hub_medsyn.metrics.load("dise")
