"""How differently a classifier of the drawings sees two pictures: the error that a decoder is
taught by beside that of pixels.

A decoder that is only held to pixels blurs what it is not sure of. What tells one object or style
from another are few of the pixels, and most of what a classifier sees.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from studio.engine import recogniser

# with a seed of its own: the recogniser judges what the decoder makes, so it must not teach it
TEACHER = "teacher"


def teacher_of(folder: Path, device: str) -> nn.Sequential | None:
    """The layers of the classifier in a build folder; None if none was trained."""
    if not (folder / TEACHER).exists():
        return None
    return recogniser.load(folder / TEACHER).network.body.eval().requires_grad_(False).to(device)


def feature_error(layers: nn.Sequential, drawn: Tensor, images: Tensor) -> Tensor:
    """Squared distance of the features of two batches (B, 3, h, w), of unit length at each place,
    summed over the layers and averaged over places (LPIPS, arXiv 1801.03924, equation 1, without
    weights of the channels)."""
    ours, theirs = (F.adaptive_avg_pool2d(x, recogniser.INPUT_PX) for x in (drawn, images))
    error = torch.zeros((), device=drawn.device)
    for layer in layers:
        ours, theirs = layer(ours), layer(theirs)
        error = error + (unit(ours) - unit(theirs)).square().sum(1).mean()
    return error


def unit(features: Tensor) -> Tensor:
    """Each place's (B, C, h, w) features, divided by their length."""
    # not by F.normalize: where all features are 0 its gradient is not finite
    return features / (features.square().sum(1, keepdim=True) + 1e-6).sqrt()
