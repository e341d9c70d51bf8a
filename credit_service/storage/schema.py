"""Whether a database has the schema that this release needs."""

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
    """The newest migration's revision: the number that its file's name begins with."""
    return max(path.name.partition("_")[0] for path in _MIGRATIONS.glob("[0-9]*.py"))


def require(database: Database) -> None:
    """See that the database answers and is migrated at least as far as this release knows. One that
    is ahead is well: until it is contracted it leaves what the release before uses.

    Raises:
        UnavailableError: DATABASE_UNAVAILABLE, it is out of reach or behind.
        ProgrammingError: the role may not read what it has.
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
