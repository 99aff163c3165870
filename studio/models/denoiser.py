"""A base model as the engine is handed it: the denoiser, its conditioning, its adapters (peft)."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.loaders import StableDiffusionLoraLoaderMixin, StableDiffusionXLLoraLoaderMixin
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from studio.maths.schedules import PredictionType, Schedule, noise_of
from studio.models import files, loras
from studio.models.errors import ModelError
from studio.models.inspecting import ModelInfo
from studio.models.inversions import Inversions
from studio.models.loras import Fused, LoraFile
from studio.models.parts import Parts
from studio.prompting.emphasis import weighted
from studio.settings import SamplingSettings, TrainingSettings

log = logging.getLogger("studio.models")

ATTENTION_LAYERS = ["to_q", "to_k", "to_v", "to_out.0"]
SHORTCUT = "conv_shortcut"
LAYERS = {  # by the name that `TrainingSettings.layers` has for them
    "attention": ATTENTION_LAYERS,
    "attention_and_shortcuts": [*ATTENTION_LAYERS, SHORTCUT],
}
ADAPTER_NAME = "artist"
GUEST_NAME = "guest"
ADAPTER_FILE = "adapter_model.safetensors"
ADAPTER_CONFIG_FILE = "adapter_config.json"
LORA_ENDINGS = (".lora_down.weight", ".lora_up.weight", ".lora_A.weight", ".lora_B.weight")
INVERSIONS = "TI hashes"  # what A1111 calls what it says of them in its pictures
LEAST_ALPHA_BAR = 2**-24


ReadAdapter = tuple[LoraConfig, dict[str, Tensor]]


@dataclass(frozen=True)
class Text:
    """What the prompts tell the network.

    states: (B, tokens, width); with two text encoders their states side by side.
    pooled: (B, width) of the whole prompt, for SDXL; else None.
    """

    states: Tensor
    pooled: Tensor | None = None

    @classmethod
    def cat(cls, texts: list[Text]) -> Text:
        """Several texts of one model as one batch."""
        pooled = [text.pooled for text in texts]
        return cls(
            torch.cat([text.states for text in texts]),
            None if pooled[0] is None else torch.cat(pooled),
        )


@dataclass(frozen=True)
class _Read:
    """last_hidden_state: (B, tokens, width) of the layer that is read; pooled: for SDXL."""

    last_hidden_state: Tensor
    pooled: Tensor | None


class _Reader:
    """A text encoder of which the layer is read that the network is to see.

    Called as the encoder itself is, by compel too.
    """

    def __init__(self, encoder: torch.nn.Module, is_xl: bool, clip_skip: int) -> None:
        layers = encoder.config.num_hidden_layers
        if clip_skip > layers:
            raise ModelError(
                f"The text encoder of this model has {layers} layers: clip skip can be {layers} at "
                "most."
            )
        self._encoder, self._is_xl, self._clip_skip = encoder, is_xl, clip_skip
        self.dtype = encoder.dtype

    @property
    def device(self) -> torch.device:
        return self._encoder.device

    def __call__(self, ids: Tensor, mask: Tensor | None = None, **_: object) -> _Read:
        output = self._encoder(ids, mask, output_hidden_states=True)
        if self._is_xl:  # SDXL reads the states before the last layer, as they are
            return _Read(output.hidden_states[-2], output[0])
        if self._clip_skip == 1:
            return _Read(output.last_hidden_state, None)
        states = output.hidden_states[-self._clip_skip]
        return _Read(self._encoder.final_layer_norm(states), None)


class Denoiser:
    """A Stable Diffusion model as the engine sees it: latents and prompts in, predicted noise out.

    At most one adapter is attached. The reference of preference training is the same network with
    the adapter switched off (`adapter_off`), so that there is no second copy in memory.
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
        self.base_hash = base_hash
        self.start = start  # a LoRA that is in the weights already
        self.device = torch.device(device)
        self.unet = parts.unet.to(device).requires_grad_(False).eval()
        self.vae = parts.vae.to(device).requires_grad_(False).eval()
        if self.is_xl and self.vae.dtype == torch.float16 and self.vae.config.force_upcast:
            self.vae = self.vae.float()  # in fp16 its values overflow, and the pictures are black
        self.text_encoders = [
            encoder.to(device).requires_grad_(False).eval() for encoder in parts.text_encoders
        ]
        self.tokenizers = parts.tokenizers
        self.scheduler = parts.scheduler
        self.prediction_type: PredictionType = self.scheduler.config.prediction_type
        # A last timestep without any signal would be divided by: it gets the least there is.
        self._alphas = self.scheduler.alphas_cumprod.clamp(min=LEAST_ALPHA_BAR).to(device)
        self._zero_unprompted = self.is_xl and parts.zero_unprompted
        self._inversions = Inversions(info.path, self.tokenizers, self.text_encoders)
        self._vae_beside = {}
        if info.vae is not None:
            self._vae_beside = {"VAE hash": files.sha256(info.vae)[:10], "VAE": info.vae.name}
        self._embeddings: dict[tuple[str, int], Text] = {}  # by marked prompt and clip skip
        self._parts_away = False

    @property
    def is_xl(self) -> bool:
        return self.info.family == "sdxl"

    # --- text and schedule ---

    def embed(self, prompts: list[str], clip_skip: int = 1) -> Text:
        """What each prompt tells the network; each is encoded once and kept.

        clip_skip: which of the text encoder's layers is read, counted from the last, which is 1,
        of both prompts as in A1111 (diffusers' own pipelines leave the negative one alone).
        SDXL is always read before its last layers, as it was trained and as A1111 draws it.
        Raises ModelError when the encoder has not as many layers, or when a prompt names a textual
        inversion whose file cannot be used.
        """
        clip_skip = 1 if self.is_xl else clip_skip
        marked = [text for text, _ in self._inversions.mark(prompts)]
        for text in dict.fromkeys(marked):
            if (text, clip_skip) not in self._embeddings:
                self._embeddings[text, clip_skip] = self._encode(text, clip_skip)
        return Text.cat([self._embeddings[text, clip_skip] for text in marked])

    def embed_negative(self, prompt: str, count: int, clip_skip: int = 1) -> Text:
        """The unprompted half of guidance, `count` times: what is not wanted, or nothing."""
        if prompt or not self._zero_unprompted:
            return self.embed([prompt] * count, clip_skip)
        text = self.embed([""] * count, clip_skip)
        return Text(torch.zeros_like(text.states), torch.zeros_like(text.pooled))

    def unread(self, prompt: str) -> str:
        """The end of a prompt that the text encoders have no room for; "" if they read all."""
        [(marked, _)] = self._inversions.mark([prompt])
        prompt = "".join(text for text, _ in weighted(marked))
        ends = []
        for tokenizer in self.tokenizers:
            spans = tokenizer(prompt, truncation=True, return_offsets_mapping=True).offset_mapping
            ends.append(max(end for _, end in spans))
        return self._inversions.unmark(prompt[min(ends) :]).strip()

    def beside(self, prompts: list[str]) -> dict[str, str]:
        """What else than the model draws these prompts, in A1111's words for it: the VAE that lies
        beside it, and the textual inversions that the prompts name."""
        used = {one for _, found in self._inversions.mark(prompts) for one in found}
        said = ", ".join(sorted(f"{one.name}: {one.short_hash}" for one in used))
        return self._vae_beside | ({INVERSIONS: said} if said else {})

    @torch.no_grad()
    def _encode(self, prompt: str, clip_skip: int) -> Text:
        parts = weighted(prompt)
        plain = "".join(text for text, _ in parts)
        states, pooled = [], None
        for tokenizer, encoder in zip(self.tokenizers, self.text_encoders, strict=True):
            reader = _Reader(encoder, self.is_xl, clip_skip)
            ids = tokenizer(
                plain, padding="max_length", truncation=True, return_tensors="pt"
            ).input_ids.to(self.device)
            with self._at_work(encoder):
                output = reader(ids)
                if any(weight != 1 for _, weight in parts):
                    states.append(self._weighted_states(tokenizer, reader, parts))
                else:
                    states.append(output.last_hidden_state)
            pooled = output.pooled  # of the second encoder, which comes last
        return Text(torch.cat(states, dim=-1), pooled)

    def _weighted_states(
        self, tokenizer: Any, reader: _Reader, parts: list[tuple[str, float]]
    ) -> Tensor:
        """(1, tokens, width), blended by the compel library: away from the states of the empty
        prompt for what weighs more, towards those without the part for what weighs less."""
        # it reads in half of diffusers, which most sessions never need
        from compel.embeddings_provider import EmbeddingsProvider, ReturnedEmbeddingsType

        provider = EmbeddingsProvider(
            tokenizer,
            reader,
            dtype_for_device_getter=lambda _: reader.dtype,
            returned_embeddings_type=ReturnedEmbeddingsType.LAST_HIDDEN_STATES_NORMALIZED,
        )
        texts, weights = ([part[place] for part in parts] for place in range(2))
        return provider.get_embeddings_for_weighted_prompt_fragments(
            [texts], [weights], device=str(self.device)
        )

    def schedule(self, steps: int) -> Schedule:
        """The DDIM steps that diffusers' scheduler takes, on this device."""
        self.scheduler.set_timesteps(steps)
        timesteps = self.scheduler.timesteps.to(self.device)
        previous = timesteps - self.scheduler.config.num_train_timesteps // steps
        final = self.scheduler.final_alpha_cumprod.to(self.device)
        alpha_bar_prev = torch.where(previous >= 0, self._alphas[previous.clamp(min=0)], final)
        return Schedule(timesteps, self._alphas[timesteps], alpha_bar_prev)

    def alpha_bar(self, timesteps: Tensor) -> Tensor:
        return self._alphas[timesteps]

    # --- network ---

    def predict_noise(self, latents: Tensor, timesteps: Tensor, text: Text) -> Tensor:
        """Predicted noise (B, C, h, w) in float32 for timesteps (B,) and texts of `embed`."""
        dtype = self.dtype
        output = self.unet(
            latents.to(dtype),
            timesteps,
            text.states.to(dtype),
            added_cond_kwargs=self.added_cond_kwargs(latents, text),
        ).sample.float()
        return noise_of(output, latents, self._alphas[timesteps], self.prediction_type)

    def added_cond_kwargs(self, latents: Tensor, text: Text) -> dict[str, Tensor] | None:
        """SDXL's further conditioning: the pooled text, and the size of the picture.

        Six numbers: the original's height and width, where it was cropped (nowhere), and the
        picture's height and width, all those of the picture itself as in diffusers' pipeline.
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

    def predict_guided_noise(
        self, latents: Tensor, timesteps: Tensor, text: Text, empty: Text, guidance: float
    ) -> Tensor:
        """Classifier-free guidance (arXiv 2207.12598), both halves in one forward pass."""
        both = self.predict_noise(
            torch.cat([latents, latents]),
            torch.cat([timesteps, timesteps]),
            Text.cat([empty, text]),
        )
        unconditional, prompted = both.chunk(2)
        return unconditional + guidance * (prompted - unconditional)

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in. `unet.dtype` walks all parameters, a millisecond a step."""
        return self.unet.conv_in.weight.dtype

    @property
    def vae_scale_factor(self) -> int:
        """Pixels a side that one element of a latent stands for."""
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
        scaled = latents.to(self.vae.dtype) / self.vae.config.scaling_factor
        with self._at_work(self.vae):
            pixels = self.vae.decode(scaled).sample.float()
        pixels = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return [Image.fromarray(image) for image in pixels.permute(0, 2, 3, 1).cpu().numpy()]

    @torch.no_grad()
    def encode(self, pictures: list[Image.Image]) -> Tensor:
        """Latents (B, C, h, w) of pictures of one size, whose sides are multiples of `shrink`."""
        pixels = [torch.from_numpy(np.array(picture.convert("RGB"))) for picture in pictures]
        scaled = torch.stack(pixels).permute(0, 3, 1, 2) / 127.5 - 1
        with self._at_work(self.vae):
            given = scaled.to(self.device, self.vae.dtype)
            latents = self.vae.encode(given).latent_dist.mode().float()
        return latents * self.vae.config.scaling_factor

    # --- memory ---

    def save_memory(self, model_cpu_offload: bool, vae_tiling: bool) -> None:
        """With `parts_away` the text encoders and the VAE stay in the memory of the CPU and are on
        the device only while they work. A tiled VAE decodes large pictures piece by piece."""
        self._parts_away = model_cpu_offload
        for part in (self.vae, *self.text_encoders):
            part.to("cpu" if model_cpu_offload else self.device)
        self.vae.use_slicing = model_cpu_offload  # one picture of a batch after the other
        self.vae.use_tiling = vae_tiling

    @contextmanager
    def _at_work(self, part: torch.nn.Module) -> Iterator[None]:
        """Inside, a text encoder or the VAE is on the device."""
        part.to(self.device)
        try:
            yield
        finally:
            if self._parts_away:
                part.to("cpu")

    def set_gradient_checkpointing(self, on: bool) -> None:
        if on:
            self.unet.enable_gradient_checkpointing()
        else:
            self.unet.disable_gradient_checkpointing()

    # --- adapter ---

    @property
    def has_adapter(self) -> bool:
        return ADAPTER_NAME in getattr(self.unet, "peft_config", {})

    def remove_adapter(self) -> None:
        if self.has_adapter:
            self.unet.delete_adapters(ADAPTER_NAME)

    def new_adapter(self, settings: TrainingSettings) -> None:
        """An untrained LoRA on the layers of the settings: it changes nothing yet. Seeded."""
        config = LoraConfig(
            r=settings.rank, lora_alpha=settings.alpha, target_modules=LAYERS[settings.layers]
        )
        self._attach(config, settings.seed)

    @contextmanager
    def using(self, folder: Path | None, strength: float = 1.0) -> Iterator[None]:
        """Inside, a saved adapter is applied, or none; an attached one waits, untouched.

        So that pictures can be drawn with one adapter while another is being trained.
        """
        if folder is None:
            with self.adapter_off():
                yield
            return
        with self.using_read(self.read_adapter(folder), strength, folder):
            yield

    @contextmanager
    def using_read(
        self, adapter: ReadAdapter, strength: float = 1.0, folder: Path = Path()
    ) -> Iterator[None]:
        """As `using`, with what `read_adapter` gave, here or in another process."""
        config, state = adapter
        with self._guest():
            try:
                self.unet.add_adapter(config, GUEST_NAME)
                set_peft_model_state_dict(self.unet, state, adapter_name=GUEST_NAME)
                self.unet.set_adapters([GUEST_NAME], weights=[strength])
            except Exception as error:  # of any kind, as everywhere in the libraries
                raise ModelError(_damaged(folder)) from error
            yield

    @contextmanager
    def using_file(self, path: Path, strength: float = 1.0) -> Iterator[None]:
        """Inside, a LoRA file is applied as diffusers' own loader reads it; as `using` otherwise.

        Raises ModelError for a file that is no LoRA for this model, or of which a layer found no
        place in it.
        """
        header = files.read_header(path)
        halves = [name for name in header.tensors if name.endswith(LORA_ENDINGS)]
        if not halves:
            raise ModelError(f"{path.name} is not a LoRA.")
        loader = StableDiffusionXLLoraLoaderMixin if self.is_xl else StableDiffusionLoraLoaderMixin
        with self._guest():
            try:
                state, alphas, metadata = loader.lora_state_dict(
                    path.parent,
                    weight_name=path.name,
                    unet_config=self.unet.config,
                    local_files_only=True,
                    use_safetensors=True,
                    return_lora_metadata=True,
                )
                loader.load_lora_into_unet(
                    state, alphas, self.unet, adapter_name=GUEST_NAME, metadata=metadata
                )
            except Exception as error:  # of any kind, as everywhere in the libraries
                log.warning("%s could not be applied", path, exc_info=error)
                raise ModelError(
                    f"{path.name} does not fit {self.info.name}: it was made for another kind of "
                    "model."
                ) from error
            taken = sum(f".{GUEST_NAME}." in name for name, _ in self.unet.named_parameters())
            if taken != len(halves):
                raise ModelError(
                    f"{path.name} does not fit {self.info.name}: {taken // 2} of its "
                    f"{len(halves) // 2} layers found their place."
                )
            self.unet.set_adapters([GUEST_NAME], weights=[strength])
            yield

    def fit(self, file: LoraFile) -> Fused:
        """How a LoRA file would fit, as `with_lora` puts it in. Raises ModelError."""
        return loras.fitting(file, self.unet, self.text_encoders)

    @contextmanager
    def with_lora(self, file: LoraFile, strength: float = 1.0) -> Iterator[None]:
        """Inside, this is the base model with a LoRA file in its weights, text encoders included,
        and no adapter; afterwards it is what it was, to the last bit.

        Raises ModelError for a file that is no LoRA for this model.
        """
        base_hash, embeddings = self.base_hash, self._embeddings
        with (
            self.adapter_off(),
            loras.fused_for_now(file, strength, self.unet, self.text_encoders),
        ):
            self.base_hash, self._embeddings = loras.hash_with(base_hash, file.sha256, strength), {}
            try:
                yield
            finally:
                self.base_hash, self._embeddings = base_hash, embeddings

    @contextmanager
    def _guest(self) -> Iterator[None]:
        """Whatever is attached as the guest inside is gone afterwards, and what was there is
        applied again."""
        was_attached = self.has_adapter
        try:
            yield
        finally:
            if GUEST_NAME in getattr(self.unet, "peft_config", {}):
                self.unet.delete_adapters(GUEST_NAME)
            elif not hasattr(self.unet, "peft_config"):  # one that failed to come in leaves this
                self.unet._hf_peft_config_loaded = False
            if was_attached:
                self.unet.set_adapter(ADAPTER_NAME)

    @property
    def layer_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of the weight of every layer of the base model that a LoRA could change."""
        return {
            name.removesuffix(".base_layer"): tuple(module.weight.shape)
            for name, module in self.unet.named_modules()
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d) and ".lora_" not in name
        }

    def _attach(self, config: LoraConfig, seed: int) -> None:
        self.remove_adapter()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.unet.add_adapter(config, ADAPTER_NAME)
        for parameter in self.adapter_parameters():
            parameter.data = parameter.data.float()

    def adapter_parameters(self) -> list[torch.nn.Parameter]:
        return [p for name, p in self.unet.named_parameters() if f".{ADAPTER_NAME}." in name]

    def shortcut_parameters(self) -> list[torch.nn.Parameter]:
        """Those of `adapter_parameters` that change a shortcut."""
        return [
            p
            for name, p in self.unet.named_parameters()
            if f".{ADAPTER_NAME}." in name and f".{SHORTCUT}." in name
        ]

    @torch.no_grad()
    def scale_adapter(self, factor: float) -> None:
        """Make the adapter change every weight `factor` times as much."""
        for name, value in self.unet.named_parameters():
            if ".lora_B." in name:
                value.mul_(factor)

    def adapter_state(self) -> dict[str, Tensor]:
        """The adapter's tensors under peft's names, on the CPU in float32."""
        state = get_peft_model_state_dict(self.unet, adapter_name=ADAPTER_NAME)
        return {name: value.detach().float().cpu().clone() for name, value in state.items()}

    def set_adapter_state(self, state: dict[str, Tensor]) -> None:
        set_peft_model_state_dict(self.unet, state, adapter_name=ADAPTER_NAME)

    @contextmanager
    def adapter_off(self) -> Iterator[None]:
        """Inside, the network is the base model."""
        if not self.has_adapter:
            yield
            return
        self.unet.disable_adapters()
        try:
            yield
        finally:
            self.unet.enable_adapters()

    def save_adapter(self, folder: Path) -> None:
        """Writes the adapter in peft's form into an existing folder."""
        config = self.unet.peft_config[ADAPTER_NAME]
        description = {
            "peft_type": "LORA",
            "r": config.r,
            "lora_alpha": config.lora_alpha,
            "target_modules": sorted(config.target_modules),
            "base_hash": self.base_hash,
        }
        save_file(self.adapter_state(), folder / ADAPTER_FILE)
        (folder / ADAPTER_CONFIG_FILE).write_text(json.dumps(description, indent=2), "utf-8")

    def read_adapter(self, folder: Path) -> ReadAdapter:
        """A saved adapter for this model. Raises ModelError for what is none.

        Nothing of what the files say is asked of peft before it fits: they may have come with an
        archive of anybody's, and a rank of a billion takes all the memory there is."""
        try:
            description = json.loads((folder / ADAPTER_CONFIG_FILE).read_text("utf-8"))
            state = load_file(folder / ADAPTER_FILE)
            rank = int(description["r"])
            config = LoraConfig(
                r=rank,
                lora_alpha=float(description["lora_alpha"]),
                target_modules=[str(name) for name in description["target_modules"]],
            )
        except Exception as error:  # JSON of any kind, and what the libraries make of it
            raise ModelError(_damaged(folder)) from error
        layers = self.layer_shapes
        if not state or not all(_fits(name, state[name], rank, layers) for name in state):
            raise ModelError(_damaged(folder))
        if description.get("base_hash") != self.base_hash:
            raise ModelError("This adapter was trained on another base model.")
        if not all(bool(torch.isfinite(value).all()) for value in state.values()):
            raise ModelError(f"The adapter in {folder} holds values that are not numbers.")
        return config, state


def _fits(name: str, value: Tensor, rank: int, layers: dict[str, tuple[int, ...]]) -> bool:
    """Whether a tensor of an adapter's is one half of a layer of the network, at that rank."""
    layer, _, half = name.rpartition(".lora_")
    shape = layers.get(layer)
    if shape is None:
        return False
    width, *rest = shape
    sides = {"A.weight": (rank, *rest), "B.weight": (width, rank, *(1 for _ in rest[1:]))}
    return tuple(value.shape) == sides.get(half)


def _damaged(folder: Path) -> str:
    return f"The adapter in {folder} is missing or damaged."
