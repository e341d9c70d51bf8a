"""Look up ingestions."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from credit_service.domain.errors import NotFoundError
from credit_service.storage import ingestions, row_errors
from credit_service.storage.database import Database
from credit_service.storage.ingestions import Ingestion
from credit_service.storage.row_errors import RowOutcome, StoredRowError


def get_ingestion(database: Database, ingestion_id: UUID) -> Ingestion:
    """Return the current state of the ingestion.

    Raises:
        NotFoundError: INGESTION_NOT_FOUND.
    """
    with database.autocommit() as connection:
        ingestion = ingestions.find(connection, ingestion_id)
    if ingestion is None:
        raise NotFoundError("INGESTION_NOT_FOUND", "ingestion", str(ingestion_id))
    return ingestion


def list_ingestions(
    database: Database, after: tuple[datetime, UUID] | None, limit: int
) -> list[Ingestion]:
    """Return ingestions after that (created_at, ingestion_id), the latest first."""
    with database.autocommit() as connection:
        return ingestions.page(connection, after, limit)


def list_row_errors(
    database: Database,
    ingestion_id: UUID,
    after: tuple[int, int] | None,
    limit: int,
    outcomes: Sequence[RowOutcome] = ("REJECTED",),
) -> list[StoredRowError]:
    """Return the errors of rows with these outcomes after that (row_offset, error_number), in the
    order of the rows.

    Raises:
        NotFoundError: INGESTION_NOT_FOUND.
    """
    with database.autocommit() as connection:
        found = row_errors.page(connection, ingestion_id, after, limit, outcomes)
        if not found and ingestions.find(connection, ingestion_id) is None:
            raise NotFoundError("INGESTION_NOT_FOUND", "ingestion", str(ingestion_id))
    return found
