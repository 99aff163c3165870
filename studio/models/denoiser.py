"""The engine's interface to a base model: latents and encoded prompts in, predictions out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from studio.files import sha256
from studio.lora import fuse
from studio.lora.format import LoraFile
from studio.lora.fuse import Fused
from studio.maths.schedules import PredictionType, Schedule
from studio.models.adapters import Adapters
from studio.models.inspecting import ModelInfo
from studio.models.inversions import Inversions
from studio.models.levels import levels_of
from studio.models.parts import Parts, at_work
from studio.models.text import PromptEncoder, Text
from studio.settings import SamplingSettings
from studio.weights import ModelError

# Larger pictures are decoded in tiles on every device: the VAE alone would take more memory than
# all else, and minutes that nothing could interrupt.
MOST_UNTILED_PX = 1536 * 1536


def always() -> None:
    """The `require_wanted` of work that cannot be cancelled."""


class Denoiser:
    """A Stable Diffusion model: latents and encoded prompts in, predictions out.

    text: encodes prompts. adapters: the LoRA on top of the base model. levels: its noise levels,
    and what is predicted at them: noise, or the velocity of a flow.
    """

    def __init__(
        self,
        parts: Parts,
        info: ModelInfo,
        base_hash: str,
        device: str,
        start: Fused | None = None,
    ) -> None:
        self.info = info
        self.start = start  # the LoRA that is fused into the weights
        self.device = torch.device(device)
        self.unet = parts.unet.to(device).requires_grad_(False).eval()
        self.vae = parts.vae.to(device).requires_grad_(False).eval()
        is_half = self.vae.dtype == torch.float16
        if info.facts.vae_upcast and is_half and self.vae.config.force_upcast:
            self.vae = self.vae.float()  # it overflows in fp16, which gives black pictures
        self.text_encoders = [
            encoder.to(device).requires_grad_(False).eval() for encoder in parts.text_encoders
        ]
        self.tokenizers = parts.tokenizers
        self.scheduler = parts.scheduler
        self.prediction_type: PredictionType = info.prediction_type
        self.levels = levels_of(self.scheduler, self.device)
        inversions = Inversions(info.path, self.tokenizers, self.text_encoders)
        self.text = PromptEncoder(parts, inversions, self.device, info.facts.reads_clip_skip)
        self.adapters = Adapters(self.unet, info, base_hash)
        self._vae_companion = {}
        if info.vae is not None:
            self._vae_companion = {"VAE hash": sha256(info.vae)[:10], "VAE": info.vae.name}
        self._is_offloaded = False
        self._vae_tiling = False
        # Called between two blocks of the network and before each tile of a picture; it raises if
        # the work at hand is no longer wanted.
        self.require_wanted: Callable[[], None] = always
        blocks = (*self.unet.down_blocks, self.unet.mid_block, *self.unet.up_blocks)
        for block in (*blocks, self.vae.decoder):
            if block is not None:  # some networks have no middle
                block.register_forward_pre_hook(lambda *_: self.require_wanted())

    @property
    def base_hash(self) -> str:
        """Of the weights, including a fused LoRA."""
        return self.adapters.base_hash

    def companions(self, prompts: list[str]) -> dict[str, str]:
        """Companion files that these prompts are drawn with, by A1111's keys: the model's VAE, and
        the textual inversions that the prompts name."""
        return self._vae_companion | self.text.inversions(prompts)

    def schedule(self, steps: int) -> Schedule:
        """The steps of a drawing, as diffusers' scheduler takes them, on this device."""
        return self.levels.schedule(steps)

    # --- network ---

    def predict(self, latents: Tensor, timesteps: Tensor, text: Text) -> Tensor:
        """The prediction (B, C, h, w) in float32 for timesteps (B,) and encoded prompts."""
        dtype = self.dtype
        output = self.unet(
            latents.to(dtype),
            timesteps,
            text.states.to(dtype),
            added_cond_kwargs=self.added_cond_kwargs(latents, text),
        ).sample.float()
        return self.levels.prediction(output, latents, timesteps)

    def added_cond_kwargs(self, latents: Tensor, text: Text) -> dict[str, Tensor] | None:
        """SDXL's additional conditioning: the pooled text, and six numbers about the size.

        These are the original height and width, the crop's top and left (0), and the target height
        and width; as in diffusers' pipeline, all sizes are those of the picture itself.
        """
        if text.pooled is None:
            return None
        height_px, width_px = (side * self.vae_scale_factor for side in latents.shape[-2:])
        sizes = [height_px, width_px, 0, 0, height_px, width_px]
        dtype = self.dtype
        return {
            "text_embeds": text.pooled.to(dtype),
            "time_ids": torch.tensor([sizes], dtype=dtype, device=self.device).repeat(
                len(latents), 1
            ),
        }

    def predict_guided(
        self, latents: Tensor, timesteps: Tensor, text: Text, empty: Text, guidance: float
    ) -> Tensor:
        """Classifier-free guidance (arXiv 2207.12598), both halves in one forward pass.

        Up to 1 there is none, and half the work: see `SamplingSettings.guidance`.
        """
        if guidance <= 1:
            return self.predict(latents, timesteps, text)
        both = self.predict(
            torch.cat([latents, latents]),
            torch.cat([timesteps, timesteps]),
            Text.cat([empty, text]),
        )
        unconditional, prompted = both.chunk(2)
        return unconditional + guidance * (prompted - unconditional)

    @property
    def dtype(self) -> torch.dtype:
        """The network's type. (`unet.dtype` walks all parameters, which takes a millisecond.)"""
        return self.unet.conv_in.weight.dtype

    @property
    def vae_scale_factor(self) -> int:
        """Pixels per element of a latent, along each side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def latent_shape(self, settings: SamplingSettings) -> tuple[int, int, int]:
        vae_scale_factor = self.vae_scale_factor
        if settings.width_px % vae_scale_factor or settings.height_px % vae_scale_factor:
            raise ModelError(
                f"The size must be a multiple of {vae_scale_factor} pixels for this model."
            )
        channels = self.unet.config.in_channels
        return (
            channels,
            settings.height_px // vae_scale_factor,
            settings.width_px // vae_scale_factor,
        )

    @torch.no_grad()
    def decode(self, latents: Tensor) -> list[Image.Image]:
        """Images of final latents (B, C, h, w)."""
        height_px, width_px = (side * self.vae_scale_factor for side in latents.shape[-2:])
        self.vae.use_tiling = self._vae_tiling or height_px * width_px > MOST_UNTILED_PX
        scaled = latents.to(self.vae.dtype) / self.vae.config.scaling_factor
        with at_work(self.vae, self.device, self._is_offloaded):
            pixels = self.vae.decode(scaled).sample.float()
        pixels = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return [Image.fromarray(image) for image in pixels.permute(0, 2, 3, 1).cpu().numpy()]

    @torch.no_grad()
    def encode(self, pictures: list[Image.Image]) -> Tensor:
        """Latents (B, C, h, w) of pictures of one size, with sides that are multiples of
        `vae_scale_factor`."""
        pixels = [torch.from_numpy(np.array(picture.convert("RGB"))) for picture in pictures]
        scaled = torch.stack(pixels).permute(0, 3, 1, 2) / 127.5 - 1
        with at_work(self.vae, self.device, self._is_offloaded):
            scaled = scaled.to(self.device, self.vae.dtype)
            latents = self.vae.encode(scaled).latent_dist.mode().float()
        return latents * self.vae.config.scaling_factor

    # --- memory ---

    def save_memory(self, model_cpu_offload: bool, vae_tiling: bool) -> None:
        """model_cpu_offload: text encoders and VAE are on the device only while they work.
        vae_tiling: large pictures are decoded in tiles."""
        self._is_offloaded = model_cpu_offload
        self.text.offload(model_cpu_offload)
        self.vae.to("cpu" if model_cpu_offload else self.device)
        self.vae.use_slicing = model_cpu_offload  # decodes one picture at a time
        self._vae_tiling = vae_tiling

    def set_gradient_checkpointing(self, on: bool) -> None:
        if on:
            self.unet.enable_gradient_checkpointing()
        else:
            self.unet.disable_gradient_checkpointing()

    # --- other LoRAs ---

    def fit(self, file: LoraFile) -> Fused:
        """How a LoRA file fits, without applying it. Raises ModelError."""
        return fuse.fitting(file, self.unet, self.text_encoders)

    @contextmanager
    def with_lora(self, file: LoraFile, strength: float = 1.0) -> Iterator[None]:
        """As `with_mix`, with one LoRA file and no adapter."""
        with self.with_mix([(file, strength)]):
            yield

    @contextmanager
    def with_mix(
        self,
        files: Sequence[tuple[LoraFile, float]],
        folders: Sequence[tuple[Path, float]] = (),
    ) -> Iterator[None]:
        """Inside, this is the base model with LoRA files fused into its weights, text encoders
        included, and with saved adapters instead of that in training. Every weight changes by the
        sum of strength × change. Afterwards the weights are restored to the bit.

        Raises ModelError unless all files and adapters are for this model.
        """
        adapters = [(self.adapters.read(folder), strength) for folder, strength in folders]
        base_hash = self.base_hash
        with (
            self.adapters.using_read(adapters),
            fuse.fused_for_now(files, self.unet, self.text_encoders),
            self.text.without_cache(),
        ):
            for file, strength in files:
                self.adapters.base_hash = fuse.hash_with(self.base_hash, file.sha256, strength)
            try:
                yield
            finally:
                self.adapters.base_hash = base_hash
