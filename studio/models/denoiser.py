"""The engine's interface to a base model: latents and encoded prompts in, predictions out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from studio.files import sha256
from studio.lora import fuse
from studio.lora.format import LoraFile
from studio.lora.fuse import Fused
from studio.maths.schedules import PredictionType, Schedule
from studio.models.adapters import Adapters
from studio.models.autoencoders import autoencoder_of
from studio.models.encoding import encoder_of
from studio.models.inspecting import ModelInfo
from studio.models.levels import levels_of
from studio.models.networks import network_of
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
    """A base model of any family: latents and encoded prompts in, predictions out.

    network: its module. text: encodes prompts. text_encoders: those that a LoRA can change.
    adapters: the LoRA on top of the base model. levels: its noise levels,
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
        self.network = parts.network.to(device).requires_grad_(False).eval()
        self.vae = parts.vae.to(device).requires_grad_(False).eval()
        is_half = self.vae.dtype == torch.float16
        if info.facts.vae_upcast and is_half and self.vae.config.force_upcast:
            self.vae = self.vae.float()  # it overflows in fp16, which gives black pictures
        self.scheduler = parts.scheduler
        self.prediction_type: PredictionType = info.prediction_type
        self.levels = levels_of(info.facts, self.scheduler, self.device)
        for encoder in parts.text_encoders:
            encoder.to(device).requires_grad_(False).eval()
        self.text: PromptEncoder = encoder_of(info, parts, self.device)
        self.tokenizers = parts.tokenizers
        self._call = network_of(info.facts, self.network)
        self._autoencoder = autoencoder_of(info.facts, self.vae)
        self.adapters = Adapters(self.network, info, base_hash)
        self._vae_companion = {}
        if info.vae is not None:
            self._vae_companion = {"VAE hash": sha256(info.vae)[:10], "VAE": info.vae.name}
        self._is_offloaded = False
        self._vae_tiling = False
        # Called between two blocks of the network and before each tile of a picture; it raises if
        # the work at hand is no longer wanted.
        self.require_wanted: Callable[[], None] = always
        for block in (*self._call.blocks, self.vae.decoder):
            block.register_forward_pre_hook(lambda *_: self.require_wanted())

    @property
    def base_hash(self) -> str:
        """Of the weights, including a fused LoRA."""
        return self.adapters.base_hash

    def companions(self, prompts: list[str]) -> dict[str, str]:
        """Companion files that these prompts are drawn with, by A1111's keys: the model's VAE, and
        the textual inversions that the prompts name."""
        return self._vae_companion | self.text.inversions(prompts)

    @property
    def text_encoders(self) -> list[nn.Module]:
        return self.text.lora_encoders

    def schedule(self, settings: SamplingSettings) -> Schedule:
        """The steps of a drawing, as diffusers' scheduler takes them, on this device."""
        _, height, width = self.latent_shape(settings)
        return self.levels.schedule(settings.steps, height * width)

    # --- network ---

    def predict(self, latents: Tensor, timesteps: Tensor, text: Text) -> Tensor:
        """The prediction (B, C, h, w) in float32 for timesteps (B,) and encoded prompts."""
        output = self._call.output(latents, timesteps, text, self.vae_scale_factor)
        return self.levels.prediction(output, latents, timesteps)

    def predict_guided(
        self, latents: Tensor, timesteps: Tensor, text: Text, empty: Text, guidance: float
    ) -> Tensor:
        """Classifier-free guidance (arXiv 2207.12598), both halves in one forward pass.

        Up to 1 there is none, and half the work: see `SamplingSettings.guidance`. Nor is there any
        for a distilled model.
        """
        if guidance <= 1 or self.info.is_distilled:
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
        """The network's type."""
        return self._call.dtype

    @property
    def vae_scale_factor(self) -> int:
        """Pixels per element of a latent, along each side."""
        return self._autoencoder.scale_factor

    def latent_shape(self, settings: SamplingSettings) -> tuple[int, int, int]:
        vae_scale_factor = self.vae_scale_factor
        if settings.width_px % vae_scale_factor or settings.height_px % vae_scale_factor:
            raise ModelError(
                f"The size must be a multiple of {vae_scale_factor} pixels for this model."
            )
        return (
            self._call.channels,
            settings.height_px // vae_scale_factor,
            settings.width_px // vae_scale_factor,
        )

    @torch.no_grad()
    def decode(self, latents: Tensor) -> list[Image.Image]:
        """Images of final latents (B, C, h, w)."""
        height_px, width_px = (side * self.vae_scale_factor for side in latents.shape[-2:])
        self.vae.use_tiling = self._vae_tiling or height_px * width_px > MOST_UNTILED_PX
        with at_work(self.vae, self.device, self._is_offloaded):
            pixels = self._autoencoder.decode(latents)
        pixels = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return [Image.fromarray(image) for image in pixels.permute(0, 2, 3, 1).cpu().numpy()]

    @torch.no_grad()
    def encode(self, pictures: list[Image.Image]) -> Tensor:
        """Latents (B, C, h, w) of pictures of one size, with sides that are multiples of
        `vae_scale_factor`."""
        pixels = [torch.from_numpy(np.array(picture.convert("RGB"))) for picture in pictures]
        scaled = torch.stack(pixels).permute(0, 3, 1, 2) / 127.5 - 1
        with at_work(self.vae, self.device, self._is_offloaded):
            return self._autoencoder.encode(scaled.to(self.device, self.vae.dtype))

    # --- memory ---

    @property
    def memory_of_a_place(self) -> float:
        """Of a latent through the network while it learns, in that of a UNet's."""
        return self.info.facts.memory

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
            self.network.enable_gradient_checkpointing()
        else:
            self.network.disable_gradient_checkpointing()

    # --- other LoRAs ---

    def fit(self, file: LoraFile) -> Fused:
        """How a LoRA file fits, without applying it. Raises ModelError."""
        return fuse.fitting(file, self.network, self.text_encoders)

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
            fuse.fused_for_now(files, self.network, self.text_encoders),
            self.text.without_cache(),
        ):
            for file, strength in files:
                self.adapters.base_hash = fuse.hash_with(self.base_hash, file.sha256, strength)
            try:
                yield
            finally:
                self.adapters.base_hash = base_hash
