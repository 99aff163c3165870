"""Rollouts on a real, small Stable Diffusion folder."""

import math
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from studio import models
from studio.engine import sampling, trajectory
from studio.engine.training import Training
from studio.engine.trajectory import MixedSettingsError, PairBatch, Trajectory
from studio.models import Denoiser
from studio.settings import OBJECTIVES, SamplingSettings
from tests.support.factories import OTHER_SAMPLING

SETTINGS = SamplingSettings(steps=4, width_px=64, height_px=64, guidance=3.0)


@pytest.fixture(scope="module")
def denoiser(tiny_model: Path) -> Denoiser:
    return models.load(str(tiny_model), "cpu")


def test_a_chain_has_every_latent_and_descending_timesteps(denoiser: Denoiser) -> None:
    (chain,) = sampling.sample(denoiser, ["a cat"], [1], SETTINGS)
    assert chain.latents.shape == (5, 4, 8, 8)
    assert (chain.timesteps.diff() < 0).all()
    assert sampling.images(denoiser, [chain])[0].size == (64, 64)


def test_without_noise_it_is_diffusers_own_pipeline(denoiser: Denoiser, tiny_model: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_model, safety_checker=None)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    (chain,) = sampling.sample(denoiser, ["a cat"], [3], replace(SETTINGS, eta=0.0))
    expected = pipeline(
        "a cat",
        num_inference_steps=4,
        guidance_scale=3.0,
        latents=chain.latents[:1],
        output_type="latent",
        eta=0.0,
    ).images
    torch.testing.assert_close(chain.latents[-1:], expected, rtol=1e-3, atol=1e-4)


def test_a_seed_gives_the_same_chain_alone_and_in_a_batch(denoiser: Denoiser) -> None:
    alone = sampling.sample(denoiser, ["a cat"], [5], SETTINGS)[0]
    batch = sampling.sample(denoiser, ["a dog", "a cat"], [4, 5], SETTINGS)[1]
    torch.testing.assert_close(alone.latents, batch.latents, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shared", [True, False])
def test_a_pair_shares_its_starting_noise_unless_told_otherwise(
    denoiser: Denoiser, shared: bool
) -> None:
    settings = replace(SETTINGS, shared_noise=shared)
    ((left, right),) = sampling.sample_pairs(denoiser, ["a cat"], [5], settings)
    assert torch.equal(left.latents[0], right.latents[0]) == shared
    assert not torch.equal(left.latents[-1], right.latents[-1])


def test_a_grid_begins_as_the_pair_of_its_seed_and_no_two_pictures_share_noise(
    denoiser: Denoiser,
) -> None:
    (pair,) = sampling.sample_pairs(denoiser, ["a cat"], [5], SETTINGS)
    grids = sampling.sample_groups(denoiser, ["a cat", "a dog"], [5, 6], SETTINGS, 4)
    assert [len(chains) for chains in grids] == [4, 4]
    for one, other in zip(pair, grids[0], strict=False):
        torch.testing.assert_close(one.latents, other.latents)
    apart = replace(SETTINGS, shared_noise=False)
    (loose,) = sampling.sample_groups(denoiser, ["a cat"], [5], apart, 4)
    assert len({chain.latents[0].numpy().tobytes() for chain in loose}) == 4
    assert len({chain.latents[-1].numpy().tobytes() for chain in grids[0]}) == 4


def test_a_trajectory_survives_its_file(denoiser: Denoiser, tmp_path: Path) -> None:
    (chain,) = sampling.sample(denoiser, ['a "cat", naïve'], [2**40], SETTINGS)
    trajectory.save(tmp_path / "t.safetensors", chain)
    read = trajectory.load(tmp_path / "t.safetensors")
    assert (read.prompt, read.seed, read.settings) == (chain.prompt, chain.seed, chain.settings)
    assert torch.equal(read.latents, chain.latents.half())


def test_a_file_with_values_that_are_not_numbers_is_refused(
    denoiser: Denoiser, tmp_path: Path
) -> None:
    (chain,) = sampling.sample(denoiser, ["a cat"], [1], SETTINGS)
    chain.latents[2, 0, 0, 0] = float("nan")
    trajectory.save(tmp_path / "t.safetensors", chain)
    with pytest.raises(ValueError, match="not numbers"):
        trajectory.load(tmp_path / "t.safetensors")


def test_pairs_made_differently_are_not_mixed(denoiser: Denoiser) -> None:
    first = sampling.sample_pairs(denoiser, ["a cat"], [1], SETTINGS)
    second = sampling.sample_pairs(denoiser, ["a cat"], [1], replace(SETTINGS, guidance=5.0))
    with pytest.raises(MixedSettingsError, match="guidance"):
        PairBatch.of(first + second)


@pytest.mark.parametrize("name", [field.name for field in fields(SamplingSettings)])
def test_one_rule_says_which_pictures_may_share_a_round(name: str) -> None:
    """A new field of the settings fails here until this table says what another value is."""
    other = replace(SETTINGS, **{name: OTHER_SAMPLING[name]})
    may = name in ("seed", "shared_noise")
    assert SETTINGS.may_share_a_round_with(other) == may
    assert other.may_share_a_round_with(SETTINGS) == may
    pairs = [
        tuple(
            Trajectory(torch.zeros(5, 4, 8, 8), torch.arange(3, -1, -1), "a", seed, one, "hash")
            for seed in (1, 2)
        )
        for one in (SETTINGS, other)
    ]
    if may:
        assert len(PairBatch.of(pairs)) == 2
    else:
        with pytest.raises(MixedSettingsError, match="only one kind"):
            PairBatch.of(pairs)


def test_the_final_latent_alone_can_be_read_and_made_a_batch(
    denoiser: Denoiser, tmp_path: Path
) -> None:
    """The same numbers as of the whole chain, and a fifth of them."""
    pair = sampling.sample_pairs(denoiser, ["a cat"], [1], SETTINGS)[0]
    paths = [tmp_path / f"{number}.safetensors" for number in range(2)]
    for path, chain in zip(paths, pair, strict=True):
        trajectory.save(path, chain)
    whole = PairBatch.of([tuple(map(trajectory.load, paths))])
    final = PairBatch.of([tuple(trajectory.load(path, only_final=True) for path in paths)])
    assert final.latents.shape == (2, 1, 4, 8, 8)
    assert torch.equal(final.latents[:, 0], whole.latents[:, -1])
    trimmed = PairBatch.of([tuple(map(trajectory.load, paths))], only_final=True)
    assert torch.equal(trimmed.latents, final.latents)


def test_a_trajectory_needs_one_more_latent_than_steps() -> None:
    with pytest.raises(ValueError, match="3 steps"):
        Trajectory(torch.zeros(3, 4, 8, 8), torch.tensor([9, 5, 1]), "a", 0, SETTINGS, "hash")


# --- few steps and no guidance, as Turbo and LCM models are drawn ---


class Asked:
    """Counts the latents that go through a network."""

    def __init__(self, denoiser: Denoiser, monkeypatch: pytest.MonkeyPatch) -> None:
        self.latents = 0
        predict = denoiser.predict

        def counted(latents, *others):
            self.latents += len(latents)
            return predict(latents, *others)

        monkeypatch.setattr(denoiser, "predict", counted)


@pytest.mark.parametrize("guidance", [0.0, 0.5, 1.0])
def test_without_guidance_the_network_is_asked_once_a_step(
    denoiser: Denoiser, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, guidance: float
) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_model, safety_checker=None)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    asked = Asked(denoiser, monkeypatch)
    settings = replace(SETTINGS, eta=0.0, guidance=guidance, negative_prompt="a dog")
    (chain,) = sampling.sample(denoiser, ["a cat"], [3], settings)
    assert asked.latents == SETTINGS.steps
    expected = pipeline(
        "a cat",
        num_inference_steps=4,
        guidance_scale=guidance,
        latents=chain.latents[:1],
        output_type="latent",
        eta=0.0,
    ).images
    torch.testing.assert_close(chain.latents[-1:], expected, rtol=1e-3, atol=1e-4)
    asked.latents = 0
    sampling.sample(denoiser, ["a cat"], [3], replace(settings, guidance=1.01))
    assert asked.latents == 2 * SETTINGS.steps


def test_a_single_step_goes_all_the_way(denoiser: Denoiser) -> None:
    """From pure noise to what the network takes it for."""
    settings = replace(SETTINGS, steps=1, eta=0.0, guidance=1.0)
    (chain,) = sampling.sample(denoiser, ["a cat"], [3], settings)
    assert chain.timesteps.tolist() == [999]
    alpha_bar = denoiser.scheduler.alphas_cumprod[999]
    text = denoiser.text.embed(["a cat"])
    with torch.no_grad():
        noise = denoiser.predict(chain.latents[:1], torch.tensor([999]), text)
    clean = (chain.latents[:1] - (1 - alpha_bar).sqrt() * noise) / alpha_bar.sqrt()
    last = denoiser.scheduler.final_alpha_cumprod
    expected = last.sqrt() * clean + (1 - last).sqrt() * noise
    torch.testing.assert_close(chain.latents[1:], expected, rtol=1e-3, atol=1e-3)


def test_the_pictures_of_a_single_step_are_not_alike(denoiser: Denoiser) -> None:
    settings = replace(SETTINGS, steps=1, shared_noise=True)
    ((left, right),) = sampling.sample_pairs(denoiser, ["a cat"], [5], settings)
    assert not torch.equal(left.latents[0], right.latents[0])
    apart = replace(settings, shared_noise=False)
    ((left_apart, right_apart),) = sampling.sample_pairs(denoiser, ["a cat"], [5], apart)
    assert torch.equal(left.latents, left_apart.latents)
    assert torch.equal(right.latents, right_apart.latents)


@pytest.mark.parametrize("objective", ["diffusion_dpo", "d3po_balanced", "d3po"])
@pytest.mark.parametrize(("steps", "guidance"), [(1, 1.0), (1, 3.0), (4, 0.0)])
def test_a_round_learns_from_pictures_of_few_steps_without_guidance(
    denoiser: Denoiser, objective: str, steps: int, guidance: float
) -> None:
    drawn = replace(SETTINGS, steps=steps, guidance=guidance)
    pairs = sampling.sample_pairs(denoiser, ["a cat", "a dog"], [1, 2], drawn)
    settings = replace(
        OBJECTIVES[objective], updates_base=2, updates_per_pick=0.0, micro_batch_pairs=1, rank=2
    )
    try:
        metrics = list(Training(denoiser, PairBatch.of(pairs), settings))
        assert len(metrics) == 2
        assert all(math.isfinite(one.loss) and one.grad_norm > 0 for one in metrics)
    finally:
        denoiser.adapters.remove()
