"""Attacks on a publication without text, by someone with the 1,000 commonest impressions, the code and what is public.

Every attack is run twice: on what is published, where it has to recover nothing, and on what would be published
without the rule that stops it, where it has to succeed; otherwise it would prove nothing.
"""

import hashlib
import hmac
import io
import json
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dataset_builder.build import build
from dataset_builder.findings import CHEXPERT_LABELS
from dataset_builder.generators.radiograph import Radiograph
from dataset_builder.pipeline import shards as assemble
from dataset_builder.pipeline import workspace as folder
from dataset_builder.pipeline.plan import image_seed
from dataset_builder.reports.grammar import write_reports
from dataset_builder.reports.record import ReportRecord
from hub_medsyn.policy import report_hashes as hashes
from hub_medsyn.policy.ids_only import ids_only_problems
from hub_medsyn.policy.report_hashes import report_hash
from hub_medsyn.publishing.repository import Repository
from hub_medsyn.publishing.staging_dataset import DatasetStaging
from tests.fixtures.generators import FakeGenerator
from tests.fixtures.ids_only import long_findings
from tests.fixtures.leaks import found, readable, staged_files
from tests.fixtures.report_trees import report

FORMS = (
    "{0}",
    "IMPRESSION: {0}",
    "FINDINGS: IMPRESSION: {0}",
    "FINDINGS: {0}\nIMPRESSION: {0}",
    "FINDINGS:\n{0}\n\nIMPRESSION:\n{0}",
    "                                 FINAL REPORT\n FINDINGS:\n\n {0}\n\n IMPRESSION:\n\n {0}\n",
)
GENERATOR = FakeGenerator(image_size=8, localizes=False)  # small, so that many images can be drawn
STOCK = (
    "The lungs are clear.",
    "The heart is normal in size. The lungs are clear. No pneumothorax or pleural effusion.",
)


def commonest(texts: list[str], number: int = 1000) -> list[str]:
    return [text for text, _ in Counter(texts).most_common(number)]


@pytest.fixture(scope="module")
def dictionary() -> list[str]:
    return commonest([record.impression for record in write_reports(4000, seed=5)])


def victims(dictionary: list[str], number: int = 60) -> list[ReportRecord]:
    """
    Studies whose impressions are all in the dictionary: a third with stock findings, a third with reports that hold
    nothing but the impression, a third with findings of their own.
    """
    chance = random.Random(3)
    records = []
    for index in range(number):
        impression = chance.choice(dictionary[:40])
        whole = (
            report(impression, chance.choice(STOCK)),
            chance.choice(FORMS).format(impression),
            report(impression, long_findings(index)),
        )[index % 3]
        records.append(ReportRecord(f"s{index:04d}", f"p{index:04d}", impression, report=whole, source="hospital"))
    return records


def published(out) -> dict[str, bytes]:
    with DatasetStaging(out) as staging:
        return staged_files(staging.files(Repository("your-org/medsyn-cxr", "dataset")))


def rows_of(files: dict[str, bytes]) -> list[dict]:
    tables = [pq.read_table(io.BytesIO(files[name])) for name in sorted(files) if name.endswith(".parquet")]
    return [row for table in tables for row in table.to_pylist()]


@pytest.fixture(scope="module")
def release(tmp_path_factory, dictionary) -> tuple[dict[str, bytes], list[ReportRecord]]:
    out = tmp_path_factory.mktemp("release") / "medsyn-cxr"
    records = victims(dictionary)
    build(records, GENERATOR, out, text_policy="ids-only")
    return published(out), records


def digests(text: str, study: str, image: str) -> set[str]:
    """What anyone would try of a text: plain, with the ids, as key and as message, in the usual hashes."""
    found = set()
    salted = [
        text,
        text.lower(),
        text.upper(),
        text.rstrip("."),
        f"{study}{text}",
        f"{study} {text}",
        f"{text}{study}",
    ]
    salted += [json.dumps([study, text]), f"{image}{text}", f"{study}:{text}", f"{study}\n{text}", f"{text}\n"]
    for each in salted:
        for name in ("sha256", "md5"):
            found.add(hashlib.new(name, each.encode()).hexdigest())
    for key, message in ((text, study), (study, text), (text, text), (text, json.dumps([study, text]))):
        found.add(hmac.new(key.encode(), message.encode(), "sha256").hexdigest())
    return found


def recovered_by_hashes(files: dict[str, bytes], dictionary: list[str], studies: int) -> int:
    """
    Studies of which some candidate's digest, alone or as the key of a whole report, is among what is published. Those
    with a hash are attacked first.
    """
    output = {word for view in readable(files) for word in view.split() if len(word) >= 32}
    output |= {word.strip("\"',:;{}[]()") for word in output}
    count = 0
    for row in sorted(rows_of(files), key=lambda row: row["report_hash"] is None)[:studies]:
        study, image = row["study_id"], row["image_id"]
        for candidate in dictionary:
            guesses = digests(candidate, study, image)
            for form in (*FORMS, *(report("{0}", findings) for findings in STOCK)):
                guessed = form.format(candidate)
                message = json.dumps([study, candidate]).encode()
                guesses.add(hmac.new(guessed.encode(), message, hashlib.sha256).hexdigest())
                guesses.add(hashlib.sha256(guessed.encode()).hexdigest())
            if guesses & output:
                count += 1
                break
    return count


def test_no_hash_is_that_of_a_common_impression(release, dictionary, tmp_path, monkeypatch):
    files, records = release
    assert {record.impression for record in records} <= set(dictionary)
    assert any(row["report_hash"] for row in rows_of(files)), "some rows do have a hash to attack"
    assert recovered_by_hashes(files, dictionary, studies=5) == 0

    # Without a minimum of words, hashes of stock reports are found; with a plain hash, all of them are.
    monkeypatch.setattr(hashes, "MIN_OTHER_WORDS", 0)
    monkeypatch.setattr(
        "hub_medsyn.policy.report_hashes.report_hashes", lambda rows: [report_hash(*row[:3]) for row in rows]
    )
    build(records, FakeGenerator(localizes=False), tmp_path / "weak", text_policy="ids-only")
    assert recovered_by_hashes(published(tmp_path / "weak"), dictionary[:40], studies=60) >= 30
    plain = [hashlib.sha256(record.impression.encode()).hexdigest() for record in records]
    monkeypatch.setattr("hub_medsyn.policy.report_hashes.report_hashes", lambda rows: plain)
    build(records, FakeGenerator(localizes=False), tmp_path / "plain", text_policy="ids-only")
    assert recovered_by_hashes(published(tmp_path / "plain"), dictionary[:40], studies=60) == 60


def test_no_word_of_a_common_impression_is_told(release, dictionary):
    files, records = release
    texts = {record.impression for record in records} | {record.report for record in records}
    assert not found(texts, readable(files))
    assert found(texts, [f"It says: {records[0].impression.upper()}"]) == [records[0].impression]
    rows = rows_of(files)
    assert {tuple(row) for row in rows} == {("image", "image_id", "study_id", "subject_id", "report_hash")}
    for name in files:
        assert name in ("README.md", "manifest.json", "assets/samples-fake.png") or name.startswith("data/fake/")


def pixels(content: bytes) -> bytes:
    with Image.open(io.BytesIO(content)) as image:
        return image.tobytes()


def numbers_in(files: dict[str, bytes]) -> set[int]:
    """All whole numbers that can be read in a publication."""
    found = set()
    for name in ("README.md", "manifest.json"):
        text = files[name].decode()
        found |= {int(word) for word in "".join(c if c.isdigit() else " " for c in text).split() if len(word) < 19}
    return {number for number in found if number < 2**63}


def recovered_by_drawing(files, generator, dictionary, seeds, studies: int) -> int:
    """Studies whose image some candidate and seed give again, pixel by pixel."""
    count = 0
    for row in rows_of(files)[:studies]:
        image = pixels(row["image"]["bytes"])
        study = row["study_id"]
        for candidate in dictionary:
            record = ReportRecord(study, row["subject_id"], candidate, source="hospital")
            condition = generator.condition(record)
            tried = {
                image_seed(seed, mode, study, condition) for seed in seeds for mode in ("study", "prompt", "fixed")
            }
            if any(generator([record], [seed])[0].image.tobytes() == image for seed in tried):
                count += 1
                break
    return count


def test_no_image_can_be_drawn_again(release, dictionary, tmp_path):
    files, records = release
    seeds = {0, 1, 42, 1234, 2**63 - 1} | {number for number in numbers_in(files) if number > 99}
    likely = dictionary[:40]
    assert recovered_by_drawing(files, GENERATOR, likely, seeds, studies=3) == 0
    # Candidates among which the right one is, and the whole dictionary for a single study and the likeliest seeds.
    assert recovered_by_drawing(files, GENERATOR, dictionary, {0, 42}, studies=1) == 0

    manifest = build(records, GENERATOR, tmp_path / "open", text_policy="credentialed")  # base seed 0
    problems = ids_only_problems("fake", manifest["configs"]["fake"])
    assert any("can be guessed" in problem for problem in problems)
    shards = (tmp_path / "open").glob("data/fake/*.parquet")
    open_files = {f"data/fake/{path.name}": path.read_bytes() for path in shards}
    assert recovered_by_drawing(open_files, GENERATOR, likely, {0}, studies=5) == 5, "a known seed gives every image"


def test_no_phantom_can_be_drawn_again(tmp_path):
    from dataset_builder.generators.phantom import PhantomGenerator

    generator = PhantomGenerator(image_size=64)
    texts = ["Large left pleural effusion."]  # a phantom takes a second: the likely impression that is the right one
    records = [ReportRecord("s1", "p1", texts[0], source="hospital")]
    build(records, generator, tmp_path / "secret", text_policy="ids-only", splits=(1, 0, 0))
    assert recovered_by_drawing(published(tmp_path / "secret"), generator, texts, {0}, studies=1) == 0
    build(records, generator, tmp_path / "open", splits=(1, 0, 0))
    files = {path.name: path.read_bytes() for path in (tmp_path / "open").glob("data/phantom/*.parquet")}
    assert recovered_by_drawing(files, generator, texts, {0}, studies=1) == 1


def test_equal_impressions_have_no_equal_images(release, tmp_path):
    files, records = release
    images = [pixels(row["image"]["bytes"]) for row in rows_of(files)]
    assert len({record.impression for record in records}) < len(records) == len(images) == len(set(images))
    assert len({row["report_hash"] for row in rows_of(files) if row["report_hash"]}) > 5

    repeats = {"allow_cross_split_repeats": True}
    with pytest.raises(ValueError, match="do not go together"):
        build(records, FakeGenerator(), tmp_path / "d", text_policy="ids-only", seed_mode="prompt", **repeats)
    for mode in ("prompt", "fixed"):
        out = tmp_path / mode
        manifest = build(
            records, FakeGenerator(), out, seed="secret" if mode == "prompt" else 0, seed_mode=mode, **repeats
        )
        problems = ids_only_problems("fake", manifest["configs"]["fake"])
        assert any("equal images reveal equal texts" in problem for problem in problems)
        assert any("repeat others" in problem for problem in problems)


def same_secret(monkeypatch) -> None:
    monkeypatch.setattr(folder.secrets, "randbits", lambda bits: 2**bits - 12345)


def test_the_order_of_rows_tells_nothing(tmp_path, monkeypatch, dictionary):
    """A table sorted by its text gives, byte for byte, the publication of the same table in any other order."""
    same_secret(monkeypatch)
    monkeypatch.setattr(assemble, "ROW_GROUP", 7)
    monkeypatch.setattr(assemble, "SHARD_BYTES", 12_000)
    records = victims(dictionary, 30)
    orders = {
        "sorted": sorted(records, key=lambda record: record.impression),
        "shuffled": random.Random(1).sample(records, len(records)),
    }
    releases = {}
    for name, order in orders.items():
        build(order, FakeGenerator(localizes=False), tmp_path / name / "d", text_policy="ids-only")
        releases[name] = published(tmp_path / name / "d")
    assert sum(name.endswith(".parquet") for name in releases["sorted"]) > 2
    assert releases["sorted"] == releases["shuffled"]
    # In the order of the table, as public text is kept, neighbours would have equal texts.
    build(orders["sorted"], FakeGenerator(localizes=False), tmp_path / "open", text_policy="public", splits=(1, 0, 0))
    kept = pq.read_table(next((tmp_path / "open").glob("data/fake/*.parquet"))).column("prompt").to_pylist()
    assert kept == sorted(kept)
    problems = ids_only_problems("fake", json.loads((tmp_path / "open/manifest.json").read_text())["configs"]["fake"])
    assert any("in the order of the reports" in problem for problem in problems)


class StudyGenerator(FakeGenerator):
    """Draws from the study's id alone, so that whatever differs between two releases comes from their text."""

    def _image(self, record: ReportRecord, seed: int) -> Radiograph:
        digest = hashlib.sha256(record.study_id.encode()).digest()
        return Radiograph(np.random.default_rng(list(digest)).integers(0, 200, (16, 16), dtype=np.uint8))


PRESENT = dict.fromkeys(CHEXPERT_LABELS, 1)
TEXTS = st.lists(st.text(min_size=1, max_size=12).map(lambda word: f"w{word}"), min_size=3, max_size=30).map(" ".join)


@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(texts=st.lists(TEXTS, min_size=4, max_size=4), findings=TEXTS, table=st.text(max_size=30))
def test_text_changes_nothing_but_images_and_hashes(tmp_path_factory, texts, findings, table):
    """Of two datasets that differ in their text alone, the publications are the same, byte for byte."""
    with pytest.MonkeyPatch.context() as patch:
        same_secret(patch)
        records = [ReportRecord(f"s{n}", f"p{n}", "No acute process.", source="hospital") for n in range(4)]
        changed = [
            replace(record, impression=text, findings=findings, source=f"b{table}", labels=PRESENT, report=text)
            for record, text in zip(records, texts, strict=True)
        ]
        files = []
        for some, source in (
            (records, {"table": "a.csv"}),
            (changed, {"table": table, "impression_column": findings}),
        ):
            out = tmp_path_factory.mktemp("same") / "medsyn-cxr"
            build(some, StudyGenerator(localizes=False), out, text_policy="ids-only", source=source, min_tokens=1)
            files.append(published(out))
    assert files[0] == files[1]


@pytest.mark.real
def test_open_i(real_data, tmp_path):
    """The 1,000 commonest impressions of Open-i, and of findings too, against reports of Open-i as key."""
    path = real_data / "openi_iu" / "reports.jsonl"
    if not path.exists():
        pytest.skip("no reports of Open-i")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows = [row for row in rows if row["impression"] and row["findings"]]
    known, held = rows[::2], rows[1::2]
    form = "FINDINGS: {}\nIMPRESSION: {}"
    impressions = commonest([row["impression"] for row in known])
    findings = set(commonest([row["findings"] for row in known]))
    reports = [
        (form.format(row["findings"], row["impression"]), row["impression"], f"CXR{row['uid']}", f"CXR{row['uid']}")
        for row in held
    ]
    keyed = hashes.report_hashes(reports)
    assert sum(each is not None for each in keyed) > 50
    likely = set(impressions)
    guessed = [
        row
        for row, each in zip(held, keyed, strict=True)
        if row["findings"] in findings and row["impression"] in likely
    ]
    assert len(guessed) > 300, "pairs of common findings and impressions that somebody could try"
    assert [each for row, each in zip(held, keyed, strict=True) if each and row in guessed] == []

    records = [
        ReportRecord(study, subject, prompt, report=whole, source="openi")
        for (whole, prompt, study, subject), row in zip(reports, held, strict=True)
        if row["impression"] in likely
    ]
    records = [record for record in records if len(record.impression.split()) >= 3][:200]
    build(records, GENERATOR, tmp_path / "d", text_policy="ids-only")
    files = published(tmp_path / "d")
    assert recovered_by_hashes(files, impressions, studies=5) == 0
    assert recovered_by_drawing(files, GENERATOR, impressions, {0, 42}, studies=1) == 0
    assert not found({record.impression for record in records}, readable(files))
