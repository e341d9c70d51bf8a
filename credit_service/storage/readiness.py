"""Checks whether the service can use a database: its encoding, whether it accepts writes, the free
space on its disk, and whether the session's settings are in force."""

import time
from contextlib import suppress
from typing import NamedTuple

import psycopg
from psycopg import errors

from credit_service.domain.errors import UnavailableError
from credit_service.storage.database import Database, DiskFullError, driver_connection
from credit_service.storage.sessions import POOLER_ADVICE, Pooler
from credit_service.storage.statements import Statement

ENCODING = "UTF8"

# A session keeps the default it started with, so the query also reads what a new one would get: the
# most specific setting of role and database, unless the connection sets its own.
_CHECK = Statement(
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

_CONNECTION_LIMIT = Statement(
    """
    SELECT least(
        current_setting('max_connections')::int,
        (SELECT nullif(rolconnlimit, -1) FROM pg_roles WHERE rolname = current_user),
        (SELECT nullif(datconnlimit, -1) FROM pg_database WHERE datname = current_database()))
    """
)
DEFAULT_CONNECTIONS = 100
"""PostgreSQL's own max_connections."""

REQUIRED_SPACE_BYTES = 1024**2
"""Free space on the disk that the service needs."""
RECOVERED_SPACE_BYTES = 16 * REQUIRED_SPACE_BYTES
"""Free space needed after the disk was full, so that health does not flap at the last blocks."""
SPACE_CHECK_SECONDS = 10.0
"""Interval between checks of the free space while all checks pass."""
SPACE_LOCK = 0x6372656469740003
"""Advisory lock ("credit", 3) of the process that checks for RECOVERED_SPACE_BYTES: several at once
would fill the disk again."""

# The rows go into a temporary file, because they exceed the smallest work_mem. A row of a table
# would often fit into an existing page, and its log into an existing file.
_BLOCK_BYTES = 8192
_LOCK_SPACE = Statement(f"SELECT pg_try_advisory_xact_lock({SPACE_LOCK})")
_SPILL = Statement("SET LOCAL work_mem = '64kB'")
_USE_DATA_DISK = Statement("SET LOCAL temp_tablespaces = ''")
_ALLOCATE = Statement(
    "SELECT count(*) FROM unnest(array_fill(repeat('x', :block_bytes), ARRAY[:blocks]))".replace(
        ":block_bytes", "CAST(:block_bytes AS int)"
    ).replace(":blocks", "CAST(:blocks AS int)")
)


class Problem(NamedTuple):
    """Why the service cannot use a database, and how to fix it."""

    found: str
    fix: str


class UnsuitableDatabaseError(ValueError):
    """The service can never use this database as it is. The message says why, and how to fix it."""


_NO_SPACE = Problem(
    "has no space left on its disk and accepts no writes",
    "free space on the disk of its data, or give it a larger disk",
)


def find_problem(database: Database) -> Problem | None:
    """Return what is wrong with the database now; None when all checks pass.

    Writes REQUIRED_SPACE_BYTES to its disk for a moment.

    Raises:
        UnavailableError: the database is unreachable.
    """
    found = _find_problem_except_space(database)
    if found is None and _has_space(database, REQUIRED_SPACE_BYTES) is False:
        return _NO_SPACE
    return found


def _find_problem_except_space(database: Database) -> Problem | None:
    with database.autocommit() as connection:
        row = _CHECK.row(connection, {})
    assert row is not None  # noqa: S101 - a SELECT without FROM
    in_recovery, is_read_only, timeout, timeout_ms, encoding = row
    if encoding != ENCODING:
        return _wrong_encoding(encoding)
    if in_recovery:
        return Problem(
            "is a standby in recovery and accepts no writes",
            "promote it, or set DATABASE_URL to the primary",
        )
    if is_read_only:
        return Problem(
            "is read-only (default_transaction_read_only) and accepts no writes",
            "set default_transaction_read_only to off for server, database and role",
        )
    expected_ms = database.session_settings.statement_timeout_ms
    if timeout_ms != expected_ms:
        return Problem(
            f"has the statement_timeout {timeout}, not the {expected_ms} ms that the service "
            "requests: a pooler in front of it drops the setting",
            POOLER_ADVICE,
        )
    return None


def _has_space(database: Database, space_bytes: int, *, exclusive: bool = False) -> bool | None:
    """Return whether the disk has that much space; None where unknown: the check timed out, or
    with `exclusive` another session runs one."""
    try:
        with database.transaction() as connection, suppress(errors.QueryCanceled):
            if exclusive and _LOCK_SPACE.row(connection, {}) != (True,):
                return None
            _SPILL.run(connection, {})
            _USE_DATA_DISK.run(connection, {})
            blocks = space_bytes // _BLOCK_BYTES
            # temp_file_limit may forbid the role this much, permanently: that counts as space.
            with suppress(errors.ConfigurationLimitExceeded):
                _ALLOCATE.run(connection, {"block_bytes": _BLOCK_BYTES, "blocks": blocks})
            return True
    except DiskFullError:
        return False
    return None


class Monitor:
    """Checks a database about once a second for a server that uses it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._is_ready = self._is_full = False
        self._next_check_at = 0.0

    def require(self) -> None:
        """Check the database as `find_problem` does.

        Checks the free space every SPACE_CHECK_SECONDS, and at every call while there is a problem.
        After a full disk it requires RECOVERED_SPACE_BYTES. An unknown result leaves the last one.

        Raises:
            UnavailableError: DATABASE_UNAVAILABLE, it is unreachable or has a problem.
        """
        was_ready, self._is_ready = self._is_ready, False
        found = _find_problem_except_space(self._database)
        if found is None and not (was_ready and time.monotonic() < self._next_check_at):
            self._check_space()
        if found is None and self._is_full:
            found = _NO_SPACE
        if found is not None:
            raise UnavailableError(
                "DATABASE_UNAVAILABLE", f"The database {found.found}: {found.fix}.", 1.0
            )
        self._is_ready = True

    def _check_space(self) -> None:
        self._next_check_at = time.monotonic() + SPACE_CHECK_SECONDS
        space_bytes = RECOVERED_SPACE_BYTES if self._is_full else REQUIRED_SPACE_BYTES
        has_space = _has_space(self._database, space_bytes, exclusive=self._is_full)
        if has_space is not None:
            self._is_full = not has_space


def require_suitable(url: str, pooler: Pooler) -> None:
    """Check what waiting cannot fix. An unreachable database passes: it may be suitable later.

    Raises:
        UnsuitableDatabaseError: the encoding is not UTF-8.
    """
    database = Database(url, pool_size=1, pooler=pooler)
    try:
        with database.autocommit() as connection:
            require_utf8(driver_connection(connection))
    except UnavailableError:
        return
    finally:
        database.dispose()


def connection_limit(database: Database, pooler: Pooler) -> int | None:
    """The number of connections that the database allows the service: that of the server, of the
    database or of the role. DEFAULT_CONNECTIONS while it is unreachable; None behind a pooler."""
    if pooler != "none":
        return None
    try:
        with database.autocommit() as connection:
            row = _CONNECTION_LIMIT.row(connection, {})
    except UnavailableError:
        return DEFAULT_CONNECTIONS
    assert row is not None  # noqa: S101 - a SELECT without FROM
    return int(row[0])


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
        f"has the encoding {encoding}, which cannot store every name",
        "create one with: createdb --encoding=UTF8 --template=template0 NAME",
    )
