"""Drawing with every step kept, against diffusers' own pipeline on the same model.

    python launch.py bench sample --batch 8 --json FILE

Both draw the same number of pictures with the same DDIM steps, eta, guidance and size, from prompt
to picture. `ratio` is how many pictures we draw while diffusers draws one.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from studio import models, sampling
from studio.bench import timing
from studio.settings import SamplingSettings


def diffusers_pipeline(denoiser: models.Denoiser) -> StableDiffusionPipeline:
    """diffusers' pipeline over the very same modules."""
    pipeline = StableDiffusionPipeline(
        vae=denoiser.vae,
        text_encoder=denoiser.text_encoders[0],
        tokenizer=denoiser.tokenizers[0],
        unet=denoiser.unet,
        scheduler=denoiser.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def measure(
    denoiser: models.Denoiser, settings: SamplingSettings, batch: int, repeats: int
) -> dict[str, float | str]:
    """Pictures per second of both."""
    prompts = [f"a red apple {number}" for number in range(batch)]
    seeds = list(range(batch))
    pipeline = diffusers_pipeline(denoiser)

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

    ours()  # what is only slow the first time is not the subject
    baseline()
    ours_s, baseline_s = timing.in_turn(ours, baseline, repeats, denoiser.device)
    ours_per_s = [batch / s for s in ours_s]
    baseline_per_s = [batch / s for s in baseline_s]
    return {
        **timing.ratios(ours_per_s, baseline_per_s),
        "images_per_s": max(ours_per_s),
        "baseline_images_per_s": max(baseline_per_s),
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
        f"{f['device']}: {f['images_per_s']:.2f} pictures a second with every step kept, diffusers "
        f"{f['baseline_images_per_s']:.2f}: {f['ratio']:.2f} times as fast "
        f"({f['ratio_low']:.2f} to {f['ratio_high']:.2f})"
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="launch.py bench sample", description=__doc__)
    parser.add_argument("--model", default="starter", help="a folder or checkpoint")
    parser.add_argument("--batch", type=int, default=8, help="pictures at once")
    parser.add_argument("--steps", type=int, default=SamplingSettings().steps)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args(argv)
    size_px = models.inspect(arguments.model).size_px
    settings = replace(
        SamplingSettings(), steps=arguments.steps, width_px=size_px, height_px=size_px
    )
    denoiser = models.load(arguments.model)
    figures = measure(denoiser, settings, arguments.batch, arguments.repeats)
    print(report(figures))
    timing.write(arguments.json, figures)
    return 0
