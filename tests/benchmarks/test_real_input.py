"""The report of the run on real films: what was learnt from, what was probed, and the paired differences."""

import json

import numpy as np

from benchmarks.real_input import ARMS, LABELS, parse, write_report
from tests.trainers.downstream.films import write_csv
from trainers.downstream.labelled_images import images_from_csv
from trainers.downstream.probe_results import ProbeRun, result_rows, results_table, write_results


def test_the_report_compares_phantoms_with_each_arm_and_tells_how_many_pairs_and_films(tmp_path):
    arms = ["phantom", "real", "imagenet", "random"]
    out = tmp_path / "out"
    argv = ["--arms", *arms, "--out", str(out), "--image-weights", "weights.pth", "--text-encoder", "bert"]
    for arm, pairs, history in (("phantom", 2309, [{"train_runtime": 897.9}]), ("real", 1234, [{"loss": 2.0}])):
        step = out / arm / "checkpoint" / "checkpoint-444"
        step.mkdir(parents=True)
        (step / "batches.json").write_text(json.dumps({"rows": pairs}))
        (step.parent / "trainer_state.json").write_text(json.dumps({"global_step": 444, "log_history": history}))
    images = images_from_csv(write_csv(tmp_path / "films"))
    rng = np.random.default_rng(0)
    targets = images.targets[images.rows("test")]
    runs = [ProbeRun(ARMS[arm], "", 100, 0, targets + rng.normal(size=targets.shape), 60, 1.0, ()) for arm in arms]
    rows = result_rows(images, runs, resamples=20)
    for name in LABELS:
        write_results(out / name, rows, results_table(rows), {"images": images.counts()})
    write_report(parse(argv), argv)
    said = (out / "real_input.md").read_text()
    for arm in arms[1:]:
        assert said.count(f"| *{ARMS['phantom']} less {ARMS[arm]}* |") == len(LABELS)
    assert f"- {ARMS['phantom']}: 2,309 pairs, 444 steps, 15 minutes since the last start\n" in said
    assert f"- {ARMS['real']}: 1,234 pairs, 444 steps, for a time not recorded\n" in said
    assert f"- {ARMS['random']}" not in said and "Films probed: 60 train, 20 validation, 30 test." in said
