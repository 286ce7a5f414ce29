"""Reports with a cut header read as with the whole one, and prose is never taken for a header."""

import time

import pytest

from dataset_builder.reports.sections import read_sections

PROSE = [
    "Impression of the left ventricle on the esophagus:",
    "History of asthma: stable.",
    "Comparison is made with the prior study:",
    "Findings: as above.",
    "The findings are: edema.",
    "LUNGS: Clear.",
    "HEART: Large.",
    "RIGHT: Effusion.",
    "ETT: 4 cm above the carina.",
    "CHF: improved.",
    "CT: not done.",
    "COPD: known.",
    "IV: line in place.",
    "ICD: leads intact.",
    "SWAN: in the main pulmonary artery.",
    "PORT: tip in the cavoatrial junction.",
    "NOTE: rotated.",
    "RUL: collapse.",
    "Tip: in place.",
    "Read by the resident:",
    "tion of the lungs: unchanged",
    "Ion: none.",
    "Summation of shadows: likely.",
    "Indicated: follow-up.",
    "Conclusive: no.",
    "Examined: twice.",
    "Compared: larger.",
    "Techs: two.",
    "Ending: fourth rib.",
    "10:30 AM: seen.",
    "EDEMA: mild.",
    "EFFUSION: left.",
    "PNEUMOTHORAX: none.",
    "LINES AND TUBES: unchanged.",
    "BONES: intact.",
    "SCOLIOSIS",
    "CARDIOMEGALY",
    "UNCHANGED",
]
LEAST = 4  # letters that must be left
NAMES = ("IMPRESSION", "FINDINGS", "INDICATION", "HISTORY", "COMPARISON", "TECHNIQUE")


@pytest.mark.parametrize(
    ("header", "letters"), [(name, cut) for name in NAMES for cut in (1, 2, 3, 4) if len(name) - cut >= LEAST]
)
@pytest.mark.parametrize("end", ["start", "end"])
def test_a_report_with_a_cut_header_is_read_as_before(header, letters, end):
    whole = (
        "EXAMINATION: CHEST\n\nINDICATION: Cough and fever.\n\nHISTORY: Asthma.\n\nCOMPARISON: None.\n\n"
        "TECHNIQUE: Two views.\n\nFINDINGS: Lungs are clear.\n\nIMPRESSION: No pneumonia.\n"
    )
    left = header[letters:] if end == "start" else header[:-letters]
    for line in (f"{left}:", f"{left}: ", f" {left} :"):
        cut = whole.replace(f"{header}: ", line + " ")
        sections = read_sections(cut)
        assert (sections.impression, sections.findings) == ("No pneumonia.", "Lungs are clear.")


@pytest.mark.parametrize("left", ["NDICATION", "INDICATIO", "HISTOR", "ISTORY", "LINICAL HISTORY", "EASON FOR EXAM"])
def test_what_follows_the_impression_stays_out_of_it(left):
    for report in (
        f"FINDINGS: Clear.\n\nIMPRESSION: No edema.\n\n{left}: Cough and fever.\n",
        f"FINDINGS: Clear.\n\nIMPRESSION:\nNo edema.\n{left}: Cough and fever.\n",
        f"FINDINGS: Clear.\n\nIMPRESSION:\nNo edema.\n{left}\nCough and fever.\n",
    ):
        assert read_sections(report).impression == "No edema."


@pytest.mark.parametrize("line", PROSE)
def test_prose_is_never_a_header(line):
    report = f"FINDINGS: Clear.\n\nIMPRESSION: No edema.\n{line} More text.\n"
    assert "More text." in read_sections(report).impression or line.startswith("Findings")


@pytest.mark.parametrize(
    "question",
    [
        "Question pneumonia?",
        "? pneumonia",
        "Evaluate for pneumothorax.",
        "Rule out pneumonia.",
        "Is there an effusion?",
    ],
)
def test_a_question_under_the_history_is_no_impression(question):
    sections = read_sections(f"FINAL REPORT\n HISTORY: Cough.\n\n {question}\n")
    assert (sections.impression, sections.findings) == ("", "")


def test_many_lines_that_look_like_headers_are_read_in_seconds():
    report = "".join(f"{chr(65 + k % 26)}MPRESSION{k}Q X{k * 7919 % 100003}: a\n" for k in range(4000))
    start = time.process_time()
    read_sections(report)
    assert time.process_time() - start < 5
