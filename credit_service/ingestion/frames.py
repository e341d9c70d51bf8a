"""What validation makes of a batch: the facts of the valid rows, and what is wrong with the rest.

Facts are arrays of fixed-width integers, so that a hundred thousand rows are checked, compared and
stored in a few steps, and travel between processes as they are.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from credit_service.spreadsheets.columns import Kind

NO_DAY = np.iinfo(np.int32).min
"""In place of a day that there is none of."""
NO_LIMIT = -1
"""In place of an approved limit that the source does not give."""

LOAN_FACTS = np.dtype(
    [
        # Place among the rows of the source, from 0, and number in it.
        ("offset", "<i8"),
        ("row_number", "<i8"),
        ("customer_id", "<i8"),
        ("loan_id", "<i8"),
        ("principal_paise", "<i8"),
        ("annual_rate_bps", "<i4"),
        ("tenure_months", "<i4"),
        ("installment_paise", "<i8"),
        ("emis_paid_on_time", "<i4"),
        # Days since 1970-01-01.
        ("start_day", "<i4"),
        ("end_day", "<i4"),
        # Of the day of the import.
        ("installments_settled", "<i4"),
        ("closed_day", "<i4"),
    ]
)
CUSTOMER_FACTS = np.dtype(
    [
        ("offset", "<i8"),
        ("row_number", "<i8"),
        ("customer_id", "<i8"),
        ("age", "<i4"),
        ("monthly_income_paise", "<i8"),
        ("approved_limit_paise", "<i8"),
    ]
)

Facts = NDArray[np.void]


@dataclass(frozen=True, slots=True)
class RowError:
    """Why a row is not stored. `code` is a name of RowErrorCode, `outcome` of RowOutcome.

    `row_offset` is the row's place among the rows of the source, from 0; `column` a field of the
    contract, empty where it is the whole row.
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
class LoanFrame:
    """Valid loans in the order of their rows: an array of LOAN_FACTS."""

    facts: Facts

    def after(self, offset: int) -> "LoanFrame":
        """The rows from that offset on."""
        return LoanFrame(self.facts[self.facts["offset"] >= offset])


@dataclass(frozen=True, slots=True)
class CustomerFrame:
    """Valid customers in the order of their rows: an array of CUSTOMER_FACTS and, for each row,
    the cleaned names and the phone number in E.164."""

    facts: Facts
    first_names: Sequence[str]
    last_names: Sequence[str]
    phone_numbers: Sequence[str]

    def after(self, offset: int) -> "CustomerFrame":
        """The rows from that offset on."""
        first = int(np.searchsorted(self.facts["offset"], offset))
        return CustomerFrame(
            self.facts[first:],
            self.first_names[first:],
            self.last_names[first:],
            self.phone_numbers[first:],
        )


Frame = LoanFrame | CustomerFrame


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows `offset` … `offset + row_count - 1` of a source: each in the frame or among the errors,
    never in both. Errors are in the order of the rows.

    `digests` has 64 bits of a hash of what each row says, for rows of a stream."""

    offset: int
    row_count: int
    frame: Frame
    errors: Sequence[RowError]
    digests: NDArray[np.uint64] | None = None

    @property
    def end(self) -> int:
        """The offset of the row after the last."""
        return self.offset + self.row_count

    def after(self, offset: int) -> "Batch":
        """The rows from that offset on."""
        if offset <= self.offset:
            return self
        return Batch(
            offset,
            max(self.end - offset, 0),
            self.frame.after(offset),
            [error for error in self.errors if error.row_offset >= offset],
            None if self.digests is None else self.digests[offset - self.offset :],
        )


def joined(batches: Sequence[Batch]) -> Batch:
    """Batches of one kind, each of which goes on where the one before it ends, as one."""
    first, frames = batches[0], [batch.frame for batch in batches]
    facts = np.concatenate([frame.facts for frame in frames])
    frame: Frame = LoanFrame(facts)
    if isinstance(first.frame, CustomerFrame):
        customers = [frame for frame in frames if isinstance(frame, CustomerFrame)]
        frame = CustomerFrame(
            facts,
            [name for each in customers for name in each.first_names],
            [name for each in customers for name in each.last_names],
            [number for each in customers for number in each.phone_numbers],
        )
    errors = [error for batch in batches for error in batch.errors]
    digests = [batch.digests for batch in batches if batch.digests is not None]
    return Batch(
        first.offset,
        sum(batch.row_count for batch in batches),
        frame,
        errors,
        np.concatenate(digests) if len(digests) == len(batches) else None,
    )


def encoded(batch: Batch) -> bytes:
    """The batch as bytes, in which nothing can be run: numbers as they lie, the rest as JSON."""
    frame = batch.frame
    texts: list[Sequence[str]] = []
    kind: Kind = "LOANS"
    if isinstance(frame, CustomerFrame):
        kind = "CUSTOMERS"
        texts = [frame.first_names, frame.last_names, frame.phone_numbers]
    head: dict[str, Any] = {
        "kind": kind,
        "offset": batch.offset,
        "row_count": batch.row_count,
        "texts": texts,
        "errors": [asdict(error) for error in batch.errors],
    }
    document = json.dumps(head).encode()
    return len(document).to_bytes(8, "big") + document + frame.facts.tobytes()


def decoded(data: bytes) -> Batch:
    """The batch that `encoded` wrote. Raises ValueError for anything else."""
    length = int.from_bytes(data[:8], "big")
    head = json.loads(data[8 : 8 + length])
    dtype = LOAN_FACTS if head["kind"] == "LOANS" else CUSTOMER_FACTS
    facts = np.frombuffer(data, dtype, offset=8 + length)
    frame: Frame = (
        LoanFrame(facts) if head["kind"] == "LOANS" else CustomerFrame(facts, *head["texts"])
    )
    errors = [RowError(**each) for each in head["errors"]]
    return Batch(head["offset"], head["row_count"], frame, errors)
