"""Who reads the LoRA files that the studio writes: keys offered, keys taken, and at what strength.

    python launch.py bench readers --comfyui FOLDER --sd-scripts FOLDER --invokeai FOLDER

Each reader is another program's own loading code, imported from where you have cloned it (its
packages must be importable too; nothing of theirs is part of this project). A reader that is not
named or cannot be imported is said to be absent. diffusers is always there.

For each family an adapter with random numbers, of rank 4 and alpha 2, is made for every layer that
a round trains, of the model at its true size, written by `studio.lora.export`, and given to each
reader. The *change* that the reader would make to each layer is compared with the adapter's own:

- taken: tensors of the file that ended up in a layer (of those offered; an alpha counts as one)
- right: layers in which the change is the adapter's, to within rounding

And then three mistakes made on purpose: our own check, which runs before any export is called
ready, must catch all of them in every family; what the readers make of them is seen on SD 1.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import init_empty_weights
from diffusers import UNet2DConditionModel
from diffusers.loaders import StableDiffusionLoraLoaderMixin, StableDiffusionXLLoraLoaderMixin
from safetensors.torch import load_file, save_file
from torch import Tensor

from studio.bench import timing
from studio.bench.families import make_unet, unet_tensors
from studio.lora import export
from studio.lora.format import LoraError, LowRank
from studio.lora.metadata import ExportInfo
from studio.lora.names import kohya_name
from studio.models.adapters import LAYERS
from studio.settings import TrainingSettings

RANK, ALPHA = 4, 2.0  # unequal, so that a reader that loses alpha is seen
FAMILIES = ("sd1", "sd2", "sdxl")


@dataclass(frozen=True)
class Found:
    """What a reader made of a file: which of its tensors it took, and what they change."""

    taken: set[str]  # keys of the file
    changes: Mapping[str, Tensor]  # by diffusers' name of the layer, in the weight's shape


Reader = Callable[[Path, str], Found]  # of a file, for a family


def true_unet(family: str) -> UNet2DConditionModel:
    """The UNet of a family at its true size, without weights."""
    with init_empty_weights():
        return make_unet(family, narrow=False)


def make_adapter(family: str) -> dict[str, LowRank]:
    """Random numbers for every layer of the true model that a round trains, by diffusers' names."""
    draw = torch.Generator().manual_seed(0)
    adapter = {}
    for name, module in true_unet(family).named_modules():
        if name.endswith(tuple(f".{layer}" for layer in LAYERS[TrainingSettings().layers])):
            width, *rest = module.weight.shape
            down = torch.randn(RANK, *rest, generator=draw)
            up = torch.randn(width, RANK, *(1 for _ in rest[1:]), generator=draw)
            adapter[name] = LowRank(down, up, ALPHA)
    return adapter


def write(folder: Path, family: str, adapter: Mapping[str, LowRank]) -> Path:
    """The kohya file, by the studio's own export with all its checks."""
    state = {}
    for name, module in adapter.items():
        state[f"{name}.lora_A.weight"] = module.down
        state[f"{name}.lora_B.weight"] = module.up
    info = ExportInfo(family, f"a model of {family}", picks=0, trained_at_s=0.0)
    report = export.export_lora(folder, family, state, RANK, ALPHA, info, ("kohya",))
    return folder / f"{report.name}.safetensors"


# --- mistakes that are made in the field ---------------------------------------------------------


def wrong_alpha(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: torch.tensor(float(RANK)) if k.endswith(".alpha") else v for k, v in tensors.items()}


def wrong_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.replace("lora_unet_", "lora_transformer_"): v for key, v in tensors.items()}


def swapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Up and down exchanged in every layer where the shapes do not give it away."""
    changed = dict(tensors)
    for down in [key for key in tensors if key.endswith(".lora_down.weight")]:
        up = down.replace("lora_down", "lora_up")
        turned = tensors[down].transpose(0, 1), tensors[up].transpose(0, 1)
        if tensors[up].shape == turned[0].shape:
            changed[up], changed[down] = turned
    return {key: value.contiguous() for key, value in changed.items()}


MISTAKES = {"wrong alpha": wrong_alpha, "wrong prefix": wrong_prefix, "up and down": swapped}


# --- readers -------------------------------------------------------------------------------------


def by_diffusers(path: Path, family: str) -> Found:
    # In memory that is never touched: peft would move the file's numbers away to no memory at all.
    unet = true_unet(family).to_empty(device="cpu")
    loader = (
        StableDiffusionXLLoraLoaderMixin if family == "sdxl" else StableDiffusionLoraLoaderMixin
    )
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
    return Found(_keys_of(changes, path, family), changes)


def _keys_of(changes: Mapping[str, Tensor], path: Path, family: str) -> set[str]:
    """The file's tensors that belong to the layers which were changed."""
    stems = {kohya_name(name, family) for name in changes}
    return {key for key in load_file(path) if key.split(".")[0] in stems}


COMFY_CONFIG = {
    "sd1": {"context_dim": 768, "depth": [1, 1, 1, 1, 1, 1, 0, 0], "mult": [1, 2, 4, 4]},
    "sd2": {"context_dim": 1024, "depth": [1, 1, 1, 1, 1, 1, 0, 0], "mult": [1, 2, 4, 4]},
    "sdxl": {"context_dim": 2048, "depth": [0, 0, 2, 2, 10, 10], "mult": [1, 2, 4]},
}


def by_comfyui(path: Path, family: str) -> Found:
    """ComfyUI's key map over its own UNet, and its own patches."""
    arguments = importlib.import_module("comfy.cli_args").args
    arguments.cpu = True  # or it looks for a GPU as it is imported
    lora = importlib.import_module("comfy.lora")
    ops = importlib.import_module("comfy.ops")
    networks = importlib.import_module("comfy.ldm.modules.diffusionmodules.openaimodel")
    facts = COMFY_CONFIG[family]
    depth = facts["depth"]
    levels = len(facts["mult"])
    output = [count for level in range(levels) for count in [depth[2 * level]] * 3]
    config = {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": 320,
        "num_res_blocks": [2] * levels,
        "channel_mult": facts["mult"],
        "context_dim": facts["context_dim"],
        "transformer_depth": list(depth),
        "transformer_depth_output": output,
        "transformer_depth_middle": depth[-1] or 1,
        "use_linear_in_transformer": family != "sd1",
        "use_spatial_transformer": True,
        "num_heads": 8 if family == "sd1" else -1,
        "num_head_channels": -1 if family == "sd1" else 64,
        "adm_in_channels": 2816 if family == "sdxl" else None,
        "num_classes": "sequential" if family == "sdxl" else None,
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
    # an alpha is read before the layers, and handed over with them
    taken |= {f"{key.split('.')[0]}.alpha" for key in taken}
    return Found(taken & tensors.keys(), changes)


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


def by_sd_scripts(path: Path, family: str) -> Found:
    """kohya's own network over kohya's own UNet."""
    lora = importlib.import_module("networks.lora")
    with init_empty_weights():
        if family == "sdxl":
            original = importlib.import_module("library.sdxl_original_unet")
            unet = original.SdxlUNet2DConditionModel()
        else:
            original = importlib.import_module("library.original_unet")
            is_sd1 = family == "sd1"
            unet = original.UNet2DConditionModel(
                sample_size=64,
                attention_head_dim=8 if is_sd1 else [5, 10, 20, 20],
                cross_attention_dim=768 if is_sd1 else 1024,
                use_linear_projection=not is_sd1,
            )
    tensors = load_file(path)
    network, weights = lora.create_network_from_weights(
        1.0, str(path), None, [], unet, dict(tensors), for_inference=True
    )
    network.apply_to([], unet, apply_text_encoder=False, apply_unet=True)
    network.load_state_dict(weights, strict=False)
    names = _original_names(family)
    flat = {
        name.replace(".", "_"): name for name in (names if family == "sdxl" else names.values())
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
    return Found(taken, changes)


def by_invokeai(path: Path, family: str) -> Found:
    """InvokeAI's layers, put where its own patcher finds the module in diffusers' UNet."""
    conversions = "invokeai.backend.patches.lora_conversions"
    read = importlib.import_module(f"{conversions}.sd_lora_conversion_utils")
    patcher = importlib.import_module("invokeai.backend.patches.layer_patcher").LayerPatcher
    tensors = load_file(path)
    state = dict(tensors)
    if family == "sdxl":
        convert = importlib.import_module(f"{conversions}.sdxl_lora_conversion_utils")
        state = convert.convert_sdxl_keys_to_diffusers_format(state)
    theirs = dict(zip(state, tensors, strict=True))  # the conversion keeps the order
    unet = true_unet(family)
    changes, taken = {}, set()
    for key, layer in read.lora_model_from_sd_state_dict(state).layers.items():
        if not key.startswith("lora_unet_"):
            continue  # as its patcher does, which is told this prefix
        try:
            name, module = patcher._get_submodule(unet, key.removeprefix("lora_unet_"), True)
        except (AttributeError, IndexError):
            continue
        given = {"weight": torch.empty(module.weight.shape)}
        changes[name] = layer.get_parameters(given, weight=1.0)["weight"]
        taken |= {theirs[full] for full in state if full.split(".")[0] == key}
    return Found(taken, changes)


# --- the table -----------------------------------------------------------------------------------


@contextlib.contextmanager
def importing_from(folder: Path | None) -> Iterator[None]:
    if folder is not None:
        sys.path.insert(0, str(folder.resolve()))
    arguments, sys.argv = sys.argv, sys.argv[:1]  # ComfyUI reads them when it is imported
    try:
        yield
    finally:
        sys.argv = arguments
        if folder is not None:
            sys.path.remove(str(folder.resolve()))


def judge(reader: Reader, path: Path, family: str, adapter: Mapping[str, LowRank]) -> dict:
    """What a reader took, and in how many layers it makes the adapter's own change."""
    offered = load_file(path)
    try:
        found = reader(path, family)
    except Exception as error:  # a reader that refuses a file says so in its own way
        return {"offered": len(offered), "refused": f"{type(error).__name__}: {error}"[:200]}
    right = 0
    for name, module in adapter.items():
        change = found.changes.get(name)
        wanted = module.change()
        if change is not None and change.flatten(1).shape == wanted.shape:
            right += bool((change.flatten(1) - wanted).norm() <= 1e-4 * wanted.norm())
    return {
        "offered": len(offered),
        "taken": len(found.taken),
        "layers": len(adapter),
        "right": right,
    }


def caught_by_us(path: Path, family: str, adapter: Mapping[str, LowRank]) -> str:
    """The sentence in which our own check refuses a file, or nothing."""
    try:
        export.check(path, "kohya", adapter, family)
    except LoraError as error:
        return str(error).replace(path.name, "the file")
    return ""


def measure(readers: Mapping[str, tuple[Reader, Path | None]]) -> dict:
    figures: dict = {"rank": RANK, "alpha": ALPHA, "families": {}, "mistakes": {}}
    with tempfile.TemporaryDirectory() as folder:
        for family in FAMILIES:
            adapter = make_adapter(family)
            path = write(Path(folder), family, adapter)
            rows = figures["families"][family] = {}
            for name, (reader, where) in readers.items():
                with importing_from(where):
                    rows[name] = judge(reader, path, family, adapter)
            wrong = figures["mistakes"][family] = {}
            for mistake, change in MISTAKES.items():
                broken = Path(folder) / "broken.safetensors"
                save_file(change(load_file(path)), broken)
                wrong[mistake] = {"our check": caught_by_us(broken, family, adapter)}
                for name, (reader, where) in readers.items() if family == FAMILIES[0] else ():
                    with importing_from(where):
                        wrong[mistake][name] = judge(reader, broken, family, adapter)
    return figures


def report(figures: dict, absent: Mapping[str, str]) -> str:
    lines = ["family  reader      keys offered   taken   layers right"]
    for family, rows in figures["families"].items():
        lines += [f"{family:7} {name:11} {_row(found)}" for name, found in rows.items()]
    lines += [f"absent: {name} ({why})" for name, why in absent.items()]
    for family, mistakes in figures["mistakes"].items():
        for mistake, rows in mistakes.items():
            ours = rows["our check"]
            lines.append(f"{family}, {mistake}: {'caught: ' + ours if ours else 'NOT CAUGHT'}")
            others = {name: found for name, found in rows.items() if name != "our check"}
            lines += [f"        {name:11} {_row(found)}" for name, found in others.items()]
    return "\n".join(lines)


def _row(found: Mapping) -> str:
    if "refused" in found:
        return f"{found['offered']:12}   refused: {found['refused']}"
    return f"{found['offered']:12} {found['taken']:7}   {found['right']} of {found['layers']}"


OTHERS: dict[str, tuple[Reader, str]] = {
    "ComfyUI": (by_comfyui, "comfy.cli_args"),
    "sd-scripts": (by_sd_scripts, "networks.lora"),
    "InvokeAI": (by_invokeai, "invokeai.backend.patches.layer_patcher"),
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="launch.py bench readers", description=__doc__)
    for name in OTHERS:
        parser.add_argument(f"--{name.lower()}", type=Path, metavar="FOLDER", help="its clone")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = vars(parser.parse_args(argv))
    readers: dict[str, tuple[Reader, Path | None]] = {"diffusers": (by_diffusers, None)}
    absent = {}
    for name, (reader, module) in OTHERS.items():
        where = arguments[name.lower().replace("-", "_")]
        if where is None:
            absent[name] = "not named"
            continue
        try:
            with importing_from(where):
                importlib.import_module(module)
        except Exception as error:  # whatever another program raises when it is imported
            absent[name] = f"{type(error).__name__}: {error}"
            continue
        readers[name] = (reader, where)
    logging.disable(logging.WARNING)  # every reader complains about the mistakes in its own way
    try:
        figures = measure(readers) | {"absent": absent}
    finally:
        logging.disable(logging.NOTSET)
    print(report(figures, absent))
    timing.write(arguments["json"], figures)
    ours = [row["our check"] for rows in figures["mistakes"].values() for row in rows.values()]
    whole = all(
        found.get("right") == found.get("layers")
        for rows in figures["families"].values()
        for found in rows.values()
    )
    return 0 if whole and all(ours) else 1
