"""What every stage of the recipe shares: the loop of updates, its checkpoints, its random numbers.

Random numbers are drawn from (seed, update), so that a stopped run continues the sequence it would
have had.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

Figures = dict[str, torch.Tensor]

CPU_FLAGS = Path("/proc/cpuinfo")
# float32 is faster where the processor would only emulate bfloat16
HAS_BFLOAT16 = CPU_FLAGS.exists() and any(
    flag in CPU_FLAGS.read_text(encoding="utf-8").split() for flag in ("avx512_bf16", "amx_bf16")
)
WARMUP = 200  # updates


def save_checkpoint(path: Path, state: dict) -> None:
    temporary = path.with_suffix(".part")
    torch.save(state, temporary)
    os.replace(temporary, path)


def read_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """What a stage kept. Raises SystemExit with a sentence where it has not run."""
    if not path.exists():
        raise SystemExit(f"There is no {path}: the stage {path.stem} comes first.")
    return torch.load(path, map_location=device, weights_only=True)


def learning_rate(update: int, updates: int, peak: float) -> float:
    """A warm-up, a plateau, and a linear end over the last quarter: the plateau can be made longer
    while a run goes on."""
    cooling = max(1, updates // 4)
    return peak * min(1.0, (update + 1) / WARMUP, max(0.01, (updates - update) / cooling))


@dataclass(frozen=True)
class Run:
    """How far a stage goes: all `updates`, or to `deadline_s` of `time.monotonic`; and at which
    highest learning rate."""

    folder: Path
    updates: int
    deadline_s: float = float("inf")
    seed: int = 0
    device: str = "cpu"
    peak: float = 1e-3

    def generator(self, update: int) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed * 1_000_003 + update)

    @contextlib.contextmanager
    def bfloat16(self) -> Iterator[None]:
        """A forward pass in bfloat16, where the processor has it."""
        is_fast = self.device != "cpu" or HAS_BFLOAT16
        # the fused attention's backward pass is slow on a CPU in bfloat16
        is_cpu = self.device == "cpu"
        attention = sdpa_kernel(SDPBackend.MATH) if is_cpu else contextlib.nullcontext()
        with attention, torch.autocast(self.device, torch.bfloat16, enabled=is_fast):
            yield

    def updates_of(
        self,
        name: str,
        parts: dict[str, Any],
        loss_of: Callable[[int], tuple[torch.Tensor, Figures]],
    ) -> bool:
        """Makes the updates that the checkpoint `name`.pt lacks; whether all were made in time.

        parts: everything that changes, by its name in the checkpoint, among it the "optimizer" and
        perhaps an "ema"; loss_of: from an update's number to its loss and to figures to be shown.
        At least one update is made by every call that lacks one.
        """
        checkpoint = self.folder / f"{name}.pt"
        optimizer = parts["optimizer"]
        parameters = [weight for group in optimizer.param_groups for weight in group["params"]]
        first = 0
        if checkpoint.exists():
            state = read_checkpoint(checkpoint, parameters[0].device)
            for part_name, part in parts.items():
                part.load_state_dict(state[part_name])
            first = state["update"]
        shown: list[Figures] = []
        started_s = time.monotonic()
        for update in range(first, self.updates):
            loss, figures = loss_of(update)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(update, self.updates, self.peak)
            optimizer.step()
            if "ema" in parts:
                parts["ema"].step(parameters)
            # read later: a GPU need not be waited for
            shown.append({"loss": loss.detach()} | figures)
            done = update + 1
            stops = done == self.updates or time.monotonic() > self.deadline_s
            if stops or done % 100 == 0:
                speed = (done - first) / (time.monotonic() - started_s)
                print(
                    f"{name} {done}/{self.updates}  {_means(shown)}  {speed:.2f} a second",
                    flush=True,
                )
                shown.clear()
            if stops or done % 250 == 0:
                state = {part_name: part.state_dict() for part_name, part in parts.items()}
                save_checkpoint(checkpoint, state | {"update": done})
            if stops:
                return done == self.updates
        return True


def _means(shown: list[Figures]) -> str:
    names = dict.fromkeys(name for figures in shown for name in figures)
    means = {n: torch.stack([f[n] for f in shown if n in f]).float().mean() for n in names}
    return "  ".join(f"{name} {mean:.4f}" for name, mean in means.items())
