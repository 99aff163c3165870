"""The noise levels of a base model, by timestep, and what its predictions mean there.

A network predicts one of several things (`PredictionType`). Here its output becomes the one that
the steps of its schedule are taken with: noise in diffusion, velocity in flow matching.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from torch import Tensor

from studio.families import Family
from studio.maths.schedules import (
    DiffusionSchedule,
    FlowSchedule,
    Schedule,
    mean_over,
    noise_of,
)

Scheduler = DDIMScheduler | FlowMatchEulerDiscreteScheduler

# (places of a latent, steps) to mu, the logarithm of the shift of a drawing's timesteps.
Shift = Callable[[int, int], float]
SHIFTS: dict[str, Shift] = {"flux2": compute_empirical_mu}  # by `Family.shift`

LEAST_ALPHA_BAR = 2**-24
LEAST_VELOCITY_ALPHA_BAR = 1e-4


class Levels(ABC):
    """Noise levels on one device. Timesteps are (B,), latents (B, C, h, w).

    first_timestep: of the training's, which are consecutive; count: the number of them.
    """

    first_timestep: int
    count: int

    @abstractmethod
    def schedule(self, steps: int, places: int) -> Schedule:
        """The steps of a drawing, as diffusers' scheduler takes them. places: h x w of a latent,
        which moves the timesteps of some flows."""

    @abstractmethod
    def noised(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """alpha · clean + sigma · noise."""

    @abstractmethod
    def prediction(self, output: Tensor, latents: Tensor, timesteps: Tensor) -> Tensor:
        """The prediction that the network's output stands for."""

    @abstractmethod
    def target(self, clean: Tensor, noise: Tensor) -> Tensor:
        """The prediction of a network that makes no errors."""

    @abstractmethod
    def squared_velocity(
        self, difference: Tensor, timesteps: Tensor, places: Tensor | None = None
    ) -> Tensor:
        """(B,): the mean square of a difference of two predictions, in units of velocity; over
        places (B, 1, h, w) if there are some, see `schedules.mean_over`."""

    def noisiest(self, fraction: float) -> tuple[int, int]:
        """The first timestep of the noisiest `fraction`, and the number of timesteps from it on."""
        number = max(1, round(fraction * self.count))
        return self.first_timestep + self.count - number, number


class DiffusionLevels(Levels):
    """alpha² + sigma² = 1; predictions of noise."""

    first_timestep = 0

    def __init__(self, scheduler: DDIMScheduler, device: torch.device) -> None:
        self.scheduler = scheduler
        self.device = device
        self.count = scheduler.config.num_train_timesteps
        # The floor avoids a division by zero at a last timestep without any signal.
        self._alphas = scheduler.alphas_cumprod.clamp(min=LEAST_ALPHA_BAR).to(device)

    def schedule(self, steps: int, places: int = 0) -> DiffusionSchedule:
        """A single step goes all the way, from the last timestep. diffusers' scheduler would begin
        at the first one, which has hardly any noise, and leave the noise as it is."""
        self.scheduler.set_timesteps(steps)
        timesteps = self.scheduler.timesteps if steps > 1 else torch.tensor([self.count - 1])
        timesteps = timesteps.to(self.device)
        previous = timesteps - self.count // steps
        final = self.scheduler.final_alpha_cumprod.to(self.device)
        alpha_bar_prev = torch.where(previous >= 0, self._alphas[previous.clamp(min=0)], final)
        return DiffusionSchedule(timesteps, self._alphas[timesteps], alpha_bar_prev)

    def alpha_bar(self, timesteps: Tensor) -> Tensor:
        return self._alphas[timesteps]

    def noised(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return self.scheduler.add_noise(clean, noise, timesteps)

    def prediction(self, output: Tensor, latents: Tensor, timesteps: Tensor) -> Tensor:
        kind = self.scheduler.config.prediction_type
        return noise_of(output, latents, self._alphas[timesteps], kind)

    def target(self, clean: Tensor, noise: Tensor) -> Tensor:
        return noise

    def squared_velocity(
        self, difference: Tensor, timesteps: Tensor, places: Tensor | None = None
    ) -> Tensor:
        """The floor keeps it finite at a last timestep without any signal."""
        alpha_bar = self._alphas[timesteps].clamp(min=LEAST_VELOCITY_ALPHA_BAR)
        return mean_over(difference.square(), places) / alpha_bar


class FlowLevels(Levels):
    """alpha = 1 - sigma (arXiv 2209.03003); predictions of the velocity. A timestep is sigma in
    units of 1 / `count`: the shift moves the timesteps of a drawing, not their noise.

    shift: by the size of the picture; None: one for all sizes, the scheduler's.
    """

    first_timestep = 1

    def __init__(
        self,
        scheduler: FlowMatchEulerDiscreteScheduler,
        device: torch.device,
        shift: Shift | None = None,
    ) -> None:
        self.scheduler = scheduler
        self.device = device
        self.count = scheduler.config.num_train_timesteps
        self._shift = shift

    def schedule(self, steps: int, places: int = 0) -> FlowSchedule:
        if self._shift is None:
            self.scheduler.set_timesteps(steps)
        else:  # as the pipelines of such families ask for it
            even = np.linspace(1.0, 1 / steps, steps)
            self.scheduler.set_timesteps(sigmas=even, mu=self._shift(places, steps))
        sigmas = self.scheduler.sigmas.to(self.device)
        return FlowSchedule(self.scheduler.timesteps.to(self.device), sigmas[:-1], sigmas[1:])

    def noised(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return torch.lerp(clean, noise, (timesteps / self.count)[:, None, None, None])

    def prediction(self, output: Tensor, latents: Tensor, timesteps: Tensor) -> Tensor:
        return output

    def target(self, clean: Tensor, noise: Tensor) -> Tensor:
        return noise - clean

    def squared_velocity(
        self, difference: Tensor, timesteps: Tensor, places: Tensor | None = None
    ) -> Tensor:
        """Nearly diffusion's units: at equal ratios of signal to noise, one change of a prediction
        is alpha + sigma times as large here, with diffusion's alpha and sigma: 1 to sqrt(2)."""
        return mean_over(difference.square(), places)


def levels_of(family: Family, scheduler: Scheduler, device: torch.device) -> Levels:
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        return FlowLevels(scheduler, device, SHIFTS.get(family.shift))
    return DiffusionLevels(scheduler, device)
