"""Films as pictures for a dark page: the film alone, with a heat map, or with the outlines of findings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hub_medsyn.inference.grounding import HeatMap
from spaces_app.uploads import Film

SIDE = 768
# Okabe and Ito's colours without black, which is no colour on a film: told apart by colour-blind readers too.
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167), (0, 114, 178))
Box = tuple[str, tuple[float, float, float, float]]


def film_picture(film: Film, side: int = SIDE) -> Image.Image:
    """A film in the middle of a black square, `(side, side)` RGB."""
    square = Image.new("RGB", (side, side))
    width, height, left, top = _place(film, side)
    square.paste(Image.fromarray(film.pixels).resize((width, height), Image.Resampling.BICUBIC), (left, top))
    return square


def heat_overlay(
    film: Film, heat_map: HeatMap, opacity: float = 0.5, boxes: Sequence[Box] = (), side: int = SIDE
) -> Image.Image:
    """A heat map over its film."""
    picture = film_picture(film, side)
    width, height, left, top = _place(film, side)
    values = heat_map.values
    low, high = float(values.min()), float(values.max())
    share = (values - low) / ((high - low) or 1)
    grey = Image.fromarray(share.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    share = np.clip(np.asarray(grey), 0, 1)[..., None]
    under = np.asarray(picture, dtype=np.float32)[top : top + height, left : left + width]
    colour = share * np.array([255, 200, 60]) + (1 - share) * np.array([90, 20, 110])
    mixed = under * (1 - opacity * share) + colour * opacity * share
    picture.paste(Image.fromarray(np.rint(mixed).astype(np.uint8)), (left, top))
    return _with_boxes(picture, film, boxes, side)


def mask_overlay(
    film: Film,
    masks: Sequence[tuple[str, np.ndarray]] = (),
    boxes: Sequence[Box] = (),
    side: int = SIDE,
) -> Image.Image:
    """A film with the outlines of findings."""
    picture = film_picture(film, side)
    pixels = np.array(picture)
    width, height, left, top = _place(film, side)
    colours = _colours([name for name, _ in (*masks, *boxes)])
    for name, mask in masks:
        inside = np.zeros((side, side), bool)
        scaled = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)
        inside[top : top + height, left : left + width] = np.asarray(scaled)
        pixels[_outline(inside)] = colours[name]
    return _with_boxes(Image.fromarray(pixels), film, boxes, side)


def _place(film: Film, side: int) -> tuple[int, int, int, int]:
    """Width, height, left and top of a film in the square."""
    rows, columns = film.pixels.shape
    scale = side / max(rows, columns)
    width, height = max(1, round(columns * scale)), max(1, round(rows * scale))
    return width, height, (side - width) // 2, (side - height) // 2


def _colours(names: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    return {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(dict.fromkeys(names))}


def _outline(inside: np.ndarray) -> np.ndarray:
    core = inside.copy()
    core[1:-1, 1:-1] = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    return inside & ~core


def _with_boxes(picture: Image.Image, film: Film, boxes: Sequence[Box], side: int) -> Image.Image:
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=max(12, side // 40))
    width, _, left, top = _place(film, side)
    scale = width / film.pixels.shape[1]
    colours = _colours([name for name, _ in boxes])
    for name, (x0, y0, x1, y1) in boxes:
        corners = (left + x0 * scale, top + y0 * scale, left + x1 * scale, top + y1 * scale)
        draw.rectangle(corners, outline=colours[name], width=max(2, side // 256))
        draw.text(corners[:2], name, fill=colours[name], font=font, stroke_width=2, stroke_fill="black", anchor="lb")
    return picture
