"""Row errors: why rows of an ingestion were not stored, or not taken back by its revert."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from sqlalchemy import Connection, text

from credit_service.storage.arrays import driver_cursor

RowOutcome = Literal["REJECTED", "SKIPPED", "KEPT"]


@dataclass(frozen=True, slots=True)
class StoredRowError:
    """Why a row was not stored, or not taken back by a revert; `error_number` counts from 1 within
    the row.

    `column_header`, set when the error is read, is the column's header in the uploaded file; empty
    if unknown.
    """

    row_offset: int
    error_number: int
    row_number: int
    column: str
    code: str
    found: str
    expected: str
    message: str
    outcome: RowOutcome = "REJECTED"
    column_header: str = ""


_ADD_ERRORS = """COPY row_errors (ingestion_id, row_offset, error_number, row_number, column_name,
    code, found, expected, message, outcome) FROM STDIN"""
_ERRORS_PAGE = text(
    """SELECT row_offset, error_number, row_number, column_name, code, found, expected, message,
        outcome, coalesce(column_headers ->> column_name, '')
    FROM row_errors JOIN ingestions USING (ingestion_id)
    WHERE ingestion_id = :ingestion_id AND outcome = ANY(:outcomes)
        AND (row_offset, error_number) > (:row_offset, :error_number)
    ORDER BY row_offset, error_number LIMIT :limit"""
)


def add(connection: Connection, ingestion_id: UUID, errors: Sequence[StoredRowError]) -> None:
    """Store the errors of rows that were not stored."""
    if not errors:
        return
    with driver_cursor(connection).copy(_ADD_ERRORS) as copy:
        for error in errors:
            copy.write_row(
                (
                    ingestion_id,
                    error.row_offset,
                    error.error_number,
                    error.row_number,
                    error.column,
                    error.code,
                    error.found,
                    error.expected,
                    error.message,
                    error.outcome,
                )
            )


def page(
    connection: Connection,
    ingestion_id: UUID,
    after: tuple[int, int] | None,
    limit: int,
    outcomes: Sequence[RowOutcome] = ("REJECTED",),
) -> list[StoredRowError]:
    """Return the errors of rows with these outcomes after that (row_offset, error_number), in the
    order of the rows."""
    row_offset, error_number = after or (-1, 0)
    rows = connection.execute(
        _ERRORS_PAGE,
        {
            "ingestion_id": ingestion_id,
            "outcomes": list(outcomes),
            "row_offset": row_offset,
            "error_number": error_number,
            "limit": limit,
        },
    )
    return [StoredRowError(*row) for row in rows]
