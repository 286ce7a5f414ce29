"""The image area: a dark square of fixed size that holds an image, what is laid over it, and the controls beneath it.

All of it is plain HTML. Pictures travel inside the page as data URLs, so that no image of a visitor is ever written
into a folder that is served; brightness, contrast, zoom and the opacity of what is laid over the image act in the
browser alone (`page.js`).
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image

from hub_medsyn.cards.overlay import OUTLINES

THUMBNAIL = 112  # pixels
STRIP = 18  # images to pick from


def data_url(picture: Image.Image, quality: int = 90) -> str:
    """A picture as a JPEG data URL, grey where it has no colour."""
    held = io.BytesIO()
    picture.save(held, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(held.getvalue()).decode()


def image_html(
    picture: Image.Image,
    alt: str,
    caption: str = "",
    over: Image.Image | None = None,
    over_alt: str = "",
    boxes: Sequence[tuple[str, Sequence[float]]] = (),
    size: tuple[int, int] | None = None,
) -> str:
    """
    An image with what is laid over it.

    Args:
        picture (`PIL.Image.Image`): The image.
        alt (`str`): What it is, for people who do not see it.
        caption (`str`, *optional*): A line beneath it.
        over (`PIL.Image.Image`, *optional*): The same image with a heat map or masks in full strength; the page
            blends.
        over_alt (`str`, *optional*): What `over` shows.
        boxes (`Sequence[tuple[str, Sequence[float]]]`, *optional*): Names and xyxy corners in pixels of the image.
        size (`tuple[int, int]`, *optional*, defaults to that of `picture`): Width and height that the boxes refer to.

    Returns:
        `str`: A `<figure>`; every text in it is escaped.
    """
    layers = [f'<img class="image-base" src="{data_url(picture)}" alt="{escape(alt)}">']
    if over is not None:
        layers.append(f'<img class="image-over" src="{data_url(over)}" alt="{escape(over_alt)}">')
    if boxes:
        layers.append(_boxes_svg(boxes, size or picture.size))
    return (
        '<figure class="image"><div class="image-stage" tabindex="0" role="group" aria-label="Image. When zoomed in, '
        f'scroll it with the arrow keys."><div class="image-layers">{"".join(layers)}</div></div>'
        f"<figcaption>{escape(caption) or '&nbsp;'}</figcaption></figure>"
    )


def _boxes_svg(boxes: Sequence[tuple[str, Sequence[float]]], size: tuple[int, int]) -> str:
    """Boxes with their names above them, lower where another name stands already."""
    width, height = size
    letters = max(width, height) / 30
    colours = dict.fromkeys(name for name, _ in boxes)
    colours = {name: "#" + bytes(OUTLINES[number % len(OUTLINES)]).hex() for number, name in enumerate(colours)}
    shapes, taken = [], []
    for name, (left, top, right, bottom) in sorted(boxes, key=lambda box: box[1][1]):
        wide = 0.62 * letters * len(name)
        x, y = max(2, min(left, width - wide - 2)), max(letters, top - letters * 0.4)
        while any(abs(y - other) < letters * 1.1 and x < end and x + wide > begin for begin, end, other in taken):
            y += letters * 1.1
        taken.append((x, x + wide, y))
        colour = colours[name]
        shapes.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}" '
            f'stroke="{colour}"/><text x="{x:.1f}" y="{y:.1f}" font-size="{letters:.1f}" fill="{colour}" '
            f'stroke-width="{letters / 5:.1f}">{escape(name)}</text>'
        )
    named = "Drawn here: " + ", ".join(name for name, _ in boxes)
    return (
        f'<svg class="image-boxes" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(named)}">'
        f"{''.join(shapes)}</svg>"
    )


def empty_image(sentence: str) -> str:
    return f'<figure class="image"><div class="image-stage image-empty"><p>{escape(sentence)}</p></div></figure>'


def toolbar(tab: str, over: str = "", start: int = 60, boxes: bool = False) -> str:
    """
    The controls beneath an image, which act in the browser.

    Args:
        tab (`str`): Its images are those inside the element `<tab>-viewer`.
        over (`str`, *optional*): What is laid over the image, such as "Heat map"; adds a slider for its opacity.
        start (`int`, *optional*, defaults to 60): Where that slider begins, in percent; the style sheet says the same.
        boxes (`bool`, *optional*, defaults to `False`): Adds a box to tick, "Show boxes".
    """
    ranges = [("brightness", "Brightness", 40, 200, 100), ("contrast", "Contrast", 40, 250, 100)]
    ranges.append(("zoom", "Zoom", 100, 400, 100))
    if over:
        ranges.insert(0, ("over", f"{over} opacity", 0, 100, start))
    controls = [
        f'<label for="{tab}-{name}"><span>{escape(label)}</span><input type="range" id="{tab}-{name}" '
        f'data-set="{name}" data-start="{begin}" min="{low}" max="{high}" step="5" value="{begin}"></label>'
        for name, label, low, high, begin in ranges
    ]
    controls.append(tick(f"{tab}-invert", "Invert", "inverted", "on"))
    if boxes:
        controls.append(tick(f"{tab}-boxes", "Show boxes", "no-boxes", "off"))
    controls.append(f'<button type="button" class="plain" id="{tab}-reset" data-reset>Reset view</button>')
    return (
        f'<div class="image-tools" role="group" aria-label="View" data-viewer="{tab}-viewer">{"".join(controls)}</div>'
    )


def tick(elem_id: str, label: str, name: str, when: str) -> str:
    """A box to tick that gives the viewer the class `name` while it is `when`, `on` or `off`; it begins without."""
    checked = " checked data-start" if when == "off" else ""
    return (
        f'<label class="tick" for="{elem_id}"><input type="checkbox" id="{elem_id}" data-switch="{name}" '
        f'data-when="{when}"{checked}><span>{escape(label)}</span></label>'
    )


def sample_strip(tab: str, samples: Sequence, pressed: str | None) -> str:
    """A row of buttons, one a sample image, of which `pressed` is shown."""
    buttons = []
    for number, sample in enumerate(samples, 1):
        small = Image.fromarray(sample.image.pixels)
        small.thumbnail((THUMBNAIL, THUMBNAIL))
        name = sample.impression or "no impression"
        buttons.append(
            f'<button type="button" class="sample" data-sample="{escape(sample.id)}" title="{escape(name)}" '
            f'aria-pressed="{"true" if sample.id == pressed else "false"}" id="{tab}-sample-{number}">'
            f'<img src="{data_url(small, 80)}" width="72" height="72" alt="Sample {number}: {escape(name)}"></button>'
        )
    return f'<div class="strip" role="group" aria-label="Sample images">{"".join(buttons)}</div>'


def varied(samples: Sequence, number: int = STRIP) -> list:
    """Up to `number` samples, those with labels that none before them has first, in the dataset's own order."""
    fresh, seen = [], set()
    for sample in samples:
        present = {label for label, value in sample.labels.items() if value == 1}
        if present - seen:
            fresh.append(sample)
            seen |= present
    chosen = {id(sample) for sample in (fresh + [one for one in samples if one not in fresh])[:number]}
    return [sample for sample in samples if id(sample) in chosen]


def message(sentence: str, kind: str = "error") -> str:
    """What the line beneath a form says: an `error` is announced at once, a `note` when the reader pauses."""
    if not sentence:
        return ""
    role = "alert" if kind == "error" else "status"
    return f'<p class="message {kind}" role="{role}">{escape(sentence)}</p>'
