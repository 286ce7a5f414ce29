import hypothesis
import jinja2
import pytest
from huggingface_hub import DatasetCard, DatasetCardData, EvalResult, ModelCard, ModelCardData
from hypothesis import given
from hypothesis import strategies as st

from hub_medsyn.cards import render as cards


@pytest.fixture
def templates(tmp_path, monkeypatch):
    (tmp_path / "toy.md.jinja").write_text(
        "# {{ title }}\n\n| a |\n|---|\n{% for row in rows %}\n| {{ row }} |\n{% endfor %}\n\n"
        "Licence: {{ card_data.license }}\n"
    )
    monkeypatch.setattr(cards.resources, "files", lambda package: tmp_path)


def test_dataset_card_parses_back(templates, tmp_path):
    metadata = DatasetCardData(license="mit", configs=[{"config_name": "default", "data_files": "x.parquet"}])
    card = cards.render_card("toy.md.jinja", metadata, title="Images: <all> & more", rows=["1", "2"])
    assert isinstance(card, DatasetCard)
    card.save(tmp_path / "README.md")
    again = DatasetCard.load(tmp_path / "README.md")
    assert again.data.license == "mit"
    assert again.data.configs == [{"config_name": "default", "data_files": "x.parquet"}]
    # A block's tag leaves no blank line (which would end a Markdown table), and nothing is escaped as HTML.
    assert again.text.strip() == "# Images: <all> & more\n\n| a |\n|---|\n| 1 |\n| 2 |\n\nLicence: mit"


def test_model_card_keeps_its_metrics(templates, tmp_path):
    result = EvalResult(
        task_type="zero-shot-classification",
        dataset_type="medsyn",
        dataset_name="medsyn-cxr",
        metric_type="auroc",
        metric_value=0.71875,
    )
    metadata = ModelCardData(license="apache-2.0", model_name="toy", eval_results=[result])
    card = cards.render_card("toy.md.jinja", metadata, title="t", rows=[])
    assert isinstance(card, ModelCard)
    card.save(tmp_path / "README.md")
    assert ModelCard.load(tmp_path / "README.md").data.eval_results[0].metric_value == 0.71875


def test_a_missing_value_is_an_error(templates):
    with pytest.raises(jinja2.UndefinedError, match="title"):
        cards.render_card("toy.md.jinja", DatasetCardData(license="mit"), rows=[])


def test_a_missing_template_is_named():
    with pytest.raises(FileNotFoundError, match="no_such.md.jinja"):
        cards.render_card("no_such.md.jinja", DatasetCardData())


def section(name: str, text: str = "") -> str:
    inside = f"{text}\n" if text else ""
    return f"<!-- {name}: mine -->\n{inside}<!-- end of {name} -->"


def model_card(text: str = "", **metadata) -> ModelCard:
    data = ModelCardData(**{"license": "mit", **metadata})
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n# A model\n\n{text}\n\n## Terms\n\n{section('terms')}\n")


def test_a_template_has_empty_sections_and_no_blank_runs(tmp_path, monkeypatch):
    (tmp_path / "toy.md.jinja").write_text('# A\n\n{% if no %}\nB\n{% endif %}\n\n{{ notes("notes") }}\n')
    monkeypatch.setattr(cards.resources, "files", lambda package: tmp_path)
    card = cards.render_card("toy.md.jinja", ModelCardData(license="mit"), no=False)
    assert card.text.startswith("\n# A\n\n<!-- notes: ") and card.text.endswith("-->\n<!-- end of notes -->\n")
    kept = cards.keep_what_people_wrote(card, card.content.replace("<!-- end", "Mine.\n<!-- end"))
    assert kept.text == card.text.replace("<!-- end", "Mine.\n<!-- end")


def test_what_people_wrote_goes_into_the_new_card_and_nothing_else_does():
    old = model_card(
        f"Old text.\n\n{section('notes', 'Trained on a rainy day.')}\n", license="mit", tags=["old"], doi="10.5072/1"
    )
    new = model_card(f"New text.\n\n{section('notes')}\n", license="apache-2.0")
    card = cards.keep_what_people_wrote(new, str(old))
    assert isinstance(card, ModelCard) and "Trained on a rainy day." not in new.text
    assert "New text." in card.text and "Old text." not in card.text
    assert card.text.index("Trained on a rainy day.") < card.text.index("<!-- end of notes -->")
    assert card.data.license == "apache-2.0" and card.data.tags is None and card.data.doi == "10.5072/1"
    again = cards.keep_what_people_wrote(card, old, card)
    assert str(again) == str(card), "publishing again changes nothing"


def test_metrics_of_older_weights_are_not_carried_on():
    result = EvalResult("image-classification", "nih", "nih", "auroc", 0.7)
    old = model_card(model_name="a", eval_results=[result])
    assert cards.keep_what_people_wrote(model_card(), old).data.eval_results is None
    kept = cards.keep_what_people_wrote(model_card(model_name="a", eval_results=[result]), model_card())
    assert ModelCard(str(kept)).data.eval_results[0].metric_value == 0.7


def test_a_section_that_the_new_card_lacks_is_kept_at_its_end():
    card = cards.keep_what_people_wrote(model_card("New."), model_card(section("notes", "Mine.\n\n- a list")))
    assert card.text.endswith("Mine.\n\n- a list\n<!-- end of notes -->\n") and card.text.count("end of terms") == 1


def test_a_folder_and_the_hub_may_say_the_same_or_one_of_them_nothing():
    new, said, silent = (model_card(section("notes", text)) for text in ("", "Mine.", ""))
    for old in ((said, silent), (silent, said), (said, said), (said,)):
        assert "Mine." in cards.keep_what_people_wrote(new, *old).text
    windows = str(said).replace("\n", "\r\n")
    assert cards.keep_what_people_wrote(new, windows, said).text.count("Mine.") == 1


def test_two_texts_of_people_for_one_place_are_a_conflict():
    new, one, other = (model_card(section("notes", text)) for text in ("", "Mine.", "Theirs."))
    with pytest.raises(cards.CardConflict, match="the section 'notes' differs between here and there") as caught:
        cards.keep_what_people_wrote(new, one, other, places=("here", "there"))
    assert "Mine" not in str(caught.value) and "Theirs" not in str(caught.value)
    with pytest.raises(cards.CardConflict, match="key 'doi' differs between the folder's README.md and the README.md"):
        cards.keep_what_people_wrote(new, model_card(doi="1"), model_card(doi="2"))
    with pytest.raises(cards.CardConflict, match="'notes' differs between here and the new card"):
        cards.keep_what_people_wrote(one, other, places=("here",))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (section("notes", "Mine.").replace("<!-- end of notes -->", ""), "lacks its first or last line"),
        ("<!-- end of notes -->", "lacks its first or last line"),
        (section("notes", "Mine.").replace("<!-- end of notes", "<!-- end of terms"), "lacks its first or last line"),
        (f"{section('notes', 'Mine.')}\n\n{section('notes', 'More.')}", "has the section 'notes' twice"),
    ],
)
def test_a_section_that_is_not_whole_is_a_conflict_and_not_lost(broken, message):
    with pytest.raises(cards.CardConflict, match=message) as caught:
        cards.keep_what_people_wrote(model_card(), model_card(broken), places=("a/README.md",))
    assert "a/README.md" in str(caught.value) and "Mine" not in str(caught.value)


def test_metadata_that_cannot_be_read_are_a_conflict_that_quotes_nothing():
    with pytest.raises(cards.CardConflict, match="head of a/README.md cannot be read, line 3; mend it") as caught:
        cards.keep_what_people_wrote(model_card(), "---\nlicense: mit\nsecret: [1\n---\n", places=("a/README.md",))
    assert "secret" not in str(caught.value) and caught.value.__cause__ is None


def test_the_questions_of_a_gate_are_ours_until_people_change_them():
    data = DatasetCardData(license="other", **cards.GATE)
    new = DatasetCard(f"---\n{data.to_yaml()}\n---\n")
    assert cards.keep_what_people_wrote(new, str(new)).data.to_dict() == data.to_dict()
    changed = DatasetCard(str(new))
    changed.data.extra_gated_prompt = "Ask Ms Roe."
    card = cards.keep_what_people_wrote(new, new, changed)
    assert card.data.extra_gated_prompt == "Ask Ms Roe."
    assert card.data.extra_gated_fields == cards.GATE["extra_gated_fields"]
    public = DatasetCard("---\nlicense: mit\n---\n")
    assert "extra_gated_prompt" not in cards.keep_what_people_wrote(public, new).data.to_dict()


LINES = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=30)


@given(st.lists(LINES, max_size=6), st.lists(LINES, max_size=6), st.booleans())
def test_whatever_people_write_survives(notes, terms, twice):
    notes, terms = "\n".join(notes), "\n".join(terms)
    hypothesis.assume("<!--" not in notes + terms)
    old = model_card(section("notes", notes)).content.replace(section("terms"), section("terms", terms))
    new = model_card(section("notes"))
    card = cards.keep_what_people_wrote(new, *([old] * (1 + twice)))
    again = cards.keep_what_people_wrote(new, str(card))
    assert str(again) == str(card)
    for text in (notes, terms):
        assert not text.strip() or f"\n{text.strip(chr(10))}\n<!-- end of" in str(card)


CODE = """
Load `gloria` from "gloria".

```python
model = AutoModel.from_pretrained("gloria")
encoder = timm.create_model('local-dir:runs/gloria', pretrained=True)
gloria = load("gloria.png", "gloria_2", "my/gloria")  # gloria
```

```bash
medsyn probe --encoder gloria --out gloria-probe
medsyn export-encoders runs/gloria/
```

<!-- notes: mine -->
```python
AutoModel.from_pretrained("gloria")
```
<!-- end of notes -->

~~~
"gloria"
~~~
"""


def test_examples_load_from_the_hub():
    renamed = cards.renamed_in_code(CODE, {"gloria", "runs/gloria"}, "org/medsyn-gloria")
    changed = {
        'from_pretrained("gloria")\ne': 'from_pretrained("org/medsyn-gloria")\ne',
        "'local-dir:runs/gloria'": "'hf-hub:org/medsyn-gloria'",
        "--encoder gloria --out gloria-probe": "--encoder org/medsyn-gloria --out gloria-probe",
        "export-encoders runs/gloria/": "export-encoders org/medsyn-gloria",
        '~~~\n"gloria"': '~~~\n"org/medsyn-gloria"',
    }
    expected = CODE
    for before, after in changed.items():
        assert expected.count(before) == 1
        expected = expected.replace(before, after)
    assert renamed == expected
    assert cards.renamed_in_code(renamed, {"gloria", "runs/gloria"}, "org/medsyn-gloria") == renamed
    assert cards.renamed_in_code(CODE, (), "org/x") == CODE
