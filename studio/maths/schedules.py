"""Noise levels, one stochastic step between two of them, and its log-probability.

Pure maths on tensors. A latent at a noise level is x = alpha · x0 + sigma · eps; diffusion has
alpha² + sigma² = 1, flow matching alpha = 1 - sigma. A step goes to the next level with

    next = alpha' · x0_hat + sqrt(sigma'² - s²) · eps_hat + s · z,    z from N(0, 1)

which is a draw from N(mean, s²). The choice of s makes the sampler:

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

    Levels are stored as variances, sigma²: diffusion's is exactly 1 - alpha_bar, which the square
    of a rounded square root is not.
    """

    alpha: Tensor
    variance: Tensor
    next_alpha: Tensor
    next_variance: Tensor
    s: Tensor  # the standard deviation of the step; 0 for a step without noise

    @property
    def direction(self) -> Tensor:
        """sqrt(sigma'² - s²): how much of eps_hat is in the next latent."""
        return (self.next_variance - self.s.square()).clamp(min=0).sqrt()


@dataclass(frozen=True)
class Schedule:
    """The steps of a diffusion chain: timesteps (T,) descending, alpha_bar (T,) of each, and
    alpha_bar_prev (T,) of the timestep it leads to. Raises ValueError if the lengths differ."""

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
        """Indices of the steps that have a log-probability: those with s > 0."""
        return torch.nonzero(ddim_step(self.alpha_bar, self.alpha_bar_prev, eta).s > 0).flatten()


def ddim_step(alpha_bar: Tensor, alpha_bar_prev: Tensor, eta: float) -> Step:
    """A diffusion step; eta = 1 adds all the noise of DDPM, 0 none."""
    variance = (1 - alpha_bar_prev) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_prev)
    return Step(
        alpha=alpha_bar.sqrt(),
        variance=1 - alpha_bar,
        next_alpha=alpha_bar_prev.sqrt(),
        next_variance=1 - alpha_bar_prev,
        s=eta * variance.clamp(min=0).sqrt(),
    )


def flow_step(sigma: Tensor, next_sigma: Tensor, eta: float) -> Step:
    """A flow-matching step; eta = 1 replaces all the noise, 0 is an Euler step."""
    return Step(
        alpha=1 - sigma,
        variance=sigma.square(),
        next_alpha=1 - next_sigma,
        next_variance=next_sigma.square(),
        s=next_sigma * math.sin(eta * math.pi / 2),
    )


def _over_latent(values: Tensor) -> Tensor:
    """Reshape (B,) or () to broadcast over (B, C, h, w)."""
    return values[..., None, None, None] if values.ndim else values


def prediction(
    output: Tensor, latent: Tensor, alpha: Tensor, variance: Tensor, kind: PredictionType
) -> tuple[Tensor, Tensor]:
    """(x0_hat, eps_hat), each (B, C, h, w), from a network's output at a noise level.

    kind, in diffusers' names: "epsilon" the noise; "v_prediction" alpha · eps - sigma · x0;
    "flow_prediction" eps - x0; "sample" x0. Raises ValueError for any other.
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
    """The noise that a diffusion network's output predicts."""
    return prediction(output, latent, alpha_bar.sqrt(), 1 - alpha_bar, prediction_type)[1]


def output_weight(alpha_bar: Tensor, prediction_type: PredictionType) -> Tensor:
    """1 / (d noise / d output), (B,): turns a log-ratio in units of noise into units of the output.

    With this weight a change of the network's output moves the log-ratio of every step alike (to
    first order). Without it a network that predicts velocity learns next to nothing from the
    noisiest steps, which decide the picture and where d noise / d velocity = sqrt(alpha_bar) is
    small.
    """
    return torch.ones_like(alpha_bar) if prediction_type == "epsilon" else alpha_bar.rsqrt()


def mean_of(x0_hat: Tensor, eps_hat: Tensor, step: Step) -> Tensor:
    """Mean of the next latent: alpha' · x0_hat + sqrt(sigma'² - s²) · eps_hat."""
    return _over_latent(step.next_alpha) * x0_hat + _over_latent(step.direction) * eps_hat


def noise_coefficient(step: Step) -> Tensor:
    """d mean / d noise of a step: how far the mean moves with the predicted noise (negative)."""
    return step.direction - step.next_alpha * step.variance.sqrt() / step.alpha


def step_mean(latent: Tensor, noise_pred: Tensor, step: Step) -> Tensor:
    """`mean_of` with x0_hat = (latent - sigma · noise_pred) / alpha inserted and terms collected.

    Exact where little noise is left and x0_hat is a small difference of large numbers. Not defined
    for alpha = 0, where the latent is all noise. It rounds differently from `mean_of`; existing
    pictures and adapters are reproduced to the bit only with this form.
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
        "noise"  -mean of (implied noise - predicted noise)², where the implied noise is the one
                 whose mean is exactly `next_latent`. Every step has the same weight for any s, and
                 the value is independent of the latent's size and of the number of steps.

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
