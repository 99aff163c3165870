"""Every published system in the table trains, and the documentation has it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from studio import models
from studio.bench.systems import SYSTEMS, System
from studio.engine import sampling
from studio.engine.objective import ESTIMATORS
from studio.engine.training import Training
from studio.engine.trajectory import PairBatch, Trajectory
from studio.maths import objectives
from studio.prompting.mismatched import mismatched
from studio.settings import FORMS, LOSSES, SamplingSettings
from tests.support.loras import random_adapter

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def denoiser(tiny_model: Path) -> models.Denoiser:
    return models.load(str(tiny_model), "cpu")


@pytest.fixture(scope="module")
def chains(denoiser: models.Denoiser) -> list[tuple[Trajectory, Trajectory]]:
    settings = SamplingSettings(steps=4, width_px=64, height_px=64)
    return sampling.sample_pairs(denoiser, ["a cat", "a dog"], [1, 2], settings)


@pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS)
def test_each_trains_two_updates(system: System, denoiser, chains) -> None:
    settings = replace(
        system.settings, updates_base=2, updates_per_pick=0.0, rank=2, target_shift=None
    )
    denoiser.adapters.remove()
    wrong_prompts = mismatched if settings.keep_to_prompt else None
    pairs = PairBatch.of(chains, wrong_prompts=wrong_prompts)
    beside = random_adapter(denoiser, settings, size=0) if settings.beside else None
    first, second = Training(denoiser, pairs, settings, beside=beside)
    zero = torch.zeros(1)
    at_rest = objectives.FORMS[settings.form](zero, zero, settings.beta).item()
    assert first.loss == pytest.approx(at_rest, abs=1e-3)
    assert (first.margin == 0, second.margin == 0) == (True, False)
    moved = [parameter.abs().max() for parameter in denoiser.adapters.parameters()]
    assert all(each.isfinite() for each in moved)


def test_each_has_a_row_in_the_documentation() -> None:
    page = (ROOT / "docs" / "systems.md").read_text("utf-8")
    rows = {row.split(" | ")[0].strip("| "): row for row in page.splitlines() if "| `" in row}
    assert {name.replace("1/2", "½") for name in SYSTEMS} == set(rows)
    for name, system in SYSTEMS.items():
        row = rows[name.replace("1/2", "½")]
        assert f"| {system.paper} | `{system.settings.form}` |" in row


def test_the_settings_name_every_form_and_estimator() -> None:
    assert tuple(objectives.FORMS) == FORMS
    assert tuple(ESTIMATORS) == LOSSES
    used = {system.settings.form for system in SYSTEMS.values()}
    assert set(FORMS) - used == {"capped"}
