from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from hub_medsyn.metrics.macro_auroc import macro_auroc, patient_draws
from tests.trainers.downstream.image_tables import write_csv
from trainers.downstream.images.labelled_images import images_from_csv
from trainers.downstream.results.paper_tables import cells, latex_table, main, markdown_table
from trainers.downstream.results.probe import ProbeRun, result_rows
from trainers.downstream.results.rows import (
    MeasuredRun,
    compared_with,
    measured_rows,
    paired_p_value,
    results_frame,
    results_table,
    weighted_means,
    write_results,
)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return images_from_csv(write_csv(tmp_path_factory.mktemp("images")))


def runs_of(images, shift, metric="dice_per_image", budgets=(10, 100)):
    """Returns two seeds of encoders `a` and `b`, the latter worse by `shift` on every test image, up to noise."""
    rng = np.random.default_rng(0)
    test = images.rows("test")
    draws = patient_draws(images.patients[test], 200, 0)
    hard = rng.uniform(0.3, 0.9, len(test))
    runs = []
    for encoder, worse in (("a", 0), ("b", shift)):
        for budget in budgets:
            for seed in (0, 1):
                dice = hard - worse + rng.normal(0, 0.02, len(test))
                metrics = {metric: dice.mean(), "dice_dataset": 0.5}
                samples = {metric: weighted_means(dice, draws)}
                runs.append(MeasuredRun(encoder, encoder * 3, budget, seed, 6, metrics, samples))
    return runs


def test_rows_of_any_metric_are_tidy_and_paired(images):
    runs = runs_of(images, 0.05)
    table = pd.DataFrame(measured_rows(images, "segmentation", runs))
    assert not table.duplicated(["encoder", "budget", "seed", "metric"]).any()
    mean = table[(table["seed"] == "mean") & (table["budget"] == 10)].set_index(["metric", "encoder"])
    values = [run.metrics["dice_per_image"] for run in runs if run.encoder == "a" and run.budget == 10]
    assert mean["value"]["dice_per_image", "a"] == pytest.approx(np.mean(values), abs=1e-15)
    assert mean["value"]["dice_per_image_spread", "a"] == pytest.approx(np.std(values, ddof=1), abs=1e-15)
    difference = mean.loc["dice_per_image_difference", "b"]
    whole = mean["value"]["dice_per_image", "a"] - mean["value"]["dice_per_image", "b"]
    assert difference["value"] == whole and difference["p_value"] == pytest.approx(2 / 201)  # never 0
    width = mean["ci_high"]["dice_per_image", "a"] - mean["ci_low"]["dice_per_image", "a"]
    assert difference["ci_high"] - difference["ci_low"] < 0.5 * width  # hard images are hard for both
    assert mean.loc["dice_dataset", "a"][["ci_low", "ci_high"]].isna().all()  # no resamples, no interval
    assert pd.isna(mean.loc["dice_dataset_difference", "b"]["p_value"])
    assert "Dice per image on the 30 test images of images" in results_table(measured_rows(images, "s", runs))


def test_p_values_are_uniform_under_the_null_and_small_for_a_difference():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(300):
        one = rng.normal(size=80)
        draws = patient_draws(np.arange(80), 200, int(rng.integers(1e6)))
        found.append(paired_p_value(weighted_means(one, draws)))
    assert 0.01 < np.mean(np.array(found) < 0.05) < 0.1 and 0.4 < np.mean(found) < 0.6
    assert paired_p_value(np.zeros(100)) == 1 and paired_p_value(-np.ones(99)) == pytest.approx(0.02)
    assert paired_p_value(np.array([np.nan, 1, 1, 1])) == pytest.approx(0.5)


def test_resamples_draw_whole_patients():
    patients = np.array(["a", "a", "b", "c"])
    draws = patient_draws(patients, 50, 0)
    assert (draws[:, 0] == draws[:, 1]).all() and set(draws[:, [0, 2, 3]].sum(axis=1)) == {3}
    values = np.array([1.0, 2.0, 3.0, 4.0])
    for draw, mean in zip(draws, weighted_means(values, draws), strict=True):
        assert mean == pytest.approx(np.repeat(values, draw.astype(int)).mean())


def test_changes_in_the_papers_layout_use_unrounded_values(images, tmp_path, capsys):
    rows = measured_rows(images, "segmentation", runs_of(images, 0.0012, budgets=(100,)))
    write_results(tmp_path / "one", rows, "", {})
    others = [row | {"dataset": "other_set"} for row in measured_rows(images, "segmentation", runs_of(images, 0.2))]
    write_results(tmp_path / "two", others, "", {})
    assert main([str(tmp_path / "one"), str(tmp_path / "two"), "--out", str(tmp_path / "tables")]) == 0
    output = capsys.readouterr().out
    assert output.startswith("| encoder | images (Dice) 100 % | other_set (Dice) 10 % | other_set (Dice) 100 % |")
    assert "the change from a, from unrounded values" in output
    frame = pd.concat([pd.read_parquet(tmp_path / name / "results.parquet") for name in ("one", "two")])
    table, references = cells(frame, "segmentation")
    dice = "dice_per_image"
    assert references == {"b": "a"}
    for column in (("images", dice, 100.0), ("other_set", dice, 10.0), ("other_set", dice, 100.0)):
        value, change = table[(*column, "value")], table[(*column, "change")]
        assert change["b"] == pytest.approx(value["b"] - value["a"], abs=1e-15) and np.isnan(change["a"])
    assert table["images", dice, 100.0, "clear"]["b"] in (0, 1)
    assert table["other_set", dice, 10.0, "clear"]["b"] == 1
    worse = 100 * table["other_set", dice, 10.0, "change"]["b"]
    assert f"{100 * table['other_set', dice, 10.0, 'value']['b']:.1f} ↓{-worse:.1f}*" in output
    latex = (tmp_path / "tables" / "tables.tex").read_text()
    assert latex == latex_table(frame, "segmentation") + "\n" and markdown_table(frame, "segmentation") in output
    assert r" & \multicolumn{1}{c}{images (Dice)} & \multicolumn{2}{c}{other\_set (Dice)} \\" in latex
    assert rf"$\downarrow${-worse:.1f}* " in latex and latex.count("&") == 4 * 3 - 1  # four lines, two data set spans
    assert main([str(tmp_path / "one"), str(tmp_path / "one"), "--out", str(tmp_path / "x")]) == 1
    assert "appears twice" in capsys.readouterr().err


def runs_named(images, metric, values):
    """Returns one run per encoder, with the same `metric` in every resample."""
    n = len(patient_draws(images.patients[images.rows("test")], 9, 0))
    return [
        MeasuredRun(name, "w", 100, 0, 6, {metric: value}, {metric: np.full(n, value)})
        for name, value in values.items()
    ]


def test_variants_are_compared_with_their_method_and_each_data_set_has_its_metric(images):
    names = ["Random", "GLoRIA", "GLoRIA(SD)", "MGCA (phantom)", "MGCA", "x(y)"]
    assert [compared_with(name, names) for name in names] == [None, "Random", "GLoRIA", "MGCA", "Random", "Random"]
    values = {"Random": 0.5, "GLoRIA": 0.8, "GLoRIA(SD)": 0.7}
    rows = measured_rows(images, "classification", runs_named(images, "macro_auroc", values))
    exclusive = runs_named(images, "accuracy", {name: value - 0.1 for name, value in values.items()})
    for run in exclusive:
        run.metrics["macro_auroc"] = 0.99
    rows += [row | {"dataset": "covidx"} for row in measured_rows(images, "classification", exclusive)]
    output = markdown_table(pd.DataFrame(rows), "classification")
    assert output.startswith(
        "| encoder | images (AUC) 100 % | covidx (ACC) 100 % |"
    )  # one table, as the paper's first
    assert (
        "| GLoRIA(SD) | 70.0 ↓10.0* | 60.0 ↓10.0* |" in output and "| GLoRIA | 80.0 ↑30.0* | 70.0 ↑30.0* |" in output
    )
    assert "the change from Random of GLoRIA; from GLoRIA of GLoRIA(SD), from unrounded" in output
    table = results_table([row for row in rows if row["dataset"] == "images"])
    assert "| *GLoRIA minus GLoRIA(SD)* | +.100 [+.100, +.100] |" in table


def test_incompatible_runs_in_one_table_are_refused(images):
    one = pd.DataFrame(
        measured_rows(images, "segmentation", runs_named(images, "dice_per_image", {"a": 0.5, "b": 0.4}))
    )
    two = pd.DataFrame(
        measured_rows(images, "segmentation", runs_named(images, "dice_per_image", {"c": 0.5, "b": 0.4}))
    )
    with pytest.raises(ValueError, match="images has results on the splits .*, 123: results on different test splits"):
        markdown_table(pd.concat([one, two.assign(split_hash="123")]), "segmentation")
    with pytest.raises(ValueError, match="b is compared with a in one run and with c in another"):
        markdown_table(pd.concat([one, two.assign(dataset="other")]), "segmentation")
    alone = pd.DataFrame(measured_rows(images, "segmentation", runs_named(images, "dice_per_image", {"a": 0.5})))
    assert "Arrows" not in markdown_table(alone, "segmentation")


def test_rounding_neither_hides_nor_invents_small_changes():
    base = {"task": "t", "dataset": "d", "split_hash": "h", "budget": 1.0, "seed": "mean"}
    rows = [base | {"encoder": "a", "metric": "accuracy", "value": 0.88049}]
    rows += [base | {"encoder": "b", "metric": "accuracy", "value": 0.89951}]
    rows += [base | {"encoder": "b", "metric": "accuracy_difference", "value": 0.88049 - 0.89951,
                     "ci_low": -0.1, "ci_high": 0.1, "reference": "a"}]  # fmt: skip
    assert "| b | 90.0 ↑1.9 |" in markdown_table(pd.DataFrame(rows), "t")  # of 88.0 and 90.0
    rows[1]["value"], rows[2]["value"] = 0.88089, -0.0004
    assert "| b | 88.1 ±0.0 |" in markdown_table(pd.DataFrame(rows), "t")


def test_parquet_holds_all_digits_and_csv_six(images, tmp_path):
    rows = measured_rows(images, "segmentation", runs_of(images, 0.1))
    write_results(tmp_path, rows, "table", {"a": 1})
    assert (tmp_path / "results.md").read_text() == "table\n"
    exact, short = pd.read_parquet(tmp_path / "results.parquet"), pd.read_csv(tmp_path / "results.csv")
    assert exact["value"].tolist() == [row["value"] for row in rows]
    np.testing.assert_allclose(short["value"], exact["value"], rtol=1e-5)
    assert list(exact.columns) == list(short.columns) and set(exact["seed"]) == {"0", "1", "mean"}


def probes_of(images, unlearnt):
    """Two encoders, budgets and seeds; `unlearnt` maps (budget, seed) to what the sample could not teach."""
    rng = np.random.default_rng(0)
    test = images.rows("test")
    runs = []
    for encoder in ("a", "b"):
        for budget in (1, 100):
            for seed in (0, 1):
                scores = images.targets[test] + rng.normal(0, 0.8, (len(test), len(images.labels)))
                constant = unlearnt.get((budget, seed), ())
                scores[:, [images.labels.index(label) for label in constant]] = 0
                runs.append(ProbeRun(encoder, encoder * 3, budget, seed, scores, 6, None, constant))
    return runs


def test_a_label_that_a_sample_could_not_teach_is_in_no_mean_and_its_cells_are_marked(images):
    runs = probes_of(images, {(1, 1): ("Edema",)})
    rows = result_rows(images, runs, resamples=50)
    test = images.rows("test")
    column = images.labels.index("Cardiomegaly")
    for row in rows:
        if row["metric"] == "macro_auroc" and row["seed"] != "mean":
            (run,) = [r for r in runs if (r.encoder, r.budget, r.seed) == (row["encoder"], row["budget"], row["seed"])]
            alone = macro_auroc(images.targets[test][:, [column]], run.scores[:, [column]]).value
            assert row["value"] == pytest.approx(alone, abs=1e-12)
        assert not (row["metric"] == "auroc:Edema" and (row["budget"], row["seed"]) == (1, 1))
    table = results_table(rows)
    assert table.count("†") == 3 and "† A sample could not teach Edema: left out of every mean." in table
    assert "over 1 labels (Cardiomegaly)" in table
    for line in table.splitlines()[2:4]:
        cells_of = line.split("|")
        assert "†" in cells_of[2] and "†" not in cells_of[3]
    frame = results_frame(rows)
    assert "Edema of images" in markdown_table(frame, "classification")
    assert (
        markdown_table(frame, "classification").count("†") == 3
        and latex_table(frame, "classification").count("\\dag") == 3
    )


def test_a_sample_that_teaches_nothing_has_no_number_and_no_interval(images):
    labels = tuple(images.labels)
    runs = probes_of(images, {(1, 0): labels, (1, 1): labels})
    table = results_table(result_rows(images, runs, resamples=50))
    assert "| a | n/a" in table and "| *a minus b* | n/a" in table and ".500 [.500, .500]" not in table
    assert "over 2 labels" in table  # of the other budget
    flat = [replace(run, scores=np.zeros_like(run.scores)) for run in probes_of(images, {})]
    table = results_table(result_rows(images, flat, resamples=50))
    assert "| a | .500 ± .000 | .500 ± .000 |" in table and "[" not in table.splitlines()[2]


def test_results_without_such_labels_are_as_before(images):
    rows = result_rows(images, probes_of(images, {}), resamples=50)
    assert not [row for row in rows if row["metric"].startswith("left_out:")]
    assert "†" not in results_table(rows) + markdown_table(results_frame(rows), "classification")
