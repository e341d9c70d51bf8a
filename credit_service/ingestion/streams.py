"""Use case: ingest the rows of a stream exactly once, by their offsets."""

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from credit_service.clock import Moment
from credit_service.domain.errors import InvalidRequestError
from credit_service.ingestion import batches
from credit_service.ingestion.batches import OnMoved
from credit_service.ingestion.wire import RowBatch
from credit_service.storage import ingestions, replication
from credit_service.storage.database import Database
from credit_service.storage.ingestions import Header, Ingestion

if TYPE_CHECKING:
    from credit_service.ingestion.frames import Batch

_ABANDONED_AT_ONCE = 100


def import_modules() -> None:
    """Import the modules that ingest rows, pandas among them, in 0.3 s. Otherwise the first batch
    imports them."""
    importlib.import_module("credit_service.ingestion.loader")
    importlib.import_module("credit_service.ingestion.validation")


def begin_stream(
    database: Database,
    header: Header,
    moment: Moment,
    principal: str,
    *,
    max_limit_paise: int | None = None,
) -> Ingestion:
    """Create the ingestion, or continue it under the same header; it may have ended.

    A stream that failed because its client was silent, or could not read its source, continues
    within RESUMABLE_DAYS. The day of creation stays the import day, and `max_limit_paise`, None for
    no ceiling, stays the highest approved limit that a row may set.

    Raises:
        NotOwnerError: INGESTION_NOT_OWNED, another caller began it.
        PreconditionFailedError: INGESTION_HEADER_MISMATCH.
    """
    with database.transaction() as connection:
        created = ingestions.create(
            connection, header, "STREAM", moment, principal, max_limit_paise=max_limit_paise
        )
        ingestion = ingestions.find(connection, header.ingestion_id)
    if ingestion is None:
        raise LookupError("an ingestion just created is not there")
    if created:
        return ingestion
    batches.check_owner(ingestion, principal)
    batches.check_same_header(ingestion, header, "STREAM")
    with database.transaction() as connection:
        replication.confirm(connection)
        return ingestions.resume(connection, header.ingestion_id) or ingestion


def ingest_rows(
    database: Database,
    ingestion_id: UUID,
    rows: Sequence[RowBatch],
    moment: Moment,
    *,
    on_moved: OnMoved | None = None,
) -> Ingestion:
    """Store consecutive batches of rows in one transaction.

    Rows that are committed already are compared, and not stored again. Calls `on_moved` after the
    commit, with the customers whose positions changed.

    Raises:
        NotFoundError: INGESTION_NOT_FOUND.
        OutOfRangeError: OFFSET_MISMATCH, the first row is above the committed offset.
        InvalidRequestError: STREAM_ORDER_INVALID, the rows are not of the ingestion's kind.
        PreconditionFailedError: COMMITTED_ROWS_DIFFER, other rows were committed; INGESTION_ENDED,
            with rows beyond its end.
        RetryLaterError: others locked these customers, or the ingestion, for too long.
    """
    # As in batches.commit_batch: a server starts without pandas.
    from credit_service.ingestion.frames import joined  # noqa: PLC0415
    from credit_service.ingestion.validation import validate_columns  # noqa: PLC0415

    offset = rows[0].offset

    def validated(ingestion: Ingestion) -> "Batch":
        found = rows[0].columns.kind
        if found != ingestion.kind:
            raise InvalidRequestError(
                "STREAM_ORDER_INVALID",
                f"The ingestion is of {ingestion.kind.lower()}, and the batch of {found.lower()}.",
                metadata={"expected": ingestion.kind.lower(), "found": found.lower()},
            )
        return joined(
            [validate_columns(each.columns, each.offset, ingestion.import_day) for each in rows]
        )

    return batches.commit_batch(
        database, ingestion_id, offset, rows[-1].end - offset, validated, moment, on_moved
    )


def finish_stream(
    database: Database, ingestion_id: UUID, moment: Moment, *, sent_until: int | None = None
) -> Ingestion:
    """End the ingestion of a stream that sent all rows. Does nothing if it has ended.

    `sent_until` is the offset after the last row that the stream sent, None if it sent none because
    all were committed already.

    Raises:
        NotFoundError: INGESTION_NOT_FOUND.
        PreconditionFailedError: COMMITTED_ROWS_DIFFER, more rows were committed than the stream
            has.
    """
    with database.transaction() as connection:
        ingestion = batches.locked(connection, ingestion_id)
        if sent_until is not None and sent_until < ingestion.committed_offset:
            raise batches.committed_rows_differ(
                ingestion,
                sent_until,
                f"The stream ends after {sent_until:,} rows, and {ingestion.committed_offset:,} are"
                " committed under this ingestion id: it is not the stream that sent those. Send"
                " these rows under a new ingestion id.",
            )
        if ingestion.has_ended:
            return ingestion
        total_rows = ingestion.committed_offset
        return batches.end(connection, ingestion, moment, total_rows=total_rows)


def fail_stream(database: Database, ingestion_id: UUID, message: str, moment: Moment) -> Ingestion:
    """End the ingestion as failed, because the client cannot read its source to the end. Does
    nothing if it has ended.

    Raises:
        NotFoundError: INGESTION_NOT_FOUND.
    """
    with database.transaction() as connection:
        ingestion = batches.locked(connection, ingestion_id)
        if ingestion.has_ended:
            return ingestion
        return batches.end(connection, ingestion, moment, error=(ingestions.SOURCE_FAILED, message))


def abandon_streams(database: Database, moment: Moment, silence_seconds: float) -> int:
    """End streams as failed that stored nothing for `silence_seconds`. Returns their number.
    Safe to run concurrently."""
    with database.transaction() as connection:
        found = ingestions.lock_silent_streams(connection, silence_seconds, _ABANDONED_AT_ONCE)
        for ingestion in found:
            message = (
                f"No row arrived for {silence_seconds:g} seconds. Resume the stream under the same "
                f"ingestion id; it continues after {ingestion.committed_offset:,} rows."
            )
            batches.end(connection, ingestion, moment, error=(ingestions.ABANDONED, message))
    return len(found)


def leave_stream(database: Database, ingestion_id: UUID, moment: Moment) -> None:
    """Publish the rows stored by a stream that broke off, which may never be resumed."""
    with database.transaction() as connection:
        ingestion = batches.locked(connection, ingestion_id)
        if not ingestion.has_ended:
            batches.announce(connection, ingestion, moment)
