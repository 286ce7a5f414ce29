"""About: what this page is and is not, what was measured, and the cards of the models that are loaded."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import gradio as gr

from spaces_app.session import MEANING, STANDING, Session
from spaces_app.view.tables import plain_table

RESULTS = Path(__file__).parents[1] / "results.csv"
PAPER = "https://arxiv.org/abs/2310.07027"
WHAT = f"""
<h2>What this is</h2>
<p>Reports go in; synthetic chest radiographs come out, and image-text encoders (ConVIRT, GLoRIA, MGCA) learn from the
pairs. This page lets you look at both: ask the encoders about an image, see where they find a word, search by image or
by words, and generate images from words. It is an open implementation of
<a href="{PAPER}" rel="noopener noreferrer">Liu, Shah, Bai and Arcucci, 2023</a>.</p>
<h2>What it is not</h2>
<p><b class="standing">{STANDING}</b> Nothing here may inform a decision about a patient. No radiologist has read its
images or checked its answers. {MEANING} Models that learnt from synthetic radiographs alone know one anatomy in many
poses; real radiographs look partly alike to them.</p>
<h2>Your images</h2>
<p>A file that you open is deleted as soon as it is read; the image stays in this process's memory until you leave, and
nothing of it is logged. Pictures that a program gets from an endpoint lie in a folder of the server for some ten
minutes. The page loads nothing from other servers and counts no visitors.</p>
"""
MEASURED = (
    "Macro AUROC on real radiographs of other patients, with the 95 % bootstrap interval by patient; chance is .5. "
    "The first three columns are a linear probe on the frozen image encoder, which learns from a share of Open-i's "
    "labels; the last two are prompts alone, without any label. Encoders “on phantoms” saw no real radiograph. "
    "One run each."
)
USE = """
<h2>Use it from a program</h2>
<p class="quiet">What the tabs do, programs can do: “Use via API” at the foot of the page lists every endpoint.</p>
<pre><code>from gradio_client import Client, handle_file

client = Client("http://127.0.0.1:7860")
client.predict(handle_file("image.png"), api_name="/read_film")</code></pre>
"""


def results_html() -> str:
    """The short table of what was measured, from `results.csv`."""
    cells: dict[str, dict[str, str]] = {}
    with open(RESULTS, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            low, high = row["ci_low"], row["ci_high"]
            cells.setdefault(row["encoder"], {})[row["measure"]] = (
                f"{_bare(row['macro_auroc'])} [{_bare(low)}, {_bare(high)}]"
            )
    columns = list(dict.fromkeys(name for row in cells.values() for name in row))
    rows = [[encoder, *(row.get(name, "") for name in columns)] for encoder, row in cells.items()]
    return plain_table("Macro AUROC on real radiographs", ["Encoder", *columns], rows, "about-result-table")


def _bare(number: str) -> str:
    return f"{float(number):.2f}".removeprefix("0")


def shown_card(card: str) -> str:
    """A card without pictures and markup, which would be fetched from elsewhere or name files that are not here."""
    card = re.sub(r"!\[([^\]]*)\]\([^)]*\)", "", card)
    card = re.sub(r"!\[([^\]]*)\]\[[^\]]*\]", "", card)
    return re.sub(r"<[^>\n]*>", "", card)


def add(session: Session) -> None:
    bench = session.bench
    with gr.Tab("About", id="about", elem_id="tab-about"):
        gr.HTML(f'<div class="about">{WHAT}</div>')
        gr.HTML(f'<h2>What was measured</h2><p class="quiet">{MEASURED}</p>{results_html()}', elem_id="about-results")
        loaded = [
            [name, model.about, "yes" if model.grounds else "no: it compares whole images with whole texts"]
            for name, model in bench.models.items()
        ]
        gr.HTML(
            "<h2>What is loaded</h2>" + plain_table("Models", ["Name", "What it is", "Can point at places"], loaded)
        )
        gr.HTML(
            f'<p class="quiet">{len(session.samples)} images of the dataset; the bundled one shows no patient. '
            f"Generators: {', '.join(bench.generators) or 'none'}.</p>"
        )
        for number, (name, model) in enumerate(bench.models.items(), 1):
            if model.card:
                with gr.Accordion(f"Model card of {name}", open=False, elem_id=f"about-card-{number}"):
                    gr.Markdown(shown_card(model.card))
        gr.HTML(USE)
