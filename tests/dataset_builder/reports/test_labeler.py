import time

import pytest

from dataset_builder.findings import CHEXPERT_LABELS, Finding
from dataset_builder.reports.labeler import is_normal, label_evidence, read_findings, report_labels

MAYBE = {"certainty": -1}


def absent(*kinds):
    return {Finding(kind, certainty=0) for kind in kinds}


def effusion(side=None, severity=None, certainty=1):
    return Finding("pleural effusion", side, severity=severity, certainty=certainty)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        # denial and its reach
        (
            "No focal consolidation, pleural effusion or pneumothorax.",
            absent("consolidation", "pleural effusion", "pneumothorax"),
        ),
        ("Lungs are clear without consolidation or effusion.", absent("opacity", "consolidation", "pleural effusion")),
        ("The lungs are free of focal infiltrate.", absent("opacity")),
        ("Negative for pneumothorax.", absent("pneumothorax")),
        ("Pneumothorax is not seen.", absent("pneumothorax")),
        ("Left pneumothorax has resolved.", {Finding("pneumothorax", "left", certainty=0)}),
        ("Interval removal of the endotracheal tube.", absent("endotracheal tube")),
        ("No pneumothorax, small left effusion.", absent("pneumothorax") | {effusion("left", "mild")}),
        ("No pneumothorax but a small left effusion.", absent("pneumothorax") | {effusion("left", "mild")}),
        ("No pneumothorax. Small left effusion.", absent("pneumothorax") | {effusion("left", "mild")}),
        ("No change in the large right effusion.", {effusion("right", "severe")}),
        ("The heart is mildly enlarged without edema.", {Finding("cardiomegaly", severity="mild")} | absent("edema")),
        ("Heart is not enlarged.", absent("cardiomegaly")),
        ("The heart, mediastinum and hila are within normal limits.", absent("cardiomegaly")),
        # doubt
        ("Possible small left effusion.", {effusion("left", "mild", -1)}),
        ("A small left effusion cannot be excluded.", {effusion("left", "mild", -1)}),
        (
            "Small left effusion is not excluded, no pneumothorax.",
            {effusion("left", "mild", -1)} | absent("pneumothorax"),
        ),
        (
            "Possible right effusion and mild cardiomegaly.",
            {effusion("right", certainty=-1), Finding("cardiomegaly", severity="mild")},
        ),
        (
            "Left basilar atelectasis versus pneumonia.",
            {Finding("atelectasis", "left", "lower", **MAYBE), Finding("pneumonia", "left", "lower", **MAYBE)},
        ),
        (
            "Right lower lobe opacity may represent pneumonia.",
            {Finding("opacity", "right", "lower"), Finding("pneumonia", "right", "lower", **MAYBE)},
        ),
        (
            "Consolidation in the lingula, which may be due to pneumonia.",
            {Finding("consolidation", "left", "middle"), Finding("pneumonia", "left", "middle", **MAYBE)},
        ),
        (
            "Right base opacity may be compatible with pneumonia.",
            {Finding("opacity", "right", "lower"), Finding("pneumonia", "right", "lower", **MAYBE)},
        ),
        ("No definite pneumothorax.", absent("pneumothorax")),
        # place and size
        ("Patchy opacity in the right upper lobe.", {Finding("opacity", "right", "upper")}),
        ("RML consolidation.", {Finding("consolidation", "right", "middle")}),
        ("Bibasilar atelectasis.", {Finding("atelectasis", "bilateral", "lower")}),
        ("Small left apical pneumothorax.", {Finding("pneumothorax", "left", "upper", "mild")}),
        ("Retrocardiac opacity.", {Finding("opacity", "left", "lower")}),
        (
            "Moderate right and small left pleural effusions.",
            {effusion("right", "moderate"), effusion("left", "mild")},
        ),
        ("Bilateral effusions, left greater than right.", {effusion("bilateral")}),
        (
            "Opacities in the right upper and left lower lobes.",
            {Finding("opacity", "right", "upper"), Finding("opacity", "left", "lower")},
        ),
        (
            "Cardiomegaly with moderate right and small left effusions.",
            {Finding("cardiomegaly"), effusion("right", "moderate"), effusion("left", "mild")},
        ),
        ("Left effusion and atelectasis.", {effusion("left"), Finding("atelectasis", "left")}),
        ("Large left effusion and a small hiatal hernia.", {effusion("left", "severe")}),
        ("Aorta is tortuous, with mild cardiomegaly.", {Finding("cardiomegaly", severity="mild")}),
        ("A 2.5 cm nodule in the left upper lobe.", {Finding("nodule", "left", "upper")}),
        # devices
        (
            "Right internal jugular line with tip in the right atrium. NG tube in the stomach. ETT above the carina.",
            {
                Finding("central venous catheter", "right"),
                Finding("nasogastric tube"),
                Finding("endotracheal tube"),
            },
        ),
        ("Left chest wall pacemaker, leads in the right ventricle.", {Finding("pacemaker", "left")}),
        # not said of this image, or not of the lungs
        ("Evaluate for pneumonia.", set()),
        ("History of heart failure.", set()),
        ("Recommend CT to rule out a mass.", set()),
        ("Subcutaneous emphysema over the left chest.", set()),
        ("Decreased bone density.", set()),
        ("Right shoulder hardware. Mild degenerative changes.", set()),
        ("", set()),
        ("???", set()),
    ],
)
def test_read_findings(text, found):
    assert set(read_findings(text)) == found


def test_statements_on_one_thing_are_joined():
    text = "There is a moderate effusion on the left. Left effusion. No large effusion."
    assert read_findings(text) == (effusion("left", "moderate"),)
    assert read_findings("Bilateral effusions. Small right effusion. Large left effusion.") == (
        effusion("right", "mild"),
        effusion("left", "severe"),
    )
    assert read_findings("Possible left effusion. Small left effusion.") == (effusion("left", "mild"),)
    assert len(read_findings("Right upper lobe opacity. Left lower lobe opacity.")) == 2


def test_evidence_is_where_the_text_says_so():
    text = "The heart is normal.\n\nThere is a small left pleural effusion. No pneumothorax or edema."
    evidence = {finding.kind: text[slice(*finding.evidence)] for finding in read_findings(text)}
    assert evidence == {
        "cardiomegaly": "heart is normal",
        "pleural effusion": "pleural effusion",
        "pneumothorax": "No pneumothorax",
        "edema": "No pneumothorax or edema",
    }


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("No acute cardiopulmonary process.", True),
        ("Normal.", True),
        ("The lungs are clear.", True),
        ("Right PICC. No acute process.", True),
        ("No acute process. Small effusion.", False),
        ("Possible pneumonia.", False),
        ("As discussed.", False),
        ("", False),
    ],
)
def test_is_normal(text, normal):
    assert is_normal(text) is normal


def test_labels():
    labels = report_labels("Moderate cardiomegaly. Possible left basilar pneumonia. No pneumothorax. PICC in place.")
    assert list(labels) == list(CHEXPERT_LABELS)
    assert {name: value for name, value in labels.items() if value is not None} == {
        "No Finding": 0,
        "Enlarged Cardiomediastinum": 1,
        "Cardiomegaly": 1,
        "Lung Opacity": -1,
        "Pneumonia": -1,
        "Pneumothorax": 0,
        "Support Devices": 1,
    }
    assert report_labels("No acute cardiopulmonary process.")["No Finding"] == 1


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("Biapical pleural thickening.", {"Pleural Other": 1, "No Finding": 0}),
        ("Calcified pleural plaques. No acute process.", {"Pleural Other": 1, "No Finding": 0}),
        ("No pleural thickening.", {"Pleural Other": 0, "No Finding": None}),
        ("Possible pleural scarring.", {"Pleural Other": -1}),
        ("Right chest tube in place. No acute process.", {"Support Devices": 1, "No Finding": 1}),
        ("The left chest tube has been removed.", {"Support Devices": 0}),
        ("Monitoring and support devices are unchanged.", {"Support Devices": 1}),
        ("Right base opacity, infection cannot be excluded.", {"Lung Opacity": 1, "Pneumonia": -1}),
        ("Opacity, atelectasis or infection.", {"Pneumonia": -1}),
        ("Calcified nodes from prior granulomatous infection.", {"Pneumonia": None}),
        ("Cavitary lesion in the left apex.", {"Lung Lesion": 1}),
        ("Widened mediastinum.", {"Enlarged Cardiomediastinum": 1, "Cardiomegaly": None}),
        ("No mediastinal widening.", {"Enlarged Cardiomediastinum": 0}),
        ("Vascular redistribution.", {"Edema": 1}),
        ("Left hemothorax.", {"Pleural Effusion": 1, "Pneumothorax": None}),
        ("Pleural effusions, if any, are small.", {"Pleural Effusion": -1}),
        ("Small pleural effusions are presumed.", {"Pleural Effusion": -1}),
        ("Sensitivity to detect pneumothorax is diminished.", {"Pneumothorax": None}),
    ],
)
def test_labels_of_what_is_not_drawn_or_in_doubt(text, labels):
    read = report_labels(text)
    assert {name: read[name] for name in labels} == labels


def test_every_label_but_no_finding_has_its_evidence():
    text = "Possible effusion. No pneumothorax.\n\nRight lower lobe pneumonia. Chest tube. Moderate effusion."
    evidence = {name: text[start:end] for name, (start, end) in label_evidence(text).items()}
    assert evidence == {
        "Pneumothorax": "No pneumothorax",
        "Lung Opacity": "pneumonia",
        "Pneumonia": "pneumonia",
        "Support Devices": "Chest tube",
        "Pleural Effusion": "effusion",
    }
    assert label_evidence(text)["Pleural Effusion"][0] > text.index("Moderate")  # present beats the doubt before it
    valued = {name for name, value in report_labels(text).items() if value is not None}
    assert set(evidence) == valued - {"No Finding"}


def test_what_is_not_drawn_is_no_finding():
    assert read_findings("Biapical pleural thickening. Right chest tube. Infection. Widened mediastinum.") == ()


@pytest.mark.parametrize("piece", ["effusion, ", "no ", "\n", "heart ", "possible left ", "x"])
def test_a_megabyte_is_read_in_seconds(piece):
    start = time.process_time()
    read_findings(piece * (1_000_000 // len(piece)))
    assert time.process_time() - start < 10


@pytest.mark.real
def test_open_i_codes_are_found(real_data, tmp_path):
    import csv

    from benchmarks.labeler_openi import main

    assert main(["--data", str(real_data / "openi_iu"), "--out", str(tmp_path / "scores.csv")]) == 0
    rows = list(csv.DictReader(open(tmp_path / "scores.csv")))
    macro = [row for row in rows if row["label"].startswith("macro")]
    assert [row["reading"] for row in macro] == ["present", "present or uncertain"]
    assert float(macro[0]["f1"]) > 0.85 and float(macro[1]["f1"]) > 0.82
    kept = [row for row in rows if row["reading"] == "present" and row["coded"] and row["read"] == "True"]
    assert all(float(row["f1"]) > 0.7 for row in kept if int(row["coded"]) >= 20)
