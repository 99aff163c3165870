"""The LoRA in training on a model, and others that temporarily take its place (peft)."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from diffusers.loaders import (
    Flux2LoraLoaderMixin,
    PeftAdapterMixin,
    StableDiffusionLoraLoaderMixin,
    StableDiffusionXLLoraLoaderMixin,
)
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor

from studio import weights
from studio.families import KLEIN_PIPELINE, SD_PIPELINE, SHORTCUT, XL_PIPELINE
from studio.files import ADAPTER_CONFIG_FILE, ADAPTER_FILE
from studio.lora.format import LowRank
from studio.lora.fuse import layers
from studio.lora.network_names import network_layers
from studio.models.inspecting import ModelInfo
from studio.settings import TrainingSettings
from studio.weights import ModelError

log = logging.getLogger("studio.models")

ADAPTER_NAME = "artist"
GUEST_NAME = "guest"
LORA_ENDINGS = (".lora_down.weight", ".lora_up.weight", ".lora_A.weight", ".lora_B.weight")

FROM_DISK = {"local_files_only": True, "use_safetensors": True, "return_lora_metadata": True}

ReadAdapter = tuple[LoraConfig, dict[str, Tensor]]


class Adapters:
    """The adapters of a network: at most one of the artist's, and temporarily guests in its place.

    The reference of preference training is the same network with the adapter off, which saves a
    second copy in memory.
    """

    def __init__(self, network: PeftAdapterMixin, info: ModelInfo, base_hash: str) -> None:
        """base_hash: of the base model's weights; a saved adapter fits only this base model."""
        self._network, self._info, self.base_hash = network, info, base_hash

    @property
    def is_attached(self) -> bool:
        return ADAPTER_NAME in getattr(self._network, "peft_config", {})

    def remove(self) -> None:
        if self.is_attached:
            self._network.delete_adapters(ADAPTER_NAME)

    def new(self, settings: TrainingSettings) -> None:
        """Attach an untrained LoRA on the layers of the settings. Seeded; it has no effect yet.

        Raises ModelError if the model is distilled.
        """
        if self._info.is_distilled:
            raise ModelError(
                f"{self._info.name} is distilled to draw in a few steps. It can draw, but a LoRA "
                "that learned on it makes pictures alike: choose the base model to learn."
            )
        config = LoraConfig(
            r=settings.rank, lora_alpha=settings.alpha, target_modules=self._targets(settings)
        )
        self._attach(config, settings.seed)

    @contextmanager
    def using(self, folder: Path | None, strength: float = 1.0) -> Iterator[None]:
        """Inside, a saved adapter is applied, or none. An attached one is switched off meanwhile,
        so that pictures can be drawn with one adapter while another is in training.
        """
        with self.using_read([] if folder is None else [(self.read(folder), strength)]):
            yield

    @contextmanager
    def using_read(self, adapters: Sequence[tuple[ReadAdapter, float]]) -> Iterator[None]:
        """As `using`, with results of `read`, from here or from another process, each at its
        strength: a weight changes by the sum of strength × change."""
        if not adapters:
            with self.off():
                yield
            return
        names = [f"{GUEST_NAME}{number or ''}" for number in range(len(adapters))]
        with self._guest():
            try:
                for name, ((config, state), _) in zip(names, adapters, strict=True):
                    self._network.add_adapter(config, name)
                    set_peft_model_state_dict(self._network, state, adapter_name=name)
                self._network.set_adapters(names, weights=[strength for _, strength in adapters])
            except Exception as error:  # libraries raise many kinds
                raise ModelError("An adapter does not fit this model: it is damaged.") from error
            yield

    @contextmanager
    def using_file(self, path: Path, strength: float = 1.0) -> Iterator[None]:
        """As `using`, with a LoRA file, read by diffusers' own loader.

        Raises ModelError unless the file is a LoRA for this model, all of whose layers it has.
        """
        header = weights.read_header(path)
        halves = [name for name in header.tensors if name.endswith(LORA_ENDINGS)]
        if not halves:
            raise ModelError(f"{path.name} is not a LoRA.")
        with self._guest():
            try:
                LOADERS[self._info.facts.pipeline](path, self._network)
            except Exception as error:  # libraries raise many kinds
                log.warning("%s could not be applied", path, exc_info=error)
                raise ModelError(
                    f"{path.name} does not fit {self._info.name}: it was made for another kind of "
                    "model."
                ) from error
            loaded = sum(f".{GUEST_NAME}." in name for name, _ in self._network.named_parameters())
            expected = sum(network_layers(name) for name in halves)
            if loaded != expected:
                raise ModelError(
                    f"{path.name} does not fit {self._info.name}: the model has {loaded // 2} of "
                    f"its {expected // 2} layers."
                )
            self._network.set_adapters([GUEST_NAME], weights=[strength])
            yield

    @contextmanager
    def _guest(self) -> Iterator[None]:
        """Remove all guests attached inside, and apply the artist's adapter again afterwards."""
        was_attached = self.is_attached
        try:
            yield
        finally:
            attached = getattr(self._network, "peft_config", {})
            if guests := [name for name in attached if name.startswith(GUEST_NAME)]:
                self._network.delete_adapters(guests)
            elif not hasattr(self._network, "peft_config"):  # a guest that failed to attach sets it
                self._network._hf_peft_config_loaded = False
            if was_attached:
                self._network.set_adapter(ADAPTER_NAME)

    @property
    def layer_shapes(self) -> dict[str, tuple[int, ...]]:
        """Weight shapes of all layers of the base model that a LoRA can change, by name."""
        return {name: tuple(weight.shape) for name, weight in layers(self._network)}

    def _targets(self, settings: TrainingSettings) -> list[str]:
        """The layers that a LoRA changes, as peft takes them: the ends of their names, or the whole
        names where an end fits modules of other kinds too."""
        ends = self._info.facts.layers[settings.layers]
        if self._info.facts.transformer is None:
            return list(ends)
        return [name for name in self.layer_shapes if name.endswith(ends)]

    def _attach(self, config: LoraConfig, seed: int) -> None:
        self.remove()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._network.add_adapter(config, ADAPTER_NAME)
        for parameter in self.parameters():
            parameter.data = parameter.data.float()

    def parameters(self) -> list[torch.nn.Parameter]:
        return [p for name, p in self._network.named_parameters() if f".{ADAPTER_NAME}." in name]

    def shortcut_parameters(self) -> list[torch.nn.Parameter]:
        """The `parameters` of shortcut layers."""
        return [
            p
            for name, p in self._network.named_parameters()
            if f".{ADAPTER_NAME}." in name and f".{SHORTCUT}." in name
        ]

    @torch.no_grad()
    def scale(self, factor: float) -> None:
        """Multiply the adapter's change of every weight by `factor`."""
        for name, value in self._network.named_parameters():
            if ".lora_B." in name:
                value.mul_(factor)

    def state(self) -> dict[str, Tensor]:
        """The adapter's tensors under peft's names, on the CPU in float32."""
        state = get_peft_model_state_dict(self._network, adapter_name=ADAPTER_NAME)
        return {name: value.detach().float().cpu().clone() for name, value in state.items()}

    def set_state(self, state: dict[str, Tensor]) -> None:
        set_peft_model_state_dict(self._network, state, adapter_name=ADAPTER_NAME)

    @torch.no_grad()
    def begin_with(self, changes: Mapping[str, LowRank]) -> None:
        """Give the untrained adapter these changes of its layers, of its rank or a smaller one.

        Layers that it lacks are left out. Where a change has no more directions, those of the
        untrained adapter stay, which learn from nothing.
        """
        config = self._network.peft_config[ADAPTER_NAME]
        state = self.state()
        for layer, change in changes.items():
            down, up = f"{layer}.lora_A.weight", f"{layer}.lora_B.weight"
            if down not in state:
                continue
            used = change.down.flatten(1).any(1)
            state[down][: len(used)][used] = change.down[used]
            scale = change.scale * config.r / config.lora_alpha
            state[up][:, : len(used)] = change.up * scale
        self.set_state(state)

    @contextmanager
    def off(self) -> Iterator[None]:
        """Inside, the network is the base model."""
        if not self.is_attached:
            yield
            return
        self._network.disable_adapters()
        try:
            yield
        finally:
            self._network.enable_adapters()

    def save(self, folder: Path) -> None:
        """Write the adapter in peft's format into an existing folder."""
        config = self._network.peft_config[ADAPTER_NAME]
        description = {
            "peft_type": "LORA",
            "r": config.r,
            "lora_alpha": config.lora_alpha,
            "target_modules": sorted(config.target_modules),
            "base_hash": self.base_hash,
        }
        save_file(self.state(), folder / ADAPTER_FILE)
        (folder / ADAPTER_CONFIG_FILE).write_text(json.dumps(description, indent=2), "utf-8")

    def read(self, folder: Path) -> ReadAdapter:
        """A saved adapter for this model. Raises ModelError if the folder holds no valid one.

        Everything is checked before peft reads it: the files may come from a hostile archive, and a
        rank of a billion would take all memory."""
        try:
            description = json.loads((folder / ADAPTER_CONFIG_FILE).read_text("utf-8"))
            state = load_file(folder / ADAPTER_FILE)
            rank = int(description["r"])
            config = LoraConfig(
                r=rank,
                lora_alpha=float(description["lora_alpha"]),
                target_modules=[str(name) for name in description["target_modules"]],
            )
        except Exception as error:  # libraries raise many kinds for arbitrary JSON
            raise ModelError(_damaged(folder)) from error
        shapes = self.layer_shapes
        if not state or not all(_fits(name, state[name], rank, shapes) for name in state):
            raise ModelError(_damaged(folder))
        if description.get("base_hash") != self.base_hash:
            raise ModelError("This adapter was trained on another base model.")
        if not all(bool(torch.isfinite(value).all()) for value in state.values()):
            raise ModelError(f"The adapter in {folder} holds values that are not numbers.")
        return config, state


def _load_into_unet(
    loader: type[StableDiffusionLoraLoaderMixin], path: Path, unet: PeftAdapterMixin
) -> None:
    state, alphas, metadata = loader.lora_state_dict(
        path.parent, weight_name=path.name, unet_config=unet.config, **FROM_DISK
    )
    loader.load_lora_into_unet(state, alphas, unet, adapter_name=GUEST_NAME, metadata=metadata)


def _load_into_flux2(path: Path, transformer: PeftAdapterMixin) -> None:
    loader = Flux2LoraLoaderMixin
    state, metadata = loader.lora_state_dict(path.parent, weight_name=path.name, **FROM_DISK)
    loader.load_lora_into_transformer(
        state, transformer, adapter_name=GUEST_NAME, metadata=metadata
    )


# diffusers' own, by pipeline: (file, network).
LOADERS: dict[str, Callable[[Path, PeftAdapterMixin], None]] = {
    SD_PIPELINE: partial(_load_into_unet, StableDiffusionLoraLoaderMixin),
    XL_PIPELINE: partial(_load_into_unet, StableDiffusionXLLoraLoaderMixin),
    KLEIN_PIPELINE: _load_into_flux2,
}


def _fits(name: str, value: Tensor, rank: int, shapes: dict[str, tuple[int, ...]]) -> bool:
    """Whether an adapter's tensor is one half of a layer of the network, at that rank."""
    layer, _, half = name.rpartition(".lora_")
    shape = shapes.get(layer)
    if shape is None:
        return False
    width, *rest = shape
    sides = {"A.weight": (rank, *rest), "B.weight": (width, rank, *(1 for _ in rest[1:]))}
    return tuple(value.shape) == sides.get(half)


def _damaged(folder: Path) -> str:
    return f"The adapter in {folder} is missing or damaged."
