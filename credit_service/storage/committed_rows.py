"""What later batches of an ingestion need of the rows already committed: keys and digests."""

from collections.abc import Sequence
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from credit_service.storage.arrays import Bigints, driver_cursor

_SEEN = """
    SELECT k.customer_id, k.loan_id, k.row_number, k.fingerprint
    FROM unnest(%s, %s) AS wanted (customer_id, loan_id)
    JOIN ingestion_keys k ON k.ingestion_id = %s
        AND k.customer_id = wanted.customer_id AND k.loan_id = wanted.loan_id
"""
_REMEMBER = """COPY ingestion_keys (ingestion_id, customer_id, loan_id, row_number, fingerprint)
    FROM STDIN"""

Key = tuple[int, int]
"""(customer_id, loan_id) as in the table `ingestion_keys`."""


def seen(
    connection: Connection,
    ingestion_id: UUID,
    customer_ids: Sequence[int],
    loan_ids: Sequence[int],
) -> dict[Key, tuple[int, int]]:
    """Return (row number, fingerprint) of those of these keys that earlier batches stored."""
    cursor = driver_cursor(connection)
    rows = cursor.execute(
        _SEEN,
        (Bigints(np.array(customer_ids)), Bigints(np.array(loan_ids)), ingestion_id),
        binary=True,
    )
    return {(row[0], row[1]): (row[2], row[3]) for row in rows}


def remember(
    connection: Connection, ingestion_id: UUID, keys: Sequence[tuple[int, int, int, int]]
) -> None:
    """Store (customer_id, loan_id, row number, fingerprint) until `storage.retention` deletes them
    after the ingestion's end.

    Raises psycopg.Error, a unique violation, for a key that is already stored.
    """
    if not keys:
        return
    prefix = f"{ingestion_id}\t"
    lines = "".join(f"{prefix}{a}\t{b}\t{c}\t{d}\n" for a, b, c, d in sorted(keys))
    with driver_cursor(connection).copy(_REMEMBER) as copy:
        copy.write(lines)


_DIGEST = np.dtype("<u8")
_ADD_BATCH = """INSERT INTO ingestion_batches (ingestion_id, row_offset, row_digests, over_limit)
    VALUES (%s, %s, %s, %s)"""
# Batches do not overlap: those with a row of the range start within it, except one at most.
_DIGESTS = """
    SELECT at, substring(row_digests FROM (8 * (at - row_offset))::int + 1
        FOR (8 * (%(end)s - at))::int)
    FROM (
        SELECT row_offset, row_digests, greatest(row_offset, %(offset)s) AS at
        FROM ingestion_batches
        WHERE ingestion_id = %(ingestion_id)s AND row_offset < %(end)s AND row_offset >= (
            SELECT coalesce(max(row_offset), 0) FROM ingestion_batches
            WHERE ingestion_id = %(ingestion_id)s AND row_offset <= %(offset)s
        )
    ) b
    WHERE row_offset + octet_length(row_digests) / 8 > at"""

Digests = NDArray[np.uint64]
"""64 bits of a hash of each row's content."""


def add_batch(
    connection: Connection,
    ingestion_id: UUID,
    row_offset: int,
    row_digests: Digests | None,
    over_limit: Sequence[int],
) -> None:
    """Store the digests of the rows from that offset on, if any, and the customers whose debt
    exceeds their limit after them."""
    content = None if row_digests is None else row_digests.astype(_DIGEST).tobytes()
    customers = Bigints(np.array(over_limit, np.int64)) if over_limit else None
    if content is not None or customers is not None:
        values = (ingestion_id, row_offset, content, customers)
        driver_cursor(connection).execute(_ADD_BATCH, values)


def digests(
    connection: Connection, ingestion_id: UUID, offset: int, end: int
) -> list[tuple[int, Digests]]:
    """Return what is stored of the rows `offset` … `end - 1`: first offset and digests of runs of
    consecutive rows. Rows committed by releases without digests are missing."""
    values = {"ingestion_id": ingestion_id, "offset": offset, "end": end}
    rows = driver_cursor(connection).execute(_DIGESTS, values, binary=True)
    return [(row[0], np.frombuffer(row[1], _DIGEST)) for row in rows]
