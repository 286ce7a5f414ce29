import hashlib
import json

import pytest

from dataset_builder.build import build
from dataset_builder.pipeline.manifest import add_config
from dataset_builder.reports.record import ReportRecord
from medsyn.schema import read_manifest
from tests.fixtures.generators import FakeGenerator, fake_records


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    out = tmp_path_factory.mktemp("build") / "medsyn-cxr"
    short = ReportRecord("short", "p9", "Normal.")
    records = [*fake_records(59, repeated=9), short, ReportRecord("none", "p9", "")]
    return out, build(records, FakeGenerator(), out, source={"table": "toy.csv"})


def test_the_counts_are_those_of_the_rows(built):
    from datasets import load_dataset

    out, manifest = built
    assert json.loads((out / "manifest.json").read_text()) == manifest == read_manifest(out)
    entry = manifest["configs"]["fake"]
    left = {"with_impression": 60, "long_enough": 59, "unique": 59}
    assert entry["reports"]["counts"] == {"all": 61, "readable": 61, "frontal": 61, **left}
    assert entry["reports"]["skipped"]["too_short"] == {"count": 1, "study_ids": ["short"]}
    assert entry["reports"]["repeated_prompt_share"] == round(8 / 59, 6)
    assert entry["reports"]["sources"] == ["fake"]
    ids = hashlib.sha256("".join(f"{record.study_id}\n" for record in fake_records(59)).encode()).hexdigest()
    assert entry["reports"]["study_ids_sha256"] == ids

    dataset = load_dataset(str(out))
    rows = [row for split in dataset.values() for row in split]
    assert entry["splits"].keys() == dataset.keys()
    for split, counts in entry["splits"].items():
        assert counts["num_examples"] == len(dataset[split])
        assert counts["num_subjects"] == len(set(dataset[split]["subject_id"]))
        assert counts["file_bytes"] == sum(path.stat().st_size for path in out.glob(f"data/fake/{split}-*"))
    for name, counts in entry["labels"].items():
        values = [row["labels"][name] for row in rows]
        assert counts == {
            "present": values.count(1),
            "absent": values.count(0),
            "uncertain": values.count(-1),
            "unmentioned": values.count(None),
        }
    assert entry["labels"]["Pneumothorax"]["present"] > 0
    occult = [finding for row in rows for finding in row["occult_findings"]]
    assert entry["occult_findings"] == {"pleural effusion": len(occult)} and occult


def test_image_digest(built):
    import pyarrow.parquet as pq

    out, manifest = built
    hashes = []
    for path in out.glob("data/fake/*.parquet"):
        for image in pq.read_table(path, columns=["image"]).column("image").to_pylist():
            hashes.append(hashlib.sha256(image["bytes"]).hexdigest())
    images = manifest["configs"]["fake"]["images"]
    assert images["num_rows"] == images["num_distinct"] == 59
    assert images["sha256_of_sorted_sha256"] == hashlib.sha256("\n".join(sorted(hashes)).encode()).hexdigest()


def test_all_but_timing_is_deterministic(built, tmp_path):
    out, manifest = built
    short = ReportRecord("short", "p9", "Normal.")
    records = [*fake_records(59, repeated=9), short, ReportRecord("none", "p9", "")]
    again = build(records, FakeGenerator(), tmp_path / "medsyn-cxr", num_proc=2, source={"table": "toy.csv"})
    for each in (manifest, again):
        assert each["configs"]["fake"]["timing"]["render_seconds"] > 0
    without = [
        {name: value for name, value in each["configs"]["fake"].items() if name != "timing"}
        for each in (manifest, again)
    ]
    assert without[0] == without[1]
    assert (tmp_path / "medsyn-cxr" / "README.md").read_bytes() == (out / "README.md").read_bytes()
    assert (tmp_path / "medsyn-cxr/assets/samples-fake.png").read_bytes() == (
        out / "assets/samples-fake.png"
    ).read_bytes()


def test_settings_and_versions(built):
    _, manifest = built
    entry = manifest["configs"]["fake"]
    assert entry["settings"]["generator"] == {
        "name": "fake",
        "batch_size": 1,
        "image_size": 32,
        "ignore_condition": False,
    }
    assert entry["settings"]["source"] == {"table": "toy.csv"} and entry["settings"]["seed_mode"] == "study"
    assert {"python", "pillow", "torch", "pyarrow"} <= entry["versions"].keys()


def test_the_strictest_text_policy_holds(tmp_path):
    grammar = [ReportRecord(f"g{index}", f"p{index}", "No acute process.", source="grammar") for index in range(3)]
    manifest = build(grammar, FakeGenerator(), tmp_path / "d")
    assert manifest["text_policy"] == "public"
    assert "no sentence comes from a patient's record" in (tmp_path / "d" / "README.md").read_text()
    manifest = build(fake_records(3), FakeGenerator(name="second"), tmp_path / "d")
    assert manifest["configs"]["second"]["settings"]["text_policy"] == "credentialed"
    assert manifest["text_policy"] == "credentialed"
    assert "Text of `second`: credentialed" in (tmp_path / "d" / "README.md").read_text()
    entry = {"settings": {"text_policy": "public"}}
    assert add_config({"configs": {}}, "a", entry)["text_policy"] == "public"
    with pytest.raises(ValueError, match="text policy 'secret'"):
        build(fake_records(3), FakeGenerator(), tmp_path / "e", text_policy="secret")


def test_images_equal_in_spite_of_their_texts_are_found(tmp_path):
    """Only the hashes of the images can tell that this generator does not heed the text."""
    out = tmp_path / "d"
    generator = FakeGenerator(ignore_condition=True, localizes=False)
    with pytest.raises(ValueError, match="1 images appear in more than one split .60 of 60 rows."):
        build(fake_records(60), generator, out, seed_mode="fixed")
    assert not (out / "manifest.json").exists()
    manifest = build(fake_records(60), generator, out, seed_mode="fixed", allow_cross_split_repeats=True)
    assert manifest["configs"]["fake"]["images"]["repeated_across_splits"] == {"images": 1, "rows": 60}
    assert manifest["configs"]["fake"]["images"]["num_distinct"] == 1


def test_prompt_mode_draws_an_image_once(tmp_path, monkeypatch):
    drawn = []
    original = FakeGenerator._image
    monkeypatch.setattr(FakeGenerator, "_image", lambda self, *args: drawn.append(1) or original(self, *args))
    manifest = build(
        fake_records(50, repeated=20),
        FakeGenerator(),
        tmp_path / "d",
        seed_mode="prompt",
        allow_cross_split_repeats=True,
    )
    images = manifest["configs"]["fake"]["images"]
    assert len(drawn) == images["num_distinct"] == 31 and images["num_rows"] == 50
    assert images["repeated_across_splits"] == {"images": 1, "rows": 20}
