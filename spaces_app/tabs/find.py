"""Find: the reports nearest to an image, and the images nearest to a report."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import gradio as gr
from PIL import Image

from spaces_app.guard.uploads import Refused, checked_text
from spaces_app.session import Chosen, Session, sentence
from spaces_app.view.controls import WITH_MODELS, chips, chosen_chip, image_area, image_picker, standing
from spaces_app.view.viewer import data_url, empty_image, message
from spaces_app.workbench import MAX_NEIGHBOURS

EXAMPLES = (
    "Large left pleural effusion.",
    "Mild cardiomegaly. No acute disease.",
    "Right pneumothorax.",
    "Normal chest.",
    "Pacemaker in place.",
)
LONGEST = 1000  # characters
AT_FIRST = 6
CARD = 300  # pixels


def reports_html(found: Sequence, own: str, name: str) -> str:
    """Found reports as a numbered list; the image's own is marked."""
    items = "".join(
        f"<li>{escape(sample.impression)}"
        f'<p class="about">{place}. cosine {score:.3f} · {escape(sample.id)}'
        f"{' · <b>this image’s own impression</b>' if own and sample.impression == own else ''}</p></li>"
        for place, (sample, score) in enumerate(found, 1)
    )
    return (
        f'<p class="quiet">Nearest first, by {escape(name)}.</p><ol class="found" id="find-report-list">{items}</ol>'
    )


def images_html(found: Sequence, name: str) -> str:
    """Found images as cards."""
    cards = []
    for place, (sample, score) in enumerate(found, 1):
        small = Image.fromarray(sample.image.pixels)
        small.thumbnail((CARD, CARD))
        cards.append(
            f'<li><img src="{data_url(small, 85)}" width="{CARD}" height="{CARD}" '
            f'alt="Image {place}, {escape(sample.id)}. Its report: {escape(sample.impression)}">'
            f"<p>{place}. cosine {score:.3f}<br>{escape(sample.impression)}</p></li>"
        )
    lead = f'<p class="quiet">Nearest first, by {escape(name)}.</p>'
    return f'{lead}<ol class="cards" id="find-image-list">{"".join(cards)}</ol>'


def add(session: Session, state: gr.State) -> None:
    names, many = list(session.bench.models), len(session.samples)
    with gr.Tab("Find", id="find", elem_id="tab-find") as tab:
        seen = gr.State(None)
        gr.HTML(
            f'<p class="lead">Search {many} images and their reports: from image to reports, from words to images.</p>'
        )
        with gr.Row(equal_height=False):
            first = session.image_html(session.first) if session.first else empty_image("Open an image to begin.")
            with gr.Column(scale=6, min_width=320):
                image = image_area("find", first)
                _, changed = image_picker("find", session, state)
            with gr.Column(scale=5, min_width=320):
                model = gr.Radio(
                    names,
                    value=names[0] if names else None,
                    label="Model",
                    elem_id="find-model",
                    visible=len(names) > 1,
                )
                number = gr.Slider(
                    1, MAX_NEIGHBOURS, AT_FIRST, step=1, label="How many answers", elem_id="find-number"
                )
                gr.HTML("<h2>Reports for this image</h2>")
                to_reports = gr.Button("Find reports", variant="primary", elem_id="find-reports-go")
                reports = gr.HTML("", elem_id="find-reports", elem_classes="room")
                gr.HTML("<h2>Images for these words</h2>")
                words = gr.Textbox(
                    EXAMPLES[0], label="A report, or a sentence of one", lines=2, max_lines=6, elem_id="find-words"
                )
                examples = chips("find-examples", "Example reports", EXAMPLES)
                to_images = gr.Button("Find images", variant="primary", elem_id="find-images-go")
                images = gr.HTML("", elem_id="find-images", elem_classes="room")
        gr.HTML(
            '<p class="quiet">The cosine tells how alike model and words are; it ranks answers and measures no truth. '
            "Stock phrases stand in many reports, so equal impressions are shown once.</p>"
        )
        standing()

    def find_reports(chosen: Chosen | None, model: str | None, number: float):
        try:
            one = session.one(chosen)
            name = session.known_model(model)
            found = session.bench.nearest_reports(one.image, name, number)
            return session.image_html(one), reports_html(found, one.impression, name), one.key
        except Refused as refusal:
            return gr.skip(), message(sentence(refusal)), gr.skip()

    def find_images(words: str, model: str | None, number: float):
        try:
            name = session.known_model(model)
            return images_html(
                session.bench.nearest_images(checked_text(words, "report", LONGEST), name, number), name
            )
        except Refused as refusal:
            return message(sentence(refusal))

    def begin(chosen: Chosen | None, model: str | None, number: float, words: str, seen: str | None):
        """Fills the tab when it is first opened, and follows the image of the other tabs."""
        key = (chosen or session.first).key if chosen or session.first else None
        if key == seen:
            return tuple(gr.skip() for _ in range(4))
        image, reports, now = find_reports(chosen, model, number)
        return image, reports, now, find_images(words, model, number) if seen is None else gr.skip()

    hidden = {"api_visibility": "private", **WITH_MODELS}
    inputs, outputs = [state, model, number], [image, reports, seen]
    changed(begin, [*inputs, words, seen], [*outputs, images])
    to_reports.click(find_reports, inputs, outputs, **hidden)
    tab.select(begin, [*inputs, words, seen], [*outputs, images], **hidden)
    text_inputs = [words, model, number]
    to_images.click(find_images, text_inputs, images, **hidden)
    taken = examples.click(chosen_chip, None, words, api_visibility="private", show_progress="hidden")
    taken.then(find_images, text_inputs, images, **hidden)
