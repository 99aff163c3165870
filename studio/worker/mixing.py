"""Mixes: several tastes and LoRA files at once, each at its strength."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from studio.lora import format as lora_format
from studio.lora.format import LoraError, LoraFile, LowRank
from studio.lora.fuse import by_layer
from studio.lora.tools import Lora, resize, summed
from studio.paths import expanded
from studio.pictures.infotext import lora_tag
from studio.settings import MixPart
from studio.store import Adapter, Exam, Image, Session, Store
from studio.store.rows import MIX, Purpose
from studio.worker.errors import WorkerError
from studio.worker.renderer import Renderer


@dataclass(frozen=True)
class Mix:
    """The parts of a mix, or a single LoRA file, read and found to fit the loaded model.

    tastes: adapters of the store, by the names that the artist knows them by. remarks: a sentence
    about how each file fits.
    """

    renderer: Renderer
    tastes: tuple[tuple[str, Adapter, float], ...]
    files: tuple[tuple[LoraFile, float], ...]
    remarks: str

    @property
    def named(self) -> list[tuple[str, float]]:
        """Name and strength of every part."""
        tastes = [(name, strength) for name, _, strength in self.tastes]
        return tastes + [(file.path.stem, strength) for file, strength in self.files]

    @property
    def words(self) -> str:
        """`Blue things round 1 at 0.5, my-style at -1`."""
        named = (f"{name} at {strength:g}" for name, strength in self.named)
        return ", ".join(named) or "nothing, for every strength is 0"

    def applied(self) -> AbstractContextManager[None]:
        """Inside, the model draws with the mix."""
        assert self.renderer.denoiser is not None
        whole = self.renderer.whole_adapter
        return self.renderer.denoiser.with_mix(
            self.files, [(whole(adapter.id), strength) for _, adapter, strength in self.tastes]
        )

    def scaled(self, strength: float) -> Mix:
        """The same as one LoRA at this strength."""
        return replace(
            self,
            tastes=tuple((name, adapter, own * strength) for name, adapter, own in self.tastes),
            files=tuple((file, own * strength) for file, own in self.files),
        )

    @property
    def hash(self) -> str:
        """Of the contents of all parts and their strengths."""
        contents = [(adapter.sha256, strength) for _, adapter, strength in self.tastes]
        contents += [(file.sha256, strength) for file, strength in self.files]
        return hashlib.sha256(repr(contents).encode()).hexdigest()[:10]

    def image(
        self, session: Session, prompt: str, seed: int, purpose: Purpose = "compare"
    ) -> Image:
        """The row of a picture that is not drawn yet: what is mixed is part of its companions."""
        base = self.renderer.image(session, purpose, prompt, seed, None)
        if not self.named:
            return base
        mixed = {
            MIX: " ".join(lora_tag(*part) for part in self.named),
            f"{MIX} hash": self.hash,
        }
        return replace(base, companions=base.companions | mixed)

    @property
    def picks(self) -> int:
        """All picks that the tastes learned from. A round learns from those of earlier ones too."""
        most: dict[str, int] = {}
        for _, adapter, _ in self.tastes:
            most[adapter.session_id] = max(adapter.picks, most.get(adapter.session_id, 0))
        return sum(most.values())

    def as_one(self, rank: int) -> tuple[Mapping[str, LowRank], str]:
        """The mix as one LoRA, layers by diffusers' names, and in words how exact it is.

        rank: of that LoRA; 0 for the exact sum. Raises LoraError.
        """
        denoiser = self.renderer.denoiser
        assert denoiser is not None
        terms = []
        for _, adapter, strength in self.tastes:
            found = self.renderer.adapter_parts(adapter)
            terms += [(name, part, strength) for name, part in found.items()]
        for file, strength in self.files:
            found = by_layer(file, denoiser.network, denoiser.text_encoders)
            terms += [(name, part, strength) for name, part in found]
        if not terms:
            raise LoraError("Every strength of this mix is 0: there is nothing to save.")
        exact = Lora("diffusers", summed(terms), {})
        if not rank:
            return exact.parts, f"exact, of rank {exact.rank}"
        nearest, share = resize(exact, rank)
        return nearest.parts, (
            f"of rank {rank} instead of {exact.rank}: the layer that loses most keeps "
            f"{100 * share:.1f} % of its change"
        )


def read_mix(renderer: Renderer, session: Session, payload: dict[str, Any]) -> Mix | None:
    """The mix of a job; None if it has none. Raises like `mix_of`."""
    return mix_of(renderer, session, payload["mix"]) if payload.get("mix") else None


def mix_of(renderer: Renderer, session: Session, parts: list[dict[str, Any]]) -> Mix:
    """A mix of these parts. Those at strength 0 are left out.

    Raises WorkerError or ModelError with a sentence if a part does not fit the session's model.
    """
    denoiser = renderer.model_of(session)
    tastes, files, remarks = [], [], []
    for part in map(MixPart.from_dict, parts):
        if part.strength == 0:
            continue
        if part.path is not None:
            file = lora_format.read(expanded(part.path))
            remarks.append(f"{file.path.stem}: {denoiser.fit(file).words}")
            files.append((file, part.strength))
        else:
            name, adapter = _taste(renderer.store, part.adapter_id or "")
            if adapter.base_hash != denoiser.base_hash:
                raise WorkerError(
                    f"“{name}” does not fit this mix: it was made with another base model, or "
                    "started from another LoRA, than the session uses now. Leave it out."
                )
            tastes.append((name, adapter, part.strength))
    return Mix(renderer, tuple(tastes), tuple(files), " ".join(remarks))


def mix_of_exam(renderer: Renderer, session: Session, exam: Exam) -> Mix | None:
    """What an exam asks about, at its strength; None if it is a round alone.

    Raises WorkerError if one of the parts has changed since the first pair was drawn.
    """
    if exam.mix is None:
        return None
    mix = mix_of(renderer, session, exam.mix["parts"])
    if not exam.mix["hash"]:
        renderer.store.set_exam_hash(exam.id, mix.hash)
    elif exam.mix["hash"] != mix.hash:
        raise WorkerError(
            "A LoRA file of this mix has changed since the exam began, so that its pairs would be "
            "of two mixes. Leave the exam, and begin another one."
        )
    return mix.scaled(exam.strength)


def _taste(store: Store, adapter_id: str) -> tuple[str, Adapter]:
    """An adapter and its name. Raises WorkerError if its session was deleted."""
    adapter = store.adapter(adapter_id)
    if not store.has_session(adapter.session_id):
        raise WorkerError(
            f"This mix has round {adapter.number} of a session that was deleted: leave it out."
        )
    return f"{store.session(adapter.session_id).name} round {adapter.number}", adapter
