"""Marks: a picture is looked at where the artist saw what decided."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from studio import models
from studio.engine import sampling
from studio.engine.estimators import DenoisingSteps, NoisedPictures
from studio.engine.training import Training
from studio.engine.trajectory import PairBatch
from studio.maths.objectives import ALIKE, FORMS, losses
from studio.maths.schedules import ddim_step, log_prob, mean_over, step_mean
from studio.models import Denoiser
from studio.settings import MARKS_ACROSS, OBJECTIVES, SamplingSettings
from studio.worker.round_pairs import places_of

SAMPLING = SamplingSettings(steps=4, width_px=64, height_px=64, guidance=3.0)
FEW = {"updates_base": 2, "updates_per_pick": 0, "micro_batch_pairs": 2, "target_shift": None}
KINDS = {
    "pictures": replace(OBJECTIVES["diffusion_dpo"], **FEW),
    "steps": replace(OBJECTIVES["d3po_balanced"], **FEW),
    "given end": replace(OBJECTIVES["diffusion_dpo"], loss="d3po_given_end", **FEW),
}
all_kinds = pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
every_reduction = pytest.mark.parametrize("reduction", ["sum", "mean", "noise"])


@pytest.fixture
def denoiser(tiny_model: Path) -> Denoiser:
    return models.load(str(tiny_model), "cpu")


def marked(batch: PairBatch, *places: Tensor | None) -> PairBatch:
    ones = torch.ones(batch.latents.shape[-2:])
    return replace(batch, places=torch.stack([ones if p is None else p for p in places])[:, None])


def one_pair(denoiser: Denoiser) -> PairBatch:
    return PairBatch.of(sampling.sample_pairs(denoiser, ["a cat"], [0], SAMPLING))


# --- numbers by hand -----------------------------------------------------------------------------


def test_the_mean_of_errors_is_over_the_marked_places() -> None:
    """Errors of .2 and .8, and the first alone is marked (FocusDPO's weights): .2."""
    errors = torch.tensor([0.2, 0.8]).view(1, 1, 1, 2)
    marks = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    assert mean_over(errors, marks).item() == pytest.approx(0.2)
    assert mean_over(errors).item() == pytest.approx(0.5)
    assert mean_over(errors, 0.5 * marks).item() == pytest.approx(0.2)  # how much says nothing
    some = torch.tensor([1.0, 0.25]).view(1, 1, 1, 2)
    assert mean_over(errors, some).item() == pytest.approx((0.2 + 0.25 * 0.8) / 1.25)


def test_the_loss_of_a_marked_pair_by_hand() -> None:
    """Two places; the chosen's error falls by .4 at the first and rises by .4 at the second, the
    rejected's does not change. Alike, this is no gain; with the first marked, beta 10 and half of
    .4: -log sigmoid(2) = 0.126928, as of DenseDPO's halves."""
    change = torch.tensor([-0.4, 0.4]).view(1, 1, 1, 2)
    first = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    none = torch.zeros(1)
    alike = losses(FORMS["dpo"], -mean_over(change) / 2, none, 10.0, ALIKE)
    there = losses(FORMS["dpo"], -mean_over(change, first) / 2, none, 10.0, ALIKE)
    assert alike.item() == pytest.approx(math.log(2))
    assert there.item() == pytest.approx(0.126928, abs=1e-6)


def test_a_sum_is_the_likelihood_of_the_marked_part() -> None:
    step = ddim_step(torch.tensor(0.4), torch.tensor(0.6), 1.0)
    latent, predicted, drawn = torch.randn(3, 1, 4, 2, 2, generator=torch.manual_seed(0)).unbind()
    left = torch.tensor([[1.0, 0.0], [1.0, 0.0]])[None, None]
    both = [
        log_prob(drawn, latent, predicted, step, "sum", places).item()
        for places in (left, 1 - left)
    ]
    assert sum(both) == pytest.approx(log_prob(drawn, latent, predicted, step, "sum").item())
    normal = torch.distributions.Normal(step_mean(latent, predicted, step), step.s)
    constant = -math.log(step.s.item() * math.sqrt(2 * math.pi))
    expected = (normal.log_prob(drawn) - constant)[..., 0].sum().item()
    assert both[0] == pytest.approx(expected, rel=1e-5)


@every_reduction
def test_all_places_marked_is_no_mark_to_the_bit_and_outside_nothing_is_learned(reduction) -> None:
    step = ddim_step(torch.tensor(0.4), torch.tensor(0.6), 1.0)
    latent, predicted, drawn = torch.randn(3, 1, 4, 8, 8, generator=torch.manual_seed(1)).unbind()
    predicted.requires_grad_()
    ones, left = torch.ones(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
    left[..., :3] = 1
    plain = log_prob(drawn, latent, predicted, step, reduction)
    assert torch.equal(log_prob(drawn, latent, predicted, step, reduction, ones), plain)
    log_prob(drawn, latent, predicted, step, reduction, left).backward()
    assert (predicted.grad[..., 3:] == 0).all()
    assert (predicted.grad[..., :3] != 0).all()


# --- from marks to an adapter --------------------------------------------------------------------


def test_a_map_of_marks_becomes_shares_of_a_latents_places() -> None:
    top = int("f" * 128 + "0" * 128, 16)
    assert torch.equal(places_of(top, (2, 3)), torch.tensor([[1.0] * 3, [0.0] * 3]))
    [[corner, *_], *_] = places_of(1 << (MARKS_ACROSS**2 - 1), (8, 8))
    assert corner == 1 / 16  # one place of sixteen; the first digit is the upper left
    assert places_of(top, (64, 64)).sum() == 64 * 32  # finer than the map


@all_kinds
def test_a_pick_without_marks_is_learned_to_the_byte_as_before(denoiser, settings) -> None:
    pairs = PairBatch.of(sampling.sample_pairs(denoiser, ["a cat", "a dog"], [0, 1], SAMPLING))
    assert pairs.places is None
    states = []
    for batch in (pairs, marked(pairs, None, None, None, None)):
        list(Training(denoiser, batch, settings))
        states.append(denoiser.adapters.state())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@all_kinds
def test_an_unmarked_picture_of_a_batch_keeps_its_score_and_a_marked_one_does_not(
    denoiser, settings
) -> None:
    pair = one_pair(denoiser)
    half = torch.zeros(pair.latents.shape[-2:])
    half[:, : half.shape[1] // 2] = 1
    kind = Training(denoiser, pair, settings).objective.estimator
    plain, mixed = (
        kind(denoiser, pair, settings),
        kind(denoiser, marked(pair, half, None), settings),
    )
    draws = plain.draws_of_update([0], 0)
    inputs = [values.expand(2, *values.shape[1:]) for values in plain.inputs([[0]], draws)]
    with torch.no_grad():
        before, after = plain.scores([0, 1], *inputs), mixed.scores([0, 1], *inputs)
        other_half = kind(denoiser, marked(pair, 1 - half, None), settings).scores([0, 1], *inputs)
    assert torch.equal(after[1], before[1])
    assert (after[0] != before[0]).all()
    torch.testing.assert_close((after[0] + other_half[0]) / 2, before[0])  # of means over halves


@pytest.mark.parametrize("kind", [NoisedPictures, DenoisingSteps])
def test_what_happens_outside_of_the_marks_does_not_count(denoiser, kind) -> None:
    """The error at a place depends on that place of the noise or of the next latent alone."""
    pair = one_pair(denoiser)
    half = torch.zeros(pair.latents.shape[-2:])
    half[:, : half.shape[1] // 2] = 1
    settings = KINDS["steps"]
    beside = pair.latents.clone()
    beside[:, -1, :, :, half.shape[1] // 2 :] += 1  # the end of the last step
    if kind is DenoisingSteps:
        last = torch.tensor([[len(pair.timesteps) - 1]] * 2)
        scores = [
            kind(denoiser, marked(replace(pair, latents=latents), half, half), settings).scores(
                [0, 1], last
            )
            for latents in (pair.latents, beside)
        ]
        assert torch.equal(*scores)
    else:
        timesteps = torch.tensor([[900]] * 2)
        noise = torch.randn(2, 1, *pair.latents.shape[2:], generator=torch.manual_seed(2))
        some = marked(pair, half, half)
        estimator = kind(denoiser, some, KINDS["pictures"])
        inside, outside = (
            kind(denoiser, marked(pair, places, places), KINDS["pictures"]).scores(
                [0, 1], timesteps, noise
            )
            for places in (half, 1 - half)
        )
        assert not torch.equal(inside, outside)
        assert torch.equal(estimator.scores([0, 1], timesteps, noise), inside)
