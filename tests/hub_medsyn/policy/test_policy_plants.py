"""A credentialed sentence, planted in every place of a dataset, does not come out of the policy's functions.

Each test plants a sentence in one place and lets it pass, or be refused, as publishing would. Whatever comes out
(tables as Parquet files, manifest entries, messages, logs) is read back as a whole and searched.
"""

import base64
import copy
import io
import json
import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dataset_builder.build import build
from dataset_builder.pipeline.rows import encode
from hub_medsyn.policy.ids_only import ids_only_entry, ids_only_problems, ids_only_table
from hub_medsyn.policy.report_texts import ReportTexts
from hub_medsyn.policy.verdict import PolicyError, judge
from hub_medsyn.publishing.repository import Repository
from hub_medsyn.publishing.staging_dataset import DatasetStaging
from tests.fixtures.generators import FakeGenerator, fake_records
from tests.fixtures.leaks import flat, parquet_views, readable, staged_files, stands_in

FEW = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
WORDS = (
    "effusion",
    "Pneumothorax",
    "größer",
    "left-sided",
    "stable",
    "2.5",
    "unchanged",
    "\u201ccardiac\u201d",
    "naïve",
)
SENTENCES = st.lists(st.sampled_from(WORDS), min_size=5, max_size=12).map(
    lambda words: "Known carcinoma " + " ".join(words) + "."
)
PIXELS = np.random.default_rng(0).integers(0, 255, (24, 24), dtype=np.uint8)


def saved(**options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, **options)
    return buffer.getvalue()


def with_text(sentence: str) -> bytes:
    note = PngInfo()
    note.add_itxt("Description", sentence, zip=True)
    return saved(format="png", pnginfo=note)


def with_exif(sentence: str, image_format: str) -> bytes:
    exif = Image.Exif()
    exif[0x010E] = sentence
    return saved(format=image_format, exif=exif)


def in_last_chunk(sentence: str) -> bytes:
    """Behind the end of the compressed pixels, within a chunk of theirs whose checksum is right."""
    import struct
    import zlib

    content = saved(format="png")
    place = content.index(b"IDAT") - 4
    length = struct.unpack(">I", content[place : place + 4])[0]
    body = content[place + 8 : place + 8 + length] + sentence.encode()
    chunk = struct.pack(">I", len(body)) + b"IDAT" + body + struct.pack(">I", zlib.crc32(b"IDAT" + body))
    return content[:place] + chunk + content[place + 12 + length :]


IMAGES = {
    "compressed text": with_text,
    "PNG EXIF": lambda sentence: with_exif(sentence, "png"),
    "JPEG EXIF": lambda sentence: with_exif(sentence, "jpeg"),
    "comment": lambda sentence: saved(format="jpeg", comment=sentence.encode()),
    "behind a PNG": lambda sentence: saved(format="png") + sentence.encode(),
    "behind a JPEG": lambda sentence: saved(format="jpeg") + sentence.encode(),
    "behind the pixels": in_last_chunk,
    "no image": lambda sentence: sentence.encode(),
    "an image cut short": lambda sentence: saved(format="png")[:-20] + sentence.encode(),
}
SLUGS = (
    lambda sentence: sentence,
    lambda sentence: "-".join(sentence.rstrip(".").split()),
    lambda sentence: "_".join(word for word in sentence.split() if word.isascii() and word.isalpha()),
    lambda sentence: base64.b64encode(sentence.encode()).decode(),
    lambda sentence: sentence.encode().hex(),
)


def rows() -> dict:
    row = {
        "image": {"bytes": encode(PIXELS, "png"), "path": "x.png"},
        "image_id": "fake-s1",
        "study_id": "s1",
        "subject_id": "p1",
        "report_hash": "0" * 64,
    }
    return {"prompt": "", "view": "PA", "source": "a.csv", "labels": {"Edema": 1}} | row


def written(table: pa.Table) -> list[str]:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return parquet_views(buffer.getvalue())


def passes(table: pa.Table, caplog) -> list[str]:
    """All that comes out of the policy for a table: the file that would be published, or a message; and logs."""
    with caplog.at_level(logging.DEBUG):
        try:
            views = written(ids_only_table(table))
        except PolicyError as error:
            views = [str(error), repr(error), str(error.__cause__)]
    return [*views, caplog.text]


@FEW
@given(
    sentence=SENTENCES, slug=st.sampled_from(SLUGS), column=st.sampled_from(["study_id", "subject_id", "report_hash"])
)
@pytest.mark.parametrize("also_image_id", [True, False])
def test_identifiers(caplog, also_image_id, sentence, slug, column):
    row = rows() | {column: slug(sentence)}
    if also_image_id:
        row["image_id"] = f"fake-{row['study_id']}"
    assert not stands_in(sentence, passes(pa.Table.from_pylist([row]), caplog))


@FEW
@given(sentence=SENTENCES, kind=st.sampled_from(sorted(IMAGES)))
def test_images(caplog, sentence, kind):
    row = rows() | {"image": {"bytes": IMAGES[kind](sentence), "path": sentence}}
    out = passes(pa.Table.from_pylist([row]), caplog)
    assert not stands_in(sentence, out)
    assert any(out) and "report_hash" not in out, f"{kind} was let through"


@FEW
@given(sentence=SENTENCES)
def test_columns_and_metadata(caplog, sentence):
    """Other columns, their names, the path of an image, metadata of table and columns: nothing of them is kept."""
    row = rows() | {name: sentence for name in ("prompt", "findings", "view", "source", sentence)}
    row["image"] = {"bytes": encode(PIXELS, "png"), "path": sentence}
    table = pa.Table.from_pylist([row]).replace_schema_metadata({"note": sentence, "huggingface": f'"{sentence}"'})
    fields = [field.with_metadata({"note": sentence}) for field in table.schema]
    table = table.cast(pa.schema(fields, metadata=table.schema.metadata))
    assert stands_in(sentence, written(table)), "the search finds what is there"
    out = passes(table, caplog)
    assert "report_hash" in out and not stands_in(sentence, out)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    out = tmp_path_factory.mktemp("plants") / "medsyn-cxr"
    manifest = build(fake_records(12), FakeGenerator(localizes=False), out, text_policy="ids-only")
    return out, manifest["configs"]["fake"]


def places(value, path=()) -> list[tuple]:
    """Every place of nested values where another value or another name can stand."""
    if isinstance(value, dict):
        return [(*path, None)] + [
            place for key in value for place in [(*path, key), *places(value[key], (*path, key))]
        ]
    return []


def planted(entry: dict, place: tuple, name: str, value) -> dict:
    """The entry with another value at a place, or, where the place ends with None, with a new name there."""
    entry = copy.deepcopy(entry)
    *path, last = place
    inner = entry
    for key in path:
        inner = inner[key]
    inner[name if last is None else last] = value
    return entry


def test_every_place_of_a_manifest_entry(built, caplog):
    """Settings, counts, versions, names of tables and columns, skipped ids, digests: at each, and as a new name."""
    _, entry = built
    sentence = "Known carcinoma of the left lung is unchanged since March."
    entry = copy.deepcopy(entry)
    entry["settings"]["source"] = {"table": "a.csv", "format": "mimic-cxr", "per": "study", "impression_column": "a"}
    entry["settings"]["generator"] |= {
        "negative_prompt": "",
        "lora": {"file": "a", "sha256": "0" * 64},
        "scheduler": {"class": "A"},
    }
    entry["settings"]["generator"] |= {"pipeline": "a", "commit": "b"}
    there = places(entry)
    assert len(there) > 100
    for place in there:
        for value in (sentence, [sentence], {"class": sentence, sentence: 1}):
            with caplog.at_level(logging.DEBUG):
                try:
                    out = json.dumps(ids_only_entry(planted(entry, place, sentence, value)), ensure_ascii=False)
                except (ValueError, TypeError, KeyError, AttributeError) as error:  # no entry of a build any more
                    out = repr(error)
            assert not stands_in(sentence, [out, caplog.text]), place


@FEW
@given(sentence=SENTENCES, slug=st.sampled_from(SLUGS))
def test_names_of_configs(built, sentence, slug):
    _, entry = built
    for name in (slug(sentence), sentence):
        problems = ids_only_problems(name, entry)
        if name == sentence:
            assert problems and not stands_in(sentence, problems)


@FEW
@given(sentence=SENTENCES)
def test_what_a_manifest_of_that_sentence_is_judged(sentence):
    with pytest.raises(ValueError):
        judge(sentence, private=False, gated=False)
    verdict = judge("credentialed", private=True, gated="auto")
    assert not verdict.allowed and not stands_in(sentence, list(verdict.reasons))


@FEW
@given(
    sentence=SENTENCES,
    change=st.sampled_from(
        [str, str.upper, lambda text: text.replace(" ", "\n  > "), lambda text: text.replace(" ", " **") + "**"]
        + [lambda text: json.dumps(text), lambda text: text.replace("ö", "&ouml;").replace("ï", "i\u0308")]
        + [lambda text: "-".join(text.split()), lambda text: text.replace(" ", "%20"), lambda text: f"| 3 | {text} |"]
    ),
)
def test_the_last_gate_finds_it_however_it_is_written(sentence, change):
    texts = ReportTexts([f"FINDINGS: something else entirely here.\n\n{sentence} No pneumothorax."])
    card = f"# A dataset\n\nIt has images.\n{change(sentence)}\nAnd more of them."
    assert 4 in texts.find_in(card)
    assert texts.find_in("# A dataset\n\nIt has images.\nAnd more of them.") == []


@pytest.mark.parametrize(
    "place", ["README.md", "source", "column", "settings", "skipped", "view", "metadata", "path", "study_id", "config"]
)
def test_the_staged_files_as_a_whole(tmp_path, place, caplog):
    """A dataset with the sentence somewhere, staged as `medsyn publish` does: refused, or not a word of it."""
    sentence = "Known carcinoma of the left lung is unchanged since March."
    out = tmp_path / "medsyn-cxr"
    records = [*fake_records(11)]
    records.append(type(records[0])("s99", "p99", impression=sentence, findings=sentence, source=sentence, view="PA"))
    name = "fake" if place != "config" else "-".join(sentence.rstrip(".").split())
    source = {"table": f"{sentence}.csv", "impression_column": sentence} if place in ("source", "column") else None
    if place == "skipped":
        records.append(type(records[0])(sentence, "p77", impression="Too short."))
    if place == "study_id":
        records[0] = type(records[0])("-".join(sentence.rstrip(".").split()), "p0", impression="Small left effusion.")
    build(records, FakeGenerator(localizes=False, name=name), out, text_policy="ids-only", source=source)
    if place == "README.md":
        card = (out / "README.md").read_text()
        assert "<!-- end of notes -->" in card
        card = card.replace("<!-- end of notes -->", f"As in: {sentence}\n<!-- end of notes -->", 1)
        (out / "README.md").write_text(card)
    elif place == "settings":
        manifest = json.loads((out / "manifest.json").read_text())
        manifest["configs"]["fake"]["settings"]["generator"] |= {
            "negative_prompt": sentence,
            "scheduler": {"class": "A", "note": sentence},
        }
        manifest["note"] = sentence
        (out / "manifest.json").write_text(json.dumps(manifest))
    elif place in ("metadata", "path"):
        for shard in out.glob("data/fake/*.parquet"):
            table = pq.read_table(shard)
            images = [{**image, "path": sentence} for image in table.column("image").to_pylist()]
            table = table.set_column(
                0, table.schema.field("image"), pa.array(images, table.schema.field("image").type)
            )
            pq.write_table(table.replace_schema_metadata({**table.schema.metadata, "note": sentence}), shard)
    assert stands_in(sentence, readable({path.name: path.read_bytes() for path in out.glob("data/*/*.parquet")}))
    with caplog.at_level(logging.DEBUG):
        try:
            with DatasetStaging(out) as staging:
                files = staged_files(staging.files(Repository("your-org/medsyn-cxr", "dataset")))
            views = readable(files)
            assert {"README.md", "manifest.json"} < files.keys() and sum(name.endswith("parquet") for name in files)
        except PolicyError as error:
            views = [str(error)]
            assert place in ("README.md", "study_id", "config")
    assert not stands_in(sentence, [*views, caplog.text])
    assert place not in ("README.md", "study_id", "config") or len(views) == 1, "it was to be refused"


def test_the_search_itself():
    sentence = "Known carcinoma of the left lung, naïve."
    for hidden in (sentence.upper(), f"a\n{sentence}\nb", base64.b64encode(f"ab {sentence} c".encode()).decode()):
        assert stands_in(sentence, [hidden])
    assert stands_in(sentence, flat({"a": [{"b": sentence}]})) and stands_in(sentence, [sentence.encode().hex()])
    assert not stands_in(sentence, ["Known carcinoma", "left lung"])
