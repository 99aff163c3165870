"""Forms of a preference loss: the gains of chosen and rejected in, losses out. No models, no files.

A gain is how much likelier the policy makes a picture, or a step of its drawing, than the reference
does: log p_policy - log p_reference, in units of the reduction that the log-probabilities have. An
adapter that has learned nothing has gains of 0. Which probability is meant is the estimator's
choice (`studio.engine.estimators`).

Shapes: `chosen`, `rejected` and the losses are (B,); the caller takes the mean. `beta` is in units
of 1 / gain. It multiplies the difference, not each gain: two roundings fewer.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor


def dpo(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """-log sigmoid(beta · (chosen - rejected)): Rafailov et al., arXiv 2305.18290, eq. 7.

    With gains of single denoising steps it is D3PO (Yang et al., arXiv 2311.13231, eq. 13), with
    gains of noised final images Diffusion-DPO (Wallace et al., arXiv 2311.12908, eq. 14).
    """
    return -F.logsigmoid(beta * (chosen - rejected))


def clipped_dpo(
    chosen: Tensor, rejected: Tensor, beta: float, clip_range: float | None = None
) -> Tensor:
    """`dpo` with each ratio exp(gain) kept within 1 ± clip_range, as D3PO's published code has it.

    A gain beyond the range has no gradient. None leaves the gains free. Published: gains in means
    over the elements, beta 0.1 and clip_range 0.1, which keep the loss between 0.683 and 0.703.
    """
    if clip_range is not None:
        low, high = math.log(1 - clip_range), math.log(1 + clip_range)
        chosen, rejected = chosen.clamp(low, high), rejected.clamp(low, high)
    return dpo(chosen, rejected, beta)


def chosen_only(chosen: Tensor, rejected: Tensor) -> Tensor:
    """-2 · chosen: fine-tuning on what was chosen; `rejected` takes no part.

    Of gains of noised final images, which are halves of squared errors, this is the squared error
    of the policy less that of the reference: the usual loss, from 0 on.
    """
    return -2 * chosen
