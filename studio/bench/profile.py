"""What bounds drawing and learning: the shares of their time that each kind of operation takes.

    python launch.py bench profile --json FILE
    python launch.py bench profile --shape sdxl --preset 24 --json FILE       on a GPU

On a GPU it is the time of the kernels that each operation started, and `busy` is their sum over the
time that the same work takes unobserved: what is missing from 1, the GPU waited for the processor.
On a processor it is the time spent in each operation. What is profiled are pictures from prompt to
pixels, and the first updates of a round, in which the reference has its share too.
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

# The first whose part stands in an operation's name. Names are those of PyTorch's dispatcher, the
# same on every device; what autograd and optimisers are called there takes next to no time itself.
KINDS = {
    "convolutions": ("conv",),
    "attention": ("attention",),
    "matrix products": ("mm",),
    "normalisation": ("group_norm", "layer_norm"),
    "copies": ("copy_", "aten::cat"),
}
ALL_ELSE = "all else"


def kind_of(operation: str) -> str:
    """Of an operation by its name, "aten::addmm" say."""
    found = (kind for kind, parts in KINDS.items() if any(part in operation for part in parts))
    return next(found, ALL_ELSE)


def profiled(work: Callable[[], object], device: torch.device) -> dict[str, float | None]:
    """Shares of the device's time by kind, the largest first, and how much of the time it was
    `busy`; None on a processor, which does nothing else."""
    work()  # what is only slow the first time is not the subject
    seconds = timing.seconds(work, device)
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_gpu]
    with profile(activities=activities) as observed:
        timing.seconds(work, device)
    spent_us = dict.fromkeys((*KINDS, ALL_ELSE), 0.0)
    for event in observed.key_averages():
        # kernels are events of their own as well as the time of the operations that started them
        if event.device_type == torch.autograd.DeviceType.CPU:
            of_one = event.self_device_time_total if on_gpu else event.self_cpu_time_total
            spent_us[kind_of(event.key)] += of_one
    total_us = sum(spent_us.values())
    shares = {kind: us / total_us for kind, us in sorted(spent_us.items(), key=lambda one: -one[1])}
    return {**shares, "busy": total_us / 1e6 / seconds if on_gpu else None}


def report(name: str, shares: dict[str, float | None]) -> str:
    said = ", ".join(f"{kind} {share:.0%}" for kind, share in shares.items() if kind != "busy")
    busy = shares["busy"]
    return f"{name}: {said}" + ("" if busy is None else f"; busy {busy:.0%} of the time")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="launch.py bench profile", description=__doc__)
    shapes.add_arguments(parser)
    parser.add_argument(
        "--objective", choices=tuple(OBJECTIVES), default=TrainingSettings().objective
    )
    parser.add_argument("--batch", type=int, default=8, help="pictures drawn at once")
    parser.add_argument("--steps", type=int, default=SamplingSettings().steps)
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--updates", type=int, default=8, help="of a round")
    parser.add_argument(
        "--preset",
        type=int,
        choices=[preset.gb for preset in memory.PRESETS],
        help="settings for so many GB; default: for the memory that is free",
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

        of = {work.__name__: profiled(work, denoiser.device) for work in (drawing, learning)}
        figures = {
            **of,
            "objective": few.objective,
            "preset_gb": preset.gb,
            "width_px": size_px,
            "model": denoiser.info.name,
            "device": timing.device_name(denoiser.device),
        }
    print(f"{figures['model']} at {size_px} px, {figures['device']}")
    for name, shares in of.items():
        print(report(name, shares))
    timing.write(arguments.json, figures)
    return 0
