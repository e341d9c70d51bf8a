"""Whole columns as parameters: numpy arrays in PostgreSQL's binary array format.

Formatting tens of thousands of numbers as text, and parsing them on the other side, takes longer
than most of the statements themselves.
"""

from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import pq
from psycopg.adapt import Dumper
from sqlalchemy import Connection

Array = NDArray[Any]

POSTGRES_EPOCH_DAY = 10_957
"""2000-01-01, the epoch of PostgreSQL's dates, in days since 1970-01-01."""
_NO_DATE = np.iinfo(np.int32).min
"""PostgreSQL's -infinity."""


class Bigints:
    """An array of 64-bit integers as bigint[]."""

    __slots__ = ("values",)

    def __init__(self, values: NDArray[Any]) -> None:
        self.values = values.astype(">i8")


class Integers:
    """An array of integers of at most 32 bits as integer[]."""

    __slots__ = ("values",)

    def __init__(self, values: NDArray[Any]) -> None:
        self.values = values.astype(">i4")


class Dates:
    """An array of days since 1970-01-01 as date[]; `no_day` becomes -infinity."""

    __slots__ = ("values",)

    def __init__(self, days: NDArray[Any], no_day: int | None = None) -> None:
        values = days.astype(np.int64) - POSTGRES_EPOCH_DAY
        if no_day is not None:
            values[days == no_day] = _NO_DATE
        self.values = values.astype(">i4")


class _ArrayDumper(Dumper):
    format = pq.Format.BINARY
    element_oid = 0

    def dump(self, obj: Any) -> bytes:
        values = obj.values
        size = values.dtype.itemsize
        # One dimension with lower bound 1, no nulls; then a length and a value for each element.
        head = np.array([1, 0, self.element_oid, len(values), 1], ">i4").tobytes()
        elements = np.empty(len(values), [("size", ">i4"), ("value", values.dtype)])
        elements["size"] = size
        elements["value"] = values
        return head + elements.tobytes()


class _BigintsDumper(_ArrayDumper):
    oid, element_oid = 1016, 20


class _IntegersDumper(_ArrayDumper):
    oid, element_oid = 1007, 23


class _DatesDumper(_ArrayDumper):
    oid, element_oid = 1182, 1082


def driver_cursor(connection: Connection) -> "psycopg.Cursor[Any]":
    """Return a driver cursor, in the connection's transaction, that accepts these arrays."""
    driver = connection.connection.driver_connection
    if not isinstance(driver, psycopg.Connection):
        raise TypeError(f"not a psycopg connection: {driver!r}")
    cursor = driver.cursor()
    cursor.adapters.register_dumper(Bigints, _BigintsDumper)
    cursor.adapters.register_dumper(Integers, _IntegersDumper)
    cursor.adapters.register_dumper(Dates, _DatesDumper)
    return cursor
