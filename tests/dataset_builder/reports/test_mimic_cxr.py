import gzip
import json
import zipfile

import pytest

from dataset_builder.build import main
from dataset_builder.reports.funnel import MAX_CHARACTERS, Funnel
from dataset_builder.reports.mimic_cxr import find_mimic_cxr, read_mimic_cxr
from tests.fixtures.report_trees import report, write_mimic_cxr

STUDIES = {
    (10000032, 50414267): (report("No acute process at all."), ["PA", "LATERAL"]),
    (10000032, 53189527): (report("1. Small left effusion. 2. No edema."), ["LATERAL", "AP", "PA"]),
    (10000764, 57375967): (report("Normal chest radiograph."), ["LL"]),
    (11000011, 50000001): (None, ["AP"]),
    (19999987, 50000002): ("FINAL REPORT\n FINDINGS:\n Clear lungs.\n", ["AP"]),
}
SPLITS = {50414267: "validate", 53189527: "validate", 57375967: "test"}
LABELS = {50414267: {"No Finding": 1.0}, 53189527: {"Pleural Effusion": 1.0, "Edema": 0.0, "Pneumonia": -1.0}}


@pytest.mark.parametrize("zipped", [False, True])
def test_a_study_is_a_record(tmp_path, zipped):
    write_mimic_cxr(tmp_path, STUDIES, splits=SPLITS, labels=LABELS, zipped=zipped)
    records = {record.study_id: record for record in read_mimic_cxr(tmp_path)}
    assert list(records) == ["50414267", "53189527", "57375967", "50000002", "50000001"]
    first, second = records["50414267"], records["53189527"]
    assert first.impression == "No acute process at all." and first.subject_id == "10000032"
    assert first.findings == "The heart is normal in size. The lungs are clear."
    assert first.report == report("No acute process at all.") and first.source == "mimic-cxr"
    assert (first.split, first.view, first.unfit) == ("validation", "PA", None)
    assert first.labels["No Finding"] == 1 and first.labels["Edema"] is None and len(first.labels) == 14
    assert second.view == "AP"  # the first frontal image of the metadata
    assert [second.labels[name] for name in ("Pleural Effusion", "Edema", "Pneumonia")] == [1, 0, -1]
    assert records["57375967"].unfit == "no_frontal_film" and records["57375967"].report is None
    assert records["50000001"].unfit == "missing_report"
    assert records["50000002"].split is None and records["50000002"].labels is None
    funnel = Funnel()
    assert [record.study_id for record in funnel(records.values())] == ["50414267", "53189527"]
    summary = funnel.summary()
    assert summary["counts"] == {
        "all": 5,
        "readable": 4,
        "frontal": 3,
        "with_impression": 2,
        "long_enough": 2,
        "unique": 2,
    }
    assert summary["skipped"]["missing_report"] == {"count": 1, "study_ids": ["50000001"]}
    assert summary["impressions_from"] == {"impression": 2}


def test_an_image_is_a_record(tmp_path):
    write_mimic_cxr(tmp_path, STUDIES)
    funnel = Funnel()
    kept = list(funnel(read_mimic_cxr(tmp_path, per="image")))
    assert [(record.study_id.split("_")[0], record.view) for record in kept] == [
        ("50414267", "PA"),
        ("53189527", "AP"),
        ("53189527", "PA"),
    ]
    assert kept[1].impression == kept[2].impression == "Small left effusion. No edema."
    assert kept[1].subject_id == kept[2].subject_id == "10000032"
    assert funnel.counts["all"] == 8 and funnel.counts["frontal"] == 4


@pytest.mark.parametrize("where", ["", "files", "mimic-cxr-reports.zip"])
def test_the_tables_are_found_from_each_place(tmp_path, where):
    write_mimic_cxr(tmp_path, STUDIES, splits=SPLITS, zipped=where.endswith("zip"))
    files = find_mimic_cxr(tmp_path / where)
    assert files.metadata.name == "mimic-cxr-2.0.0-metadata.csv.gz" and files.split and files.chexpert is None
    assert sum(1 for _ in read_mimic_cxr(tmp_path / where)) == 5


def test_every_bad_report_is_named_and_counted(tmp_path):
    bad = STUDIES | {
        (12000000, 51000001): ("IMPRESSION: Fièvre, pas de pneumonie.".encode("latin1"), ["PA"]),
        (12000000, 51000002): ("IMPRESSION: " + "word " * 200_000, ["PA"]),
        (12000000, 51000003): (b"", ["PA"]),
    }
    write_mimic_cxr(tmp_path, bad)
    (tmp_path / "files/p12/p12000000/s51000004.txt").write_text(report())
    funnel = Funnel()
    kept = {record.study_id for record in funnel(read_mimic_cxr(tmp_path))}
    assert kept == {"50414267", "53189527"}
    ids = {reason: entry["study_ids"] for reason, entry in funnel.summary()["skipped"].items()}
    assert ids["not_utf8"] == ["51000001"] and ids["too_long"] == ["51000002"]
    assert ids["missing_metadata"] == ["51000004"] and ids["no_impression"] == ["51000003", "50000002"]
    assert funnel.counts["all"] == 9


def test_a_table_of_a_megabyte_report_is_counted_too():
    from dataset_builder.reports.record import ReportRecord

    funnel = Funnel()
    assert list(funnel([ReportRecord("a", "a", "word " * MAX_CHARACTERS)])) == []
    assert funnel.summary()["skipped"]["too_long"]["study_ids"] == ["a"]


def test_a_damaged_member_of_a_zip_is_counted(tmp_path):
    write_mimic_cxr(tmp_path, STUDIES, zipped=True)
    path = tmp_path / "mimic-cxr-reports.zip"
    with zipfile.ZipFile(path) as archive:
        info = archive.infolist()[0]
        start = info.header_offset + 30 + len(info.filename)
    content = bytearray(path.read_bytes())
    content[start + 5 : start + 25] = bytes(20)
    path.write_bytes(content)
    records = {record.study_id: record for record in read_mimic_cxr(tmp_path)}
    assert records["50414267"].unfit == "broken_file" and records["53189527"].unfit is None


def cut(path, share=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def test_what_is_cut_short_or_missing_is_one_sentence(tmp_path):
    folder = write_mimic_cxr(tmp_path / "zip", STUDIES, zipped=True)
    cut(folder / "mimic-cxr-reports.zip")
    with pytest.raises(ValueError, match="mimic-cxr-reports.zip is cut short or no zip"):
        list(read_mimic_cxr(folder))
    folder = write_mimic_cxr(tmp_path / "csv", STUDIES)
    cut(folder / "mimic-cxr-2.0.0-metadata.csv.gz")
    with pytest.raises(ValueError, match="metadata.csv.gz breaks off or is damaged"):
        list(read_mimic_cxr(folder))
    folder = write_mimic_cxr(tmp_path / "none", STUDIES, metadata=False)
    with pytest.raises(ValueError, match="no mimic-cxr-2.0.0-metadata.csv.gz.*--any-view"):
        list(read_mimic_cxr(folder))
    assert [record.unfit for record in read_mimic_cxr(folder, any_view=True)] == [None] * 4
    with gzip.open(folder / "mimic-cxr-2.0.0-metadata.csv.gz", "wt") as file:
        file.write("dicom_id,study_id,subject_id\na,1,2\n")
    with pytest.raises(ValueError, match="no column 'ViewPosition'"):
        list(read_mimic_cxr(folder))
    with gzip.open(folder / "mimic-cxr-2.0.0-metadata.csv.gz", "wt") as file:
        file.write("dicom_id,study_id,subject_id,ViewPosition\na,x1,2,PA\n")
    with pytest.raises(ValueError, match="row 1: 'x1' is no number"):
        list(read_mimic_cxr(folder))
    with pytest.raises(ValueError, match="per 'patient'"):
        list(read_mimic_cxr(folder, per="patient"))


def test_a_bad_split_or_label_is_named(tmp_path):
    folder = write_mimic_cxr(tmp_path / "a", STUDIES, splits=SPLITS | {50414267: "holdout"})
    with pytest.raises(ValueError, match="split 'holdout'"):
        list(read_mimic_cxr(folder))
    folder = write_mimic_cxr(tmp_path / "b", STUDIES, labels={50414267: {"Edema": 0.5}})
    with pytest.raises(ValueError, match="label '0.5'"):
        list(read_mimic_cxr(folder))


def build(folder, out, *options):
    return main(["--reports", str(folder), "--out", str(out), "--image-size", "32", "--num-proc", "1", *options])


@pytest.fixture
def fake_phantom(monkeypatch):
    from tests.fixtures.generators import FakeGenerator

    monkeypatch.setattr(
        "dataset_builder.generators.phantom.PhantomGenerator",
        lambda image_size: FakeGenerator(image_size=image_size, name="phantom", localizes=False),
    )


def test_the_build_says_what_it_read_and_skipped(tmp_path, capsys, fake_phantom):
    from datasets import load_dataset

    folder = write_mimic_cxr(tmp_path / "mimic", STUDIES, splits=SPLITS, labels=LABELS)
    assert build(folder, tmp_path / "out", "--per", "image") == 0
    output = capsys.readouterr().out
    assert "reports: mimic-cxr, a record an image: 8 all -> 7 readable -> 4 frontal -> 3 with impression" in output
    assert "skipped 1 (missing report): 50000001" in output and "skipped 3 (no frontal film): " in output
    assert "text policy: credentialed\n" in output and "split.csv" not in output
    rows = load_dataset(str(tmp_path / "out"))
    assert {row["study_id"].split("_")[0] for row in rows["validation"]} == {"50414267", "53189527"}
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())["configs"]["phantom"]
    assert manifest["settings"]["source"] == {
        "format": "mimic-cxr",
        "per": "image",
        "any_view": False,
        "metadata": "mimic-cxr-2.0.0-metadata.csv.gz",
        "split": "mimic-cxr-2.0.0-split.csv.gz",
        "chexpert": "mimic-cxr-2.0.0-chexpert.csv.gz",
    }
    assert manifest["reports"]["sources"] == ["mimic-cxr"]


def test_without_the_optional_tables_the_build_says_so(tmp_path, capsys, fake_phantom):
    folder = write_mimic_cxr(tmp_path / "mimic", STUDIES, zipped=True)
    assert build(folder, tmp_path / "out") == 0
    output = capsys.readouterr().out
    assert "no mimic-cxr-2.0.0-split.csv.gz: subjects were split by a hash" in output
    assert "no mimic-cxr-2.0.0-chexpert.csv.gz" in output
    assert build(folder, tmp_path / "b", "--text-policy", "public") == 1
    assert "credentialed" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--per", "image"], ["--any-view"]])
def test_options_of_mimic_cxr_need_reports(options, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--num-samples", "3", *options])
    assert caught.value.code == 2 and f"{options[0]} is for MIMIC-CXR" in capsys.readouterr().err
