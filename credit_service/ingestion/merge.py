"""The state of loading one batch: what was counted, rejected, skipped and changed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from sqlalchemy import Connection

from credit_service.clock import Moment
from credit_service.ingestion.cells import EPOCH_ORDINAL, shown
from credit_service.ingestion.frames import NO_LIMIT, RowError
from credit_service.rupees import format_rupees
from credit_service.spreadsheets.columns import COLUMNS, Column, ColumnType, Kind
from credit_service.storage.bulk_changes import Origin
from credit_service.storage.ingestions import Ingestion


@dataclass
class Merge:
    """The state of loading one batch."""

    connection: Connection
    ingestion: Ingestion
    moment: Moment
    list_skipped: bool
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    skipped: int = 0
    errors: list[RowError] = field(default_factory=list)
    skips: list[RowError] = field(default_factory=list)
    moved: Sequence[int] = ()
    over_limit: list[int] = field(default_factory=list)

    @property
    def writes(self) -> bool:
        return not self.ingestion.validate_only

    @property
    def origin(self) -> Origin:
        ingestion = self.ingestion
        return Origin(ingestion.ingestion_id, ingestion.principal, self.moment.now)

    def reject(
        self, row: tuple[int, int], column: str, code: str, found: str, expected: str, message: str
    ) -> None:
        offset, number = row
        self.errors.append(RowError(offset, number, column, code, found, expected, message))

    def skip(self, row: tuple[int, int], key: str, differing: "Differing") -> None:
        """List a skipped row: its key is stored with other values."""
        offset, number = row
        column = differing[0][0] if len(differing) == 1 else ""
        found = shown("; ".join(f"{name} {value}" for name, value, _ in differing))
        stored = shown("; ".join(f"{name} {value}" for name, _, value in differing))
        message = f"The {key} is stored with {stored}, which was kept; the row has {found}."
        self.skips.append(
            RowError(
                offset, number, column, "DIFFERS_FROM_STORED", found, stored, message, "SKIPPED"
            )
        )

    def reject_duplicate(self, row: tuple[int, int], key: str, first_row: int) -> None:
        self.reject(
            row,
            "",
            "DUPLICATE_DIFFERS",
            key,
            f"the values of row {first_row}, or another key",
            f"The row has the key of row {first_row}, {key}, and other values.",
        )


Differing = Sequence[tuple[str, str, str]]
"""(column, value of the row, value that is stored) of the columns in which the two differ."""


_SHOWN: Mapping[ColumnType, Callable[[Any], str]] = {
    "AMOUNT": format_rupees,
    # Hundredths of a percent are written like paise.
    "RATE": format_rupees,
    "DAY": lambda day: date.fromordinal(day + EPOCH_ORDINAL).isoformat(),
}
_COLUMN_OF: Mapping[Kind, Mapping[str, Column]] = {
    kind: {column.fact: column for column in columns} for kind, columns in COLUMNS.items()
}


def difference(kind: Kind, fact: str, found: Any, stored: Any) -> tuple[str, str, str]:
    """An entry of Differing: the column of a fact, and both values as a person writes them."""
    column = _COLUMN_OF[kind][fact]
    show = _SHOWN.get(column.type, str)
    if fact == "settled_given" and stored == NO_LIMIT:
        return column.field, show(found), "nothing"
    return column.field, show(found), show(stored)
