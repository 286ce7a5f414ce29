"""Where: a word or phrase as a heat map over the image, for models that compare words with regions."""

from __future__ import annotations

import re
from collections.abc import Sequence

import gradio as gr
import numpy as np

from hub_medsyn.inference.grounding import HeatMap
from spaces_app.guard.uploads import Refused, checked_text
from spaces_app.session import IMAGE_SIDE, OBVIOUS, Chosen, Session, sentence
from spaces_app.view.controls import WITH_MODELS, chips, chosen_chip, image_area, image_picker, standing
from spaces_app.view.pictures import heat_overlay
from spaces_app.view.viewer import empty_image, message

PHRASES = ("cardiomegaly", "pneumothorax", "pacemaker", "consolidation", "pleural effusion")
LONGEST = 200  # characters
LACKING = "None of the loaded models can point at places: load a GLoRIA or MGCA with --model."
HINT = (
    "The brighter, the nearer a place is to the words. The colours run from the median of this map, which is clear, "
    "to its highest value; the white line is half-way. So something is always bright, also when the words are not "
    "true of the image: the scale tells how much the values differ. Boxes show what was drawn into a synthetic image, "
    "its ground truth; an image of your own has none."
)


def trust(name: str, card: str) -> str:
    """What a model's card says of how well it points; that nothing was measured, where it says nothing."""
    measured = re.search(r"^\*\*Where a finding is\*\*: (.+)$", card, re.MULTILINE)
    if not measured:
        return f"{name}: its card tells of no measurement of how well it points. Trust no map."
    return f"{name}, measured on phantoms: {measured[1]} Trust no map by itself."


def peak(heat: HeatMap) -> tuple[float, float]:
    """Where the map is highest: shares of the width and height, 0 to 1."""
    row, column = np.unravel_index(int(heat.values.argmax()), heat.values.shape)
    height, width = heat.values.shape
    return (column + 0.5) / width, (row + 0.5) / height


def describe_peak(heat: HeatMap, boxes: Sequence) -> str:
    """Where the map is highest, for a person: "upper right of the picture, which is the patient's left"."""
    across, down = peak(heat)
    height = "upper" if down < 1 / 3 else "lower" if down > 2 / 3 else "middle"
    side = "left" if across < 0.42 else "right" if across > 0.58 else "centre"
    patient = {"left": ", the patient's right as images hang", "right": ", the patient's left as images hang"}
    note = f"Highest at the {height} {side} of the picture{patient.get(side, '')}"
    inside = [name for name, box in boxes if hit(heat, box)]
    if inside:
        return f"{note}; that is inside the box drawn for {', '.join(inside)}."
    outside = {0: "", 1: "; that is outside the one box drawn"}
    return f"{note}{outside.get(len(boxes), f'; that is in none of the {len(boxes)} boxes drawn')}."


def hit(heat: HeatMap, box: Sequence[float]) -> bool:
    across, down = peak(heat)
    height, width = heat.values.shape
    left, top, right, bottom = box
    return bool(left <= across * width <= right and top <= down * height <= bottom)


def where(session: Session, chosen: Chosen, name: str | None, phrase: str | None) -> tuple[str, str, HeatMap]:
    """Model, phrase as it was read, and its heat map."""
    phrase = checked_text(phrase, "phrase", LONGEST)
    name = session.known_model(name, grounding=True)
    return name, phrase, session.bench.where(chosen.image, name, phrase)


def add(session: Session, state: gr.State) -> None:
    names = session.grounding
    start = _phrase(session.first)
    with gr.Tab("Where", id="where", elem_id="tab-where") as tab:
        seen = gr.State(None)
        gr.HTML('<p class="lead">Name something and see where in the image a model finds it.</p>')
        with gr.Row(equal_height=False, elem_id="where-ask", elem_classes="ask"):
            phrase = gr.Textbox(start, label="Word or phrase", max_lines=1, elem_id="where-phrase", scale=4)
            go = gr.Button(
                "Show where", variant="primary", elem_id="where-go", interactive=bool(names), scale=1, min_width=130
            )
        examples = chips("where-examples", "Example phrases", PHRASES)
        with gr.Row(equal_height=False):
            first = (
                session.image_html(session.first, boxes=session.first.boxes)
                if session.first
                else empty_image("Open an image.")
            )
            with gr.Column(scale=6, min_width=320):
                image = image_area("where", first, over="Heat map", boxes=True)
            with gr.Column(scale=5, min_width=320):
                note = gr.HTML(
                    message("" if names else LACKING, "note"), elem_id="where-told", elem_classes="message-slot tall"
                )
                gr.HTML(f'<p class="quiet">{HINT}</p>')
                if names:
                    gr.HTML(
                        "".join(message(trust(name, session.bench.models[name].card), "note") for name in names),
                        elem_id="where-trust",
                    )
                model = gr.Radio(
                    names,
                    value=names[0] if names else None,
                    label="Model",
                    elem_id="where-model",
                    visible=len(names) > 1,
                )
                gr.HTML("<h2>Another image</h2>")
                _, changed = image_picker("where", session, state)
        standing()

    def show(chosen: Chosen | None, model: str | None, phrase: str):
        try:
            one = session.one(chosen)
        except Refused as refusal:
            return gr.skip(), message(sentence(refusal)), gr.skip()
        if not names:
            return session.image_html(one, boxes=one.boxes), gr.skip(), one.key
        try:
            name, words, heat = where(session, one, model, phrase)
        except Refused as refusal:
            return session.image_html(one, boxes=one.boxes), message(sentence(refusal)), one.key
        said = describe_peak(heat, one.boxes)
        html = session.image_html(
            one,
            over=heat_overlay(one.image, heat, 1.0, side=IMAGE_SIDE),
            over_alt=f"Heat map of “{words}” by {name}. {said}",
            boxes=one.boxes,
        )
        return html, message(f"“{words}”, {name}. {said}", "note"), one.key

    def show_if_new(chosen: Chosen | None, model: str | None, phrase: str, seen: str | None):
        first = session.first.key if session.first else None
        if (chosen.key if chosen else first) == seen:
            return gr.skip(), gr.skip(), gr.skip()
        return show(chosen, model, phrase)

    hidden = {"api_visibility": "private", **WITH_MODELS}
    inputs, outputs = [state, model, phrase], [image, note, seen]
    changed(show_if_new, [*inputs, seen], outputs)
    tab.select(show_if_new, [*inputs, seen], outputs, **hidden)
    for event in (go.click, phrase.submit, model.input):
        event(show, inputs, outputs, **hidden)
    taken = examples.click(chosen_chip, None, phrase, api_visibility="private", show_progress="hidden")
    taken.then(show, inputs, outputs, **hidden)


def _phrase(chosen: Chosen | None) -> str:
    """What to ask for first: something that is there."""
    drawn = [name for name, _ in chosen.boxes] if chosen else []
    return next((name for name in OBVIOUS if name in drawn), drawn[0] if drawn else PHRASES[0])
