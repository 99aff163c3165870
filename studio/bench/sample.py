"""Speed of drawing with all latents kept, against diffusers' own pipeline on the same model.

    python launch.py bench sample --batch 8 --json FILE
    python launch.py bench sample --shape sdxl --compile --json FILE       on a GPU

Both draw the same number of pictures with the same DDIM steps, eta, guidance and size, from prompt
to picture. `ratio` is the number of the studio's pictures per picture of diffusers. `--compile`
compiles the network of diffusers' pipeline, but not the studio's. `utilisation` is the computation
of the studio's networks as a share of the GPU's peak, if that is known.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from studio import models
from studio.bench import flops, shapes, timing
from studio.bench.families import drawing_scheduler
from studio.engine import sampling
from studio.families import XL_PIPELINE
from studio.settings import SamplingSettings


def diffusers_pipeline(
    denoiser: models.Denoiser,
) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
    """diffusers' pipeline over the same modules."""
    parts = {
        "vae": denoiser.vae,
        "text_encoder": denoiser.text_encoders[0],
        "tokenizer": denoiser.tokenizers[0],
        "unet": denoiser.network,
        "scheduler": drawing_scheduler(denoiser.scheduler),
    }
    if denoiser.info.facts.pipeline == XL_PIPELINE:
        pipeline = StableDiffusionXLPipeline(
            **parts,
            text_encoder_2=denoiser.text_encoders[1],
            tokenizer_2=denoiser.tokenizers[1],
            add_watermarker=False,
        )
    else:
        pipeline = StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def measure(
    denoiser: models.Denoiser,
    settings: SamplingSettings,
    batch: int,
    repeats: int,
    compiled: bool = False,
) -> dict[str, float | str | bool | None]:
    """Pictures per second of both, and the studio's use of the device."""
    prompts = [f"a red apple {number}" for number in range(batch)]
    seeds = list(range(batch))

    def ours() -> None:
        sampling.images(denoiser, sampling.sample(denoiser, prompts, seeds, settings))

    def baseline() -> None:
        pipeline(
            prompts,
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance,
            eta=settings.eta,
            width=settings.width_px,
            height=settings.height_px,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        )

    timing.forget_peak_memory(denoiser.device)
    ours()  # warm-up
    peak_mb = timing.peak_memory_mb(denoiser.device)
    computed = flops.counted(ours)
    pipeline = diffusers_pipeline(denoiser)
    if compiled:
        pipeline.unet = torch.compile(copy.deepcopy(denoiser.network))
    baseline()
    ours_s, baseline_s = timing.in_turn(ours, baseline, repeats, denoiser.device)
    ours_per_s = [batch / s for s in ours_s]
    baseline_per_s = [batch / s for s in baseline_s]
    flops_per_s = computed / statistics.median(ours_s)
    return {
        **timing.ratios(ours_per_s, baseline_per_s),
        "images_per_s": max(ours_per_s),
        "baseline_images_per_s": max(baseline_per_s),
        "baseline_compiled": compiled,
        "tflops_per_s": flops_per_s / 1e12,
        "utilisation": flops.utilisation(flops_per_s, denoiser.device),
        "peak_memory_mb": peak_mb,
        "batch": batch,
        "steps": settings.steps,
        "width_px": settings.width_px,
        "height_px": settings.height_px,
        "model": denoiser.info.name,
        "device": timing.device_name(denoiser.device),
    }


def report(figures: dict) -> str:
    f = figures
    return (
        f"{f['model']} at {f['width_px']} px, {f['steps']} steps, batches of {f['batch']}, "
        f"{f['device']}: {f['images_per_s']:.2f} pictures a second with every latent kept, "
        f"diffusers {'compiled ' if f['baseline_compiled'] else ''}"
        f"{f['baseline_images_per_s']:.2f}: "
        f"{f['ratio']:.2f} times as fast ({f['ratio_low']:.2f} to {f['ratio_high']:.2f})"
        f"{timing.use(f)}"
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="launch.py bench sample", description=__doc__)
    shapes.add_arguments(parser)
    parser.add_argument("--compile", action="store_true", help="compile diffusers' network")
    parser.add_argument("--batch", type=int, default=8, help="pictures per batch")
    parser.add_argument("--steps", type=int, default=SamplingSettings().steps)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args(argv)
    with shapes.loaded(arguments) as (denoiser, size_px):
        settings = replace(
            SamplingSettings(), steps=arguments.steps, width_px=size_px, height_px=size_px
        )
        batch, repeats = arguments.batch, arguments.repeats
        figures = measure(denoiser, settings, batch, repeats, arguments.compile)
    print(report(figures))
    timing.write(arguments.json, figures)
    return 0
