"""Ingestions: their state and progress, from the request to the end, a resumption or a revert."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Literal
from uuid import UUID

import numpy as np
import psycopg
from sqlalchemy import Connection, exc, text

from credit_service.clock import Moment
from credit_service.domain.errors import RetryLaterError
from credit_service.spreadsheets.cell_values import DateOrder
from credit_service.spreadsheets.columns import Kind
from credit_service.storage.arrays import Bigints, driver_cursor

State = Literal["QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED", "REVERTING", "REVERTED"]
OnExisting = Literal["SKIP", "UPDATE"]
SourceKind = Literal["STREAM", "UPLOAD"]
PartState = Literal["KEPT", "DELETING", "DELETED"]
"""What is left of an ingestion's rows in another table: DELETING from the first deleted row on."""

SUCCEEDED: State = "SUCCEEDED"
FAILED: State = "FAILED"
CANCELLED: State = "CANCELLED"

ABANDONED = "ABANDONED"
SOURCE_FAILED = "SOURCE_FAILED"
RESUMABLE = (ABANDONED, SOURCE_FAILED)
"""Error codes of ended streams that can be resumed."""
RESUMABLE_DAYS = 7
"""Days after its last activity in which a stream can be resumed. `storage.retention` then deletes
its keys."""


@dataclass(frozen=True, slots=True)
class Contents:
    """The sheet of a file that is read, and the columns, by header, and sheets that are ignored.

    `headers` maps a field to the header of its column; it is empty for a stream.
    """

    sheet: str = ""
    ignored_columns: tuple[str, ...] = ()
    unread_sheets: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Header:
    """A client's request for an ingestion, with an id that the client chooses.

    `filename` may be empty for a stream, whose client reports in `contents` what it reads.
    `sha256`, if given, is the expected hash of the file. `date_order` is that of the file's dates;
    None accepts the one that each column allows.
    """

    ingestion_id: UUID
    kind: Kind
    on_existing: OnExisting = "SKIP"
    validate_only: bool = False
    filename: str = ""
    sha256: bytes | None = None
    date_order: DateOrder | None = None
    contents: Contents = Contents()


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of rows by outcome. Every row has exactly one of the five."""

    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    skipped: int = 0
    rejected: int = 0

    @property
    def rows_read(self) -> int:
        """The sum of all outcomes."""
        return self.inserted + self.updated + self.unchanged + self.skipped + self.rejected


@dataclass(frozen=True, slots=True)
class Ingestion:
    """The state of an ingestion. Its rows are validated as of `import_day`."""

    ingestion_id: UUID
    kind: Kind
    source: SourceKind
    filename: str
    on_existing: OnExisting
    validate_only: bool
    state: State
    import_day: date
    rows_read: int
    inserted: int
    updated: int
    unchanged: int
    skipped: int
    rejected: int
    committed_offset: int
    total_rows: int | None
    size_bytes: int | None
    sha256: bytes | None
    date_order: DateOrder | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error_code: str | None
    error_message: str | None
    principal: str
    sheet: str
    ignored_columns: Sequence[str]
    unread_sheets: Sequence[str]
    # Highest approved limit that its rows may set; None if there was no ceiling at its start.
    max_limit_paise: int | None
    # Customers whose debt exceeds their limit after it; None until it has ended.
    customers_over_limit: int | None
    # An upload's bytes, and the digests of a stream's rows.
    source_state: PartState
    row_errors_state: PartState
    # Whether it can be reverted; False for those of earlier releases.
    is_traced: bool = True
    cancel_request_id: UUID | None = None
    revert_request_id: UUID | None = None
    reverted_by: str | None = None
    revert_requested_at: datetime | None = None
    reverted_at: datetime | None = None
    # The revert has finished the customers with ids up to here.
    reverted_until: int = 0
    rows_removed: int = 0
    rows_restored: int = 0
    rows_kept: int = 0

    @property
    def has_ended(self) -> bool:
        """Whether it accepts no more rows."""
        return self.state not in ("QUEUED", "RUNNING")

    @property
    def is_at_rest(self) -> bool:
        """Whether no stream, worker or revert is working on it."""
        return self.has_ended and self.state != "REVERTING"

    @property
    def wrote_rows(self) -> bool:
        """Whether it inserted or updated rows."""
        return not self.validate_only and bool(self.inserted or self.updated)

    @property
    def is_file_expired(self) -> bool:
        """Whether the uploaded file was deleted at the end of its retention."""
        return self.source == "UPLOAD" and self.source_state != "KEPT"

    @property
    def is_row_errors_expired(self) -> bool:
        """Whether it had row errors, which were deleted at the end of their retention."""
        listed = self.rejected or self.skipped or self.rows_kept
        return self.row_errors_state != "KEPT" and bool(listed)


_COLUMNS = ", ".join(Ingestion.__slots__)

_CREATE = text(
    """
    INSERT INTO ingestions (ingestion_id, kind, source, filename, on_existing, validate_only, state,
        import_day, size_bytes, sha256, date_order, created_at, started_at, principal,
        sheet, ignored_columns, unread_sheets, column_headers, max_limit_paise, is_traced)
    VALUES (:ingestion_id, :kind, :source, :filename, :on_existing, :validate_only, :state,
        :import_day, :size_bytes, :sha256, :date_order, :now, :started_at, :principal,
        :sheet, :ignored_columns, :unread_sheets, CAST(:column_headers AS json), :max_limit_paise,
        true)
    ON CONFLICT (ingestion_id) DO NOTHING
    """
)
_FIND = text(f"SELECT {_COLUMNS} FROM ingestions WHERE ingestion_id = :ingestion_id")
_LOCK = text(f"SELECT {_COLUMNS} FROM ingestions WHERE ingestion_id = :ingestion_id FOR UPDATE")
_PAGE = text(
    f"""SELECT {_COLUMNS} FROM ingestions
    WHERE CAST(:ingestion_id AS uuid) IS NULL
        OR (created_at, ingestion_id) < (CAST(:created_at AS timestamptz), :ingestion_id)
    ORDER BY created_at DESC, ingestion_id DESC LIMIT :limit"""
)
_BEGIN = text(
    f"""UPDATE ingestions SET state = 'RUNNING', started_at = coalesce(started_at, :now)
    WHERE ingestion_id = :ingestion_id AND state IN ('QUEUED', 'RUNNING')
    RETURNING {_COLUMNS}"""
)
_DESCRIBE = text(
    """UPDATE ingestions SET sheet = :sheet, ignored_columns = :ignored_columns,
        unread_sheets = :unread_sheets, column_headers = CAST(:column_headers AS json)
    WHERE ingestion_id = :ingestion_id AND state = 'RUNNING'"""
)
_ADVANCE = text(
    f"""
    UPDATE ingestions SET
        rows_read = rows_read + :rows_read,
        inserted = inserted + :inserted,
        updated = updated + :updated,
        unchanged = unchanged + :unchanged,
        skipped = skipped + :skipped,
        rejected = rejected + :rejected,
        committed_offset = :committed_offset,
        last_activity_at = now()
    WHERE ingestion_id = :ingestion_id
    RETURNING {_COLUMNS}
    """
)
_OVER_LIMIT = """SELECT DISTINCT unnest(over_limit) FROM ingestion_batches
    WHERE ingestion_id = %s"""
_COUNT_OVER_LIMIT = """SELECT count(*) FROM customers
    WHERE current_debt_paise > approved_limit_paise AND customer_id = ANY(%s)"""
_END = text(
    f"""
    UPDATE ingestions SET state = :state, finished_at = :now, total_rows = :total_rows,
        error_code = :error_code, error_message = :error_message,
        customers_over_limit = CASE WHEN NOT validate_only THEN :over_limit END,
        cancel_request_id = :cancel_request_id
    WHERE ingestion_id = :ingestion_id
    RETURNING {_COLUMNS}
    """
)
_RESUME = text(
    f"""
    UPDATE ingestions SET state = 'RUNNING', finished_at = NULL, error_code = NULL,
        error_message = NULL, customers_over_limit = NULL, last_activity_at = now()
    WHERE ingestion_id = :ingestion_id
        AND (state = 'RUNNING' OR (state = 'FAILED' AND error_code = ANY(:resumable)
            AND last_activity_at >= now() - make_interval(days => {RESUMABLE_DAYS})
            AND keys_state = 'KEPT' AND source_state = 'KEPT'))
    RETURNING {_COLUMNS}
    """
)
_OF_REQUEST = text(
    """SELECT ingestion_id FROM ingestions
    WHERE cancel_request_id = :request_id OR revert_request_id = :request_id"""
)
_BEGIN_REVERT = text(
    f"""
    UPDATE ingestions SET state = 'REVERTING', revert_request_id = :request_id,
        reverted_by = :principal, revert_requested_at = :now
    WHERE ingestion_id = :ingestion_id
    RETURNING {_COLUMNS}
    """
)
_ADVANCE_REVERT = text(
    f"""
    UPDATE ingestions SET reverted_until = :until, rows_removed = rows_removed + :removed,
        rows_restored = rows_restored + :restored, rows_kept = rows_kept + :kept
    WHERE ingestion_id = :ingestion_id
    RETURNING {_COLUMNS}
    """
)
_END_REVERT = text(
    f"""UPDATE ingestions SET state = 'REVERTED', reverted_at = :now
    WHERE ingestion_id = :ingestion_id RETURNING {_COLUMNS}"""
)
_LOCK_SILENT = text(
    f"""
    SELECT {_COLUMNS} FROM ingestions
    WHERE state = 'RUNNING' AND source = 'STREAM'
        AND last_activity_at < now() - make_interval(secs => :seconds)
    ORDER BY created_at LIMIT :limit FOR UPDATE SKIP LOCKED
    """
)


def create(
    connection: Connection,
    header: Header,
    source: SourceKind,
    moment: Moment,
    principal: str,
    *,
    size_bytes: int | None = None,
    max_limit_paise: int | None = None,
) -> bool:
    """Start a stream's ingestion, or queue an upload's; return False if the id is taken.

    `max_limit_paise` is the highest approved limit that its rows may set, None for no ceiling.

    Waits for a concurrent call that creates the same id.
    """
    streamed = source == "STREAM"
    result = connection.execute(
        _CREATE,
        {
            "ingestion_id": header.ingestion_id,
            "kind": header.kind,
            "source": source,
            "filename": header.filename,
            "on_existing": header.on_existing,
            "validate_only": header.validate_only,
            "state": "RUNNING" if streamed else "QUEUED",
            "import_day": moment.today,
            "size_bytes": size_bytes,
            "sha256": header.sha256,
            "date_order": header.date_order,
            "now": moment.now,
            "started_at": moment.now if streamed else None,
            "principal": principal,
            "max_limit_paise": max_limit_paise,
            **_contents(header.contents),
        },
    )
    return result.rowcount == 1


def describe(connection: Connection, ingestion_id: UUID, contents: Contents) -> None:
    """Store which parts of an uploaded file are read, once it is opened."""
    connection.execute(_DESCRIBE, {"ingestion_id": ingestion_id, **_contents(contents)})


def _contents(contents: Contents) -> dict[str, str | list[str]]:
    return {
        "sheet": contents.sheet,
        "ignored_columns": list(contents.ignored_columns),
        "unread_sheets": list(contents.unread_sheets),
        "column_headers": json.dumps(dict(contents.headers)),
    }


def find(connection: Connection, ingestion_id: UUID) -> Ingestion | None:
    """Return the ingestion with that id."""
    return _one(connection, _FIND, {"ingestion_id": ingestion_id})


def lock(connection: Connection, ingestion_id: UUID) -> Ingestion | None:
    """Lock and return the ingestion with that id: no other call advances it until the transaction
    ends.

    Raises:
        RetryLaterError: INGESTION_IN_PROGRESS, another call holds the lock.
    """
    try:
        return _one(connection, _LOCK, {"ingestion_id": ingestion_id})
    except exc.OperationalError as error:
        if isinstance(error.orig, psycopg.errors.LockNotAvailable):
            raise RetryLaterError(
                "INGESTION_IN_PROGRESS",
                "Another call is storing rows of this ingestion; retry when it has finished.",
                retry_after_seconds=0.5,
                metadata={"ingestion_id": str(ingestion_id)},
            ) from error
        raise


def page(
    connection: Connection, after: tuple[datetime, UUID] | None, limit: int
) -> list[Ingestion]:
    """Return ingestions after that (created_at, ingestion_id), the latest first."""
    created_at, ingestion_id = after or (None, None)
    rows = connection.execute(
        _PAGE, {"created_at": created_at, "ingestion_id": ingestion_id, "limit": limit}
    )
    return [_ingestion(row) for row in rows]


def begin(connection: Connection, ingestion_id: UUID, moment: Moment) -> Ingestion | None:
    """Start a queued ingestion, or continue a running one; None if it has ended."""
    return _one(connection, _BEGIN, {"ingestion_id": ingestion_id, "now": moment.now})


def advance(
    connection: Connection, ingestion_id: UUID, counts: Counts, committed_offset: int
) -> Ingestion:
    """Add the counts of rows that are finished."""
    values = {name: getattr(counts, name) for name in Counts.__slots__}
    return _exactly_one(
        connection,
        _ADVANCE,
        values
        | {
            "ingestion_id": ingestion_id,
            "rows_read": counts.rows_read,
            "committed_offset": committed_offset,
        },
    )


def end(
    connection: Connection,
    ingestion_id: UUID,
    state: State,
    moment: Moment,
    *,
    total_rows: int | None,
    error: tuple[str, str] | None = None,
    cancel_request_id: UUID | None = None,
) -> Ingestion:
    """End an ingestion, with (code, message) if it failed, and the request if it was cancelled."""
    code, message = error or (None, None)
    return _exactly_one(
        connection,
        _END,
        {
            "ingestion_id": ingestion_id,
            "state": state,
            "now": moment.now,
            "total_rows": total_rows,
            "error_code": code,
            "error_message": message,
            "over_limit": _over_limit(connection, ingestion_id),
            "cancel_request_id": cancel_request_id,
        },
    )


def _over_limit(connection: Connection, ingestion_id: UUID) -> int:
    """Return how many of the customers whose debt exceeded their limit after a batch exceed it now.

    Two statements: on a cluster, ingestions and customers are on different nodes.
    """
    cursor = driver_cursor(connection)
    found = cursor.execute(_OVER_LIMIT, (ingestion_id,), binary=True).fetchall()
    if not found:
        return 0
    ids = Bigints(np.array([row[0] for row in found], np.int64))
    row = cursor.execute(_COUNT_OVER_LIMIT, (ids,), binary=True).fetchone()
    return 0 if row is None else int(row[0])


def request_is_used(connection: Connection, request_id: UUID) -> bool:
    """Return whether a request with that id cancelled or reverted an ingestion."""
    return connection.execute(_OF_REQUEST, {"request_id": request_id}).first() is not None


def begin_revert(
    connection: Connection, ingestion_id: UUID, request_id: UUID, principal: str, moment: Moment
) -> Ingestion:
    """Mark an ended, locked ingestion as being reverted."""
    values = {"request_id": request_id, "principal": principal, "now": moment.now}
    return _exactly_one(connection, _BEGIN_REVERT, values | {"ingestion_id": ingestion_id})


def advance_revert(
    connection: Connection, ingestion_id: UUID, until: int, removed: int, restored: int, kept: int
) -> Ingestion:
    """Add the counts of rows of the customers with ids up to `until`."""
    values = {"until": until, "removed": removed, "restored": restored, "kept": kept}
    return _exactly_one(connection, _ADVANCE_REVERT, values | {"ingestion_id": ingestion_id})


def end_revert(connection: Connection, ingestion_id: UUID, moment: Moment) -> Ingestion:
    """Mark an ingestion as reverted."""
    values = {"ingestion_id": ingestion_id, "now": moment.now}
    return _exactly_one(connection, _END_REVERT, values)


def resume(connection: Connection, ingestion_id: UUID) -> Ingestion | None:
    """Continue a stream that runs or can be resumed; None if it has ended for good."""
    return _one(connection, _RESUME, {"ingestion_id": ingestion_id, "resumable": list(RESUMABLE)})


def lock_silent_streams(
    connection: Connection, silence_seconds: float, limit: int
) -> list[Ingestion]:
    """Lock and return running streams without activity for `silence_seconds`, except those that
    another call has locked."""
    rows = connection.execute(_LOCK_SILENT, {"seconds": silence_seconds, "limit": limit})
    return [_ingestion(row) for row in rows]


def _one(connection: Connection, statement: Any, values: dict[str, Any]) -> Ingestion | None:
    row = connection.execute(statement, values).one_or_none()
    return None if row is None else _ingestion(row)


def _exactly_one(connection: Connection, statement: Any, values: dict[str, Any]) -> Ingestion:
    return _ingestion(connection.execute(statement, values).one())


def _ingestion(row: Any) -> Ingestion:
    return Ingestion(*row)
