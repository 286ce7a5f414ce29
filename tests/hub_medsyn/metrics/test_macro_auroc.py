import time

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from hub_medsyn.metrics.macro_auroc import bootstrap_macro_auroc, confidence_interval, macro_auroc


def draw_images(n=200, labels=3, seed=0, patients=120):
    rng = np.random.default_rng(seed)
    targets = (rng.random((n, labels)) < 0.3).astype(float)
    scores = np.round(rng.normal(size=(n, labels)) + targets, 1)  # rounded: many ties
    return targets, scores, rng.integers(0, patients, n)


def test_equals_scikit_learn_with_ties_and_masked_targets():
    targets, scores, _ = draw_images()
    targets[::7, 1] = np.nan
    result = macro_auroc(targets, scores, ["a", "b", "c"])
    known = ~np.isnan(targets)
    expected = [roc_auc_score(targets[known[:, k], k], scores[known[:, k], k]) for k in range(3)]
    assert list(result.per_label.values()) == pytest.approx(expected, abs=1e-12)
    assert result.value == pytest.approx(np.mean(expected), abs=1e-12)
    assert result.left_out == {}


def test_labels_without_an_area_are_left_out_and_named():
    targets, scores, _ = draw_images()
    targets[:, 0], targets[:, 2] = 0, 1
    result = macro_auroc(targets, scores, ["Fracture", "Edema", "Support Devices"])
    assert result.left_out == {"Fracture": "no positives", "Support Devices": "no negatives"}
    assert result.value == result.per_label["Edema"] == pytest.approx(roc_auc_score(targets[:, 1], scores[:, 1]))
    with pytest.raises(ValueError, match="Fracture.*no AUROC"):
        macro_auroc(targets[:, :1], scores[:, :1], ["Fracture"])


@pytest.mark.parametrize(
    ("targets", "scores", "message"),
    [
        (np.array([[1.0], [-1.0]]), np.zeros((2, 1)), "target -1"),
        (np.array([[1.0], [0.0]]), np.array([[np.inf], [0.0]]), "1 scores are not finite"),
        (np.zeros((2, 1)), np.zeros((2, 2)), r"\(2, 1\).*\(2, 2\)"),
    ],
)
def test_bad_input_is_refused_with_the_value(targets, scores, message):
    with pytest.raises(ValueError, match=message):
        macro_auroc(targets, scores)


def test_each_resample_is_the_metric_of_the_repeated_rows():
    targets, scores, patients = draw_images(n=80, patients=30)
    samples = bootstrap_macro_auroc(targets, scores, patients, resamples=5, seed=3)
    names, index = np.unique(patients, return_inverse=True)
    draws = np.random.default_rng(3).multinomial(len(names), np.full(len(names), 1 / len(names)), size=5)
    for draw, sample in zip(draws, samples, strict=True):
        rows = np.repeat(np.arange(len(targets)), draw[index])
        assert sample == pytest.approx(macro_auroc(targets[rows], scores[rows]).value, abs=1e-12)


def test_images_of_one_patient_stay_together():
    targets, scores, _ = draw_images(n=60)
    once = bootstrap_macro_auroc(targets, scores, np.arange(60), resamples=400)
    doubled = bootstrap_macro_auroc(
        np.tile(targets, (4, 1)), np.tile(scores, (4, 1)), np.tile(np.arange(60), 4), resamples=400
    )
    apart = bootstrap_macro_auroc(np.tile(targets, (4, 1)), np.tile(scores, (4, 1)), np.arange(240), resamples=400)
    assert doubled == pytest.approx(once)  # four images of each patient carry no more information than one
    assert apart.std() < 0.7 * once.std()


def test_several_scores_are_averaged_on_the_same_resamples():
    targets, scores, patients = draw_images()
    other = scores + np.random.default_rng(9).normal(size=scores.shape)
    mean = bootstrap_macro_auroc(targets, [scores, other], patients, resamples=50)
    a = bootstrap_macro_auroc(targets, scores, patients, resamples=50)
    b = bootstrap_macro_auroc(targets, other, patients, resamples=50)
    assert mean == pytest.approx((a + b) / 2)
    assert (bootstrap_macro_auroc(targets, scores, patients, resamples=50, seed=1) != a).any()


def test_interval_covers_the_truth_about_as_often_as_it_says():
    covered = 0
    for trial in range(100):
        rng = np.random.default_rng(trial)
        targets = (rng.random((150, 1)) < 0.4).astype(float)
        scores = rng.normal(size=(150, 1)) + targets  # AUROC = Phi(1 / sqrt 2) = 0.7602
        low, high = confidence_interval(bootstrap_macro_auroc(targets, scores, np.arange(150), resamples=300))
        covered += low < 0.7602 < high
    assert 87 <= covered <= 100


def test_a_thousand_resamples_of_a_large_test_set_are_quick():
    targets, scores, patients = draw_images(n=700, labels=14, patients=600)
    start = time.process_time()
    bootstrap_macro_auroc(targets, scores, patients, resamples=1000)
    assert time.process_time() - start < 3


def test_a_resample_without_any_case_has_no_value_and_takes_no_part_in_the_interval():
    targets, scores = np.array([[1.0], [0.0], [0.0]]), np.array([[0.5], [0.9], [0.1]])
    samples = bootstrap_macro_auroc(targets, scores, np.arange(3), resamples=200)
    assert 0 < np.isnan(samples).mean() < 1  # no positive, or nothing else, about one time in three
    assert confidence_interval(samples) == (0, 1)
    assert set(samples[~np.isnan(samples)]) == {0, 0.5, 1}
