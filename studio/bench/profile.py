"""Profile of drawing and training: the share of time of each kind of operation.

    python launch.py bench profile --json FILE
    python launch.py bench profile --shape sdxl --preset 24 --json FILE       on a GPU

On a GPU, times are those of the kernels that each operation started. `busy` is their sum, divided
by the time of the same work without the profiler; for the rest of the time the GPU waited for the
processor. On a processor, times are those of the operations. The work is drawing from prompt to
pixels, and the first updates of a round, including the reference.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from studio.bench import shapes, timing
from studio.bench.train import draw_pairs
from studio.engine import memory, sampling
from studio.engine.training import Training
from studio.settings import OBJECTIVES, SamplingSettings, TrainingSettings

# The first kind with a part in the operation's name counts. Names are those of PyTorch's dispatcher
# and the same on every device; autograd and optimizers take next to no time themselves.
KINDS = {
    "convolutions": ("conv",),
    "attention": ("attention",),
    "matrix products": ("mm",),
    "normalisation": ("group_norm", "layer_norm"),
    "copies": ("copy_", "aten::cat"),
}
ALL_ELSE = "all else"


def kind_of(operation: str) -> str:
    """The kind of an operation by its name, such as "aten::addmm"."""
    kinds = (kind for kind, parts in KINDS.items() if any(part in operation for part in parts))
    return next(kinds, ALL_ELSE)


def profiled(work: Callable[[], object], device: torch.device) -> dict[str, float | None]:
    """Shares of the device's time by kind, the largest first, and `busy`, which is None on a
    processor."""
    work()  # warm-up
    seconds = timing.seconds(work, device)
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_gpu]
    with profile(activities=activities) as observed:
        timing.seconds(work, device)
    spent_us = dict.fromkeys((*KINDS, ALL_ELSE), 0.0)
    for event in observed.key_averages():
        # kernels are also events of their own, which would count them twice
        if event.device_type == torch.autograd.DeviceType.CPU:
            own_us = event.self_device_time_total if on_gpu else event.self_cpu_time_total
            spent_us[kind_of(event.key)] += own_us
    total_us = sum(spent_us.values())
    shares = {
        kind: us / total_us for kind, us in sorted(spent_us.items(), key=lambda item: -item[1])
    }
    return {**shares, "busy": total_us / 1e6 / seconds if on_gpu else None}


def report(name: str, shares: dict[str, float | None]) -> str:
    words = ", ".join(f"{kind} {share:.0%}" for kind, share in shares.items() if kind != "busy")
    busy = shares["busy"]
    return f"{name}: {words}" + ("" if busy is None else f"; busy {busy:.0%} of the time")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="launch.py bench profile", description=__doc__)
    shapes.add_arguments(parser)
    parser.add_argument(
        "--objective", choices=tuple(OBJECTIVES), default=TrainingSettings().objective
    )
    parser.add_argument("--batch", type=int, default=8, help="pictures per batch")
    parser.add_argument("--steps", type=int, default=SamplingSettings().steps)
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--updates", type=int, default=8, help="of a round")
    parser.add_argument(
        "--preset",
        type=int,
        choices=[preset.gb for preset in memory.PRESETS],
        help="memory preset in GB; default: by the free memory",
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args(argv)
    if min(arguments.batch, arguments.steps, arguments.pairs, arguments.updates) < 1:
        parser.error("at least one picture, step, pair and update are needed")
    prompts = [f"a red apple {number}" for number in range(arguments.batch)]
    seeds = list(range(arguments.batch))
    with shapes.loaded(arguments) as (denoiser, size_px):
        settings = replace(
            SamplingSettings(), steps=arguments.steps, width_px=size_px, height_px=size_px
        )
        pairs = draw_pairs(denoiser, arguments.pairs, 2, settings)
        objective = OBJECTIVES[arguments.objective]
        few = replace(objective, updates_base=arguments.updates, updates_per_pick=0)
        preset = memory.preset_for(arguments.preset or memory.free_gb(denoiser.device))

        def drawing() -> None:
            sampling.images(denoiser, sampling.sample(denoiser, prompts, seeds, settings))

        def learning() -> None:
            for _ in Training(denoiser, pairs, few, preset=preset):
                pass

        profiles = {work.__name__: profiled(work, denoiser.device) for work in (drawing, learning)}
        figures = {
            **profiles,
            "objective": few.objective,
            "preset_gb": preset.gb,
            "width_px": size_px,
            "model": denoiser.info.name,
            "device": timing.device_name(denoiser.device),
        }
    print(f"{figures['model']} at {size_px} px, {figures['device']}")
    for name, shares in profiles.items():
        print(report(name, shares))
    timing.write(arguments.json, figures)
    return 0
