"""Turns attenuation into grey levels: scatter, blur, noise, detail enhancement and a grey curve fitted to real ones.

The exposure is fitted on the image without findings and then applied with them, so that a finding changes only the
grey levels that it covers and those that scatter and enhancement spread it to.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from dataset_builder.generators.phantom.geometry import Pose, stream
from dataset_builder.generators.phantom.marks import draw_marks

GREYS_FILE = Path(__file__).with_name("greys.json")
AIR_NEPERS = 0.25  # less than this is taken for air beside the patient
MATCH = 0.85  # weight of the quantiles of real radiographs; the rest is a straight line
BANDS = (
    (1 / 5, 1 / 18, 0.75),
    (1 / 18, 1 / 60, 0.75),
    (1 / 60, 1 / 170, 0.8),
)  # (sigma, sigma, gain), sigma per height


@lru_cache
def _greys() -> dict[str, np.ndarray]:
    table = json.loads(GREYS_FILE.read_text())
    return {name: np.array(table[name]) for name in ("mean", "components", "deviations")}


@lru_cache(maxsize=64)
def _blur_matrix(size: int, sigma: float) -> torch.Tensor:
    """Gaussian blur of a line with the weights renormalised at its ends, `(size, size)`."""
    at = torch.arange(size, dtype=torch.float32)
    weights = torch.exp(-0.5 * ((at[:, None] - at) / max(sigma, 1e-3)) ** 2)
    return weights / weights.sum(1, keepdim=True)


def blur(image: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian blur of an `(height, width)` image, `sigma` in pixels."""
    rows, columns = (_blur_matrix(size, sigma) for size in image.shape)
    return rows @ image @ columns.T


@dataclass(eq=False)
class Exposure:
    """How one radiograph is exposed and developed; made by `fit_exposure`.

    Args:
        pose (`Pose`): What text in the image must agree with.
        seed (`int`): Marks are drawn from it.
        scatter (`float`): Scattered relative to direct radiation.
        mean (`float`): Mean direct intensity of the image that the exposure was fitted on.
        sharpness (`float`): Blur of detector and focus, sigma in pixels.
        noise (`torch.Tensor` of shape `(height, width)`): Relative noise at full exposure.
        gain (`float`): Of the detail enhancement.
        dense (`tuple[float, float]`): Nepers of lung and of heart, between which noise and enhancement change.
        knots, greys (`np.ndarray`): The grey curve.
    """

    pose: Pose
    seed: int
    scatter: float
    mean: float
    sharpness: float
    noise: torch.Tensor
    gain: float
    dense: tuple[float, float] = (1.0, 2.5)
    knots: np.ndarray | None = None
    greys: np.ndarray | None = None

    def expose(self, q: torch.Tensor, noise: bool = True) -> torch.Tensor:
        """Attenuation with scatter, blur and noise, enhanced: `(height, width)` nepers."""
        height = q.shape[0]
        direct = torch.exp(-q)
        intensity = direct + self.scatter * blur(direct, height / 10) + self.scatter / 4 * self.mean
        intensity = blur(intensity, self.sharpness)
        log = -torch.log(intensity)
        opaque = torch.sigmoid((log - sum(self.dense) / 2) / (0.18 * (self.dense[1] - self.dense[0])))
        if noise:
            log = log + self.noise * (1 + 1.0 * opaque)
        gain = self.gain * (1 - 0.45 * opaque)
        smooth = {share: blur(log, share * height) for share in {share for band in BANDS for share in band[:2]}}
        out = smooth[BANDS[0][0]]
        for coarse, fine, factor in BANDS:
            out = out + gain * factor * (smooth[fine] - smooth[coarse])
        return out + gain * 2.0 * (log - smooth[BANDS[-1][1]])

    def develop(self, q: torch.Tensor, noise: bool = True) -> np.ndarray:
        """Develops the image.

        Args:
            q (`torch.Tensor` of shape `(height, width)`): Attenuation in nepers, with or without findings.
            noise (`bool`, *optional*, defaults to `True`): Whether to add noise.

        Returns:
            `np.ndarray` of shape `(height, width)`, uint8.
        """
        grey = np.interp(self.expose(q, noise).numpy(), self.knots, self.greys)
        grey = draw_marks(grey, self.pose, stream(self.seed, "film"))
        return np.clip(np.rint(grey), 0, 255).astype(np.uint8)


def fit_exposure(q: torch.Tensor, seed: int, pose: Pose) -> Exposure:
    """Draws exposure and development from `seed` and fit the grey curve.

    Args:
        q (`torch.Tensor` of shape `(height, width)`): Attenuation of the patient WITHOUT findings, in nepers.
        seed (`int`): Of the image.
        pose (`Pose`): The patient's.

    Returns:
        `Exposure`: Develops this image and the one with findings.
    """
    rng = stream(seed, "film")
    rng.random(64)  # the part of the stream that the marks are drawn from
    scatter = rng.uniform(0.10, 0.28) if pose.view == "PA" else rng.uniform(0.18, 0.40)
    body = (q > AIR_NEPERS).numpy()
    low, high = np.quantile(q.numpy()[body], (0.2, 0.65))
    exposure = Exposure(
        pose=pose,
        seed=seed,
        scatter=scatter,
        mean=float(torch.exp(-q).mean()),
        sharpness=rng.uniform(0.2, 0.4) * max(1.0, q.shape[0] / 400),
        noise=torch.from_numpy(rng.normal(size=q.shape)).float() * rng.uniform(0.004, 0.011),
        gain=rng.uniform(1.0, 1.5),
        dense=(float(low), float(high)),
    )
    table = _greys()
    scores = np.clip(rng.normal(size=len(table["deviations"])), -1.6, 1.6) * table["deviations"]
    target = np.maximum.accumulate(table["mean"] + scores @ table["components"])
    exposed = exposure.expose(q, noise=False).numpy()
    knots = np.quantile(exposed[body], np.linspace(0, 1, len(target)))
    # the extremes are single pixels; take their neighbours' slope instead
    knots[0], knots[-1] = 2 * knots[1] - knots[2], 2 * knots[-2] - knots[-3]
    target[0], target[-1] = 2 * target[1] - target[2], 2 * target[-2] - target[-3]
    knots = np.maximum.accumulate(knots + np.arange(len(knots)) * 1e-4)
    straight = np.interp(knots, knots[[1, -2]], target[[1, -2]])
    greys = np.maximum.accumulate(MATCH * target + (1 - MATCH) * straight)
    air = rng.uniform(0, 18)
    exposure.knots = np.concatenate([[knots[0] - 0.6], knots, [knots[-1] + 0.4]])
    exposure.greys = np.concatenate([[min(air, greys[0])], greys, [min(255.0, greys[-1] + 8)]])
    return exposure
