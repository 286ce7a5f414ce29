import json

import pytest
from datasets import Image, load_dataset

from dataset_builder import medsyn_cxr as module
from dataset_builder.build import build
from dataset_builder.medsyn_cxr import MedSynCXR
from tests.fixtures.generators import FakeGenerator, fake_records
from tests.fixtures.report_trees import report, write_mimic_cxr, write_openi


def undecoded(dataset) -> list[dict]:
    return dataset.cast_column("image", Image(decode=False)).remove_columns("finding_masks").to_list()


@pytest.mark.parametrize("num_proc", [None, 2])
def test_rows_are_those_of_the_build(tmp_path, num_proc):
    build(fake_records(90), FakeGenerator(), tmp_path / "d")
    there = load_dataset(str(tmp_path / "d"))
    builder = MedSynCXR(reports=list(fake_records(90)), generator=FakeGenerator(), cache_dir=str(tmp_path / "cache"))
    builder.download_and_prepare(num_proc=num_proc)
    dataset = builder.as_dataset()
    assert dataset.keys() == there.keys()
    for split in there:
        assert dataset[split].features == there[split].features
        assert undecoded(dataset[split]) == undecoded(there[split])
        masks = [[entry["mask"].tobytes() for entry in row["finding_masks"]] for row in dataset[split]]
        assert masks == [[entry["mask"].tobytes() for entry in row["finding_masks"]] for row in there[split]]
    stream = builder.as_streaming_dataset(split="train")
    assert [row["image_id"] for row in stream] == there["train"]["image_id"]


def test_shared_images_are_equal(tmp_path):
    options = {"seed_mode": "prompt", "allow_cross_split_repeats": True}
    build(fake_records(50, repeated=30), FakeGenerator(), tmp_path / "d", **options)
    builder = MedSynCXR(
        reports=list(fake_records(50, repeated=30)),
        generator=FakeGenerator(),
        cache_dir=str(tmp_path / "cache"),
        **options,
    )
    builder.download_and_prepare()
    there = load_dataset(str(tmp_path / "d"))
    for split in there:
        assert undecoded(builder.as_dataset()[split]) == undecoded(there[split])


def test_configs_and_errors(tmp_path):
    assert MedSynCXR.builder_configs.keys() == {"default", "phantom"}
    common = {"generator": FakeGenerator(), "cache_dir": str(tmp_path)}
    with pytest.raises(ValueError, match="'roentgen' not found"):
        MedSynCXR(config_name="roentgen", **common)
    with pytest.raises(ValueError, match="'tiff' is not one of png, jpeg"):
        MedSynCXR(image_format="tiff", **common)
    repeated = list(fake_records(3)) * 2
    with pytest.raises(ValueError, match="'s00000' of fake comes twice"):
        MedSynCXR(reports=repeated, **common).download_and_prepare()
    with pytest.raises(ValueError, match="appear in more than one split"):
        MedSynCXR(reports=list(fake_records(50, repeated=50)), seed_mode="fixed", **common).download_and_prepare()


def test_a_table_that_changes_is_not_taken_from_the_cache(tmp_path):
    table = tmp_path / "reports.jsonl"
    table.write_text(json.dumps({"uid": "1", "text": "Large left effusion."}) + "\n")
    options = {
        "reports": table,
        "columns": {"impression_column": "text"},
        "generator": FakeGenerator(localizes=False),
        "splits": (1, 0, 0),
        "cache_dir": str(tmp_path / "cache"),
    }
    builder = MedSynCXR(**options)
    builder.download_and_prepare()
    assert builder.as_dataset()["train"][0]["labels"]["Pleural Effusion"] == 1
    table.write_text(json.dumps({"uid": "1", "text": "No acute cardiopulmonary process."}) + "\n")
    changed = MedSynCXR(**options)
    assert changed.cache_dir != builder.cache_dir
    changed.download_and_prepare()
    assert changed.as_dataset()["train"][0]["prompt"] == "No acute cardiopulmonary process."
    assert MedSynCXR(**options | {"generator": FakeGenerator(64, localizes=False)}).cache_dir != changed.cache_dir
    assert MedSynCXR(**options | {"seed": 1}).cache_dir != changed.cache_dir


def test_report_folders_are_recognised(tmp_path):
    openi = write_openi(tmp_path / "openi", {1: ("", "Small left effusion."), 2: ("", "No acute disease.")})
    mimic = write_mimic_cxr(tmp_path / "mimic", {(10000032, 50414267): (report(), ["PA"])})
    common = {"generator": FakeGenerator(), "splits": (1, 0, 0), "cache_dir": str(tmp_path / "cache")}
    for folder, source, number in ((openi, "openi", 2), (mimic, "mimic-cxr", 1)):
        builder = MedSynCXR(reports=folder, **common)
        builder.download_and_prepare()
        assert [row["source"] for split in builder.as_dataset().values() for row in split] == [source] * number
    before = MedSynCXR(reports=openi, **common).cache_dir
    (tmp_path / "openi" / "ecgen-radiology" / "3.xml").write_text("<eCitation/>")
    assert MedSynCXR(reports=openi, **common).cache_dir != before
    with pytest.raises(FileNotFoundError, match="absent"):
        MedSynCXR(reports=tmp_path / "absent", **common)


def test_images_of_other_versions_are_not_taken_from_the_cache(tmp_path, monkeypatch):
    options = {"generator": FakeGenerator(), "cache_dir": str(tmp_path)}
    before = MedSynCXR(**options).cache_dir
    assert MedSynCXR(**options).cache_dir == before
    versions = module.package_versions()
    assert {"hub-medsyn", "torch", "pillow"} <= versions.keys()
    for package in ("hub-medsyn", "torch"):
        monkeypatch.setattr(module, "package_versions", lambda package=package: versions | {package: "99"})
        assert MedSynCXR(**options).cache_dir != before
