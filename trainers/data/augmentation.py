"""Small changes of an image that leave its diagnosis alone; left stays left unless flips are asked for."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch.nn import functional as F

SMALLEST_CROP = 0.8  # share of the area, as in edreisMD/ConVIRT-pytorch
ROTATION = 5.0  # degrees either way
CONTRAST = 0.2
BRIGHTNESS = 0.1  # of white
BLUR = 1.0  # pixels, largest deviation; half of the images are blurred


def augment(
    square: np.ndarray, side: int, generator: np.random.Generator, kind: Literal["crop", "film"], flip: bool = False
) -> np.ndarray:
    """One random view of an image, by one bilinear resampling.

    Args:
        square (`np.ndarray` of shape `(stored, stored)`, uint8): The image; a little larger than `side` keeps it
            sharp.
        side (`int`): Side of the view in pixels.
        generator (`np.random.Generator`): Where all chance comes from.
        kind (`str`):
            `crop` takes 80 to 100 % of the area; `image` also turns by up to 5 degrees, changes contrast by up to 20 %
            and brightness by up to 10 %, and blurs half of the images by up to a pixel.
        flip (`bool`, *optional*, defaults to `False`): Mirrors half of the images; left and right lose their meaning.

    Returns:
        `np.ndarray` of shape `(side, side)`, float32 between 0 and 255.
    """
    share = math.sqrt(generator.uniform(SMALLEST_CROP, 1))
    across, down = generator.uniform(share - 1, 1 - share, 2)
    angle = math.radians(generator.uniform(-ROTATION, ROTATION)) if kind == "film" else 0.0
    mirror = -1.0 if flip and generator.random() < 0.5 else 1.0
    cosine, sine = share * math.cos(angle), share * math.sin(angle)
    theta = torch.tensor([[[cosine * mirror, -sine, across], [sine * mirror, cosine, down]]], dtype=torch.float32)
    image = torch.from_numpy(square).float()[None, None]  # (1, 1, stored, stored)
    grid = F.affine_grid(theta, [1, 1, side, side], align_corners=False)
    view = F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)  # (1, 1, side, side)
    if kind == "film":
        contrast = generator.uniform(1 - CONTRAST, 1 + CONTRAST)
        brightness = 255 * generator.uniform(-BRIGHTNESS, BRIGHTNESS)
        mean = view.mean()
        view = ((view - mean) * contrast + mean + brightness).clamp(0, 255)
        if generator.random() < 0.5:
            view = blur(view, generator.uniform(0.1, BLUR))
    return view[0, 0].numpy()


def blur(image: torch.Tensor, deviation: float) -> torch.Tensor:
    """Gaussian blur of `(1, 1, height, width)` over seven pixels."""
    kernel = torch.exp(-0.5 * (torch.arange(-3, 4) / deviation) ** 2)  # (7,)
    kernel = kernel / kernel.sum()
    image = F.conv2d(F.pad(image, (3, 3, 0, 0), mode="replicate"), kernel.view(1, 1, 1, 7))
    return F.conv2d(F.pad(image, (0, 0, 3, 3), mode="replicate"), kernel.view(1, 1, 7, 1))
