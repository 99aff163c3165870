"""Followers: processes that train and draw under the commands of the main process.

They never open the store: every command carries its data, and they write nothing but their log.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from studio import models
from studio.engine import sampling
from studio.engine.distributed import ProcessGroup, ProcessLost
from studio.engine.training import Training, TrainingFailed
from studio.engine.trajectory import PairBatch, Trajectory
from studio.settings import SamplingSettings, StartLora, TrainingSettings

log = logging.getLogger("studio.worker")

UPDATE = "update"
LEAVE = "leave"


@dataclass(frozen=True)
class StartRound:
    """The command to take up a round."""

    base: tuple[str, StartLora | None]
    pairs: PairBatch
    settings: TrainingSettings
    state: dict[str, Any]  # of the main process's training
    beside: models.ReadAdapter | None


@dataclass(frozen=True)
class SamplePairs:
    """The command to draw pairs, or grids. One process draws all pictures of a pair.

    base_hash: of the main process's model. adapter: as `Adapters.read` gives it, or None.
    """

    base: tuple[str, StartLora | None]
    base_hash: str
    adapter: Any
    texts: list[str]
    seeds: list[int]
    sampling: SamplingSettings
    pictures: int


def start_round(
    processes: ProcessGroup, base: tuple[str, StartLora | None], training: Training
) -> None:
    """Main process: have all followers take up the training in its present state.

    Raises TrainingFailed with the first follower's error.
    """
    if processes.size == 1:
        return
    processes.broadcast(
        StartRound(base, training.pairs, training.settings, training.state(), training.beside)
    )
    for answer in processes.all_gather(""):
        if answer:
            raise TrainingFailed(f"Another of the worker's processes cannot take part. {answer}")


def sample_pairs(
    processes: ProcessGroup, denoiser: models.Denoiser, order: SamplePairs
) -> list[list[Trajectory]]:
    """Main process: draw on all processes; gives the trajectories in the order of the texts.

    The followers always finish their shares. Raises ModelError with the first follower's error.
    """
    processes.broadcast(order)
    failure: Exception | None = None
    try:
        mine = _draw_share(processes, denoiser, order)
    except Exception as error:
        mine, failure = [], error
    shares = processes.all_gather(mine)
    if failure is not None:
        raise failure
    for share in shares:
        if isinstance(share, str):
            raise models.ModelError(f"Another of the worker's processes could not draw. {share}")
    return [
        shares[index % processes.size][index // processes.size] for index in range(len(order.texts))
    ]


def _draw_share(
    processes: ProcessGroup, denoiser: models.Denoiser, order: SamplePairs
) -> list[list[Trajectory]]:
    """Draw this process's share of a command, one pair after another."""
    with denoiser.adapters.using_read([(order.adapter, 1.0)] if order.adapter else []):
        return [
            chains
            for text, seed in zip(
                processes.shard(order.texts), processes.shard(order.seeds), strict=True
            )
            for chains in sampling.sample_groups(
                denoiser, [text], [seed], order.sampling, order.pictures
            )
        ]


def _load(base: tuple[str, StartLora | None], device: str) -> models.Denoiser:
    base_model, start = base
    return models.load(base_model, device, start=start)


def run(processes: ProcessGroup, device: str) -> None:
    """Follower: carry out the main process's commands until LEAVE."""
    denoiser, training = None, None
    while (order := processes.broadcast()) != LEAVE:
        if isinstance(order, StartRound):
            training, answer = None, ""
            try:
                if denoiser is None or denoiser.base_hash != order.pairs.base_hash:
                    denoiser = None  # frees its memory before the next is loaded
                    denoiser = _load(order.base, device)
                training = Training(
                    denoiser,
                    order.pairs,
                    order.settings,
                    processes=processes,
                    beside=order.beside,
                )
                training.load_state(order.state)
            except Exception as error:
                log.error("A round cannot be taken up", exc_info=error)
                answer = str(error)
            processes.all_gather(answer)
        elif isinstance(order, SamplePairs):
            try:
                if denoiser is None or denoiser.base_hash != order.base_hash:
                    denoiser = training = None  # frees its memory before the next is loaded
                    denoiser = _load(order.base, device)
                answer = _draw_share(processes, denoiser, order)
            except Exception as error:
                log.error("Nothing was drawn", exc_info=error)
                answer = str(error)
            processes.all_gather(answer)
        elif training is None:
            raise ProcessLost("This process has no round, and the other processes train one.")
        else:
            try:
                training.learn()  # the main process measures alone
            except TrainingFailed as error:
                log.warning("%s", error)  # the main process knows of it, too
                training = None
            except ProcessLost:
                raise
            except Exception as error:
                log.error("An update failed", exc_info=error)
                training = None
