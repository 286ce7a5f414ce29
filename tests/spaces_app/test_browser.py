"""Every tab in headless Chromium, used as a person would, on the models and images that come with the page.

Screenshots stay in the folder that MEDSYN_SCREENSHOTS names, or in pytest's own for the run.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import warnings
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from dataset_builder.findings import Finding
from dataset_builder.generators.phantom import PhantomGenerator
from spaces_app.bundled import bundle_paths
from spaces_app.interface import build
from spaces_app.serving import serving
from spaces_app.workbench import Workbench

TABS = ("read", "where", "find", "make", "about")
SCRIPT = "<script>window.ran = 1</script><img src=x onerror='window.ran = 2'>"
PATIENCE = 60_000  # milliseconds that an answer may take on a busy machine
ARGUMENTS = ["--no-sandbox", "--disable-background-networking", "--disable-dev-shm-usage"]
FOCUS = """() => {
  const one = document.activeElement, style = getComputedStyle(one);
  const ring = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2;
  const host = one.closest('[id]');
  return {id: host ? host.id : '', tag: one.tagName, ring, chip: one.dataset.chip || '', type: one.type || ''};
}"""


@pytest.fixture(scope="module")
def uploads(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="module")
def address(uploads):
    bundle = bundle_paths()[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(uploads))
        page = build(Workbench.start(list(bundle.models.values()), bundle.dataset))
        _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, **serving())
        yield url
        page.close()


@pytest.fixture(scope="module")
def browser(address):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        chromium = None
    if not chromium:
        output = "no playwright or no chromium here: the page is tested in no browser"
        warnings.warn(output, stacklevel=1)
        pytest.skip(output)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def shots(tmp_path_factory) -> Path:
    folder = Path(os.environ.get("MEDSYN_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def visit(browser, address):
    """Opens the page at a width; at the end nothing was fetched from elsewhere, nothing failed, no script of a visitor
    ran and every picture has a name."""
    contexts, output, reached = [], [], []

    def opened(width: int = 1280, height: int = 900, before: str = ""):
        context = browser.new_context(viewport={"width": width, "height": height}, reduced_motion="reduce")
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda line: output.append(line.text) if line.type == "error" else None)
        page.on("pageerror", lambda error: output.append(str(error)))
        page.on("request", lambda request: reached.append(request.url))
        page.add_init_script(before)
        page.goto(address)
        page.locator("#read-score-table").wait_for()
        return page

    yield opened
    for context in contexts:
        for page in context.pages:
            assert page.evaluate("window.ran") is None
            nameless = page.evaluate(
                "[...document.images].filter(i => !i.alt.trim()).map(i => i.outerHTML.slice(0, 99))"
            )
            assert not nameless
        context.close()
    assert not output
    hosts = {urlsplit(url).hostname for url in reached if not url.startswith(("data:", "blob:"))}
    assert hosts == {urlsplit(address).hostname}


def go(page, tab: str) -> None:
    page.locator(f"#tab-{tab}-button").click()
    page.locator(f"#tab-{tab}").wait_for()


def shown(page, tab: str, alt: str | re.Pattern):
    """The image of a tab, once it is the one with this alternative text."""
    image = page.locator(f"#{tab}-image").get_by_alt_text(alt)
    image.first.wait_for()
    return image.first


def pick(page, tab: str, number: int) -> str:
    """Presses a sample and waits for its image; gives its impression."""
    button = page.locator(f"#{tab}-sample-{number}")
    button.click()
    impression = button.get_attribute("title")
    shown(page, tab, re.compile(re.escape(impression)))
    return impression


def column(page, table: str, number: int = -1) -> dict[str, float]:
    """The numbers of a column of scores, by what their rows are called."""
    rows = page.locator(f"#{table} tbody tr").evaluate_all(
        "rows => rows.map(row => [...row.cells].map(cell => cell.innerText.trim()))"
    )
    return {cells[0]: float(cells[number]) for cells in rows}


def place(page, selector: str) -> list[float]:
    """Where an element is on the page, wherever that is scrolled to."""
    return page.locator(selector).evaluate(
        "one => { const at = one.getBoundingClientRect(); return [at.x, at.y + scrollY, at.width, at.height]; }"
    )


def picture(locator) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(locator.screenshot())).convert("RGB")).astype(int)


def slide(page, elem_id: str, value: int) -> None:
    page.locator(f"#{elem_id}").fill(str(value))


def phantom_png() -> bytes:
    image = PhantomGenerator(image_size=256).render([Finding("pneumothorax", "right", None, "severe")], 3, view="PA")
    held = io.BytesIO()
    Image.fromarray(np.asarray(image.image)).save(held, "PNG")
    return held.getvalue()


def hand_in(page, tab: str, name: str, content: bytes) -> None:
    file = {"name": name, "mimeType": "application/octet-stream", "buffer": content}
    page.locator(f"#{tab}-upload input[type=file]").set_input_files(file)


def test_read_a_sample_its_signs_and_ones_own_words(visit, shots):
    page = visit()
    frame = place(page, "#read-image .image-stage")
    before = column(page, "read-score-table")
    assert len(before) == 14 and all(0 <= score <= 1 for score in before.values())
    assert page.locator("#read-samples [aria-pressed=true]").count() == 1
    impression = pick(page, "read", 10)
    page.get_by_text("Findings in phantom-b00010").wait_for()
    assert impression in page.locator("#read-image figcaption").inner_text()
    assert column(page, "read-score-table") != before
    assert place(page, "#read-image .image-stage") == frame  # nothing jumped
    assert page.locator("#read-samples [aria-pressed=true]").get_attribute("id") == "read-sample-10"

    page.locator("#read-finding input").click()
    page.get_by_role("option", name="Pneumothorax").click()
    page.locator("#read-sign-table").get_by_text("visible pleural line").wait_for()
    assert len(page.locator("#read-sign-table thead th").all()) == 3  # both models beside the signs

    page.locator("#read-texts textarea").fill(f"right pleural effusion\n{SCRIPT}")
    page.locator("#read-compare").click()
    page.locator("#read-similarity-table").wait_for()
    assert set(column(page, "read-similarity-table")) == {"right pleural effusion", SCRIPT}
    page.screenshot(path=shots / "read.png", full_page=True)

    page.locator("#read-models").get_by_label("gloria-small").uncheck()
    page.wait_for_function("document.querySelectorAll('#read-score-table thead th').length === 3")
    assert "gloria-small" not in page.locator("#read-score-table").inner_text()


def test_the_image_is_never_dimmed_while_the_page_opens(visit):
    watch = """new MutationObserver(() => {
      if (document.querySelector('.pending #read-score-table, .pending .image-base')) window.dimmed = true;
    }).observe(document, {subtree: true, childList: true, attributes: true, attributeFilter: ['class']})"""
    page = visit(before=watch)
    page.wait_for_timeout(1000)
    assert page.evaluate("window.dimmed") is None


def test_the_view_of_an_image_changes_in_the_browser(visit):
    page = visit()
    stage = page.locator("#read-image .image-stage")
    plain = picture(stage)
    slide(page, "read-brightness", 150)
    assert picture(stage).mean() > plain.mean() + 10
    page.locator("#read-invert").check()
    assert picture(stage).mean() < 150
    page.locator("#read-reset").click()
    assert page.locator("#read-brightness").input_value() == "100"
    assert abs(picture(stage) - plain).mean() < 0.5
    slide(page, "read-zoom", 300)
    width, inner = stage.evaluate("one => [one.clientWidth, one.scrollWidth]")
    assert inner == pytest.approx(3 * width, abs=4)


def test_an_image_of_ones_own_is_read_in_every_tab(visit, uploads, shots):
    page = visit()
    hand_in(page, "read", "Jane Doe.png", phantom_png())
    shown(page, "read", "Chest image, your image")
    page.get_by_text("Findings in your image").wait_for()
    assert len(column(page, "read-score-table")) == 14
    assert "Jane" not in page.locator("body").inner_text()
    assert page.locator("#read-samples [aria-pressed=true]").count() == 0
    assert not [path for path in uploads.rglob("*") if "Jane" in path.name and path.is_file()]
    page.screenshot(path=shots / "read_upload.png")
    for tab in ("where", "find"):
        go(page, tab)
        shown(page, tab, "Chest image, your image")
    assert page.locator("#find-report-list li").count() > 0


@pytest.mark.real
@pytest.mark.parametrize("kind", ["jpeg", "dicom"])
def test_a_real_image_is_read(visit, real_data, shots, kind):
    folder, name = (real_data / "openi_iu" / "images", "*.jpg") if kind == "jpeg" else (real_data / "dicom", "*.dcm")
    file = min(folder.glob(name))
    page = visit()
    hand_in(page, "read", file.name, file.read_bytes())
    shown(page, "read", "Chest image, your image")
    page.get_by_text("Findings in your image").wait_for()
    assert file.stem not in page.locator("body").inner_text()
    pixels = picture(page.locator("#read-image .image-stage"))
    assert pixels.std() > 20  # an image, no blank
    page.screenshot(path=shots / f"read_real_{kind}.png")


def test_what_is_no_image_is_refused_in_a_sentence(visit, uploads, shots):
    page = visit()
    first = page.locator("#read-image .image-base").get_attribute("src")
    hand_in(page, "read", "Jane Doe.png", b"This is a letter.")
    alert = page.locator("#read-image-message [role=alert]")
    alert.wait_for()
    output = alert.inner_text()
    assert "no picture" in output and output.endswith(".") and "Jane" not in output
    assert page.locator("#read-image .image-base").get_attribute("src") == first
    assert not [path for path in uploads.rglob("*") if "Jane" in path.name and path.is_file()]
    page.screenshot(path=shots / "refused.png")
    hand_in(page, "read", "image.png", phantom_png())
    shown(page, "read", "Chest image, your image")
    assert page.locator("#read-image-message [role=alert]").count() == 0


def ask(page, phrase: str) -> None:
    page.locator("#where-phrase input, #where-phrase textarea").fill(phrase)
    page.locator("#where-go").click()


def test_where_a_phrase_is(visit, shots):
    page = visit()
    go(page, "where")
    shown(page, "where", re.compile("^Heat map of"))
    pick(page, "where", 10)
    ask(page, "pleural effusion")
    heat = shown(page, "where", re.compile("^Heat map of “pleural effusion” by gloria-small. Highest at the"))
    stage = page.locator("#where-image .image-stage")
    page.locator("#where-boxes").uncheck()
    assert page.locator("#where-image svg").is_hidden()
    slide(page, "where-over", 0)
    bare = picture(stage)
    slide(page, "where-over", 50)
    half = picture(stage)
    slide(page, "where-over", 100)
    assert abs(picture(stage) - bare).mean() > 1.5 * abs(half - bare).mean() > 1
    page.locator("#where-boxes").check()
    assert page.locator("#where-image svg").get_attribute("aria-label") == "Drawn here: pleural effusion"
    page.screenshot(path=shots / "where.png")

    old = heat.get_attribute("src")
    ask(page, f"heart {SCRIPT}")
    page.locator("#where-told").get_by_text("“heart <script>").wait_for()
    assert shown(page, "where", re.compile("^Heat map of “heart")).get_attribute("src") != old
    page.locator("#where-examples button").nth(1).click()
    shown(page, "where", re.compile("^Heat map of “pneumothorax”"))
    ask(page, " ")
    page.locator("#where-told [role=alert]").get_by_text("is empty").wait_for()


def test_find_reports_for_an_image_and_images_for_words(visit, shots):
    page = visit()
    go(page, "find")
    page.locator("#find-report-list").wait_for()
    pick(page, "find", 10)
    page.locator("#find-number input[type=number]").fill("4")
    page.locator("#find-reports-go").click()
    page.wait_for_function("document.querySelectorAll('#find-report-list li').length === 4")
    cosines = [float(one) for one in re.findall(r"cosine (-?\d\.\d+)", page.locator("#find-reports").inner_text())]
    assert len(cosines) == 4 and cosines == sorted(cosines, reverse=True)
    page.locator("#find-words textarea").fill("Left upper zone pneumonia.")
    page.locator("#find-images-go").click()
    page.wait_for_function("document.querySelectorAll('#find-image-list li').length === 4")
    assert all("Its report" in one.get_attribute("alt") for one in page.locator("#find-image-list img").all())
    page.screenshot(path=shots / "find.png", full_page=True)
    page.locator("#find-words textarea").fill("x" * 5000)
    page.locator("#find-images-go").click()
    page.locator("#find-images [role=alert]").get_by_text("characters").wait_for()


def test_make_images_again_and_carry_one_over(visit, shots):
    page = visit()
    go(page, "make")

    def make(words: str, seed: int, number: int) -> list[str]:
        """Sources of the images, once those of before are gone."""
        page.locator("#make-images").evaluate("one => one.querySelector('#make-image-list').dataset.old = 1")
        page.locator("#make-impression textarea").fill(words)
        page.locator("#make-number input[type=number]").fill(str(number))
        page.locator("#make-seed input").fill(str(seed))
        page.locator("#make-go").click()
        page.locator("#make-image-list:not([data-old])").wait_for()
        return [one.get_attribute("src") for one in page.locator("#make-image-list .image-base").all()]

    first = make("Moderate right pneumothorax. Cardiac pacemaker.", 11, 2)
    assert len(first) == 2 and first[0] != first[1]
    captions = page.locator("#make-image-list figcaption").all_inner_texts()
    assert "seed 11" in captions[0] and "seed 12" in captions[1] and "pneumothorax, pacemaker" in captions[0]
    assert "pneumothorax" in page.locator("#make-told").inner_text()
    assert "Image 2" in page.locator("#make-reading-table thead").inner_text()
    drawn = page.locator("#make-reading-table tr", has_text="Pneumothorax").inner_text()
    assert "present" in drawn
    stage = page.locator("#make-image-list .image-stage").first
    outlined = picture(stage)
    slide(page, "make-over", 0)
    assert (abs(picture(stage) - outlined).max(axis=2) > 60).sum() > 200  # the outlines are gone
    slide(page, "make-over", 100)
    page.screenshot(path=shots / "make.png", full_page=True)

    other = make("Moderate right pneumothorax. Cardiac pacemaker.", 12, 1)
    assert other == first[1:]
    assert make("Moderate right pneumothorax. Cardiac pacemaker.", 11, 1) == first[:1]
    page.locator("#make-seed input").fill("0")
    page.locator("#make-new-seed").click()
    page.wait_for_function("document.querySelector('#make-seed input').value !== '0'")

    page.locator("#make-carry").click()
    page.locator("#tab-read").wait_for()
    assert page.locator("#tab-read-button").get_attribute("aria-selected") == "true"
    page.wait_for_function("src => document.querySelector('#read-image .image-base').src === src", arg=first[0])
    page.wait_for_function("document.querySelectorAll('#read-samples [aria-pressed=true]').length === 0")


def test_about_has_tables_and_cards(visit, shots):
    page = visit()
    go(page, "about")
    assert "Research only. Not for clinical use." in page.locator("#tab-about").inner_text()
    assert page.locator("#about-result-table tbody tr").count() >= 3
    for number, name in ((1, "convirt-small"), (2, "gloria-small")):
        page.locator(f"#about-card-{number}").get_by_text(f"Model card of {name}").click()
        page.locator(f"#about-card-{number} .prose h1, #about-card-{number} .prose h2").first.wait_for()
    page.screenshot(path=shots / "about.png", full_page=True)


def test_by_keyboard_alone(visit):
    page = visit()
    reached, unseen = [], []
    for _ in range(70):
        page.keyboard.press("Tab")
        at = page.evaluate(FOCUS)
        reached.append(at["id"])
        # Text fields show the caret and their own border; all else has the ring.
        if not at["ring"] and at["tag"] != "BODY":
            unseen.append(at)
    wanted = {"tab-read-button", "read-brightness", "read-invert", "read-reset", "read-sample-1", "read-sample-18"}
    assert not wanted - set(reached)
    for part in ("read-upload", "read-models", "read-finding", "read-texts", "read-compare"):
        inner = page.locator(f"#{part}, #{part} [id]").evaluate_all("ones => ones.map(one => one.id)")
        assert set(inner) & set(reached), part
    assert not unseen

    page.locator("#read-sample-10").focus()
    page.keyboard.press("Enter")
    shown(page, "read", re.compile("Large right effusion"))
    page.locator("#read-brightness").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#read-brightness").input_value() == "105"
    page.locator("#tab-where-button").focus()
    page.keyboard.press("Enter")
    page.locator("#where-phrase input, #where-phrase textarea").fill("heart")
    page.keyboard.press("Enter")
    shown(page, "where", re.compile("^Heat map of “heart”"))


def test_on_a_phone(visit, shots):
    page = visit(390, 844)
    for tab in TABS:
        go(page, tab)
        if tab in ("where", "find"):
            page.locator("#where-image .image-over" if tab == "where" else "#find-image-list").first.wait_for()
        width, wide = page.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth]")
        assert max(width, wide) <= 390, tab
        if tab != "about":
            stage = page.locator(f"#tab-{tab} .image-stage").first.bounding_box()
            assert stage["width"] > 330 and stage["x"] >= 0 and stage["x"] + stage["width"] <= 390
        page.screenshot(path=shots / f"phone_{tab}.png", full_page=True)
