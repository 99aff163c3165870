"""Baselines that the studio does not offer: a LoRA fine-tuned on the chosen pictures alone.

This is the common practice of artists, with AdamW and all timesteps.
"""

from __future__ import annotations

from torch import Tensor

from studio.engine.estimators import NoisedPictures
from studio.engine.objective import Objective
from studio.settings import OBJECTIVES, UNBOUNDED, TrainingSettings

FINETUNE = "finetune"
# The presets of the studio and of the baselines, by name.
PRESETS: dict[str, TrainingSettings] = {
    **OBJECTIVES,
    FINETUNE: TrainingSettings(
        optimizer="adamw",
        learning_rate=7e-4,
        timestep_fraction=1.0,
        layers="attention",
        shortcut_rate=1.0,
        target_shift=None,
        noise_draws_per_pair=UNBOUNDED,
        updates_per_pick=2.0,
    ),
}


def chosen_only(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """-2 · chosen: fine-tuning on the chosen pictures; `rejected` and `beta` are not used.

    Gains of noised final images are halves of squared errors, so this is the squared error of the
    policy minus that of the reference: the usual loss, shifted to start at 0.
    """
    return -2 * chosen


def objective_of(name: str) -> Objective | None:
    """The objective of a baseline; None stands for the one that a preset's settings name."""
    return Objective(NoisedPictures, chosen_only) if name == FINETUNE else None
