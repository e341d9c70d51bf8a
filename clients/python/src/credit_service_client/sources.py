"""What a stream of rows is read from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, Protocol

from credit_service.v1.ingestion_pb2 import CustomerRow, LoanRow
from credit_service.v1.ingestion_service_pb2 import IngestRowsRequest, RowBatch

Kind = Literal["CUSTOMERS", "LOANS"]
BATCH_ROWS = 1_000


class SourceError(Exception):
    """The rows cannot be read. The message says why, and names the place."""


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """A message with a batch, and the approximate number of bytes of the source read so far; 0 if
    unknown."""

    request: IngestRowsRequest
    read_bytes: int = 0

    @property
    def batch(self) -> RowBatch:
        """The batch in the message."""
        return self.request.batch


class RowSource(Protocol):
    """Rows of one kind that can be read from any offset, any number of times, always the same.

    `filename` and the three after it are stored with the ingestion, for people: what was read and
    what was not. They can be empty.
    """

    @property
    def kind(self) -> Kind: ...
    @property
    def filename(self) -> str: ...
    @property
    def sheet(self) -> str: ...
    @property
    def ignored_columns(self) -> Sequence[str]: ...
    @property
    def unread_sheets(self) -> Sequence[str]: ...

    def batches(self, offset: int = 0) -> Iterator[BatchProgress]:
        """Yield the rows in batches, from the offset-th row on. Raises SourceError."""
        ...


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows in memory, or any sequence that computes them: all CustomerRow or all LoanRow."""

    rows: Sequence[CustomerRow] | Sequence[LoanRow]
    filename: str = ""
    sheet: str = ""
    ignored_columns: Sequence[str] = ()
    unread_sheets: Sequence[str] = ()

    @property
    def kind(self) -> Kind:
        """That of the first row; LOANS if there is none."""
        return "CUSTOMERS" if self.rows and isinstance(self.rows[0], CustomerRow) else "LOANS"

    def batches(self, offset: int = 0) -> Iterator[BatchProgress]:
        """Yield the rows in batches of 1,000, from the offset-th row on."""
        for first in range(offset, len(self.rows), BATCH_ROWS):
            request = IngestRowsRequest()
            batch = request.batch
            batch.offset = first
            rows: Any = batch.customers.rows if self.kind == "CUSTOMERS" else batch.loans.rows
            for row in islice(self.rows, first, first + BATCH_ROWS):
                rows.add().CopyFrom(row)
            yield BatchProgress(request)
