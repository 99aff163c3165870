"""Adapters as the tabs name them, and the strength that exams recommend for one."""

from __future__ import annotations

from studio.messages import _
from studio.statistics import recommended_strength, tallies
from studio.ui import words
from studio.ui.snapshot import StoreSnapshot


def adapter_choices(snapshot: StoreSnapshot) -> list[tuple[str, str]]:
    """(label, adapter id) of every round that produced an adapter, newest first."""
    return [
        (
            _(
                "Round {number} · {picks}",
                number=adapter.number,
                picks=words.picks(adapter.picks),
            ),
            adapter.id,
        )
        for adapter in reversed(snapshot.adapters)
    ]


def round_number(snapshot: StoreSnapshot, adapter_id: str | None) -> int | str:
    """The number of an adapter's round; "?" if the adapter is not in this session."""
    return next((a.number for a in snapshot.adapters if a.id == adapter_id), "?")


def best_strength(snapshot: StoreSnapshot, adapter_id: str | None) -> float | None:
    """The strength that an adapter's exams recommend, if any."""
    if adapter_id is None:
        return None
    return recommended_strength(tallies(snapshot.store.exams(snapshot.session.id, adapter_id)))
