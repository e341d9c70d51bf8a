"""The settings of a database session: its timeouts and its time zone.

On a direct connection to PostgreSQL they are startup options and cost nothing afterwards.

PgBouncer in transaction mode assigns a session per transaction. It rejects the options, and other
clients would see what is set for a session. There each transaction sets them for itself, without an
extra round trip: together with BEGIN, or in one pipeline with a statement that is a transaction by
itself. Statements are not prepared, because the next one may run in another session.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Self

import psycopg
from psycopg.abc import Params, Query
from psycopg.copy import Writer
from psycopg.pq import PipelineStatus, TransactionStatus
from sqlalchemy import make_url

Pooler = Literal["none", "transaction"]
"""What stands between the service and PostgreSQL. "transaction" works in front of any."""

POOLER_REFUSAL = "unsupported startup parameter"
"""PgBouncer's error for options that it does not know."""

POOLER_ADVICE = "set CREDIT_DATABASE_POOLER=transaction"

_NETWORK = {
    # Per host.
    "connect_timeout": 3,
    # A server whose machine or network has failed does not reset its connections. Without these,
    # a thread would wait for it for up to two hours.
    "keepalives_idle": 5,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """Timeouts in milliseconds; 0 disables one. The time zone is UTC."""

    statement_timeout_ms: int
    lock_timeout_ms: int
    idle_in_transaction_timeout_ms: int

    def by_name(self) -> dict[str, str]:
        """Return the values of the settings by their names in PostgreSQL."""
        return {
            "statement_timeout": str(self.statement_timeout_ms),
            "lock_timeout": str(self.lock_timeout_ms),
            "idle_in_transaction_session_timeout": str(self.idle_in_transaction_timeout_ms),
            "TimeZone": "UTC",
            # Migration 0014: triggers write phone numbers for servers of the previous release.
            "credit_service.keeps_phone_numbers": "on",
        }


def network_arguments(url: str) -> dict[str, int]:
    """Return arguments of psycopg.connect that bound the wait for a server that does not answer: 3
    s for a connection to each host, 10 to 15 s for a statement. Values in the URL take
    precedence."""
    given = make_url(url).query
    return {name: value for name, value in _NETWORK.items() if name not in given}


def connect_arguments(settings: SessionSettings, pooler: Pooler) -> dict[str, Any]:
    """Return arguments of psycopg.connect that apply these settings. With a pooler, they apply
    inside a transaction only if `begin_statement` began it."""
    # Overrides PGCLIENTENCODING; in SQL_ASCII texts would arrive as bytes.
    arguments: dict[str, Any] = {"client_encoding": "utf8"}
    if pooler == "transaction":
        return arguments | {
            "prepare_threshold": None,
            "cursor_factory": _cursor_class(settings),
        }
    options = " ".join(f"-c {name}={value}" for name, value in settings.by_name().items())
    return arguments | {"prepare_threshold": 2, "options": options}


def begin_statement(settings: SessionSettings, pooler: Pooler) -> bytes:
    """Return the statement that begins a transaction with these settings, in one round trip."""
    parts = ["BEGIN ISOLATION LEVEL READ COMMITTED"]
    if pooler == "transaction":
        parts += (f"SET LOCAL {name} = '{value}'" for name, value in settings.by_name().items())
    return "; ".join(parts).encode()


def _cursor_class(settings: SessionSettings) -> type[psycopg.Cursor[Any]]:
    """Return a cursor class that sends the settings with each statement outside a transaction."""
    values = ", ".join(
        f"set_config('{name}', '{value}', true)" for name, value in settings.by_name().items()
    )
    set_local = f"SELECT {values}".encode()

    class AutocommitCursor(psycopg.Cursor[Any]):
        def execute(
            self,
            query: Any,  # each kind of psycopg.abc.Query has an overload of its own
            params: Params | None = None,
            *,
            prepare: bool | None = None,
            binary: bool | None = None,
        ) -> Self:
            with self._with_settings():
                return super().execute(query, params, prepare=prepare, binary=binary)

        def executemany(
            self, query: Query, params_seq: Iterable[Params], *, returning: bool = False
        ) -> None:
            with self._with_settings():
                super().executemany(query, params_seq, returning=returning)

        @contextmanager
        def copy(
            self,
            statement: Query,
            params: Params | None = None,
            *,
            writer: Writer | None = None,
        ) -> Iterator[psycopg.Copy]:
            if self._is_outside_transaction():
                # COPY does not work in a pipeline.
                raise psycopg.ProgrammingError("COPY needs a transaction to have its settings")
            with super().copy(statement, params, writer=writer) as copy:
                yield copy

        @contextmanager
        def _with_settings(self) -> Iterator[None]:
            if not self._is_outside_transaction():
                yield
                return
            # A pipeline is one transaction.
            with self.connection.pipeline():
                psycopg.Cursor(self.connection).execute(set_local)
                yield

        def _is_outside_transaction(self) -> bool:
            info = self.connection.info
            return (
                info.transaction_status == TransactionStatus.IDLE
                and info.pipeline_status == PipelineStatus.OFF
            )

    return AutocommitCursor
