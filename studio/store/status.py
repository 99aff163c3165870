"""What the worker reports about itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

WorkerState = Literal["starting", "idle", "sampling", "training", "rendering", "exporting", "error"]


@dataclass(frozen=True)
class RoundProgress:
    """How far the worker is with a round. It begins anew with the worker."""

    round_id: str
    step: str  # what it does now, for the artist: "Drawing test pictures, 3 of 12"
    share: float  # 0 to 1: of the time that the whole round takes
    left_s: float | None  # of all steps that remain; None: not measured yet


@dataclass(frozen=True)
class WorkerStatus:
    """The worker's last report about itself."""

    pid: int
    state: WorkerState
    message: str
    device: str
    heartbeat_at_s: float
    round: RoundProgress | None = None  # of the round in training
