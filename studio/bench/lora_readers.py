"""Loading of LoRA files by the code of other programs."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import init_empty_weights
from diffusers import UNet2DConditionModel
from diffusers.loaders import StableDiffusionLoraLoaderMixin, StableDiffusionXLLoraLoaderMixin
from safetensors.torch import load_file
from torch import Tensor

from studio.bench.families import make_unet, unet_tensors
from studio.families import XL_PIPELINE, family_of
from studio.lora.names import kohya_name


@dataclass(frozen=True)
class Loaded:
    """The result of a reader: the tensors that it took, and their changes."""

    taken: set[str]  # keys of the file
    changes: Mapping[str, Tensor]  # by diffusers' name of the layer, in the weight's shape


Reader = Callable[[Path, str], Loaded]  # (file, family) to the result


def true_unet(family: str) -> UNet2DConditionModel:
    """The UNet of a family at its true size, without weights."""
    with init_empty_weights():
        return make_unet(family, narrow=False)


def by_diffusers(path: Path, family: str) -> Loaded:
    # Uninitialised memory: on the meta device peft would discard the file's numbers.
    unet = true_unet(family).to_empty(device="cpu")
    is_xl = family_of(family).pipeline == XL_PIPELINE
    loader = StableDiffusionXLLoraLoaderMixin if is_xl else StableDiffusionLoraLoaderMixin
    state, alphas, metadata = loader.lora_state_dict(
        path.parent,
        weight_name=path.name,
        unet_config=unet.config,
        local_files_only=True,
        return_lora_metadata=True,
    )
    loader.load_lora_into_unet(
        state, alphas, unet, adapter_name="read", metadata=metadata, low_cpu_mem_usage=True
    )
    changes = {}
    for name, module in unet.named_modules():
        if hasattr(module, "lora_A") and "read" in module.lora_A:
            down, up = module.lora_A["read"].weight, module.lora_B["read"].weight
            changes[name] = (module.scaling["read"] * (up.flatten(1) @ down.flatten(1))).detach()
    return Loaded(_keys_of(changes, path, family), changes)


def _keys_of(changes: Mapping[str, Tensor], path: Path, family: str) -> set[str]:
    """The file's tensors of the changed layers."""
    stems = {kohya_name(name, family) for name in changes}
    return {key for key in load_file(path) if key.split(".")[0] in stems}


COMFY_CONFIG = {
    "sd1": {"context_dim": 768, "depth": [1, 1, 1, 1, 1, 1, 0, 0], "mult": [1, 2, 4, 4]},
    "sd2": {"context_dim": 1024, "depth": [1, 1, 1, 1, 1, 1, 0, 0], "mult": [1, 2, 4, 4]},
    "sdxl": {"context_dim": 2048, "depth": [0, 0, 2, 2, 10, 10], "mult": [1, 2, 4]},
}


def by_comfyui(path: Path, family: str) -> Loaded:
    """ComfyUI's key map over its own UNet, and its own patches."""
    arguments = importlib.import_module("comfy.cli_args").args
    arguments.cpu = True  # otherwise its import looks for a GPU
    lora = importlib.import_module("comfy.lora")
    ops = importlib.import_module("comfy.ops")
    networks = importlib.import_module("comfy.ldm.modules.diffusionmodules.openaimodel")
    facts, comfy = family_of(family), COMFY_CONFIG[family]
    depth = comfy["depth"]
    levels = len(comfy["mult"])
    output = [count for level in range(levels) for count in [depth[2 * level]] * 3]
    config = {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": 320,
        "num_res_blocks": [2] * levels,
        "channel_mult": comfy["mult"],
        "context_dim": comfy["context_dim"],
        "transformer_depth": list(depth),
        "transformer_depth_output": output,
        "transformer_depth_middle": depth[-1] or 1,
        "use_linear_in_transformer": facts.linear_projection,
        "use_spatial_transformer": True,
        "num_heads": facts.heads or -1,
        "num_head_channels": -1 if facts.heads else 64,
        "adm_in_channels": 2816 if facts.takes_size else None,
        "num_classes": "sequential" if facts.takes_size else None,
        "use_temporal_attention": False,
        "legacy": False,
    }

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model_config = type("Config", (), {"unet_config": dict(config)})
            self.diffusion_model = networks.UNetModel(
                **{key: _copied(value) for key, value in config.items()},
                device="meta",
                operations=ops.disable_weight_init,
            )

    model = Model()
    key_map = lora.model_lora_keys_unet(model, {})
    tensors = load_file(path)
    patches = lora.load_lora(dict(tensors), key_map, log_missing=False)
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    names = _original_names(family)
    changes, taken = {}, set()
    for target, patch in patches.items():
        weight = torch.zeros(shapes[target])
        changed = patch.calculate_weight(weight, target, 1.0, 1.0, None, lambda x: x)
        stem = target.removeprefix("diffusion_model.").removesuffix(".weight")
        changes[names.get(stem, stem)] = changed
        taken |= set(patch.loaded_keys)
    # an alpha is read before the layers, and passed on with them
    taken |= {f"{key.split('.')[0]}.alpha" for key in taken}
    return Loaded(taken & tensors.keys(), changes)


def _copied(value: object) -> object:
    return list(value) if isinstance(value, list) else value


def _original_names(family: str) -> dict[str, str]:
    """diffusers' name of each layer by its name in the original layout."""
    unet = true_unet(family)
    names = zip(unet_tensors(unet), unet.state_dict(), strict=True)
    return {
        theirs.removesuffix(".weight"): ours.removesuffix(".weight")
        for theirs, ours in names
        if ours.endswith(".weight")
    }


def by_sd_scripts(path: Path, family: str) -> Loaded:
    """kohya's own network over kohya's own UNet."""
    lora = importlib.import_module("networks.lora")
    facts = family_of(family)
    with init_empty_weights():
        if facts.pipeline == XL_PIPELINE:
            original = importlib.import_module("library.sdxl_original_unet")
            unet = original.SdxlUNet2DConditionModel()
        else:
            original = importlib.import_module("library.original_unet")
            unet = original.UNet2DConditionModel(
                sample_size=64,
                attention_head_dim=facts.heads or [5, 10, 20, 20],
                cross_attention_dim=COMFY_CONFIG[family]["context_dim"],
                use_linear_projection=facts.linear_projection,
            )
    tensors = load_file(path)
    network, weights = lora.create_network_from_weights(
        1.0, str(path), None, [], unet, dict(tensors), for_inference=True
    )
    network.apply_to([], unet, apply_text_encoder=False, apply_unet=True)
    network.load_state_dict(weights, strict=False)
    names = _original_names(family)
    flat = {
        name.replace(".", "_"): name for name in (names if facts.lora.original else names.values())
    }
    changes, taken = {}, set()
    for module in network.unet_loras:
        stem = module.lora_name.removeprefix("lora_unet_")
        name = flat.get(stem, stem)
        changes[names.get(name, name)] = (
            module.scale
            * (module.lora_up.weight.flatten(1) @ module.lora_down.weight.flatten(1)).detach()
        )
        taken |= {key for key in tensors if key.split(".")[0] == module.lora_name}
    return Loaded(taken, changes)


def by_invokeai(path: Path, family: str) -> Loaded:
    """InvokeAI's layers, on the modules of diffusers' UNet that its own patcher finds."""
    conversions = "invokeai.backend.patches.lora_conversions"
    read = importlib.import_module(f"{conversions}.sd_lora_conversion_utils")
    patcher = importlib.import_module("invokeai.backend.patches.layer_patcher").LayerPatcher
    tensors = load_file(path)
    state = dict(tensors)
    if family_of(family).pipeline == XL_PIPELINE:
        convert = importlib.import_module(f"{conversions}.sdxl_lora_conversion_utils")
        state = convert.convert_sdxl_keys_to_diffusers_format(state)
    theirs = dict(zip(state, tensors, strict=True))  # the conversion preserves the order
    unet = true_unet(family)
    changes, taken = {}, set()
    for key, layer in read.lora_model_from_sd_state_dict(state).layers.items():
        if not key.startswith("lora_unet_"):
            continue  # like its patcher, which gets this prefix
        try:
            name, module = patcher._get_submodule(unet, key.removeprefix("lora_unet_"), True)
        except (AttributeError, IndexError):
            continue
        original = {"weight": torch.empty(module.weight.shape)}
        changes[name] = layer.get_parameters(original, weight=1.0)["weight"]
        taken |= {theirs[full] for full in state if full.split(".")[0] == key}
    return Loaded(taken, changes)


OTHERS: dict[str, tuple[Reader, str]] = {
    "ComfyUI": (by_comfyui, "comfy.cli_args"),
    "sd-scripts": (by_sd_scripts, "networks.lora"),
    "InvokeAI": (by_invokeai, "invokeai.backend.patches.layer_patcher"),
}
