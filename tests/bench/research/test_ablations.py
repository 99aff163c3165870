"""The changes of the ablations: by hand, against diffusers, and all on a tiny model."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DDIMInverseScheduler

from studio import models
from studio.bench import clicks
from studio.bench.artists import bright
from studio.bench.research import ablations, estimators
from studio.engine import sampling
from studio.engine.estimators import velocity_errors
from studio.engine.trajectory import PairBatch
from studio.models import Denoiser
from studio.settings import SamplingSettings, TrainingSettings

pytestmark = pytest.mark.nightly

SAMPLING = SamplingSettings(steps=4, width_px=64, height_px=64, guidance=3.0)
FEW = TrainingSettings(updates_base=4, updates_per_pick=0, batch_pairs=2, micro_batch_pairs=2)
PROMPTS = ["a cat", "a dog", "a fish", "a bird", "a fox", "a cow"]


@pytest.fixture
def denoiser(tiny_model: Path) -> Denoiser:
    return models.load(str(tiny_model), "cpu")


@pytest.fixture
def active(denoiser: Denoiser) -> ablations.ActiveRound:
    pool = clicks.draw_asked(denoiser, PROMPTS, range(6), SAMPLING, ablations.PICTURES)
    return ablations.ActiveRound(denoiser, bright, pool, 4, SAMPLING, FEW)


@pytest.fixture
def pairs(active: ablations.ActiveRound) -> PairBatch:
    return PairBatch.of(active.clicks())


def test_every_second_draw_has_the_noise_of_the_first_turned_round(
    denoiser: Denoiser, pairs: PairBatch
) -> None:
    estimator = estimators.Mirrored(denoiser, pairs, replace(FEW, steps_per_pair=4))
    timesteps, noise = estimator.inputs(pairs.groups()[:3], torch.arange(4).expand(3, -1))
    assert torch.equal(timesteps[:, 1::2], timesteps[:, ::2])
    assert torch.equal(noise[:, 1::2], -noise[:, ::2])
    assert len(noise[:, ::2].unique()) == noise[:, ::2].numel()


def with_an_adapter(denoiser: Denoiser) -> None:
    """One that makes a difference: that of an untrained one is 0."""
    denoiser.adapters.new(FEW)
    with torch.no_grad():
        for parameter in denoiser.adapters.parameters():
            parameter.add_(0.05)


@torch.no_grad()
def gains_of(
    denoiser: Denoiser, batch: PairBatch, pictures: list[int], inputs: tuple[torch.Tensor, ...]
) -> torch.Tensor:
    """Half of how much smaller the error is with the adapter than without, flat."""
    with_it = velocity_errors(denoiser, batch, pictures, *inputs)
    with denoiser.adapters.off():
        return ((velocity_errors(denoiser, batch, pictures, *inputs) - with_it) / 2).flatten()


def test_every_second_draw_is_of_flipped_pictures(denoiser: Denoiser, pairs: PairBatch) -> None:
    with_an_adapter(denoiser)
    estimator = estimators.Flipped(denoiser, pairs, FEW)
    groups, draws = pairs.groups()[:2], torch.arange(2).expand(2, -1)
    timesteps, noise = estimator.inputs(groups, draws)
    gains, _ = estimator.gains(groups, draws)
    assert gains.shape == (4,)
    for column, latents in enumerate((pairs.latents, pairs.latents.flip(-1))):
        inputs = timesteps[:, [column]], noise[:, [column]]
        flipped = replace(pairs, latents=latents)
        expected = gains_of(denoiser, flipped, pairs.chosen[:2].tolist(), inputs)
        torch.testing.assert_close(gains[2 * column : 2 * column + 2], expected)
        assert expected.all()


def test_the_rejected_picture_has_the_noise_of_the_chosen_one_turned_round(
    denoiser: Denoiser, pairs: PairBatch
) -> None:
    with_an_adapter(denoiser)
    estimator = estimators.Opposed(denoiser, pairs, FEW)
    groups, draws = pairs.groups()[:2], torch.arange(2).expand(2, -1)
    timesteps, noise = estimator.inputs(groups, draws)
    for gains, side, sign in zip(
        estimator.gains(groups, draws), (pairs.chosen, pairs.rejected), (1, -1), strict=True
    ):
        expected = gains_of(denoiser, pairs, side[[0, 1]].tolist(), (timesteps, sign * noise))
        torch.testing.assert_close(gains, expected)


def test_the_way_back_to_noise_is_that_of_diffusers(denoiser: Denoiser, pairs: PairBatch) -> None:
    timesteps, noises = estimators.inverted(denoiser, pairs)
    oracle = DDIMInverseScheduler.from_config(denoiser.scheduler.config)
    oracle.set_timesteps(SAMPLING.steps)
    assert oracle.timesteps.tolist() == timesteps.flip(0).tolist()
    final = pairs.latents[:, -1]
    text, latent = denoiser.text.embed(list(pairs.prompts)), final
    for timestep in oracle.timesteps:
        at = timestep.expand(len(latent))
        with torch.no_grad():
            states = text.states
            output = denoiser.network(latent, at, states).sample
        latent = oracle.step(output, timestep, latent).prev_sample
        place = timesteps.tolist().index(int(timestep))
        ours = denoiser.scheduler.add_noise(final, noises[:, place], at)
        assert torch.allclose(ours, latent, atol=1e-4)


def test_a_pair_is_noised_by_its_own_inversions(denoiser: Denoiser, pairs: PairBatch) -> None:
    estimator = estimators.Inverted(denoiser, pairs, FEW)
    known, noises = estimators.inverted(denoiser, pairs)
    nearly = known[[0, 1]].expand(2, 2) - 3  # between the steps: the nearest one
    timesteps, (chosen, rejected) = estimator.noises([0, 2], [1, 3], nearly, noises)
    assert timesteps.tolist() == known[[0, 1]].expand(2, 2).tolist()
    assert torch.allclose(chosen, noises[[0, 2]][:, :2])
    assert torch.allclose(rejected, noises[[1, 3]][:, :2])


def test_from_the_cap_on_a_pair_teaches_nothing() -> None:
    chosen = torch.tensor([0.2, 0.6, -9.0], requires_grad=True)
    losses = ablations.capped(chosen, torch.zeros(3), beta=2.0)  # margins 0.4, 1.2 and -18
    at_cap = math.log1p(math.exp(-ablations.CAP))
    assert losses.tolist() == pytest.approx([math.log1p(math.exp(-0.4)), at_cap, 18.0])
    losses.sum().backward()
    assert chosen.grad[1] == 0
    assert chosen.grad[0] != 0
    assert chosen.grad[2] != 0


def test_an_anchor_by_hand() -> None:
    """Errors of the chosen 4 -> 3, of the rejected 1 -> 5, beta 2: the margin is 0.5 + 2."""
    losses = ablations.anchored(torch.tensor([0.5]), torch.tensor([-2.0]), beta=2.0)
    assert losses.tolist() == pytest.approx([math.log1p(math.exp(-5.0)) - 0.5])


def test_a_moved_reference_begins_again_from_nothing(active: ablations.ActiveRound) -> None:
    changes = {"learning_rate": 5e-3, "updates_base": 8, "target_shift": None}
    training = active.training(active.clicks(), estimators.MovedReference, **changes)
    metrics = list(ablations.moving_at_half(training))
    assert metrics[3].margin != 0
    assert metrics[4].margin == 0
    assert metrics[4].loss == pytest.approx(math.log(2))
    assert metrics[5].margin != 0


def test_a_branched_chain_shares_its_beginning(
    denoiser: Denoiser, active: ablations.ActiveRound
) -> None:
    chain = active.pool[0].chains[0]
    other = ablations.branched(denoiser, chain, 2, seed=5)
    assert torch.equal(other.latents[:3], chain.latents[:3])
    assert not torch.isclose(other.latents[3:], chain.latents[3:]).all(-1).any()


def test_without_noise_a_branched_chain_is_the_chain(denoiser: Denoiser) -> None:
    settings = replace(SAMPLING, eta=0.0)
    [chain] = sampling.sample(denoiser, ["a cat"], [3], settings)
    other = ablations.branched(denoiser, chain, 1, seed=5)
    assert torch.allclose(other.latents, chain.latents, atol=1e-5)


def test_what_is_liked_is_what_was_learned(
    denoiser: Denoiser, active: ablations.ActiveRound
) -> None:
    denoiser.adapters.new(FEW)
    chains = active.pool[0].chains
    assert not ablations.picture_gains(denoiser, chains, FEW).any()
    pairs = [(chains[2], chains[1])]
    active.learn(pairs, learning_rate=5e-3, updates_base=30, target_shift=None)
    gains = ablations.picture_gains(denoiser, chains, FEW)
    assert gains[2] > gains[1]


@pytest.mark.parametrize("ablation", list(ablations.ABLATIONS))
def test_every_ablation_trains_an_adapter(
    denoiser: Denoiser, active: ablations.ActiveRound, ablation: str
) -> None:
    ablations.ABLATIONS[ablation](active)
    assert any(value.any() for value in denoiser.adapters.parameters() if value.requires_grad)
    state = denoiser.adapters.state()
    assert any(value.any() for name, value in state.items() if ".lora_B." in name)
    assert all(value.isfinite().all() for value in state.values())
    assert 0 <= ablations.agreement(active) <= 1


def test_pictures_that_are_equal_are_no_pick(active: ablations.ActiveRound) -> None:
    alike = replace(active, artist=lambda image, prompt: 0.5)
    assert alike.clicks() == []
    chosen, rejected = active.clicks()[0]
    [first, second] = sampling.images(active.denoiser, [chosen, rejected])
    assert bright(first, "") > bright(second, "")


def test_the_table_has_a_mean_only_where_all_artists_were_run() -> None:
    figures = {"agreement": 0.5, "win_rate": 0.6, "shift_sd": 0.1, "object_accuracy_tuned": 1.0}
    rows = [
        {"artist": "bright", "ablation": "rank 2", **figures},
        {"artist": "dark", "ablation": "rank 2", **figures, "agreement": 0.75},
        {"artist": "bright", "ablation": "rank 32", **figures},
    ]
    assert ablations.table(rows).splitlines() == [
        "| | bright | dark | mean |",
        "|---|---|---|---|",
        "| rank 2 | 0.500; 0.60, +0.10 sd, 100% | 0.750; 0.60, +0.10 sd, 100% "
        "| 0.625; 0.60, +0.10 sd, 100% |",
        "| rank 32 | 0.500; 0.60, +0.10 sd, 100% |  |  |",
    ]


def test_a_whole_run_is_kept_and_gone_on_with(tmp_path: Path, capsys) -> None:
    few = ["--artists", "bright", "--clicks", "4", "--unseen", "1"]
    few += ["--set", "updates_base=1", "updates_per_pick=0", "--rows", str(tmp_path / "rows.jsonl")]
    few += ["--ablations", "the default"]
    assert ablations.main(few) == 0
    assert "| the default | " in capsys.readouterr().out
    kept = (tmp_path / "rows.jsonl").read_text(encoding="utf-8")
    assert ablations.main(few) == 0
    assert (tmp_path / "rows.jsonl").read_text(encoding="utf-8") == kept


def test_too_few_clicks_are_refused(tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        ablations.main(["--clicks", "3", "--rows", str(tmp_path / "rows.jsonl")])
    assert "at least four clicks" in capsys.readouterr().err
