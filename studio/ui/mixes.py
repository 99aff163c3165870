"""Mixes that were compared lately: the grid and the exam offer them beside the rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.messages import _
from studio.settings import MixPart, SettingsError
from studio.store import StoreError
from studio.ui import words
from studio.ui.snapshot import StoreSnapshot

MIX = "mix:"  # and a job's id: the value of a choice, which no adapter's id begins like
COMPARISONS = 40  # that are looked through
OFFERED = 6


@dataclass(frozen=True)
class KnownMix:
    """value: of the choice. parts: see `studio.settings.MixPart`; the first is a round of the
    session."""

    value: str
    name: str
    parts: list[dict[str, Any]]

    @property
    def asked(self) -> dict[str, Any]:
        """As a job or an exam keeps it (`studio.store.shapes.Mixed`)."""
        return {"name": self.name, "parts": self.parts, "hash": ""}

    @property
    def adapter_ids(self) -> list[str]:
        """The rounds in it, the session's own first."""
        return [part["adapter_id"] for part in self.parts if part.get("adapter_id")]


def known_mixes(snapshot: StoreSnapshot) -> list[KnownMix]:
    """Those whose comparison was drawn, the newest first, each once."""
    found: list[KnownMix] = []
    for job in snapshot.store.jobs(snapshot.session.id, kind="compare", limit=COMPARISONS):
        parts = job.payload.get("mix")
        is_known = any(one.parts == parts for one in found)
        if parts and job.state == "done" and not is_known and len(found) < OFFERED:
            found.append(KnownMix(MIX + job.id, name_of(snapshot, parts), parts))
    return found


def mix_choices(snapshot: StoreSnapshot) -> list[tuple[str, str]]:
    """(label, value) of the known mixes."""
    return [(_("Mix: {name}", name=one.name), one.value) for one in known_mixes(snapshot)]


def chosen_mixes(snapshot: StoreSnapshot, values: Sequence[str]) -> dict[str, KnownMix]:
    """The mixes among the values of choices. Raises SettingsError if one is not known any more."""
    known = {one.value: one for one in known_mixes(snapshot)}
    wanted = [value for value in values if value and value.startswith(MIX)]
    if not known.keys() >= set(wanted):
        raise SettingsError(_("This mix is not known any more: compare it again first."))
    return {value: known[value] for value in wanted}


def name_of(snapshot: StoreSnapshot, parts: Sequence[dict[str, Any]]) -> str:
    """`Blue things round 1 at 0.5 + my-style at -1`."""
    named = []
    for part in map(MixPart.from_dict, parts):
        if part.strength:
            name = Path(part.path).stem if part.path else _taste(snapshot, part.adapter_id or "")
            named.append(words.at_strength(name, part.strength, always=True))
    return " + ".join(named) or _("nothing")


def _taste(snapshot: StoreSnapshot, adapter_id: str) -> str:
    try:
        adapter = snapshot.store.adapter(adapter_id)
        name = snapshot.store.session(adapter.session_id).name
    except StoreError:
        return _("a round that is gone")
    if adapter.session_id == snapshot.session.id:
        return _("Round {number}", number=adapter.number)
    return _("{name} · round {number}", name=name, number=adapter.number)
