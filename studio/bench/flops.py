"""Utilisation of a GPU: counted operations against its peak."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

# Dense half-precision TFLOP/s by the makers' data sheets. A name that contains another one comes
# before it.
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
    """Floating-point operations of `call` in matrix products, convolutions and attention.

    Recomputation by gradient checkpointing counts.
    """
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def utilisation(flops_per_s: float, device: torch.device) -> float | None:
    """The share of the GPU's peak; None if the peak is unknown, as on a processor."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    peak = next((value for known, value in PEAK_TFLOPS.items() if known in name), None)
    return None if peak is None else flops_per_s / (peak * 1e12)
