"""The pandas DataFrames of an ingestion: rows of a source, and batches of validated rows.

Every column of a validated frame has a fixed type, int64, int32 or text, so that money stays exact.
These integers have no null, so NO_DAY and NO_LIMIT stand for a missing value.

Batches travel between processes in an encoding of their own, not as pickles: the sender has parsed
a hostile file, and unpickling runs what the sender asks for.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from credit_service.spreadsheets.cell_values import Cell, DateOrder
from credit_service.spreadsheets.columns import COLUMNS, ColumnType, Kind
from credit_service.spreadsheets.table import Block

NO_DAY = int(np.iinfo(np.int32).min)
"""Stands for a missing day."""
NO_LIMIT = -1
"""Stands for a number of an optional column that the source does not give."""

Arrays = Mapping[str, NDArray[Any]]
"""An array for each column."""

TEXT = pd.StringDtype("python")
"""The type of text columns. Its storage is named, or an installed pyarrow would change it."""

_TYPES: Mapping[ColumnType, Any] = {
    "ID": np.dtype("int64"),
    "WHOLE": np.dtype("int32"),
    "AMOUNT": np.dtype("int64"),
    "RATE": np.dtype("int32"),
    "DAY": np.dtype("int32"),
    # Cleaned names, and phone numbers in E.164.
    "NAME": TEXT,
    "PHONE": TEXT,
}
# The row's index in the source, from 0, and its number there.
_PLACES = {"offset": np.dtype("int64"), "row_number": np.dtype("int64")}
# What follows from the columns, on the day of the import.
_DERIVED: Mapping[Kind, Mapping[str, Any]] = {
    "CUSTOMERS": {},
    "LOANS": {"installments_settled": np.dtype("int32"), "closed_day": np.dtype("int32")},
}
COLUMN_TYPES: Mapping[Kind, Mapping[str, Any]] = {
    kind: {
        **_PLACES,
        **{column.fact: _TYPES[column.type] for column in columns},
        **_DERIVED[kind],
    }
    for kind, columns in COLUMNS.items()
}
"""The columns of a frame of each kind, in order."""


def frame_of(kind: Kind, columns: Mapping[str, Any]) -> pd.DataFrame:
    """A frame of these columns in the types of COLUMN_TYPES, its index counting from 0.

    Raises KeyError for a missing column, OverflowError for a number that does not fit its type.
    """
    types = COLUMN_TYPES[kind].items()
    # Arrays and not Series, which cost six times as much. Not DataFrame.astype, which copies all
    # columns once for each type.
    return pd.DataFrame({name: _typed(columns[name], type_) for name, type_ in types}, copy=False)


def _typed(values: Any, type_: Any) -> Any:
    if type_ is TEXT:
        return pd.array(values, dtype=TEXT)
    given = np.asarray(values)
    fitted = given.astype(type_, copy=False)
    # numpy would wrap a number that is too large.
    if fitted is not given and not np.array_equal(fitted, given):
        raise OverflowError(f"a number of the column does not fit {type_}")
    return fitted


def arrays_of(frame: pd.DataFrame) -> Arrays:
    """The columns of a frame as arrays. A step that computes on whole columns uses these: each
    operation on a Series of 2,000 rows costs more than the arithmetic."""
    return {str(name): column.to_numpy() for name, column in frame.items()}


@dataclass(frozen=True, slots=True)
class RowError:
    """Why a row is not stored. `code` is a name of RowErrorCode, `outcome` of RowOutcome.

    `row_offset` is the row's index in the source, from 0. `column` is a field of the contract, or
    empty for an error of the whole row.
    """

    row_offset: int
    row_number: int
    column: str
    code: str
    found: str
    expected: str
    message: str
    outcome: Literal["REJECTED", "SKIPPED"] = "REJECTED"


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows `offset` … `offset + row_count - 1` of a source, in order.

    Each row is either in `frame`, with the columns of COLUMN_TYPES and an index that counts from 0,
    or has `errors`, never both. `digests` holds 64 bits of a hash of the content of each row of a
    stream.
    """

    kind: Kind
    offset: int
    row_count: int
    frame: pd.DataFrame
    errors: Sequence[RowError]
    digests: NDArray[np.uint64] | None = None

    @property
    def end(self) -> int:
        """The offset of the row after the last."""
        return self.offset + self.row_count

    def after(self, offset: int) -> "Batch":
        """The rows from `offset` on."""
        if offset <= self.offset:
            return self
        first = int(self.frame["offset"].searchsorted(offset))
        return Batch(
            self.kind,
            offset,
            max(self.end - offset, 0),
            self.frame.iloc[first:].reset_index(drop=True),
            [error for error in self.errors if error.row_offset >= offset],
            None if self.digests is None else self.digests[offset - self.offset :],
        )


def joined(batches: Sequence[Batch]) -> Batch:
    """One batch of consecutive batches of one kind."""
    first = batches[0]
    if len(batches) == 1:
        return first
    digests = [batch.digests for batch in batches if batch.digests is not None]
    return Batch(
        first.kind,
        first.offset,
        sum(batch.row_count for batch in batches),
        pd.concat([batch.frame for batch in batches], ignore_index=True),
        [error for batch in batches for error in batch.errors],
        np.concatenate(digests) if len(digests) == len(batches) else None,
    )


def encoded(batch: Batch) -> bytes:
    """The batch as bytes that no reader can execute: the memory of its columns of numbers, and all
    else as JSON."""
    frame = batch.frame
    head: dict[str, Any] = {
        "kind": batch.kind,
        "offset": batch.offset,
        "row_count": batch.row_count,
        "rows": len(frame),
        "texts": {
            name: frame[name].tolist()
            for name, type_ in COLUMN_TYPES[batch.kind].items()
            if type_ is TEXT
        },
        "errors": [asdict(error) for error in batch.errors],
    }
    document = json.dumps(head).encode()
    columns = [
        frame[name].to_numpy().tobytes()
        for name, type_ in COLUMN_TYPES[batch.kind].items()
        if type_ is not TEXT
    ]
    return b"".join([len(document).to_bytes(8, "big"), document, *columns])


def decoded(data: bytes) -> Batch:
    """The batch that `encoded` wrote. Raises ValueError, KeyError or TypeError for other bytes."""
    position = 8 + int.from_bytes(data[:8], "big")
    head = json.loads(data[8:position])
    kind: Kind = head["kind"]
    columns: dict[str, Any] = {}
    for name, type_ in COLUMN_TYPES[kind].items():
        if type_ is TEXT:
            columns[name] = head["texts"][name]
        else:
            columns[name] = np.frombuffer(data, type_, head["rows"], position)
            position += columns[name].nbytes
    errors = [RowError(**each) for each in head["errors"]]
    return Batch(kind, head["offset"], head["row_count"], frame_of(kind, columns), errors)


# --- Rows of a source -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SourceRows:
    """Consecutive rows of a file before their validation.

    `cells` has a column for each field of the contract that the file has, and the row numbers as
    its index. A column that holds floats alone is float64, which keeps each of them exactly. Any
    other column holds the cells as they are: pandas has no type for a mixture of numbers, texts,
    days and error values, and each bad cell is reported as it was found. `overlong` and
    `date_orders` are those of `Block`.
    """

    cells: pd.DataFrame
    overlong: Sequence[int] = ()
    date_orders: Mapping[str, DateOrder] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.cells)

    def part(self, start: int, stop: int) -> "SourceRows":
        """The rows `start` … `stop - 1`, counted from 0."""
        overlong = [row - start for row in self.overlong if start <= row < stop]
        return SourceRows(self.cells.iloc[start:stop], overlong, self.date_orders)


def source_rows(block: Block) -> SourceRows:
    """The rows of a block as a frame."""
    index = pd.Index(np.array(block.row_numbers, np.int64))
    columns = {name: _column(cells, index) for name, cells in block.columns.items()}
    return SourceRows(pd.DataFrame(columns, copy=False), block.overlong, block.date_orders)


def _column(cells: Sequence[Cell], index: pd.Index) -> pd.Series:
    if set(map(type, cells)) == {float}:
        return pd.Series(np.array(cells, np.float64), index, copy=False)
    # Without a type named, pandas would convert moments and whole numbers.
    return pd.Series(np.fromiter(cells, object, len(cells)), index, object, copy=False)


def regrouped(blocks: Iterable[Block], skip_rows: int, size: int) -> Iterator[SourceRows]:
    """The same rows without the first `skip_rows`: `size` at a time, fewer only in the last."""
    pending: list[SourceRows] = []
    count = 0
    orders: Mapping[str, DateOrder] = {}
    for block in blocks:
        # Blocks before the first one with an order hold no date that needs it.
        orders = block.date_orders or orders
        rows = source_rows(block)
        skipped = min(skip_rows, len(rows))
        skip_rows -= skipped
        if skipped == len(rows):
            continue
        pending.append(rows.part(skipped, len(rows)) if skipped else rows)
        count += len(pending[-1])
        while count >= size:
            rows = _concatenated(pending, orders)
            yield rows.part(0, size)
            count -= size
            pending = [rows.part(size, len(rows))] if count else []
    if pending:
        yield _concatenated(pending, orders)


def _concatenated(parts: Sequence[SourceRows], orders: Mapping[str, DateOrder]) -> SourceRows:
    cells = parts[0].cells
    if len(parts) > 1:
        cells = pd.concat([part.cells for part in parts])
    overlong: list[int] = []
    before = 0
    for part in parts:
        overlong += [before + row for row in part.overlong]
        before += len(part)
    return SourceRows(cells, overlong, orders)
