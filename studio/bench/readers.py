"""Which programs read the studio's LoRA files: keys offered, keys taken, layers changed rightly.

    python launch.py bench readers --comfyui FOLDER --sd-scripts FOLDER --invokeai FOLDER

Each reader is another program's own loading code, imported from your clone of it (its packages must
be importable too; this project contains none of its code). Readers without a folder, or that cannot
be imported, are reported as absent. diffusers is always present.

For each family, an adapter with random numbers, rank 4 and alpha 2 is made for every layer that a
round trains, at the model's true size. `studio.lora.export` writes it, and each reader loads the
file. The *change* that the reader makes to each layer is compared with the adapter's own:

- taken: tensors of the file that reach a layer (of those offered; an alpha counts as one)
- right: layers with the adapter's change, within rounding

Then three deliberate mistakes: the studio's own check, which every export must pass, must catch all
of them in every family; the readers load them for SD 1.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from studio.bench import timing
from studio.bench.lora_readers import OTHERS, Reader, by_diffusers, true_unet
from studio.families import UNET_LAYERS
from studio.lora import export
from studio.lora.format import LoraError, LowRank
from studio.lora.metadata import ExportInfo
from studio.settings import TrainingSettings

RANK, ALPHA = 4, 2.0  # unequal, to reveal a reader that ignores alpha
FAMILIES = ("sd1", "sd2", "sdxl")


def make_adapter(family: str) -> dict[str, LowRank]:
    """Random numbers for every layer of the true model that a round trains, by diffusers' names."""
    draw = torch.Generator().manual_seed(0)
    adapter = {}
    for name, module in true_unet(family).named_modules():
        if name.endswith(tuple(f".{layer}" for layer in UNET_LAYERS[TrainingSettings().layers])):
            width, *rest = module.weight.shape
            down = torch.randn(RANK, *rest, generator=draw)
            up = torch.randn(width, RANK, *(1 for _ in rest[1:]), generator=draw)
            adapter[name] = LowRank(down, up, ALPHA)
    return adapter


def write(folder: Path, family: str, adapter: Mapping[str, LowRank]) -> Path:
    """Write the kohya file with the studio's own export and all its checks."""
    state = {}
    for name, module in adapter.items():
        state[f"{name}.lora_A.weight"] = module.down
        state[f"{name}.lora_B.weight"] = module.up
    info = ExportInfo(family, f"a model of {family}", picks=0, trained_at_s=0.0)
    report = export.export_lora(folder, family, state, RANK, ALPHA, info, ("kohya",))
    return folder / f"{report.name}.safetensors"


# --- common mistakes of other exporters ----------------------------------------------------------


def wrong_alpha(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: torch.tensor(float(RANK)) if k.endswith(".alpha") else v for k, v in tensors.items()}


def wrong_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.replace("lora_unet_", "lora_transformer_"): v for key, v in tensors.items()}


def swapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Up and down exchanged in every layer where the shapes do not reveal it."""
    changed = dict(tensors)
    for down in [key for key in tensors if key.endswith(".lora_down.weight")]:
        up = down.replace("lora_down", "lora_up")
        turned = tensors[down].transpose(0, 1), tensors[up].transpose(0, 1)
        if tensors[up].shape == turned[0].shape:
            changed[up], changed[down] = turned
    return {key: value.contiguous() for key, value in changed.items()}


MISTAKES = {"wrong alpha": wrong_alpha, "wrong prefix": wrong_prefix, "up and down": swapped}


# --- the table -----------------------------------------------------------------------------------


@contextlib.contextmanager
def importing_from(folder: Path | None) -> Iterator[None]:
    if folder is not None:
        sys.path.insert(0, str(folder.resolve()))
    arguments, sys.argv = sys.argv, sys.argv[:1]  # ComfyUI's import reads them
    try:
        yield
    finally:
        sys.argv = arguments
        if folder is not None:
            sys.path.remove(str(folder.resolve()))


def judge(reader: Reader, path: Path, family: str, adapter: Mapping[str, LowRank]) -> dict:
    """The tensors that a reader took, and the number of layers with the adapter's own change."""
    offered = load_file(path)
    try:
        loaded = reader(path, family)
    except Exception as error:  # each reader refuses files with its own kind of error
        return {"offered": len(offered), "refused": f"{type(error).__name__}: {error}"[:200]}
    right = 0
    for name, module in adapter.items():
        change = loaded.changes.get(name)
        wanted = module.change()
        if change is not None and change.flatten(1).shape == wanted.shape:
            right += bool((change.flatten(1) - wanted).norm() <= 1e-4 * wanted.norm())
    return {
        "offered": len(offered),
        "taken": len(loaded.taken),
        "layers": len(adapter),
        "right": right,
    }


def caught_by_us(path: Path, family: str, adapter: Mapping[str, LowRank]) -> str:
    """The sentence with which the studio's own check refuses a file; "" if it accepts it."""
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
            for name, (reader, clone) in readers.items():
                with importing_from(clone):
                    rows[name] = judge(reader, path, family, adapter)
            wrong = figures["mistakes"][family] = {}
            for mistake, change in MISTAKES.items():
                broken = Path(folder) / "broken.safetensors"
                save_file(change(load_file(path)), broken)
                wrong[mistake] = {"our check": caught_by_us(broken, family, adapter)}
                for name, (reader, clone) in readers.items() if family == FAMILIES[0] else ():
                    with importing_from(clone):
                        wrong[mistake][name] = judge(reader, broken, family, adapter)
    return figures


def report(figures: dict, absent: Mapping[str, str]) -> str:
    lines = ["family  reader      keys offered   taken   layers right"]
    for family, rows in figures["families"].items():
        lines += [f"{family:7} {name:11} {_row(result)}" for name, result in rows.items()]
    lines += [f"absent: {name} ({why})" for name, why in absent.items()]
    for family, mistakes in figures["mistakes"].items():
        for mistake, rows in mistakes.items():
            ours = rows["our check"]
            lines.append(f"{family}, {mistake}: {'caught: ' + ours if ours else 'NOT CAUGHT'}")
            others = {name: result for name, result in rows.items() if name != "our check"}
            lines += [f"        {name:11} {_row(result)}" for name, result in others.items()]
    return "\n".join(lines)


def _row(result: Mapping) -> str:
    if "refused" in result:
        return f"{result['offered']:12}   refused: {result['refused']}"
    return f"{result['offered']:12} {result['taken']:7}   {result['right']} of {result['layers']}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="launch.py bench readers", description=__doc__)
    for name in OTHERS:
        parser.add_argument(f"--{name.lower()}", type=Path, metavar="FOLDER", help="its clone")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = vars(parser.parse_args(argv))
    readers: dict[str, tuple[Reader, Path | None]] = {"diffusers": (by_diffusers, None)}
    absent = {}
    for name, (reader, module) in OTHERS.items():
        clone = arguments[name.lower().replace("-", "_")]
        if clone is None:
            absent[name] = "not named"
            continue
        try:
            with importing_from(clone):
                importlib.import_module(module)
        except Exception as error:  # another program's import may raise any kind
            absent[name] = f"{type(error).__name__}: {error}"
            continue
        readers[name] = (reader, clone)
    logging.disable(logging.WARNING)  # of the readers, about the mistakes
    try:
        figures = measure(readers) | {"absent": absent}
    finally:
        logging.disable(logging.NOTSET)
    print(report(figures, absent))
    timing.write(arguments["json"], figures)
    ours = [row["our check"] for rows in figures["mistakes"].values() for row in rows.values()]
    whole = all(
        result.get("right") == result.get("layers")
        for rows in figures["families"].values()
        for result in rows.values()
    )
    return 0 if whole and all(ours) else 1
