"""How many connections there may be, and how long one may take to say what it wants.

uvicorn waits for ever for the rest of a request's head, and for as many as come. Here whoever was
not let in yet has a few seconds, and where there is no room for a newcomer, one of those goes: the
oldest from the address that has the most. So half a request cannot keep others out.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_CONNECTIONS = 256
PATIENCE_S = 10.0  # for whoever was not let in: it takes a browser a moment
LET_IN = "let_in"  # in the state of a request that the guard let in


class Connection(H11Protocol):
    """uvicorn's connection, which ends when it takes too long or when there are too many."""

    _since_s = 0.0  # when it began to wait for a request, on the loop's clock
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()
        if len(self.connections) > MOST_CONNECTIONS:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self._wait()
        super().on_response_complete()

    @property
    def is_let_in(self) -> bool:
        """Whether it is at a request that the guard let in."""
        at_work = self.cycle is not None and not self.cycle.response_complete
        return at_work and LET_IN in self.scope["state"]

    def _wait(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._since_s = self.loop.time()
        self._deadline = self.loop.call_later(PATIENCE_S, self._lose_patience)

    def _lose_patience(self) -> None:
        if not self.is_let_in:
            self._end()

    def _make_room(self) -> None:
        """End one that waits; perhaps this one itself."""
        waiting = [one for one in self.connections if not one.is_let_in]
        addresses = Counter(one.client and one.client[0] for one in waiting)
        [(busiest, _)] = addresses.most_common(1)
        theirs = [one for one in waiting if (one.client and one.client[0]) == busiest]
        min(theirs, key=lambda one: one._since_s)._end()

    def _end(self) -> None:
        self.connections.discard(self)  # now: the loop tells us that it is lost only later
        self.transport.abort()
