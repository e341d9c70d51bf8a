"""Bounds the age of a streaming standby's data.

A standby does not know how far it is behind: without news from the primary, an idle primary and a
broken connection look the same. So the position of the primary's WAL is noted with the time, and
the standby has the data of that time once it has replayed up to that position.
"""

import math
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass

from credit_service.domain.errors import UnavailableError
from credit_service.storage import cluster
from credit_service.storage.database import Database
from credit_service.storage.readiness import UnsuitableDatabaseError
from credit_service.storage.statements import Statement

_MOST_MARKS = 1_000

# The part of the WAL that is on disk: an acknowledged commit is before it. NULL on a standby.
_WRITTEN = Statement(
    """SELECT system_identifier, CASE WHEN NOT pg_is_in_recovery() THEN
        (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint END FROM pg_control_system()"""
)
# NULL on a primary.
_REPLAYED = Statement(
    """SELECT system_identifier, CASE WHEN pg_is_in_recovery() THEN
        (pg_last_wal_replay_lsn() - '0/0'::pg_lsn)::bigint END FROM pg_control_system()"""
)


@dataclass(frozen=True, slots=True)
class _Mark:
    """A position of the primary's WAL, and a time, of time.monotonic(), before it was read."""

    position: int
    at: float


class StandbyAge:
    """Compares a standby with its primary. For one thread."""

    def __init__(self, primary: Database, standby: Database) -> None:
        self._primary = primary
        self._standby = standby
        self._identifier: int | None = None
        # Of positions that the standby had not replayed when it was last asked, in their order.
        self._marks: deque[_Mark] = deque(maxlen=_MOST_MARKS)
        self._complete_at = -math.inf

    def measure(self) -> float:
        """Return a time, of time.monotonic(), whose commits the standby has; -inf until one is
        known. While the primary does not answer, the time stays.

        Raises:
            UnavailableError: the standby is unreachable.
            UnsuitableDatabaseError: its server is not a standby of the primary, or the primary is
                a cluster of several servers.
        """
        with suppress(UnavailableError):
            self._note_primary()
        with self._standby.autocommit() as connection:
            row = _REPLAYED.row(connection, {})
        identifier, replayed = row or (None, None)
        if replayed is None:
            raise UnsuitableDatabaseError("the server is not a standby")
        if self._identifier is not None and identifier != self._identifier:
            raise UnsuitableDatabaseError("the server is a standby of another database server")
        while self._marks and self._marks[0].position <= replayed:
            self._complete_at = self._marks.popleft().at
        return self._complete_at

    def _note_primary(self) -> None:
        at = time.monotonic()
        with self._primary.autocommit() as connection:
            if cluster.is_distributed(connection):
                raise UnsuitableDatabaseError("the database is a cluster of several servers")
            row = _WRITTEN.row(connection, {})
        identifier, position = row or (None, None)
        if position is None:
            return
        if self._marks and position < self._marks[-1].position:
            # Another primary, which lacks the end of the former one's WAL.
            self._marks.clear()
        self._identifier = identifier
        self._marks.append(_Mark(position, at))
