"""Base models: find, inspect, load; the denoiser that the engine is handed; its adapters (peft)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from studio.ddim import PredictionType, Schedule, noise_of
from studio.settings import STARTER_PATH, SamplingSettings, TrainingSettings

ATTENTION_LAYERS = ["to_q", "to_k", "to_v", "to_out.0"]
ADAPTER_NAME = "artist"
GUEST_NAME = "guest"
ADAPTER_FILE = "adapter_model.safetensors"
ADAPTER_CONFIG_FILE = "adapter_config.json"


class ModelError(Exception):
    """A model or adapter that cannot be used; the message is a sentence for the artist."""


@dataclass(frozen=True)
class ModelInfo:
    """What a file or folder turned out to be, without loading its weights."""

    path: Path
    name: str
    family: str
    size_px: int  # of the images it was made for


def base_path(base_model: str) -> Path:
    return STARTER_PATH if base_model == "starter" else Path(base_model).expanduser()


def inspect(base_model: str) -> ModelInfo:
    """Looks at a diffusers folder or a checkpoint. Raises ModelError with what to do about it."""
    path = base_path(base_model)
    if not path.exists():
        raise ModelError(f"There is no model at {path}. Check the path, or choose the starter.")
    if path.is_dir():
        return _inspect_folder(path)
    if path.suffix != ".safetensors":
        raise ModelError(
            f"{path.name} is not a .safetensors file. Other checkpoints can hide programs and are "
            "not opened; convert it to .safetensors first."
        )
    return _inspect_checkpoint(path)


def _inspect_folder(path: Path) -> ModelInfo:
    try:
        index = json.loads((path / "model_index.json").read_text(encoding="utf-8"))
        unet = json.loads((path / "unet" / "config.json").read_text(encoding="utf-8"))
        vae = json.loads((path / "vae" / "config.json").read_text(encoding="utf-8"))
        shrink = 2 ** (len(vae["block_out_channels"]) - 1)
        size_px = int(unet["sample_size"]) * shrink
        pipeline = index["_class_name"]
    except FileNotFoundError as error:
        missing = Path(error.filename).relative_to(path)
        raise ModelError(
            f"{path} is not a whole diffusers model: {missing} is missing. "
            "Choose the folder that holds model_index.json."
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"The description of the model in {path} is damaged.") from error
    if pipeline != "StableDiffusionPipeline":
        raise ModelError(
            f"{path.name} is a {pipeline}; only Stable Diffusion 1.x and 2.x models work so far."
        )
    family = "Starter" if path == STARTER_PATH else "Stable Diffusion"
    return ModelInfo(path, path.name, family, size_px)


def _inspect_checkpoint(path: Path) -> ModelInfo:
    try:
        with safe_open(path, "pt") as file:
            keys = set(file.keys())
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path.name} is not a readable .safetensors file.") from error
    if any(key.startswith("conditioner.embedders.1") for key in keys):
        raise ModelError(f"{path.name} is an SDXL model; SDXL does not work yet.")
    if any(".lora_" in key for key in keys):
        raise ModelError(f"{path.name} is a LoRA, not a base model.")
    if "model.diffusion_model.input_blocks.0.0.weight" not in keys:
        raise ModelError(f"{path.name} does not hold a Stable Diffusion model.")
    is_v2 = "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight" in keys
    if is_v2:
        return ModelInfo(path, path.stem, "Stable Diffusion 2", 768)
    return ModelInfo(path, path.stem, "Stable Diffusion 1", 512)


def weights_hash(path: Path) -> str:
    """SHA-256 over the weight files of a model, in the order of their names."""
    files = sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        with open(file, "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def frozen_dtype(device: str) -> torch.dtype:
    """The type of the frozen base weights: half the memory where the device is made for it."""
    if device == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.float32


def load(base_model: str, device: str | None = None) -> Denoiser:
    """The base model, ready to sample and to be tuned. Raises ModelError with a sentence."""
    info = inspect(base_model)
    device = device or best_device()
    options = {"dtype": frozen_dtype(device), "safety_checker": None}
    try:
        if info.path.is_dir():
            pipeline = StableDiffusionPipeline.from_pretrained(
                info.path, local_files_only=True, use_safetensors=True, **options
            )
        else:
            pipeline = StableDiffusionPipeline.from_single_file(info.path, **options)
    except torch.OutOfMemoryError as error:
        raise ModelError(f"{info.name} does not fit into the memory of this device.") from error
    except Exception as error:
        reason = (str(error) or repr(error)).splitlines()[0]
        raise ModelError(f"{info.name} could not be loaded: {reason}") from error
    return Denoiser(pipeline, info, weights_hash(info.path), device)


class Denoiser:
    """A Stable Diffusion model as the engine sees it: latents and prompts in, predicted noise out.

    At most one adapter is attached. The reference of preference training is the same network with
    the adapter switched off (`adapter_off`), so that there is no second copy in memory.
    """

    def __init__(
        self, pipeline: StableDiffusionPipeline, info: ModelInfo, base_hash: str, device: str
    ) -> None:
        self.info = info
        self.base_hash = base_hash
        self.device = torch.device(device)
        self.unet = pipeline.unet.to(device).requires_grad_(False).eval()
        self.vae = pipeline.vae.to(device).requires_grad_(False).eval()
        self.text_encoder = pipeline.text_encoder.to(device).requires_grad_(False).eval()
        self.tokenizer = pipeline.tokenizer
        self.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
        self.prediction_type: PredictionType = self.scheduler.config.prediction_type
        self._alphas = self.scheduler.alphas_cumprod.to(device)
        self._embeddings: dict[str, Tensor] = {}

    # --- text and schedule ---

    @torch.no_grad()
    def embed(self, prompts: list[str]) -> Tensor:
        """Text states (B, tokens, width); each prompt is encoded once and kept."""
        for prompt in dict.fromkeys(prompts):
            if prompt not in self._embeddings:
                ids = self.tokenizer(
                    prompt, padding="max_length", truncation=True, return_tensors="pt"
                ).input_ids
                self._embeddings[prompt] = self.text_encoder(ids.to(self.device))[0][0]
        return torch.stack([self._embeddings[prompt] for prompt in prompts])

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

    def predict_noise(self, latents: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        """Predicted noise (B, C, h, w) in float32 for timesteps (B,) and text states of `embed`."""
        dtype = self.unet.dtype
        output = self.unet(latents.to(dtype), timesteps, text.to(dtype)).sample.float()
        return noise_of(output, latents, self._alphas[timesteps], self.prediction_type)

    def predict_guided_noise(
        self, latents: Tensor, timesteps: Tensor, text: Tensor, empty: Tensor, guidance: float
    ) -> Tensor:
        """Classifier-free guidance (arXiv 2207.12598), both halves in one forward pass."""
        both = self.predict_noise(
            torch.cat([latents, latents]),
            torch.cat([timesteps, timesteps]),
            torch.cat([empty, text]),
        )
        unprompted, prompted = both.chunk(2)
        return unprompted + guidance * (prompted - unprompted)

    def latent_shape(self, settings: SamplingSettings) -> tuple[int, int, int]:
        shrink = 2 ** (len(self.vae.config.block_out_channels) - 1)
        if settings.width_px % shrink or settings.height_px % shrink:
            raise ModelError(f"The size must be a multiple of {shrink} pixels for this model.")
        channels = self.unet.config.in_channels
        return channels, settings.height_px // shrink, settings.width_px // shrink

    @torch.no_grad()
    def decode(self, latents: Tensor) -> list[Image.Image]:
        """Images of final latents (B, C, h, w)."""
        scaled = latents.to(self.vae.dtype) / self.vae.config.scaling_factor
        pixels = self.vae.decode(scaled).sample.float()
        pixels = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return [Image.fromarray(image) for image in pixels.permute(0, 2, 3, 1).cpu().numpy()]

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
        """An untrained LoRA on the attention layers: it changes nothing yet. Seeded."""
        config = LoraConfig(
            r=settings.rank, lora_alpha=settings.alpha, target_modules=ATTENTION_LAYERS
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
        was_attached = self.has_adapter
        config, state = self._read_adapter(folder)
        self.unet.add_adapter(config, GUEST_NAME)
        try:
            set_peft_model_state_dict(self.unet, state, adapter_name=GUEST_NAME)
            self.unet.set_adapters([GUEST_NAME], weights=[strength])
            yield
        finally:
            self.unet.delete_adapters(GUEST_NAME)
            if was_attached:
                self.unet.set_adapter(ADAPTER_NAME)

    def _attach(self, config: LoraConfig, seed: int) -> None:
        self.remove_adapter()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.unet.add_adapter(config, ADAPTER_NAME)
        for parameter in self.adapter_parameters():
            parameter.data = parameter.data.float()

    def adapter_parameters(self) -> list[torch.nn.Parameter]:
        return [p for name, p in self.unet.named_parameters() if f".{ADAPTER_NAME}." in name]

    def adapter_state(self) -> dict[str, Tensor]:
        """The adapter's tensors under peft's names, on the CPU in float32."""
        state = get_peft_model_state_dict(self.unet, adapter_name=ADAPTER_NAME)
        return {name: value.detach().float().cpu().clone() for name, value in state.items()}

    def set_adapter_state(self, state: dict[str, Tensor]) -> None:
        set_peft_model_state_dict(self.unet, state, adapter_name=ADAPTER_NAME)

    def set_strength(self, strength: float) -> None:
        """How much of the adapter is applied: 0 is the base, 1 what was trained."""
        if self.has_adapter:
            self.unet.set_adapters([ADAPTER_NAME], weights=[strength])

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

    def load_adapter(self, folder: Path | None) -> None:
        """Attaches a saved adapter, or none. Raises ModelError if it is damaged or of another
        base."""
        if folder is None:
            self.remove_adapter()
            return
        config, state = self._read_adapter(folder)
        self._attach(config, seed=0)
        self.set_adapter_state(state)

    def _read_adapter(self, folder: Path) -> tuple[LoraConfig, dict[str, Tensor]]:
        try:
            description = json.loads((folder / ADAPTER_CONFIG_FILE).read_text("utf-8"))
            state = load_file(folder / ADAPTER_FILE)
            config = LoraConfig(
                r=description["r"],
                lora_alpha=description["lora_alpha"],
                target_modules=description["target_modules"],
            )
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise ModelError(f"The adapter in {folder} is missing or damaged.") from error
        if description.get("base_hash") != self.base_hash:
            raise ModelError("This adapter was trained on another base model.")
        if not all(bool(torch.isfinite(value).all()) for value in state.values()):
            raise ModelError(f"The adapter in {folder} holds values that are not numbers.")
        return config, state
