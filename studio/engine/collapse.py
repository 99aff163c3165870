"""Collapse detection: a round's pictures compared with the base model's, seed by seed.

A taste moves pictures; a collapse destroys them. Three figures that need no other model, each a
ratio where 1 means "as the base":

    drift      distance of a picture from the base's of the same seed, in units of the distance
               between two seeds of the base: above 1 it is further than an unrelated picture
    diversity  distance between two seeds of one prompt
    detail     how much a picture changes from pixel to pixel: near 0 it is mush, far above 1 noise

If there is a recogniser for the base model's subjects, also the share of pictures that it still
recognises. Pure functions: pictures in, figures out.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

COMPARED_AT_PX = 64
MOST_DRIFT = 1.5
LEAST_DIVERSITY = 0.3
LEAST_DETAIL, MOST_DETAIL = 0.35, 2.5
MOST_LOST = 0.25  # share of the base's recognised pictures that may be lost


@dataclass(frozen=True)
class Checks:
    """The figures of an adapter's pictures against its base model's."""

    drift: float
    diversity: float
    detail: float
    recognised_base: float | None = None
    recognised: float | None = None

    def values(self) -> dict[str, Any]:
        """The measured figures by name, for the store."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def compare(
    base: list[list[Image.Image]],
    tuned: list[list[Image.Image]],
    recognised_base: float | None = None,
    recognised: float | None = None,
) -> Checks:
    """`base` and `tuned` hold, for each prompt, the pictures of the same two or more seeds."""
    before, after = _pixels(base), _pixels(tuned)
    apart = max(_between_seeds(before), 1e-6)
    return Checks(
        drift=_distance(before, after) / apart,
        diversity=_between_seeds(after) / apart,
        detail=_detail(after) / max(_detail(before), 1e-6),
        recognised_base=recognised_base,
        recognised=recognised,
    )


def failure(checks: Checks) -> str:
    """How the model has collapsed, as a clause for the artist; empty if it has not."""
    if checks.recognised is not None and checks.recognised_base is not None:
        lost = checks.recognised_base - checks.recognised
        if lost > MOST_LOST * max(checks.recognised_base, 1e-6):
            return (
                f"{round(100 * checks.recognised)} % of its pictures show what they should, of the "
                f"base model's {round(100 * checks.recognised_base)} %"
            )
    if not checks.drift <= MOST_DRIFT:
        return "its pictures have next to nothing in common with the base model's"
    if not checks.diversity >= LEAST_DIVERSITY:
        return "its pictures of one prompt all look the same"
    if not checks.detail >= LEAST_DETAIL:
        return "its pictures have lost their detail"
    if not checks.detail <= MOST_DETAIL:
        return "its pictures have turned to noise"
    return ""


def _pixels(pictures: list[list[Image.Image]]) -> np.ndarray:
    """(prompts, seeds, 64, 64, 3) in 0..1."""
    size = (COMPARED_AT_PX, COMPARED_AT_PX)
    small = [
        [np.asarray(picture.convert("RGB").resize(size, Image.Resampling.BOX)) for picture in row]
        for row in pictures
    ]
    return np.asarray(small, dtype=np.float32) / 255


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    """Root mean square over pixels, mean over pictures."""
    return float(np.sqrt(np.square(one - other).mean((-3, -2, -1))).mean())


def _between_seeds(pixels: np.ndarray) -> float:
    """Mean distance of each seed's picture from the next one's, of the same prompt."""
    return _distance(pixels[:, :-1], pixels[:, 1:])


def _detail(pixels: np.ndarray) -> float:
    """Mean difference of neighbouring pixels."""
    across = np.abs(np.diff(pixels, axis=-2)).mean()
    down = np.abs(np.diff(pixels, axis=-3)).mean()
    return float(across + down)
