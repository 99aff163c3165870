"""Trajectories (the stored latents of a rollout), and batches of pairs for training."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from studio.maths.objectives import ALIKE, Counts, balance
from studio.settings import SamplingSettings

ABSENT = -1  # the index of a side that a pair lacks

# From the prompts of pictures to as many that they do not fit.
WrongPrompts = Callable[[Sequence[str]], Sequence[str]]


class MixedSettingsError(ValueError):
    """Pairs made with different settings cannot share a round; the message is a sentence."""


@dataclass(frozen=True)
class Trajectory:
    """One denoising chain: latents (T+1, C, h, w) from noise to image, timesteps (T,) descending.

    Step i takes latents[i] at timesteps[i] to latents[i + 1]. The settings that made the chain are
    stored with it. If only the final latent is kept, latents is (1, C, h, w).
    places: (h, w) from 0 to 1, where the picture is looked at, see `schedules.mean_over`; None:
    everywhere. They belong to a pick, and are not stored with the chain.
    """

    latents: Tensor
    timesteps: Tensor
    prompt: str
    seed: int
    settings: SamplingSettings
    base_hash: str
    places: Tensor | None = None

    def __post_init__(self) -> None:
        whole = len(self.timesteps) + 1
        if self.latents.ndim != 4 or len(self.latents) not in (1, whole):
            raise ValueError(
                f"a trajectory of {len(self.timesteps)} steps needs latents of shape "
                f"({whole}, C, h, w), or (1, C, h, w), not {tuple(self.latents.shape)}"
            )
        if len(self.timesteps) > 1 and not bool((self.timesteps.diff() < 0).all()):
            raise ValueError("timesteps must be descending")


@dataclass(frozen=True)
class PairBatch:
    """N pairs of M pictures, made with the same settings; each picture is stored once.

    A side of a pair may be ABSENT: the other stands alone, as good or as bad by itself.
    latents: (M, T+1, C, h, w) float32, or (M, 1, C, h, w) with the final ones only; prompts: M;
    chosen, rejected: (N,) indices of the pictures; timesteps: (T,); counts: numbers (N,).
    again: how many of the last pictures are earlier ones under a prompt that they do not fit.
    places: (M, 1, h, w), of each picture; None: all are looked at everywhere.
    """

    latents: Tensor
    prompts: tuple[str, ...]
    chosen: Tensor
    rejected: Tensor
    timesteps: Tensor
    settings: SamplingSettings
    base_hash: str
    counts: Counts = ALIKE
    again: int = 0
    places: Tensor | None = None

    @property
    def shown(self) -> int:
        """The number of different pictures, which come first."""
        return len(self.latents) - self.again

    def places_at(self, pictures: list[int], device: torch.device) -> Tensor | None:
        """(pictures, 1, h, w), where these pictures are looked at; None: everywhere."""
        return None if self.places is None else self.places[pictures].to(device)

    def __len__(self) -> int:
        return len(self.chosen)

    @classmethod
    def of(
        cls,
        pairs: Sequence[tuple[Trajectory | None, Trajectory | None]],
        only_final: bool = False,
        certainty: Sequence[float] | None = None,
        wrong_prompts: WrongPrompts | None = None,
        prompt_weight: float = 1.0,
    ) -> PairBatch:
        """From (chosen, rejected) trajectories; with their final latents only, if `only_final`.

        None stands for a side that is absent; sides alone are weighed by `objectives.balance`.
        certainty: of each pair the probability a that its chosen picture is the better one. It
        counts 2a - 1 (SmPO, arXiv 2506.02698, eq. 9). None counts all pairs alike.
        wrong_prompts: makes of the prompts of pictures as many that they do not fit. Each picture
        that was chosen and never rejected is then the chosen side of a further pair, of which the
        rejected side is the same picture under such a prompt (TDPO, arXiv 2509.25771). These pairs
        have the weight `prompt_weight`, and share the draws of the picture's own ones.

        A trajectory in several pairs (the same object) becomes one picture of the batch. Raises
        MixedSettingsError for pictures of several base models or of settings that may not share a
        round, and ValueError for no pairs, and for a pair with two prompts or without a side.
        """
        if not pairs or (None, None) in pairs:
            raise ValueError("a batch needs at least one pair, and a pair at least one side")
        pictures = {id(side): side for pair in pairs for side in pair if side is not None}
        first = next(iter(pictures.values()))
        for trajectory in pictures.values():
            if trajectory.base_hash != first.base_hash:
                raise MixedSettingsError(
                    "The picks come from different base models; a round can learn from only one."
                )
            if not first.settings.may_share_a_round_with(trajectory.settings):
                raise MixedSettingsError(
                    "The picks were made with different steps, guidance or size; "
                    "a round can learn from only one kind."
                )
        if any(
            chosen.prompt != rejected.prompt for chosen, rejected in pairs if chosen and rejected
        ):
            raise ValueError("the two sides of a pair must share their prompt")
        further = _asked_again(pairs, wrong_prompts) if wrong_prompts else []
        weights = [1.0] * len(pairs) + [prompt_weight] * len(further)
        if certainty is not None:
            certainty = [*certainty, *(1.0 for _ in further)]
        pairs = [*pairs, *further]
        pictures |= {id(again): again for _, again in further}
        index = {key: number for number, key in enumerate(pictures)} | {id(None): ABSENT}
        chosen, rejected = (
            torch.tensor([index[id(pair[side])] for pair in pairs]) for side in (0, 1)
        )
        start = -1 if only_final else 0
        return cls(
            latents=torch.stack([picture.latents[start:].float() for picture in pictures.values()]),
            prompts=tuple(picture.prompt for picture in pictures.values()),
            chosen=chosen,
            rejected=rejected,
            timesteps=first.timesteps,
            settings=first.settings,
            base_hash=first.base_hash,
            counts=_counts(chosen == ABSENT, rejected == ABSENT, certainty, weights),
            again=len(further),
            places=_places(list(pictures.values())),
        )

    @property
    def of_two(self) -> list[int]:
        """The indices of pairs of two different pictures."""
        pairs = range(len(self) - self.again)
        return [p for p in pairs if ABSENT not in (self.chosen[p], self.rejected[p])]

    def groups(self) -> list[list[int]]:
        """Pair indices, grouped by shared pictures: the pairs of one ranking form a group."""
        groups: list[tuple[set[int], list[int]]] = []
        for pair, sides in enumerate(torch.stack([self.chosen, self.rejected], 1).tolist()):
            pictures, members = set(sides) - {ABSENT}, [pair]
            for known in [group for group in groups if group[0] & pictures]:
                groups.remove(known)
                pictures |= known[0]
                members = known[1] + members
            groups.append((pictures, sorted(members)))
        return sorted(members for _, members in groups)

    def most_pictures(self, groups: list[list[int]]) -> int:
        """The number of pictures in the group that has most, those that come again included."""
        return max(map(len, self._pictures_of(groups)))

    def most_shown(self, groups: list[list[int]]) -> int:
        """The number of different pictures in the group that has most."""
        shown = range(self.shown)
        return max(len(pictures & set(shown)) for pictures in self._pictures_of(groups))

    def _pictures_of(self, groups: list[list[int]]) -> list[set[int]]:
        return [
            {int(side[pair]) for side in (self.chosen, self.rejected) for pair in group} - {ABSENT}
            for group in groups
        ]


def _places(pictures: Sequence[Trajectory]) -> Tensor | None:
    """(M, 1, h, w), with ones for a picture without places; None if none has any."""
    if all(picture.places is None for picture in pictures):
        return None
    everywhere = torch.ones(pictures[0].latents.shape[-2:])
    places = [everywhere if one.places is None else one.places for one in pictures]
    return torch.stack(places)[:, None]


def _counts(
    no_chosen: Tensor,
    no_rejected: Tensor,
    certainty: Sequence[float] | None,
    weights: Sequence[float],
) -> Counts:
    """From which sides (N,) are absent, and the certainty and the weight of each pair."""
    inner = None if certainty is None else 2 * torch.tensor(certainty) - 1
    outer = torch.tensor(weights) if set(weights) != {1.0} else None
    alone = no_chosen | no_rejected
    if not alone.any():
        return Counts(inner, outer=outer)
    balanced = balance(no_rejected, no_chosen)
    return Counts(inner, outer=balanced if outer is None else outer * balanced, alone=alone)


def _asked_again(
    pairs: Sequence[tuple[Trajectory | None, Trajectory | None]], wrong_prompts: WrongPrompts
) -> list[tuple[Trajectory, Trajectory]]:
    """(picture, the same under a wrong prompt) for those that were chosen and never rejected."""
    rejected = {id(side) for _, side in pairs}
    best = {id(side): side for side, _ in pairs if side is not None and id(side) not in rejected}
    wrong = wrong_prompts([picture.prompt for picture in best.values()])
    return [
        (picture, replace(picture, prompt=prompt))
        for picture, prompt in zip(best.values(), wrong, strict=True)
    ]


def save(path: Path, trajectory: Trajectory) -> None:
    """Write latents in float16 (half the space) with their settings in the header.

    Training reads the stored values, so policy and reference see the same rounding.
    """
    tensors = {
        "latents": trajectory.latents.half().contiguous().cpu(),
        "timesteps": trajectory.timesteps.contiguous().cpu(),
    }
    metadata = {
        "prompt": trajectory.prompt,
        "seed": str(trajectory.seed),
        "settings": json.dumps(trajectory.settings.to_dict()),
        "base_hash": trajectory.base_hash,
    }
    save_file(tensors, path, metadata=metadata)


def load(path: Path, only_final: bool = False) -> Trajectory:
    """Read a file that `save` wrote; only the final latent, if `only_final`.

    Raises OSError, SafetensorError or ValueError for a damaged file.
    """
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        stored, timesteps = file.get_slice("latents"), file.get_tensor("timesteps")
        latents = stored[stored.get_shape()[0] - 1 :] if only_final else stored[:]
    if not bool(torch.isfinite(latents).all()):
        raise ValueError(f"{path.name} holds values that are not numbers")
    return Trajectory(
        latents=latents,
        timesteps=timesteps,
        prompt=metadata["prompt"],
        seed=int(metadata["seed"]),
        settings=SamplingSettings.from_dict(json.loads(metadata["settings"])),
        base_hash=metadata["base_hash"],
    )
