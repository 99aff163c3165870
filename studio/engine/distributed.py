"""Several processes that train and draw together, as `accelerate launch` or `torchrun` starts them.

The first of them leads: it alone knows of the store and of files, and tells the others what to do.
What goes between them is small, orders, latents and the gradients of a LoRA, and goes through the
memory of the CPU (gloo): the same on every device, and no device waits busily while there is
nothing to do.
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

PATIENCE = timedelta(days=3650)  # an artist may come back to a studio that was left open


class ProcessLost(Exception):
    """Another of the processes is gone, and with it what all of them were at."""


class ProcessGroup:
    """The processes that work together, seen from one of them: number `rank` of `size`."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size

    @property
    def is_main_process(self) -> bool:
        return self.rank == 0

    def shard(self, of: Any) -> Any:
        """What of a list or tensor, which all of them have, is for this process to do."""
        return of[self.rank :: self.size]

    def broadcast(self, message: Any = None) -> Any:
        """What the leader says, on all of them; the others wait until it does."""
        box = [message]
        if self.size > 1:
            with _noticing_loss():
                dist.broadcast_object_list(box, src=0)
        return box[0]

    def all_gather(self, message: Any) -> list[Any]:
        """What each of them says, in their order, on all of them."""
        box = [message] * self.size
        if self.size > 1:
            with _noticing_loss():
                dist.all_gather_object(box, message)
        return box

    def all_reduce(self, tensors: list[Tensor]) -> None:
        """Puts into tensors of the same shapes on all of them their sums over the processes."""
        if self.size == 1:
            return
        together = torch.cat([tensor.detach().flatten().float().cpu() for tensor in tensors])
        with _noticing_loss():
            dist.all_reduce(together)
        parts = together.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))


SINGLE_PROCESS = ProcessGroup()


@contextlib.contextmanager
def _noticing_loss() -> Iterator[None]:
    """A connection that breaks is a process that is gone."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessLost(
            "Another of the processes that work together has ended; all are started again."
        ) from error


@contextlib.contextmanager
def process_group() -> Iterator[ProcessGroup]:
    """The crew that this process was started into; of one process, if by itself."""
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
    """Of a machine with several devices of a kind, the one for this process."""
    if device != "cuda":
        return device
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
