"""How far a stage of the crisp recipe goes, and how its updates are computed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from studio.starter import loop
from studio.starter.loop import Figures

CPU_FLAGS = Path("/proc/cpuinfo")
# float32 is faster where the processor would only emulate bfloat16
HAS_BFLOAT16 = CPU_FLAGS.exists() and any(
    flag in CPU_FLAGS.read_text(encoding="utf-8").split() for flag in ("avx512_bf16", "amx_bf16")
)
WARMUP = 200  # updates


@dataclass(frozen=True)
class Run:
    """How far a stage goes: all `updates`, or to `deadline_s` of `time.monotonic`."""

    folder: Path
    updates: int
    deadline_s: float = float("inf")
    seed: int = 0
    device: str = "cpu"

    def generator(self, update: int) -> torch.Generator:
        return loop.generator(self.seed, update)

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
        peak: float,
    ) -> bool:
        """`loop.run_updates` with the checkpoint `name`.pt; peak: of the learning rate."""
        rate_of = partial(learning_rate, updates=self.updates, peak=peak)
        checkpoint = self.folder / f"{name}.pt"
        return loop.run_updates(checkpoint, parts, loss_of, rate_of, self.updates, self.deadline_s)


def learning_rate(update: int, updates: int, peak: float) -> float:
    """A warm-up, a plateau, and a linear end over the last quarter: the plateau can be made longer
    while a run goes on."""
    cooling = max(1, updates // 4)
    return peak * min(1.0, (update + 1) / WARMUP, max(0.01, (updates - update) / cooling))
