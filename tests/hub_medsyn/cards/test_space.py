import json
from pathlib import Path

import pytest
from huggingface_hub import SpaceCard

from hub_medsyn.cards.render import keep_what_people_wrote
from hub_medsyn.cards.space import space_card
from tests.fixtures.cards import check_card

PAGE = Path(__file__).parents[3] / "spaces_app"


@pytest.fixture
def page(tmp_path) -> Path:
    folder = tmp_path / "spaces_app"
    entry = {
        "splits": {"train": {"num_examples": 1200}, "test": {"num_examples": 34}},
        "reports": {"sources": ["grammar"]},
        "settings": {"text_policy": "public"},
    }
    for path, text in {
        "README.md": '---\ntitle: images\nsdk: gradio\n---\n\n# Images\n\n```python\nClient("http://127.0.0.1:7860")\n```\n',
        "bundle/models/gloria-small/README.md": "---\nlicense: apache-2.0\n---\n",
        "bundle/models/gloria-small/config.json": '{"model_type": "medsyn-gloria"}',
        "bundle/medsyn-cxr/manifest.json": json.dumps({"format": "medsyn-cxr", "configs": {"phantom": entry}}),
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def test_a_space_tells_what_comes_with_it(page):
    card = space_card(page, "org/images")
    check_card(card, "space")
    assert card.data.title == "images" and 'Client("org/images")' in card.text
    model = "spaces_app/bundle/models/gloria-small/README.md"
    assert f"\n| model [`gloria-small`]({model}) | `medsyn-gloria`, licence apache-2.0 |\n" in card.text
    assert "\n| images of `medsyn-cxr, phantom` | 1,234, reports from grammar |\n" in card.text
    said = str(card).replace("<!-- end of notes -->", "Ours.\n<!-- end of notes -->")
    assert keep_what_people_wrote(card, (page / "README.md").read_text(), said).text.count("Ours.") == 1


def test_a_page_without_a_bundle_has_no_such_table(page):
    for path in page.glob("bundle/*/**/*.*"):
        path.unlink()
    assert "What comes with it" not in space_card(page, "org/images").text
    (page / "README.md").unlink()
    with pytest.raises(FileNotFoundError, match="holds no README.md"):
        space_card(page, "org/images")


def test_the_page_of_this_repository_is_one_that_the_hub_takes():
    card = space_card(PAGE, "org/images")
    check_card(card, "space")
    assert card.data.app_file == "app.py" and "127.0.0.1" not in card.text
    assert SpaceCard.load(PAGE / "README.md").data.to_dict() == card.data.to_dict()
