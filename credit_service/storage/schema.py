"""Checks that a database has the schema that this release needs."""

from functools import cache
from pathlib import Path

import psycopg
from sqlalchemy.exc import ProgrammingError

from credit_service.domain.errors import UnavailableError
from credit_service.storage.database import Database

_FOUND = "SELECT max(version_num)::text FROM alembic_version"
_MIGRATIONS = Path(__file__).parent / "migrations" / "versions"


@cache
def _needed() -> str:
    """Return the newest migration's revision: the number at the start of its file's name."""
    return max(path.name.partition("_")[0] for path in _MIGRATIONS.glob("[0-9]*.py"))


def require(database: Database) -> None:
    """Check that the database responds and has at least this release's schema. A newer schema is
    fine: until the contract step it keeps what the previous release uses.

    Raises:
        UnavailableError: DATABASE_UNAVAILABLE, it is unreachable or its schema is too old.
        ProgrammingError: the role lacks the permission to read the schema's revision.
    """
    try:
        with database.autocommit() as connection:
            found = connection.exec_driver_sql(_FOUND).scalar()
    except ProgrammingError as error:
        if not isinstance(error.orig, psycopg.errors.UndefinedTable):
            raise
        found = None
    if found is None or found < _needed():
        raise UnavailableError(
            "DATABASE_UNAVAILABLE",
            f"The database's schema is {found or 'empty'} and this release needs {_needed()}:"
            " run `credit-service migrate`.",
            retry_after_seconds=1.0,
        )
