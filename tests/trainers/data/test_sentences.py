"""Sentences of reports: the published rules against their code's own output, and the one that spares decimals."""

import json

import pytest

from trainers.data.sentences import RULES, split_sentences


@pytest.mark.parametrize(
    ("text", "rule", "sentences"),
    [
        ("A 2.5 cm nodule. No effusion.", "fixed", ["A 2.5 cm nodule.", "No effusion."]),
        ("A 2.5 cm nodule. No effusion.", "convirt", ["A 2", "5 cm nodule", "No effusion"]),
        ("A 2.5 cm nodule. No effusion.", "gloria", ["5 cm nodule", "no effusion"]),
        ("A 2.5 cm nodule. No effusion.", "mgca", ["5 cm nodule", "no effusion"]),
        ("1. Clear lungs.\n2. No edema", "fixed", ["Clear lungs.", "No edema"]),
        ("1. Clear lungs.\n2. No edema", "convirt", ["1", "Clear lungs", "2", "No edema"]),
        ("1. Clear lungs.\n2. No edema", "gloria", ["clear lungs", "no edema"]),
        ("The heart is\nlarge. Is it?  Yes!", "fixed", ["The heart is large.", "Is it?", "Yes!"]),
        ("Heart:\nlarge, stable.", "gloria", ["heart large stable"]),
        ("ET tube 4.1 cm above carina, 12/10/2009.", "gloria", ["et tube", "1 cm above carina 12 10"]),
        ("Na\u00efve read: caf\u00e9. A\ufffd\ufffdB", "gloria", ["nave read caf", "a b"]),
        (
            "\u0441\u0435\u0440\u0434\u0446\u0435 \u0432 \u043d\u043e\u0440\u043c\u0435. No edema",
            "gloria",
            ["no edema"],
        ),
        ("Normal.", "fixed", ["Normal."]),
        ("Normal. Clear.", "gloria", []),
        ("No pneumothorax.", "gloria", ["no pneumothorax"]),
        ("No pneumothorax.", "mgca", []),  # two words in all
        ("No pneumothorax. No edema", "mgca", ["no pneumothorax", "no edema"]),
        ("... 12.", "fixed", []),
        ("one two three four five. then six seven.", "gloria", ["one two three four five", "then six seven"]),
    ],
)
def test_sentences(text, rule, sentences):
    assert split_sentences(text, rule) == sentences


@pytest.mark.parametrize("rule", RULES)
def test_nothing_comes_of_nothing(rule):
    assert split_sentences("", rule) == split_sentences(" \n ", rule) == []


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="'official' is not one of fixed, convirt, gloria, mgca"):
        split_sentences("Clear lungs.", "official")


def test_published_rules_equal_the_golden_sentences(golden):
    published = json.loads((golden / "text_preprocess.json").read_text(encoding="utf-8"))
    for number, impression in enumerate(published["reports_impression"]):
        expected = published["gloria"]["max_word_num=97"]["path2sent"].get(f"p{number}", [])
        assert split_sentences(impression, "gloria") == expected
        both = f"{impression or ' '} {published['findings'][number] or ' '}"
        assert split_sentences(both, "mgca") == published["mgca_path2sent"].get(f"p{number}", [])
