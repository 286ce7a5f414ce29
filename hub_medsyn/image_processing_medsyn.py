"""Radiographs of any size, depth and mode to the square normalised tensors that the encoders take."""

from __future__ import annotations

import base64
import functools
import os
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature

from .image_files import BROKEN, decode

LUMINANCE = np.array([0.299, 0.587, 0.114])  # ITU-R 601, as PIL converts colour to grey


@functools.lru_cache(maxsize=512)
def area_weights(old: int, new: int) -> np.ndarray:
    """The `(new, old)` matrix that averages `old` pixels into `new` by the area they share; its rows sum to 1."""
    edges = np.arange(new + 1) * (old / new)  # the new pixels' edges, in old pixels
    left, right = edges[:-1, None], edges[1:, None]  # (new, 1)
    pixel = np.arange(old)[None]  # (1, old)
    overlap = np.clip(np.minimum(right, pixel + 1) - np.maximum(left, pixel), 0, None)  # (new, old)
    return (overlap / overlap.sum(1, keepdims=True)).astype(np.float32)


def to_grey(image: Image.Image | np.ndarray | torch.Tensor) -> np.ndarray:
    """One image as `(height, width)` uint8.

    Colour becomes luminance; alpha is ignored. 8-bit values stay as they are and floats within 0 and 1 are taken as
    fractions of white. Everything else (16-bit images, wider floats) has no fixed white: its own lowest value becomes
    0 and its highest 255.

    Args:
        image (`PIL.Image.Image`, `np.ndarray` or `torch.Tensor`):
            A PIL image of any mode, or an array `(height, width)`, `(height, width, channels)` or
            `(channels, height, width)` of 1, 3 or 4 channels.

    Raises:
        ValueError: If the array has another shape, or a value is NaN or infinite.
    """
    if isinstance(image, Image.Image):
        if image.mode in ("1", "L"):
            return np.asarray(image.convert("L"))
        if image.mode == "F" or image.mode.startswith("I"):
            image = np.asarray(image)
        else:  # RGB, RGBA, LA, P, CMYK, YCbCr, HSV, LAB
            return np.asarray(image.convert("RGB").convert("L"))
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu()
        image = image.float() if image.is_floating_point() else image  # NumPy has no bfloat16
    pixels = np.asarray(image)
    fractions = np.issubdtype(pixels.dtype, np.floating)
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4) and pixels.shape[-1] not in (1, 3, 4):
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.ndim == 3 and pixels.shape[-1] in (1, 3, 4):
        eight_bit = pixels.dtype == np.uint8
        pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels[..., :3] @ LUMINANCE
        pixels = np.rint(pixels).astype(np.uint8) if eight_bit else pixels
    if pixels.ndim != 2:
        raise ValueError(
            f"an image of shape {tuple(pixels.shape)} is not (height, width), with 1, 3 or 4 channels first or last"
        )
    if pixels.dtype == np.uint8:
        return pixels
    pixels = pixels.astype(np.float64)
    if not np.isfinite(pixels).all():
        raise ValueError(f"an image of shape {pixels.shape} holds NaN or infinite values; mend or leave out the file")
    low, high = pixels.min(initial=np.inf), pixels.max(initial=-np.inf)
    if fractions and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    elif high == low:
        high = low + 1
    return np.rint((pixels - low) / (high - low) * 255).astype(np.uint8)


def open_image(source: str | Path) -> Image.Image:
    """Opens an image in its own mode, upright: transformers' `load_image` cuts 16-bit images off at 255.

    Args:
        source (`str` or `Path`): A path, a URL, or the image in base64 as `load_image` takes it.

    Raises:
        OSError: There is no such file, or it is no image.
        ValueError: A string is neither a path nor a URL nor base64.
    """
    if isinstance(source, Path) or os.path.isfile(source):
        name, content = str(source), Path(source).read_bytes()
    elif source.startswith(("http://", "https://")):
        name = source[:200]
        with urlopen(Request(source, headers={"User-Agent": "medsyn"}), timeout=60) as answer:
            content = answer.read()
    else:
        name = "the base64 image"
        try:
            content = base64.b64decode(source.partition(",")[2] if source.startswith("data:image/") else source)
        except ValueError:
            content = b""
        if not content:
            raise FileNotFoundError(f"there is no image {source[:200]!r}; pass a path, a URL, or an image in base64")
    try:
        return decode(content)
    except BROKEN as error:
        raise OSError(f"{name} is no image that can be read ({type(error).__name__})") from None


class MedSynImageProcessor(BaseImageProcessor):
    """Grey, longest side to `size` by area averaging, zero padding to a square, optional centre crop, normalisation.

    The resize is that of GLoRIA and MGCA (OpenCV's `INTER_AREA`, shorter side rounded down, padding rounded down
    on the left and at the top), within one grey level and without OpenCV.

    Args:
        size (`int` or `dict`, *optional*, defaults to 224): The square's side; saved as `{"longest_edge": size}`.
        crop_size (`int` or `dict`, *optional*):
            Side of a centre crop out of that square, as GLoRIA and MGCA take 224 of 256; no crop when left out.
        image_mean (`float` or `list[float]`, *optional*, defaults to 0.5): Subtracted from values between 0 and 1.
        image_std (`float` or `list[float]`, *optional*, defaults to 0.5): Standard deviation to divide by afterwards.
        num_channels (`int`, *optional*, defaults to 3): 3 repeats the grey image, 1 does not.

    Raises:
        ValueError: If `size` has no `longest_edge`, the crop is larger than the square, or the channels are neither 1
            nor 3.
    """

    model_input_names = ["pixel_values"]

    def __init__(
        self,
        size: int | dict[str, int] = 224,
        crop_size: int | dict[str, int] | None = None,
        image_mean: float | list[float] = 0.5,
        image_std: float | list[float] = 0.5,
        num_channels: int = 3,
        **kwargs,
    ):
        super().__init__(**kwargs)
        side = size if isinstance(size, int) else size.get("longest_edge")
        if side is None:
            raise ValueError(f"size {size} has no longest_edge; pass the square's side as a number, such as size=224")
        crop = crop_size["height"] if isinstance(crop_size, dict) else crop_size
        if crop is not None and crop > side:
            raise ValueError(f"crop_size {crop} is larger than size {side}; pass a size of at least {crop}")
        if num_channels not in (1, 3):
            raise ValueError(f"num_channels {num_channels} is neither 1 nor 3")
        self.size = {"longest_edge": side}
        self.crop_size = None if crop is None else {"height": crop, "width": crop}
        self.image_mean = image_mean
        self.image_std = image_std
        self.num_channels = num_channels

    @property
    def output_size(self) -> int:
        """Side of the images that come out, in pixels."""
        return self.crop_size["height"] if self.crop_size else self.size["longest_edge"]

    def resize_and_pad(self, grey: np.ndarray, side: int | None = None) -> np.ndarray:
        """`(height, width)` uint8 to `(side, side)` uint8.

        Raises:
            ValueError: If the image has a side of one pixel, or is so long that its short side would vanish.
        """
        side = side or self.size["longest_edge"]
        height, width = grey.shape
        longest = max(height, width, 1)
        new_height, new_width = height * side // longest, width * side // longest
        if min(height, width) < 2 or min(new_height, new_width) < 1:
            raise ValueError(f"an image of {height} x {width} pixels cannot be shown at {side} x {side}; leave it out")
        if (new_height, new_width) != grey.shape:
            shrunk = area_weights(height, new_height) @ grey.astype(np.float32) @ area_weights(width, new_width).T
            grey = np.rint(shrunk).astype(np.uint8)  # (new_height, new_width)
        square = np.zeros((side, side), np.uint8)
        top, left = (side - new_height) // 2, (side - new_width) // 2
        square[top : top + new_height, left : left + new_width] = grey
        return square

    def normalize_squares(self, squares: np.ndarray) -> np.ndarray:
        """Grey values 0 to 255 of shape `(images, side, side)` to float32 of `(images, num_channels, side, side)`."""
        mean = np.broadcast_to(np.asarray(self.image_mean, np.float32), (3,))
        std = np.broadcast_to(np.asarray(self.image_std, np.float32), (3,))
        if self.num_channels == 1:
            mean, std = mean.mean(keepdims=True), std.mean(keepdims=True)
        scaled = squares[:, None].astype(np.float32) / 255  # (images, 1, side, side)
        return (scaled - mean[:, None, None]) / std[:, None, None]  # (images, num_channels, side, side)

    def fetch_images(self, image_url_or_urls):
        """Opens what is a path, a URL or base64 in its full depth, and leaves images as they are; lists item by item.

        Processors of transformers call it before [`preprocess`].
        """
        if isinstance(image_url_or_urls, list | tuple):
            return [self.fetch_images(item) for item in image_url_or_urls]
        if isinstance(image_url_or_urls, str | Path):
            return open_image(image_url_or_urls)
        return super().fetch_images(image_url_or_urls)

    def preprocess(self, images, return_tensors: str | None = None, **kwargs) -> BatchFeature:
        """
        Args:
            images: One image or a list of them, each as [`to_grey`] or [`open_image`] takes it; a
                four-dimensional array is a list of its items.
            return_tensors (`str`, *optional*): `pt` or `np`; a list of arrays otherwise.

        Returns:
            `BatchFeature`: `pixel_values` of shape `(images, num_channels, output_size, output_size)`.

        Raises:
            ValueError: If an image cannot be used, naming its position; or an option is unknown.
            OSError: If a file is not there or is no image.
        """
        if kwargs:
            raise ValueError(
                f"{type(self).__name__} takes no {', '.join(kwargs)} here; set it when making the processor"
            )
        if isinstance(images, np.ndarray | torch.Tensor):
            images = list(images) if images.ndim == 4 else [images]
        elif not isinstance(images, list | tuple):
            images = [images]
        if len(images) == 0:
            raise ValueError("no images were given; pass one or more")
        squares = []
        for position, image in enumerate(images):
            if isinstance(image, str | Path):
                image = open_image(image)
            try:
                squares.append(self.resize_and_pad(to_grey(image)))
            except ValueError as error:
                raise ValueError(f"image {position} of {len(images)}: {error}") from error
        stack = np.stack(squares)  # (images, size, size)
        if self.crop_size:
            crop, side = self.output_size, self.size["longest_edge"]
            start = (side - crop) // 2
            stack = stack[:, start : start + crop, start : start + crop]
        return BatchFeature({"pixel_values": self.normalize_squares(stack)}, tensor_type=return_tensors)
