"""Parses and validates uploaded files, each in a sandboxed process of its own.

The process reads the next batch while the caller stores this one. It returns numbers and JSON,
nothing that can be executed.

A process takes 0.3 s to import pandas. While no file is read, one process therefore waits
for the next file, with everything imported, and exits when this process does.
"""

import atexit
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import date
from typing import IO, BinaryIO

from credit_service.domain.customers import load_phone_plans
from credit_service.ingestion import frames, sandbox
from credit_service.ingestion.frames import Batch
from credit_service.ingestion.validation import validate_block
from credit_service.spreadsheets.cell_values import DateOrder
from credit_service.spreadsheets.columns import Kind
from credit_service.spreadsheets.source import open_source
from credit_service.spreadsheets.table import SpreadsheetError

MEMORY_LIMIT_BYTES = 1024**3
"""Address space of the reading process."""
CPU_LIMIT_SECONDS = 600
"""CPU time of the reading process."""

_SANDBOXED, _OPENED, _BATCH, _END, _FAILED = b"C", b"O", b"B", b"E", b"F"


@dataclass(frozen=True, slots=True)
class ReadingOrder:
    """How to read a file.

    The first `skip_rows` rows are ignored; blank rows do not count. `validate_block` defines
    `import_day`, and `open_source` defines `date_order`.
    """

    kind: Kind
    filename: str
    import_day: date
    batch_rows: int
    skip_rows: int = 0
    date_order: DateOrder | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """Which parts of a file are read; the fields are those of `spreadsheets.table.Source`."""

    headers: dict[str, str]
    sheet: str
    ignored_columns: tuple[str, ...]
    unread_sheets: tuple[str, ...]


class Reading:
    """A file being read.

    `opened` and `sandbox`, the active layers of `sandbox.LAYERS`, are set with the first batch, and
    `row_count` after the last one.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", output: IO[bytes]) -> None:
        self.process = process
        self._output = output
        self.sandbox: tuple[str, ...] = ()
        self.opened: Opened | None = None
        self.row_count: int | None = None

    def batches(self) -> Iterator[Batch]:
        """The rows in order, `batch_rows` in each batch but the last.

        Raises:
            SpreadsheetError: the file cannot be read, or needs more resources than a file is given.
            RuntimeError: the reading process was ended, or has a defect.
        """
        while True:
            kind = self._output.read(1)
            size = int.from_bytes(self._output.read(8), "big")
            content = self._output.read(size)
            if len(content) < size or not kind:
                raise sandbox.ended_early(self.process.wait())
            if kind == _BATCH:
                yield frames.decoded(content)
                continue
            document = json.loads(content)
            if kind == _SANDBOXED:
                self.sandbox = tuple(each for each in sandbox.LAYERS if each in document)
                continue
            if kind == _OPENED:
                self.opened = Opened(
                    document["headers"],
                    document["sheet"],
                    tuple(document["ignored_columns"]),
                    tuple(document["unread_sheets"]),
                )
                continue
            if kind == _FAILED:
                raise SpreadsheetError(document["code"], document["message"])
            self.row_count = document["row_count"]
            return


@contextmanager
def reading(file: IO[bytes], order: ReadingOrder) -> Iterator[Reading]:
    """Read a file of the operating system in a process that ends with the context."""
    file.seek(0)
    reader = _next_reader()
    try:
        with reader.process, reader.read(file, order) as output:
            try:
                yield Reading(reader.process, output)
            finally:
                reader.process.kill()
    finally:
        prepare()


class _Reader:
    """A process that imports what it needs, and then waits for one file and its order."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            self.process: subprocess.Popen[bytes] = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env=sandbox.environment(),
                close_fds=True,
            )

    def read(self, file: IO[bytes], order: ReadingOrder) -> IO[bytes]:
        """Send the file and the order. Returns what the process writes."""
        document = json.dumps(asdict(order) | {"import_day": order.import_day.isoformat()})
        ours, theirs = os.pipe()
        try:
            with self._control, suppress(BrokenPipeError):
                socket.send_fds(self._control, [document.encode()], [file.fileno(), theirs])
        finally:
            os.close(theirs)
        return os.fdopen(ours, "rb")

    def end(self) -> None:
        """End the process before it has read anything."""
        self._control.close()
        self.process.kill()
        self.process.wait()


_waiting: list[_Reader] = []
_lock = threading.Lock()


def _next_reader() -> _Reader:
    with _lock:
        reader = _waiting.pop() if _waiting else None
    if reader is not None and reader.process.poll() is not None:
        reader.end()
        reader = None
    return reader or _Reader()


def prepare() -> None:
    """Start the process that waits for the next file, unless one waits already."""
    with _lock:
        if not _waiting:
            _waiting.append(_Reader())


@atexit.register
def end_waiting() -> None:
    """End the process that waits for a file, if one does."""
    with _lock:
        while _waiting:
            _waiting.pop().end()


# --- In the reading process -----------------------------------------------------------------------

_MAX_ORDER_BYTES = 65_536


def main() -> None:
    """Wait for a file, its order and an output on standard input; write its batches there."""
    with socket.socket(fileno=os.dup(0)) as control:
        document, files, _, _ = socket.recv_fds(control, _MAX_ORDER_BYTES, 2)
    if not document:
        return
    for number, received in enumerate(files):
        os.dup2(received, number)
        os.close(received)
    fields = json.loads(document)
    order = ReadingOrder(**fields | {"import_day": date.fromisoformat(fields["import_day"])})
    file, output = os.fdopen(0, "rb"), os.fdopen(1, "wb")
    if order.kind == "CUSTOMERS":
        load_phone_plans()
    layers = sandbox.enter(memory_bytes=MEMORY_LIMIT_BYTES, cpu_seconds=CPU_LIMIT_SECONDS)
    # The parent ends this process when it needs no more batches.
    with suppress(BrokenPipeError):
        _send(output, _SANDBOXED, json.dumps(layers).encode())
        try:
            row_count = _write_batches(file, order, output)
            _send(output, _END, json.dumps({"row_count": row_count}).encode())
        except SpreadsheetError as error:
            failure = {"code": error.code, "message": error.message}
            _send(output, _FAILED, json.dumps(failure).encode())
        except MemoryError:
            failure = {"code": "FILE_UNSAFE", "message": "Reading the file takes too much memory."}
            _send(output, _FAILED, json.dumps(failure).encode())


def _send(output: IO[bytes], kind: bytes, content: bytes) -> None:
    output.write(kind + len(content).to_bytes(8, "big"))
    output.write(content)
    output.flush()


def _write_batches(file: BinaryIO, order: ReadingOrder, output: IO[bytes]) -> int:
    """Send every batch. Returns the number of rows in the file."""
    source = open_source(file, order.filename, order.kind, order.date_order)
    opened = Opened(
        dict(source.headers), source.sheet, source.ignored_columns, source.unread_sheets
    )
    _send(output, _OPENED, json.dumps(asdict(opened)).encode())
    offset = order.skip_rows
    for rows in frames.regrouped(source.blocks, order.skip_rows, order.batch_rows):
        batch = validate_block(order.kind, rows, offset, order.import_day)
        _send(output, _BATCH, frames.encoded(batch))
        offset = batch.end
    if offset == 0:
        raise SpreadsheetError("FILE_EMPTY", "The file has a header and no row below it.")
    return offset


if __name__ == "__main__":
    main()
