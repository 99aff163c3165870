"""What every stage of a recipe shares: the loop of updates, its checkpoints, its random numbers.

Random numbers are drawn from (seed, update), so that a stopped run continues the sequence it would
have had.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Figures = dict[str, torch.Tensor]


def generator(seed: int, update: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + update)


def save_checkpoint(path: Path, state: dict) -> None:
    temporary = path.with_suffix(".part")
    torch.save(state, temporary)
    os.replace(temporary, path)


def read_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """What a stage kept. Raises SystemExit with a sentence where it has not run."""
    if not path.exists():
        raise SystemExit(f"There is no {path}: the stage {path.stem} comes first.")
    return torch.load(path, map_location=device, weights_only=True)


def run_updates(
    checkpoint: Path,
    parts: dict[str, Any],
    loss_of: Callable[[int], tuple[torch.Tensor, Figures]],
    rate_of: Callable[[int], float],
    updates: int,
    deadline_s: float,
) -> bool:
    """Makes the updates that the checkpoint lacks; whether all were made before the deadline.

    parts: everything that changes, by its name in the checkpoint, among it the "optimizer" and
    perhaps an "ema"; loss_of: from an update's number to its loss and to figures to be shown;
    rate_of: from an update's number to its learning rate; deadline_s: of `time.monotonic`. At
    least one update is made by every call that lacks one.
    """
    optimizer = parts["optimizer"]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    first = 0
    if checkpoint.exists():
        state = read_checkpoint(checkpoint, parameters[0].device)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        first = state["update"]
    shown: list[Figures] = []
    started_s = time.monotonic()
    for update in range(first, updates):
        loss, figures = loss_of(update)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate_of(update)
        optimizer.step()
        if "ema" in parts:
            parts["ema"].step(parameters)
        # read later: a GPU need not be waited for
        shown.append({"loss": loss.detach()} | figures)
        done = update + 1
        stops = done == updates or time.monotonic() > deadline_s
        if stops or done % 100 == 0:
            speed = (done - first) / (time.monotonic() - started_s)
            place = f"{checkpoint.stem} {done}/{updates}"
            print(f"{place}  {_means(shown)}  {speed:.2f} a second", flush=True)
            shown.clear()
        if stops or done % 250 == 0:
            state = {name: part.state_dict() for name, part in parts.items()}
            save_checkpoint(checkpoint, state | {"update": done})
        if stops:
            return done == updates
    return True


def _means(shown: list[Figures]) -> str:
    names = dict.fromkeys(name for figures in shown for name in figures)
    means = {n: torch.stack([f[n] for f in shown if n in f]).float().mean() for n in names}
    return "  ".join(f"{name} {mean:.4f}" for name, mean in means.items())
