import json
import shutil
from pathlib import Path

import pytest
from datasets import Dataset, Image, load_dataset

from dataset_builder.attach_reports import attach_reports, attach_to_folder, main
from dataset_builder.build import build
from dataset_builder.pipeline import shards as assemble
from dataset_builder.pipeline.report_join import TEXT_COLUMNS
from dataset_builder.reports.sources import open_reports
from tests.fixtures.generators import FakeGenerator
from tests.fixtures.ids_only import long_findings, without_text
from tests.fixtures.report_trees import report, write_mimic_cxr

STUDIES = 14


def studies(changed: int | None = None, absent: int | None = None) -> dict:
    """A MIMIC-CXR of 14 studies; the last two have reports too short to key a hash."""
    there = {}
    for number in range(STUDIES):
        findings = "Clear." if number >= STUDIES - 2 else long_findings(number)
        if number == changed:
            findings = findings.replace(" ", "  ", 1)  # a byte more in the report
        text = report(f"1. Small effusion, image {number} today.\n 2. Stable heart.", findings)
        there[(10000000 + number // 2, 50000000 + number)] = (None if number == absent else text, ["PA"])
    return there


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> tuple[Path, Path, Path]:
    """MIMIC-CXR, the dataset built from it, and what was published of that."""
    folder = tmp_path_factory.mktemp("published")
    splits = {50000000 + number: ("train", "validate", "test")[number // 2 % 3] for number in range(STUDIES)}
    labels = {50000003: {"Pneumothorax": 1.0, "Edema": -1.0}}
    mimic = write_mimic_cxr(folder / "mimic", studies(), splits=splits, labels=labels)
    records, source = open_reports(mimic)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assemble, "ROW_GROUP", 3)
        patch.setattr(assemble, "SHARD_BYTES", 4_000)
        build(records, FakeGenerator(localizes=False), folder / "built", text_policy="ids-only", source=source)
    return mimic, folder / "built", without_text(folder / "built", folder / "hub")


def rows_of(dataset) -> dict[str, dict]:
    splits = {"": dataset} if isinstance(dataset, Dataset) else dataset
    rows = [row for split in splits.values() for row in split.cast_column("image", Image(decode=False))]
    return {row["study_id"]: row for row in rows}


def test_the_text_comes_back_as_it_was(published, tmp_path):
    mimic, built, hub = published
    shutil.copytree(hub, tmp_path / "hub")
    result = attach_to_folder(str(tmp_path / "hub"), tmp_path / "joined", mimic)
    assert (result.rows, result.attached, result.missing, result.differing) == (STUDIES, STUDIES, 0, 0)
    assert result.unverified == 2 and len(result.studies["unverified"]) == 2 and result.complete
    there, back = load_dataset(str(built)), load_dataset(str(tmp_path / "joined"))
    assert back.keys() == there.keys() and len(there["train"]) == 6
    for split in there:
        same = there[split].select_columns(back[split].column_names)
        assert back[split].features == same.features
        for ours, original in zip(
            back[split].cast_column("image", Image(decode=False)),
            same.cast_column("image", Image(decode=False)),
            strict=True,
        ):
            assert ours == original
    assert set(there["train"].column_names) - set(back["train"].column_names) == {"view", "generator", "seed"}
    assert rows_of(back)["50000003"]["labels"]["Pneumothorax"] == 1


def test_rows_are_those_of_the_function(published, tmp_path):
    mimic, _, hub = published
    attach_to_folder(str(hub), tmp_path / "joined", mimic)
    joined, result = attach_reports(str(hub), mimic)
    assert result.attached == STUDIES
    folder = load_dataset(str(tmp_path / "joined"))
    for split in folder:
        assert joined[split].features == folder[split].features
        assert joined[split].column_names == folder[split].column_names
    assert rows_of(joined) == rows_of(folder)
    one, result = attach_reports(load_dataset(str(hub), split="test"), mimic)
    assert isinstance(one, Dataset) and result.rows == len(one) == len(folder["test"])


def test_the_manifest_and_the_card(published, tmp_path):
    mimic, built, hub = published
    attach_to_folder(str(hub), tmp_path / "joined", mimic)
    manifest = json.loads((tmp_path / "joined" / "manifest.json").read_text())
    ours, original = manifest["configs"]["fake"], json.loads((built / "manifest.json").read_text())["configs"]["fake"]
    assert manifest["text_policy"] == ours["settings"]["text_policy"] == "credentialed"
    assert ours["images"] == original["images"] and ours["labels"] == original["labels"]
    assert ours["report_hashes"] == original["report_hashes"] == STUDIES - 2
    counts = {"num_examples", "num_subjects", "num_shards"}
    for split, there in original["splits"].items():
        assert {name: ours["splits"][split][name] for name in counts} == {name: there[name] for name in counts}
    assert ours["attached"] == {"rows": 14, "attached": 14, "missing": 0, "differing": 0, "unverified": 2}
    card = (tmp_path / "joined" / "README.md").read_text()
    assert "# joined" in card and "credentialed" in card and "Small effusion" not in card


def test_what_does_not_match_is_counted_and_left_without_text(published, tmp_path, capsys):
    _, _, hub = published
    other = write_mimic_cxr(tmp_path / "other", studies(changed=4, absent=7), metadata=False, zipped=True)
    joined, result = attach_reports(str(hub), other)
    assert (result.attached, result.missing, result.differing, result.unverified) == (12, 1, 1, 2)
    assert result.studies["missing"] == ["50000007"] and result.studies["differing"] == ["50000004"]
    rows = rows_of(joined)
    for study in ("50000007", "50000004"):
        assert {name: rows[study][name] for name in TEXT_COLUMNS if name != "labels"} == dict.fromkeys(
            name for name in TEXT_COLUMNS if name != "labels"
        )
        assert set(rows[study]["labels"].values()) == {None}
    assert rows["50000005"]["prompt"] == "Small effusion, image 5 today. Stable heart."

    command = [str(hub), "--reports", str(other), "--out", str(tmp_path / "joined")]
    assert main([*command, "--strict"]) == 1
    output = capsys.readouterr().err
    assert (
        "50000004" in output and "50000007" in output and "Nothing was written" in output and "effusion" not in output
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other"]
    assert main(command) == 0
    output = capsys.readouterr().out
    assert "12 of 14 rows have their text" in output and "2 rows without text were left out" in output
    assert rows_of(load_dataset(str(tmp_path / "joined"))).keys() == rows.keys() - {"50000004", "50000007"}
    assert main([*command[:-1], str(tmp_path / "all"), "--keep-all"]) == 0
    assert rows_of(load_dataset(str(tmp_path / "all"))) == rows


def test_strict_passes_where_every_row_gets_its_text(tmp_path):
    table = tmp_path / "reports.jsonl"
    lines = [
        {"id": f"r{n}", "impression": f"Effusion number {n}.", "whole": f"{long_findings(n)} Effusion number {n}."}
        for n in range(5)
    ]
    table.write_text("".join(json.dumps(line) + "\n" for line in lines))
    records, source = open_reports(table, columns={"report_column": "whole"})
    build(records, FakeGenerator(localizes=False), tmp_path / "built", text_policy="ids-only", splits=(1, 0, 0))
    hub = str(without_text(tmp_path / "built", tmp_path / "hub"))
    command = [hub, "--reports", str(table), "--out", str(tmp_path / "joined")]
    assert main([*command, "--report-column", "whole", "--strict"]) == 0
    assert set(load_dataset(str(tmp_path / "joined"), split="train")["source"]) == {"reports.jsonl"}


def test_a_study_of_another_place_is_never_attached(published, tmp_path):
    """Two studies whose reports change places: ids fit, reports exist, and neither hash does."""
    _, _, hub = published
    there = studies()
    keys = list(there)
    there[keys[2]], there[keys[5]] = there[keys[5]], there[keys[2]]
    _, result = attach_reports(str(hub), write_mimic_cxr(tmp_path / "mimic", there))
    assert sorted(result.studies["differing"]) == [str(keys[2][1]), str(keys[5][1])]


def test_images_of_a_study_have_its_text(tmp_path):
    there = {(10000000, 50000000): (report("Small left effusion.", long_findings(0)), ["PA", "AP", "LATERAL"])}
    mimic = write_mimic_cxr(tmp_path / "mimic", there)
    records, source = open_reports(mimic, per="image")
    build(records, FakeGenerator(localizes=False), tmp_path / "d", text_policy="ids-only", source=source)
    hub = without_text(tmp_path / "d", tmp_path / "hub")
    joined, result = attach_reports(str(hub), mimic, per="image")
    assert result.complete and result.attached == 2
    assert {row["prompt"] for row in rows_of(joined).values()} == {"Small left effusion."}
    hashes = [row["report_hash"] for row in rows_of(joined).values()]
    assert None not in hashes and len(set(hashes)) == 2
    with pytest.raises(ValueError, match="0 of 2 rows .*--per image"):
        attach_to_folder(str(hub), tmp_path / "joined", mimic)


def test_a_shard_without_text_is_left_out(published, tmp_path):
    """Where no row of a shard, or of a split, is left, the others are numbered anew."""
    _, built, hub = published
    first = sorted((hub / "data" / "fake").glob("train-*.parquet"))
    assert len(first) > 1
    lost = [int(row) - 50000000 for row in Dataset.from_parquet(str(first[0]))["study_id"]]
    lost += [number for number in range(STUDIES) if number // 2 % 3 == 2]  # the split test
    there = {key: value for key, value in studies().items() if key[1] - 50000000 not in lost}
    result = attach_to_folder(str(hub), tmp_path / "joined", write_mimic_cxr(tmp_path / "mimic", there))
    assert result.missing == len(lost)
    assert load_dataset(str(tmp_path / "joined")).keys() == {"train", "validation"}
    left = sorted(path.name for path in (tmp_path / "joined" / "data" / "fake").glob("train-*"))
    assert left == [f"train-{number:05d}-of-{len(first) - 1:05d}.parquet" for number in range(len(first) - 1)]


def test_bad_input_is_one_sentence(published, tmp_path, capsys):
    mimic, built, hub = published
    strangers = write_mimic_cxr(tmp_path / "strangers", {(19, 51): (report(), ["PA"])})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    (tmp_path / "plain").mkdir()
    table = tmp_path / "reports.jsonl"
    table.write_text(
        json.dumps({"study_id": 50000000, "impression": "Small effusion, image 0 today. Stable heart."}) + "\n"
    )
    for dataset, reports, out, named in (
        (built, mimic, "new", "has a column 'prompt' already"),
        (hub, tmp_path / "absent", "new", "no reports at"),
        (tmp_path / "absent", mimic, "new", "there is no dataset folder"),
        ("medsyn-cxr-of-nobody", mimic, "new", "owner/name"),
        (hub, mimic, "full", "exists already"),
        (hub, strangers, "new", "14 not among the reports"),
        (hub, table, "new", "--report-column"),
        (tmp_path / "plain", mimic, "new", "no manifest.json"),
    ):
        assert main([str(dataset), "--reports", str(reports), "--out", str(tmp_path / out)]) == 1, named
        output = capsys.readouterr().err
        assert output.startswith("medsyn attach-reports: ") and output.count("\n") == 1 and named in output
        assert "effusion" not in output
    with pytest.raises(ValueError, match="no column 'report_hash'"):
        attach_reports(Dataset.from_dict({"study_id": ["a"]}), mimic)


def test_what_is_joined_trains_a_model(published, tmp_path):
    """The folder has what `medsyn pretrain` reads: pairs of image and prompt, none without text."""
    from trainers.data.dataset_by_name import load_splits
    from trainers.training_card import read_origin

    _, _, hub = published
    other = write_mimic_cxr(tmp_path / "other", studies(absent=0))
    attach_to_folder(str(hub), tmp_path / "joined", other)
    rows = load_splits(str(tmp_path / "joined"))["train"]
    assert all(rows["prompt"]) and all(rows["image_id"]) and rows[0]["image"].size == (32, 32)
    origin = read_origin(str(tmp_path / "joined"), None)
    assert origin["text_policy"] == "credentialed" and origin["reports"] == ["mimic-cxr"]
