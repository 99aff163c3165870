"""How a round learns: an estimator, and a form that turns its gains into losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from studio.engine.estimators import DenoisingSteps, Estimator, NoisedPictures
from studio.maths import objectives
from studio.settings import TrainingSettings

# (denoiser, batch, settings) to an estimator.
MakeEstimator = Callable[..., Estimator]
# (chosen, rejected) gains, each (B,), to losses (B,).
Form = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Objective:
    """All that `Training` knows of an objective. `estimator` is called once for each batch."""

    estimator: MakeEstimator
    form: Form

    @classmethod
    def of(cls, settings: TrainingSettings) -> Objective:
        """The objective that the settings name."""
        form, clip_range = objectives.FORMS[settings.form], settings.clip_range

        def losses(chosen: Tensor, rejected: Tensor) -> Tensor:
            clipped = (objectives.clip(gain, clip_range) for gain in (chosen, rejected))
            return form(*clipped, settings.beta)

        return cls(DenoisingSteps if settings.loss == "d3po" else NoisedPictures, losses)


def reads_only_final(settings: TrainingSettings) -> bool:
    """Whether a round with these settings reads only the final latent of each picture."""
    return Objective.of(settings).estimator.only_final
