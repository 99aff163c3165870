"""The picks of a round, with their latents, read into batches of pairs."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial, reduce
from operator import or_
from types import MappingProxyType

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor

from studio import models
from studio.engine import trajectory
from studio.engine.objective import reads_only_final
from studio.engine.orders import counted
from studio.engine.trajectory import PairBatch, Trajectory
from studio.models import INVERSIONS
from studio.prompting.mismatched import mismatched
from studio.settings import MARKS_ACROSS
from studio.store import Image, LonePictures, PickedPair, Round, Store, StoreDamaged
from studio.store.files import require_whole
from studio.worker.errors import WorkerError

log = logging.getLogger("studio.worker")

NO_MARKS: Mapping[str, Mapping[str, int]] = MappingProxyType({})
# How probable it is that the chosen picture is the better one, by what the artist said of it.
BETTER, MUCH_BETTER = 0.75, 1.0


@dataclass(frozen=True)
class RoundPairs:
    """left_out: the number of picks whose files are missing or changed.

    Pictures alone come last in `train`, so that pairs are looked at as they are without them.
    `train` is looked at where the artist marked it. `held_out` is not, as nobody marks a new pair.
    """

    train: PairBatch
    held_out: PairBatch | None
    left_out: int


def read_pairs(store: Store, denoiser: models.Denoiser, round_: Round) -> RoundPairs:
    """The pairs of a round, as its settings want them. Raises WorkerError if none can be read."""
    settings = round_.settings
    only_final = reads_only_final(settings)
    holding = {one.pick.id: one for one in store.picked_pairs(round_.session_id)}
    chains = _Chains(store, denoiser, only_final)

    def readable(pick_ids: Iterable[str]) -> list[PickedPair]:
        existing = (holding[id_] for id_ in pick_ids if id_ in holding)
        return [one for one in existing if all(map(chains.of, one.images))]

    train, held_out = readable(round_.train_pick_ids), readable(round_.held_out_pick_ids)
    favourites = store.images_of(round_.favourite_ids)
    lone = LonePictures(
        favourites=tuple(filter(chains.of, favourites)),
        both_bad=tuple(one for one in train if one.pick.choice == "both_bad"),
    )
    better = [one for one in train if one.pick.choice != "both_bad"]
    beside: dict[str, list[Image]] = {}
    if settings.favourites_alone:
        beside = store.shown_beside(round_.session_id, round_.favourite_ids)
    sides = [
        *map(partial(chains.of_pick, marks=marks_of_questions(holding.values())), better),
        *(
            (chains.of(image), other)
            for image in lone.favourites
            for other in _others(chains, beside.get(image.id, []), round_) or [None]
        ),
        *((None, chains.of(image)) for image in lone.bad),
    ]
    if not sides:
        raise WorkerError(
            "The files of all picks of this round are missing, or they are pictures of a folder or "
            "of your own: D3PO learns from the steps of a drawing. Choose Diffusion-DPO for them."
            if not only_final
            else "The files of all picks of this round are missing."
        )
    sure = [MUCH_BETTER if one.pick.much_better else BETTER for one in better]
    sure += [MUCH_BETTER] * (len(sides) - len(better))
    batch = PairBatch.of(
        sides,
        only_final,
        sure if settings.count_strength else None,
        mismatched if settings.keep_to_prompt else None,
        settings.keep_to_prompt,
    )
    return RoundPairs(
        counted(batch, settings.orders),
        PairBatch.of([chains.of_pick(one) for one in held_out], only_final) if held_out else None,
        len(round_.train_pick_ids + round_.held_out_pick_ids) - len(train + held_out),
    )


def _others(chains: _Chains, beside: list[Image], round_: Round) -> list[Trajectory]:
    """Those of the pictures beside a favourite that are none, and that can share its round."""
    favourites = set(round_.favourite_ids)
    return [
        chain
        for image in beside
        if image.id not in favourites and (chain := chains.of(image)) is not None
    ]


def marks_of_questions(picked: Iterable[PickedPair]) -> dict[str, dict[str, int]]:
    """By question and image: the marks, as the number that they are the digits of."""
    found: dict[str, dict[str, int]] = {}
    for one in picked:
        for image_id, marks in one.marks.items():
            found.setdefault(one.pair.question_id, {})[image_id] = int(marks, 16)
    return found


def places_of(marks: int, size: tuple[int, int]) -> Tensor:
    """(h, w): the share of each place of a latent that is marked."""
    bits = torch.tensor([int(bit) for bit in f"{marks:0{MARKS_ACROSS**2}b}"], dtype=torch.float)
    return F.adaptive_avg_pool2d(bits.view(1, 1, MARKS_ACROSS, MARKS_ACROSS), size)[0, 0]


class _Chains:
    """The trajectories of pictures. Each is read once: a picture of a grid is in several pairs."""

    def __init__(self, store: Store, denoiser: models.Denoiser, only_final: bool) -> None:
        self._store, self._denoiser, self._only_final = store, denoiser, only_final
        self._read: dict[str, Trajectory | None] = {}
        self._marked: dict[tuple[str, str], Trajectory] = {}

    def of(self, image: Image) -> Trajectory | None:
        """That of a picture; None if its file is missing or damaged, or if its prompts name a
        textual inversion that has changed since it was drawn."""
        if image.id not in self._read:
            self._read[image.id] = self._load(image) if self._has_same_inversions(image) else None
        return self._read[image.id]

    def of_pick(
        self, picked: PickedPair, marks: Mapping[str, Mapping[str, int]] = NO_MARKS
    ) -> tuple[Trajectory, Trajectory]:
        """The (chosen, rejected) ones of a pick of left or right, which can be read.

        marks: those of `marks_of_questions`. A picture without any is looked at where the others of
        its question are marked: a gain there is compared with the gain at the same places.
        """
        marked = marks.get(picked.pair.question_id, {})
        everyones = reduce(or_, marked.values(), 0)
        sides = [self._at(image, marked.get(image.id, everyones)) for image in picked.images]
        chosen, rejected = sides if picked.pick.choice == "left" else sides[::-1]
        return chosen, rejected

    def _at(self, image: Image, marks: int) -> Trajectory:
        """The same object for the same marks, so that they are one picture of a batch."""
        chain = self._read[image.id]
        if not marks:
            return chain
        if (image.id, marks) not in self._marked:
            places = places_of(marks, chain.latents.shape[-2:])
            self._marked[image.id, marks] = replace(chain, places=places)
        return self._marked[image.id, marks]

    def _load(self, image: Image) -> Trajectory | None:
        path = self._store.trajectory_path(image)
        try:
            require_whole(path, image.trajectory_sha256)
            chain = trajectory.load(path, self._only_final)
            if not self._only_final and len(chain.latents) == 1:
                log.warning("A picture is left out: how %s was drawn is not known", image.id)
                return None
            return chain
        except (OSError, SafetensorError, ValueError, KeyError, StoreDamaged):
            log.warning("A picture is left out: %s cannot be read", path.name, exc_info=True)
            return None

    def _has_same_inversions(self, image: Image) -> bool:
        now = self._denoiser.companions([image.prompt, image.sampling.negative_prompt])
        if now.get(INVERSIONS, "") == image.companions.get(INVERSIONS, ""):
            return True
        log.warning("Picture %s is left out: a textual inversion has changed", image.id)
        return False
