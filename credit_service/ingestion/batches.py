"""Commits one batch in one transaction: its rows, its errors and the new offset."""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

import numpy as np
from sqlalchemy import Connection

from credit_service import failpoints
from credit_service.clock import Moment
from credit_service.domain.errors import (
    NotFoundError,
    NotOwnerError,
    OutOfRangeError,
    PreconditionFailedError,
    RequestIdReusedError,
    RetryLaterError,
)
from credit_service.domain.principals import is_other
from credit_service.observability import metrics
from credit_service.storage import committed_rows, event_stream, ingestions, row_errors
from credit_service.storage.database import Database
from credit_service.storage.ingestions import Header, Ingestion
from credit_service.storage.row_errors import StoredRowError

if TYPE_CHECKING:
    from credit_service.ingestion.frames import Batch, RowError
    from credit_service.ingestion.loader import Outcome

OnMoved = Callable[[Sequence[int]], None]
"""Receives the customers whose positions changed; the cache of positions drops them."""

MAX_REPORTED_ROWS = 100_000
"""Most rejected rows that an ingestion lists, and most skipped rows. Further ones are counted."""


_MAX_RETRIES = 20

T = TypeVar("T")


def commit_batch(
    database: Database,
    ingestion_id: UUID,
    offset: int,
    row_count: int,
    validated: "Callable[[Ingestion], Batch]",
    moment: Moment,
    on_moved: OnMoved | None,
) -> Ingestion:
    """Commit rows `offset` … `offset + row_count - 1` exactly once, however often it is called.

    Rows below the committed offset must equal the committed ones, and are not stored again.
    `validated` returns the batch; it is called only if the batch is needed. Calls `on_moved` after
    the commit, with the customers whose positions changed.

    Raises:
        NotFoundError: INGESTION_NOT_FOUND.
        OutOfRangeError: OFFSET_MISMATCH, the batch begins above the committed offset.
        PreconditionFailedError: COMMITTED_ROWS_DIFFER, other rows were committed; INGESTION_ENDED,
            with rows beyond its end.
        RetryLaterError: others locked these customers, or the ingestion, for too long.
    """
    # Importing pandas takes 0.3 s, which would delay the start of a server.
    from credit_service.ingestion.loader import load  # noqa: PLC0415

    batch: Batch | None = None
    moved: Sequence[int] = ()
    began = time.monotonic()

    def attempt(_number: int) -> tuple[Ingestion, Ingestion | None]:
        nonlocal batch, moved
        with database.transaction() as connection:
            ingestion = locked(connection, ingestion_id)
            committed = ingestion.committed_offset
            if offset < committed and ingestion.source == "STREAM":
                batch = batch or validated(ingestion)
                check_committed(connection, ingestion, batch)
            if offset + row_count <= committed:
                return ingestion, None
            if ingestion.error_code == ingestions.ABANDONED:
                # Its stream was silent for too long, and continues.
                ingestion = ingestions.resume(connection, ingestion_id) or ingestion
            if ingestion.has_ended:
                raise has_ended(ingestion)
            if offset > committed:
                raise _offset_mismatch(ingestion, offset)
            batch = batch or validated(ingestion)
            rest = batch.after(committed)
            outcome = load(
                connection,
                ingestion,
                rest,
                moment,
                list_skipped=ingestion.skipped < MAX_REPORTED_ROWS,
            )
            moved = outcome.moved
            advanced = _store(connection, ingestion, rest, outcome)
            failpoints.reach("ingestion.before_commit")
            return advanced, ingestion

    ingestion, before = database.retry(attempt)
    failpoints.reach("ingestion.after_commit")
    if before is not None:
        _count(before, ingestion, time.monotonic() - began)
        if on_moved is not None and moved:
            on_moved(moved)
    return ingestion


def _count(before: Ingestion, after: Ingestion, seconds: float) -> None:
    """Add a committed batch to the metrics."""
    kind, source = after.kind.lower(), after.source.lower()
    metrics.ingestion_batch_seconds.labels(kind, source).observe(seconds)
    if after.validate_only:
        return
    for outcome in metrics.ROW_OUTCOMES:
        count = getattr(after, outcome) - getattr(before, outcome)
        metrics.ingested_rows.labels(kind, source, outcome).inc(count)


def _store(
    connection: Connection, ingestion: Ingestion, batch: "Batch", outcome: "Outcome"
) -> Ingestion:
    listed = list(outcome.skipped)
    if ingestion.rejected < MAX_REPORTED_ROWS:
        listed += outcome.errors
    row_errors.add(connection, ingestion.ingestion_id, _numbered(listed))
    committed_rows.add_batch(
        connection, ingestion.ingestion_id, batch.offset, batch.digests, outcome.over_limit
    )
    return ingestions.advance(connection, ingestion.ingestion_id, outcome.counts, batch.end)


def _numbered(errors: "Sequence[RowError]") -> list[StoredRowError]:
    numbered = []
    last_offset, number = -1, 0
    for error in errors:
        number = number + 1 if error.row_offset == last_offset else 1
        last_offset = error.row_offset
        numbered.append(
            StoredRowError(
                error.row_offset,
                number,
                error.row_number,
                error.column,
                error.code,
                error.found,
                error.expected,
                error.message,
                error.outcome,
            )
        )
    return numbered


def locked(connection: Connection, ingestion_id: UUID) -> Ingestion:
    """The ingestion, locked until the transaction ends.

    Raises:
        NotFoundError: INGESTION_NOT_FOUND.
    """
    ingestion = ingestions.lock(connection, ingestion_id)
    if ingestion is None:
        raise not_found(ingestion_id)
    return ingestion


def not_found(ingestion_id: UUID) -> NotFoundError:
    """The error for an unknown ingestion id."""
    return NotFoundError("INGESTION_NOT_FOUND", "ingestion", str(ingestion_id))


def end(
    connection: Connection,
    ingestion: Ingestion,
    moment: Moment,
    *,
    total_rows: int | None = None,
    error: tuple[str, str] | None = None,
    cancel_request_id: UUID | None = None,
) -> Ingestion:
    """End a locked ingestion, as failed if `error`, which is (code, message), is given, and as
    cancelled if the id of the request is given."""
    announce(connection, ingestion, moment)
    state = ingestions.SUCCEEDED if error is None else ingestions.FAILED
    if cancel_request_id is not None:
        state = ingestions.CANCELLED
    ended = ingestions.end(
        connection,
        ingestion.ingestion_id,
        state,
        moment,
        total_rows=total_rows,
        error=error,
        cancel_request_id=cancel_request_id,
    )
    kind, source = ended.kind.lower(), ended.source.lower()
    metrics.ingestions_ended.labels(kind, source, ended.state.lower()).inc()
    metrics.customers_over_limit.labels(kind, source).inc(ended.customers_over_limit or 0)
    return ended


def announce(connection: Connection, ingestion: Ingestion, moment: Moment) -> None:
    """Publish an event of the rows stored so far, and of those that a revert took back; workers
    then recompute scores."""
    if not ingestion.wrote_rows:
        return
    payload = {
        "ingestion_id": str(ingestion.ingestion_id),
        "kind": ingestion.kind,
        "inserted": ingestion.inserted,
        "updated": ingestion.updated,
    }
    if ingestion.revert_request_id is not None:
        payload |= {"removed": ingestion.rows_removed, "restored": ingestion.rows_restored}
    event_stream.append_for_no_customer(connection, "rows_ingested", payload, moment)


def check_owner(
    ingestion: Ingestion,
    principal: str,
    advice: str = "Send your rows under a new ingestion id.",
) -> None:
    """Check that the caller may continue, cancel or revert an ingestion. Ownership does not apply
    if the caller, or the owner, is anonymous.

    Raises:
        NotOwnerError: INGESTION_NOT_OWNED.
    """
    if is_other(principal, ingestion.principal):
        raise NotOwnerError(
            "INGESTION_NOT_OWNED",
            f"The ingestion {ingestion.ingestion_id} belongs to another caller. {advice}",
            metadata={"ingestion_id": str(ingestion.ingestion_id)},
        )


def check_request(connection: Connection, request_id: UUID) -> None:
    """Check that no request with that id cancelled or reverted an ingestion.

    Raises:
        RequestIdReusedError: REQUEST_ID_REUSED.
    """
    if ingestions.request_is_used(connection, request_id):
        raise RequestIdReusedError(
            "REQUEST_ID_REUSED",
            f"The request id {request_id} was used before with other content; send a new id.",
            subject=f"requests/{request_id}",
            metadata={"request_id": str(request_id)},
        )


def check_committed(connection: Connection, ingestion: Ingestion, batch: "Batch") -> None:
    """Check that the rows of a batch below the committed offset equal the committed ones.

    Rows committed by a release without digests are not compared.

    Raises:
        PreconditionFailedError: COMMITTED_ROWS_DIFFER.
    """
    if batch.digests is None:
        return
    end = min(batch.end, ingestion.committed_offset)
    for first, stored in committed_rows.digests(
        connection, ingestion.ingestion_id, batch.offset, end
    ):
        start = first - batch.offset
        differing = np.flatnonzero(batch.digests[start : start + len(stored)] != stored)
        if len(differing):
            offset = first + int(differing[0])
            raise committed_rows_differ(
                ingestion,
                offset,
                f"The row at offset {offset:,} differs from the one that was committed under this "
                "ingestion id. The batch was not stored. Send other rows under a new ingestion id.",
            )


def committed_rows_differ(
    ingestion: Ingestion, offset: int, message: str
) -> PreconditionFailedError:
    """The error for a stream whose rows, from `offset` on, are not the committed ones."""
    return PreconditionFailedError(
        "COMMITTED_ROWS_DIFFER",
        message,
        subject=f"ingestions/{ingestion.ingestion_id}",
        metadata={
            "ingestion_id": str(ingestion.ingestion_id),
            "offset": str(offset),
            "committed_offset": str(ingestion.committed_offset),
        },
    )


def check_same_header(ingestion: Ingestion, header: Header, source: str) -> None:
    """Check that an id in use stands for the same content.

    Raises:
        PreconditionFailedError: INGESTION_HEADER_MISMATCH, with the fields that differ.
    """
    compared = ["kind", "on_existing", "validate_only"]
    if source == "UPLOAD":
        # The name and hash of a stream's file change nothing in how its rows are processed.
        compared += ["filename", "sha256", "date_order"]
    fields = [name for name in compared if getattr(ingestion, name) != getattr(header, name)]
    if ingestion.source != source:
        fields = ["source"]
    if fields:
        names = ", ".join(fields)
        raise PreconditionFailedError(
            "INGESTION_HEADER_MISMATCH",
            f"The ingestion id {header.ingestion_id} was used before with other content ({names}); "
            "send a new id with new content.",
            subject=f"ingestions/{header.ingestion_id}",
            metadata={"ingestion_id": str(header.ingestion_id), "fields": ",".join(fields)},
        )


OWNED_ADVICE = "Ask that caller, or one with the scope admin."
"""For a caller who may not cancel or revert an ingestion."""


def has_ended(
    ingestion: Ingestion, advice: str = "accepts no more rows; use a new id."
) -> PreconditionFailedError:
    """The error for an ingestion that has ended, and for that reason cannot do more."""
    return PreconditionFailedError(
        "INGESTION_ENDED",
        f"The ingestion has ended ({ingestion.state}) and {advice}",
        subject=f"ingestions/{ingestion.ingestion_id}",
        metadata={"ingestion_id": str(ingestion.ingestion_id), "state": ingestion.state},
    )


def _offset_mismatch(ingestion: Ingestion, offset: int) -> OutOfRangeError:
    expected = ingestion.committed_offset
    return OutOfRangeError(
        "OFFSET_MISMATCH",
        f"The batch begins at offset {offset}, and the next row expected is {expected}; send from "
        "there.",
        metadata={
            "ingestion_id": str(ingestion.ingestion_id),
            "expected_offset": str(expected),
            "found_offset": str(offset),
        },
    )


def retry_while_locked(step: Callable[[], T]) -> T:
    """Return the result of `step`, retried while other calls hold the locks of its customers.

    For workers: no caller waits for the result.

    Raises:
        RetryLaterError: the last of 20 retries met a lock too.
    """
    for _ in range(_MAX_RETRIES):
        try:
            return step()
        except RetryLaterError as error:
            time.sleep(error.retry_after_seconds)
    return step()
