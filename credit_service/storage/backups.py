"""What a backup and its restoration need of a database besides pg_dump and pg_restore."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection

from credit_service.storage import migrate
from credit_service.storage.database import Database, driver_connection
from credit_service.storage.statements import Statement
from credit_service.storage.tables import metadata

_SESSION_NAME = "credit-service backup"
# The options are timeouts of calls, which are too short for a backup.
_LEFT_OUT = frozenset({"options", "password", "sslpassword"})


@dataclass(frozen=True, slots=True)
class Server:
    """How to reach the database with another program: parameters of libpq, and the password."""

    major: int
    parameters: Mapping[str, str]
    password: str
    name: str


@dataclass(frozen=True, slots=True)
class Content:
    """Revision of the schema, rows by table, and the id of the newest published event."""

    revision: str
    rows: dict[str, int]
    newest_event_id: int


def server_of(connection: Connection) -> Server:
    """Return how this connection reached its database."""
    info = driver_connection(connection).info
    # Those of the URL only: the library of an older program knows fewer parameters than this one.
    engine = connection.engine
    _, given = engine.dialect.create_connect_args(engine.url)
    parameters = {
        name: value
        for name, value in info.get_parameters().items()
        if name in given and name not in _LEFT_OUT
    }
    parameters["application_name"] = _SESSION_NAME
    return Server(info.server_version // 10_000, parameters, info.password, info.dbname)


_SNAPSHOT = (
    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY",
    # pg_dump uses the snapshot for as long as it takes.
    "SET LOCAL idle_in_transaction_session_timeout = 0",
    "SET LOCAL statement_timeout = 0",
)
_EXPORT = Statement("SELECT pg_export_snapshot()")
_NEWEST_EVENT = Statement("SELECT coalesce(max(event_id), 0) FROM events")


@contextmanager
def snapshot(database: Database) -> Iterator[tuple[Connection, str]]:
    """One state of the database, for as long as the context is open: a connection that reads it,
    and its name for pg_dump."""
    with database.transaction() as connection:
        for statement in _SNAPSHOT:
            Statement(statement).run(connection, {})
        (name,) = _EXPORT.rows(connection, {})[0]
        yield connection, name


def content(connection: Connection) -> Content:
    """Count the rows of the service's tables. The database must be migrated."""
    found = set(tables(connection))
    rows = {
        name: Statement(f"SELECT count(*) FROM {name}").rows(connection, {})[0][0]
        for name in sorted(found.intersection(metadata.tables))
    }
    revision = migrate.current_revision(connection) or ""
    return Content(revision, rows, _NEWEST_EVENT.rows(connection, {})[0][0])


_TABLES = Statement(
    """SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname NOT LIKE 'pg\\_%'
        AND n.nspname <> 'information_schema'
    ORDER BY c.relname"""
)
_SESSIONS = Statement(
    """SELECT DISTINCT application_name FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
        AND application_name LIKE 'credit-service%'
        AND application_name NOT IN ('credit-service operator', 'credit-service backup')
    ORDER BY application_name"""
)


def tables(connection: Connection) -> list[str]:
    """Return the names of all tables and views of the database."""
    return [row[0] for row in _TABLES.rows(connection, {})]


def sessions(connection: Connection) -> list[str]:
    """Return the names of the service's processes that are connected to the database."""
    return [row[0] for row in _SESSIONS.rows(connection, {})]


def analyze(database: Database) -> None:
    """Collect the statistics of the planner, which a backup does not contain."""
    with database.transaction() as connection:
        Statement("SET LOCAL statement_timeout = 0").run(connection, {})
        Statement("ANALYZE").run(connection, {})
