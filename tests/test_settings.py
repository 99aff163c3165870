"""Settings as the store keeps them: those of older versions are what they were, and stay so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from studio.settings import (
    BASELINES,
    OBJECTIVES,
    UNBOUNDED,
    SessionSettings,
    SettingsError,
    TrainingSettings,
)
from studio.ui.tabs.train import REACHES, strength_of, with_strength

PRESETS = [*OBJECTIVES.values(), *BASELINES.values()]
# The default of the versions that had no choice of an optimiser.
WITH_ADAMW = TrainingSettings(
    beta=60.0,
    optimizer="adamw",
    learning_rate=7e-4,
    timestep_fraction=1.0,
    layers="attention",
    shortcut_rate=1.0,
    target_shift=None,
    noise_draws_per_pair=UNBOUNDED,
    updates_per_pick=2.0,
)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.objective)
def test_every_preset_is_read_as_it_was_written(preset: TrainingSettings) -> None:
    assert TrainingSettings.from_dict(preset.to_dict()) == preset


def test_what_was_written_before_there_was_a_choice_is_read_and_written_as_it_was() -> None:
    written = WITH_ADAMW.to_dict()
    assert "optimizer" not in written
    assert "timestep_fraction" not in written
    assert "layers" not in written
    assert "shortcut_rate" not in written
    assert "target_shift" not in written
    assert "noise_draws_per_pair" not in written
    assert TrainingSettings.from_dict(written) == WITH_ADAMW


@pytest.mark.parametrize("training", [*OBJECTIVES.values(), WITH_ADAMW])
@pytest.mark.parametrize("name", REACHES)
def test_the_dial_says_what_it_was_set_to(training: TrainingSettings, name: str) -> None:
    session = with_strength(SessionSettings(training=training), name)
    assert strength_of(session.training) == name
    assert strength_of(training) == "Balanced"


@pytest.mark.parametrize(
    "changed",
    [
        {"optimizer": "sgd"},
        {"timestep_fraction": 0.0},
        {"timestep_fraction": 1.5},
        {"layers": "convolutions"},
        {"shortcut_rate": 0.0},
        {"shortcut_rate": 2.0},
        {"target_shift": 0.0},
        {"target_shift": 4.0},
        {"noise_draws_per_pair": 0},
        {"seed": -1},
    ],
)
def test_what_cannot_be_is_refused(changed: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        replace(TrainingSettings(), **changed)
