"""Prompts: complete, on the right side by the project's own reading of reports, and drawn alike every time."""

import pytest

from dataset_builder.findings import CHEXPERT_LABELS
from dataset_builder.reports.labeler import report_labels
from hub_medsyn.inference.prompts import CLASS_TERMS, DESCRIPTORS, FINDING_PROMPTS, PromptPair, class_prompts

NIH_LABELS = (
    "Atelectasis Cardiomegaly Consolidation Edema Effusion Emphysema Fibrosis Hernia Infiltration Mass Nodule "
    "Pleural_Thickening Pneumonia Pneumothorax"
).split()


def test_every_label_has_prompts_descriptors_and_class_terms():
    wanted = {*CHEXPERT_LABELS, *NIH_LABELS, "COVID-19"}
    assert wanted == set(FINDING_PROMPTS)
    assert list(FINDING_PROMPTS) == list(DESCRIPTORS) == list(CLASS_TERMS)
    for finding, pair in FINDING_PROMPTS.items():
        assert len(pair.positive) >= 3 and len(pair.negative) >= 3, finding
        sides = {text.lower() for text in pair.positive}, {text.lower() for text in pair.negative}
        assert not sides[0] & sides[1]
        assert len(set(DESCRIPTORS[finding])) == len(DESCRIPTORS[finding]) >= 3
        assert not set(DESCRIPTORS[finding]) & set(pair.negative), "a sign that is also its own denial"


@pytest.mark.parametrize("finding", CHEXPERT_LABELS)
def test_wordings_are_read_as_meant(finding):
    pair = FINDING_PROMPTS[finding]
    assert {text: report_labels(text)[finding] for text in pair.positive} == dict.fromkeys(pair.positive, 1)
    denied = {report_labels(text)[finding] for text in pair.negative}
    assert 0 in denied and denied <= {0, None}
    prompts = class_prompts(finding)
    assert [text for text in prompts if report_labels(text)[finding] != 1] == []


def test_prompts_are_short():
    descriptors = [text for signs in DESCRIPTORS.values() for text in signs]
    wordings = [text for pair in FINDING_PROMPTS.values() for text in pair.positive + pair.negative]
    classes = [text for finding in CLASS_TERMS for text in class_prompts(finding)]
    for text in descriptors + wordings + classes:
        assert text == " ".join(text.split()) and 1 <= len(text.split()) <= 12, text
        assert text.isascii() and not text.endswith(".")


def test_class_prompts_are_the_product_in_a_fixed_order():
    for finding, terms in CLASS_TERMS.items():
        prompts = class_prompts(finding)
        assert len(prompts) == len(set(prompts)) == len(terms[0]) * len(terms[1]) * len(terms[2]), finding
        assert len(prompts) >= 5
    effusion = class_prompts("Pleural Effusion")
    assert len(effusion) == 4 * 3 * 3
    assert effusion[:2] == ["pleural effusion on the left", "pleural effusion on the right"]
    assert "small layering effusion on the left" in effusion


def test_a_draw_depends_on_the_seed_and_the_finding_alone():
    first = class_prompts("Edema", 5, seed=6)
    class_prompts("Atelectasis", 5, seed=6)
    assert class_prompts("Edema", 5, seed=6) == first
    assert len(set(first)) == 5 and set(first) <= set(class_prompts("Edema"))
    assert class_prompts("Edema", 5, seed=7) != first
    everything = class_prompts("Edema")
    assert sorted(class_prompts("Edema", len(everything))) == sorted(everything)


def test_errors_name_the_value_and_the_remedy():
    with pytest.raises(ValueError, match="no prompts for 'Scoliosis'; there are some for No Finding, Enlarged"):
        class_prompts("Scoliosis")
    for number in (0, 33):
        with pytest.raises(ValueError, match=f"number={number} .* pass 1 to 32, or None"):
            class_prompts("Edema", number)
    with pytest.raises(ValueError, match="'edema' stands more than once"):
        PromptPair(("edema",), ("no edema", "edema"))
    for broken in ((), ("",), ("edema", " "), "edema"):
        with pytest.raises(ValueError, match="positive wordings"):
            PromptPair(broken, ("no edema",))
        with pytest.raises(ValueError, match="negative wordings"):
            PromptPair(("edema",), broken)
