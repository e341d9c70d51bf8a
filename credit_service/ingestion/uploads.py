"""Use case: store an uploaded file in the database, and ingest it in a worker."""

import errno
import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from typing import IO, TYPE_CHECKING, BinaryIO, cast
from uuid import UUID

import structlog

from credit_service import failpoints
from credit_service.clock import Clock, Moment
from credit_service.domain.errors import (
    InvalidRequestError,
    OverloadedError,
    PreconditionFailedError,
)
from credit_service.ingestion import batches, sandbox
from credit_service.ingestion.batches import OnMoved
from credit_service.spreadsheets.source import check
from credit_service.spreadsheets.table import SpreadsheetError
from credit_service.storage import ingestions, replication, tasks, uploaded_files
from credit_service.storage.database import Database
from credit_service.storage.ingestions import Contents, Header, Ingestion
from credit_service.storage.uploaded_files import CHUNK_BYTES

if TYPE_CHECKING:
    from credit_service.ingestion.frames import Batch
    from credit_service.ingestion.reading import Opened

BATCH_ROWS = 25_000
"""Rows of one transaction by default."""

_log = structlog.get_logger(__name__)

_UPLOAD_REASONS = {"FILE_EMPTY": "UPLOAD_EMPTY", "FILE_UNSAFE": "UPLOAD_UNSAFE"}


def store_upload(
    database: Database,
    header: Header,
    chunks: Iterable[bytes],
    moment: Moment,
    principal: str,
    max_bytes: int,
    *,
    max_limit_paise: int | None = None,
) -> Ingestion:
    """Store a file and enqueue its task. The same file under the same id is stored once.

    `max_limit_paise` is the highest approved limit that a row may set, None for no ceiling. The
    file is on disk until it is complete and checked; then one transaction stores it and enqueues
    the task.

    Raises:
        InvalidRequestError: UPLOAD_EMPTY, UPLOAD_TOO_LARGE, UPLOAD_CHECKSUM_MISMATCH,
            UPLOAD_UNSUPPORTED or UPLOAD_UNSAFE.
        NotOwnerError: INGESTION_NOT_OWNED, another caller uploaded under the id.
        PreconditionFailedError: INGESTION_HEADER_MISMATCH.
        OverloadedError: the disk is full.
    """
    with _room_on_disk(), tempfile.TemporaryFile() as file:
        size, digest = _spool(file, chunks, max_bytes)
        _check_upload(file, header, size, digest)
        stored_header = replace(header, sha256=digest)
        with database.transaction() as connection:
            created = ingestions.create(
                connection,
                stored_header,
                "UPLOAD",
                moment,
                principal,
                size_bytes=size,
                max_limit_paise=max_limit_paise,
            )
            if created:
                file.seek(0)
                for number, chunk in enumerate(iter(lambda: file.read(CHUNK_BYTES), b"")):
                    uploaded_files.store_chunk(connection, header.ingestion_id, number, chunk)
                tasks.enqueue(connection, "ingest_upload", str(header.ingestion_id), moment)
            else:
                replication.confirm(connection)
            ingestion = ingestions.find(connection, header.ingestion_id)
    if ingestion is None:
        raise LookupError("an ingestion just created is not there")
    if not created:
        batches.check_owner(ingestion, principal)
        batches.check_same_header(ingestion, stored_header, "UPLOAD")
    return ingestion


@contextmanager
def _room_on_disk() -> Iterator[None]:
    """Raise OverloadedError if a temporary file meets a full disk, also when it is closed."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OverloadedError(
            "OVERLOADED", "The disk is full; retry shortly.", retry_after_seconds=2.0
        ) from error


def _spool(file: IO[bytes], chunks: Iterable[bytes], max_bytes: int) -> tuple[int, bytes]:
    """Write the chunks to the file. Returns its size and SHA-256."""
    digest = hashlib.sha256()
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > max_bytes:
            raise InvalidRequestError(
                "UPLOAD_TOO_LARGE",
                f"The file has more than {max_bytes:,} bytes; split it, or stream its rows.",
                metadata={"max_bytes": str(max_bytes)},
            )
        digest.update(chunk)
        failpoints.reach("upload.spool")
        file.write(chunk)
    file.flush()
    return size, digest.digest()


def _check_upload(file: IO[bytes], header: Header, size: int, digest: bytes) -> None:
    if size == 0:
        raise InvalidRequestError(
            "UPLOAD_EMPTY", "The file has no bytes.", metadata={"filename": header.filename}
        )
    if header.sha256 is not None and header.sha256 != digest:
        raise InvalidRequestError(
            "UPLOAD_CHECKSUM_MISMATCH",
            "The bytes received do not have the SHA-256 that the header gives; upload again.",
            metadata={"expected_sha256": header.sha256.hex(), "found_sha256": digest.hex()},
        )
    try:
        check(cast("BinaryIO", file), header.filename)
    except SpreadsheetError as error:
        raise InvalidRequestError(
            _UPLOAD_REASONS.get(error.code, "UPLOAD_UNSUPPORTED"),
            error.message,
            metadata={"filename": header.filename, "supported": "xlsx,csv"},
        ) from error


def run_upload(
    database: Database,
    ingestion_id: UUID,
    clock: Clock,
    *,
    batch_rows: int = BATCH_ROWS,
    on_progress: Callable[[], None] | None = None,
    on_moved: OnMoved | None = None,
) -> Ingestion:
    """Ingest a stored file from the committed offset to its end.

    After a kill, a further call continues at the committed offset; concurrent calls store each row
    once. Calls `on_progress` before each batch, and an exception from it ends the run. Calls
    `on_moved` after each commit, with the customers whose positions changed. An unreadable file
    ends the ingestion as FAILED, and raises nothing.

    Raises:
        NotFoundError: INGESTION_NOT_FOUND.
        RetryLaterError, UnavailableError, OverloadedError, RuntimeError: it did not end; call
            again.
    """
    with database.transaction() as connection:
        ingestion = ingestions.begin(connection, ingestion_id, clock.moment())
        found = ingestion or ingestions.find(connection, ingestion_id)
    if found is None:
        raise batches.not_found(ingestion_id)
    if ingestion is None:
        return found
    with stored_file(database, ingestion) as file:
        if file is None:
            return fail_upload(
                database,
                ingestion_id,
                "FILE_LOST",
                "Some of the uploaded bytes are missing; upload the file again.",
                clock.moment(),
            )
        try:
            return _ingest(database, ingestion, file, clock, batch_rows, on_progress, on_moved)
        except SpreadsheetError as error:
            return fail_upload(database, ingestion_id, error.code, error.message, clock.moment())
        except PreconditionFailedError as error:
            if error.reason != "INGESTION_ENDED":
                raise
            # A caller cancelled it while the batch was read.
            with database.autocommit() as connection:
                return ingestions.find(connection, ingestion_id) or ingestion


def prepare() -> None:
    """Import what `run_upload` needs, and start the process that reads the first file."""
    from credit_service.ingestion import reading  # noqa: PLC0415 - see _ingest

    reading.prepare()


@contextmanager
def stored_file(database: Database, ingestion: Ingestion) -> Iterator[IO[bytes] | None]:
    """The uploaded file on disk; None if its bytes are not the uploaded ones."""
    with _room_on_disk(), tempfile.TemporaryFile() as file:
        digest = hashlib.sha256()
        for chunk in uploaded_files.chunks(database, ingestion.ingestion_id):
            digest.update(chunk)
            failpoints.reach("upload.restore")
            file.write(chunk)
        file.flush()
        yield file if digest.digest() == ingestion.sha256 else None


def _ingest(
    database: Database,
    ingestion: Ingestion,
    file: IO[bytes],
    clock: Clock,
    batch_rows: int,
    on_progress: Callable[[], None] | None,
    on_moved: OnMoved | None,
) -> Ingestion:
    # As in batches.commit_batch: a server stores uploads, and a worker ingests them.
    from credit_service.ingestion.reading import ReadingOrder, reading  # noqa: PLC0415

    ingestion_id = ingestion.ingestion_id
    order = ReadingOrder(
        kind=ingestion.kind,
        filename=ingestion.filename,
        import_day=ingestion.import_day,
        batch_rows=batch_rows,
        skip_rows=ingestion.committed_offset,
        date_order=ingestion.date_order,
    )
    described = False
    with reading(file, order) as source:
        for batch in source.batches():
            if on_progress is not None:
                on_progress()
            if not described:
                _log_once(source.sandbox)
                _describe(database, ingestion_id, source.opened)
                described = True
            ingestion = batches.retry_while_locked(
                partial(_commit, database, ingestion_id, batch, clock, on_moved)
            )
            if ingestion.has_ended:
                return ingestion
        total_rows = source.row_count
    with database.transaction() as connection:
        ingestion = batches.locked(connection, ingestion_id)
        if ingestion.has_ended:
            return ingestion
        return batches.end(connection, ingestion, clock.moment(), total_rows=total_rows)


@cache
def _log_once(layers: tuple[str, ...]) -> None:
    """Log the active layers of the sandbox, once in each process."""
    log = _log.info if "SYSTEM_CALL_FILTER" in layers else _log.warning
    log("file_readers_confined", layers=sandbox.described(layers))


def _describe(database: Database, ingestion_id: UUID, opened: "Opened | None") -> None:
    if opened is not None:
        contents = Contents(
            opened.sheet, opened.ignored_columns, opened.unread_sheets, opened.headers
        )
        with database.transaction() as connection:
            ingestions.describe(connection, ingestion_id, contents)


def _commit(
    database: Database, ingestion_id: UUID, batch: "Batch", clock: Clock, on_moved: OnMoved | None
) -> Ingestion:
    return batches.commit_batch(
        database,
        ingestion_id,
        batch.offset,
        batch.row_count,
        lambda _: batch,
        clock.moment(),
        on_moved,
    )


def fail_upload(
    database: Database, ingestion_id: UUID, code: str, message: str, moment: Moment
) -> Ingestion:
    """End an ingestion as FAILED. Does nothing if it has ended.

    `code` is a name of IngestionErrorCode. Rows of committed batches stay stored.

    Raises:
        NotFoundError: INGESTION_NOT_FOUND.
    """
    with database.transaction() as connection:
        ingestion = batches.locked(connection, ingestion_id)
        if ingestion.has_ended:
            return ingestion
        return batches.end(connection, ingestion, moment, error=(code, message))
