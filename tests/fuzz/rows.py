"""Corrupt rows, ten at a time, in a stream or a CSV file."""

import csv
import io
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from credit_service.v1 import ingestion_pb2
from credit_service.v1 import ingestion_service_pb2 as pb
from tests.fuzz import values
from tests.fuzz.fields import Mutant, changes_of
from tests.fuzz.values import numbered_uuid
from tests.fuzz.world import CUSTOMERS, World, customer_row, loan_row
from tests.unit.spreadsheets.workbooks import CUSTOMER_HEADERS, LOAN_HEADERS

ROWS = 10
"""The corrupt rows of one mutant, between two valid rows."""

_KINDS = (ingestion_pb2.INGESTION_KIND_CUSTOMERS, ingestion_pb2.INGESTION_KIND_LOANS)
_CELLS = [
    *(each.value for each in (*values.DECIMALS, *values.PHONES, *values.TEXTS)),
    *("=1+1", "#N/A", "#REF!", "TRUE", "1,000", "1.5", "1e3", "-0", "2024-02-30", "31/01/2024"),
    *("2024-01-31T00:00:00", "2024-01-31 10:00", "9999-12-31", "0000-00-00", str(2**63), "9" * 400),
]


@dataclass(frozen=True)
class RowMutants:
    """Mutants by number, each with `ROWS` corrupt rows."""

    seed: int
    world: World

    @cached_property
    def _changes(self) -> dict[type, Sequence[tuple[str, Callable[[Any], bool]]]]:
        rows = (customer_row(1), loan_row(1, 80))
        for row in rows:
            row.unreadable_cells.add(column="age", found="ten")
        return {type(row): list(changes_of(row, self.world)) for row in rows}

    def make(self, number: int) -> Mutant:
        """The mutant with a number."""
        rng = random.Random(f"{self.seed}/rows/{number}")  # noqa: S311 - a repeatable choice
        fresh = numbered_uuid(self.seed, "rows", number)
        kind = rng.choice(_KINDS)
        options: dict[str, Any] = {
            "ingestion_id": fresh,
            "kind": kind,
            "on_existing": rng.choice([0, 1, 2]),
            "validate_only": rng.random() < 0.3,
        }
        loans = kind == ingestion_pb2.INGESTION_KIND_LOANS
        if rng.random() < 0.5:
            return self._file(rng, number, options, loans=loans)
        return self._stream(rng, number, options, loans=loans)

    def _stream(
        self, rng: random.Random, number: int, options: dict[str, Any], *, loans: bool
    ) -> Mutant:
        first = 10_000 + 20 * number
        rows: list[Any] = [
            loan_row(rng.choice(CUSTOMERS), first + place) if loans else customer_row(first + place)
            for place in range(ROWS + 2)
        ]
        bad, what = 0, []
        for row in rows[1:-1]:
            chosen = rng.choices(self._changes[type(row)], k=rng.choice([1, 1, 1, 2, 3]))
            judged = [change(row) for _, change in chosen]
            bad += judged == [True]
            what += [words for words, _ in chosen]
        batch = (
            pb.RowBatch(loans=pb.LoanRows(rows=rows))
            if loans
            else pb.RowBatch(customers=pb.CustomerRows(rows=rows))
        )
        messages = (
            pb.IngestRowsRequest(header=pb.IngestRowsHeader(**options)),
            pb.IngestRowsRequest(batch=batch),
        )
        serialized = tuple(message.SerializeToString() for message in messages)
        return Mutant("IngestRows", serialized, "; ".join(what), rejected=bad)

    def _file(
        self, rng: random.Random, number: int, options: dict[str, Any], *, loans: bool
    ) -> Mutant:
        first = 10_000 + 20 * number
        buffer = io.StringIO(newline="")
        writer = csv.writer(buffer)
        writer.writerow(LOAN_HEADERS if loans else CUSTOMER_HEADERS)
        what = []
        for place in range(ROWS + 2):
            cells: list[Any] = [1, first + place, 100_000, 12, 12, 8885, 3, "2024-01-31", ""]
            if not loans:
                cells = [
                    first + place,
                    "Asha",
                    "Rao",
                    30,
                    9_876_500_000 + first + place,
                    50_000,
                    "",
                ]
            if 0 < place <= ROWS:
                for _ in range(rng.choice([1, 1, 2])):
                    column = rng.randrange(len(cells))
                    cells[column] = rng.choice(_CELLS)
                    what.append(f"{column} = {values.Value(cells[column])}")
            writer.writerow(cells)
        header = pb.UploadSpreadsheetHeader(filename="rows.csv", **options)
        messages = (
            pb.UploadSpreadsheetRequest(header=header),
            pb.UploadSpreadsheetRequest(chunk=buffer.getvalue().encode()),
        )
        return Mutant(
            "UploadSpreadsheet",
            tuple(message.SerializeToString() for message in messages),
            "; ".join(what),
        )
