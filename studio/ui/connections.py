"""Limits on connections: how many there may be, and how long one may wait with its request.

uvicorn waits for ever for the rest of a request's head, on any number of connections. Here a
connection that the guard has not let in yet is closed after a few seconds. If there are too many,
the oldest of those from the busiest address is closed. So unfinished requests keep nobody out.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_CONNECTIONS = 256
PATIENCE_S = 10.0  # before the guard lets a request in; a browser needs a moment
LET_IN = "let_in"  # in the state of a request that the guard has let in


class Connection(H11Protocol):
    """uvicorn's connection, with a deadline and a limit on their number."""

    _since_s = 0.0  # start of the wait for a request, on the loop's clock
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
        """Whether it is serving a request that the guard has let in."""
        is_busy = self.cycle is not None and not self.cycle.response_complete
        return is_busy and LET_IN in self.scope["state"]

    def _wait(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._since_s = self.loop.time()
        self._deadline = self.loop.call_later(PATIENCE_S, self._lose_patience)

    def _lose_patience(self) -> None:
        if not self.is_let_in:
            self._end()

    def _make_room(self) -> None:
        """Close a waiting connection, perhaps this one."""
        waiting = [connection for connection in self.connections if not connection.is_let_in]
        [(busiest, _)] = Counter(connection._address for connection in waiting).most_common(1)
        theirs = [connection for connection in waiting if connection._address == busiest]
        min(theirs, key=lambda connection: connection._since_s)._end()

    @property
    def _address(self) -> str | None:
        return self.client[0] if self.client else None

    def _end(self) -> None:
        self.connections.discard(self)  # at once: the loop reports the loss only later
        self.transport.abort()
