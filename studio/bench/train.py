"""Speed of training on pairs, against D3PO as published, on the same pairs and device.

    python launch.py bench train --objective diffusion_dpo --json FILE
    python launch.py bench train --images-per-prompt 7 --prompts 2
    python launch.py bench train --shape sdxl --preset 12 --json FILE       on a GPU

A pair-step is one pair at one step of its chains, or at one timestep for Diffusion-DPO. The studio
runs a complete round, including the work before its first update; the baseline is `published.py`.
`ratio` is the number of the studio's pair-steps per pair-step of the baseline. More than two images
of a prompt count as ranked: any two form a pair. The studio sends every picture through the network
once for all its pairs, the baseline once per pair.

`peak_memory_mb` is that of the studio's round alone, measured before the baseline exists.
`tflops_per_s` counts the network's computation in the round, including recomputation by gradient
checkpointing; `utilisation` is its share of the GPU's peak, if that is known.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from dataclasses import replace
from pathlib import Path

import torch

from studio import models
from studio.bench import flops, published, shapes, timing
from studio.engine import memory, sampling
from studio.engine.training import Training
from studio.engine.trajectory import PairBatch
from studio.settings import OBJECTIVES, SamplingSettings, TrainingSettings


def draw_pairs(
    denoiser: models.Denoiser, prompts: int, images: int, settings: SamplingSettings
) -> PairBatch:
    """All pairs of `images` images per prompt; the preferences are irrelevant for the speed."""
    pairs = []
    for number in range(prompts):
        seeds = range(number * images, (number + 1) * images)
        names = [f"a red apple {number}"] * images
        chains = sampling.sample(denoiser, names, [number] * images, settings, list(seeds))
        pairs += itertools.combinations(chains, 2)
    return PairBatch.of(pairs)


def pair_steps(training: Training) -> int:
    """The number of pair-steps in a round over groups of equal size."""
    groups = training.pairs.groups()
    per_update = min(training.settings.batch_pairs, len(groups))
    return training.updates * per_update * len(groups[0]) * training.estimator.draws_per_group


def measure(
    denoiser: models.Denoiser,
    pairs: PairBatch,
    settings: TrainingSettings,
    repeats: int,
    preset: memory.Preset,
) -> dict[str, float | str | None]:
    """Pair-steps per second of both, and the studio's use of the device."""

    def ours() -> None:
        for _ in Training(denoiser, pairs, settings, preset=preset):
            pass

    timing.forget_peak_memory(denoiser.device)
    ours()
    peak_mb = timing.peak_memory_mb(denoiser.device)
    computed = flops.counted(ours)  # separately, because counting needs memory
    done = pair_steps(Training(denoiser, pairs, settings, preset=preset))

    reference = published.deep_copied_reference(denoiser)
    steps = len(denoiser.schedule(pairs.settings).stochastic_steps(pairs.settings.eta))

    def baseline() -> None:
        denoiser.adapters.new(published.PUBLISHED)
        optimizer = torch.optim.AdamW(
            denoiser.adapters.parameters(), lr=published.PUBLISHED.learning_rate
        )
        published.learn_pair(denoiser, reference, pairs, 0, optimizer)

    baseline()  # warm-up
    ours_s, baseline_s = timing.in_turn(ours, baseline, repeats, denoiser.device)
    ours_per_s = [done / s for s in ours_s]
    baseline_per_s = [steps / s for s in baseline_s]
    flops_per_s = computed / statistics.median(ours_s)
    return {
        **timing.ratios(ours_per_s, baseline_per_s),
        "pair_steps_per_s": max(ours_per_s),
        "baseline_pair_steps_per_s": max(baseline_per_s),
        "round_s": statistics.median(ours_s),
        "baseline_round_s": statistics.median(baseline_s) * len(pairs),
        "tflops_per_s": flops_per_s / 1e12,
        "utilisation": flops.utilisation(flops_per_s, denoiser.device),
        "peak_memory_mb": peak_mb,
        "preset_gb": preset.gb,
        "objective": settings.objective,
        "pairs": len(pairs),
        "images": len(pairs.latents),
        "width_px": pairs.settings.width_px,
        "height_px": pairs.settings.height_px,
        "model": denoiser.info.name,
        "device": timing.device_name(denoiser.device),
    }


def report(figures: dict) -> str:
    f = figures
    return (
        f"{f['objective']} on {f['model']} at {f['width_px']} px, "
        f"{f['pairs']} pairs of {f['images']} images, {f['device']}: "
        f"{f['pair_steps_per_s']:.1f} pair-steps a second, D3PO as published "
        f"{f['baseline_pair_steps_per_s']:.1f}: {f['ratio']:.1f} times as fast "
        f"({f['ratio_low']:.1f} to {f['ratio_high']:.1f}). A round takes {f['round_s']:.0f} s, as "
        f"published {f['baseline_round_s']:.0f} s; settings for {f['preset_gb']} GB"
        f"{timing.use(f)}."
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="launch.py bench train", description=__doc__)
    shapes.add_arguments(parser)
    parser.add_argument(
        "--objective", choices=tuple(OBJECTIVES), default=TrainingSettings().objective
    )
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--images-per-prompt", type=int, default=2)
    parser.add_argument(
        "--preset",
        type=int,
        choices=[preset.gb for preset in memory.PRESETS],
        help="memory preset in GB; default: by the free memory",
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args(argv)
    if arguments.prompts < 1 or arguments.images_per_prompt < 2:
        parser.error("at least one prompt and two images of it are needed")
    with shapes.loaded(arguments) as (denoiser, size_px):
        settings = replace(SamplingSettings(), width_px=size_px, height_px=size_px)
        pairs = draw_pairs(denoiser, arguments.prompts, arguments.images_per_prompt, settings)
        preset = memory.preset_for(arguments.preset or memory.free_gb(denoiser.device))
        objective = OBJECTIVES[arguments.objective]
        figures = measure(denoiser, pairs, objective, arguments.repeats, preset)
    print(report(figures))
    timing.write(arguments.json, figures)
    return 0
