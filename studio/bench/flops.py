"""How much of what a GPU can compute is used."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

# Dense half-precision tensor operations a second, in units of 1e12, by the makers' data sheets; a
# name that holds another one stands before it.
PEAK_TFLOPS = {
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "RTX 4090": 165.0,
    "RTX 3090": 71.0,
}


def counted(call: Callable[[], object]) -> int:
    """Floating-point operations in matrix products, convolutions and attention while `call` runs.

    What gradient checkpointing computes twice counts twice.
    """
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def utilisation(flops_per_s: float, device: torch.device) -> float | None:
    """The share of the GPU's peak; None where the peak is not known, on a processor say."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    peak = next((value for known, value in PEAK_TFLOPS.items() if known in name), None)
    return None if peak is None else flops_per_s / (peak * 1e12)
