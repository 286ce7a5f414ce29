"""The page as it is built: what it says, what it shows and how it is served."""

from __future__ import annotations

import dataclasses
import os
import re
import socket
from html.parser import HTMLParser
from pathlib import Path

import gradio as gr
import httpx
import numpy as np
import pytest
import yaml
from PIL import Image

from hub_medsyn.inference.grounding import HeatMap
from scripts import page_results as make_results
from spaces_app import app
from spaces_app.bundled import BUNDLE
from spaces_app.guard.uploads import Refused, Upload
from spaces_app.interface import build
from spaces_app.serving import serving, theme
from spaces_app.session import STANDING, Chosen, Session, sentence
from spaces_app.tabs import about as tab_about
from spaces_app.tabs import find as tab_find
from spaces_app.tabs import make as tab_make
from spaces_app.tabs import read as tab_read
from spaces_app.tabs import where as tab_where
from spaces_app.view import tables, viewer
from tests.spaces_app.tiny_page import HOSTILE, image_bytes, workbench

PAGE = Path(tab_about.__file__).parents[1]
TABS = ("tab-read", "tab-where", "tab-find", "tab-make", "tab-about")


class Outline(HTMLParser):
    """Elements with their attributes, and the text, of a piece of HTML."""

    def __init__(self, html: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def of(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def session():
    return Session(workbench(), seed=3)


@pytest.fixture(scope="module")
def page(session):
    return build(session.bench, seed=3)


def values(page: gr.Blocks) -> dict[str, object]:
    return {block.elem_id: getattr(block, "value", None) for block in page.blocks.values() if block.elem_id}


def inside(page: gr.Blocks, tab: str) -> str:
    """All HTML of a tab."""
    (found,) = [block for block in page.blocks.values() if block.elem_id == tab]
    parts, waiting = [], list(found.children)
    while waiting:
        block = waiting.pop()
        waiting += getattr(block, "children", [])
        if isinstance(block, gr.HTML):
            parts.append(str(block.value))
    return "\n".join(parts)


@pytest.mark.parametrize("tab", TABS)
def test_every_tab_says_what_it_is_not_for_and_names_its_pictures(page, tab):
    html = inside(page, tab)
    assert STANDING in html
    outline = Outline(html)
    for picture in outline.of("img"):
        assert picture["alt"].strip() and picture["src"].startswith("data:image/")
    assert not outline.of("script")


def test_the_page_opens_on_an_image_that_is_read_already(page, session):
    found = values(page)
    assert session.first.key == "sample image-0"  # the one with an effusion
    assert "Large left pleural effusion." in found["read-image"]
    table = Outline(found["read-scores"])
    assert "plain" in table.text and "pointing" in table.text and "present" in table.text
    assert len(table.of("td")) == 14 * 3
    assert "Pleural Effusion" in found["read-signs"]
    assert len(Outline(found["make-images"]).of("img")) == 2  # an image and its outlines
    assert found["make-seed"] == 3


def test_every_control_has_a_name_of_its_own(page):
    named = [block.elem_id for block in page.blocks.values() if block.elem_id]
    assert len(named) == len(set(named))
    html = "\n".join(inside(page, tab) for tab in TABS)
    inner = re.findall(r'\bid="([^"]+)"', html)
    assert len(inner) == len(set(inner))
    for tab in ("read", "where", "find", "make"):
        assert f"{tab}-zoom" in inner and f"{tab}-reset" in inner
    outline = Outline(html)
    labelled = {label["for"] for label in outline.of("label")}
    assert {one["id"] for one in outline.of("input")} <= labelled


def test_text_is_never_markup(session):
    one = session.sample("image-2")
    pieces = [
        session.image_html(one, boxes=[(HOSTILE, (1, 2, 3, 4))]),
        viewer.sample_strip("read", session.shown, None),
        viewer.message(HOSTILE),
        viewer.empty_image(HOSTILE),
        tables.similarity_table(HOSTILE, {HOSTILE: [(HOSTILE, 1.0), ("b", 0.0)]}),
        tables.score_table(HOSTILE, {HOSTILE: {HOSTILE: 0.5}}, head=HOSTILE, truth={HOSTILE: 1}, elem_id='"x'),
        tables.plain_table(HOSTILE, [HOSTILE], [[HOSTILE, HOSTILE]]),
        tab_find.reports_html([(session.samples["image-2"], 0.5)], HOSTILE, HOSTILE),
        tab_find.images_html([(session.samples["image-2"], 0.5)], HOSTILE),
    ]
    for piece in pieces:
        outline = Outline(piece)
        assert not outline.of("script")
        assert not [attributes for _, attributes in outline.elements if "onerror" in attributes]
    assert HOSTILE in Outline(pieces[2]).text


def test_bars_and_numbers_tell_scores(session):
    html = tables.score_table("c", {"m": {"A": 0.25, "B": 1.2}}, truth={"A": -1})
    assert "width:25.0%" in html and "width:100.0%" in html and ">0.25<" in html
    assert "uncertain" in html and "not mentioned" in html
    html = tables.similarity_table("c", {"m": [("low", -3.0), ("high", 5.0)]})
    assert "width:8.0%" in html and "width:100.0%" in html and ">-3.00<" in html
    assert "width:100.0%" in tables.similarity_table("c", {"m": [("alone", -3.0)]})


def test_names_of_boxes_do_not_stand_on_each_other():
    picture = Image.new("RGB", (90, 90))
    html = viewer.image_html(picture, "a", boxes=[("mass", (10, 40, 50, 60)), ("nodule", (12, 40, 60, 70))])
    heights = [float(text["y"]) for text in Outline(html).of("text")]
    assert len(heights) == 2 and abs(heights[0] - heights[1]) >= 3
    (drawing,) = Outline(html).of("svg")
    assert drawing["viewbox"] == "0 0 90 90" and drawing["aria-label"] == "Drawn here: mass, nodule"
    colours = {shape["stroke"] for shape in Outline(html).of("rect")}
    assert len(colours) == 2


def test_samples_differ_in_what_they_show(session):
    shown = viewer.varied(list(session.samples.values()), 2)
    assert [one.id for one in shown] == ["image-0", "image-3"]  # the two with a finding of their own


@pytest.mark.parametrize(
    ("row", "column", "output"),
    [
        (0, 0, "upper left of the picture, the patient's right as images hang; that is outside the one box drawn."),
        (
            8,
            9,
            "lower right of the picture, the patient's left as images hang; that is inside the box drawn for mass.",
        ),
        (5, 5, "middle centre of the picture; that is outside the one box drawn."),
    ],
)
def test_the_brightest_place_is_told_in_words(row, column, output):
    values = np.zeros((10, 10), np.float32)
    values[row, column] = 1
    heat = HeatMap(values, values, "x")
    assert tab_where.describe_peak(heat, [("mass", (7.0, 7.0, 10.0, 10.0))]) == f"Highest at the {output}"


def test_a_heat_map_is_blended_by_the_page_and_named(session):
    name, words, heat = tab_where.where(session, session.first, None, " pleural effusion ")
    assert (name, words) == ("pointing", "pleural effusion")
    assert heat.values.shape == session.first.image.pixels.shape


def test_the_page_opens_on_what_models_point_at_best(session):
    effusion, heart = session.samples["image-0"], session.samples["image-1"]
    other = Session(session.bench)
    other.shown = [effusion, dataclasses.replace(heart, boxes=[("cardiomegaly", (8.0, 20.0, 40.0, 44.0))])]
    other.samples = {one.id: one for one in other.shown}
    assert other.first.key == "sample image-1" and tab_where._phrase(other.first) == "cardiomegaly"
    assert tab_where._phrase(session.first) == "pleural effusion"


def test_how_far_a_map_can_be_trusted_is_told_by_the_card(page):
    assert "no measurement of how well it points" in inside(page, "tab-where")
    card = (BUNDLE / "models" / "gloria-small" / "README.md").read_text(encoding="utf-8")
    output = tab_where.trust("gloria-small", card)
    assert "in 17.6% of 153 cases" in output and "Best is cardiomegaly" in output and "tell little of where" in output
    assert output.endswith("Trust no map by itself.") and "\n" not in output


def test_without_a_model_that_points_the_tab_says_what_to_load():
    bench = workbench(grounding=False)
    html = inside(build(bench), "tab-where")
    assert "load a GLoRIA or MGCA with --model" in html
    with pytest.raises(Refused, match="load a GLoRIA or MGCA"):
        tab_where.where(Session(bench), Session(bench).first, None, "effusion")


def test_names_that_are_unknown_are_refused_with_those_that_are_known(session):
    with pytest.raises(Refused, match="there are: plain, pointing"):
        session.known_model("other")
    with pytest.raises(Refused, match="there are: pointing"):
        session.known_model("plain", grounding=True)
    with pytest.raises(Refused, match="image-0"):
        session.sample("../../etc/passwd")
    assert session.known_models([]) == session.known_models(None) == ["plain"]
    assert session.known_models("pointing") == ["pointing"]


def test_an_upload_is_deleted_whether_it_is_read_or_refused(session, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    good, bad = tmp_path / "Jane Doe.png", tmp_path / "Jane Doe.dcm"
    good.write_bytes(image_bytes(1, 64))
    bad.write_bytes(b"no image")
    chosen = session.uploaded(str(good))
    assert chosen.image.name == "your image" and "Jane" not in chosen.alt + chosen.caption + chosen.key
    with pytest.raises(Refused):
        session.uploaded(str(bad))
    assert not list(tmp_path.iterdir())


def test_prompts_stand_one_a_line(session):
    assert tab_read.lines("a\n\n b \na") == ["a", "b"]
    for text in ("", " \n ", None, "x" * 1_000_000, "\n".join("ab"[i % 2] * 301 for i in range(2))):
        with pytest.raises(Refused):
            tab_read.lines(text)
    found = tab_read.similarities(session, session.first, ["plain", "pointing"], ["no effusion", "chest"])
    assert [text for text, _ in found["plain"]] == [text for text, _ in found["pointing"]] == ["no effusion", "chest"]


def test_made_images_tell_what_was_drawn(session):
    made = tab_make.draw(session, "Large left pleural effusion.", None, 2, 5)
    html = tab_make.images_html(made)
    assert "seed 5" in html and "seed 6" in html and "pleural effusion" in html
    assert "left pleural effusion" in tab_make.told_html(made)
    table = Outline(tab_make.reading_html(session, made, "plain"))
    assert "Image 1" in table.text and "Image 2" in table.text
    nothing = tab_make.draw(session, "Hello there.", None, 1, 5)
    assert "so the chest is a normal one" in tab_make.told_html(nothing)


def test_the_short_table_is_that_of_the_results():
    with open(PAGE / "results.csv", encoding="utf-8") as file:
        lines = file.read().splitlines()
    made = make_results.table()
    assert len(lines) == 1 + sum(len(columns) for columns in made.values())
    value, low, high = made["MGCA on phantoms"]["Open-i, no labels"]
    assert f'MGCA on phantoms,"Open-i, no labels",{float(value):.4f},{float(low):.4f},{float(high):.4f}' in lines
    html = tab_about.results_html()
    assert ".75 [.71, .79]" in html and "ridge on pixels" in html and "untrained" not in html


def test_cards_are_shown_without_pictures_and_markup(page):
    shown = [block.value for block in page.blocks.values() if isinstance(block, gr.Markdown)]
    assert len(shown) == 2
    for card in shown:
        assert "badge.example" not in card and "curve.png" not in card and "<b>" not in card and "# p" in card


def test_the_card_of_the_space_tells_versions_and_tabs():
    head, body = (PAGE / "README.md").read_text(encoding="utf-8").split("\n---\n", 1)
    output = yaml.safe_load(head)
    assert output["sdk"] == "gradio" and output["app_file"] == "app.py" and output["license"] == "apache-2.0"
    pinned = (PAGE.parent / "constraints.txt").read_text(encoding="utf-8")
    assert f"gradio=={output['sdk_version']}\n" in pinned
    assert all(f"**{tab}**" in body for tab in ("Read an image", "Where", "Find", "Make", "About"))
    assert STANDING in body and len(output["short_description"]) <= 60


def test_the_requirements_of_the_space_are_those_of_the_package():
    wanted = {line for line in (PAGE / "requirements.txt").read_text().splitlines() if line and line[0] != "#"}
    setup = (PAGE.parent / "setup.cfg").read_text(encoding="utf-8")
    always = setup.split("install_requires =\n")[1].split("\n[")[0].split()
    demo = setup.split("\ndemo =\n")[1].split("\ndocs =")[0].split()
    needed = {line.split(">=")[0] for line in (*always, *demo)} - {"pyyaml"}
    assert {re.split("[<>=]", line)[0] for line in wanted} == needed


def test_nothing_comes_from_elsewhere():
    settings = serving()
    style = theme()
    assert not style._stylesheets
    for text in (settings["head"], style._get_theme_css()):
        assert "//" not in text.replace("http://www.w3.org/2000/svg", "")
    assert settings["allowed_paths"] == [] and settings["blocked_paths"] == [str(PAGE)]
    assert settings["share"] is False and settings["run_history"] is False and settings["show_error"] is False


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


@pytest.mark.parametrize(
    ("ink", "paper"),
    [
        ("body_text_color", "body_background_fill"),
        ("body_text_color_subdued", "body_background_fill"),
        ("body_text_color_subdued", "block_background_fill"),
        ("link_text_color", "body_background_fill"),
        ("block_info_text_color", "block_background_fill"),
        ("input_placeholder_color", "input_background_fill"),
        ("button_primary_text_color", "button_primary_background_fill"),
        ("button_secondary_text_color", "button_secondary_background_fill_hover"),
    ],
)
def test_text_stands_out_from_what_it_stands_on(ink, paper):
    style = theme()
    assert getattr(style, ink) == getattr(style, f"{ink}_dark")  # one look, whatever the browser prefers
    light, dark = sorted((luminance(getattr(style, ink)), luminance(getattr(style, paper))), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_refusals_are_sentences():
    assert sentence(Refused("no image")) == "no image." and sentence(Refused("Why?")) == "Why?"
    assert Chosen(Upload(np.zeros((2, 2), np.uint8), "your image", "shrunk"), "k").caption == "your image · shrunk"


def test_the_command_tells_what_it_takes_and_what_is_wrong(capsys, monkeypatch, tmp_path):
    with pytest.raises(SystemExit) as stop:
        app.main(["--help"])
    output = capsys.readouterr().out
    assert stop.value.code == 0 and all(
        f"--{name}" in output for name in ("model", "dataset", "generator", "host", "port")
    )
    with pytest.raises(SystemExit) as stop:
        app.main(["--seed", "-1"])
    assert stop.value.code == 2
    for name in ("GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY", "GRADIO_TEMP_DIR"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    with pytest.raises(SystemExit):
        app.main(["--port", "65536"])
    assert "65536 is not from 1 to 65535" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert app.main(["--port", str(taken.getsockname()[1])]) == 1
    assert "cannot be listened on: [Errno" in capsys.readouterr().err
    (tmp_path / "bare").mkdir()
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text("{}")
    for asked, said in (
        (["--model", str(tmp_path / "none")], "there is no model folder"),
        (["--model", str(tmp_path / "bare")], f"{tmp_path / 'bare'} is no model that is known"),
        (["--model", str(tmp_path / "odd")], f"{tmp_path / 'odd'} is no model that is known"),
        (["--dataset", "none"], "there is no dataset folder none, and an id on the Hub reads owner/name"),
        (["--generator", str(tmp_path / "none")], "no folder "),
    ):
        assert app.main(asked) == 1
        assert capsys.readouterr().err.splitlines()[-1].startswith(f"medsyn space: {said}")


def test_a_served_page_keeps_to_itself(page, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, server_port=None, **serving())
    try:
        answer = httpx.get(url, timeout=60)
        assert answer.status_code == 200
        assert answer.headers["referrer-policy"] == "no-referrer"
        policy = answer.headers["content-security-policy"]
        assert "default-src 'self'" in policy and "http" not in policy
        outline = Outline(answer.text)
        loaded = [one.get("src") for one in (*outline.of("script"), *outline.of("img"))]
        loaded += [one.get("href") for one in outline.of("link")]
        assert not [place for place in loaded if place and re.match("(https?:)?//", place)]
        assert str(tmp_path) not in answer.text and str(Path.home()) not in answer.text
        for path in ("file=http://127.0.0.1:1/x", "file=https://example.org/", "proxy=https://example.org/"):
            assert httpx.get(f"{url}gradio_api/{path}", timeout=60).status_code == 403
        for path in (PAGE / "app.py", "/etc/passwd", tmp_path / ".." / "x", PAGE.parent / "setup.cfg"):
            assert httpx.get(f"{url}gradio_api/file={path}", timeout=60).status_code in (403, 404)
        assert httpx.get(f"{url}monitoring", timeout=60).status_code in (403, 404)
    finally:
        page.close()
