"""Masks as runs of pixels, the way SIIM-ACR writes them."""

from __future__ import annotations

import re

import numpy as np

from medsyn.errors import UserError
from medsyn.texts import quoted_id


def decode_runs(text: str, width: int, height: int) -> np.ndarray:
    """
    The mask of a string `gap length gap length ...`.

    Pixels are counted down the columns, from the left one to the right one. A gap counts from the end of the run
    before it, the first one from pixel 0.

    Args:
        text (`str`): The runs; empty for an empty mask.
        width (`int`), height (`int`): Of the image, in pixels.

    Returns:
        `np.ndarray` of shape `(height, width)`, bool.

    Raises:
        UserError: Not pairs of whole numbers, a negative gap, a length below 1, or runs that end behind the last
            pixel.
    """
    fields = text.split()
    if len(fields) % 2 or not all(re.fullmatch(r"-?[0-9]{1,30}", field) for field in fields):
        raise UserError(f"the run lengths are not pairs of whole numbers: {quoted_id(text)}")
    numbers = [int(field) for field in fields]
    if min(numbers[::2], default=0) < 0 or min(numbers[1::2], default=1) < 1:
        raise UserError("the run lengths hold a negative gap, or a run without pixels")
    if sum(numbers) > width * height:  # before numbers that no array holds reach one
        raise UserError(f"the run lengths end at pixel {sum(numbers):,} of an image of {width} x {height}")
    gaps, lengths = np.array(numbers, dtype=np.int64).reshape(-1, 2).T  # (runs,), (runs,)
    ends = np.cumsum(gaps + lengths)
    steps = np.zeros(width * height + 1, dtype=np.int8)
    np.add.at(steps, ends - lengths, 1)
    np.add.at(steps, ends, -1)
    return np.cumsum(steps[:-1], dtype=np.int8).astype(bool).reshape(width, height).T
