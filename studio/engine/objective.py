"""How a round learns: an estimator, and a form that turns its gains into losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from studio.engine.estimators import DenoisingSteps, Estimator, NoisedPictures, StepsGivenEnd
from studio.maths import objectives
from studio.maths.objectives import Counts, Form
from studio.settings import TrainingSettings

# (denoiser, batch, settings) to an estimator.
MakeEstimator = Callable[..., Estimator]

# The estimator of each loss in the settings.
ESTIMATORS: dict[str, type[Estimator]] = {
    "diffusion_dpo": NoisedPictures,
    "d3po": DenoisingSteps,
    "d3po_given_end": StepsGivenEnd,
}


@dataclass(frozen=True)
class Objective:
    """All that `Training` knows of an objective.

    estimator: called once for each batch. clip_range: of the gains; see `objectives.clip`.
    """

    estimator: MakeEstimator
    form: Form
    clip_range: float | None = None

    @classmethod
    def of(cls, settings: TrainingSettings) -> Objective:
        """The objective that the settings name."""
        return cls(ESTIMATORS[settings.loss], objectives.FORMS[settings.form], settings.clip_range)

    def losses(self, chosen: Tensor, rejected: Tensor, beta: float, counts: Counts) -> Tensor:
        """The losses of pairs with these gains; all are (B,)."""
        clipped = (objectives.clip(gain, self.clip_range) for gain in (chosen, rejected))
        return objectives.losses(self.form, *clipped, beta, counts)


def reads_only_final(settings: TrainingSettings) -> bool:
    """Whether a round with these settings reads only the final latent of each picture."""
    return Objective.of(settings).estimator.only_final
