"""The annotated workbook of an ingestion: what to write, and the process that writes it.

`annotated_workbook` is the program of that process, and imports openpyxl, which no server does.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import IO

from credit_service.ingestion import sandbox
from credit_service.processes import cores
from credit_service.spreadsheets.columns import Kind
from credit_service.spreadsheets.table import SpreadsheetError

HEADER_ERRORS = ("COLUMN_MISSING", "COLUMN_AMBIGUOUS", "COLUMN_UNIT_UNSUPPORTED", "FILE_EMPTY")
"""Error codes of an ingestion whose header was rejected."""

_POLL_SECONDS = 0.05
_PROGRAM = "credit_service.ingestion.annotated_workbook"


class AnnotationError(Exception):
    """The file cannot come back as a workbook. `code` is a name of IngestionErrorCode, or
    TOO_LARGE_FOR_A_SHEET; the message is for a person."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class AnnotationOrder:
    """The ingestion, which has ended, as the summary states it; names are those of
    `storage.ingestions`. With `rejected_only` the workbook holds no rows but the rejected ones."""

    ingestion_id: str
    kind: Kind
    filename: str
    state: str
    validate_only: bool
    rows_read: int
    inserted: int
    updated: int
    unchanged: int
    skipped: int
    rejected: int
    error_code: str | None
    error_message: str | None
    ignored_columns: Sequence[str] = ()
    unread_sheets: Sequence[str] = ()
    rejected_only: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    """Why a row was not stored, as of RowError."""

    row_number: int
    column: str
    code: str
    found: str
    expected: str
    message: str
    outcome: str = "REJECTED"


def write_marks(file: IO[bytes], order: AnnotationOrder, marks: Iterator[Mark]) -> None:
    """Write the input of `annotate`: the order, then a line for each mark, in order of rows."""
    file.write(json.dumps(asdict(order)).encode() + b"\n")
    for mark in marks:
        values = [getattr(mark, name) for name in Mark.__slots__]
        file.write(json.dumps(values).encode() + b"\n")
    file.flush()


def annotate(
    source: IO[bytes], marks: IO[bytes], output: IO[bytes], raise_if_cancelled: Callable[[], None]
) -> None:
    """Write the annotated workbook of a file in a sandboxed process, and wait until it ends.

    All three must be files of the operating system; `write_marks` wrote `marks`. Calls
    `raise_if_cancelled` many times a second; an exception from it ends the process.

    Raises:
        AnnotationError: the file cannot come back as a workbook.
        RuntimeError: the process was ended, or met a defect of ours.
    """
    for file in (source, marks, output):
        file.seek(0)
    with cores.unbound():
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", _PROGRAM, str(marks.fileno()), str(output.fileno())],
            stdin=source,
            stdout=subprocess.PIPE,
            env=sandbox.environment(),
            pass_fds=(marks.fileno(), output.fileno()),
        )
    with process:
        try:
            while True:
                try:
                    process.wait(_POLL_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    raise_if_cancelled()
            answer = process.stdout.read() if process.stdout is not None else b""
        finally:
            process.kill()
    if process.returncode != 0 or not answer:
        ended = sandbox.ended_early(process.returncode)
        if isinstance(ended, SpreadsheetError):
            raise AnnotationError(ended.code, ended.message)
        raise ended
    document = json.loads(answer)
    if document["code"]:
        raise AnnotationError(document["code"], document["message"])
