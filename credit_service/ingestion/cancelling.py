"""Use case: cancel an ingestion before its last row."""

from uuid import UUID

from credit_service.clock import Moment
from credit_service.ingestion import batches
from credit_service.storage import replication
from credit_service.storage.database import Database
from credit_service.storage.ingestions import Ingestion


def cancel_ingestion(
    database: Database,
    ingestion_id: UUID,
    request_id: UUID,
    moment: Moment,
    principal: str,
    *,
    owns_all: bool = False,
) -> Ingestion:
    """End a queued or running ingestion as CANCELLED; a repeated request returns it.

    Waits for the batch that is being committed. No batch commits after this returns: each one locks
    the ingestion and checks its state. Committed rows stay. With `owns_all` the caller may cancel
    the ingestions of others.

    Raises:
        NotFoundError: INGESTION_NOT_FOUND.
        NotOwnerError: INGESTION_NOT_OWNED.
        PreconditionFailedError: INGESTION_ENDED.
        RequestIdReusedError: the id was used for another ingestion, or for a revert.
        RetryLaterError: INGESTION_IN_PROGRESS, a batch is being committed for too long.
    """
    with database.transaction() as connection:
        ingestion = batches.locked(connection, ingestion_id)
        if not owns_all:
            batches.check_owner(ingestion, principal, batches.OWNED_ADVICE)
        if ingestion.cancel_request_id == request_id:
            replication.confirm(connection)
            return ingestion
        batches.check_request(connection, request_id)
        if ingestion.has_ended:
            advice = "cannot be cancelled; revert it to take its rows back."
            raise batches.has_ended(ingestion, advice)
        return batches.end(connection, ingestion, moment, cancel_request_id=request_id)
