"""Make: an impression in words, images drawn to match it, what was drawn where, and what a model reads in them."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from html import escape

import gradio as gr

from dataset_builder.findings import CHEXPERT_LABELS
from spaces_app.guard.uploads import Refused, checked_text
from spaces_app.session import IMAGE_SIDE, MEANING, STANDING, Chosen, Session, sentence
from spaces_app.view.controls import WITH_MODELS, chips, chosen_chip
from spaces_app.view.pictures import image_picture, mask_overlay
from spaces_app.view.tables import score_table
from spaces_app.view.viewer import empty_image, image_html, message, toolbar
from spaces_app.workbench import MAX_MADE, MAX_SEED, PHANTOM

EXAMPLES = (
    "Large left pleural effusion with basilar atelectasis.",
    "Moderate right pneumothorax. No effusion.",
    "Mild cardiomegaly and pulmonary edema.",
    "Right upper lobe mass. Cardiac pacemaker.",
    "No acute cardiopulmonary abnormality.",
)
LONGEST = 1000  # characters


def images_html(made: Sequence) -> str:
    """The images side by side, each with the outlines of its findings over it where they are known."""
    figures = []
    for place, one in enumerate(made, 1):
        drawn = ", ".join(dict.fromkeys(name for name, _ in (*one.masks, *one.boxes)))
        over = mask_overlay(one.image, one.masks, one.boxes, side=IMAGE_SIDE) if drawn else None
        shown = f"drawn in it: {drawn}" if drawn else "nothing outlined"
        figures.append(
            image_html(
                image_picture(one.image, IMAGE_SIDE),
                f"Synthetic image {place}, seed {one.seed}; {shown}",
                f"Image {place} · seed {one.seed}{f' · {one.view}' if one.view else ''} · {shown}",
                over=over,
                over_alt=f"The same image with the outlines of {drawn}" if drawn else "",
            )
        )
    return f'<div class="made" id="make-image-list">{"".join(figures)}</div>'


def told_html(made: Sequence) -> str:
    """What of the words was understood, and what of it cannot be seen; of a diffusion pipeline nobody can tell."""
    first = made[0]
    if first.labels is None:
        return message(
            "A diffusion pipeline draws from the words as they are. What it drew is not known, so nothing is outlined "
            "and nothing is compared.",
            "note",
        )
    note = [f"<p class='quiet'><b>Understood:</b> {escape('; '.join(first.understood) or 'no finding')}.</p>"]
    occult = dict.fromkeys(name for one in made for name in one.occult)
    if occult:
        note.append(f"<p class='quiet'><b>Drawn, but not to be seen:</b> {escape('; '.join(occult))}.</p>")
    if not first.understood:
        note.append(
            message(
                "None of these words names a finding that the phantom draws, so the chest is a normal one.", "note"
            )
        )
    return "".join(note)


def reading_html(session: Session, made: Sequence, name: str) -> str:
    """A model's scores, a column an image."""
    columns = {}
    for place, one in enumerate(made, 1):
        columns[f"Image {place}"] = {
            reading.finding: reading.score for reading in session.bench.read(one.image, [name], list(CHEXPERT_LABELS))
        }
    labels = made[0].labels
    return score_table(
        f"What {name} reads in them",
        columns,
        truth=labels,
        truth_head="Drawn in image 1",
        elem_id="make-reading-table",
    )


def draw(
    session: Session,
    impression: str,
    generator: str | None,
    number: float,
    seed: float,
    progress: gr.Progress | None = None,
) -> list:
    """Images, after everything that was asked for was checked; `progress` is told of every step."""
    impression = checked_text(impression, "impression", LONGEST)
    generator = generator or next(iter(session.bench.generators))
    note = (lambda *at: progress(at[:2], desc=at[2])) if progress is not None else None
    return session.bench.make(impression, generator, number, seed, note)


def add(session: Session, state: gr.State, tabs: gr.Tabs) -> None:
    names, generators = list(session.bench.models), list(session.bench.generators)
    # The tab opens with an image, which the phantom draws at once; a pipeline would keep the page waiting.
    begun = draw(session, EXAMPLES[0], PHANTOM, 1, session.seed) if PHANTOM in generators else []
    with gr.Tab("Make", id="make", elem_id="tab-make"):
        made_state = gr.State(begun or None, time_to_live=3600)
        gr.HTML(
            '<p class="lead">Write an impression and get radiographs drawn to match it. Every image is synthetic.</p>'
        )
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=320):
                impression = gr.Textbox(
                    EXAMPLES[0], label="Impression", lines=3, max_lines=8, elem_id="make-impression"
                )
                examples = chips("make-examples", "Example impressions", EXAMPLES)
                generator = gr.Dropdown(
                    generators,
                    value=generators[0] if generators else None,
                    label="Generator",
                    info="phantom: drawn from the anatomy of one CT, in a second or so. Others: a diffusion pipeline.",
                    filterable=False,
                    elem_id="make-generator",
                )
                number = gr.Slider(1, MAX_MADE, 1, step=1, label="How many images", elem_id="make-number")
                with gr.Row(equal_height=False, elem_id="make-seed-row"):
                    seed = gr.Number(
                        session.seed,
                        label="Seed",
                        info="Equal words and seed give the same image.",
                        elem_id="make-seed",
                        min_width=140,
                    )
                    fresh = gr.Button("New seed", elem_id="make-new-seed", min_width=110)
                go = gr.Button("Make", variant="primary", elem_id="make-go")
                said = gr.HTML("", elem_id="make-message", elem_classes="message-slot")
                note = gr.HTML(told_html(begun) if begun else "", elem_id="make-told")
            with gr.Column(scale=6, min_width=320, elem_id="make-viewer", elem_classes="viewer"):
                images = gr.HTML(
                    images_html(begun) if begun else empty_image("Your images appear here."), elem_id="make-images"
                )
                gr.HTML(toolbar("make", over="Outlines", start=100), elem_id="make-tools")
                carry = gr.Button("Use image 1 in the other tabs", elem_id="make-carry", interactive=bool(begun))
        gr.HTML("<h2>What a model reads in them</h2>")
        model = gr.Radio(
            names,
            value=names[0] if names else None,
            label="Model",
            elem_id="make-model",
            visible=len(names) > 1,
        )
        reading = gr.HTML(
            reading_html(session, begun, names[0]) if begun and names else '<p class="quiet">Make an image first.</p>',
            elem_id="make-reading",
            elem_classes="room",
        )
        gr.HTML(f'<p class="quiet">{MEANING}</p><p class="standing">{STANDING}</p>')

    def make_images(
        impression: str,
        generator: str,
        number: float,
        seed: float,
        model: str | None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  gradio finds it by this default
    ):
        try:
            made = draw(session, impression, generator, number, seed, progress)
            read = reading_html(session, made, session.known_model(model)) if names else ""
        except Refused as refusal:
            return gr.skip(), message(sentence(refusal)), gr.skip(), gr.skip(), gr.skip(), gr.skip()
        return images_html(made), "", told_html(made), read, made, gr.update(interactive=True)

    def read_again(made: list | None, model: str | None):
        if not made:
            return gr.skip()
        try:
            return reading_html(session, made, session.known_model(model))
        except Refused as refusal:
            return message(sentence(refusal))

    def use(made: list | None):
        if not made:
            return gr.skip(), gr.skip()
        one = made[0]
        chosen = Chosen(one.image, f"made {secrets.token_hex(8)}", "", dict(one.labels or {}), tuple(one.boxes))
        return chosen, gr.update(selected="read")

    making = {"api_visibility": "private", "concurrency_id": "make", "concurrency_limit": 1, "show_progress": "full"}
    inputs = [impression, generator, number, seed, model]
    outputs = [images, said, note, reading, made_state, carry]
    go.click(make_images, inputs, outputs, show_progress_on=images, **making)
    fresh.click(
        lambda: secrets.randbelow(MAX_SEED + 2 - MAX_MADE),
        None,
        seed,
        api_visibility="private",
        show_progress="hidden",
    )
    taken = examples.click(chosen_chip, None, impression, api_visibility="private", show_progress="hidden")
    taken.then(make_images, inputs, outputs, show_progress_on=images, **making)
    model.input(read_again, [made_state, model], reading, api_visibility="private", **WITH_MODELS)
    used = carry.click(use, made_state, [state, tabs], api_visibility="private", show_progress="hidden")
    used.success(None, js="() => medsynPress(null)")
