"""The benchmarks of speed: that both sides do the same work, never how long it takes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from studio import models
from studio.bench import flops, profile, published, sample, timing, train
from studio.engine import sampling
from studio.engine.training import Training
from studio.settings import OBJECTIVES, SamplingSettings

SAMPLING = SamplingSettings(steps=4, width_px=64, height_px=64, guidance=3.0)


@pytest.fixture
def denoiser(tiny_model: Path) -> models.Denoiser:
    return models.load(str(tiny_model), "cpu")


def test_the_published_way_learns_what_our_own_does(denoiser):
    """Pair by pair with a second network, or in batches with the reference kept: one result."""
    pairs = train.draw_pairs(denoiser, 1, 2, SAMPLING)
    rate = 1e-2  # so that three updates leave the flat part
    settings = replace(OBJECTIVES["d3po"], learning_rate=rate, updates_base=3, updates_per_pick=0)
    ours = [metrics.loss for metrics in Training(denoiser, pairs, settings)]
    learned = denoiser.adapters.state()

    reference = published.deep_copied_reference(denoiser)
    denoiser.adapters.new(settings)
    optimizer = torch.optim.AdamW(denoiser.adapters.parameters(), lr=rate)
    losses = [
        float(published.learn_pair(denoiser, reference, pairs, 0, optimizer).mean())
        for _ in range(3)
    ]
    assert ours == pytest.approx(losses, abs=1e-6)
    assert ours[-1] < ours[0]
    for name, value in denoiser.adapters.state().items():
        torch.testing.assert_close(value, learned[name], atol=1e-4, rtol=1e-3)


def test_diffusers_draws_the_same_steps(denoiser, monkeypatch):
    """With eta 0 nothing is left to chance: the two ways end in the same latents."""
    settings = replace(SAMPLING, eta=0.0)
    [chain] = sampling.sample(denoiser, ["a cat"], [3], settings)
    [final] = sample.diffusers_pipeline(denoiser)(
        ["a cat"],
        num_inference_steps=settings.steps,
        guidance_scale=settings.guidance,
        eta=0.0,
        width=64,
        height=64,
        latents=chain.latents[:1].float(),
        output_type="latent",
    ).images
    torch.testing.assert_close(final, chain.latents[-1].float(), atol=1e-4, rtol=1e-4)


def test_pair_steps_are_counted_by_pairs_steps_and_updates(denoiser):
    """By hand: 3 updates of 2 pairs at all 4 steps; 5 of 2 pairs at 2 timesteps; and with four
    images of each of two prompts, 5 updates of 2 x 6 pairs at one timestep."""
    pairs = train.draw_pairs(denoiser, 2, 2, SAMPLING)
    few = {"updates_per_pick": 0, "batch_pairs": 2, "micro_batch_pairs": 2}
    d3po = replace(OBJECTIVES["d3po"], updates_base=3, **few)
    assert train.pair_steps(Training(denoiser, pairs, d3po)) == 3 * 2 * 4
    dpo = replace(OBJECTIVES["diffusion_dpo"], updates_base=5, steps_per_pair=2, **few)
    assert train.pair_steps(Training(denoiser, pairs, dpo)) == 5 * 2 * 2
    ranked = train.draw_pairs(denoiser, 2, 4, SAMPLING)
    assert train.pair_steps(Training(denoiser, ranked, dpo)) == 5 * 12 * 1


def test_the_ratio_is_the_median_of_what_ran_side_by_side():
    figures = timing.ratios([2.0, 9.0, 4.0], [1.0, 3.0, 4.0])
    assert figures == {"ratio": 2.0, "ratio_low": 1.0, "ratio_high": 3.0}


def test_operations_are_counted_by_hand():
    """A linear layer of n x k by k x m is 2nkm operations; its input's and its weight's gradient
    are as many each, and a frozen weight has none."""
    layer = torch.nn.Linear(3, 5, bias=False)
    given = torch.randn(7, 3, requires_grad=True)
    assert flops.counted(lambda: layer(given)) == 2 * 7 * 3 * 5
    assert flops.counted(lambda: layer(given).sum().backward()) == 3 * (2 * 7 * 3 * 5)
    layer.requires_grad_(False)
    assert flops.counted(lambda: layer(given).sum().backward()) == 2 * (2 * 7 * 3 * 5)
    assert flops.utilisation(1e12, torch.device("cpu")) is None


@pytest.mark.parametrize(
    ("work", "kind"),
    [
        (lambda x: torch.nn.functional.conv2d(x, torch.ones(8, 8, 3, 3)), "convolutions"),
        (lambda x: x.flatten(1) @ x.flatten(1).T, "matrix products"),
        (
            lambda x: torch.nn.functional.linear(x, torch.ones(64, 64), torch.ones(64)),
            "matrix products",
        ),
        (lambda x: torch.nn.functional.scaled_dot_product_attention(x, x, x), "attention"),
        (lambda x: torch.nn.functional.group_norm(x, 4), "normalisation"),
        (lambda x: torch.cat([x, x]), "copies"),
        (lambda x: x.sin(), profile.ALL_ELSE),
    ],
)
def test_operations_are_told_apart_by_their_kinds(work, kind):
    given = torch.randn(16, 8, 64, 64)
    shares = profile.profiled(lambda: work(given), torch.device("cpu"))
    assert shares.pop("busy") is None
    assert sum(shares.values()) == pytest.approx(1)
    assert {name for name, share in shares.items() if share} - {"copies", profile.ALL_ELSE} == (
        {kind} - {"copies", profile.ALL_ELSE}
    )
    assert shares[kind] > 0


def test_what_bounds_drawing_and_learning(tiny_model, tmp_path, capsys):
    path = tmp_path / "figures.json"
    few = ["--batch", "2", "--steps", "2", "--pairs", "2", "--updates", "2", "--preset", "6"]
    assert profile.main(["--model", str(tiny_model), *few, "--json", str(path)]) == 0
    assert "learning: " in capsys.readouterr().out
    figures = json.loads(path.read_text(encoding="utf-8"))
    assert figures["preset_gb"] == 6
    for work in ("drawing", "learning"):
        assert figures[work]["convolutions"] > 0
        assert figures[work]["matrix products"] > 0


@pytest.mark.nightly  # a whole run of a benchmark
@pytest.mark.parametrize("shape", ["sd1", "sdxl"])
def test_a_shape_instead_of_a_model(shape, tmp_path, capsys):
    path = tmp_path / "figures.json"
    few = ["--px", "64", "--narrow", "--shape", shape, "--repeats", "1", "--json", str(path)]
    once = ["--objective", "d3po", "--prompts", "1"]  # one update
    assert train.main([*few, *once, "--preset", "6", "--dtype", "float32"]) == 0
    figures = json.loads(path.read_text(encoding="utf-8"))
    assert (figures["model"], figures["preset_gb"]) == (shape, 6)
    assert figures["tflops_per_s"] > 0
    assert figures["baseline_round_s"] > 0
    assert sample.main([*few, "--batch", "1", "--steps", "2"]) == 0
    assert f"{shape} at 64 px" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("benchmark", "options", "sentence"),
    [
        (train, ["--prompts", "2"], "pair-steps a second, D3PO as published"),
        pytest.param(
            train,
            ["--prompts", "1", "--images-per-prompt", "4"],
            "6 pairs of 4 images",
            marks=pytest.mark.nightly,
        ),
        (sample, ["--batch", "2", "--steps", "2"], "pictures a second with every latent kept"),
    ],
)
def test_a_whole_run(tiny_model, tmp_path, capsys, benchmark, options, sentence):
    path = tmp_path / "figures.json"
    common = ["--model", str(tiny_model), "--repeats", "1", "--json", str(path)]
    assert benchmark.main([*common, *options]) == 0
    assert sentence in capsys.readouterr().out
    figures = json.loads(path.read_text(encoding="utf-8"))
    assert figures["ratio"] > 0
    assert figures["device"].startswith("cpu")
