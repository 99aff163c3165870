"""A round at its beginning: its pairs, and what other tastes of the artist give to it."""

from __future__ import annotations

from dataclasses import dataclass

from studio import models
from studio.engine.distributed import ProcessGroup
from studio.engine.training import Training
from studio.lora.tools import Lora, resize, summed
from studio.store import Adapter, Round, Store, StoreError
from studio.worker.errors import WorkerError
from studio.worker.renderer import Renderer
from studio.worker.round_pairs import read_pairs

FEWEST_TO_MIX = 8  # picks that say which earlier tastes a new one is like
MOST_TASTES = 6  # of other sessions; each is asked about every pick
LEAST_NAMED = 0.05  # the weight of a taste that is worth naming


@dataclass(frozen=True)
class Started:
    """left_out: picks; see `RoundPairs`. notes: sentences for the artist."""

    training: Training
    left_out: int
    notes: tuple[str, ...]


def start(renderer: Renderer, processes: ProcessGroup, round_: Round) -> Started:
    """The training of a round before its first update, on the model that is loaded.

    Raises WorkerError, ModelError or TrainingFailed with a sentence.
    """
    store, denoiser = renderer.store, renderer.denoiser
    assert denoiser is not None
    pairs = read_pairs(store, denoiser, round_)
    training = Training(
        denoiser,
        pairs.train,
        round_.settings,
        pairs.held_out,
        renderer.preset,
        processes,
        beside=_beside(renderer, round_),
    )
    notes = _begin_from_tastes(renderer, training, round_) if round_.settings.from_tastes else ()
    return Started(training, pairs.left_out, notes)


def _beside(renderer: Renderer, round_: Round) -> models.ReadAdapter | None:
    """The other taste that a round is to learn beside."""
    if round_.settings.beside is None:
        return None
    advice = "Choose another one under “Beside another taste” on the Train tab, or none."
    try:
        adapter = renderer.store.adapter(round_.settings.beside)
    except StoreError as error:
        raise WorkerError(f"The other taste of this round does not exist. {advice}") from error
    if not renderer.store.has_session(adapter.session_id):
        raise WorkerError(f"The session of this round's other taste was deleted. {advice}")
    assert renderer.denoiser is not None
    if adapter.base_hash != renderer.denoiser.base_hash:
        raise WorkerError(
            f"The other taste of this round was learned with another base model. {advice}"
        )
    return renderer.read_adapter(adapter.id)


def _begin_from_tastes(renderer: Renderer, training: Training, round_: Round) -> tuple[str, ...]:
    """Begin with the mixture of the artist's other tastes that the picks point to.

    It depends on what was there when the round was requested, so that a round that is resumed
    begins as it did before.
    """
    tastes = _other_tastes(renderer.store, training.denoiser.base_hash, round_)
    if not tastes or len(training.pairs.of_two) < FEWEST_TO_MIX:
        return ()
    adapters = training.denoiser.adapters
    read = [adapters.read(renderer.whole_adapter(adapter.id)) for _, adapter in tastes]
    weights = training.mixture(read).tolist()
    terms = [
        (layer, part, weight)
        for (_, adapter), weight in zip(tastes, weights, strict=True)
        for layer, part in renderer.adapter_parts(adapter).items()
    ]
    nearest, _ = resize(Lora("diffusers", summed(terms), {}), round_.settings.rank)
    adapters.begin_with(nearest.parts)
    named = [
        f"“{name}” at {round(100 * weight)} %"
        for (name, _), weight in zip(tastes, weights, strict=True)
        if weight >= LEAST_NAMED
    ]
    return (f"It began from {', '.join(named)}.",) if named else ()


def _other_tastes(store: Store, base_hash: str, round_: Round) -> list[tuple[str, Adapter]]:
    """The newest adapter of each other session for a base model, by the session's name."""
    newest: dict[str, tuple[str, Adapter]] = {}
    for name, adapter in store.tastes(base_hash):
        is_earlier = adapter.created_at_s <= round_.created_at_s
        if adapter.session_id != round_.session_id and is_earlier:
            newest.setdefault(adapter.session_id, (name, adapter))
    return list(newest.values())[:MOST_TASTES]
