"""Parts that several tabs are built of: the image with its view, the samples and the upload, rows of examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

import gradio as gr

from spaces_app.guard.uploads import Refused
from spaces_app.session import STANDING, Session, sentence
from spaces_app.view import viewer

AT_ONCE = 2  # model calls side by side
WITH_MODELS = {"concurrency_id": "models", "concurrency_limit": AT_ONCE, "show_progress": "minimal"}
PICK = """
element.addEventListener('click', event => {
  const button = event.target.closest('button[data-sample]');
  if (button) { medsynPress(button.dataset.sample); trigger('click', {sample: button.dataset.sample}); }
});
"""
TAKE = """
element.addEventListener('click', event => {
  const button = event.target.closest('button[data-chip]');
  if (button) trigger('click', {text: button.textContent});
});
"""


def image_area(tab: str, first: str, over: str = "", boxes: bool = False) -> gr.HTML:
    """
    An image and its view, in a column.

    Args:
        tab (`str`): Name of the tab, which opens the ids of all elements.
        first (`str`): HTML of the image to begin with.
        over, boxes: As in [`~spaces_app.view.viewer.toolbar`].

    Returns:
        `gr.HTML`: To write images into.
    """
    with gr.Column(elem_id=f"{tab}-viewer", elem_classes="viewer", min_width=0):
        image = gr.HTML(first, elem_id=f"{tab}-image")
        gr.HTML(viewer.toolbar(tab, over, boxes=boxes), elem_id=f"{tab}-tools")
    return image


def image_picker(tab: str, session: Session, state: gr.State) -> tuple[gr.HTML, Callable]:
    """
    Samples to pick from and a place to drop one's own image.

    Args:
        tab (`str`): As in [`image_area`].
        desk ([`Desk`]): Whose samples.
        state (`gr.State`): Takes the [`~spaces_app.session.Chosen`] image.

    Returns:
        `tuple[gr.HTML, Callable]`: Where refusals stand, and `changed(function, inputs, outputs)`, which runs a
        function after an image was chosen or refused here; it has to see by itself whether the image is another.
    """
    said = gr.HTML("", elem_id=f"{tab}-image-message", elem_classes="message-slot")
    pressed = session.first.image.name if session.first else None
    strip = gr.HTML(
        viewer.sample_strip(tab, session.shown, pressed),
        elem_id=f"{tab}-samples",
        js_on_load=PICK,
        visible=bool(session.shown),
    )
    upload = gr.File(
        label="Open your own image: PNG, JPEG or DICOM",
        type="filepath",
        height=92,
        elem_id=f"{tab}-upload",
        elem_classes="upload",
    )
    gr.HTML(
        '<p class="quiet">Your file is deleted as soon as it is read. The image stays in memory until you leave. '
        "Do not upload radiographs of patients that you may not share.</p>"
    )

    def pick(event: gr.EventData):
        try:
            return session.sample(str(event.sample)), ""
        except Refused as refusal:
            return gr.skip(), viewer.message(sentence(refusal))

    def take(path: str | None):
        try:
            return session.uploaded(path), None, ""
        except Refused as refusal:
            return gr.skip(), None, viewer.message(sentence(refusal))

    picked = strip.click(pick, None, [state, said], api_visibility="private", show_progress="hidden")
    taken = upload.upload(take, upload, [state, upload, said], api_visibility="private", show_progress="minimal")

    def changed(function: Callable, inputs: list, outputs: list) -> None:
        picked.success(function, inputs, outputs, api_visibility="private", **WITH_MODELS)
        shown = taken.success(function, inputs, outputs, api_visibility="private", **WITH_MODELS)
        shown.success(None, js="() => medsynPress(null)")

    return said, changed


def chips(elem_id: str, label: str, texts: Sequence[str]) -> gr.HTML:
    """A row of example texts to click; [`chosen_chip`] tells which."""
    buttons = "".join(
        f'<button type="button" class="plain" data-chip="{number}">{escape(text)}</button>'
        for number, text in enumerate(texts, 1)
    )
    row = f'<div class="chips" role="group" aria-label="{escape(label)}">{buttons}</div>'
    return gr.HTML(row, elem_id=elem_id, js_on_load=TAKE)


def chosen_chip(event: gr.EventData) -> str:
    return str(event.text)


def standing() -> None:
    gr.HTML(f'<p class="standing">{STANDING}</p>')
