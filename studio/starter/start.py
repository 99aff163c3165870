"""The shipped starter model as the beginning of a longer training.

`unpack` puts it into a build folder. A stage without a checkpoint begins with what it finds there,
and what no stage has gone on with is taken from there.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from torch import nn

from studio.engine import recogniser
from studio.settings import RECOGNISER_PATH, STARTER_PATH
from studio.starter.codes import CODES

START = "start.pt"


def unpack(folder: Path, model: Path = STARTER_PATH, judge: Path = RECOGNISER_PATH) -> None:
    """model: a diffusers folder with the codes that its encoder was taught."""
    folder.mkdir(parents=True, exist_ok=True)
    pipeline = StableDiffusionPipeline.from_pretrained(model, dtype=torch.float32)
    networks = {name: getattr(pipeline, name) for name in ("unet", "text_encoder", "vae")}
    networks["network"] = recogniser.load(judge).network
    torch.save({name: part.state_dict() for name, part in networks.items()}, folder / START)
    pipeline.tokenizer.save_pretrained(folder / "tokenizer")
    shutil.copyfile(model / CODES, folder / CODES)


def begin(folder: Path, networks: dict[str, nn.Module]) -> None:
    """Networks of a stage begin with what was unpacked, if anything was."""
    if (folder / START).exists():
        start = torch.load(folder / START, weights_only=True)
        for name, network in networks.items():
            if name in start:
                network.load_state_dict(start[name])


def is_trained(folder: Path, stage: str) -> bool:
    """False where what was unpacked has to do; with neither, reading the checkpoint says so."""
    return (folder / f"{stage}.pt").exists() or not (folder / START).exists()
