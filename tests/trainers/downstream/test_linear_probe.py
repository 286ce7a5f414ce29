import json
import time
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from hub_medsyn.metrics.macro_auroc import bootstrap_macro_auroc, confidence_interval, macro_auroc
from tests.trainers.downstream.image_tables import write_csv, write_dataset
from trainers.downstream.linear_probe import main
from trainers.downstream.results.probe import ProbeRun, result_rows
from trainers.downstream.tasks.logistic_head import PENALTIES, fit_head


def separable(n, seed, labels=2, features=20, noise=1.0):
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(n, features)).astype(np.float32)
    return table * 3 + 5, (table[:, :labels] + noise * rng.normal(size=(n, labels)) > 0.5).astype(float)


def test_the_head_equals_scikit_learns_optimum_on_standardised_features():
    features, targets = separable(300, 0)
    validation, validation_targets = separable(100, 1)
    head = fit_head(features, targets, validation, validation_targets, penalties=(1e-3, 1e-1))
    standard = (features - features.mean(0)) / features.std(0)
    for label in range(2):
        reference = LogisticRegression(C=head.penalty, tol=1e-8, max_iter=5000).fit(standard, targets[:, label])
        expected = reference.decision_function((validation - features.mean(0)) / features.std(0))
        np.testing.assert_allclose(head(validation)[:, label], expected, atol=5e-3)


def test_the_penalty_is_selected_on_the_validation_split():
    features, targets = separable(60, 0, features=50, noise=3.0)
    validation, validation_targets = separable(400, 1, features=50, noise=3.0)
    chosen = fit_head(features, targets, validation, validation_targets)
    by_penalty = {
        penalty: macro_auroc(
            validation_targets, fit_head(features, targets, validation, validation_targets, (penalty,))(validation)
        ).value
        for penalty in (1e-4, 1e-2, 1.0)
    }
    assert len(set(by_penalty.values())) == 3
    assert macro_auroc(validation_targets, chosen(validation)).value >= max(by_penalty.values()) - 1e-3


def test_masked_rows_and_labels_without_cases_are_excluded():
    features, targets = separable(200, 0, labels=3)
    validation, validation_targets = separable(100, 1, labels=3)
    spoiled = features.copy()
    spoiled[:50, 0] = np.random.default_rng(5).permutation(spoiled[:50, 0])  # the rows masked for label 0
    masked = targets.copy()
    masked[:50, 0] = np.nan
    masked[:, 2] = 0
    head = fit_head(spoiled, masked, validation, validation_targets, (1e-1,))
    standard = (spoiled - spoiled.mean(0)) / spoiled.std(0)
    reference = LogisticRegression(C=0.1, tol=1e-8, max_iter=5000).fit(standard[50:], targets[50:, 0])
    np.testing.assert_allclose(head.weight[:, 0], reference.coef_[0], atol=2e-3)
    assert head.constant == (2,)
    assert macro_auroc(validation_targets, head(validation), ["a", "b", "c"]).per_label["c"] == 0.5


def test_fits_at_real_width_are_quick():
    """Compares CPU time with plain fits of the same labels on raw features, in the same run."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(60, 1280))
    hidden = rng.normal(size=(1500, 60))
    features = (hidden @ mixing + 3 * rng.normal(size=(1500, 1280))).astype(np.float32)
    targets = (hidden @ rng.normal(size=(60, 3)) > 9).astype(float)
    start = time.process_time()
    fit_head(features[:1350], targets[:1350], features[1350:], targets[1350:])
    ours = time.process_time() - start
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for truth in targets[:1350].T:
            for penalty in PENALTIES:
                LogisticRegression(C=penalty, max_iter=300).fit(features[:1350], truth)
    plain = time.process_time() - start
    assert ours < plain / 2  # about a fifth on an idle machine


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    """Runs the command twice on the same images, as a CSV and as a dataset."""
    folder = tmp_path_factory.mktemp("probe")
    encoders = ["--encoder", "a=random:test_resnet", "--encoder", "b=random:test_vit2"]
    settings = ["--budget", "20", "100", "--seeds", "2", "--image-size", "32", "--resamples", "50"]
    csv = write_csv(folder / "images")
    assert main([*encoders, *settings, "--dataset", str(csv), "--out", str(folder / "csv")]) == 0
    dataset = write_dataset(folder / "dataset", uncertain=2)
    assert main([*encoders, *settings, "--dataset", str(dataset), "--out", str(folder / "from-dataset")]) == 0
    return folder


@pytest.mark.parametrize("out", ["csv", "from-dataset"])
def test_the_command_writes_tidy_rows_a_table_and_json(probed, out):
    rows = pd.read_csv(probed / out / "results.csv")
    columns = "task dataset split_hash encoder budget seed metric value ci_low ci_high n".split()
    assert set(columns) <= set(rows.columns)
    assert set(rows["encoder"]) == {"a", "b"} and set(rows["budget"]) == {20, 100}
    overall = rows[rows["metric"] == "macro_auroc"]
    assert sorted(overall[overall["encoder"] == "a"]["seed"]) == ["0", "0", "1", "mean", "mean"]
    assert ((overall["ci_low"] <= overall["value"]) & (overall["value"] <= overall["ci_high"])).all()
    full = overall[(overall["budget"] == 100) & (overall["encoder"] == "a")]
    assert full["value"].nunique() == 1 and (rows["n"] == 30).all()
    assert full["value"].iloc[0] > 0.8  # random filters suffice to see the squares
    difference = rows[(rows["metric"] == "macro_auroc_difference") & (rows["budget"] == 100)].iloc[0]
    means = overall[(overall["seed"] == "mean") & (overall["budget"] == 100)].set_index("encoder")["value"]
    assert difference["encoder"] == "b" and difference["value"] == pytest.approx(means["a"] - means["b"], abs=1e-5)
    saved = json.loads((probed / out / "results.json").read_text())
    assert len(saved["rows"]) == len(rows) and saved["settings"]["images"]["test"] == 30
    table = (probed / out / "results.md").read_text()
    assert "| a | " in table and "*a minus b*" in table and "30 test images" in table


def test_a_second_run_reads_the_cache_and_repeats_every_number(probed, capsys):
    before = (probed / "csv" / "results.csv").read_text()
    saved = json.loads((probed / "csv" / "results.json").read_text())["settings"]
    stamps = {path: path.stat().st_mtime_ns for path in (probed / "csv" / "features").iterdir()}
    arguments = ["--dataset", saved["dataset"], "--out", saved["out"], "--image-size", "32", "--resamples", "50"]
    arguments += ["--encoder", "a=random:test_resnet", "--encoder", "b=random:test_vit2", "--seeds", "2"]
    assert main([*arguments, "--budget", "20", "100"]) == 0
    assert (probed / "csv" / "results.csv").read_text() == before
    assert {path: path.stat().st_mtime_ns for path in (probed / "csv" / "features").iterdir()} == stamps
    assert "*a minus b*" in capsys.readouterr().out


def test_differences_are_paired(probed):
    from trainers.downstream.images.labelled_images import images_from_csv

    images = images_from_csv(probed / "images" / "images.csv")
    test = images.rows("test")
    rng = np.random.default_rng(0)
    scores = images.targets[test] + rng.normal(size=(len(test), 2))
    close = scores + 0.01 * rng.normal(size=scores.shape)
    runs = [ProbeRun(name, "", 100, 0, values, 60, 1.0, ()) for name, values in (("a", scores), ("b", close))]
    row = next(row for row in result_rows(images, runs) if row["metric"] == "macro_auroc_difference")
    single = confidence_interval(bootstrap_macro_auroc(images.targets[test], scores, images.patients[test]))
    assert row["ci_high"] - row["ci_low"] < 0.3 * (single[1] - single[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--encoder", "no_such_net"], "encoder 'no_such_net' is neither"),
        (["--encoder", "random:test_resnet", "--labels", "Hernia"], "no label 'Hernia'"),
        (["--encoder", "random:test_resnet", "--patient-column", "who"], "no column 'who'"),
    ],
)
def test_failures_are_one_sentence_and_exit_1(probed, tmp_path, capsys, arguments, message):
    csv = str(probed / "images" / "images.csv")
    assert main([*arguments, "--dataset", csv, "--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("medsyn probe: ") and message in error


@pytest.mark.parametrize(
    "arguments",
    [
        ["--encoder", "a=x", "--encoder", "a=y"],
        ["--encoder", "x", "--budget", "0"],
        ["--encoder", "x", "--seeds", "0"],
        [],
    ],
)
def test_bad_usage_exits_2(arguments):
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--dataset", "images.csv"])
    assert stop.value.code == 2


@pytest.mark.parametrize(
    ("dataset", "option", "message"),
    [
        ("images.csv", ["--config", "phantom"], "--config: only for a dataset, and images.csv is a CSV"),
        ("images.csv", ["--uncertain", "mask"], "--uncertain: only for a dataset"),
        ("medsyn-cxr", ["--file-column", "file"], "--file-column: only for a CSV, and medsyn-cxr is a dataset"),
        ("medsyn-cxr", ["--labels-column", "l", "--skip-missing"], "--labels-column, --skip-missing: only for a CSV"),
        ("medsyn-cxr", ["--split-column", "fold"], "--split-column: only for a CSV"),
    ],
)
def test_an_option_that_does_not_apply_is_refused(dataset, option, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--encoder", "random:test_resnet", "--dataset", dataset, *option])
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_missing_images_are_counted_in_the_table(probed, tmp_path, capsys):
    csv = write_csv(tmp_path / "images")
    (tmp_path / "images" / "images" / "train003.png").unlink()
    arguments = ["--encoder", "random:test_resnet", "--dataset", str(csv), "--out", str(tmp_path), "--budget", "100"]
    assert main(arguments) == 1
    assert main([*arguments, "--skip-missing", "--image-size", "32"]) == 0
    assert "skipped 1 missing images: images/train003.png" in capsys.readouterr().out
