"""Whether a database can be served from: its encoding, whether it takes writes, whether its disk
has room, and whether the session's settings are in force."""

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

# A session that began earlier keeps the default it began with, so what a new one would get is asked
# as well: the most specific setting of role and database, unless the connection brings its own.
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

REQUIRED_SPACE_BYTES = 1024**2
"""What a disk must have room for, to serve."""
RECOVERED_SPACE_BYTES = 16 * REQUIRED_SPACE_BYTES
"""And after it was full, so that the last blocks do not turn health to and fro."""
SPACE_CHECK_SECONDS = 10.0
"""How often room is looked for while all is well."""
SPACE_LOCK = 0x6372656469740003
"""Advisory lock ("credit", 3) of who looks for RECOVERED_SPACE_BYTES: many at once would fill
the disk again."""

# The rows go into a temporary file, for they do not fit into the least memory that can be set. A
# row of a table would often find room in a page that is there, and its log in a file that is.
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
    """Why a database cannot be served from, and what to do."""

    found: str
    fix: str


class UnsuitableDatabaseError(ValueError):
    """The database can never be served from as it is. The message says why, and what to do."""


_NO_SPACE = Problem(
    "has no room left on its disk and takes no writes",
    "make room where its data is, or give it a larger disk",
)


def find_problem(database: Database) -> Problem | None:
    """What is wrong with the database now; None when it can be served from.

    REQUIRED_SPACE_BYTES are written to its disk for a moment.

    Raises:
        UnavailableError: it is out of reach.
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


def _has_space(database: Database, room_bytes: int, *, alone: bool = False) -> bool | None:
    """Whether the disk has room; None where that is not found out: it took too long, or with
    `alone` another session is looking."""
    try:
        with database.transaction() as connection, suppress(errors.QueryCanceled):
            if alone and _LOCK_SPACE.row(connection, {}) != (True,):
                return None
            _SPILL.run(connection, {})
            _USE_DATA_DISK.run(connection, {})
            blocks = room_bytes // _BLOCK_BYTES
            # A role may be kept from so much in temporary files, for good: it counts as room.
            with suppress(errors.ConfigurationLimitExceeded):
                _ALLOCATE.run(connection, {"block_bytes": _BLOCK_BYTES, "blocks": blocks})
            return True
    except DiskFullError:
        return False
    return None


class Monitor:
    """A database's condition, for one that serves from it and asks every second or so."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._is_well = self._is_full = False
        self._next_check_at = 0.0

    def require(self) -> None:
        """Check that the database can be served from now, as `find_problem` does.

        Room is looked for every SPACE_CHECK_SECONDS, and each time while something is wrong. Once
        the disk was full it must have RECOVERED_SPACE_BYTES. Where that is not found out, what
        was found last stays.

        Raises:
            UnavailableError: DATABASE_UNAVAILABLE, it is out of reach or has a problem.
        """
        was_well, self._is_well = self._is_well, False
        found = _find_problem_except_space(self._database)
        if found is None and not (was_well and time.monotonic() < self._next_check_at):
            self._check_space()
        if found is None and self._is_full:
            found = _NO_SPACE
        if found is not None:
            raise UnavailableError(
                "DATABASE_UNAVAILABLE", f"The database {found.found}: {found.fix}.", 1.0
            )
        self._is_well = True

    def _check_space(self) -> None:
        self._next_check_at = time.monotonic() + SPACE_CHECK_SECONDS
        room_bytes = RECOVERED_SPACE_BYTES if self._is_full else REQUIRED_SPACE_BYTES
        has_room = _has_space(self._database, room_bytes, alone=self._is_full)
        if has_room is not None:
            self._is_full = not has_room


def require_suitable(url: str, pooler: Pooler) -> None:
    """Check what no waiting mends. A database that is out of reach passes: it may be fine later.

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
