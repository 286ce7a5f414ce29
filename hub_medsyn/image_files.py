"""Image files of any depth, decoded upright: `medsyn.images`, whose code travels with checkpoints in this place."""

from medsyn.images import BROKEN, decode, upright

__all__ = ["BROKEN", "decode", "upright"]
