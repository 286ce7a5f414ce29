"""Which pixel each region of an encoder's map is centred on: with padded convolutions not the middle of its cell."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import Tensor, nn


@contextlib.contextmanager
def traced_centres(encoder: nn.Module) -> Iterator[dict[int, tuple[float, float]]]:
    """Follows the convolutions and pools of the pass that the encoder makes meanwhile.

    Where a layer's output `i` is centred follows from its kernel, stride, padding and dilation. A strided 3 x 3
    convolution with a padding of 1 is centred on its input `2 * i`, so that a ResNet's `layer3` is on pixel `16 * i`;
    patches that do not overlap are centred on the middle of their cell. The first path to a map counts, and maps
    behind a layer that shrinks in another way, as Swin merges patches, are left out.

    Yields:
        `dict[int, tuple[float, float]]`: For the side of a map, the pixel that its first region is centred on and the
        pixels from one region to the next; the first key is the side of the image that the encoder got.
    """
    centres: dict[int, tuple[float, float]] = {}

    def follow(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        old, new = inputs[0].shape[-1], output.shape[-1]
        if not centres:
            centres[old] = (0.0, 1.0)
        if old not in centres or new in centres:
            return
        reach = (_of_width(module.kernel_size) - 1) * _of_width(getattr(module, "dilation", 1))
        stride, padding = _of_width(module.stride), _of_width(module.padding)
        if (old + 2 * padding - reach - 1) // stride + 1 != new:
            return  # padded by other code, as in networks that came from TensorFlow
        first, step = centres[old]
        centres[new] = (first + (reach / 2 - padding) * step, step * stride)

    layers = [module for module in encoder.modules() if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d)]
    hooks = [module.register_forward_hook(follow) for module in layers]
    try:
        yield centres
    finally:
        for hook in hooks:
            hook.remove()


def centres_in_square(centres: dict[int, tuple[float, float]], regions: int, square: int) -> tuple[float, float]:
    """The pixel of the image that a model was given on which the first region is centred, and the pixels from one to
    the next: as traced, or else the middles of cells.

    Args:
        centres (`dict[int, tuple[float, float]]`): From [`traced_centres`].
        regions (`int`): Side of the map.
        square (`int`): Side of the image; the model may have enlarged it for its encoder, corners on corners.
    """
    seen = next(iter(centres), square)
    first, step = centres.get(regions, ((seen / regions - 1) / 2, seen / regions))
    scale = (square - 1) / (seen - 1)
    return first * scale, step * scale


def _of_width(value: int | tuple[int, int]) -> int:
    return value if isinstance(value, int) else value[-1]
