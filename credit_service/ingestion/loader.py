"""Compares valid rows with the stored ones, and inserts, updates, skips or rejects each.

Everything happens in the caller's transaction. The outcome of a row depends on the earlier rows of
the source and on the stored data, not on where batches begin and end. A dry run decides by the same
code and only writes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from sqlalchemy import Connection

from credit_service.clock import Moment
from credit_service.ingestion.frames import Batch, RowError
from credit_service.ingestion.merge import Merge
from credit_service.ingestion.merge_customers import load_customers
from credit_service.ingestion.merge_loans import load_loans
from credit_service.storage.database import LostRaceError
from credit_service.storage.ingestions import Counts, Ingestion
from credit_service.storage.violations import UNIQUE_VIOLATION, constraint_of, sqlstate_of


@dataclass
class Outcome:
    """The outcome of a batch. `errors` are of rejected rows, in order; `skipped` has an entry for
    each skipped row.

    `moved` are the customers whose positions changed, `over_limit` those of them whose debt now
    exceeds their limit.
    """

    counts: Counts
    errors: Sequence[RowError]
    skipped: Sequence[RowError]
    moved: Sequence[int]
    over_limit: Sequence[int]


def load(
    connection: Connection,
    ingestion: Ingestion,
    batch: Batch,
    moment: Moment,
    *,
    list_skipped: bool = True,
) -> Outcome:
    """Store the valid rows of a batch, and record what later batches need to know.

    A dry run writes nothing but these records. Without `list_skipped`, skipped rows are only
    counted.

    Raises:
        LostRaceError: another call took an id or a phone number meanwhile.
    """
    merge = Merge(connection, ingestion, moment, list_skipped)
    try:
        if batch.kind == "LOANS":
            load_loans(merge, batch.frame)
        else:
            load_customers(merge, batch.frame)
    except psycopg.Error as error:
        if sqlstate_of(error) != UNIQUE_VIOLATION:
            raise
        raise LostRaceError(constraint_of(error) or "unique") from error
    errors = sorted([*batch.errors, *merge.errors], key=lambda error: error.row_offset)
    rejected = len({error.row_offset for error in errors})
    return Outcome(
        Counts(merge.inserted, merge.updated, merge.unchanged, merge.skipped, rejected),
        errors,
        merge.skips,
        merge.moved,
        merge.over_limit,
    )
