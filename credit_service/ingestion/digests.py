"""Hashes of rows, 64 bits each, a whole column at a time: multiply and shift, as in SplitMix64."""

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from credit_service.ingestion.cells import MISSING, OK, Numbers, Texts

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_LATER = ("installments_settled",)


def mixed(columns: Iterable[NDArray[np.int64]], count: int) -> NDArray[np.uint64]:
    """The hashes of `count` rows of integers."""
    digests = np.zeros(count, np.uint64)
    for column in columns:
        digests = (digests ^ column.view(np.uint64)) + _GOLDEN
        digests = (digests ^ (digests >> np.uint64(30))) * _FIRST
        digests = (digests ^ (digests >> np.uint64(27))) * _SECOND
        digests ^= digests >> np.uint64(31)
    return digests


def of_text(text: str) -> int:
    """The hash of a text."""
    digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def of_rows(
    columns: Mapping[str, Numbers | Texts], unreadable: Mapping[tuple[int, str], tuple[int, str]]
) -> NDArray[np.uint64]:
    """The hash of each row's content, independent of its number and of other rows.

    `columns` are decoded columns before validation: another release may validate a row differently,
    and its hash stays the same. `unreadable` holds the code and text of cells that fit no field, by
    row and column.
    """
    parts: list[NDArray[np.int64]] = []
    # Of columns that the first release did not have: a row without a value has the hash of then.
    later = {name: columns[name] for name in _LATER if name in columns}
    columns = {name: column for name, column in columns.items() if name not in later}
    texts = [column.values for column in columns.values() if isinstance(column, Texts)]
    if texts:
        rows = map("\x1f".join, zip(*texts, strict=True))
        parts.append(np.array([of_text(row) for row in rows], np.int64))
    for column in columns.values():
        if isinstance(column, Numbers):
            said = np.where(column.problems == OK, column.values, 0)
            for row in np.flatnonzero(column.problems != OK).tolist():
                said[row] = of_text(column.found(row))
            parts.append(said)
    cells = np.zeros(len(parts[0]), np.int64)
    for row, text in _by_row(unreadable).items():
        cells[row] = of_text(text)
    digests = mixed([*parts, cells], len(cells))
    for column in later.values():
        if isinstance(column, Numbers):
            said = np.where(column.problems == OK, column.values, 0)
            for row in np.flatnonzero(
                (column.problems != OK) & (column.problems != MISSING)
            ).tolist():
                said[row] = of_text(column.found(row))
            with_value = mixed([digests.view(np.int64), said], len(cells))
            digests = np.where(column.problems == MISSING, digests, with_value)
    return digests


def _by_row(unreadable: Mapping[tuple[int, str], tuple[int, str]]) -> dict[int, str]:
    """The columns and texts of the unreadable cells of each row, as one text."""
    rows: dict[int, str] = {}
    for (row, name), (_, found) in sorted(unreadable.items()):
        rows[row] = f"{rows.get(row, '')}{name}\x1f{found}\x1f"
    return rows
