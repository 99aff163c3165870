"""What the processes of a crew do that do not lead: they learn and draw with the one that does.

They know nothing of the store: what they need is told them, and they write nothing but their log.
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
    """The order to take up a round."""

    base: tuple[str, StartLora | None]
    pairs: PairBatch
    settings: TrainingSettings
    state: dict[str, Any]  # of the leader's training


@dataclass(frozen=True)
class SamplePairs:
    """The order to draw pairs, or grids. Each is drawn whole by one process, as if that were alone.

    base_hash: of the leader's model. adapter: as `Adapters.read` gives it, or None.
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
    """For the leader: have all others take up the training where it is now.

    Raises TrainingFailed with what the first of them says that cannot.
    """
    if processes.size == 1:
        return
    processes.broadcast(StartRound(base, training.pairs, training.settings, training.state()))
    for answer in processes.all_gather(""):
        if answer:
            raise TrainingFailed(f"Another of the processes cannot take part. {answer}")


def sample_pairs(
    processes: ProcessGroup, denoiser: models.Denoiser, order: SamplePairs
) -> list[list[Trajectory]]:
    """For the leader: all processes draw, and it has what they drew in the order of the texts.

    Where its own share is not wanted any more, the others draw theirs to the end. Raises
    ModelError with what the first of the others says that could not.
    """
    processes.broadcast(order)
    failure: Exception | None = None
    try:
        mine = _own_share(processes, denoiser, order)
    except Exception as error:
        mine, failure = [], error
    shares = processes.all_gather(mine)
    if failure is not None:
        raise failure
    for share in shares:
        if isinstance(share, str):
            raise models.ModelError(f"Another of the processes could not draw. {share}")
    return [
        shares[place % processes.size][place // processes.size] for place in range(len(order.texts))
    ]


def _own_share(
    processes: ProcessGroup, denoiser: models.Denoiser, order: SamplePairs
) -> list[list[Trajectory]]:
    """What of an order this process is to draw: one after the other, each with all its pictures."""
    adapter = (
        denoiser.adapters.using_read(order.adapter)
        if order.adapter
        else denoiser.adapters.using(None)
    )
    with adapter:
        return [
            chains
            for text, seed in zip(
                processes.shard(order.texts), processes.shard(order.seeds), strict=True
            )
            for chains in sampling.sample_groups(
                denoiser, [text], [seed], order.sampling, order.pictures
            )
        ]


def _loaded(base: tuple[str, StartLora | None], device: str) -> models.Denoiser:
    base_model, start = base
    return models.load(base_model, device, start=start)


def run(processes: ProcessGroup, device: str) -> None:
    """For the others: do what the leader says, until it says to leave."""
    denoiser, training = None, None
    while (order := processes.broadcast()) != LEAVE:
        if isinstance(order, StartRound):
            training, answer = None, ""
            try:
                if denoiser is None or denoiser.base_hash != order.pairs.base_hash:
                    denoiser = None  # before there is another
                    denoiser = _loaded(order.base, device)
                training = Training(denoiser, order.pairs, order.settings, processes=processes)
                training.load_state(order.state)
            except Exception as error:
                log.error("A round cannot be taken up", exc_info=error)
                answer = str(error)
            processes.all_gather(answer)
        elif isinstance(order, SamplePairs):
            try:
                if denoiser is None or denoiser.base_hash != order.base_hash:
                    denoiser = training = None  # before there is another
                    denoiser = _loaded(order.base, device)
                answer = _own_share(processes, denoiser, order)
            except Exception as error:
                log.error("Nothing was drawn", exc_info=error)
                answer = str(error)
            processes.all_gather(answer)
        elif training is None:
            raise ProcessLost("This process is not at the round that the others are at.")
        else:
            try:
                training.step()
            except TrainingFailed as error:
                log.warning("%s", error)  # which the leader knows, too
                training = None
            except ProcessLost:
                raise
            except Exception as error:
                log.error("An update failed", exc_info=error)
                training = None
