"""Statements that every call runs, sent straight to the driver.

SQLAlchemy takes several times as long as psycopg to execute a text: docs/performance.md has the
figures.
"""

import re
from collections.abc import Mapping
from typing import Any

import psycopg
from sqlalchemy import Connection, exc

from credit_service.storage.violations import is_integrity_violation

Row = tuple[Any, ...]

_PARAMETER = re.compile(r"(?<![:\w]):([a-z_]+)")


class Statement:
    """A statement with parameters written `:name`, which the driver prepares once it runs often.

    Errors are those of `Connection.execute` or of psycopg: `Database` handles both.
    """

    __slots__ = ("_driver_text", "text")

    def __init__(self, text: str) -> None:
        """A literal may contain no colon before a lower-case letter."""
        self.text = text
        self._driver_text = _PARAMETER.sub(r"%(\1)s", text.replace("%", "%%")).encode()

    def __str__(self) -> str:
        return self.text

    def row(self, connection: Connection, values: Mapping[str, Any]) -> Row | None:
        """Return the first row; None if there is none."""
        return self._executed(connection, values).fetchone()

    def rows(self, connection: Connection, values: Mapping[str, Any]) -> list[Row]:
        """Return all rows."""
        return self._executed(connection, values).fetchall()

    def run(self, connection: Connection, values: Mapping[str, Any]) -> int:
        """Return the number of affected rows."""
        return self._executed(connection, values).rowcount

    def _executed(self, connection: Connection, values: Mapping[str, Any]) -> psycopg.Cursor[Row]:
        driver_connection: psycopg.Connection[Row] = connection.connection.driver_connection  # type: ignore[assignment]  # the only driver used
        try:
            return driver_connection.execute(self._driver_text, values)
        except (psycopg.IntegrityError, psycopg.InternalError) as error:
            if not is_integrity_violation(error):
                raise
            raise exc.IntegrityError(self.text, None, error, hide_parameters=True) from error
