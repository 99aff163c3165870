"""What a lead changes of the default: by hand, against diffusers, and all on a tiny model."""

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
from studio.bench.research import ablations
from studio.engine import sampling
from studio.engine.trajectory import PairBatch
from studio.models import Denoiser
from studio.settings import SamplingSettings, TrainingSettings

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


def test_every_second_look_has_the_noise_of_the_first_turned_round(
    denoiser: Denoiser, pairs: PairBatch
) -> None:
    training = ablations.Mirrored(denoiser, pairs, replace(FEW, steps_per_pair=4))
    looks = torch.arange(4).expand(3, -1)
    timesteps, noise = training._ways(pairs, pairs.groups()[:3], looks)
    assert torch.equal(timesteps[:, 1::2], timesteps[:, ::2])
    assert torch.equal(noise[:, 1::2], -noise[:, ::2])
    assert len(noise[:, ::2].unique()) == noise[:, ::2].numel()


def test_every_second_look_is_at_flipped_pictures(denoiser: Denoiser, pairs: PairBatch) -> None:
    training = ablations.Flipped(denoiser, pairs, FEW)
    groups, looks = pairs.groups()[:2], torch.arange(2).expand(2, -1)
    timesteps, noise = training._ways(pairs, groups, looks)
    policy, reference = training._chosen_and_rejected(pairs, groups, looks)
    assert policy.shape == reference.shape == (2, 4)
    for column, latents in enumerate((pairs.latents, pairs.latents.flip(-1))):
        one = replace(pairs, latents=latents)
        at = timesteps[:, [column]], noise[:, [column]]
        with torch.no_grad(), denoiser.adapter_off():
            expected = ablations.velocity_errors(denoiser, one, pairs.chosen[:2].tolist(), *at)
        assert torch.allclose(reference[0, 2 * column : 2 * column + 2], expected.flatten())


def test_the_rejected_picture_has_the_noise_of_the_chosen_one_turned_round(
    denoiser: Denoiser, pairs: PairBatch
) -> None:
    training = ablations.Opposed(denoiser, pairs, FEW)
    groups, looks = pairs.groups()[:2], torch.arange(2).expand(2, -1)
    timesteps, noise = training._ways(pairs, groups, looks)
    _, reference = training._chosen_and_rejected(pairs, groups, looks)
    rejected = pairs.rejected[[0, 1]].tolist()
    with torch.no_grad(), denoiser.adapter_off():
        expected = ablations.velocity_errors(denoiser, pairs, rejected, timesteps, -noise)
    assert torch.allclose(reference[1], expected.flatten())


def test_the_way_back_to_noise_is_that_of_diffusers(denoiser: Denoiser, pairs: PairBatch) -> None:
    timesteps, noises = ablations.inverted(denoiser, pairs)
    oracle = DDIMInverseScheduler.from_config(denoiser.scheduler.config)
    oracle.set_timesteps(SAMPLING.steps)
    assert oracle.timesteps.tolist() == timesteps.flip(0).tolist()
    final = pairs.latents[:, -1]
    text, latent = denoiser.embed(list(pairs.prompts)), final
    for timestep in oracle.timesteps:
        at = timestep.expand(len(latent))
        with torch.no_grad():
            states = text.states
            output = denoiser.unet(latent, at, states).sample
        latent = oracle.step(output, timestep, latent).prev_sample
        place = timesteps.tolist().index(int(timestep))
        ours = denoiser.scheduler.add_noise(final, noises[:, place], at)
        assert torch.allclose(ours, latent, atol=1e-4)


def test_a_pair_is_noised_by_its_own_ways_back(denoiser: Denoiser, pairs: PairBatch) -> None:
    training = ablations.Inverted(denoiser, pairs, FEW)
    known, noises = ablations.inverted(denoiser, pairs)
    nearly = known[[0, 1]].expand(2, 2) - 3  # between the steps: the nearest one
    timesteps, (chosen, rejected) = training._noises(pairs, [0, 2], [1, 3], nearly, noises)
    assert timesteps.tolist() == known[[0, 1]].expand(2, 2).tolist()
    assert torch.allclose(chosen, noises[[0, 2]][:, :2])
    assert torch.allclose(rejected, noises[[1, 3]][:, :2])


def test_from_the_cap_on_a_pair_teaches_nothing(denoiser: Denoiser, pairs: PairBatch) -> None:
    training = ablations.Capped(denoiser, pairs, replace(FEW, learning_rate=5e-3, updates_base=30))
    list(training)
    training.settings = replace(training.settings, beta=1e9)  # each is far beyond it, or below 0
    losses, margins = training._losses(pairs.groups(), training._looks([0] * len(pairs)))
    assert (margins > 0).any()
    at_cap = math.log1p(math.exp(-ablations.CAP))
    assert torch.allclose(losses[margins > 0], torch.tensor(at_cap, device=losses.device))
    found = torch.autograd.grad(losses[margins > 0].sum(), denoiser.adapter_parameters())
    assert not any(value.any() for value in found)


def test_an_anchor_by_hand(denoiser: Denoiser, pairs: PairBatch, monkeypatch) -> None:
    """Errors of the chosen 4 -> 3, of the rejected 1 -> 5, beta 2: the margin is 0.5 + 2."""
    training = ablations.Anchored(denoiser, pairs, replace(FEW, beta=2.0))
    sides = torch.tensor([[3.0], [5.0]]), torch.tensor([[4.0], [1.0]])
    monkeypatch.setattr(training, "_chosen_and_rejected", lambda *_: sides)
    losses, margins = training._losses([[0]], torch.zeros(1, 1))
    assert margins.tolist() == [2.5]
    assert losses.tolist() == pytest.approx([math.log1p(math.exp(-5.0)) - 0.5])


def test_a_moved_reference_begins_again_from_nothing(denoiser: Denoiser, pairs: PairBatch) -> None:
    settings = replace(FEW, learning_rate=5e-3, updates_base=8)
    metrics = list(ablations.MovedReference(denoiser, pairs, settings))
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
    denoiser.new_adapter(FEW)
    chains = active.pool[0].chains
    assert not ablations.likings(denoiser, chains, FEW).any()
    pairs = [(chains[2], chains[1])]
    active.learn(pairs, learning_rate=5e-3, updates_base=30, target_shift=None)
    liking = ablations.likings(denoiser, chains, FEW)
    assert liking[2] > liking[1]


@pytest.mark.parametrize("lead", list(ablations.LEADS))
def test_every_lead_teaches_something(
    denoiser: Denoiser, active: ablations.ActiveRound, lead: str
) -> None:
    ablations.LEADS[lead](active)
    assert any(value.any() for value in denoiser.adapter_parameters() if value.requires_grad)
    state = denoiser.adapter_state()
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
        {"artist": "bright", "lead": "rank 2", **figures},
        {"artist": "dark", "lead": "rank 2", **figures, "agreement": 0.75},
        {"artist": "bright", "lead": "rank 32", **figures},
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
    few += ["--leads", "the default"]
    assert ablations.main(few) == 0
    assert "| the default | " in capsys.readouterr().out
    kept = (tmp_path / "rows.jsonl").read_text(encoding="utf-8")
    assert ablations.main(few) == 0
    assert (tmp_path / "rows.jsonl").read_text(encoding="utf-8") == kept


def test_too_few_clicks_are_refused(tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        ablations.main(["--clicks", "3", "--rows", str(tmp_path / "rows.jsonl")])
    assert "four clicks" in capsys.readouterr().err
