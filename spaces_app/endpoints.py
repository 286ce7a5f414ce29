"""What the page does, for programs: one named endpoint an operation, with values rather than pictures of values."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import gradio as gr
from PIL import Image

from dataset_builder.findings import CHEXPERT_LABELS
from hub_medsyn.inference.prompts import FINDING_PROMPTS
from spaces_app.guard.uploads import Refused
from spaces_app.session import IMAGE_SIDE, MEANING, STANDING, Chosen, Session, sentence
from spaces_app.tabs import find as tab_find
from spaces_app.tabs import make as tab_make
from spaces_app.tabs import read as tab_read
from spaces_app.tabs import where as tab_where
from spaces_app.view.controls import AT_ONCE
from spaces_app.view.pictures import heat_overlay, image_picture, mask_overlay
from spaces_app.workbench import MAX_MADE, MAX_NEIGHBOURS, MAX_SEED

Names = Sequence[str]
# What a client gets that leaves a value out.
FINDING, TEXT, PHRASE = "Pleural Effusion", "normal chest", "pleural effusion"
IMPRESSION = "Left pleural effusion."


def for_clients(function: Callable) -> Callable:
    """`function` as an endpoint: a refusal reaches the client as its sentence."""

    @functools.wraps(function)
    def called(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except Refused as refusal:
            raise gr.Error(sentence(refusal), print_exception=False) from None

    return called


def add_endpoints(session: Session) -> None:
    """
    Adds the endpoints to the `gr.Blocks` that is open.

    An image is either a file (`image`: PNG, JPEG or DICOM) or the name of a sample (`sample`, of `/samples`). Models
    are named as `/about` lists them; left out, the first is asked. What cannot be done is an error that says why in a
    sentence.
    """
    models = {"concurrency_id": "models", "concurrency_limit": AT_ONCE}

    def image_of(film: str | None, sample: str | None) -> Chosen:
        if film and sample:
            raise Refused("Give an image or the name of a sample, not both.")
        if film:
            return session.uploaded(film)
        if sample:
            return session.sample(str(sample))
        raise Refused("There is no image: give a file, or the name of a sample.")

    def read_film(film: str | None = None, sample: str = "", models: Names = (), findings: Names = ()) -> dict:
        """Scores of findings in an image, by prompts for and against each. Scores are between 0 and 1, uncalibrated,
        and no probabilities: they rank images. Empty `models` is the first, empty `findings` CheXpert's 14 labels."""
        one = image_of(film, sample)
        names = session.known_models(models)
        return {
            "film": one.image.name,
            "note": one.image.note,
            "scores": tab_read.scores(session, one, names, list(findings) or CHEXPERT_LABELS),
            "report_says": {name: value for name, value in one.labels.items() if value is not None},
            "meaning": MEANING,
        }

    def explain(film: str | None = None, sample: str = "", finding: str = FINDING, models: Names = ()) -> dict:
        """Which visible signs of a finding each model sees in an image; scores between 0 and 1, uncalibrated."""
        return tab_read.signs(session, image_of(film, sample), session.known_models(models), finding or "")

    def compare_texts(film: str | None = None, sample: str = "", texts: str = TEXT, models: Names = ()) -> dict:
        """Each model's similarity of an image with your texts, one per line, at most 16; compare within one model."""
        found = tab_read.similarities(
            session, image_of(film, sample), session.known_models(models), tab_read.lines(texts)
        )
        return {name: [{"text": text, "similarity": value} for text, value in pairs] for name, pairs in found.items()}

    def where(
        film: str | None = None, sample: str = "", phrase: str = PHRASE, model: str = "", opacity: float = 0.5
    ) -> tuple[Image.Image, dict]:
        """Where in an image a word or phrase is: the heat map over the image as a picture, and its highest place as
        shares of the width and height. `opacity` is between 0 and 1. For models with regions: GLoRIA and MGCA."""
        if not isinstance(opacity, int | float) or not 0 <= opacity <= 1:
            raise Refused("The opacity has to be a number from 0 to 1.")
        one = image_of(film, sample)
        name, words, heat = tab_where.where(session, one, model, phrase)
        across, down = tab_where.peak(heat)
        boxes = [{"finding": of, "box": list(box), "hit": tab_where.hit(heat, box)} for of, box in one.boxes]
        answer = {"model": name, "phrase": words, "highest": {"x": across, "y": down}, "boxes": boxes}
        answer |= {"lowest_value": float(heat.values.min()), "highest_value": float(heat.values.max())}
        answer["in_words"] = tab_where.describe_peak(heat, one.boxes)
        return heat_overlay(one.image, heat, opacity, one.boxes, side=IMAGE_SIDE), answer

    def nearest_reports(
        film: str | None = None, sample: str = "", model: str = "", number: float = tab_find.AT_FIRST
    ) -> list[dict]:
        """The reports of the dataset nearest to an image, best first, equal impressions once."""
        found = session.bench.nearest_reports(image_of(film, sample).image, session.known_model(model), number)
        return [{"sample": one.id, "impression": one.impression, "cosine": score} for one, score in found]

    def nearest_films(text: str = TEXT, model: str = "", number: float = tab_find.AT_FIRST) -> list[dict]:
        """The images of the dataset nearest to a report or a sentence, best first; `/sample_film` shows them."""
        words = tab_find.checked_text(text, "report", tab_find.LONGEST)
        found = session.bench.nearest_images(words, session.known_model(model), number)
        return [{"sample": one.id, "impression": one.impression, "cosine": score} for one, score in found]

    def make(
        impression: str = IMPRESSION,
        generator: str = "",
        number: float = 1,
        seed: float = 0,
        outlines: bool = False,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  gradio finds it by this default
    ) -> tuple[list[tuple[Image.Image, str]], list[dict]]:
        """Radiographs drawn to match an impression: pictures, with the outlines of what was drawn if asked for, and
        each one's seed, labels, boxes and what cannot be seen. Image i has the seed `seed + i`. All synthetic."""
        made = tab_make.draw(session, impression, generator, number, seed, progress)
        pictures = [
            mask_overlay(one.image, one.masks, one.boxes) if outlines else image_picture(one.image, IMAGE_SIDE)
            for one in made
        ]
        answer = [
            {
                "seed": one.seed,
                "view": one.view,
                "understood": one.understood,
                "occult": one.occult,
                "labels": one.labels,
                "boxes": [{"finding": name, "box": list(box)} for name, box in one.boxes],
            }
            for one in made
        ]
        return [(picture, f"seed {one.seed}") for picture, one in zip(pictures, made, strict=True)], answer

    def samples() -> list[dict]:
        """The images of the dataset that can be named as `sample`, with their impressions and labels."""
        return [
            {"sample": one.id, "impression": one.impression, "labels": dict(one.labels)}
            for one in session.samples.values()
        ]

    def sample_film(sample: str = "") -> tuple[Image.Image, dict]:
        """An image of the dataset as a picture, with its impression, labels and boxes in pixels of the image."""
        one = session.sample(str(sample))
        height, width = one.image.pixels.shape
        boxes = [{"finding": name, "box": list(box)} for name, box in one.boxes]
        answer = {"impression": one.impression, "labels": one.labels, "boxes": boxes, "width": width, "height": height}
        return image_picture(one.image, IMAGE_SIDE), answer

    def about() -> dict:
        """Which models and generators are loaded, what can be asked, and what this may be used for."""
        return {
            "use": STANDING,
            "models": {
                name: {"about": one.about, "grounds": one.grounds} for name, one in session.bench.models.items()
            },
            "generators": list(session.bench.generators),
            "samples": len(session.samples),
            "findings": list(FINDING_PROMPTS),
            "meaning": MEANING,
        }

    names = list(session.bench.models)
    # Widgets and not `gr.api`: that hands files through unchecked, and its parameters have no description.
    with gr.Group(visible=False):
        film = gr.File(label="image: PNG, JPEG or DICOM", type="filepath")
        sample = gr.Textbox("", label="sample: a name of /samples, instead of an image")
        chosen = gr.Dropdown(
            names, value=[], multiselect=True, allow_custom_value=True, label="models: names of /about"
        )
        findings = gr.Dropdown(
            list(FINDING_PROMPTS),
            value=[],
            multiselect=True,
            allow_custom_value=True,
            label="findings: names of /about",
        )
        finding = gr.Textbox(FINDING, label="finding: a name of /about")
        texts = gr.Textbox(TEXT, label="texts: one a line")
        phrase = gr.Textbox(PHRASE, label="phrase: a word or a short phrase")
        model = gr.Textbox("", label="model: a name of /about; empty for the first")
        opacity = gr.Number(0.5, label="opacity: 0 to 1")
        number = gr.Number(tab_find.AT_FIRST, label=f"number of answers: 1 to {MAX_NEIGHBOURS}")
        text = gr.Textbox(TEXT, label="text: a report or a sentence of one")
        impression = gr.Textbox(IMPRESSION, label="impression: what the images should show")
        generator = gr.Textbox("", label="generator: a name of /about; empty for the first")
        images = gr.Number(1, label=f"number of images: 1 to {MAX_MADE}")
        seed = gr.Number(0, label=f"seed: 0 to {MAX_SEED}")
        outlines = gr.Checkbox(False, label="outlines: of what was drawn")
        picture = gr.Image(label="picture", format="png")
        pictures = gr.Gallery(label="images", format="png")
        answer = gr.JSON(label="answer")

        def endpoint(function: Callable, inputs: list, outputs: list, **limits) -> None:
            called = gr.Button(visible=False)
            called.click(for_clients(function), inputs, outputs, api_name=function.__name__, **limits)

        of_image = [film, sample]
        endpoint(read_film, [*of_image, chosen, findings], [answer], **models)
        endpoint(explain, [*of_image, finding, chosen], [answer], **models)
        endpoint(compare_texts, [*of_image, texts, chosen], [answer], **models)
        endpoint(where, [*of_image, phrase, model, opacity], [picture, answer], **models)
        endpoint(nearest_reports, [*of_image, model, number], [answer], **models)
        endpoint(nearest_films, [text, model, number], [answer], **models)
        making = {"concurrency_id": "make", "concurrency_limit": 1}
        endpoint(make, [impression, generator, images, seed, outlines], [pictures, answer], **making)
        endpoint(samples, [], [answer])
        endpoint(sample_film, [sample], [picture, answer])
        endpoint(about, [], [answer])
