"""Retention: the deletion of expired rows, in small steps.

A step deletes at most a few thousand rows of one table in the caller's transaction. It finds them
through an index. What is left to delete follows from the tables themselves, so a step may fail or
be lost at any time. Bookmarks pace the steps of all workers together, and a lock lets one of them
delete at a time.

Statements select ranges of keys or times, never places in a table, so that they also work where a
table is distributed over several servers. Ages are measured by the database's clock: a machine with
a wrong clock deletes nothing.

`storage.growth` lists how each table is bounded.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, text

from credit_service.storage import event_stream, ingestions
from credit_service.storage.statements import Statement

STEP_ROWS: Final = 5_000
"""Most rows that a step deletes."""
_STEP_CHUNKS = 16
_STEP_BATCHES = 50

Deleted = Mapping[str, int]
"""Number of deleted rows by table."""


@dataclass(frozen=True, slots=True)
class Retention:
    """Days for which rows are kept; 0 keeps them forever.

    Request records, events and discrepancies are kept from their creation, parked tasks from their
    parking, sources from the end of their ingestion, row errors too, or from the request of its
    revert.
    """

    requests: float = 400
    events: float = 90
    sources: float = 30
    row_errors: float = 90
    parked_tasks: float = 90
    discrepancies: float = 400


# --- One worker at a time, at one pace ------------------------------------------------------------

_LOCK = 0x6372656469740003
_IS_DUE = Statement(
    """SELECT coalesce(max(position), 0) <= extract(epoch FROM now()) * 1000 FROM bookmarks
    WHERE name = 'retention_due_ms'"""
)
_TRY_LOCK = text("SELECT pg_try_advisory_xact_lock(:key)")
_MOVE_BOOKMARK = text(
    """INSERT INTO bookmarks (name, position)
    VALUES (:name, extract(epoch FROM clock_timestamp()) * 1000 + :milliseconds)
    ON CONFLICT (name) DO UPDATE SET position = EXCLUDED.position"""
)
_COMPLETED = Statement(
    "SELECT position / 1000.0 FROM bookmarks WHERE name = 'retention_completed_ms'"
)


def is_due(connection: Connection) -> bool:
    """Return whether the pause after the last step, of any worker, is over."""
    row = _IS_DUE.row(connection, {})
    return row is not None and bool(row[0])


def try_lock(connection: Connection) -> bool:
    """Return whether this transaction may delete; no other one may until it ends."""
    return bool(connection.execute(_TRY_LOCK, {"key": _LOCK}).scalar_one())


def pause(connection: Connection, seconds: float) -> None:
    """Let no worker delete for this time."""
    values = {"name": "retention_due_ms", "milliseconds": int(seconds * 1000)}
    connection.execute(_MOVE_BOOKMARK, values)


def complete(connection: Connection) -> None:
    """Record that no expired row is left now."""
    connection.execute(_MOVE_BOOKMARK, {"name": "retention_completed_ms", "milliseconds": 0})


def completed_at(connection: Connection) -> float | None:
    """Return when no expired row was left, in seconds since 1970; None before the first time."""
    row = _COMPLETED.row(connection, {})
    return None if row is None else float(row[0])


# --- What expires ---------------------------------------------------------------------------------

_CUTOFF = "now() - :days * interval '1 day'"
_DAY_SECONDS = 86_400
_BEFORE_ALL = -(2**63)


@dataclass(frozen=True, slots=True)
class Age:
    """Age of the oldest row of a table that can expire, and the time since it expired, in seconds;
    0.0 without such a row."""

    table: str
    oldest_seconds: float
    overdue_seconds: float


class _Expiring(ABC):
    """Rows of a table that expire after `days`."""

    def __init__(self, table: str, days: float) -> None:
        self.table = table
        self.days = days

    @abstractmethod
    def delete(self, connection: Connection, limit: int) -> Deleted | None:
        """Delete some expired rows, at most `limit`; None if there are none."""

    @abstractmethod
    def restart(self) -> None:
        """Search from the first row again."""

    @abstractmethod
    def age(self, connection: Connection) -> Age:
        """Return the age of the oldest row."""

    def _age(self, oldest_seconds: Any) -> Age:
        seconds = float(oldest_seconds or 0)
        return Age(self.table, max(0.0, seconds), max(0.0, seconds - self.days * _DAY_SECONDS))


class _Timed(_Expiring):
    """Rows whose time an index orders."""

    def __init__(self, table: str, time: str, days: float, where: str = "true") -> None:
        super().__init__(table, days)
        rows = f"FROM {table} WHERE {where} AND {time} > CAST(:after AS timestamptz)"
        self._find = text(
            f"SELECT CAST({time} AS text) {rows} AND {time} < {_CUTOFF}"
            f" ORDER BY {time} OFFSET :others LIMIT 1"
        )
        self._delete = text(f"DELETE {rows} AND {time} <= CAST(:until AS timestamptz)")
        self._delete_rest = text(f"DELETE {rows} AND {time} < {_CUTOFF}")
        self._oldest = Statement(
            f"SELECT extract(epoch FROM now() - min({time})) FROM {table} WHERE {where}"
        )
        self.restart()

    def restart(self) -> None:
        # Rows up to here were deleted. Without it each step would pass their entries in the index.
        self._after = "-infinity"

    def delete(self, connection: Connection, limit: int) -> Deleted | None:
        values = {"after": self._after, "days": self.days}
        until = connection.execute(self._find, values | {"others": limit - 1}).scalar()
        if until is not None:
            count = connection.execute(self._delete, {"after": self._after, "until": until})
            self._after = until
            return {self.table: count.rowcount}
        count = connection.execute(self._delete_rest, values)
        return {self.table: count.rowcount} if count.rowcount else None

    def age(self, connection: Connection) -> Age:
        row = self._oldest.row(connection, {})
        return self._age(row and row[0])


class _Events(_Expiring):
    """Published events. A bookmark has the last deleted one."""

    def restart(self) -> None:
        pass

    def delete(self, connection: Connection, limit: int) -> Deleted | None:
        count = event_stream.delete_expired(connection, self.days, limit)
        return {self.table: count} if count else None

    def age(self, connection: Connection) -> Age:
        return self._age(event_stream.oldest_seconds(connection))


_RESUMABLE = f"coalesce(error_code, '') IN {ingestions.RESUMABLE!r}"
_RESUMABLE_UNTIL = f"last_activity_at + interval '{ingestions.RESUMABLE_DAYS} days'"
_HAS_ENDED = f"finished_at IS NOT NULL AND NOT ({_RESUMABLE} AND {_RESUMABLE_UNTIL} >= now())"


class _Table:
    """A table with rows of ingestions, whose primary key is the ingestion's id and `columns`."""

    def __init__(self, name: str, *columns: str, step_rows: int = STEP_ROWS) -> None:
        """A step deletes at most `step_rows`."""
        self.name, self.step_rows = name, step_rows
        key = ", ".join(columns)
        self._count = len(columns)
        rows = (
            f"FROM {name} WHERE ingestion_id = :ingestion_id AND ({key}) > ({self._list('after')})"
        )
        self._find = text(f"SELECT {key} {rows} ORDER BY {key} OFFSET :others LIMIT 1")
        self._delete = text(f"DELETE {rows} AND ({key}) <= ({self._list('until')})")
        self._delete_rest = text(f"DELETE {rows}")
        # Rows of this ingestion up to this key were deleted: see _Timed.
        self._after: tuple[UUID | None, Sequence[int]] = (None, ())

    def _list(self, name: str) -> str:
        return ", ".join(f"CAST(:{name}_{place} AS bigint)" for place in range(self._count))

    def _values(self, name: str, key: Sequence[int]) -> dict[str, int]:
        return {f"{name}_{place}": value for place, value in enumerate(key)}

    def restart(self) -> None:
        self._after = (None, ())

    def delete(self, connection: Connection, ingestion_id: UUID, limit: int) -> tuple[int, bool]:
        """Delete the first rows of the ingestion; return their number and whether rows are left."""
        of, after = self._after
        if of != ingestion_id:
            after = [_BEFORE_ALL] * self._count
        limit = min(limit, self.step_rows)
        values = {"ingestion_id": ingestion_id, **self._values("after", after)}
        until = connection.execute(self._find, values | {"others": limit - 1}).one_or_none()
        if until is None:
            return connection.execute(self._delete_rest, values).rowcount, False
        count = connection.execute(self._delete, values | self._values("until", until)).rowcount
        self._after = (ingestion_id, tuple(until))
        return count, True


class _OfIngestions(_Expiring):
    """Rows that expire `days` after the end of their ingestion, or after the time `since`.

    `state` is the column of `ingestions` that names what is left of them. A stream that can be
    resumed keeps them.
    """

    def __init__(
        self, state: str, days: float, tables: Sequence[_Table], *, since: str = "finished_at"
    ) -> None:
        super().__init__(tables[0].name, days)
        self._tables = tables
        expired = f"{_HAS_ENDED} AND {since} < {_CUTOFF}" if days else _HAS_ENDED
        self._find = text(
            f"""SELECT ingestion_id FROM ingestions WHERE {state} <> 'DELETED' AND {expired}
            ORDER BY finished_at LIMIT 1"""
        )
        # Marked before the first row is deleted: no reader takes the rest for the whole.
        self._begin = text(
            f"""UPDATE ingestions SET {state} = 'DELETING'
            WHERE ingestion_id = :ingestion_id AND {expired}"""
        )
        self._end = text(
            f"UPDATE ingestions SET {state} = 'DELETED' WHERE ingestion_id = :ingestion_id"
        )
        self._oldest = Statement(
            f"""SELECT extract(epoch FROM now() - min({since})), extract(epoch FROM now() - min(
                greatest({since} + :days * interval '1 day',
                    CASE WHEN {_RESUMABLE} THEN {_RESUMABLE_UNTIL} END)))
            FROM ingestions WHERE {state} <> 'DELETED' AND finished_at IS NOT NULL"""
        )

    def restart(self) -> None:
        for table in self._tables:
            table.restart()

    def delete(self, connection: Connection, limit: int) -> Deleted | None:
        values = {"days": self.days} if self.days else {}
        ingestion_id = connection.execute(self._find, values).scalar()
        if ingestion_id is None:
            return None
        values["ingestion_id"] = ingestion_id
        if connection.execute(self._begin, values).rowcount == 0:
            # Resumed at this instant.
            return {}
        deleted: dict[str, int] = {}
        for table in self._tables:
            deleted[table.name], is_more_left = table.delete(connection, ingestion_id, limit)
            if is_more_left:
                return deleted
        connection.execute(self._end, {"ingestion_id": ingestion_id})
        return deleted

    def age(self, connection: Connection) -> Age:
        oldest, overdue = self._oldest.row(connection, {"days": self.days}) or (None, None)
        return Age(self.table, max(0.0, float(oldest or 0)), max(0.0, float(overdue or 0)))


# --- Everything that expires ----------------------------------------------------------------------

TABLES: Final = (
    "ingestion_keys",
    "ingestion_chunks",
    "ingestion_batches",
    "row_errors",
    "requests",
    "events",
    "tasks",
    "discrepancies",
)
"""The tables from which rows are deleted at the end of a retention."""


class Deletion:
    """Deletes expired rows. One object for one thread."""

    def __init__(self, retention: Retention, *, step_rows: int = STEP_ROWS) -> None:
        """A step deletes at most `step_rows` rows."""
        self._step_rows = step_rows
        keys = _Table("ingestion_keys", "customer_id", "loan_id")
        chunks = _Table("ingestion_chunks", "chunk_number", step_rows=_STEP_CHUNKS)
        batches = _Table("ingestion_batches", "row_offset", step_rows=_STEP_BATCHES)
        errors = _Table("row_errors", "row_offset", "error_number")
        expiring = (
            _OfIngestions("source_state", retention.sources, [chunks, batches]),
            _OfIngestions(
                "row_errors_state",
                retention.row_errors,
                [errors],
                # A revert lists the rows that it kept.
                since="coalesce(revert_requested_at, finished_at)",
            ),
            _Timed("requests", "created_at", retention.requests),
            _Events("events", retention.events),
            _Timed("tasks", "due_at", retention.parked_tasks, "state = 'PARKED'"),
            _Timed("discrepancies", "found_at", retention.discrepancies),
        )
        # Keys have no use after the end.
        self._expiring: list[_Expiring] = [_OfIngestions("keys_state", 0, [keys])]
        self._expiring += [each for each in expiring if each.days]

    def step(self, connection: Connection) -> Deleted | None:
        """Delete some expired rows; None if no expired row is left.

        If the transaction does not commit, call `restart` before the next step.
        """
        for each in self._expiring:
            deleted = each.delete(connection, self._step_rows)
            if deleted is not None:
                return deleted
        self.restart()
        return None

    def restart(self) -> None:
        """Search from the first rows again."""
        for each in self._expiring:
            each.restart()

    def ages(self, connection: Connection) -> list[Age]:
        """Return the age of the oldest row of each table whose rows expire."""
        return [each.age(connection) for each in self._expiring]
