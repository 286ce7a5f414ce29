"""Draws the outlines of findings over a radiograph, each finding in a colour of its own."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

Colour = tuple[int, int, int]
# Okabe and Ito's colours that are bright enough on a radiograph; colour-blind readers tell them apart too.
OUTLINES: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (204, 121, 167),
    (213, 94, 0),
)


def finding_colours(names: Iterable[str], palette: tuple[Colour, ...] = OUTLINES) -> dict[str, Colour]:
    """Returns a colour for each distinct name, in the order in which the names come; the palette starts over."""
    return {name: palette[place % len(palette)] for place, name in enumerate(dict.fromkeys(names))}


def mask_edge(inside: np.ndarray, border: bool = False) -> np.ndarray:
    """
    Returns the outermost pixels of a mask.

    Args:
        inside (`np.ndarray` of shape `(height, width)`, bool): The mask.
        border (`bool`, *optional*, defaults to `False`): Whether what lies beyond the image counts as inside.
    """
    padded = np.pad(inside, 1, constant_values=border)
    core = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside & ~core


def draw_outlines(image: np.ndarray, masks: Iterable[tuple[str, np.ndarray]]) -> tuple[np.ndarray, dict[str, Colour]]:
    """
    Draws the outlines of findings over an image.

    Args:
        image (`np.ndarray` of shape `(height, width)`, uint8): The radiograph.
        masks (`Iterable[tuple[str, np.ndarray]]`): Findings with their `(height, width)` bool masks.

    Returns:
        `tuple[np.ndarray, dict[str, tuple[int, int, int]]]`: `(height, width, 3)` uint8, and each finding's colour.
    """
    masks = list(masks)
    colours = finding_colours(name for name, _ in masks)
    pixels = np.stack([image] * 3, axis=-1)
    for name, mask in masks:
        pixels[mask_edge(mask)] = colours[name]
    return pixels, colours
