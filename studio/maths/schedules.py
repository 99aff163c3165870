"""Noise levels, one stochastic step between two of them, and its log-probability.

Pure maths on tensors. A latent at a noise level is x = alpha · x0 + sigma · eps; diffusion has
alpha² + sigma² = 1, flow matching alpha = 1 - sigma. A step goes to the next level with

    next = alpha' · x0_hat + sqrt(sigma'² - s²) · eps_hat + s · z,    z from N(0, 1)

which is a draw from N(mean, s²). The choice of s makes the sampler:

    DDIM with eta (Song et al., arXiv 2010.02502, eq. 12 and 16)
        s = eta · sqrt((1 - a') / (1 - a)) · sqrt(1 - a / a'),  a = alpha_bar = alpha²
    Flow-CPS (arXiv 2509.05952)
        s = sigma' · sin(eta · pi / 2)

x0_hat and eps_hat are linear in the latent and in one prediction: the noise eps in diffusion, the
velocity eps - x0 in flow matching. So is the mean, and a `Step` holds its two coefficients.

Shapes: latents (B, C, h, w); one value a sample (B,), or () for all of them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Reduction = Literal["sum", "mean", "noise"]
PredictionType = Literal["epsilon", "v_prediction", "flow_prediction", "sample"]


class Step(NamedTuple):
    """From one noise level to the next, each (B,) or ().

    Levels are stored as variances, sigma²: diffusion's is exactly 1 - alpha_bar, which the square
    of a rounded square root is not. The mean is of_latent · latent + of_prediction · prediction.
    """

    alpha: Tensor
    variance: Tensor
    next_alpha: Tensor
    next_variance: Tensor
    s: Tensor  # the standard deviation of the step; 0 for a step without noise
    of_latent: Tensor
    of_prediction: Tensor  # d mean / d prediction; negative

    @property
    def direction(self) -> Tensor:
        """sqrt(sigma'² - s²): how much of eps_hat is in the next latent."""
        return _direction(self.next_variance, self.s)


def _direction(next_variance: Tensor, s: Tensor) -> Tensor:
    return (next_variance - s.square()).clamp(min=0).sqrt()


@dataclass(frozen=True)
class Schedule(ABC):
    """The steps of a chain; timesteps (T,) descending. Raises ValueError if a field has another
    length."""

    timesteps: Tensor

    def __post_init__(self) -> None:
        if len({getattr(self, field.name).shape for field in fields(self)}) > 1:
            names = ", ".join(field.name for field in fields(self))
            raise ValueError(f"{names} must have the same length")

    def __len__(self) -> int:
        return len(self.timesteps)

    @abstractmethod
    def step(self, index: Tensor | int | slice, eta: float) -> Step:
        """Step `index` of the chain, or those of indices (B,)."""

    @abstractmethod
    def output_weight(self, index: Tensor, eta: float, kind: PredictionType) -> Tensor:
        """(B,): the weight of a log-ratio in the reduction "noise", with which a change of the
        network's output moves that of every step alike, to first order."""

    def stochastic_steps(self, eta: float) -> Tensor:
        """Indices of the steps that have a log-probability: those with s > 0."""
        return torch.nonzero(self.step(slice(None), eta).s > 0).flatten()


@dataclass(frozen=True)
class DiffusionSchedule(Schedule):
    """alpha_bar (T,) of each timestep, and alpha_bar_prev (T,) of the one it leads to."""

    alpha_bar: Tensor
    alpha_bar_prev: Tensor

    def step(self, index: Tensor | int | slice, eta: float) -> Step:
        return ddim_step(self.alpha_bar[index], self.alpha_bar_prev[index], eta)

    def output_weight(self, index: Tensor, eta: float, kind: PredictionType) -> Tensor:
        return output_weight(self.alpha_bar[index], kind)


@dataclass(frozen=True)
class FlowSchedule(Schedule):
    """sigma (T,) of each timestep, and next_sigma (T,) that it leads to."""

    sigma: Tensor
    next_sigma: Tensor

    def step(self, index: Tensor | int | slice, eta: float) -> Step:
        return flow_step(self.sigma[index], self.next_sigma[index], eta)

    def output_weight(self, index: Tensor, eta: float, kind: PredictionType) -> Tensor:
        """|d mean / d velocity| / s.

        A step's latent is off its mean by s · z, which a change of velocity of s / |d mean / d
        velocity| would explain. Between pure noise and a little less this is tens of velocities,
        and the noise z of such steps would decide the update.
        """
        step = self.step(index, eta)
        return step.of_prediction.abs() / step.s


def ddim_step(alpha_bar: Tensor, alpha_bar_prev: Tensor, eta: float) -> Step:
    """A diffusion step, from a prediction of the noise; eta = 1 adds all the noise of DDPM, 0 none.

    With x0_hat = (latent - sigma · noise) / alpha inserted and terms collected it is exact where
    little noise is left and x0_hat is a small difference of large numbers. Not defined for
    alpha = 0, where the latent is all noise. It rounds differently from `mean_of`; existing
    pictures and adapters are reproduced to the bit only with this form.
    """
    alpha, next_alpha = alpha_bar.sqrt(), alpha_bar_prev.sqrt()
    variance, next_variance = 1 - alpha_bar, 1 - alpha_bar_prev
    added = (1 - alpha_bar_prev) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_prev)
    s = eta * added.clamp(min=0).sqrt()
    return Step(
        alpha,
        variance,
        next_alpha,
        next_variance,
        s,
        of_latent=next_alpha / alpha,
        of_prediction=_direction(next_variance, s) - next_alpha * variance.sqrt() / alpha,
    )


def flow_step(sigma: Tensor, next_sigma: Tensor, eta: float) -> Step:
    """A flow-matching step, from a prediction of the velocity; eta = 1 replaces all the noise, 0 is
    an Euler step. From pure noise too, where alpha is 0: x0_hat = latent - sigma · velocity and
    eps_hat = latent + alpha · velocity."""
    alpha, next_alpha = 1 - sigma, 1 - next_sigma
    s = next_sigma * math.sin(eta * math.pi / 2)
    direction = _direction(next_sigma.square(), s)
    return Step(
        alpha,
        sigma.square(),
        next_alpha,
        next_sigma.square(),
        s,
        of_latent=next_alpha + direction,
        of_prediction=direction * alpha - next_alpha * sigma,
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


def step_mean(latent: Tensor, prediction: Tensor, step: Step) -> Tensor:
    """Mean of the next latent: `mean_of`, with the terms collected by latent and prediction."""
    return _over_latent(step.of_latent) * latent + _over_latent(step.of_prediction) * prediction


def mean_given_end(latent: Tensor, end: Tensor, step: Step) -> Tensor:
    """E[next | latent, x0] where the picture x0 is `end`; all are (B, C, h, w).

    The end makes the noise in the latent known, eps = (latent - alpha · x0) / sigma. A step is by
    definition q(next | latent, x0) = N(mean_of(x0, eps), s²), for which a drawing has to guess x0
    (DDIM: arXiv 2010.02502, eq. 7 and 9). It has the spread s of the step that is drawn, and only
    another mean. Not defined for sigma = 0, where no step begins.
    """
    alpha, sigma = _over_latent(step.alpha), _over_latent(step.variance.sqrt())
    return mean_of(end, (latent - alpha * end) / sigma, step)


def mean_over(squares: Tensor, places: Tensor | None = None) -> Tensor:
    """(B,): the mean of squares (B, C, h, w) over their elements; of those at marked places only,
    if there are `places` (B, 1, h, w): how much of each counts, from 0 to 1, not all of them 0.

        sum over places of m · mean over channels of squares / sum of m

    The squares at a place get the weight m / mean(m), whose mean is 1. So a change that is alike
    everywhere counts alike with any marks: they say where a picture is looked at and not how much,
    and beta keeps its meaning. With all places marked the weights are exactly 1, and the value is
    that without marks to the bit. At places with m = 0 the gradient is 0.

    It is the error of FocusDPO (arXiv 2509.01181). DenseDPO (arXiv 2506.03517) sums the gains of
    segments by signs of 1, 0 and -1; with 1 and 0 that is this mean without the division by
    mean(m), where a small mark would teach next to nothing.
    """
    if places is not None:
        squares = squares * (places / places.mean((1, 2, 3), keepdim=True))
    return squares.mean((1, 2, 3))


def log_prob(
    next_latent: Tensor,
    latent: Tensor,
    prediction: Tensor,
    step: Step,
    reduction: Reduction,
    places: Tensor | None = None,
) -> Tensor:
    """Log-probability (B,) of `next_latent` under a step, up to a constant of the step.

    The reduction over the latent's C · h · w elements is part of the definition:
        "sum"    -‖next - mean‖² / (2 s²): the likelihood, as in the paper (arXiv 2311.13231)
        "mean"   the same divided by the number of elements: as in the published code
        "noise"  -mean of (implied noise - predicted noise)², where the implied noise is the one
                 whose mean is exactly `next_latent`; the same of velocities in flow matching. Every
                 step has the same weight for any s, and the value is independent of the latent's
                 size and of the number of steps.

    places: (B, 1, h, w), see `mean_over`. The elements of a step are independent, so "sum" over the
    marked ones is the likelihood of that part of the picture; a place marked by half counts half.
    It is smaller for smaller marks, as it is for smaller pictures; the means are not.

    Raises ValueError where s is 0: such a step has no log-probability.
    """
    if bool((step.s == 0).any()):
        raise ValueError("a step without noise has no log-probability; leave it out")
    squared = (next_latent - step_mean(latent, prediction, step)).square()
    if reduction == "sum":
        counted = squared if places is None else squared * places
        return -counted.sum((1, 2, 3)) / (2 * step.s.square())
    if reduction == "mean":
        return -mean_over(squared, places) / (2 * step.s.square())
    if reduction == "noise":
        return -mean_over(squared, places) / step.of_prediction.square()
    raise ValueError(f"reduction {reduction!r} is not one of sum, mean, noise")
