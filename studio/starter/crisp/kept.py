"""What the recipe has learned so far, small enough to be kept with the code.

The recipe takes longer than a machine may be had for. `keep` writes the networks as they stand;
`unpack` puts them into a build folder, where a stage without a checkpoint begins with them.
Matrices are kept in eight bits, with a scale for each row: half the size of float16, and training
soon makes good what that rounds off.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from studio.starter.crisp.codes import CODES, stored_latents
from studio.starter.crisp.pictures import Pictures
from studio.starter.loop import read_checkpoint

KEPT_PATH = Path(__file__).resolve().parents[3] / "assets" / "crisp" / "kept.safetensors"
START = "start.pt"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
NAMES = {"decoder": "decoder", "autoencoder": "vae", "recogniser": "network"}  # in checkpoints
LARGEST = 127  # of eight bits

State = dict[str, Tensor]


def rounded(values: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix or kernel (rows, ...) in eight bits, and the scale (rows,) of each row."""
    rows = values.float().flatten(1)
    scale = rows.abs().amax(1).clamp(min=1e-12) / LARGEST
    return (rows / scale[:, None]).round().to(torch.int8).view(values.shape), scale


def restored(values: Tensor, scale: Tensor) -> Tensor:
    return (values.flatten(1) * scale[:, None]).view(values.shape)


def write(networks: dict[str, State], exact: State, words: dict[str, str], path: Path) -> None:
    """networks: the state of each by its name; exact: tensors that are not rounded."""
    tensors = {f"exact/{name}": values for name, values in exact.items()}
    for network, state in networks.items():
        for name, values in state.items():
            if values.dim() > 1:
                eight_bits, tensors[f"{network}/{name}/scale"] = rounded(values)
                tensors[f"{network}/{name}"] = eight_bits
            else:
                tensors[f"{network}/{name}"] = values.float()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: values.contiguous() for key, values in tensors.items()}, path, words)


def read(path: Path) -> tuple[dict[str, State], State, dict[str, str]]:
    """What was written. Raises SystemExit with a sentence where nothing was."""
    if not path.exists():
        raise SystemExit(f"There is no {path}: nothing was kept, and the stages begin afresh.")
    networks: dict[str, State] = {}
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        words = file.metadata()
    for key, values in tensors.items():
        if not key.endswith("/scale"):
            network, name = key.split("/", 1)
            scale = tensors.get(f"{key}/scale")
            whole = values if scale is None else restored(values, scale)
            networks.setdefault(network, {})[name] = whole
    return networks, networks.pop("exact", {}), words


def averaged(checkpoint: dict, networks: dict[str, nn.Module]) -> dict[str, State]:
    """The moving averages in a checkpoint, of networks that were averaged in this order."""
    parameters = [parameter for part in networks.values() for parameter in part.parameters()]
    ema = EMAModel(parameters)
    ema.load_state_dict(checkpoint["ema"])
    ema.copy_to(parameters)
    return {name: part.state_dict() for name, part in networks.items()}


def keep(
    pictures: Pictures, folder: Path, diffusion: dict[str, nn.Module], path: Path = KEPT_PATH
) -> None:
    """diffusion: untrained networks, in the order of their moving average."""
    checkpoint = read_checkpoint(folder / "diffusion.pt")
    networks = averaged(checkpoint, diffusion)
    updates = {"diffusion": checkpoint["update"]}
    # the autoencoder has taken over what the small decoder knew
    decoder = "autoencoder" if (folder / "autoencoder.pt").exists() else "decoder"
    for stage in (decoder, "recogniser"):
        if (folder / f"{stage}.pt").exists():
            name = NAMES[stage]
            checkpoint = read_checkpoint(folder / f"{stage}.pt")
            networks[name] = checkpoint[name]
            updates[stage] = checkpoint["update"]
    codes, _ = stored_latents(pictures, folder)
    words = {name: (folder / "tokenizer" / name).read_text("utf-8") for name in TOKENIZER_FILES}
    write(networks, codes, words | {"updates": json.dumps(updates)}, path)


def unpack(folder: Path, path: Path = KEPT_PATH) -> str:
    """Puts it into a build folder; the updates that each stage had made, as text.

    Raises SystemExit with a sentence where nothing was kept.
    """
    networks, codes, words = read(path)
    (folder / "tokenizer").mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        (folder / "tokenizer" / name).write_text(words[name], "utf-8")
    torch.save(codes, folder / CODES)
    torch.save(networks, folder / START)
    return words["updates"]


def begin(folder: Path, networks: dict[str, nn.Module]) -> None:
    """Networks of a stage begin with what was unpacked, if anything was."""
    if (folder / START).exists():
        start = torch.load(folder / START, weights_only=True)
        for name, network in networks.items():
            if name in start:
                network.load_state_dict(start[name])
