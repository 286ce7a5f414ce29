"""The report of the run on real radiographs: what was learnt from, what was probed, and the paired differences."""

import json

import numpy as np

from benchmarks.real_input import LABELS, encoders_of, parse, write_report
from tests.trainers.downstream.image_tables import write_csv
from trainers.downstream.images.labelled_images import images_from_csv
from trainers.downstream.results.probe import ProbeRun, result_rows, results_table, write_results


def test_the_report_compares_phantoms_with_each_arm_with_numbers_of_pairs_and_images(tmp_path):
    arms = ["phantom", "real", "imagenet", "random"]
    out = tmp_path / "out"
    argv = ["--arms", *arms, "--out", str(out), "--image-weights", "weights.pth", "--text-encoder", "bert"]
    history = [{"step": 222, "eval_loss": 2.5}, {"step": 444, "eval_loss": 3.25}]
    for name, pairs in (("convirt-phantom", 2309), ("convirt-real", 1234)):
        step = out / name / "checkpoint" / "checkpoint-444"
        step.mkdir(parents=True)
        (step / "batches.json").write_text(json.dumps({"rows": pairs}))
        (step.parent / "trainer_state.json").write_text(json.dumps({"global_step": 444, "log_history": history}))
    images = images_from_csv(write_csv(tmp_path / "images"))
    titles = list(encoders_of(parse(argv)).values())
    rng = np.random.default_rng(0)
    targets = images.targets[images.rows("test")]
    runs = [ProbeRun(title, "", 100, 0, targets + rng.normal(size=targets.shape), 60, 1.0, ()) for title in titles]
    rows = result_rows(images, runs, resamples=20)
    for name in LABELS:
        write_results(out / name, rows, results_table(rows), {"images": images.counts()})
    write_report(parse(argv), argv)
    said = (out / "real_input.md").read_text()
    for title in titles[1:]:
        assert said.count(f"| *{titles[0]} minus {title}* |") == len(LABELS)
    kept = "444 steps, kept that after 222 (validation loss 2.50; 3.25 at the end)\n"
    assert f"- ConVIRT on phantoms of the real reports: 2,309 pairs, {kept}" in said
    assert f"- ConVIRT on the real radiographs and reports: 1,234 pairs, {kept}" in said
    assert "- random weights" not in said and "Images probed: 60 train, 20 validation, 30 test." in said
