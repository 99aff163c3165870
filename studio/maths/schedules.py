"""Noise levels, one stochastic step between two of them, and its log-probability.

Pure maths on tensors. A latent at a noise level is x = alpha · x0 + sigma · eps; diffusion has
alpha² + sigma² = 1, flow matching alpha = 1 - sigma. A step goes to the next level with

    next = alpha' · x0_hat + sqrt(sigma'² - s²) · eps_hat + s · z,    z from N(0, 1)

so that it is a draw from N(mean, s²). What s is names the sampler:

    DDIM with eta (Song et al., arXiv 2010.02502, eq. 12 and 16)
        s = eta · sqrt((1 - a') / (1 - a)) · sqrt(1 - a / a'),  a = alpha_bar = alpha²
    Flow-CPS (arXiv 2509.05952)
        s = sigma' · sin(eta · pi / 2)

Shapes: latents (B, C, h, w); one value a sample (B,), or () for all of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Reduction = Literal["sum", "mean", "noise"]
PredictionType = Literal["epsilon", "v_prediction", "flow_prediction", "sample"]


class Step(NamedTuple):
    """From one noise level to the next, each (B,) or ().

    The levels have their variances, sigma²: that of a diffusion is 1 - alpha_bar, and a square root
    that is squared again is not.
    """

    alpha: Tensor
    variance: Tensor
    next_alpha: Tensor
    next_variance: Tensor
    s: Tensor  # the deviation of the step; 0 for one without noise

    @property
    def direction(self) -> Tensor:
        """sqrt(sigma'² - s²): how much of eps_hat is in the next latent."""
        return (self.next_variance - self.s.square()).clamp(min=0).sqrt()


@dataclass(frozen=True)
class Schedule:
    """The steps of a chain of diffusion: timesteps (T,) descending, alpha_bar (T,) of each, and
    alpha_bar_prev (T,) of the timestep that it leads to. Raises ValueError for other lengths."""

    timesteps: Tensor
    alpha_bar: Tensor
    alpha_bar_prev: Tensor

    def __post_init__(self) -> None:
        if not (self.timesteps.shape == self.alpha_bar.shape == self.alpha_bar_prev.shape):
            raise ValueError("timesteps, alpha_bar and alpha_bar_prev must have the same length")

    def __len__(self) -> int:
        return len(self.timesteps)

    def step(self, index: Tensor | int, eta: float) -> Step:
        """Step `index` of the chain, or those of indices (B,)."""
        return ddim_step(self.alpha_bar[index], self.alpha_bar_prev[index], eta)

    def stochastic_steps(self, eta: float) -> Tensor:
        """Indices of the steps that have a log-probability: those whose s is not 0."""
        return torch.nonzero(ddim_step(self.alpha_bar, self.alpha_bar_prev, eta).s > 0).flatten()


def ddim_step(alpha_bar: Tensor, alpha_bar_prev: Tensor, eta: float) -> Step:
    """Of a diffusion, with eta = 1 for all the noise of DDPM and 0 for none."""
    variance = (1 - alpha_bar_prev) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_prev)
    return Step(
        alpha=alpha_bar.sqrt(),
        variance=1 - alpha_bar,
        next_alpha=alpha_bar_prev.sqrt(),
        next_variance=1 - alpha_bar_prev,
        s=eta * variance.clamp(min=0).sqrt(),
    )


def flow_step(sigma: Tensor, next_sigma: Tensor, eta: float) -> Step:
    """Of a flow, with eta = 1 for new noise only and 0 for a step of Euler's."""
    return Step(
        alpha=1 - sigma,
        variance=sigma.square(),
        next_alpha=1 - next_sigma,
        next_variance=next_sigma.square(),
        s=next_sigma * math.sin(eta * math.pi / 2),
    )


def _over_latent(values: Tensor) -> Tensor:
    """(B,) or () as something that broadcasts over (B, C, h, w)."""
    return values[..., None, None, None] if values.ndim else values


def prediction(
    output: Tensor, latent: Tensor, alpha: Tensor, variance: Tensor, kind: PredictionType
) -> tuple[Tensor, Tensor]:
    """(x0_hat, eps_hat), each (B, C, h, w): what a network's output stands for at a noise level.

    kind, in diffusers' names: "epsilon" the noise; "v_prediction" alpha · eps - sigma · x0;
    "flow_prediction" eps - x0; "sample" x0. Raises ValueError for another.
    """
    alpha, sigma = _over_latent(alpha), _over_latent(variance.sqrt())
    if kind == "epsilon":
        return (latent - sigma * output) / alpha, output
    if kind == "v_prediction":
        return alpha * latent - sigma * output, alpha * output + sigma * latent
    if kind == "flow_prediction":
        return latent - sigma * output, latent + alpha * output
    if kind == "sample":
        return output, (latent - alpha * output) / sigma
    raise ValueError(f"prediction type {kind!r} is not supported")


def noise_of(
    output: Tensor, latent: Tensor, alpha_bar: Tensor, prediction_type: PredictionType
) -> Tensor:
    """The noise that the output of a diffusion's network stands for."""
    return prediction(output, latent, alpha_bar.sqrt(), 1 - alpha_bar, prediction_type)[1]


def output_weight(alpha_bar: Tensor, prediction_type: PredictionType) -> Tensor:
    """1 / (d noise / d output), (B,): what makes a log-ratio in units of noise follow the output.

    With it a change of the network's output moves the log-ratio of every step alike (to first
    order). Without it a network that predicts velocity is taught next to nothing by the steps with
    most noise, where d noise / d velocity = sqrt(alpha_bar) is small and the picture is decided.
    """
    return torch.ones_like(alpha_bar) if prediction_type == "epsilon" else alpha_bar.rsqrt()


def mean_of(x0_hat: Tensor, eps_hat: Tensor, step: Step) -> Tensor:
    """Mean of the next latent: alpha' · x0_hat + sqrt(sigma'² - s²) · eps_hat."""
    return _over_latent(step.next_alpha) * x0_hat + _over_latent(step.direction) * eps_hat


def noise_coefficient(step: Step) -> Tensor:
    """d mean / d noise of a step: how far the mean moves with the predicted noise (negative)."""
    return step.direction - step.next_alpha * step.variance.sqrt() / step.alpha


def step_mean(latent: Tensor, noise_pred: Tensor, step: Step) -> Tensor:
    """`mean_of` with x0_hat = (latent - sigma · noise_pred) / alpha put in, and both gathered.

    Exact where little noise is left and x0_hat is a small difference of large numbers; not for
    alpha = 0, where the latent is all noise. Rounds otherwise than `mean_of`: what was drawn and
    learned with it stays the same to the bit.
    """
    coefficient = _over_latent(noise_coefficient(step))
    return _over_latent(step.next_alpha / step.alpha) * latent + coefficient * noise_pred


def log_prob(
    next_latent: Tensor, latent: Tensor, noise_pred: Tensor, step: Step, reduction: Reduction
) -> Tensor:
    """Log-probability (B,) of `next_latent` under a step, up to a constant of the step.

    The reduction over the latent's C · h · w elements is part of the definition:
        "sum"    -‖next - mean‖² / (2 s²): the likelihood, as in the paper (arXiv 2311.13231)
        "mean"   the same divided by the number of elements: as in the published code
        "noise"  -mean of (implied noise - predicted noise)², the implied noise being the one whose
                 mean is exactly `next_latent`: every step weighs alike, whatever its s, and the
                 value depends neither on the latent's size nor on the number of steps

    Raises ValueError where s is 0: such a step has no log-probability.
    """
    if bool((step.s == 0).any()):
        raise ValueError("a step without noise has no log-probability; leave it out")
    squared = (next_latent - step_mean(latent, noise_pred, step)).square()
    if reduction == "sum":
        return -squared.sum((1, 2, 3)) / (2 * step.s.square())
    if reduction == "mean":
        return -squared.mean((1, 2, 3)) / (2 * step.s.square())
    if reduction == "noise":
        return -squared.mean((1, 2, 3)) / noise_coefficient(step).square()
    raise ValueError(f"reduction {reduction!r} is not one of sum, mean, noise")
