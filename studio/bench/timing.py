"""Timing of two ways to do the same work, alternating in one process: only their ratio counts."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """The duration of `call`, until the device has finished its work."""
    _wait_for(device)
    started_s = time.perf_counter()
    call()
    _wait_for(device)
    return time.perf_counter() - started_s


def in_turn(
    ours: Callable[[], object], baseline: Callable[[], object], repeats: int, device: torch.device
) -> tuple[list[float], list[float]]:
    """Seconds of each over `repeats`, alternating, so that other load slows both alike."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for call, own in zip((ours, baseline), times, strict=True):
            own.append(seconds(call, device))
    return times


def ratios(ours_per_s: list[float], baseline_per_s: list[float]) -> dict[str, float]:
    """The speed-up: the median over the repeats, and the extremes."""
    each = [a / b for a, b in zip(ours_per_s, baseline_per_s, strict=True)]
    return {"ratio": statistics.median(each), "ratio_low": min(each), "ratio_high": max(each)}


def device_name(device: torch.device) -> str:
    """The GPU's name, or the number of the processor's threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


def peak_memory_mb(device: torch.device) -> float | None:
    """Peak memory of the GPU, or else of this process; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        import resource
    except ImportError:  # Windows has none
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1e6 if sys.platform == "darwin" else most / 1e3


def forget_peak_memory(device: torch.device) -> None:
    """Reset the peak of the GPU; the peak of a process cannot be reset."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def use(figures: dict) -> str:
    """The known figures of the device's use, in words."""
    words = ""
    if figures["peak_memory_mb"] is not None:
        words += f", at most {figures['peak_memory_mb'] / 1e3:.1f} GB"
    if figures["tflops_per_s"] is not None:
        words += f", {figures['tflops_per_s']:.3g} TFLOP/s"
    if figures["utilisation"] is not None:
        words += f" ({figures['utilisation']:.0%} of the device's)"
    return words


def write(path: Path | None, figures: dict | list) -> None:
    if path is not None:
        path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
