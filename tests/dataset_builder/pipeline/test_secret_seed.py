"""Builds for publishing without text: secret seeds, keyed hashes, the order of rows, and what the command says."""

import json

import pytest
from datasets import Image, load_dataset

from dataset_builder import build as build_module
from dataset_builder.build import build, main
from dataset_builder.medsyn_cxr import MedSynCXR
from dataset_builder.pipeline import render as images
from dataset_builder.pipeline import shards as assemble
from dataset_builder.pipeline import workspace as folder
from dataset_builder.pipeline.executors import Rank
from dataset_builder.pipeline.plan import image_seed, make_plan
from dataset_builder.reports.record import ReportRecord
from hub_medsyn.policy.ids_only import ids_only_problems
from hub_medsyn.policy.report_hashes import report_hash
from tests.fixtures.generators import FakeGenerator, fake_records
from tests.fixtures.ids_only import long_findings
from tests.fixtures.report_trees import report, write_mimic_cxr


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(images, "PART_IMAGES", 5)


def rows_of(out) -> dict[str, dict]:
    splits = load_dataset(str(out))
    return {row["study_id"]: row for split in splits.values() for row in split.cast_column("image", Image(False))}


def test_the_seed_is_drawn_and_kept_in_the_manifest_alone(tmp_path, capsys, caplog):
    manifest = build(fake_records(12), FakeGenerator(), tmp_path / "a", text_policy="ids-only")
    other = build(fake_records(12), FakeGenerator(), tmp_path / "b", seed="secret")
    secrets = [each["configs"]["fake"]["settings"]["secret_seed"] for each in (manifest, other)]
    assert secrets[0] != secrets[1] and min(secrets) > 2**40
    assert manifest["configs"]["fake"]["settings"]["seed"] == other["configs"]["fake"]["settings"]["seed"] == "secret"
    assert manifest["text_policy"] == "ids-only" and other["text_policy"] == "credentialed"
    for row in rows_of(tmp_path / "a").values():
        assert row["seed"] == image_seed(secrets[0], "study", row["study_id"], row["prompt"])
    output = capsys.readouterr()
    assert str(secrets[0]) not in (tmp_path / "a" / "README.md").read_text() + output.out + output.err + caplog.text
    assert ids_only_problems("fake", manifest["configs"]["fake"]) == []
    assert ids_only_problems("fake", other["configs"]["fake"]) == []


class Stopped(BaseException):
    """Stands for an end that no handler expects."""


def test_an_interrupted_build_goes_on_with_its_seed(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(folder.secrets, "randbits", lambda bits: drawn.append(bits) or 2**62 + len(drawn))
    unbroken = build(fake_records(20), FakeGenerator(), tmp_path / "one", seed="secret")

    def stop(*args):
        raise Stopped

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(assemble, "_write_shard", stop)
        build(fake_records(20), FakeGenerator(), tmp_path / "two", seed="secret")
    rendered = []
    monkeypatch.setattr(FakeGenerator, "__call__", lambda *args: rendered.append(args))
    entry = build(fake_records(20), FakeGenerator(), tmp_path / "two", seed="secret")["configs"]["fake"]
    assert drawn == [63, 63] and not rendered, "one seed a dataset, and no image drawn anew"
    assert entry["settings"]["secret_seed"] == 2**62 + 2
    assert entry["images"] != unbroken["configs"]["fake"]["images"]
    again = build(fake_records(20), FakeGenerator(), tmp_path / "two", seed="secret")["configs"]["fake"]
    assert again == entry and len(drawn) == 2, "a complete build knows its seed too"


def test_the_seed_stands_in_no_message(tmp_path):
    manifest = build(fake_records(6), FakeGenerator(), tmp_path / "d", seed="secret")
    secret = str(manifest["configs"]["fake"]["settings"]["secret_seed"])
    for changed in ({"seed": 0}, {"seed": "secret", "image_format": "jpeg"}):
        with pytest.raises(ValueError, match="was built with other settings") as caught:
            build(fake_records(6), FakeGenerator(), tmp_path / "d", **changed)
        assert secret not in str(caught.value)
    build(fake_records(6), FakeGenerator(), tmp_path / "open")
    with pytest.raises(ValueError, match="seed .there 0, asked for 'secret'"):
        build(fake_records(6), FakeGenerator(), tmp_path / "open", seed="secret")


def test_all_ranks_draw_with_the_seed_of_the_first(tmp_path, monkeypatch):
    import threading

    monkeypatch.setattr(folder, "POLL_SECONDS", 0.01)
    out, failed = tmp_path / "d", []

    def other():
        try:
            build(fake_records(20), FakeGenerator(), out, seed="secret", rank=Rank(1, 2))
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    entry = build(fake_records(20), FakeGenerator(), out, seed="secret", rank=Rank(0, 2))["configs"]["fake"]
    thread.join()
    assert not failed and entry["timing"]["num_ranks"] == 2
    secret = entry["settings"]["secret_seed"]
    for row in rows_of(out).values():
        assert row["seed"] == image_seed(secret, "study", row["study_id"], row["prompt"])
    monkeypatch.setattr(folder, "START_SECONDS", 0.1)
    with pytest.raises(ChildProcessError, match="rank 0 has not begun"):
        build(fake_records(4), FakeGenerator(), tmp_path / "none", seed="secret", rank=Rank(1, 2))


@pytest.mark.parametrize(
    "options, named",
    [
        ({"text_policy": "ids-only", "seed": 7}, "seed 7 do not go together"),
        ({"text_policy": "ids-only", "seed_mode": "prompt"}, "seed_mode 'prompt' do not go together"),
        ({"text_policy": "secret"}, "'secret' is not one of public, ids-only, credentialed"),
        ({"seed": "hidden"}, "seed hidden is not between"),
    ],
)
def test_bad_settings_are_refused(tmp_path, options, named):
    with pytest.raises(ValueError, match=named):
        build(fake_records(4), FakeGenerator(), tmp_path / "d", **options)
    assert not (tmp_path / "d").exists()


def test_rows_have_keyed_hashes(tmp_path):
    records = [
        ReportRecord(f"s{n}", f"p{n}", "Small left effusion.", report=report("Small left effusion.", long_findings(n)))
        for n in range(6)
    ]
    records.append(ReportRecord("s6", "p6", "Small left effusion.", report=report("Small left effusion.")))
    records.append(ReportRecord("s7", "p7", "Small left effusion."))
    entry = build(records, FakeGenerator(localizes=False), tmp_path / "d")["configs"]["fake"]
    rows = rows_of(tmp_path / "d")
    for record in records[:6]:
        expected = report_hash(record.report, record.impression, record.study_id)
        assert rows[record.study_id]["report_hash"] == expected and len(expected) == 64
    assert rows["s6"]["report_hash"] is rows["s7"]["report_hash"] is None
    assert entry["report_hashes"] == 6
    names = list(rows["s0"])
    assert names[names.index("prompt_sha256") + 1] == "report_hash"


def test_rows_stand_in_the_order_of_hashed_ids_unless_public(tmp_path):
    records = list(fake_records(30))
    plan = make_plan(records, FakeGenerator(), order_by_id=True)
    other = make_plan(records[::-1], FakeGenerator(), order_by_id=True)
    assert [row.record for row in plan.rows] == [row.record for row in other.rows]
    assert [row.record for row in plan.rows] != [row.record for row in make_plan(records, FakeGenerator()).rows]
    build(records, FakeGenerator(localizes=False), tmp_path / "closed", splits=(1, 0, 0))
    build(records, FakeGenerator(localizes=False), tmp_path / "open", splits=(1, 0, 0), text_policy="public")
    ids = [record.study_id for record in records]
    assert load_dataset(str(tmp_path / "open"), split="train")["study_id"][:] == ids
    closed = load_dataset(str(tmp_path / "closed"), split="train")["study_id"][:]
    assert closed != ids and sorted(closed) == ids
    common = {"generator": FakeGenerator(localizes=False), "splits": (1, 0, 0), "cache_dir": str(tmp_path / "cache")}
    for name, policy in (("open", "public"), ("closed", None), ("closed", "ids-only")):
        builder = MedSynCXR(reports=records, text_policy=policy, **common)
        builder.download_and_prepare()
        there = load_dataset(str(tmp_path / name), split="train")["study_id"][:]
        assert builder.as_dataset()["train"]["study_id"][:] == there


def test_the_command_says_what_each_policy_means(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(build_module, "make_generator", lambda args: FakeGenerator(localizes=False))
    common = ["--num-proc", "1"]
    assert main(["--num-samples", "3", *common, "--out", str(tmp_path / "public")]) == 0
    assert "text policy: public (anyone may read these reports" in capsys.readouterr().out
    mimic = write_mimic_cxr(
        tmp_path / "mimic",
        {(10, 50 + n): (report("Small left effusion.", long_findings(n)), ["PA"]) for n in range(3)},
    )
    reports = ["--reports", str(mimic), *common]
    assert main([*reports, "--out", str(tmp_path / "credentialed")]) == 0
    output = capsys.readouterr().out
    assert (
        "text policy: credentialed\n" in output and "--seed secret" in output and "--text-policy public" not in output
    )
    assert main([*reports, "--out", str(tmp_path / "ids"), "--text-policy", "ids-only"]) == 0
    output = capsys.readouterr().out
    settings = json.loads((tmp_path / "ids" / "manifest.json").read_text())["configs"]["fake"]["settings"]
    assert settings["text_policy"] == "ids-only" and str(settings["secret_seed"]) not in output
    assert "holds the secret seed: keep it here" in output and "3 of 3 rows have a hash" in output
    assert main([*reports, "--out", str(tmp_path / "secret"), "--seed", "secret"]) == 0
    assert "`medsyn publish --text-policy ids-only` leaves the text out" in capsys.readouterr().out
    assert main([*reports, "--out", str(tmp_path / "no"), "--text-policy", "ids-only", "--seed", "1"]) == 1
    assert "seed 1 do not go together" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*reports, "--seed", "hidden"])
    assert "neither a number nor the word secret" in capsys.readouterr().err
