"""What the processes of a crew do that do not lead: they learn with the one that does.

They know nothing of the store: what they need is told them, and they write nothing but their log.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from studio import models
from studio.crew import Crew, CrewLost
from studio.settings import StartLora, TrainingSettings
from studio.training import Training, TrainingFailed
from studio.trajectory import PairBatch

log = logging.getLogger("studio.worker")

UPDATE = "update"
LEAVE = "leave"


@dataclass(frozen=True)
class Begin:
    """The order to take up a round."""

    base: tuple[str, StartLora | None]
    pairs: PairBatch
    settings: TrainingSettings
    state: dict[str, Any]  # of the leader's training


def begin(crew: Crew, base: tuple[str, StartLora | None], training: Training) -> None:
    """For the leader: have all others take up the training where it is now.

    Raises TrainingFailed with what the first of them says that cannot.
    """
    if crew.size == 1:
        return
    crew.told(Begin(base, training.pairs, training.settings, training.state()))
    for answer in crew.gathered(""):
        if answer:
            raise TrainingFailed(f"Another of the processes cannot take part. {answer}")


def follow(crew: Crew, device: str) -> None:
    """For the others: do what the leader says, until it says to leave."""
    denoiser, training = None, None
    while (order := crew.told()) != LEAVE:
        if isinstance(order, Begin):
            training, answer = None, ""
            try:
                if denoiser is None or denoiser.base_hash != order.pairs.base_hash:
                    denoiser = None  # before there is another
                    base_model, start = order.base
                    denoiser = models.load(base_model, device, start=start)
                training = Training(denoiser, order.pairs, order.settings, crew=crew)
                training.load_state(order.state)
            except Exception as error:
                log.error("A round cannot be taken up", exc_info=error)
                answer = str(error)
            crew.gathered(answer)
        elif training is None:
            raise CrewLost("This process is not at the round that the others are at.")
        else:
            try:
                training.step()
            except TrainingFailed as error:
                log.warning("%s", error)  # which the leader knows, too
                training = None
            except CrewLost:
                raise
            except Exception as error:
                log.error("An update failed", exc_info=error)
                training = None
