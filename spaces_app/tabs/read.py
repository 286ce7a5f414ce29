"""Read an image: findings by prompts, the signs behind them, and prompts of one's own, several models side by side."""

from __future__ import annotations

from html import escape

import gradio as gr

from dataset_builder.findings import CHEXPERT_LABELS
from hub_medsyn.inference.prompts import DESCRIPTORS, FINDING_PROMPTS
from spaces_app.guard.uploads import Refused, checked_text
from spaces_app.session import MEANING, Chosen, Session, sentence
from spaces_app.view.controls import WITH_MODELS, image_area, image_picker, standing
from spaces_app.view.tables import score_table, similarity_table
from spaces_app.view.viewer import empty_image, message

LONGEST = 300  # characters of a prompt
EXAMPLES = "left pleural effusion\nno pleural effusion\nnormal chest\ncardiac pacemaker"


def scores(
    session: Session, chosen: Chosen, names: list[str], findings=CHEXPERT_LABELS
) -> dict[str, dict[str, float]]:
    """Model -> finding -> score."""
    table: dict[str, dict[str, float]] = {name: {} for name in names}
    for reading in session.bench.read(chosen.image, names, list(findings)):
        table[reading.model][reading.finding] = reading.score
    return table


def signs(session: Session, chosen: Chosen, names: list[str], finding: str) -> dict[str, dict[str, float]]:
    """Model -> sign -> score, all models in the first one's order."""
    evidence = {name: dict(session.bench.explain(chosen.image, name, finding)) for name in names}
    order = list(next(iter(evidence.values())))
    return {name: {sign: found[sign] for sign in order} for name, found in evidence.items()}


def lines(text: str | None) -> list[str]:
    """The prompts of a text, one a line, each once."""
    whole = checked_text(text, "list of prompts", 16 * LONGEST)
    return list(dict.fromkeys(checked_text(line, "prompt", LONGEST) for line in whole.splitlines() if line.strip()))


def similarities(
    session: Session, chosen: Chosen, names: list[str], texts: list[str]
) -> dict[str, list[tuple[str, float]]]:
    """Model -> (text, similarity) in the order of `texts`."""
    found = session.bench.free_text(chosen.image, names, texts)
    return {name: [(text, dict(pairs)[text]) for text in texts] for name, pairs in found.items()}


def scores_html(session: Session, chosen: Chosen, names: list[str]) -> str:
    return score_table(
        f"Findings in {chosen.image.name}, by prompts for and against each",
        scores(session, chosen, names),
        truth=chosen.labels or None,
        elem_id="read-score-table",
    )


def signs_html(session: Session, chosen: Chosen, names: list[str], finding: str) -> str:
    return score_table(
        f"Signs of {finding}, the one the first model sees most first",
        signs(session, chosen, names, finding),
        head="Sign",
        elem_id="read-sign-table",
    )


def prompts_html(finding: str) -> str:
    """The sentences behind a score, in a box that opens."""
    pair = FINDING_PROMPTS[finding]
    return (
        f"<details class='prompts'><summary>The sentences behind the score of {escape(finding)}</summary>"
        f"<p class='quiet'><b>For:</b> {escape('; '.join(pair.positive))}.<br>"
        f"<b>Against:</b> {escape('; '.join(pair.negative))}.</p></details>"
    )


def add(session: Session, state: gr.State) -> None:
    names = list(session.bench.models)
    start = names[:3]
    likely = _likely(session.first)
    begun = bool(session.first and start)
    with gr.Tab("Read an image", id="read", elem_id="tab-read") as tab:
        seen = gr.State(session.first.key if begun else None)
        gr.HTML(
            '<p class="lead">Pick an image or open your own. Each model is asked, in words, about each finding.</p>'
        )
        with gr.Row(equal_height=False):
            first = session.image_html(session.first) if session.first else empty_image("Open an image to begin.")
            with gr.Column(scale=6, min_width=320):
                image = image_area("read", first)
                refused, changed = image_picker("read", session, state)
            with gr.Column(scale=5, min_width=320):
                models = gr.CheckboxGroup(
                    names, value=start, label="Models, side by side", elem_id="read-models", visible=len(names) > 1
                )
                table = gr.HTML(scores_html(session, session.first, start) if begun else "", elem_id="read-scores")
                gr.HTML(f'<p class="quiet" id="read-meaning">{MEANING}</p>')
                gr.HTML("<h2>Why</h2>")
                finding = gr.Dropdown(
                    [name for name in CHEXPERT_LABELS if name in DESCRIPTORS],
                    value=likely,
                    label="Finding",
                    info="Each finding has visible signs; the models are asked for each of them.",
                    filterable=False,
                    elem_id="read-finding",
                )
                why = gr.HTML(
                    signs_html(session, session.first, start, likely) + prompts_html(likely) if begun else "",
                    elem_id="read-signs",
                )
                gr.HTML("<h2>In your own words</h2>")
                texts = gr.Textbox(
                    EXAMPLES,
                    label="Prompts, one a line",
                    info="How similar is the image to each? Compare within a column; models use different scales.",
                    lines=4,
                    max_lines=8,
                    elem_id="read-texts",
                )
                compare = gr.Button("Compare", variant="primary", elem_id="read-compare")
                answer = gr.HTML("", elem_id="read-similarities", elem_classes="message-slot")
        standing()

    def read(chosen: Chosen | None, models: list[str], finding: str):
        try:
            one = session.one(chosen)
            models = session.known_models(models)
            reasons = signs_html(session, one, models, finding) + prompts_html(finding)
            return session.image_html(one), scores_html(session, one, models), reasons, "", one.key, ""
        except Refused as refusal:
            return gr.skip(), gr.skip(), gr.skip(), message(sentence(refusal)), gr.skip(), gr.skip()

    def read_if_new(chosen: Chosen | None, models: list[str], finding: str, seen: str | None):
        if chosen is None or chosen.key == seen:
            return tuple(gr.skip() for _ in outputs)
        return read(chosen, models, finding)

    def show_signs(chosen: Chosen | None, models: list[str], finding: str):
        try:
            return signs_html(session, session.one(chosen), session.known_models(models), finding) + prompts_html(
                finding
            )
        except Refused as refusal:
            return message(sentence(refusal))

    def in_own_words(chosen: Chosen | None, models: list[str], texts: str):
        try:
            one = session.one(chosen)
            found = similarities(session, one, session.known_models(models), lines(texts))
        except Refused as refusal:
            return message(sentence(refusal))
        return similarity_table(f"Similarity of {one.image.name} to your words", found, "read-similarity-table")

    hidden = {"api_visibility": "private", **WITH_MODELS}
    outputs = [image, table, why, refused, seen, answer]
    changed(read_if_new, [state, models, finding, seen], outputs)
    models.input(read, [state, models, finding], outputs, **hidden)
    # It runs when the page opens, too, and must not dim the image then.
    tab.select(read_if_new, [state, models, finding, seen], outputs, **(hidden | {"show_progress": "hidden"}))
    finding.input(show_signs, [state, models, finding], why, **hidden)
    compare.click(in_own_words, [state, models, texts], answer, **hidden)


def _likely(chosen: Chosen | None) -> str:
    """The finding to begin with: the most telling one that an image's report names."""
    for name in ("Pleural Effusion", "Pneumothorax", "Cardiomegaly", "Edema", "Consolidation", "Lung Opacity"):
        if chosen and chosen.labels.get(name) == 1:
            return name
    return "Pleural Effusion"
