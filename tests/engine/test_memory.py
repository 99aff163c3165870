"""Presets for the memory that is free, and how running out of it is known."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from studio import models
from studio.engine import memory, sampling
from studio.settings import SamplingSettings


@pytest.mark.parametrize(
    ("gb", "preset"),
    [(None, 24), (80.0, 24), (25.3, 24), (23.9, 16), (12.1, 12), (8.2, 8), (6.0, 6), (1.0, 6)],
)
def test_the_largest_preset_that_fits_is_taken(gb, preset):
    assert memory.preset_for(gb).gb == preset


def test_every_step_down_needs_less_and_there_is_a_last():
    for larger, smaller in zip(memory.PRESETS, memory.PRESETS[1:], strict=False):
        assert memory.smaller(larger) == smaller
        assert smaller.gb < larger.gb
        assert smaller.latents < larger.latents
        assert smaller.latents_kept < larger.latents_kept
        assert smaller.model_cpu_offload >= larger.model_cpu_offload
        assert smaller.vae_tiling >= larger.vae_tiling
    assert memory.smaller(memory.PRESETS[-1]) == memory.PRESETS[-1]


def test_an_allocation_that_is_too_large_is_known_for_what_it_is():
    with pytest.raises(RuntimeError) as failure:
        torch.empty(2**60)
    assert memory.has_run_out(failure.value)
    assert memory.has_run_out(MemoryError())
    assert memory.has_run_out(torch.OutOfMemoryError("CUDA out of memory."))
    assert not memory.has_run_out(RuntimeError("shapes do not match"))


def test_what_is_available_is_no_more_than_there_is():
    assert 0 < memory.free_gb(torch.device("cpu")) <= psutil.virtual_memory().total / 1e9


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another libc lets go by itself")
def test_what_was_used_is_given_back():
    resident = psutil.Process().memory_info
    blocks = [torch.zeros(16_000) for _ in range(2_000)]  # 64 kB each: glibc keeps such in its heap
    full = resident().rss
    last = blocks[-1]  # and everything below what is still in use
    del blocks
    memory.give_back(torch.device("cpu"))
    assert full - resident().rss > 100e6
    assert last.sum() == 0


def drawn_both_ways(tiny_model: Path, prompts: list[str]) -> tuple[list, list]:
    """Latents and pixels, without saving memory and with."""
    denoiser = models.load(str(tiny_model), "cpu")
    settings = SamplingSettings(steps=2, width_px=64, height_px=64)
    latents, pixels = [], []
    for model_cpu_offload in (False, True):
        denoiser.save_memory(model_cpu_offload, vae_tiling=model_cpu_offload)
        chains = sampling.sample(denoiser, prompts, list(range(len(prompts))), settings)
        latents.append(torch.stack([chain.latents for chain in chains]))
        pixels.append([np.array(picture, int) for picture in sampling.images(denoiser, chains)])
    return latents, pixels


def test_saving_memory_changes_no_picture(tiny_model: Path):
    latents, pixels = drawn_both_ways(tiny_model, ["a cat"])
    assert torch.equal(*latents)
    np.testing.assert_array_equal(*pixels)


def test_pictures_decoded_one_by_one_are_those_decoded_together(tiny_model: Path):
    latents, pixels = drawn_both_ways(tiny_model, ["a cat", "a dog"])
    assert torch.equal(*latents)
    # some processors round sums in a batch of two in another order: one of 256 levels
    np.testing.assert_allclose(*pixels, rtol=0, atol=1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_parts_that_are_away_come_to_the_device_for_their_work_alone(tiny_model: Path):
    denoiser = models.load(str(tiny_model), "cuda")
    denoiser.save_memory(model_cpu_offload=True, vae_tiling=False)
    chains = sampling.sample(
        denoiser, ["a cat"], [1], SamplingSettings(steps=2, width_px=64, height_px=64)
    )
    sampling.images(denoiser, chains)
    assert {p.device.type for p in denoiser.vae.parameters()} == {"cpu"}
    assert {p.device.type for p in denoiser.text_encoders[0].parameters()} == {"cpu"}


def test_attention_keeps_nothing_for_every_pair_of_places(tiny_model: Path):
    """At 2048 px that would be 17 GB a head of Stable Diffusion 1; drawing and learning both."""
    network = models.load(str(tiny_model), "cpu").network
    side = 48
    latents = torch.randn(1, network.config.in_channels, side, side, requires_grad=True)
    states = torch.randn(1, 4, network.config.cross_attention_dim)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as measured:
        network(latents, torch.tensor([5]), states).sample.sum().backward()
    largest = max(event.cpu_memory_usage for event in measured.events())
    assert largest < side**4  # a quarter of one float for each pair
