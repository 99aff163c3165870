"""The loop that every stage of the recipe shares: updates, checkpoints, the learning rate.

Random numbers are drawn from (seed, update), so that a stopped run continues the sequence it would
have had.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

CPU_FLAGS = Path("/proc/cpuinfo")
# float32 is faster where the processor would only emulate bfloat16
HAS_BFLOAT16 = CPU_FLAGS.exists() and any(
    flag in CPU_FLAGS.read_text(encoding="utf-8").split() for flag in ("avx512_bf16", "amx_bf16")
)
WARMUP = 200  # updates

Figures = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Run:
    """How far a stage goes: all `updates`, or to `deadline_s` of `time.monotonic`."""

    folder: Path
    updates: int
    deadline_s: float = float("inf")
    seed: int = 0
    device: str = "cpu"

    def generator(self, update: int) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed * 1_000_003 + update)

    def autocast(self) -> torch.autocast:
        return torch.autocast(
            self.device, torch.bfloat16, enabled=self.device != "cpu" or HAS_BFLOAT16
        )


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    temporary = path.with_suffix(".part")
    torch.save(state, temporary)
    os.replace(temporary, path)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a stage kept, on the CPU. Raises SystemExit with a sentence where it has not run."""
    if not path.exists():
        raise SystemExit(f"There is no {path}: the stage {path.stem} comes first.")
    return torch.load(path, map_location="cpu", weights_only=True)


def learning_rate(update: int, updates: int, peak: float) -> float:
    """A warm-up, a plateau, and a linear end over the last quarter: the plateau can be made longer
    while a run goes on."""
    cooling = max(1, updates // 4)
    return peak * min(1.0, (update + 1) / WARMUP, max(0.01, (updates - update) / cooling))


def run_updates(
    run: Run,
    name: str,
    parts: dict[str, Any],
    loss_of: Callable[[int], tuple[torch.Tensor, Figures]],
    peak: float,
) -> bool:
    """Makes the updates that the checkpoint `name`.pt lacks; whether all were made in time.

    parts: everything that changes, by its name in the checkpoint, among it the "optimizer" and
    perhaps an "ema"; loss_of: from an update's number to its loss and to figures to be shown;
    peak: of the learning rate. At least one update is made by every call that lacks one.
    """
    optimizer = parts["optimizer"]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    checkpoint, first = run.folder / f"{name}.pt", 0
    if checkpoint.exists():
        state = read_checkpoint(checkpoint)
        for part_name, part in parts.items():
            part.load_state_dict(state[part_name])
        first = state["update"]
    shown: list[Figures] = []
    started_s = time.monotonic()
    for update in range(first, run.updates):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(update, run.updates, peak)
        # the fused attention's backward pass is slow on a CPU in bfloat16
        with sdpa_kernel(SDPBackend.MATH):
            loss, figures = loss_of(update)
            optimizer.zero_grad()
            loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if "ema" in parts:
            parts["ema"].step(parameters)
        shown.append({"loss": loss.detach()} | figures)
        done = update + 1
        stops = done == run.updates or time.monotonic() > run.deadline_s
        if stops or done % 100 == 0:
            speed = (done - first) / (time.monotonic() - started_s)
            print(f"{name} {done}/{run.updates}  {_means(shown)}  {speed:.2f} a second", flush=True)
            shown.clear()
        if stops or done % 250 == 0:
            state = {part_name: part.state_dict() for part_name, part in parts.items()}
            save_checkpoint(checkpoint, state | {"update": done})
        if stops:
            return done == run.updates
    return True


def _means(shown: list[Figures]) -> str:
    names = dict.fromkeys(name for figures in shown for name in figures)
    means = {n: torch.stack([f[n] for f in shown if n in f]).float().mean() for n in names}
    return "  ".join(f"{name} {mean:.4f}" for name, mean in means.items())
