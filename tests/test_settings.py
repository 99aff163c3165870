"""Settings as the store keeps them: those of older versions are what they were, and stay so."""

from __future__ import annotations

import math
import re
from dataclasses import fields, replace

import pytest

from studio.settings import (
    OBJECTIVES,
    UNBOUNDED,
    SamplingSettings,
    SessionSettings,
    SettingsError,
    StartLora,
    TrainingSettings,
)
from studio.ui.tabs.train.learning import SHIFTS, strength_of, with_strength

# The default of the versions that had no choice of an optimizer.
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


@pytest.mark.parametrize("preset", OBJECTIVES.values(), ids=lambda preset: preset.objective)
def test_every_preset_is_read_as_it_was_written(preset: TrainingSettings) -> None:
    assert TrainingSettings.from_dict(preset.to_dict()) == preset


def test_settings_of_the_old_fine_tuning_baseline_still_open() -> None:
    written = {**WITH_ADAMW.to_dict(), "objective": "finetune", "loss": "finetune"}
    assert TrainingSettings.from_dict(written) == WITH_ADAMW
    with pytest.raises(SettingsError, match="Unknown loss"):
        TrainingSettings(loss="finetune")


def test_what_was_written_before_there_was_a_choice_is_read_and_written_as_it_was() -> None:
    written = WITH_ADAMW.to_dict()
    assert "optimizer" not in written
    assert "timestep_fraction" not in written
    assert "layers" not in written
    assert "shortcut_rate" not in written
    assert "target_shift" not in written
    assert "noise_draws_per_pair" not in written
    assert "count_strength" not in written
    assert "lone_pictures" not in written
    assert TrainingSettings.from_dict(written) == WITH_ADAMW


@pytest.mark.parametrize("training", [*OBJECTIVES.values(), WITH_ADAMW])
@pytest.mark.parametrize("name", SHIFTS)
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


KINDS = (SamplingSettings, TrainingSettings, StartLora, SessionSettings)
NUMBERS = [
    pytest.param(kind, field, id=f"{kind.__name__}.{field.name}")
    for kind in KINDS
    for field in fields(kind)
    if str(field.type).partition(" | ")[0] in ("int", "float")
]
GIVEN = {StartLora: {"path": "a.safetensors"}}


@pytest.mark.parametrize(("kind", "field"), NUMBERS)
def test_every_number_has_bounds_on_every_way_in(kind, field) -> None:
    """None of them may keep a machine busy for years, or be what no column can hold."""
    given = GIVEN.get(kind, {})
    least, most, sentence = field.metadata["within"]
    assert least < most < 2**63
    assert sentence.endswith(".")
    for wrong in (10**30, -(10**30), math.nan, math.inf, True, "8", [], {}, 10**400):
        with pytest.raises(SettingsError, match=re.escape(sentence)):
            kind(**given | {field.name: wrong})
        with pytest.raises(SettingsError, match=re.escape(sentence)):
            kind.from_dict(given | {field.name: wrong})
    if str(field.type) == "int":
        with pytest.raises(SettingsError, match=re.escape(sentence)):
            kind(**given | {field.name: least + 0.5})


def test_a_round_of_a_thousand_million_updates_is_refused_with_a_sentence() -> None:
    with pytest.raises(SettingsError, match="must be between 0 and 100000"):
        TrainingSettings(updates_base=10**9)
    assert TrainingSettings(updates_base=100_000).updates(4) == 100_003


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrong", [None, True, 3, 0.5, "x", [], ["a"], {}, {"a": 1}, [1], "\ud800"])
def test_a_value_of_any_kind_is_taken_or_refused_with_a_sentence(kind, wrong) -> None:
    for field in fields(kind):
        try:
            made = kind.from_dict(GIVEN.get(kind, {}) | {field.name: wrong})
        except SettingsError:
            continue
        assert kind.from_dict(made.to_dict()) == made
    if not isinstance(wrong, dict):
        with pytest.raises(SettingsError):
            kind.from_dict(wrong)
