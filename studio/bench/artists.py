"""Simulated artists: functions (image, prompt) -> score, higher is better.

`bench clicks --artist` takes any such function from any file. These range from tastes that every
picture shows to some degree, to tastes that few pictures show.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image

from studio import judges
from studio.engine import recogniser

Artist = judges.Judge
compressible, incompressible = judges.compressible, judges.incompressible


def values(image: Image.Image) -> np.ndarray:
    """(h, w, 3) in 0..1."""
    return np.asarray(image.convert("RGB"), dtype=np.float32) / 255


def border(image: Image.Image) -> np.ndarray:
    """(n, 3) colours in 0..1 of the outermost sixteenth of the picture, which shows the ground."""
    pixels = values(image)
    edge = max(1, image.height // 16)
    return np.concatenate(
        [
            part.reshape(-1, 3)
            for part in (pixels[:edge], pixels[-edge:], pixels[:, :edge], pixels[:, -edge:])
        ]
    )


def blue_background(image: Image.Image, prompt: str) -> float:
    """Likes blue grounds: how much blue outweighs the other colours along the border."""
    red, green, blue = border(image).mean(0)
    return float(blue - (red + green) / 2)


def bright(image: Image.Image, prompt: str) -> float:
    """Likes bright pictures."""
    return float(np.asarray(image.convert("L")).mean()) / 255


def dark(image: Image.Image, prompt: str) -> float:
    """Likes dark pictures."""
    return -bright(image, prompt)


def saturated(image: Image.Image, prompt: str) -> float:
    """Likes strong colours: the mean saturation (HSV)."""
    return float(np.asarray(image.convert("HSV"))[..., 1].mean()) / 255


def symmetric(image: Image.Image, prompt: str) -> float:
    """Likes pictures that look like their mirror image."""
    pixels = values(image)
    return -float(np.abs(pixels - pixels[:, ::-1]).mean())


@cache
def _judge() -> recogniser.Recogniser:
    return recogniser.load()


def _style(image: Image.Image, name: str) -> float:
    """Log-probability of a style by the recogniser of the starter's drawings."""
    judge = _judge()
    return float(judge.logits([image])[1].log_softmax(1)[0, judge.styles.index(name)])


def flat_style(image: Image.Image, prompt: str) -> float:
    """Likes flat drawings, which are common."""
    return _style(image, "flat")


def ink_style(image: Image.Image, prompt: str) -> float:
    """Likes black line art, which is rare."""
    return _style(image, "ink")


def ink(image: Image.Image, prompt: str) -> float:
    """Likes black drawings: the share of the picture that is nearly black."""
    return float((np.asarray(image.convert("RGB")).max(2) < 60).mean())


def mixed(image: Image.Image, prompt: str) -> float:
    """Likes blue grounds, strong colours and symmetry, about equally."""
    return (
        blue_background(image, prompt) + 2 * saturated(image, prompt) + 4 * symmetric(image, prompt)
    )
