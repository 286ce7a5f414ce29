"""The page as a whole: what every tab shares, the five tabs, how it looks and how it is served."""

from __future__ import annotations

import functools
import inspect
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr
from PIL import Image

from . import viewer
from .pictures import film_picture
from .uploads import MAX_BYTES, Film, Refused, read_upload

if TYPE_CHECKING:
    from .workbench import Workbench

HERE = Path(__file__).parent
TITLE = "medsyn: read, find and make chest films"
FILM_SIDE = 768  # pixels of a film as the page shows it
WAITING = 100  # events that may stand in the queue
AT_ONCE = 2  # model calls side by side
CACHED = (60, 600)  # looked at every minute, gone after ten
MEANING = (
    "A score weighs the model's similarity to sentences that name a finding against sentences that deny it. It is no "
    "probability, nothing was calibrated, and 0.5 is no threshold. On an abnormal film most scores tend to be high: "
    "compare films with each other, not findings."
)
STANDING = "Research only. Not for clinical use."
OURS = "Something failed on our side, not yours; it stands in the log. Try again, or another film."


@dataclass(frozen=True)
class Chosen:
    """The film that a visitor looks at, with what is known of it.

    Args:
        film ([`Film`]): The film.
        key (`str`): Equal for the same film alone.
        impression (`str`, *optional*): Its report's impression, where it has one.
        labels (`dict`, *optional*): Finding -> 1, 0, -1 or `None`; empty where nothing is known.
        boxes (`tuple`, *optional*): Finding and xyxy corners in pixels of the film.
    """

    film: Film
    key: str
    impression: str = ""
    labels: dict = field(default_factory=dict)
    boxes: tuple = ()

    @property
    def alt(self) -> str:
        if self.impression:
            return f"Chest film, {self.film.name}. Its report: {self.impression}"
        return f"Chest film, {self.film.name}"

    @property
    def caption(self) -> str:
        told = [self.film.name, self.film.note, f"“{self.impression}”" if self.impression else ""]
        return " · ".join(part for part in told if part)


class Desk:
    """What the tabs work with: the workbench, and the films that were chosen from it.

    Args:
        bench ([`Workbench`]): Models, samples, generators and index.
        seed (`int`, *optional*, defaults to 0): The first seed that the page proposes.
    """

    def __init__(self, bench: Workbench, seed: int = 0):
        self.bench, self.seed = bench, seed
        self.samples = {sample.id: sample for sample in bench.samples}
        self.shown = viewer.varied(bench.samples)

    @functools.cached_property
    def first(self) -> Chosen | None:
        """The film that the page opens with: the first one that shows something."""
        ill = [one for one in self.shown if one.boxes]
        return self.sample((ill or self.shown)[0].id) if self.shown else None

    def sample(self, name: str) -> Chosen:
        if name not in self.samples:
            raise Refused(f"There is no sample of that name; there are {len(self.samples)}, such as {self._some()}.")
        one = self.samples[name]
        return Chosen(one.film, f"sample {one.id}", one.impression or "", dict(one.labels), tuple(one.boxes))

    def _some(self) -> str:
        return ", ".join(list(self.samples)[:3]) or "none"

    def uploaded(self, path: str | None) -> Chosen:
        """The film in a file that was handed in, which is deleted whether it can be read or not."""
        try:
            film = read_upload(path)
        finally:
            if path:
                Path(path).unlink(missing_ok=True)
        return Chosen(film, f"upload {secrets.token_hex(8)}")

    def one(self, chosen: Chosen | None) -> Chosen:
        """The film to work on, the page's first where none was chosen."""
        chosen = chosen or self.first
        if chosen is None:
            raise Refused("There is no film yet: open one of your own.")
        return chosen

    def known_model(self, name: str | None, grounding: bool = False) -> str:
        """A model's name as it was given, or the first; `grounding` where it has to show where a word is."""
        names = self.grounding if grounding else list(self.bench.models)
        if not names:
            raise Refused(
                "None of the loaded models can show where a word is; load a GLoRIA or MGCA with --model."
                if grounding
                else "No model is loaded; start the page with --model <folder>."
            )
        if name in (None, ""):
            return names[0]
        if name not in names:
            raise Refused(f"There is no such model for this; there are: {', '.join(names)}.")
        return name

    def known_models(self, names: Sequence[str] | None) -> list[str]:
        if isinstance(names, str):
            names = [names]
        return [self.known_model(name) for name in names] if names else [self.known_model(None)]

    @property
    def grounding(self) -> list[str]:
        return [name for name, model in self.bench.models.items() if model.grounds]

    def film_html(self, chosen: Chosen, **layers) -> str:
        height, width = chosen.film.pixels.shape
        return viewer.film_html(
            film_picture(chosen.film, FILM_SIDE), chosen.alt, chosen.caption, size=(width, height), **layers
        )


def sentence(error: Exception) -> str:
    """What a refusal says, as a sentence of its own."""
    text = str(error).strip()
    return text if text.endswith((".", "!", "?")) else text + "."


def for_clients(function: Callable) -> Callable:
    """`function` as an endpoint: a refusal reaches the client as its sentence."""

    @functools.wraps(function)
    def called(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except Refused as refusal:
            raise gr.Error(sentence(refusal), print_exception=False) from None

    return called


def film_column(tab: str, desk: Desk, state: gr.State, first: str, over: str = "", boxes: bool = False) -> dict:
    """
    A film, its controls, samples to pick from and a place to drop one's own.

    Args:
        tab (`str`): Name of the tab, which opens the ids of all elements.
        desk ([`Desk`]): Whose samples.
        state (`gr.State`): Holds the [`Chosen`] film; `None` stands for the page's first.
        first (`str`): HTML of the film to begin with.
        over, boxes: As in [`~spaces_app.viewer.toolbar`].

    Returns:
        `dict`: `film` and `message`, the components to write into, and `changed(function, inputs, outputs)`, which
        runs a function after another film was chosen here.
    """
    with gr.Column(scale=6, min_width=320, elem_id=f"{tab}-viewer", elem_classes="viewer"):
        film = gr.HTML(first, elem_id=f"{tab}-film")
        gr.HTML(viewer.toolbar(tab, over, boxes), elem_id=f"{tab}-tools")
        said = gr.HTML("", elem_id=f"{tab}-film-message", elem_classes="message-slot")
        pressed = desk.first.film.name if desk.first else None
        strip = gr.HTML(
            viewer.sample_strip(tab, desk.shown, pressed),
            elem_id=f"{tab}-samples",
            js_on_load=PICK,
            visible=bool(desk.shown),
        )
        upload = gr.File(
            label="Open your own film: PNG, JPEG or DICOM",
            type="filepath",
            height=118,
            elem_id=f"{tab}-upload",
            elem_classes="upload",
        )
        gr.HTML(
            '<p class="quiet">Your file is deleted as soon as it is read. The film stays in memory until you leave. '
            "Do not upload films of patients that you may not share.</p>"
        )

    def pick(event: gr.EventData):
        try:
            return desk.sample(str(event.sample)), ""
        except Refused as refusal:
            return gr.skip(), viewer.message(sentence(refusal))

    def take(path: str | None):
        try:
            return desk.uploaded(path), None, ""
        except Refused as refusal:
            return gr.skip(), None, viewer.message(sentence(refusal))

    picked = strip.click(pick, None, [state, said], api_visibility="private", show_progress="hidden")
    taken = upload.upload(take, upload, [state, upload, said], api_visibility="private", show_progress="minimal")

    def changed(function: Callable, inputs: list, outputs: list) -> None:
        for event in (picked, taken):
            event.success(function, inputs, outputs, api_visibility="private", **WITH_MODELS)
        taken.success(None, js="() => medsynPress(null)")

    return {"film": film, "message": said, "changed": changed}


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


def build(bench: Workbench, seed: int = 0) -> gr.Blocks:
    """
    The page.

    Args:
        bench ([`Workbench`]): What it shows.
        seed (`int`, *optional*, defaults to 0): The first seed that the tab Make proposes.

    Returns:
        `gr.Blocks`: With its queue; `launch(**serving())` serves it.
    """
    from . import tab_about, tab_find, tab_make, tab_read, tab_where
    from .endpoints import add_endpoints

    desk = Desk(bench, seed)
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=CACHED) as page:
        gr.HTML(
            '<header class="head"><h1>medsyn</h1><p>Chest films and the words for them: read, point, find, make.</p>'
            f'<p class="badge">{STANDING}</p></header>'
        )
        chosen = gr.State(None, time_to_live=3600)
        with gr.Tabs(elem_id="tabs") as tabs:
            tab_read.add(desk, chosen)
            tab_where.add(desk, chosen)
            tab_find.add(desk, chosen)
            tab_make.add(desk, chosen, tabs)
            tab_about.add(desk)
        add_endpoints(desk)
    return page.queue(max_size=WAITING, default_concurrency_limit=4, api_open=False)


def theme() -> gr.themes.Base:
    """One dark look, whatever the browser prefers; fonts of the system alone, so that nothing is fetched for them."""
    ink, quiet, line, panel, ground, blue = "#e8ecf0", "#aab5c0", "#38424c", "#1a2027", "#12161b", "#56b4e9"
    colours = {
        "body_background_fill": ground,
        "body_text_color": ink,
        "body_text_color_subdued": quiet,
        "background_fill_primary": panel,
        "background_fill_secondary": ground,
        "border_color_primary": line,
        "border_color_accent": blue,
        "border_color_accent_subdued": line,
        "color_accent": blue,
        "color_accent_soft": "#22394a",
        "link_text_color": "#8ccbf2",
        "link_text_color_hover": "#b9e0f8",
        "link_text_color_active": "#b9e0f8",
        "link_text_color_visited": "#8ccbf2",
        "block_background_fill": panel,
        "block_border_color": line,
        "block_label_background_fill": panel,
        "block_label_border_color": line,
        "block_label_text_color": quiet,
        "block_title_text_color": ink,
        "block_info_text_color": quiet,
        "panel_background_fill": panel,
        "panel_border_color": line,
        "input_background_fill": ground,
        "input_background_fill_focus": ground,
        "input_border_color": "#66737f",
        "input_border_color_focus": blue,
        "input_placeholder_color": "#8d99a5",
        "checkbox_background_color": ground,
        "checkbox_background_color_selected": "#2f7fb5",
        "checkbox_border_color": "#8d99a5",
        "checkbox_border_color_selected": blue,
        "checkbox_label_background_fill": ground,
        "checkbox_label_background_fill_hover": "#22394a",
        "checkbox_label_background_fill_selected": "#22394a",
        "checkbox_label_text_color": ink,
        "checkbox_label_text_color_selected": ink,
        "checkbox_label_border_color": line,
        "button_primary_background_fill": blue,
        "button_primary_background_fill_hover": "#7cc5ef",
        "button_primary_border_color": blue,
        "button_primary_text_color": "#0b1117",
        "button_primary_text_color_hover": "#0b1117",
        "button_secondary_background_fill": "#2a333d",
        "button_secondary_background_fill_hover": "#36414d",
        "button_secondary_border_color": "#66737f",
        "button_secondary_text_color": ink,
        "table_border_color": line,
        "slider_color": blue,
        "loader_color": blue,
        "accordion_text_color": ink,
        "table_text_color": ink,
        "code_background_fill": "#0d1114",
        "error_background_fill": "#2b1d12",
        "error_border_color": "#e69f00",
        "error_text_color": "#ffd9a0",
    }
    # Some names have no twin for the dark mode.
    known = inspect.signature(gr.themes.Base.set).parameters
    both = colours | {f"{name}_dark": colour for name, colour in colours.items() if f"{name}_dark" in known}
    fonts = ["ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Helvetica Neue", "Arial", "sans-serif"]
    mono = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]
    base = gr.themes.Base(font=[Font(name) for name in fonts], font_mono=[Font(name) for name in mono])
    return base.set(**both, block_radius="6px", block_shadow="none", block_shadow_dark="none")


class Font(gr.themes.Font):
    """A font that the system has; generic names stand without quotes, or browsers do not know them."""

    def __str__(self) -> str:
        return self.name if " " not in self.name else f"'{self.name}'"


def serving() -> dict:
    """How the page is served: `launch(**serving())`; nothing but what this process made is handed out."""
    from .headers import Guarded

    return {
        "theme": theme(),
        "css": (HERE / "style.css").read_text(encoding="utf-8"),
        "head": f"<script>{(HERE / 'page.js').read_text(encoding='utf-8')}</script>",
        "share": False,
        "show_error": False,
        "max_file_size": MAX_BYTES,
        "max_threads": 16,
        "state_session_capacity": 200,
        "allowed_paths": [],
        "blocked_paths": [str(HERE.parent)],
        "footer_links": ["api"],
        "run_history": False,
        "enable_monitoring": False,
        "ssr_mode": False,
        "pwa": False,
        "mcp_server": False,
        "app_kwargs": {"middleware": [Guarded.as_middleware()], "docs_url": None, "redoc_url": None},
    }


def as_picture(film: Film) -> Image.Image:
    return film_picture(film, FILM_SIDE)
