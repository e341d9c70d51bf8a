"""The bytes of uploaded files, stored in chunks."""

from collections.abc import Iterator
from uuid import UUID

from sqlalchemy import Connection, text

from credit_service.storage.database import Database

CHUNK_BYTES = 1024**2
"""Size of the chunks in which uploaded files are stored."""


_STORE_CHUNK = text(
    """INSERT INTO ingestion_chunks (ingestion_id, chunk_number, content)
    VALUES (:ingestion_id, :chunk_number, :content)"""
)
_READ_CHUNK = text(
    """SELECT content FROM ingestion_chunks
    WHERE ingestion_id = :ingestion_id AND chunk_number = :chunk_number"""
)


def store_chunk(
    connection: Connection, ingestion_id: UUID, chunk_number: int, content: bytes
) -> None:
    """Store a chunk of an upload; chunks are numbered from 0."""
    connection.execute(
        _STORE_CHUNK,
        {"ingestion_id": ingestion_id, "chunk_number": chunk_number, "content": content},
    )


def chunks(database: Database, ingestion_id: UUID) -> Iterator[bytes]:
    """Yield the chunks of an upload in order, one in memory at a time."""
    number = 0
    while True:
        with database.autocommit() as connection:
            content = connection.execute(
                _READ_CHUNK, {"ingestion_id": ingestion_id, "chunk_number": number}
            ).scalar_one_or_none()
        if content is None:
            return
        yield content
        number += 1
