"""Headers cut at every letter are recognised, and prose is never taken for one; precision and recall are counted."""

import time

import pytest

from dataset_builder.reports.cut_headers import HEADERS, LEAST, cut_header
from dataset_builder.reports.grammar import write_reports
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
MEANINGS = {name: meaning for meaning, names in HEADERS.items() for name in names}
# Which part of a report each meaning ends up in.
PART = {"findings": "findings", "findings and impression": "impression", "impression": "impression"}
PART |= {"conclusion": "impression", "wet read": "impression"}


def cuts(header: str):
    """What is left of a header after each cut from its start and from its end."""
    for letters in range(1, len(header)):
        yield header[letters:].strip()
        yield header[:-letters].strip()


def test_precision_and_recall_over_every_cut_of_every_header():
    right = wrong = missed = 0
    for header, meaning in MEANINGS.items():
        for left in cuts(header):
            if sum(map(str.isalpha, left)) < LEAST:
                continue
            found = cut_header(left)
            if found is None:
                missed += 1
            elif PART.get(found) == PART.get(meaning) or left in MEANINGS or left.split()[-1] in MEANINGS:
                right += 1
            else:
                wrong += 1
    assert right > 800
    assert right / (right + wrong) >= 0.97 and right / (right + missed + wrong) >= 0.95, (right, wrong, missed)


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


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("I MPRESSION", "impression"),
        ("IMPRESSI ON", "impression"),
        ("IMPRESSIOM", "impression"),
        ("lMPRESSION", "impression"),
        ("IMPERSSION", "impression"),
        ("FIDNINGS", "findings"),
        ("INDICATOIN", "other"),
        ("mpression", "impression"),
        ("Impressio", "impression"),
        ("ndication", "other"),
        ("SION", "conclusion"),
        ("ION", None),
        ("S", None),
        ("", None),
    ],
)
def test_misspelt_headers(name, meaning):
    assert cut_header(name) == meaning


@pytest.mark.parametrize("line", PROSE)
def test_prose_is_never_a_header(line):
    report = f"FINDINGS: Clear.\n\nIMPRESSION: No edema.\n{line} More text.\n"
    assert "More text." in read_sections(report).impression or line.startswith("Findings")


def test_no_sentence_of_the_grammar_is_a_header():
    for record in write_reports(400, seed=5):
        for text in (record.impression, record.findings):
            for line in text.replace(". ", ".\n").splitlines():
                assert cut_header(line.rstrip(".")) is None
                assert read_sections(f"IMPRESSION: No edema.\n{line}").impression.endswith(line.strip())


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
