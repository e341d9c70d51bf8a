"""Follow the event stream: one poll of its end for all watchers, separate reads for each.

A watcher reads its events from the database page by page, as its caller takes them, so a slow
caller delays no other one and fills no queue.
"""

import threading
import time
from collections.abc import Iterator

from credit_service.domain.errors import OutOfRangeError
from credit_service.storage import event_stream
from credit_service.storage.cancellation import is_cancelled
from credit_service.storage.database import Database
from credit_service.storage.event_stream import StoredEvent

_POLL_SECONDS = 0.05
_PAGE = 200
_HEARTBEAT_SECONDS = 10.0


class EventTail:
    """Polls the newest event id while there are watchers. Thread-safe."""

    def __init__(self, database: Database, stopping: threading.Event) -> None:
        self._database = database
        self._stopping = stopping
        self._changed = threading.Condition()
        self._newest = 0
        self._polled_at = 0.0
        self._is_polling = False

    def newest(self) -> int:
        """Id of the newest event now. Raises UnavailableError when the database is unreachable."""
        with self._database.autocommit() as connection:
            return event_stream.last_event_id(connection)

    def wait_beyond(self, event_id: int, timeout_seconds: float) -> int:
        """Wait until an event above `event_id` exists or the timeout ends; return the newest id.

        One of the waiting watchers polls and notifies the others.
        """
        deadline = time.monotonic() + timeout_seconds
        while not (self._stopping.is_set() or is_cancelled()):
            with self._changed:
                if self._newest > event_id or time.monotonic() >= deadline:
                    return self._newest
                must_poll = not self._is_polling
                if must_poll:
                    self._is_polling = True
                else:
                    self._changed.wait(_POLL_SECONDS * 2)
            if must_poll:
                self._poll()
        return self._newest

    def _poll(self) -> None:
        newest = self._newest
        try:
            pause = _POLL_SECONDS - (time.monotonic() - self._polled_at)
            if pause > 0:
                self._stopping.wait(pause)
            newest = self.newest()
        finally:
            with self._changed:
                self._is_polling = False
                self._polled_at = time.monotonic()
                self._newest = max(self._newest, newest)
                self._changed.notify_all()

    def follow(
        self, after: int, customer_id: int | None, kinds: frozenset[str]
    ) -> Iterator[StoredEvent | int]:
        """Events with ids above `after` that match, in order, until the server stops or the caller
        goes. With 0, from the oldest event that is kept.

        Once it has caught up, and after ten seconds without an event, it yields the id up to which
        it has read: a safe position to resume from.

        Raises:
            OutOfRangeError: EVENTS_EXPIRED, events above `after` are no longer kept.
            UnavailableError: the database is unreachable.
        """
        # Nothing was sent before the first page, so it leaves no gap.
        from_oldest = after == 0
        if from_oldest:
            with self._database.autocommit() as connection:
                after = event_stream.expired_until(connection)
        newest = self.newest()
        last_sent_at: float | None = None
        while not (self._stopping.is_set() or is_cancelled()):
            page: list[StoredEvent] = []
            if newest > after:
                page, expired_until = self._read(after, newest, customer_id, kinds)
                if expired_until > after and not from_oldest:
                    raise _expired(after, expired_until)
                from_oldest = False
                yield from page
                after = page[-1].event_id if len(page) == _PAGE else newest
            caught_up = len(page) < _PAGE
            if page and last_sent_at is not None:
                last_sent_at = time.monotonic()
            elif caught_up and (
                last_sent_at is None or time.monotonic() - last_sent_at >= _HEARTBEAT_SECONDS
            ):
                yield after
                last_sent_at = time.monotonic()
            newest = self.wait_beyond(after, timeout_seconds=1.0)

    def _read(
        self, after: int, until: int, customer_id: int | None, kinds: frozenset[str]
    ) -> tuple[list[StoredEvent], int]:
        """A page of events, and the id up to which events were deleted."""
        with self._database.autocommit() as connection:
            page = event_stream.read(
                connection,
                after=after,
                until=until,
                limit=_PAGE,
                customer_id=customer_id,
                kinds=kinds,
            )
            # Afterwards: events that were deleted before they were read are below it.
            return page, event_stream.expired_until(connection)


def _expired(after: int, expired_until: int) -> OutOfRangeError:
    oldest = expired_until + 1
    return OutOfRangeError(
        "EVENTS_EXPIRED",
        f"Events after {after} are no longer kept; the oldest one kept is {oldest}. Read the "
        f"current state, then watch again after event {expired_until}.",
        metadata={"after_event_id": str(after), "oldest_event_id": str(oldest)},
    )
