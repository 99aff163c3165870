"""How the server's answer to a pick grows with the picks of its session: a part of clicks-latency.

Two sessions of one home differ only in how many picks they have. Both have had a round over all of
them. The same requests as the page sends are answered by a whole studio, in turn for the one and
the other: only the ratio means anything.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

from studio.bench.page_client import Tab
from studio.bench.served import PROMPTS, studio
from studio.settings import SamplingSettings, SessionSettings
from studio.store import Image, Store

BLOCK = 5  # answers for one session before it is the other's turn
WARM_UP = 3  # answers at the start of a block that are not counted
QUEUE = 16  # pairs that always wait: no more is drawn meanwhile


def measure(few: int, many: int, picks: int) -> dict[str, Any]:
    """The medians of `picks` answers for each session, and their ratio."""
    blocks = max(2, -(-picks // BLOCK))
    times: dict[int, list[list[float]]] = {few: [], many: []}
    with (
        tempfile.TemporaryDirectory(prefix="d3po-growth-", ignore_cleanup_errors=True) as folder,
        closing(Store.open(folder)) as store,
    ):
        waiting = blocks * (BLOCK + WARM_UP) + QUEUE
        sessions = {number: session_with(store, number, waiting) for number in (few, many)}
        with studio(Path(folder)) as url, closing(Tab(url)) as tab:
            for _ in range(blocks):
                for number, session_id in sessions.items():
                    store.set_last_session(session_id)
                    times[number].append(answer(store, tab, session_id))
    of_few, of_many = (
        [statistics.median(block) for block in times[number]] for number in (few, many)
    )
    ratios = [b / a for a, b in zip(of_few, of_many, strict=True)]
    return {
        "few": few,
        "many": many,
        "answers": blocks * BLOCK,
        "few_ms": statistics.median(of_few),
        "many_ms": statistics.median(of_many),
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
    }


def session_with(store: Store, picks: int, waiting: int) -> str:
    """The id of a session with so many picks, a round over them that ended, and a queue."""
    settings = SessionSettings(
        prompts=PROMPTS, sampling=SamplingSettings(steps=4), live=False, queue_target=1
    )
    session_id = store.create_session(f"{picks} picks", settings).id

    def image() -> Image:
        return Image(
            id=store.new_image_id(),
            session_id=session_id,
            purpose="pair",
            prompt=PROMPTS[0],
            seed=0,
            adapter_id=None,
            strength=1.0,
            sampling=settings.sampling,
            base_hash="made up",
            created_at_s=time.time(),
        )

    for number in range(picks):
        pair = store.add_pair(session_id, PROMPTS[0], image(), image(), None)
        store.add_answer(uuid.uuid4().hex, pair.id, ("left", "right")[number % 2])
    store.stop_round(store.request_round(session_id).id)
    for _ in range(waiting):
        store.add_pair(session_id, PROMPTS[0], image(), image(), None)
    return session_id


def answer(store: Store, tab: Tab, session_id: str) -> list[float]:
    """Milliseconds of a block of answers for the session that is open."""
    times = []
    for pair in store.waiting_pairs(session_id, BLOCK + WARM_UP):
        payload = {"pick_id": uuid.uuid4().hex, "pair_id": pair.id, "choice": "left"}
        began_s = time.perf_counter()
        tab.call("prefer", "pick", **payload, ranking=[], much_better=False, reason=None, marks={})
        times.append(1000 * (time.perf_counter() - began_s))
    return times[WARM_UP:]


def report(figures: dict[str, Any]) -> str:
    """The comparison in a sentence."""
    return (
        "The server answers a pick in {few_ms:.0f} ms in a session of {few} picks, and in "
        "{many_ms:.0f} ms in one of {many}: {ratio:.2f} times as long ({ratio_low:.2f} to "
        "{ratio_high:.2f}).".format(**figures)
    )
