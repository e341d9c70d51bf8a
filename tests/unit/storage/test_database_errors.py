"""What each SQLSTATE means: for the call, and for the connection that reported it."""

import psycopg
import pytest
from psycopg import errors
from sqlalchemy import exc

from credit_service.domain.errors import RetryLaterError, UnavailableError
from credit_service.storage import database
from credit_service.storage.database import LostRaceError

LOST = [
    # Class 08: connection exceptions.
    *("08000", "08001", "08003", "08004", "08006", "08007", "08P01"),
    # The server stops, crashes, starts or recovers, drops the database, ends an idle session.
    *("57P01", "57P02", "57P03", "57P04", "57P05"),
    # Idle in a transaction, or in one transaction, for too long.
    *("25P03", "25P04"),
    # The server has become read-only.
    "25006",
]
"""The connection is dropped, with those that were opened before."""

UNAVAILABLE = [
    # Insufficient resources: disk, memory, connections, a limit.
    *("53000", "53100", "53200", "53300", "53400"),
    # The operator or a timeout ended the statement.
    "57014",
    # The server's own input and output.
    *("58000", "58030"),
]
"""The call may be retried, on the same connection."""

OTHERS = [
    *("22012", "22P02", "23502", "23514", "25001", "25P02", "28P01", "40002", "42501", "42P01"),
    *("55000", "P0001", "XX000", "XX001"),
]
"""Defects, or errors that the use cases expect."""


def error_of(state: str) -> psycopg.Error:
    """The driver's error of that state."""
    return errors.lookup(state)("no")


def meaning_of(error: psycopg.Error) -> BaseException:
    """What a call gets, whether SQLAlchemy or the driver raises the error."""
    direct = database._meaning(error)
    wrapped = exc.DBAPIError("SELECT 1", None, error)
    through = database._meaning(wrapped)
    assert type(through) is type(direct) or (through is wrapped and direct is error)
    return direct


@pytest.mark.parametrize("state", [*LOST, *UNAVAILABLE])
def test_an_unreachable_or_read_only_server_is_unavailable(state: str) -> None:
    meaning = meaning_of(error_of(state))
    assert isinstance(meaning, UnavailableError)
    assert meaning.reason == "DATABASE_UNAVAILABLE"
    # The edge returns it as RetryInfo.
    assert meaning.retry_after_seconds > 0


@pytest.mark.parametrize("state", LOST)
def test_its_connections_are_dropped(state: str) -> None:
    assert database._is_fatal(error_of(state))


@pytest.mark.parametrize("state", [*UNAVAILABLE, *OTHERS, "40001", "40P01", "55P03"])
def test_other_errors_keep_the_connection(state: str) -> None:
    assert not database._is_fatal(error_of(state))


@pytest.mark.parametrize("state", OTHERS)
def test_other_errors_have_no_other_meaning(state: str) -> None:
    error = error_of(state)
    assert meaning_of(error) is error


def test_races_and_locks_have_their_own_meaning() -> None:
    for state in ("40001", "40P01"):
        assert isinstance(meaning_of(error_of(state)), LostRaceError)
    assert isinstance(meaning_of(error_of("55P03")), RetryLaterError)


@pytest.mark.parametrize(
    "text",
    [
        "consuming input failed: server closed the connection unexpectedly",
        "consuming input failed: could not receive data from server: Connection timed out",
        "sending query and params failed: no connection to the server",
        "connection failed: connection to server at 127.0.0.1, port 1 failed: Connection refused",
        "connection timeout expired",
        "the connection is closed",
        "the connection is lost",
        "failed to resolve host 'db1': Name or service not known",
        "connection to server failed: FATAL:  the database system is starting up",
    ],
)
def test_a_lost_or_refused_connection_has_no_state_and_is_unavailable(text: str) -> None:
    meaning = meaning_of(psycopg.OperationalError(text))
    assert isinstance(meaning, UnavailableError)
    assert meaning.message == "The database is unreachable."


def test_a_host_that_accepts_no_writes_is_named_as_the_cause() -> None:
    text = "connection to server at 127.0.0.1, port 5432 failed: session is read-only"
    meaning = meaning_of(psycopg.OperationalError(text))
    assert isinstance(meaning, UnavailableError)
    assert meaning.message == database.NO_WRITABLE_SERVER
