"""The Gaussian steps of a DDIM chain (Song et al., arXiv 2010.02502) and their log-probabilities.

Pure maths on tensors. Shapes: latents (B, C, h, w); one value a sample (B,). A step takes
`latent` at `timestep` to `next_latent`; with eta > 0 it is a draw from N(mean, sigma²), where
`mean` is linear in the predicted noise:

    mean  = sqrt(a_prev) · x0 + sqrt(1 - a_prev - sigma²) · noise        (eq. 12)
    x0    = (latent - sqrt(1 - a) · noise) / sqrt(a)
    sigma = eta · sqrt((1 - a_prev) / (1 - a)) · sqrt(1 - a / a_prev)    (eq. 16)

with a = alpha_bar of the step's timestep and a_prev that of the timestep it leads to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Reduction = Literal["sum", "mean", "noise"]
PredictionType = Literal["epsilon", "v_prediction"]


@dataclass(frozen=True)
class Schedule:
    """The steps of a chain: timesteps (T,) descending, alpha_bar (T,) and alpha_bar_prev (T,)."""

    timesteps: Tensor
    alpha_bar: Tensor
    alpha_bar_prev: Tensor

    def __post_init__(self) -> None:
        if not (self.timesteps.shape == self.alpha_bar.shape == self.alpha_bar_prev.shape):
            raise ValueError("timesteps, alpha_bar and alpha_bar_prev must have the same length")

    def __len__(self) -> int:
        return len(self.timesteps)

    def stochastic_steps(self, eta: float) -> Tensor:
        """Indices of the steps that have a log-probability: those whose sigma is not 0."""
        return torch.nonzero(sigma(self.alpha_bar, self.alpha_bar_prev, eta) > 0).flatten()


def _over_latent(values: Tensor) -> Tensor:
    """(B,) or () as something that broadcasts over (B, C, h, w)."""
    return values[..., None, None, None] if values.ndim else values


def sigma(alpha_bar: Tensor, alpha_bar_prev: Tensor, eta: float) -> Tensor:
    """Standard deviation of a step (eq. 16), in the shape of `alpha_bar`."""
    variance = (1 - alpha_bar_prev) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_prev)
    return eta * variance.clamp(min=0).sqrt()


def noise_of(
    output: Tensor, latent: Tensor, alpha_bar: Tensor, prediction_type: PredictionType
) -> Tensor:
    """The noise that a model's output stands for; velocity is sqrt(a) noise - sqrt(1 - a) x0."""
    if prediction_type == "epsilon":
        return output
    if prediction_type == "v_prediction":
        alpha_bar = _over_latent(alpha_bar)
        return alpha_bar.sqrt() * output + (1 - alpha_bar).sqrt() * latent
    raise ValueError(f"prediction type {prediction_type!r} is not supported")


def output_weight(alpha_bar: Tensor, prediction_type: PredictionType) -> Tensor:
    """1 / (d noise / d output), (B,): what makes a log-ratio in units of noise follow the output.

    With it a change of the network's output moves the log-ratio of every step alike (to first
    order). Without it a network that predicts velocity is taught next to nothing by the steps with
    most noise, where d noise / d velocity = sqrt(alpha_bar) is small and the picture is decided.
    """
    return torch.ones_like(alpha_bar) if prediction_type == "epsilon" else alpha_bar.rsqrt()


def noise_coefficient(alpha_bar: Tensor, alpha_bar_prev: Tensor, eta: float) -> Tensor:
    """d mean / d noise of a step: how far the mean moves with the predicted noise (negative)."""
    variance = sigma(alpha_bar, alpha_bar_prev, eta).square()
    direction = (1 - alpha_bar_prev - variance).clamp(min=0).sqrt()
    return direction - alpha_bar_prev.sqrt() * (1 - alpha_bar).sqrt() / alpha_bar.sqrt()


def step_mean(
    latent: Tensor, noise_pred: Tensor, alpha_bar: Tensor, alpha_bar_prev: Tensor, eta: float
) -> Tensor:
    """Mean of the next latent (eq. 12)."""
    coefficient = _over_latent(noise_coefficient(alpha_bar, alpha_bar_prev, eta))
    return (
        _over_latent(alpha_bar_prev.sqrt() / alpha_bar.sqrt()) * latent + coefficient * noise_pred
    )


def log_prob(
    next_latent: Tensor,
    latent: Tensor,
    noise_pred: Tensor,
    alpha_bar: Tensor,
    alpha_bar_prev: Tensor,
    eta: float,
    reduction: Reduction,
) -> Tensor:
    """Log-probability (B,) of `next_latent` under a step, up to a constant of the step.

    The reduction over the latent's C · h · w elements is part of the definition:
        "sum"    -‖next - mean‖² / (2 sigma²): the likelihood, as in the paper (arXiv 2311.13231)
        "mean"   the same divided by the number of elements: as in the published code
        "noise"  -mean of (implied noise - predicted noise)², the implied noise being the one whose
                 mean is exactly `next_latent`: every step weighs alike, whatever its sigma, and
                 the value depends neither on the latent's size nor on the number of steps

    Raises ValueError where sigma is 0: such a step has no log-probability.
    """
    deviation = sigma(alpha_bar, alpha_bar_prev, eta)
    if bool((deviation == 0).any()):
        raise ValueError("a step without noise has no log-probability; leave it out")
    mean = step_mean(latent, noise_pred, alpha_bar, alpha_bar_prev, eta)
    squared = (next_latent - mean).square()
    if reduction == "sum":
        return -squared.sum((1, 2, 3)) / (2 * deviation.square())
    if reduction == "mean":
        return -squared.mean((1, 2, 3)) / (2 * deviation.square())
    if reduction == "noise":
        coefficient = noise_coefficient(alpha_bar, alpha_bar_prev, eta)
        return -squared.mean((1, 2, 3)) / coefficient.square()
    raise ValueError(f"reduction {reduction!r} is not one of sum, mean, noise")
