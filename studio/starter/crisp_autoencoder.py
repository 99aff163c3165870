"""The crisp starter's autoencoder: the encoder learns the linear codes, the decoder learns crisp
pictures from codes that are a little wrong.

A U-Net's latents are never quite those of a drawing. The decoder therefore sees latents with noise
of many sizes, and later the U-Net's own samples beside the drawing that each comes closest to.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch.nn.attention import SDPBackend, sdpa_kernel

from studio.starter.crisp_data import SIZE_PX, Pictures
from studio.starter.train import generator, read_checkpoint, save_checkpoint

CHANNELS = 32
WIDTHS = (8, 16, 32, 64, 96, 112)
BATCH = 16
PEAK = 2e-3
LARGEST_NOISE = 0.6  # standard deviation; the latents' own is 1
SAMPLED_SHARE = 0.5  # of the decoder's latents, those that the U-Net has sampled
ENCODER_EVERY = 4  # updates: it costs as much as the decoder, and has less to learn
LOG_VARIANCE = -12.0  # the code is certain


def new_autoencoder() -> AutoencoderKL:
    levels = len(WIDTHS)
    vae = AutoencoderKL(
        block_out_channels=WIDTHS,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=8,
        sample_size=SIZE_PX,
        scaling_factor=1.0,  # the codes have a spread of 1
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    return vae


def trained_autoencoder(folder: Path) -> AutoencoderKL:
    """Raises SystemExit with a sentence where it was not trained."""
    vae = new_autoencoder().eval().requires_grad_(False)
    vae.load_state_dict(read_checkpoint(folder / "autoencoder.pt")["vae"])
    last = vae.encoder.conv_out
    last.weight[CHANNELS:] = 0
    last.bias[CHANNELS:] = LOG_VARIANCE
    return vae


def edges(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Differences of neighbours, down and across."""
    return images.diff(dim=2), images.diff(dim=3)


def picture_error(drawn: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Of values and of edges, (B, 3, h, w) each, at full and at a quarter of the size."""
    error = (drawn - images).abs().mean() + (drawn - images).square().mean()
    for scale in (1, 4):
        pairs = zip(
            edges(F.avg_pool2d(drawn, scale)), edges(F.avg_pool2d(images, scale)), strict=True
        )
        error = error + sum((a - b).abs().mean() for a, b in pairs)
    return error


def learning_rate(update: int, updates: int, warmup: int = 200) -> float:
    cooling = max(1, updates // 3)
    return PEAK * min(1.0, (update + 1) / warmup, max(0.01, (updates - update) / cooling))


def train_autoencoder(
    pictures: Pictures,
    latents: np.ndarray,
    folder: Path,
    updates: int,
    seed: int,
    bfloat16: bool,
    deadline_s: float = math.inf,
) -> None:
    """latents: the codes of all pictures. With `samples.npz` in the folder also from those."""
    torch.manual_seed(seed)
    vae = new_autoencoder()
    optimiser = torch.optim.AdamW(vae.parameters(), weight_decay=0.01, betas=(0.9, 0.99))
    checkpoint, first = folder / "autoencoder.pt", 0
    if checkpoint.exists():
        state = read_checkpoint(checkpoint)
        vae.load_state_dict(state["vae"])
        optimiser.load_state_dict(state["optimiser"])
        first = state["update"]
    sampled = folder / "samples.npz"
    samples = dict(np.load(sampled)) if sampled.exists() else None
    sums, started_s = torch.zeros(2), time.monotonic()
    for update in range(first, updates):
        draw = generator(seed + 2, update)
        numbers = torch.randint(pictures.count, (BATCH,), generator=draw).numpy()
        codes = torch.from_numpy(latents[numbers]).float()
        level = LARGEST_NOISE * torch.rand(BATCH, 1, 1, 1, generator=draw)
        noisy = codes + level * torch.randn(codes.shape, generator=draw)
        if samples is not None:
            count = round(SAMPLED_SHARE * BATCH)
            rows = torch.randint(len(samples["numbers"]), (count,), generator=draw).numpy()
            numbers[:count] = samples["numbers"][rows]
            codes[:count] = torch.from_numpy(latents[numbers[:count]]).float()
            noisy[:count] = torch.from_numpy(samples["latents"][rows]).float()
        images = pictures.drawn(numbers)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(update, updates)
        with (
            sdpa_kernel(SDPBackend.MATH),
            torch.autocast("cpu", torch.bfloat16, enabled=bfloat16),
        ):
            drawn = vae.decode(noisy).sample
            loss = picture_error(drawn.float(), images)
            if update % ENCODER_EVERY == 0:
                found = vae.encode(images).latent_dist.mode()
                encoder_loss = F.mse_loss(found.float(), codes)
                sums[1] += encoder_loss.detach()
                loss = loss + encoder_loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        sums[0] += (drawn.detach().float() - images).square().mean()
        done = update + 1
        stops = done == updates or time.monotonic() > deadline_s
        if stops or done % 100 == 0:
            psnr_db = 10 * torch.log10(4 / (sums[0] / 100))
            speed = (done - first) * BATCH / (time.monotonic() - started_s)
            print(
                f"{done}/{updates}  {psnr_db:.2f} dB from noisy codes, encoder "
                f"{sums[1] * ENCODER_EVERY / 100:.4f}, {speed:.1f} pictures/s",
                flush=True,
            )
            sums.zero_()
        if stops or done % 250 == 0:
            parts = {"vae": vae.state_dict(), "optimiser": optimiser.state_dict()}
            save_checkpoint(checkpoint, parts | {"update": done})
        if stops:
            return
