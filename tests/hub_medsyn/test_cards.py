import jinja2
import pytest
from huggingface_hub import DatasetCard, DatasetCardData, EvalResult, ModelCard, ModelCardData

from hub_medsyn import cards


@pytest.fixture
def templates(tmp_path, monkeypatch):
    (tmp_path / "toy.md.jinja").write_text(
        "# {{ title }}\n\n| a |\n|---|\n{% for row in rows %}\n| {{ row }} |\n{% endfor %}\n\n"
        "Licence: {{ card_data.license }}\n"
    )
    monkeypatch.setattr(cards.resources, "files", lambda package: tmp_path)


def test_dataset_card_parses_back(templates, tmp_path):
    metadata = DatasetCardData(license="mit", configs=[{"config_name": "default", "data_files": "x.parquet"}])
    card = cards.render_card("toy.md.jinja", metadata, title="Films: <all> & more", rows=["1", "2"])
    assert isinstance(card, DatasetCard)
    card.save(tmp_path / "README.md")
    again = DatasetCard.load(tmp_path / "README.md")
    assert again.data.license == "mit"
    assert again.data.configs == [{"config_name": "default", "data_files": "x.parquet"}]
    # A block's tag leaves no blank line (which would end a Markdown table), and nothing is escaped as HTML.
    assert again.text.strip() == "# Films: <all> & more\n\n| a |\n|---|\n| 1 |\n| 2 |\n\nLicence: mit"


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
