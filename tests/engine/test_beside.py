"""A round beside another taste, on a real, small Stable Diffusion folder."""

import copy
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from studio import models
from studio.engine import memory, sampling
from studio.engine.evaluation import taste_margins
from studio.engine.training import Training
from studio.engine.trajectory import PairBatch
from studio.lora.format import from_peft
from studio.models import Denoiser, ReadAdapter
from studio.settings import SamplingSettings, TrainingSettings
from tests.support.loras import random_adapter

SAMPLING = SamplingSettings(steps=4, width_px=64, height_px=64, guidance=3.0)
SETTINGS = TrainingSettings(
    rank=2,
    updates_base=4,
    updates_per_pick=0,
    batch_pairs=2,
    micro_batch_pairs=2,
    beside_share=0.25,
)


@pytest.fixture
def denoiser(tiny_model: Path) -> Denoiser:
    return models.load(str(tiny_model), "cpu")


@pytest.fixture
def pairs(denoiser: Denoiser) -> PairBatch:
    prompts = ["a cat", "a dog", "a fish"]
    return PairBatch.of(sampling.sample_pairs(denoiser, prompts, [0, 1, 2], SAMPLING))


@pytest.fixture
def other(denoiser: Denoiser) -> ReadAdapter:
    return random_adapter(denoiser, replace(SETTINGS, rank=3))


def gains_with(denoiser: Denoiser, training: Training, other: ReadAdapter) -> torch.Tensor:
    """(3, 1): the margins of the pairs at draw 0, of a policy that is the other adapter."""
    estimator = training.estimator
    groups, draws = estimator.groups, torch.zeros(3, 1, dtype=torch.long)
    with torch.no_grad(), denoiser.adapters.using_read([(other, 1.0)]):
        inputs = estimator.inputs(groups, draws)
        chosen, rejected = (
            estimator.scores(side.tolist(), *inputs)
            for side in (training.pairs.chosen, training.pairs.rejected)
        )
    with torch.no_grad(), denoiser.adapters.off():
        chosen -= estimator.scores(training.pairs.chosen.tolist(), *inputs)
        rejected -= estimator.scores(training.pairs.rejected.tolist(), *inputs)
    return chosen - rejected


def test_an_untrained_adapter_loses_what_the_other_taste_explains(denoiser, pairs, other) -> None:
    """z = 0, so the loss is -log sigmoid(-w R / (1 - w)), R = beta · the other's margin."""
    training = Training(denoiser, pairs, replace(SETTINGS, batch_pairs=3), beside=other)
    explained = SETTINGS.beta * gains_with(denoiser, training, other).flatten() / 3
    assert explained.abs().min() > 1e-4
    loss, margin = training.gradient()
    draws = training.estimator.draws_of_update([0, 0, 0], 0)
    assert draws.shape[1] == 2
    order = [group[0] for group in training_groups(training)]
    found = loss.view(3, 2)[:, 0]
    expected = [math.log1p(math.exp(value)) for value in explained.tolist()]
    assert found.tolist() == pytest.approx([expected[pair] for pair in order], rel=1e-4)
    assert not margin.any()


def training_groups(training: Training) -> list[list[int]]:
    """The groups of the first update, in its order."""
    order = torch.randperm(3, generator=torch.Generator().manual_seed(training.settings.seed))
    return [training.estimator.groups[int(place)] for place in order]


def test_continued_from_its_state_it_is_the_round_itself(denoiser, pairs, other) -> None:
    whole = Training(denoiser, pairs, SETTINGS, beside=other)
    states = [copy.deepcopy(whole.state()) for metrics in whole if metrics.update == 2]
    expected = denoiser.adapters.state()
    again = Training(denoiser, pairs, SETTINGS, beside=other)
    again.load_state(states[0])
    assert [metrics.update for metrics in again] == [3, 4]
    found = denoiser.adapters.state()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    alone = Training(denoiser, pairs, SETTINGS)
    list(alone)
    assert not all(torch.equal(v, expected[n]) for n, v in denoiser.adapters.state().items())


def test_what_the_other_makes_of_a_draw_is_computed_once(
    denoiser, pairs, other, monkeypatch
) -> None:
    settings = replace(SETTINGS, noise_draws_per_pair=2, batch_pairs=3, micro_batch_pairs=3)
    training = Training(denoiser, pairs, settings, beside=other)
    calls = []
    using_read = denoiser.adapters.using_read
    monkeypatch.setattr(
        denoiser.adapters, "using_read", lambda read: (calls.append(read), using_read(read))[1]
    )
    training.step()
    assert len(calls) == 1
    training.step()  # the same two draws
    assert len(calls) == 1


def test_after_the_memory_has_run_out_it_is_computed_anew_and_ends_the_same(
    denoiser, pairs, other, monkeypatch
) -> None:
    expected = [metrics.loss for metrics in Training(denoiser, pairs, SETTINGS, beside=other)]
    training = Training(denoiser, pairs, SETTINGS, beside=other)
    gains, failed = training.estimator.gains, []

    def gains_once_failing(*inputs):
        if not failed:
            failed.append(training.estimator.other)
            assert not failed[0].isnan().all()
            raise torch.cuda.OutOfMemoryError("out of memory")
        return gains(*inputs)

    monkeypatch.setattr(training.estimator, "gains", gains_once_failing)
    assert [metrics.loss for metrics in training] == pytest.approx(expected, rel=1e-4)
    assert training.preset != memory.PRESETS[0]


def test_the_margins_of_a_taste_are_those_of_its_adapter(denoiser, pairs, other) -> None:
    training = Training(denoiser, pairs, SETTINGS)
    kept = training.estimator.other
    found = taste_margins(training.estimator, training.micro_batches, other)
    assert found.shape == (3,)
    assert training.estimator.other is kept
    # the first of its four draws by hand
    training.estimator.held_out_draws = lambda: torch.tensor([0])
    one = taste_margins(training.estimator, training.micro_batches, other)
    by_hand = gains_with(denoiser, training, other).flatten()
    torch.testing.assert_close(one, by_hand, rtol=1e-3, atol=1e-5)


def test_an_adapter_begins_with_changes_of_a_smaller_rank(denoiser, other) -> None:
    """And its change of every weight is theirs, at an alpha of its own."""
    config, state = other
    changes = from_peft(state, config.r, config.lora_alpha)
    settings = replace(SETTINGS, rank=4, alpha=6.0)
    denoiser.adapters.new(settings)
    untrained = denoiser.adapters.state()
    denoiser.adapters.begin_with(changes)
    begun = denoiser.adapters.state()
    found = from_peft(begun, 4, 6.0)
    assert found.keys() == changes.keys()
    for layer, change in changes.items():
        torch.testing.assert_close(found[layer].change(), change.change(), rtol=1e-4, atol=1e-6)
        down = f"{layer}.lora_A.weight"
        assert torch.equal(begun[down][3:], untrained[down][3:])
        assert begun[down][3:].any()
