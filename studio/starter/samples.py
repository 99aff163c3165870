"""What the U-Net makes of prompts, beside the drawings that it comes closest to."""

from __future__ import annotations

import math
import random

import numpy as np
import torch

from studio.starter.captions import words
from studio.starter.codes import stored_latents
from studio.starter.loop import Run
from studio.starter.networks import new_autoencoder
from studio.starter.pictures import GROUNDS, SIZE_PX, Pictures
from studio.starter.styles import STYLES
from studio.starter.trained import trained_pipeline

SAMPLES = 4096
GUIDANCES = (1.5, 2.0, 3.0)  # of samples, one for each batch
NEAR_SHARE = 0.65  # of the samples are kept: what lies far from every drawing lies between two


def prompts_and_answers(
    pictures: Pictures, count: int, chance: random.Random
) -> list[tuple[str, np.ndarray]]:
    """Prompts, each with the numbers of all pictures that it describes. Every other names style
    and ground."""
    by_parts = np.arange(pictures.count).reshape(pictures.sizes)
    found = []
    for number in range(count):
        c, s, g = (chance.randrange(size) for size in pictures.sizes[:3])
        if number % 2:
            prompt = words(pictures.concepts[c], STYLES[s], GROUNDS[g], chance.randrange(2))
            found.append((prompt, by_parts[c, s, g].ravel()))
        else:
            found.append((pictures.concepts[c], by_parts[c].ravel()))
    return found


@torch.no_grad()
def sample_latents(pictures: Pictures, run: Run, count: int, batch: int = 64) -> None:
    """Writes samples.npz: latents (kept, CHANNELS, PLACES, PLACES) that the U-Net draws, and the
    number of the picture that each comes closest to, of those that its prompt describes. The
    NEAR_SHARE of `count` that come closest are kept."""
    _, stored = stored_latents(pictures, run.folder)
    pipeline = trained_pipeline(pictures, run.folder, new_autoencoder()).to(run.device)
    pipeline.set_progress_bar_config(disable=True)
    chance = random.Random(run.seed)
    latents, numbers = [], []
    while len(numbers) < count:
        asked = prompts_and_answers(pictures, min(batch, count - len(numbers)), chance)
        with run.bfloat16():
            drawn = pipeline(
                [prompt for prompt, _ in asked],
                num_inference_steps=20,
                guidance_scale=chance.choice(GUIDANCES),
                generator=torch.Generator().manual_seed(chance.randrange(2**31)),
                output_type="latent",
                height=SIZE_PX,
                width=SIZE_PX,
            ).images
        for latent, (_, options) in zip(drawn.float().cpu().numpy(), asked, strict=True):
            distances = np.square(stored[options].astype(np.float32) - latent).sum((1, 2, 3))
            numbers.append(options[distances.argmin()])
            latents.append(latent.astype(np.float16))
        print(f"samples {len(numbers)}/{count}", flush=True)
    errors = np.stack(latents).astype(np.float32) - stored[numbers].astype(np.float32)
    spreads = errors.std((1, 2, 3))
    print(f"standard deviation from the nearest drawings: {errors.std():.3f}")
    near = np.sort(spreads.argsort()[: math.ceil(NEAR_SHARE * count)])
    np.savez(
        run.folder / "samples.npz", latents=np.stack(latents)[near], numbers=np.array(numbers)[near]
    )
