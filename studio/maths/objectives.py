"""Forms of a preference loss: the gains of chosen and rejected in, losses out. No models, no files.

A gain is log p_policy - log p_reference of a picture, or of a step of its drawing, in units of the
reduction of the log-probabilities. An untrained adapter has gains of 0. The estimator defines the
probability (`studio.engine.estimators`).

Shapes: `chosen`, `rejected` and the losses are (B,); the caller takes the mean. `beta` is in units
of 1 / gain. It multiplies the difference instead of each gain, which saves two roundings.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor


def dpo(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """-log sigmoid(beta · (chosen - rejected)): Rafailov et al., arXiv 2305.18290, eq. 7.

    With gains of single denoising steps this is D3PO (Yang et al., arXiv 2311.13231, eq. 13); with
    gains of noised final images it is Diffusion-DPO (Wallace et al., arXiv 2311.12908, eq. 14).
    """
    return -F.logsigmoid(beta * (chosen - rejected))


def clipped_dpo(
    chosen: Tensor, rejected: Tensor, beta: float, clip_range: float | None = None
) -> Tensor:
    """`dpo` with each ratio exp(gain) clipped to 1 ± clip_range, as in D3PO's published code.

    A gain beyond the range has no gradient. None switches clipping off. The published code takes
    means over the elements, beta 0.1 and clip_range 0.1, so its loss lies between 0.683 and 0.703.
    """
    if clip_range is not None:
        low, high = math.log(1 - clip_range), math.log(1 + clip_range)
        chosen, rejected = chosen.clamp(low, high), rejected.clamp(low, high)
    return dpo(chosen, rejected, beta)
