import pytest

from dataset_builder.findings import CHEXPERT_LABELS, Finding
from dataset_builder.pipeline.rows import text_labels
from dataset_builder.reports.funnel import Funnel
from dataset_builder.reports.openi import read_openi
from dataset_builder.reports.record import ReportRecord
from dataset_builder.reports.sources import open_reports
from tests.fixtures.report_trees import report, write_mimic_cxr, write_openi

OPENI = {
    10: ("The XXXX are clear.", "Normal chest x-XXXX."),
    2: ("", "1. Small effusion. 2. No acute disease."),
    3: ("Heart is large.", ""),
}


def test_open_i(tmp_path):
    folder = write_openi(tmp_path / "NLMCXR_reports", OPENI) / "ecgen-radiology"
    (folder / "4.xml").write_text("<eCitation><uId")
    (folder / "5.xml").write_text("<html/>")
    (folder / "6.xml").write_text("<a>" + "x" * 200_000 + "</a>")
    funnel = Funnel()
    kept = list(funnel(read_openi(tmp_path)))
    assert [(record.study_id, record.impression) for record in kept] == [
        ("CXR2", "Small effusion. No acute disease."),
        ("CXR10", "Normal chest x-ray."),
    ]
    assert kept[1].findings == "The are clear." and kept[1].subject_id == "CXR10" and kept[1].source == "openi"
    ids = {reason: entry["study_ids"] for reason, entry in funnel.summary()["skipped"].items() if entry["count"]}
    assert ids == {"no_impression": ["CXR3"], "broken_file": ["4"], "not_a_report": ["5"], "too_long": ["6"]}


def test_what_a_path_holds_is_recognised(tmp_path):
    mimic = write_mimic_cxr(tmp_path / "mimic", {(10000032, 50414267): (report(), ["PA"])})
    openi = write_openi(tmp_path / "openi", OPENI)
    table = tmp_path / "tables" / "one.jsonl"
    table.parent.mkdir()
    table.write_text('{"impression": "No acute process."}\n')
    for path, found, number in (
        (mimic, {"format": "mimic-cxr", "per": "study"}, 1),
        (openi, {"format": "openi"}, 3),
        (table, {"table": "one.jsonl"}, 1),
        (table.parent, {"table": "one.jsonl"}, 1),
    ):
        records, source = open_reports(path)
        assert found.items() <= source.items() and len(list(records)) == number


def test_what_is_nothing_of_the_sort_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="holds neither MIMIC-CXR .* nor Open-i .*, and no table"):
        open_reports(tmp_path)
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("impression\nNo acute process.\n")
    with pytest.raises(ValueError, match=r"2 tables \(a.csv, b.csv\); name one"):
        open_reports(tmp_path)
    with pytest.raises(ValueError, match="a.csv is a table, to which per does not apply"):
        open_reports(tmp_path / "a.csv", per="image")
    with pytest.raises(FileNotFoundError, match="no reports at"):
        open_reports(tmp_path / "absent")
    openi = write_openi(tmp_path / "openi", OPENI)
    with pytest.raises(ValueError, match="is Open-i, to which column does not apply"):
        open_reports(openi, columns={"impression_column": "x"})


def test_labels_are_the_sources_then_the_scenes_then_the_texts():
    shipped = dict.fromkeys(CHEXPERT_LABELS) | {"Edema": -1}
    scene = (Finding("pacemaker"), Finding("edema", certainty=0))
    record = ReportRecord("a", "a", "Large right effusion.", findings="No pneumothorax", labels=shipped, scene=scene)
    assert text_labels(record) == shipped
    of_scene = text_labels(ReportRecord("a", "a", "Large right effusion.", scene=scene))
    assert (of_scene["No Finding"], of_scene["Support Devices"], of_scene["Edema"]) == (1, 1, 0)
    assert of_scene["Pleural Effusion"] is None
    assert text_labels(ReportRecord("a", "a", "x", scene=(Finding("edema", certainty=-1),)))["No Finding"] is None
    # a section without a full stop ends where the next begins
    of_text = text_labels(ReportRecord("a", "a", "Large right effusion.", findings="No pneumothorax"))
    assert (of_text["Pneumothorax"], of_text["Pleural Effusion"]) == (0, 1)


@pytest.mark.parametrize("suffix", ["jpg", "dcm"])
def test_a_tree_of_images_says_where_the_reports_are(tmp_path, suffix):
    image = tmp_path / "files" / "p10" / "p10000032" / "s50414267" / f"a.{suffix}"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"")
    words = "ships no reports. They are in mimic-cxr-reports.zip of MIMIC-CXR"
    for path in (tmp_path, tmp_path / "files"):
        with pytest.raises(ValueError, match=words):
            open_reports(path)
    tables = tmp_path / "tables"
    tables.mkdir()
    for name in ("metadata", "split", "chexpert"):
        (tables / f"mimic-cxr-2.0.0-{name}.csv.gz").write_bytes(b"")
    with pytest.raises(ValueError, match=words):
        open_reports(tables)


@pytest.mark.parametrize("nothing", ["", "nan", "None"])
def test_an_openi_report_without_an_id_is_named_as_its_file(tmp_path, nothing):
    folder = write_openi(tmp_path, {7: ("Clear.", "No disease."), 8: ("N/A", nothing)})
    for file in (folder / "ecgen-radiology").iterdir():
        file.write_text(file.read_text().replace(f'id="CXR{file.stem}"', f'id="{nothing}"'))
    funnel = Funnel(min_tokens=1)
    assert [record.study_id for record in funnel(read_openi(folder))] == ["7"]
    assert funnel.skipped["no_impression"]["study_ids"] == ["8"]
