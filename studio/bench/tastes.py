"""A population of simulated tastes: weighted sums of what pictures can be told apart by.

    python launch.py bench tastes
    python launch.py bench curves --population report

The first lists the tastes and measures the spreads that they are made with. The artists of
`studio.bench.artists` are also those that the defaults were tuned on. Here tastes are drawn at
random: a third follows one measure, a third a mixture of two, a third of three. One half is to tune
on, the other to report on, split once by the same seed.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from studio import models
from studio.bench import artists
from studio.bench.held_out import split_prompts
from studio.engine import recogniser, sampling
from studio.settings import SamplingSettings

SIDE_PX = 64  # measures are taken of pictures of this size: a taste is not about single pixels
COUNT = 32
SEED = 7
FOREGROUND = 0.15  # least distance of a pixel from the ground's colour, in units of 0..1


# --- what pictures can be told apart by ----------------------------------------------------------


def _contrast(image: Image.Image) -> float:
    return float(np.asarray(image.convert("L")).std()) / 255


def _detail(image: Image.Image) -> float:
    """Mean difference of neighbouring pixels."""
    grey = np.asarray(image.convert("L"), np.float32) / 255
    return float(sum(np.abs(np.diff(grey, axis=axis)).mean() for axis in (0, 1)))


def _over_others(colours: np.ndarray, channel: int) -> float:
    """How much a channel of colours (..., 3) outweighs the mean of the two others."""
    means = colours.reshape(-1, 3).mean(0)
    return float(1.5 * means[channel] - means.sum() / 2)


def _cover(image: Image.Image) -> np.ndarray:
    """1 where the subject is and 0 where the ground is, (h, w)."""
    ground = np.median(artists.border(image), axis=0)
    return (np.abs(artists.values(image) - ground).max(2) > FOREGROUND).astype(np.float32)


def _centre(image: Image.Image, axis: int) -> float:
    """Of the subject, 0 at the top or the left, 1 at the other side; 0.5 if there is none."""
    along = _cover(image).sum(1 - axis)
    return float(np.average(np.linspace(0, 1, len(along)), weights=along)) if along.any() else 0.5


MEASURES: dict[str, Callable[[Image.Image], float]] = {
    "bright": lambda image: artists.bright(image, ""),
    "contrast": _contrast,
    "red": lambda image: _over_others(artists.values(image), 0),
    "green": lambda image: _over_others(artists.values(image), 1),
    "saturated": lambda image: artists.saturated(image, ""),
    "detailed": _detail,
    "symmetric": lambda image: artists.symmetric(image, ""),
    "bright ground": lambda image: float(artists.border(image).mean()),
    "blue ground": lambda image: artists.blue_background(image, ""),
    "red ground": lambda image: _over_others(artists.border(image), 0),
    "large subject": lambda image: float(_cover(image).mean()),
    "subject at the right": lambda image: _centre(image, 1),
    "subject below": lambda image: _centre(image, 0),
}
# standard deviations over the base's pictures, as `bench tastes` prints them; of a style, of its
# log-odds by the recogniser
SPREADS = {
    "bright": 0.183,
    "contrast": 0.108,
    "red": 0.206,
    "green": 0.102,
    "saturated": 0.196,
    "detailed": 0.0354,
    "symmetric": 0.0511,
    "bright ground": 0.231,
    "blue ground": 0.269,
    "red ground": 0.245,
    "large subject": 0.157,
    "subject at the right": 0.0311,
    "subject below": 0.0727,
    "flat style": 2.43,
    "ink style": 3.91,
    "3d style": 2.59,
    "pixel style": 2.98,
    "neon style": 2.15,
    "watercolour style": 1.4,
}
STYLE = " style"


@cache
def _judge() -> recogniser.Recogniser:
    return recogniser.load()


def measure(name: str, image: Image.Image) -> float:
    """A measure, or the log-odds of a style, "ink style"."""
    if name.endswith(STYLE):
        judge = _judge()
        logits = judge.logits([image])[1][0]
        index = judge.styles.index(name.removesuffix(STYLE))
        others = [i for i in range(len(logits)) if i != index]
        return float(logits[index] - logits[others].logsumexp(0))
    return MEASURES[name](image.convert("RGB").resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX))


# --- the tastes ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Taste:
    """Likes pictures by a weighted sum of measures, each divided by its spread."""

    weights: tuple[tuple[str, float], ...]

    def __call__(self, image: Image.Image, prompt: str) -> float:
        return sum(weight * measure(name, image) / SPREADS[name] for name, weight in self.weights)

    def __str__(self) -> str:
        return ", ".join(f"{weight:+.1f} {name}" for name, weight in self.weights)


def population() -> dict[str, Taste]:
    """Tastes by name; the weights of each are a unit vector."""
    draw = np.random.default_rng(SEED)
    names = list(SPREADS)
    tastes = {}
    for number in range(COUNT):
        chosen = draw.choice(len(names), 1 + number % 3, replace=False)
        weights = draw.choice((-1, 1), len(chosen)) * draw.uniform(0.5, 1, len(chosen))
        weights /= np.linalg.norm(weights)
        parts = tuple((names[i], float(weight)) for i, weight in zip(chosen, weights, strict=True))
        tastes[f"taste {number + 1:02}"] = Taste(parts)
    return tastes


def halves() -> dict[str, tuple[str, ...]]:
    """Names of the tastes to "tune" on and to "report" on."""
    names = np.array(list(population()))
    shuffled = np.random.default_rng(SEED + 1).permutation(names).tolist()
    return {
        "tune": tuple(sorted(shuffled[: COUNT // 2])),
        "report": tuple(sorted(shuffled[COUNT // 2 :])),
    }


def spreads(images: list[Image.Image]) -> dict[str, float]:
    """Standard deviation of every measure over pictures."""
    names = [*MEASURES, *(f"{style}{STYLE}" for style in _judge().styles)]
    return {name: statistics.stdev(measure(name, image) for image in images) for name in names}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="launch.py bench tastes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pictures", type=int, default=128, help="of the base, to measure spreads")
    args = parser.parse_args(argv)
    tastes = population()
    for half, names in halves().items():
        print(f"{half}:")
        for name in names:
            print(f"  {name}: {tastes[name]}")
    denoiser = models.load("starter", "cpu")
    prompts, _ = split_prompts(_judge(), seed=0)
    images: list[Image.Image] = []
    for start in range(0, args.pictures, 16):
        numbers = range(start, min(start + 16, args.pictures))
        names = [prompts[number % len(prompts)] for number in numbers]
        chains = sampling.sample(denoiser, names, list(numbers), SamplingSettings())
        images += sampling.images(denoiser, chains)
    print(f"standard deviations of {len(images)} pictures of the base:")
    for name, spread in spreads(images).items():
        print(f'    "{name}": {spread:.3g},')
    return 0
