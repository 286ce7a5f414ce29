"""Images as pictures for a dark page: the image alone, with a heat map, or with the outlines of findings.

An image lies in the middle of a black square, as an SVG of its size does in a square on the page, so that what the
page draws over it meets it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hub_medsyn.cards.overlay import finding_colours, mask_edge
from hub_medsyn.inference.grounding import HeatMap
from medsyn.errors import UserError
from spaces_app.guard.uploads import Upload

SIDE = 768
# Heat from its half-way value up: each brighter than the one before it, so that the order holds without colour too.
HEAT = np.array([(110, 20, 110), (190, 40, 90), (235, 105, 45), (250, 180, 50), (255, 245, 160)], dtype=np.float32)
KEPT = 0.45  # of the image's own light and dark, where the heat is opaque
Box = tuple[str, tuple[float, float, float, float]]
Place = tuple[int, int, int, int]


def image_picture(image: Upload, side: int = SIDE) -> Image.Image:
    """An image in the middle of a black square, `(side, side)` RGB."""
    square = Image.new("RGB", (side, side))
    width, height, left, top = _place(image, side)
    square.paste(Image.fromarray(image.pixels).resize((width, height), Image.Resampling.BICUBIC), (left, top))
    return square


def heat_overlay(
    image: Upload, heat_map: HeatMap, opacity: float = 0.6, boxes: Sequence[Box] = (), side: int = SIDE
) -> Image.Image:
    """A heat map over its image, with a scale.

    What the colours mean: they run from the median of this map, which is clear, to its largest value, which is pale
    yellow; a white line runs half-way between. Cosines have no zero that means `not there` (a model may give negative
    ones everywhere), so a map is compared with itself alone, and its largest value is yellow whether the image shows
    what was asked for or not: the scale gives both cosines, and how they differ tells how much the map says.

    Args:
        image ([`Image`]): The image that was asked.
        heat_map ([`HeatMap`]): Of the image's own size.
        opacity (`float`, *optional*, defaults to 0.6): Of the largest value, 0 to 1; even at 1 the image shows
            through.
        boxes (`Sequence[tuple]`, *optional*): Names and x0, y0, x1, y1 in pixels of the image.
        side (`int`, *optional*, defaults to 768): Of the picture.

    Returns:
        `PIL.Image.Image`: `(side, side)` RGB.

    Raises:
        UserError: If the map has another size than the image, or `opacity` is out of range.
    """
    values = np.asarray(heat_map.values, dtype=np.float32)  # (height, width)
    if values.shape != image.pixels.shape:
        raise UserError(f"a heat map of shape {values.shape} is not one of an image of shape {image.pixels.shape}")
    if not 0 <= opacity <= 1:
        raise UserError(f"opacity={opacity!r} is not between 0 and 1")
    picture = image_picture(image, side)
    width, height, left, top = _place(image, side)
    middle, most = float(np.median(values)), float(values.max())
    share = np.clip((values - middle) / (most - middle), 0, 1) if most > middle else np.zeros_like(values)
    share = np.asarray(Image.fromarray(share).resize((width, height), Image.Resampling.BILINEAR))  # (height, width)
    under = np.asarray(picture, dtype=np.float32)[top : top + height, left : left + width]  # (height, width, 3)
    colour = heat_colour(share) * (1 - KEPT + KEPT * under / 255)
    alpha = (opacity * np.sqrt(share))[..., None]
    mixed = under * (1 - alpha) + colour * alpha
    line = mask_edge(share > 0.5, border=True)
    mixed[line] = 255 * opacity + under[line] * (1 - opacity)
    picture.paste(Image.fromarray(np.rint(mixed).astype(np.uint8)), (left, top))
    _draw_scale(picture, middle, most)
    _draw_boxes(picture, boxes, finding_colours(name for name, _ in boxes), _place(image, side), image)
    return picture


def mask_overlay(
    image: Upload, masks: Sequence[tuple[str, np.ndarray]] = (), boxes: Sequence[Box] = (), side: int = SIDE
) -> Image.Image:
    """An image with the outlines of findings, each finding in a colour and named.

    Args:
        image ([`Image`]): The image.
        masks (`Sequence[tuple[str, np.ndarray]]`, *optional*): Names and `(height, width)` bool masks.
        boxes (`Sequence[tuple]`, *optional*): Names and x0, y0, x1, y1 in pixels of the image; drawn where there is no
            mask of that name, and where there is one the outline says more.
        side (`int`, *optional*, defaults to 768): Of the picture.

    Returns:
        `PIL.Image.Image`: `(side, side)` RGB.

    Raises:
        UserError: If a mask has another size than the image; it is named.
    """
    picture = image_picture(image, side)
    width, height, left, top = place = _place(image, side)
    colours = finding_colours(name for name, _ in (*masks, *boxes))
    pixels, labels = np.array(picture), []
    for name, mask in masks:
        if mask.shape != image.pixels.shape:
            raise UserError(f"the mask of {name} has shape {mask.shape}, its image {image.pixels.shape}")
        # Enlarged as a grey image and cut at its middle, an outline has no stairs.
        smooth = Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).resize((width, height))
        inside = np.zeros((side, side), bool)
        inside[top : top + height, left : left + width] = np.asarray(smooth) > 127
        if not inside.any():
            continue
        edge = mask_edge(inside)
        pixels[_grown(_grown(edge))] //= 3  # dark on either side of the line, so that it shows on bone too
        pixels[_grown(edge)] = colours[name]
        rows, columns = np.nonzero(inside)
        labels.append((name, (int(columns.min()), int(rows.min()))))
    picture = Image.fromarray(pixels)
    outlined = {name for name, _ in masks}
    _draw_boxes(picture, [box for box in boxes if box[0] not in outlined], colours, place, image, labels)
    return picture


def heat_colour(share: np.ndarray) -> np.ndarray:
    """The colour of each share from 0 to 1, `(..., 3)` float32 from 0 to 255."""
    stops = np.linspace(0, 1, len(HEAT))
    return np.stack([np.interp(share, stops, HEAT[:, channel]) for channel in range(3)], axis=-1).astype(np.float32)


def _place(image: Upload, side: int) -> Place:
    """Width, height, left and top of an image in the square."""
    rows, columns = image.pixels.shape
    scale = side / max(rows, columns)
    width, height = max(1, round(columns * scale)), max(1, round(rows * scale))
    return width, height, (side - width) // 2, (side - height) // 2


def _grown(mask: np.ndarray) -> np.ndarray:
    """A mask with the neighbours of its pixels."""
    padded = np.pad(mask, 1)
    return mask | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]


def _font(side: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=max(12, side // 32))


def _draw_boxes(
    picture: Image.Image,
    boxes: Sequence[Box],
    colours: dict[str, tuple[int, int, int]],
    place: Place,
    image: Upload,
    labels: Sequence[tuple[str, tuple[int, int]]] = (),
) -> None:
    """Draws boxes, and the names of these and of `labels`, names and the points that they stand above."""
    draw = ImageDraw.Draw(picture)
    width, height, left, top = place
    across, down = width / image.pixels.shape[1], height / image.pixels.shape[0]
    labels, line = list(labels), max(2, picture.width // 256)
    for name, (x0, y0, x1, y1) in boxes:
        corners = (left + x0 * across, top + y0 * down, left + x1 * across - 1, top + y1 * down - 1)
        draw.rectangle(
            [corner + (-1, -1, 1, 1)[i] for i, corner in enumerate(corners)], outline="black", width=line + 2
        )
        draw.rectangle(corners, outline=colours[name], width=line)
        labels.append((name, (int(corners[0]), int(corners[1]))))
    font, taken = _font(picture.width), []
    for name, (x, y) in sorted(labels, key=lambda label: label[1][1]):
        text = " ".join(name.split())
        _, _, wide, tall = draw.textbbox((0, 0), text, font=font, anchor="lt")
        wide, tall = int(wide) + 8, int(tall) + 8
        x = max(0, min(x, picture.width - wide))
        above = max(0, min(y - tall - 2, picture.height - tall))
        free = [
            at
            for at in range(above % tall, picture.height - tall + 1, tall)
            if not _covers((x, at, x + wide, at + tall), taken)
        ]
        y = min(free, key=lambda at: abs(at - above), default=above)  # as near as can be to above its finding
        taken.append((x, y, x + wide, y + tall))
        draw.rectangle(taken[-1], fill="black")
        draw.text((x + 4, y + 4), text, fill=colours[name], font=font, anchor="lt")


def _covers(area: tuple[int, int, int, int], others: Sequence[tuple[int, int, int, int]]) -> bool:
    left, top, right, bottom = area
    return any(left < other[2] and other[0] < right and top < other[3] and other[1] < bottom for other in others)


def _draw_scale(picture: Image.Image, low: float, high: float) -> None:
    """The colours from clear to yellow at the lower left, with the cosines they stand for."""
    side = picture.width
    draw, font = ImageDraw.Draw(picture), _font(side)
    texts = [f"cosine {low:.2f}", f"{high:.2f}"]
    lengths = [int(draw.textlength(text, font=font)) for text in texts]
    bar, tall, gap = side // 5, side // 40, side // 80
    x, y = gap, side - gap - 2 * tall
    draw.rectangle((x, y, x + sum(lengths) + bar + 4 * gap, y + 2 * tall), fill="black")
    draw.text((x + gap, y + tall), texts[0], fill="white", font=font, anchor="lm")
    start = x + 2 * gap + lengths[0]
    share = np.linspace(0, 1, bar, dtype=np.float32)
    strip = heat_colour(share) * np.sqrt(share)[:, None]  # as over a black image
    strip = np.broadcast_to(np.rint(strip).astype(np.uint8), (tall, bar, 3))
    picture.paste(Image.fromarray(np.ascontiguousarray(strip)), (start, y + tall // 2))
    draw.text((start + bar + gap, y + tall), texts[1], fill="white", font=font, anchor="lm")
