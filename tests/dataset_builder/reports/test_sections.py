import time

import pytest

from dataset_builder.reports.sections import read_sections
from dataset_builder.reports.text import clean_impression

WHOLE = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PORTABLE AP)

 INDICATION:  ___ year old man with cough  // ? pneumonia

 COMPARISON:  ___

 FINDINGS:

 The heart measures 15.5 cm. LUNGS: Clear.

 {header}

 1.  A 2.5 cm nodule, as on 12.10.2009.
 2.  No effusion

 NOTIFICATION:  Dr. ___ was told at 4:35 PM.

 He was told again.
"""


@pytest.mark.parametrize(
    "header",
    [
        "IMPRESSION:",
        "IMPRESSION",
        "Impression:",
        "IMPRESSIONS:",
        "IMPRESION:",
        "FINAL IMPRESSION:",
        "CONCLUSION:",
        "IMPRESSION: ",
        "SUMMARY:",
    ],
)
def test_headers_of_the_impression(header):
    sections = read_sections(WHOLE.format(header=header))
    assert clean_impression(sections.impression) == "A 2.5 cm nodule, as on 12.10.2009. No effusion"
    assert clean_impression(sections.findings) == "The heart measures 15.5 cm. LUNGS: Clear."
    assert sections.impression_from in ("impression", "conclusion")


@pytest.mark.parametrize(
    ("report", "impression", "findings", "origin"),
    [
        # both in one
        ("FINDINGS/IMPRESSION:  Normal.", "Normal.", "", "findings and impression"),
        ("FINDINGS AND IMPRESSION:\n\n Clear lungs.", "Clear lungs.", "", "findings and impression"),
        ("IMPRESSION / FINDINGS: Fine.", "Fine.", "", "findings and impression"),
        # several: the last that holds words wins
        ("IMPRESSION: Old.\n\n IMPRESSION: New.\n", "New.", "", "impression"),
        ("IMPRESSION: Old.\n\n IMPRESSION: ___\n", "Old.", "", "impression"),
        (
            "FINAL ADDENDUM\n ADDENDUM: Seen again.\n\n Told.\n ____________\n FINAL REPORT\n IMPRESSION: Edema.",
            "Edema.",
            "",
            "impression",
        ),
        # the wet read counts where nothing else does
        (
            "WET READ: ___ ___ 9:17 PM\n  Heart large.\n ____________\n FINAL REPORT\n CHEST",
            "Heart large.",
            "",
            "wet read",
        ),
        ("WET READ VERSION #1 ___ 8:26 PM\n  Heart large.\n", "Heart large.", "", "wet read"),
        (
            "WET READ: ___ 9:17 PM\n  Heart large.\n\n WET READ VERSION #1\n ____________\n IMPRESSION: Heart normal.",
            "Heart normal.",
            "",
            "impression",
        ),
        # findings alone
        ("FINDINGS: As compared, no change.", "", "As compared, no change.", ""),
        ("FINDINGS\n\n Clear lungs.\n\n IMPRESSION:\n", "", "Clear lungs.", ""),
        ("COMPARISON: None.\n\n PA AND LATERAL CHEST:  Clear lungs.", "", "Clear lungs.", ""),
        ("CHEST, AP:  Clear.\n\n IMPRESSION:  Normal.", "Normal.", "Clear.", "impression"),
        # no header for the text
        (
            "FINAL REPORT\n AP CHEST, 8:12 A.M., ___\n\n HISTORY: ___.\n\n The heart is large.\n\n No effusion.",
            "No effusion.",
            "The heart is large.",
            "last paragraph",
        ),
        (
            "REASON FOR EXAM: Cough.\n\n Comparison is made with prior study performed a day ago.\n\n Clear lungs.",
            "Clear lungs.",
            "",
            "last paragraph",
        ),
        (
            "INDICATION: Cough.\n\n The heart is large.\n\n IMPRESSION: Edema.",
            "Edema.",
            "The heart is large.",
            "impression",
        ),
        ("Normal.", "Normal.", "", "last paragraph"),
        ("No acute process.\nClear lungs.", "No acute process. Clear lungs.", "", "last paragraph"),
        # a whole report on one line
        ("HISTORY: Cough. FINDINGS: Clear lungs. IMPRESSION: Normal.", "Normal.", "Clear lungs.", "impression"),
        # words that look like headers
        ("IMPRESSION: Edema.\n ETT: 4 cm above the carina.", "Edema. ETT: 4 cm above the carina.", "", "impression"),
        ("IMPRESSION: Effusion.\n findings of edema remain.", "Effusion. findings of edema remain.", "", "impression"),
        ("IMPRESSION: Edema.\n CHF: improved.", "Edema. CHF: improved.", "", "impression"),
        ("PRE-OP: Knee.\n\n IMPRESSION: Normal.", "Normal.", "", "impression"),
        ("IMPRESSION: Edema, as in the\n Report\n of May.", "Edema, as in the Report of May.", "", "impression"),
        # cut headers
        ("FINDINGS: Clear.\n\n IMPRESSION:\n NDICATION: Cough and fever.", "", "Clear.", ""),
        ("IMPRESSION: Normal.\n NDICATION: Cough and fever.", "Normal.", "", "impression"),
        ("IMPRESSION: Normal.\n ndication: Cough.\n mparison: None.", "Normal.", "", "impression"),
        ("INDINGS: Clear.\n\n MPRESSION: Normal.", "Normal.", "Clear.", "impression"),
        ("findin: Clear.\n\n impres: Normal.", "Normal.", "Clear.", "impression"),
        ("INDICATIO\n\n Cough.\n\n FINDIN\n\n Clear.\n\n IMPRESSIO\n\n Normal.", "Normal.", "Clear.", "impression"),
        ("HISTORY Cough\n\nFINDINGS Clear lungs.\n\nIMPRESSION Normal.", "Normal.", "Clear lungs.", "impression"),
        ("History Cough\n\nFindings Clear lungs.\n\nImpression Normal.", "Normal.", "Clear lungs.", "impression"),
        ("I M P R E S S I O N : Normal.", "Normal.", "", "impression"),
        ("FIND INGS:: Clear.\n IMPRES SION;  Normal.", "Normal.", "Clear.", "impression"),
        ("**FINDINGS**: Clear.\n\n**IMPRESSIO**: Normal.", "Normal.", "Clear.", "impression"),
        ("ET READ VERSION #1 ___ 8:26 PM\n Heart large.", "Heart large.", "", "wet read"),
        ("ISTORY: Cough. INDINGS: Clear lungs. MPRESSION: Normal.", "Normal.", "Clear lungs.", "impression"),
        # questions
        ("HISTORY: Cough.\n\n Pneumonia?\n\n MPRESSION: Normal.", "Normal.", "", "impression"),
        ("HISTORY: Cough.\n\n Is there pneumonia?", "", "", ""),
        ("HISTORY: Cough.\n\n ? pneumonia", "", "", ""),
        ("ISTORY: Cough.\n\n Please evaluate for pneumonia.", "", "", ""),
        ("HISTORY: Cough.\n\n ___ year old man. Fever. Pneumonia?\n\n Clear.", "Clear.", "", "last paragraph"),
        # no headers within sentences
        (
            "IMPRESSION: Edema with these\n findings: effusion.",
            "Edema with these findings: effusion.",
            "",
            "impression",
        ),
        (
            "IMPRESSION: NO ACUTE CARDIOPULMONARY\n FINDINGS.\n NO EDEMA",
            "NO ACUTE CARDIOPULMONARY FINDINGS. NO EDEMA",
            "",
            "impression",
        ),
        # nothing
        ("", "", "", ""),
        ("FINAL REPORT\n CHEST RADIOGRAPH\n\n INDICATION: Cough.\n", "", "", ""),
        ("___", "", "", ""),
    ],
)
def test_habits(report, impression, findings, origin):
    sections = read_sections(report)
    assert (clean_impression(sections.impression), clean_impression(sections.findings)) == (impression, findings)
    assert sections.impression_from == origin


def test_line_ends_do_not_matter():
    report = WHOLE.format(header="IMPRESSION:")
    for end in ("\r\n", "\r"):
        assert read_sections(report.replace("\n", end)) == read_sections(report)


def test_the_grammar_is_read_back():
    from dataset_builder.reports.grammar import write_reports

    for record in write_reports(300, seed=3):
        sections = read_sections(record.report)
        assert clean_impression(sections.impression) == clean_impression(record.impression)
        assert clean_impression(sections.findings) == clean_impression(record.findings)
        assert sections.impression_from == "impression"


@pytest.mark.parametrize(
    "piece",
    [
        "IMPRESSION: x\n",
        "A ",
        "\n",
        " \n \n",
        "CHEST: ",
        "_",
        "FINDINGS ",
        "word ",
        "IMPRES:\n",
        ". IMPRES",
        ":",
        "x. ? ",
        "*",
        "IMPRESSION" + 33_000 * " ",
    ],
)
def test_long_reports_are_read_in_seconds(piece):
    start = time.process_time()
    read_sections(piece * (100_000 // len(piece)))  # as long as the readers let a report be
    assert time.process_time() - start < 5
