"""Several processes that train and draw together, as `accelerate launch` or `torchrun` starts them.

Only the main process (rank 0) knows the store and the files; it sends commands to the others.
Messages are small (commands, latents, the gradients of a LoRA) and go through CPU memory (gloo):
this works the same on every device, and an idle device does not busy-wait.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

PATIENCE = timedelta(days=3650)  # an idle studio may stay open for days before the next command


class ProcessLost(Exception):
    """Another process is gone, and the work of all processes with it."""


class ProcessGroup:
    """The cooperating processes, seen from process `rank` of `size`."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size

    @property
    def is_main_process(self) -> bool:
        return self.rank == 0

    def shard(self, items: Any) -> Any:
        """This process's part of a list or tensor that all processes hold."""
        return items[self.rank :: self.size]

    def broadcast(self, message: Any = None) -> Any:
        """Give the main process's message to all processes; the others wait for it."""
        messages = [message]
        if self.size > 1:
            with _noticing_loss():
                dist.broadcast_object_list(messages, src=0)
        return messages[0]

    def all_gather(self, message: Any) -> list[Any]:
        """Give the messages of all processes, in order of rank, to all processes."""
        messages = [message] * self.size
        if self.size > 1:
            with _noticing_loss():
                dist.all_gather_object(messages, message)
        return messages

    def all_reduce(self, tensors: list[Tensor]) -> None:
        """Replace the tensors, of the same shapes on all processes, by their sums over them."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.detach().flatten().float().cpu() for tensor in tensors])
        with _noticing_loss():
            dist.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))


SINGLE_PROCESS = ProcessGroup()


@contextlib.contextmanager
def _noticing_loss() -> Iterator[None]:
    """Turn a broken connection into ProcessLost."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessLost(
            "Another of the worker's processes has ended; all are started again."
        ) from error


@contextlib.contextmanager
def process_group() -> Iterator[ProcessGroup]:
    """The group that this process was started in; a group of one if started alone."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield SINGLE_PROCESS
        return
    dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield ProcessGroup(dist.get_rank(), size)
    finally:
        dist.destroy_process_group()


def local_device(device: str) -> str:
    """This process's own device on a machine with several GPUs."""
    if device != "cuda":
        return device
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
