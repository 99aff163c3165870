"""Latents and pixels: what a VAE gives, and the form in which a network takes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch.nn.functional as F
from diffusers import AutoencoderKL, AutoencoderKLFlux2
from torch import Tensor

from studio.families import Family


class Autoencoder(ABC):
    """A VAE with the latents of a family. Latents (B, C, h, w), pixels (B, 3, H, W) from -1 to 1.

    vae: as diffusers has it. scale_factor: pixels per element of a latent, along each side.
    """

    def __init__(self, vae: Any) -> None:
        self.vae = vae

    @property
    def scale_factor(self) -> int:
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Pixels of final latents."""

    @abstractmethod
    def encode(self, pixels: Tensor) -> Tensor:
        """The mean latents of pixels, in float32."""


class ScaledLatents(Autoencoder):
    """Multiplied by one number, as in Stable Diffusion."""

    vae: AutoencoderKL

    def decode(self, latents: Tensor) -> Tensor:
        scaled = latents.to(self.vae.dtype) / self.vae.config.scaling_factor
        return self.vae.decode(scaled).sample.float()

    def encode(self, pixels: Tensor) -> Tensor:
        return self._mean(pixels) * self.vae.config.scaling_factor

    def _mean(self, pixels: Tensor) -> Tensor:
        return self.vae.encode(pixels).latent_dist.mode().float()


class PackedLatents(ScaledLatents):
    """FLUX.2: 2 x 2 elements are one of four times as many channels, and every channel is
    normalised by the mean and the variance that the VAE has of it."""

    vae: AutoencoderKLFlux2

    @property
    def scale_factor(self) -> int:
        return 2 * super().scale_factor

    def decode(self, latents: Tensor) -> Tensor:
        mean, std = self._statistics(latents)
        packed = latents * std + mean
        return self.vae.decode(F.pixel_shuffle(packed, 2).to(self.vae.dtype)).sample.float()

    def encode(self, pixels: Tensor) -> Tensor:
        packed = F.pixel_unshuffle(self._mean(pixels), 2)
        mean, std = self._statistics(packed)
        return (packed - mean) / std

    def _statistics(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """(1, C, 1, 1) each."""
        norm = self.vae.bn
        mean, variance = norm.running_mean, norm.running_var
        std = (variance + self.vae.config.batch_norm_eps).sqrt()
        return tuple(value.view(1, -1, 1, 1).to(latents) for value in (mean, std))


def autoencoder_of(family: Family, vae: Any) -> Autoencoder:
    return ScaledLatents(vae) if family.transformer is None else PackedLatents(vae)
