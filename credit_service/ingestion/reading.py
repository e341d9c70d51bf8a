"""Uploaded files are parsed and validated in a process of its own.

It also makes the work overlap: the next batch is read while this one is stored. What comes back is
numbers and JSON, so that nothing in it can be run.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import date
from typing import IO, BinaryIO

from credit_service.ingestion import frames, sandbox
from credit_service.ingestion.frames import Batch
from credit_service.ingestion.validation import load_phone_plans, validate_block
from credit_service.spreadsheets.cell_values import DateOrder
from credit_service.spreadsheets.columns import Kind
from credit_service.spreadsheets.source import open_source
from credit_service.spreadsheets.table import SpreadsheetError

MEMORY_LIMIT_BYTES = 1024**3
"""Address space of the reading process."""
CPU_LIMIT_SECONDS = 600
"""Computing time of the reading process."""

_SANDBOXED, _OPENED, _BATCH, _END, _FAILED = b"C", b"O", b"B", b"E", b"F"


@dataclass(frozen=True, slots=True)
class ReadingOrder:
    """What to read a file as.

    The first `skip_rows` rows are passed over; blank rows do not count. `import_day` is as of
    `validate_block`, `date_order` as of `open_source`.
    """

    kind: Kind
    filename: str
    import_day: date
    batch_rows: int
    skip_rows: int = 0
    date_order: DateOrder | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """What of a file is read, as `spreadsheets.Source` has it."""

    headers: dict[str, str]
    sheet: str
    ignored_columns: tuple[str, ...]
    unread_sheets: tuple[str, ...]


class Reading:
    """A file being read. `opened` and `sandbox`, which are the layers in force of
    `sandbox.LAYERS`, are there with the first batch, and `row_count`, its number of rows, once
    the batches have ended."""

    def __init__(self, process: "subprocess.Popen[bytes]", output: IO[bytes]) -> None:
        self._process = process
        self._output = output
        self.sandbox: tuple[str, ...] = ()
        self.opened: Opened | None = None
        self.row_count: int | None = None

    def batches(self) -> Iterator[Batch]:
        """The rows in order, `batch_rows` in each batch but the last.

        Raises:
            SpreadsheetError: the file cannot be read, or asks for more than a file is given.
            RuntimeError: the reading process was ended, or met a defect of ours.
        """
        while True:
            kind = self._output.read(1)
            size = int.from_bytes(self._output.read(8), "big")
            content = self._output.read(size)
            if len(content) < size or not kind:
                raise sandbox.ended_early(self._process.wait())
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
    """Read a file, which must be one of the operating system, in a process that ends with this."""
    document = json.dumps(asdict(order) | {"import_day": order.import_day.isoformat()})
    file.seek(0)
    with subprocess.Popen(
        [sys.executable, "-P", "-m", __name__, document],
        stdin=file,
        stdout=subprocess.PIPE,
        env=sandbox.environment(),
        close_fds=True,
    ) as process:
        if process.stdout is None:
            raise RuntimeError("the reading process has no output")
        try:
            yield Reading(process, process.stdout)
        finally:
            process.kill()


# --- In the reading process -----------------------------------------------------------------------


def main(arguments: Sequence[str]) -> None:
    """Read the file on standard input by the order in the argument; write batches to the output."""
    fields = json.loads(arguments[0])
    order = ReadingOrder(**fields | {"import_day": date.fromisoformat(fields["import_day"])})
    output = sys.stdout.buffer
    if order.kind == "CUSTOMERS":
        load_phone_plans()
    layers = sandbox.enter(memory_bytes=MEMORY_LIMIT_BYTES, cpu_seconds=CPU_LIMIT_SECONDS)
    # The parent ends this process when it needs no more.
    with suppress(BrokenPipeError):
        _send(output, _SANDBOXED, json.dumps(layers).encode())
        try:
            row_count = _write_batches(sys.stdin.buffer, order, output)
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
    """Send every batch; the number of rows in the file."""
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
    main(sys.argv[1:])
