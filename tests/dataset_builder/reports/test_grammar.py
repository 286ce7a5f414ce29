import re
from collections import Counter
from itertools import islice

import pytest

from dataset_builder.findings import ABSENT, KINDS, UNCERTAIN, Finding, chexpert_labels
from dataset_builder.reports.funnel import Funnel
from dataset_builder.reports.grammar import write_report, write_reports
from dataset_builder.reports.labeler import read_findings, report_labels
from dataset_builder.reports.phrases import DEVICES
from dataset_builder.reports.text import clean_impression

MIDLINE = ("cardiomegaly", "edema", "emphysema", "endotracheal tube", "nasogastric tube")


@pytest.fixture(scope="module")
def records():
    return list(write_reports(1500, seed=11))


def stated(record):
    return [finding for finding in record.scene if finding.certainty != ABSENT]


def pathology(record):
    return [finding for finding in stated(record) if finding.kind not in DEVICES]


def test_the_reader_reads_every_scene_back(records):
    for record in records:
        assert set(read_findings(f"{record.findings} {record.impression}")) == set(record.scene), record


def test_labels_of_text_and_scene_agree(records):
    for record in records:
        labels = report_labels(f"{record.findings} {record.impression}")
        assert labels == chexpert_labels(record.scene, normal=not pathology(record)), record


def test_a_record_depends_on_seed_and_number_alone(records):
    assert [write_report(index, 11) for index in (0, 7, 1499)] == [records[0], records[7], records[1499]]
    assert list(islice(write_reports(10**9, seed=11), 5)) == records[:5]
    assert [record.report for record in write_reports(20, seed=12)] != [record.report for record in records[:20]]


def test_ids_and_subjects(records):
    assert records[0].study_id == "g0000001" and records[-1].study_id == "g0001500"
    studies = Counter(record.subject_id for record in records)
    assert set(studies.values()) == {1, 2, 3}
    assert studies.most_common()[-1][1] == 1


def test_texts_are_clean_and_pass_the_funnel(records):
    assert len(list(Funnel()(records))) == len(records)
    for record in records:
        assert clean_impression(record.impression) == record.impression
        assert clean_impression(record.findings) == record.findings


def test_form_of_the_whole_report(records):
    for record in records[:200]:
        places = [record.report.index(f" {name}:  ") for name in ("EXAMINATION", "INDICATION", "COMPARISON")]
        places += [record.report.index(f" {name}:  ") for name in ("FINDINGS", "IMPRESSION")]
        assert places == sorted(places) and "FINAL REPORT" in record.report[: places[0]]
        assert clean_impression(record.report[places[4] + 14 :]) == record.impression
        assert clean_impression(record.report[places[3] + 12 : places[4]]) == record.findings
        examination = re.findall(r"\b(?:AP|PA)\b", record.report[places[0] : places[1]])
        assert examination == [record.view]


def test_every_finding_but_devices_stands_in_findings_and_impression(records):
    for record in records:
        for section in (record.findings, record.impression):
            kinds = {finding.kind for finding in read_findings(section) if finding.certainty != ABSENT}
            assert kinds >= {finding.kind for finding in pathology(record)}, record


def test_scenes_are_sane(records):
    for record in records:
        assert not {f.kind for f in stated(record)} & {f.kind for f in record.scene if f.certainty == ABSENT}
        for kind in {finding.kind for finding in stated(record)}:
            same = [finding for finding in stated(record) if finding.kind == kind]
            assert len(same) == len({(finding.side, finding.zone) for finding in same})
            sides = {finding.side for finding in same}
            assert sides <= ({None} if kind in MIDLINE else {"left", "right", "bilateral", None})
            assert "bilateral" not in sides or len(same) == 1
        for finding in record.scene:
            if finding.certainty == ABSENT:
                assert finding == Finding(finding.kind, certainty=ABSENT)


def test_shares_are_those_of_a_hospital(records):
    share = {
        kind: sum(any(f.kind == kind for f in stated(record)) for record in records) / len(records) for kind in KINDS
    }
    assert share.pop("fracture") == 0
    assert all(0.003 < value < 0.3 for value in share.values()), share
    assert 0.35 < sum(not pathology(record) for record in records) / len(records) < 0.5
    assert 0.3 < sum(record.view == "AP" for record in records) / len(records) < 0.5
    assert 0.02 < sum(any(f.certainty == UNCERTAIN for f in record.scene) for record in records) / len(records) < 0.2
    failing = [record for record in records if any(f.kind == "edema" for f in stated(record))]
    assert sum(any(f.kind == "cardiomegaly" for f in stated(record)) for record in failing) / len(failing) > 0.6
    tubes = [record for record in records if any(f.kind == "endotracheal tube" for f in stated(record))]
    assert {record.view for record in tubes} == {"AP"}
    assert sum(any(f.kind == "nasogastric tube" for f in stated(record)) for record in tubes) / len(tubes) > 0.5


def test_impressions_repeat_as_real_ones_do_and_vary_where_there_is_something_to_say(records):
    train, test = records[:1200], records[1200:]
    seen = {record.impression for record in train}
    assert 0.4 < sum(record.impression in seen for record in test) / len(test) < 0.65
    top = Counter(record.impression for record in records).most_common(20)
    assert 0.3 < sum(count for _, count in top) / len(records) < 0.5
    abnormal = [record.impression for record in records if pathology(record)]
    assert len(set(abnormal)) / len(abnormal) > 0.85


def test_a_number_below_zero_is_refused():
    assert list(write_reports(0)) == []
    with pytest.raises(ValueError, match="num_samples -1"):
        write_reports(-1)
