"""Migrate a database to the newest schema, report its revision, and compare it with the tables."""

import time
from pathlib import Path

import psycopg
from alembic import autogenerate, command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, pool, text

from credit_service.domain.scorecard import PRUDENT_DOCUMENT, STANDARD
from credit_service.storage import cluster, readiness, scorecards
from credit_service.storage.database import driver_connection
from credit_service.storage.sessions import network_arguments
from credit_service.storage.tables import metadata

_MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK = 0x6372656469740001  # "credit", 1: one migration at a time across processes
_LOCK_POLL_SECONDS = 0.1


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _engine(url: str) -> Engine:
    """Return an engine that also works behind a pooler: it prepares no statements."""
    arguments = {
        "prepare_threshold": None,
        "client_encoding": "utf8",
        **network_arguments(url),
    }
    return create_engine(url, poolclass=pool.NullPool, connect_args=arguments)


def upgrade(url: str) -> str:
    """Apply every missing migration and return the new revision.

    A database without an active scorecard gets the standard one. The prudent one is stored, not
    active, for use as a trial or as the active one.

    Concurrent calls are safe: the second waits for the first and finds nothing to do.

    Raises:
        UnsuitableDatabaseError: the database's encoding is not UTF-8.
    """
    engine = _engine(url)
    # A transaction on a separate connection holds the lock: behind a pooler that assigns sessions
    # per transaction, a session lock would stay with the session's next user.
    with engine.begin() as locking:
        readiness.require_utf8(driver_connection(locking))
        locking.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        _lock(driver_connection(locking))
        with engine.connect() as connection:
            command.upgrade(_config(connection), "head")
            scorecards.seed(connection, STANDARD)
            scorecards.seed_inactive(connection, PRUDENT_DOCUMENT)
            connection.commit()
    return head_revision()


def distribute(url: str) -> list[str]:
    """Place the tables of a migrated database on its cluster; return those that were not placed.

    Raises:
        UnsuitableDatabaseError: the database has no Citus, or no worker nodes.
    """
    engine = _engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
        return cluster.distribute(connection)


def _lock(connection: psycopg.Connection) -> None:
    """Wait for the lock, and hold it until the transaction ends, without a snapshot: CREATE INDEX
    CONCURRENTLY waits for every transaction that has one, including this one and those waiting.

    So no statement waits inside PostgreSQL, and none has parameters, which would keep its snapshot.
    """
    while connection.execute(f"SELECT pg_try_advisory_xact_lock({_LOCK})").fetchone() != (True,):
        time.sleep(_LOCK_POLL_SECONDS)


def head_revision() -> str:
    """Return the newest revision."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    if head is None:
        raise RuntimeError("the package ships no migration")
    return head


def current_revision(connection: Connection) -> str | None:
    """Return the database's revision; None before the first migration."""
    return MigrationContext.configure(connection).get_current_revision()


def drift(url: str) -> list[object]:
    """Return differences between the database and the tables; empty if migrations are complete."""
    engine = _engine(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(autogenerate.compare_metadata(context, metadata))


def new_revision(url: str, message: str) -> None:
    """Write a migration that brings the database at `url` to the declared tables."""
    engine = _engine(url)
    with engine.connect() as connection:
        following = f"{int(head_revision()) + 1:04d}"
        command.revision(_config(connection), message=message, rev_id=following, autogenerate=True)
