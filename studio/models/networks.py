"""Networks, and how each kind is called: latents, timesteps and encoded prompts in, output out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import Flux2Transformer2DModel, UNet2DConditionModel
from torch import Tensor, nn

from studio.families import Family
from studio.models.text import Text


class Network(ABC):
    """A network of one kind.

    module: as diffusers has it. blocks: in the order of its computation. channels: of its latents.
    """

    channels: int

    def __init__(self, module: Any) -> None:
        self.module = module

    @property
    @abstractmethod
    def blocks(self) -> Sequence[nn.Module]: ...

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Of its weights. (`module.dtype` walks all parameters, which takes a millisecond.)"""

    @abstractmethod
    def output(self, latents: Tensor, timesteps: Tensor, text: Text, scale_factor: int) -> Tensor:
        """(B, C, h, w) in float32 for latents of that shape, timesteps (B,) and B prompts.

        scale_factor: pixels per element of a latent, along each side.
        """


class UNet(Network):
    """The UNet of Stable Diffusion 1, 2 and XL."""

    module: UNet2DConditionModel

    @property
    def blocks(self) -> Sequence[nn.Module]:
        blocks = (*self.module.down_blocks, self.module.mid_block, *self.module.up_blocks)
        return [block for block in blocks if block is not None]  # some networks have no middle

    @property
    def channels(self) -> int:
        return self.module.config.in_channels

    @property
    def dtype(self) -> torch.dtype:
        return self.module.conv_in.weight.dtype

    def output(self, latents: Tensor, timesteps: Tensor, text: Text, scale_factor: int) -> Tensor:
        return self.module(
            latents.to(self.dtype),
            timesteps,
            text.states.to(self.dtype),
            added_cond_kwargs=added_cond_kwargs(latents, text, scale_factor, self.dtype),
        ).sample.float()


def added_cond_kwargs(
    latents: Tensor, text: Text, scale_factor: int, dtype: torch.dtype
) -> dict[str, Tensor] | None:
    """SDXL's additional conditioning: the pooled text, and six numbers about the size.

    These are the original height and width, the crop's top and left (0), and the target height
    and width; as in diffusers' pipeline, all sizes are those of the picture itself.
    """
    if text.pooled is None:
        return None
    height_px, width_px = (side * scale_factor for side in latents.shape[-2:])
    sizes = [height_px, width_px, 0, 0, height_px, width_px]
    return {
        "text_embeds": text.pooled.to(dtype),
        "time_ids": torch.tensor([sizes], dtype=dtype, device=latents.device).repeat(
            len(latents), 1
        ),
    }


class Flux2(Network):
    """The transformer of FLUX.2: every place of a latent is a token, and so is every one of text.

    A token has four coordinates: time, row, column, and its number in the text.
    """

    module: Flux2Transformer2DModel

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return [*self.module.transformer_blocks, *self.module.single_transformer_blocks]

    @property
    def channels(self) -> int:
        return self.module.config.in_channels

    @property
    def dtype(self) -> torch.dtype:
        return self.module.x_embedder.weight.dtype

    def output(self, latents: Tensor, timesteps: Tensor, text: Text, scale_factor: int) -> Tensor:
        height, width = latents.shape[-2:]
        tokens = self.module(
            hidden_states=latents.flatten(2).transpose(1, 2).to(self.dtype),
            encoder_hidden_states=text.states.to(self.dtype),
            timestep=timesteps / 1000,  # the module multiplies again
            img_ids=_coordinates(1, height, width, 1).to(latents.device),
            txt_ids=_coordinates(1, 1, 1, text.states.shape[1]).to(latents.device),
            guidance=None,
        ).sample
        return tokens.float().transpose(1, 2).unflatten(2, (height, width))


def _coordinates(*counts: int) -> Tensor:
    """(product of the counts, 4): all whole coordinates below the counts, the last moves first."""
    return torch.cartesian_prod(*(torch.arange(count) for count in counts))


def network_of(family: Family, module: nn.Module) -> Network:
    return UNet(module) if family.transformer is None else Flux2(module)
