"""Use case: revert an ended ingestion, a range of customers at a time.

A request marks the ingestion as REVERTING and enqueues a task. Each step of the task takes back the
rows of a range of customers in one transaction, and stores the counts and the end of the range with
it: after a kill, the next step continues there. The last step marks the ingestion as REVERTED.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final
from uuid import UUID

import numpy as np
import psycopg
from sqlalchemy import Connection

from credit_service import failpoints
from credit_service.clock import Clock, Moment
from credit_service.domain.errors import PreconditionFailedError
from credit_service.ingestion import batches
from credit_service.ingestion.batches import MAX_REPORTED_ROWS, OnMoved
from credit_service.observability import metrics
from credit_service.storage import (
    arrears,
    imported_customers,
    ingestions,
    positions,
    replication,
    reverts,
    row_errors,
    tasks,
)
from credit_service.storage.bulk_changes import Origin
from credit_service.storage.database import Database, LostRaceError
from credit_service.storage.ingestions import Ingestion
from credit_service.storage.reverts import WrittenRow
from credit_service.storage.row_errors import StoredRowError
from credit_service.storage.violations import UNIQUE_VIOLATION, constraint_of, sqlstate_of

STEP_CUSTOMERS: Final = 5_000
"""Customers of one transaction: enough for throughput, few enough not to delay a booking much."""

ACTOR: Final = "revert_ingestion"

_DROPPED_AT_ONCE = 10_000


def revert_ingestion(
    database: Database,
    ingestion_id: UUID,
    request_id: UUID,
    moment: Moment,
    principal: str,
    *,
    owns_all: bool = False,
) -> Ingestion:
    """Begin to take back the rows of an ended ingestion; a repeated request returns its state.

    An ingestion that wrote no row is REVERTED at once. With `owns_all` the caller may revert the
    ingestions of others.

    Raises:
        NotFoundError: INGESTION_NOT_FOUND.
        NotOwnerError: INGESTION_NOT_OWNED.
        PreconditionFailedError: INGESTION_NOT_ENDED; INGESTION_ALREADY_REVERTED by another request;
            INGESTION_NOT_REVERTIBLE, an earlier release ran it.
        RequestIdReusedError: the id was used for another ingestion, or for a cancellation.
        RetryLaterError: INGESTION_IN_PROGRESS, another call holds the lock.
    """
    with database.transaction() as connection:
        ingestion = batches.locked(connection, ingestion_id)
        if not owns_all:
            batches.check_owner(ingestion, principal, batches.OWNED_ADVICE)
        if ingestion.revert_request_id == request_id:
            replication.confirm(connection)
            if ingestion.state == "REVERTING":
                # Its task may have used up its attempts.
                tasks.enqueue(connection, ACTOR, str(ingestion_id), moment)
            return ingestion
        batches.check_request(connection, request_id)
        _check_revertible(ingestion)
        begun = ingestions.begin_revert(connection, ingestion_id, request_id, principal, moment)
        if not begun.wrote_rows:
            return _end(connection, begun, moment)
        tasks.enqueue(connection, ACTOR, str(ingestion_id), moment)
        return begun


def _check_revertible(ingestion: Ingestion) -> None:
    subject = f"ingestions/{ingestion.ingestion_id}"
    ingestion_id, state = str(ingestion.ingestion_id), ingestion.state
    if not ingestion.has_ended:
        raise PreconditionFailedError(
            "INGESTION_NOT_ENDED",
            f"The ingestion is {state}; cancel it, or revert it when it has ended.",
            subject,
            metadata={"ingestion_id": ingestion_id, "state": state},
        )
    if ingestion.revert_request_id is not None:
        raise PreconditionFailedError(
            "INGESTION_ALREADY_REVERTED",
            f"The ingestion is {state} by another request; GetIngestion returns its counts, and"
            " ListRowErrors the rows that stay.",
            subject,
            metadata={"ingestion_id": ingestion_id, "state": state},
        )
    if ingestion.wrote_rows and not ingestion.is_traced:
        raise PreconditionFailedError(
            "INGESTION_NOT_REVERTIBLE",
            "An earlier release ran this ingestion, and did not record which rows it inserted;"
            " import a corrected file with on_existing UPDATE instead.",
            subject,
            metadata={"ingestion_id": ingestion_id, "state": state},
        )


def run_revert(
    database: Database,
    ingestion_id: UUID,
    clock: Clock,
    *,
    step_customers: int = STEP_CUSTOMERS,
    on_progress: Callable[[], None] | None = None,
    on_moved: OnMoved | None = None,
) -> Ingestion:
    """Take back the rows of an ingestion that is being reverted, from where the last run ended.

    Concurrent calls take back each row once. Calls `on_progress` before each step, and an exception
    from it ends the run. Calls `on_moved` after each commit, with the customers whose positions
    changed, and at the end with all removed customers: a killed run may not have reported them.

    Raises:
        NotFoundError: INGESTION_NOT_FOUND.
        RetryLaterError, UnavailableError: it did not end; call again.
    """
    while True:
        if on_progress is not None:
            on_progress()
        step = partial(_step, database, ingestion_id, clock.moment(), step_customers, on_moved)
        ingestion = batches.retry_while_locked(step)
        if ingestion.state != "REVERTING":
            break
    if on_moved is not None and ingestion.kind == "CUSTOMERS" and ingestion.rows_removed:
        _report_removed(database, ingestion_id, on_moved)
    return ingestion


def _report_removed(database: Database, ingestion_id: UUID, on_moved: OnMoved) -> None:
    last = 0
    while True:
        with database.autocommit() as connection:
            ids = reverts.removed_customers(connection, ingestion_id, last, _DROPPED_AT_ONCE)
        if not ids:
            return
        on_moved(ids)
        last = ids[-1]


def _step(
    database: Database,
    ingestion_id: UUID,
    moment: Moment,
    step_customers: int,
    on_moved: OnMoved | None,
) -> Ingestion:
    moved: Sequence[int] = ()

    def attempt(_number: int) -> Ingestion:
        nonlocal moved
        moved = ()
        with database.transaction() as connection:
            ingestion = batches.locked(connection, ingestion_id)
            if ingestion.state != "REVERTING":
                return ingestion
            after = ingestion.reverted_until
            until = reverts.range_end(connection, after, step_customers)
            if until is None:
                return _end(connection, ingestion, moment)
            try:
                ingestion, moved = _take_back(connection, ingestion, until, moment)
            except psycopg.Error as error:
                if sqlstate_of(error) != UNIQUE_VIOLATION:
                    raise
                raise LostRaceError(constraint_of(error) or "unique") from error
            failpoints.reach("revert.before_commit")
            return ingestion

    ingestion = database.retry(attempt)
    failpoints.reach("revert.after_commit")
    if on_moved is not None and moved:
        on_moved(moved)
    return ingestion


def _end(connection: Connection, ingestion: Ingestion, moment: Moment) -> Ingestion:
    batches.announce(connection, ingestion, moment)
    ended = ingestions.end_revert(connection, ingestion.ingestion_id, moment)
    kind, source = ended.kind.lower(), ended.source.lower()
    metrics.ingestions_ended.labels(kind, source, ended.state.lower()).inc()
    return ended


def announce_revert(database: Database, ingestion_id: UUID, moment: Moment) -> None:
    """Publish what a revert that cannot continue took back; workers then recompute scores."""
    with database.transaction() as connection:
        ingestion = batches.locked(connection, ingestion_id)
        if ingestion.state == "REVERTING":
            batches.announce(connection, ingestion, moment)


def _take_back(
    connection: Connection, ingestion: Ingestion, until: int, moment: Moment
) -> tuple[Ingestion, Sequence[int]]:
    """Take back the rows of the customers after the last range, up to `until`. Return the ingestion
    and the customers whose positions changed."""
    ingestion_id, since = ingestion.ingestion_id, ingestion.started_at or ingestion.created_at
    after = ingestion.reverted_until
    ids = reverts.lock_customers(connection, ingestion.kind, ingestion_id, after, until)
    origin = Origin(ingestion_id, ingestion.reverted_by or "", moment.now)
    rows: Sequence[WrittenRow] = ()
    free: Sequence[WrittenRow] = ()
    if len(ids) and ingestion.kind == "LOANS":
        rows = reverts.written_loans(connection, ids, ingestion_id, since)
        free = _take_back_loans(connection, rows, origin, moment)
    elif len(ids):
        rows = reverts.written_customers(connection, ids, ingestion_id, since)
        free, rows = _take_back_customers(connection, rows, origin)
    kept = [row for row in rows if row.kept_by is not None]
    _list_kept(connection, ingestion, kept)
    restored = sum(row.was_updated for row in free)
    advanced = ingestions.advance_revert(
        connection, ingestion_id, until, len(free) - restored, restored, len(kept)
    )
    return advanced, sorted({row.customer_id for row in free})


def _take_back_loans(
    connection: Connection, rows: Sequence[WrittenRow], origin: Origin, moment: Moment
) -> Sequence[WrittenRow]:
    """Take back the loans that nothing keeps, and return them."""
    free = [row for row in rows if row.kept_by is None]
    inserted = [row for row in free if not row.was_updated]
    updated = [row for row in free if row.was_updated]
    if inserted:
        reverts.remove_loans(connection, inserted)
    if updated:
        reverts.restore_loans(connection, updated, origin)
    if free:
        moved = np.unique(np.array([row.customer_id for row in free], np.int64))
        positions.refresh_locked(connection, moved, moment.today)
        announced = arrears.announce(connection, moved.tolist(), moment)
        metrics.count_class_changes(announced)
    return free


def _take_back_customers(
    connection: Connection, rows: Sequence[WrittenRow], origin: Origin
) -> tuple[Sequence[WrittenRow], Sequence[WrittenRow]]:
    """Take back the customers that nothing keeps. Return them, and all rows, of which those are
    kept whose former phone number another customer has now."""
    inserted = [row for row in rows if row.kept_by is None and not row.was_updated]
    if inserted:
        reverts.remove_customers(connection, inserted, origin)
    rows = _without_taken_phones(connection, rows)
    updated = [row for row in rows if row.kept_by is None and row.was_updated]
    if updated:
        reverts.restore_customers(connection, updated, origin)
    return [*inserted, *updated], rows


def _without_taken_phones(
    connection: Connection, rows: Sequence[WrittenRow]
) -> Sequence[WrittenRow]:
    """Mark the rows as kept whose former phone numbers other customers have."""
    wanted = [row.former_phone_number for row in rows if row.former_phone_number is not None]
    if not wanted:
        return rows
    holders = imported_customers.phone_holders(connection, wanted)
    found = []
    for row in rows:
        holder = holders.get(row.former_phone_number or "", row.customer_id)
        is_taken = row.kept_by is None and holder != row.customer_id
        found.append(replace(row, kept_by=reverts.PHONE_TAKEN) if is_taken else row)
    return found


# --- The rows that stay ---------------------------------------------------------------------------

# What is expected of the row, and why it was kept.
_REASONS: Mapping[str, tuple[str, str]] = {
    reverts.PAYMENT_SINCE: (
        "a loan without payments recorded here",
        "a payment of it is recorded here",
    ),
    reverts.BOOKING_SINCE: (
        "no loan or offer approved for the customer since",
        "a loan or an offer was approved for the customer since",
    ),
    reverts.CHANGE_SINCE: (
        "a record that nothing changed since",
        "a later import or a caller changed it",
    ),
    reverts.CUSTOMER_IN_USE: (
        "a customer without loans and decisions",
        "loans or decisions of the customer are stored",
    ),
    reverts.PHONE_TAKEN: (
        "a former phone number that no other customer has",
        "another customer has the former phone number now",
    ),
}


def _list_kept(connection: Connection, ingestion: Ingestion, kept: Sequence[WrittenRow]) -> None:
    """List the rows that stay, after those of the source, unless the list is full or expired."""
    if ingestion.row_errors_state != "KEPT" or ingestion.rows_kept >= MAX_REPORTED_ROWS:
        return
    first = ingestion.committed_offset + ingestion.rows_kept
    errors = []
    for place, row in enumerate(kept):
        key = f"customer {row.customer_id}"
        if row.loan_id:
            key = f"loan {row.loan_id} of {key}"
        expected, why = _REASONS[row.kept_by or ""]
        errors.append(
            StoredRowError(
                first + place,
                1,
                row.row_number,
                "",
                row.kept_by or "",
                key,
                expected,
                f"{key.capitalize()} was not taken back: {why}.",
                "KEPT",
            )
        )
    row_errors.add(connection, ingestion.ingestion_id, errors)
