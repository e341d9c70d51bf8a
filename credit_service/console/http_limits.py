"""HTTP connections with limits on requests that do not arrive completely.

uvicorn waits without limit for the rest of a request, and answers every request with 503 while
`limit_concurrency` connections are open.
"""

import asyncio
from collections import Counter
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0
"""Timeout for the whole head of a request: from the connection on, or from the first byte of a
later request. Before that byte, uvicorn's `timeout_keep_alive` applies."""
BODY_SECONDS = 10.0
MIN_BODY_BYTES = 10_000
"""Minimum of a body in each BODY_SECONDS, unless the console itself paused reading."""
MAX_AWAITED_HEADS = 100
MAX_AWAITED_BODIES = 50
"""Maximum connections that wait for the rest of a request, idle ones included. One more closes the
oldest connection of the address that has most of them."""


class LimitedH11Protocol(H11Protocol):
    """A connection that is closed if its request arrives too slowly, or too many others wait."""

    awaits: Any = None
    """The missing part of the request, as h11's state of the client: IDLE for the head, SEND_BODY
    for the body; None for neither."""
    awaits_since = 0.0
    """In seconds of the event loop's clock."""
    _timer: asyncio.TimerHandle | None = None
    _body_bytes = 0
    _was_paused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in the base class
        super().connection_made(transport)
        self._follow()
        self._start_head_timer()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._body_bytes += len(data)
        self._was_paused |= self.flow.read_paused
        self._follow()
        if self.awaits is h11.IDLE:
            self._start_head_timer()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._follow()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.awaits = None
        self._cancel_timer()

    def _follow(self) -> None:
        state = self.conn.their_state
        awaits = state if state in (h11.IDLE, h11.SEND_BODY) else None
        if awaits is self.awaits:
            return
        self.awaits, self.awaits_since = awaits, self.loop.time()
        self._cancel_timer()
        if awaits is h11.SEND_BODY:
            self._start_body_timer()
        if awaits is not None:
            self._make_room()

    def _start_head_timer(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _start_body_timer(self) -> None:
        self._body_bytes, self._was_paused = 0, self.flow.read_paused
        self._timer = self.loop.call_later(BODY_SECONDS, self._check_body)

    def _check_body(self) -> None:
        if self._body_bytes < MIN_BODY_BYTES and not self._was_paused:
            self.transport.abort()
        else:
            self._start_body_timer()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _make_room(self) -> None:
        limit = MAX_AWAITED_HEADS if self.awaits is h11.IDLE else MAX_AWAITED_BODIES
        connections = cast("set[LimitedH11Protocol]", self.connections)
        waiting = [each for each in connections if each.awaits is self.awaits]
        if len(waiting) <= limit:
            return
        held = Counter(each.address for each in waiting)
        closed = min(waiting, key=lambda each: (-held[each.address], each.awaits_since))
        closed.awaits = None
        closed.transport.abort()
        # Now: uvicorn rejects requests by this count, and many can arrive before the loop calls
        # `connection_lost`.
        self.connections.discard(closed)

    @property
    def address(self) -> str:
        """The client's address without the port."""
        return self.client[0] if self.client else ""
