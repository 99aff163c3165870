"""Preference objectives: tensors in, per-pair losses (B,) out. No models, no files.

All of them are the same sentence (Rafailov et al., arXiv 2305.18290, eq. 7): the policy should
raise the probability of what was chosen over what was rejected, measured against a reference,

    loss = -log sigmoid(beta · (log_ratio_chosen - log_ratio_rejected))

and differ in whose probability is meant: D3PO takes single denoising steps of the two trajectories
that the artist saw, Diffusion-DPO the final images noised again.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor


def log_ratio(log_prob: Tensor, reference_log_prob: Tensor, clip_range: float | None) -> Tensor:
    """log(policy / reference), the ratio kept within 1 ± clip_range (where clipped, it is flat)."""
    ratio = log_prob - reference_log_prob
    if clip_range is None:
        return ratio
    return ratio.clamp(math.log(1 - clip_range), math.log(1 + clip_range))


def d3po_loss(
    chosen_log_prob: Tensor,
    rejected_log_prob: Tensor,
    reference_chosen_log_prob: Tensor,
    reference_rejected_log_prob: Tensor,
    beta: float,
    clip_range: float | None = None,
) -> tuple[Tensor, Tensor]:
    """D3PO of one step of each pair (Yang et al., arXiv 2311.13231, eq. 13).

    All four log-probabilities: (B,), of the same step, in the same reduction (see `ddim.log_prob`);
    beta is in units of that reduction. Returns losses (B,) and margins (B,): the differences of the
    log-ratios, without beta. Published: mean over elements, beta 0.1, clip_range 0.1, which bounds
    the loss between 0.683 and 0.703.
    """
    margin = log_ratio(chosen_log_prob, reference_chosen_log_prob, clip_range) - log_ratio(
        rejected_log_prob, reference_rejected_log_prob, clip_range
    )
    return -F.logsigmoid(beta * margin), margin


def diffusion_dpo_loss(
    chosen_error: Tensor,
    rejected_error: Tensor,
    reference_chosen_error: Tensor,
    reference_rejected_error: Tensor,
    beta: float,
) -> tuple[Tensor, Tensor]:
    """Diffusion-DPO (Wallace et al., arXiv 2311.12908, eq. 14).

    The errors (B,) are those of the network for the two final images noised to the same timestep
    with the same noise: means over the latent's elements, in units of the caller's choice (the
    paper's are of noise, with constant weights). beta stands for the paper's beta · T in those
    units; 0.5 is its published code's factor. Returns losses (B,) and margins (B,).
    """
    margin = 0.5 * (
        (reference_chosen_error - chosen_error) - (reference_rejected_error - rejected_error)
    )
    return -F.logsigmoid(beta * margin), margin
