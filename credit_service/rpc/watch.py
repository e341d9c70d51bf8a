"""Following the event stream: one look at its end for all watchers, own reads for each.

A watcher reads its events from the database a page at a time, as its caller takes them: a slow
one holds back nobody and fills no queue.
"""

import threading
import time
from collections.abc import Iterator

from credit_service.storage import event_stream
from credit_service.storage.cancellation import is_cancelled
from credit_service.storage.database import Database
from credit_service.storage.event_stream import StoredEvent

_LOOK_SECONDS = 0.05
_PAGE = 200
_HEARTBEAT_SECONDS = 10.0


class EventTail:
    """Knows the newest event's id while anybody watches. Safe to share between threads."""

    def __init__(self, database: Database, stopping: threading.Event) -> None:
        self._database = database
        self._stopping = stopping
        self._changed = threading.Condition()
        self._newest = 0
        self._looked_at = 0.0
        self._looking = False

    def newest(self) -> int:
        """Id of the newest event now. Raises UnavailableError when the database is out of reach."""
        with self._database.autocommit() as connection:
            return event_stream.last_event_id(connection)

    def wait_beyond(self, event_id: int, timeout_seconds: float) -> int:
        """Id of the newest event, as soon as it is above `event_id` or the time is over.

        One of the waiting watchers looks, the others hear of it.
        """
        deadline = time.monotonic() + timeout_seconds
        while not (self._stopping.is_set() or is_cancelled()):
            with self._changed:
                if self._newest > event_id or time.monotonic() >= deadline:
                    return self._newest
                look = not self._looking
                if look:
                    self._looking = True
                else:
                    self._changed.wait(_LOOK_SECONDS * 2)
            if look:
                self._look()
        return self._newest

    def _look(self) -> None:
        newest = self._newest
        try:
            pause = _LOOK_SECONDS - (time.monotonic() - self._looked_at)
            if pause > 0:
                self._stopping.wait(pause)
            newest = self.newest()
        finally:
            with self._changed:
                self._looking = False
                self._looked_at = time.monotonic()
                self._newest = max(self._newest, newest)
                self._changed.notify_all()

    def follow(
        self, after: int, customer_id: int | None, kinds: frozenset[str]
    ) -> Iterator[StoredEvent | int]:
        """Events of ids above `after` that fit, in order, for ever.

        Ends when the server stops or the caller has gone.

        Once it has caught up, and where none came for ten seconds, the id up to which everything
        has been looked at: a safe place to resume from. Raises UnavailableError when the database
        is out of reach.
        """
        newest = self.newest()
        last_sign: float | None = None
        while not (self._stopping.is_set() or is_cancelled()):
            page: list[StoredEvent] = []
            if newest > after:
                page = self._read(after, newest, customer_id, kinds)
                yield from page
                after = page[-1].event_id if len(page) == _PAGE else newest
            caught_up = len(page) < _PAGE
            if page and last_sign is not None:
                last_sign = time.monotonic()
            elif caught_up and (
                last_sign is None or time.monotonic() - last_sign >= _HEARTBEAT_SECONDS
            ):
                yield after
                last_sign = time.monotonic()
            newest = self.wait_beyond(after, timeout_seconds=1.0)

    def _read(
        self, after: int, until: int, customer_id: int | None, kinds: frozenset[str]
    ) -> list[StoredEvent]:
        with self._database.autocommit() as connection:
            return event_stream.read(
                connection,
                after=after,
                until=until,
                limit=_PAGE,
                customer_id=customer_id,
                kinds=kinds,
            )
