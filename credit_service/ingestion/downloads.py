"""Use case: return an uploaded file as a workbook that shows each error and how to correct it."""

import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import IO
from uuid import UUID

from credit_service.domain.errors import PreconditionFailedError
from credit_service.ingestion import batches
from credit_service.ingestion.annotating import (
    HEADER_ERRORS,
    AnnotationError,
    AnnotationOrder,
    Mark,
    annotate,
    write_marks,
)
from credit_service.ingestion.uploads import stored_file
from credit_service.storage import ingestions, row_errors
from credit_service.storage.database import Database
from credit_service.storage.ingestions import Ingestion
from credit_service.storage.row_errors import RowOutcome

AT_ONCE = 2
"""Workbooks that one server process annotates at a time; further ones wait."""

CONTENT_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"

_MAX_FILENAME_CHARS = 255
_ANNOTATED = "-annotated"
_REJECTED = "-rejected"
_MARKS_PAGE = 5_000
_OUTCOMES: Sequence[RowOutcome] = ("REJECTED", "SKIPPED")
_REJECTED_ONLY: Sequence[RowOutcome] = ("REJECTED",)
_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class AnnotatedWorkbook:
    """A workbook to send: its filename, size and content, from the file's current position."""

    filename: str
    size_bytes: int
    file: IO[bytes]


class Annotator:
    """Makes annotated workbooks of uploaded files. Safe to share between threads.

    A child process with limits does the work, through files. This process reads pages of row errors
    and chunks of bytes, one at a time.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._turns = threading.BoundedSemaphore(AT_ONCE)

    @contextmanager
    def workbook(
        self,
        ingestion_id: UUID,
        raise_if_cancelled: Callable[[], None],
        *,
        rejected_only: bool = False,
    ) -> Iterator[AnnotatedWorkbook]:
        """The annotated workbook of an upload, which exists until the context ends. With
        `rejected_only`, a new workbook of the rejected rows alone; if the header was rejected, of
        all rows.

        Calls `raise_if_cancelled` many times a second; an exception from it ends the work.

        Raises:
            NotFoundError: INGESTION_NOT_FOUND.
            PreconditionFailedError: INGESTION_NOT_UPLOADED, INGESTION_NOT_ENDED, or
                WORKBOOK_UNAVAILABLE where the file cannot come back as a workbook.
        """
        with self._database.autocommit() as connection:
            ingestion = ingestions.find(connection, ingestion_id)
        if ingestion is None:
            raise batches.not_found(ingestion_id)
        _check(ingestion)
        _check_kept(ingestion)
        # A rejected header leaves every row to correct.
        rejected_only = rejected_only and ingestion.error_code not in HEADER_ERRORS
        order = replace(_order(ingestion), rejected_only=rejected_only)
        with tempfile.TemporaryFile() as output:
            while not self._turns.acquire(timeout=_POLL_SECONDS):
                raise_if_cancelled()
            try:
                self._annotate(ingestion, order, output, raise_if_cancelled)
            except AnnotationError as error:
                with self._database.autocommit() as connection:
                    _check_kept(ingestions.find(connection, ingestion_id) or ingestion)
                raise _unavailable(ingestion, error.code, error.message) from error
            finally:
                self._turns.release()
            size_bytes = output.seek(0, 2)
            output.seek(0)
            filename = annotated_filename(ingestion.filename, rejected_only=rejected_only)
            yield AnnotatedWorkbook(filename, size_bytes, output)

    def _annotate(
        self,
        ingestion: Ingestion,
        order: AnnotationOrder,
        output: IO[bytes],
        raise_if_cancelled: Callable[[], None],
    ) -> None:
        outcomes = _REJECTED_ONLY if order.rejected_only else _OUTCOMES
        with tempfile.TemporaryFile() as marks, stored_file(self._database, ingestion) as source:
            if source is None:
                raise AnnotationError("FILE_LOST", "Some of the uploaded bytes are missing.")
            write_marks(marks, order, self._marks(ingestion, outcomes, raise_if_cancelled))
            annotate(source, marks, output, raise_if_cancelled)

    def _marks(
        self,
        ingestion: Ingestion,
        outcomes: Sequence[RowOutcome],
        raise_if_cancelled: Callable[[], None],
    ) -> Iterator[Mark]:
        after: tuple[int, int] | None = None
        while ingestion.rejected or ingestion.skipped:
            raise_if_cancelled()
            with self._database.autocommit() as connection:
                page = row_errors.page(
                    connection, ingestion.ingestion_id, after, _MARKS_PAGE, outcomes
                )
            for error in page:
                yield Mark(*(getattr(error, name) for name in Mark.__slots__))
            if len(page) < _MARKS_PAGE:
                return
            after = page[-1].row_offset, page[-1].error_number


def annotated_filename(filename: str, *, rejected_only: bool = False) -> str:
    """The filename of the annotated workbook of a file: loans.csv → loans-annotated.xlsx, or
    loans-rejected.xlsx if it contains only the rejected rows."""
    path = PurePath(filename)
    stem = path.stem if path.suffix.lower() in (".xlsx", ".csv") else path.name
    stem = stem.removesuffix(_ANNOTATED)
    if rejected_only:
        stem = stem.removesuffix(_REJECTED)
    ending = f"{_REJECTED if rejected_only else _ANNOTATED}.xlsx"
    return stem[: _MAX_FILENAME_CHARS - len(ending)] + ending


def _check(ingestion: Ingestion) -> None:
    ingestion_id = str(ingestion.ingestion_id)
    subject = f"ingestions/{ingestion_id}"
    if ingestion.source != "UPLOAD":
        raise PreconditionFailedError(
            "INGESTION_NOT_UPLOADED",
            "The rows of this ingestion were streamed, so it has no workbook. List its errors with "
            "ListRowErrors.",
            subject=subject,
            metadata={"ingestion_id": ingestion_id},
        )
    if not ingestion.has_ended:
        raise PreconditionFailedError(
            "INGESTION_NOT_ENDED",
            f"The ingestion has not ended yet ({ingestion.state}); wait for its end with "
            "WatchIngestion.",
            subject=subject,
            metadata={"ingestion_id": ingestion_id, "state": ingestion.state},
        )


def _check_kept(ingestion: Ingestion) -> None:
    """Raises PreconditionFailedError (WORKBOOK_UNAVAILABLE) if the file, or what to mark in it, was
    deleted."""
    if ingestion.is_file_expired:
        raise _unavailable(
            ingestion,
            "FILE_EXPIRED",
            "it was deleted at the end of its retention. Upload it again under a new ingestion id.",
        )
    if ingestion.is_row_errors_expired:
        raise _unavailable(
            ingestion,
            "ROW_ERRORS_EXPIRED",
            "its row errors were deleted at the end of their retention. Upload the file again "
            "under a new ingestion id.",
        )


def _unavailable(ingestion: Ingestion, code: str, message: str) -> PreconditionFailedError:
    return PreconditionFailedError(
        "WORKBOOK_UNAVAILABLE",
        f"The file cannot come back as a workbook: {message}",
        subject=f"ingestions/{ingestion.ingestion_id}",
        metadata={"ingestion_id": str(ingestion.ingestion_id), "problem": code},
    )


def _order(ingestion: Ingestion) -> AnnotationOrder:
    return AnnotationOrder(
        ingestion_id=str(ingestion.ingestion_id),
        **{
            name: getattr(ingestion, name)
            for name in AnnotationOrder.__slots__
            if name not in ("ingestion_id", "rejected_only")
        },
    )
