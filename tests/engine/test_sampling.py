"""Rollouts on a real, small Stable Diffusion folder."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from studio import models
from studio.engine import sampling, trajectory
from studio.engine.trajectory import MixedSettingsError, PairBatch, Trajectory
from studio.models import Denoiser
from studio.settings import SamplingSettings
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
