"""The starter's latents: principal components of 32 x 32 pixel patches.

A good code is had in seconds this way, where learning one takes a CPU hours. The decoder, which
does the hard part, is then trained against fixed latents, and an update of the U-Net touches no
pixel.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from studio.starter.pictures import SIZE_PX, Pictures

PATCH_PX = 32
CHANNELS = 32
PLACES = SIZE_PX // PATCH_PX
FITTED_TO = 800  # pictures
CODES = "codes.safetensors"


def patches(images: torch.Tensor) -> torch.Tensor:
    """(B, 3, SIZE_PX, SIZE_PX) -> (B, PLACES * PLACES, 3 * PATCH_PX * PATCH_PX)."""
    return F.unfold(images, PATCH_PX, stride=PATCH_PX).transpose(1, 2)


def fit_codes(pictures: Pictures, seed: int = 0) -> dict[str, torch.Tensor]:
    """Mean, basis (patch, CHANNELS) and the scale of each component, from `count` pictures.

    A component is divided by the root of its spread: wholly whitened, edges would weigh as much as
    shapes; as they are, nothing but the mean colour of a patch would weigh.
    """
    count = min(FITTED_TO, pictures.count)
    chosen = np.random.default_rng(seed).choice(pictures.count, count, replace=False)
    size = 3 * PATCH_PX**2
    total, squares = torch.zeros(size, dtype=torch.float64), torch.zeros(size, size)
    for some in np.array_split(chosen, max(1, count // 50)):
        rows = patches(pictures.drawn(some)).flatten(0, 1)
        total += rows.sum(0)
        squares += rows.T @ rows
    places = count * PLACES**2
    mean = (total / places).float()
    covariance = squares / places - torch.outer(mean, mean)
    # of a symmetric matrix: more than are kept, whose last ones are the least exact
    vectors, values, _ = torch.svd_lowrank(covariance, q=2 * CHANNELS, niter=6)
    basis, spread = vectors[:, :CHANNELS], values[:CHANNELS].sqrt()
    scale = spread.sqrt()
    scale *= (spread / scale).square().mean().sqrt()  # the latents' own spread is 1
    return {"mean": mean, "basis": basis.contiguous(), "scale": scale}


def encode(codes: dict[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """(B, CHANNELS, PLACES, PLACES)."""
    found = (patches(images) - codes["mean"]) @ codes["basis"] / codes["scale"]
    return found.transpose(1, 2).unflatten(2, (PLACES, PLACES))


def linear_decode(codes: dict[str, torch.Tensor], latents: torch.Tensor) -> torch.Tensor:
    """The pictures that the components alone make, (B, 3, SIZE_PX, SIZE_PX)."""
    rows = latents.flatten(2).transpose(1, 2) * codes["scale"]
    images = rows @ codes["basis"].T + codes["mean"]
    return F.fold(images.transpose(1, 2), SIZE_PX, PATCH_PX, stride=PATCH_PX)


def stored_latents(pictures: Pictures, folder: Path) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    """The codes, and the latents of all pictures (count, CHANNELS, PLACES, PLACES) in float16."""
    path, values = folder / CODES, folder / "latents.npy"
    if not path.exists():
        save_file(fit_codes(pictures), path)
    codes = load_file(path)
    if not values.exists():
        found = np.empty((pictures.count, CHANNELS, PLACES, PLACES), np.float16)
        errors = []
        for some in np.array_split(np.arange(pictures.count), pictures.count // 64):
            images = pictures.drawn(some)
            latents = encode(codes, images)
            found[some] = latents.numpy()
            errors.append((linear_decode(codes, latents) - images).square().mean())
        np.save(values, found)
        print(f"codes: {10 * torch.log10(4 / torch.stack(errors).mean()):.1f} dB", flush=True)
    return codes, np.load(values)
