"""Whether a database can be served from: its encoding, whether it takes writes, and whether the
session's settings are in force."""

from typing import NamedTuple

import psycopg

from credit_service.domain.errors import Unavailable
from credit_service.storage.database import Database, driver_connection
from credit_service.storage.sessions import POOLER_ADVICE, Pooler
from credit_service.storage.statements import Statement

ENCODING = "UTF8"

# A session that began earlier keeps the default it began with, so what a new one would get is asked
# as well: the most specific setting of role and database, unless the connection brings its own.
_LOOK = Statement(
    """
    SELECT pg_is_in_recovery(),
        current_setting('transaction_read_only')::boolean OR coalesce((
            SELECT split_part(setting, '=', 2)::boolean
                AND (SELECT source FROM pg_settings
                     WHERE name = 'default_transaction_read_only') <> 'client'
            FROM pg_db_role_setting, unnest(setconfig) AS setting
            WHERE split_part(setting, '=', 1) = 'default_transaction_read_only'
                AND setdatabase IN (
                    0, (SELECT oid FROM pg_database WHERE datname = current_database()))
                AND setrole IN (0, (SELECT oid FROM pg_roles WHERE rolname = session_user))
            ORDER BY setrole = 0, setdatabase = 0
            LIMIT 1
        ), false),
        current_setting('statement_timeout'),
        (extract(epoch FROM current_setting('statement_timeout')::interval) * 1000)::bigint,
        current_setting('server_encoding')
    """
)


class Problem(NamedTuple):
    """Why a database cannot be served from, and what to do."""

    found: str
    fix: str


class UnsuitableDatabaseError(ValueError):
    """The database can never be served from as it is. The message says why, and what to do."""


def problem(database: Database) -> Problem | None:
    """What is wrong with the database now; None when it can be served from.

    Raises:
        Unavailable: it is out of reach.
    """
    with database.autocommit() as connection:
        row = _LOOK.row(connection, {})
    assert row is not None  # noqa: S101 - a SELECT without FROM
    in_recovery, is_read_only, timeout, timeout_ms, encoding = row
    if encoding != ENCODING:
        return _wrong_encoding(encoding)
    if in_recovery:
        return Problem(
            "is a standby in recovery and takes no writes",
            "promote it, or let DATABASE_URL name the primary",
        )
    if is_read_only:
        return Problem(
            "is read-only (default_transaction_read_only) and takes no writes",
            "set default_transaction_read_only off again for server, database and role",
        )
    expected_ms = database.session_settings.statement_timeout_ms
    if timeout_ms != expected_ms:
        return Problem(
            f"has the statement_timeout {timeout}, not the {expected_ms} ms that the service asks "
            "for: a pooler in front of it drops what is asked for",
            POOLER_ADVICE,
        )
    return None


def require(database: Database) -> None:
    """Check that the database can be served from now.

    Raises:
        Unavailable: DATABASE_UNAVAILABLE, it is out of reach or has a problem.
    """
    found = problem(database)
    if found is not None:
        raise Unavailable("DATABASE_UNAVAILABLE", f"The database {found.found}: {found.fix}.", 1.0)


def refuse_unsuitable(url: str, pooler: Pooler) -> None:
    """Check what no waiting mends. A database that is out of reach passes: it may be fine later.

    Raises:
        UnsuitableDatabaseError: the encoding is not UTF-8.
    """
    database = Database(url, pool_size=1, pooler=pooler)
    try:
        with database.autocommit() as connection:
            require_utf8(driver_connection(connection))
    except Unavailable:
        return
    finally:
        database.dispose()


def require_utf8(connection: psycopg.Connection) -> None:
    """Check the encoding of the connection's database.

    Raises:
        UnsuitableDatabaseError: it is not UTF-8.
    """
    encoding = connection.info.parameter_status("server_encoding") or "unknown"
    if encoding != ENCODING:
        found = _wrong_encoding(encoding)
        raise UnsuitableDatabaseError(f"DATABASE_URL: the database {found.found}; {found.fix}")


def _wrong_encoding(encoding: str) -> Problem:
    return Problem(
        f"has the encoding {encoding}, in which not every name can be stored",
        "create one with: createdb --encoding=UTF8 --template=template0 NAME",
    )
