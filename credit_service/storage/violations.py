"""What an error of the driver means: its SQLSTATE, and the constraint that was violated."""

import re

import psycopg

UNIQUE_VIOLATION = "23505"
_INTERNAL = "XX000"
# Citus copies rows to other nodes, and reports an error there with its message only.
_STATES_OF_MESSAGES = (
    (re.compile(r"duplicate key value violates unique constraint"), UNIQUE_VIOLATION),
    (re.compile(r"violates (check|foreign key|not-null) constraint"), "23000"),
    (re.compile(r"deadlock detected"), "40P01"),
    (re.compile(r"canceling statement due to lock timeout"), "55P03"),
    (re.compile(r"canceling statement due to (statement timeout|user request)"), "57014"),
)
_CONSTRAINT = re.compile(r'constraint "(\w+)"')
# Citus appends the number of a shard to the names of its constraints.
_SHARD_NUMBER = re.compile(r"_[0-9]+$")


def sqlstate_of(error: psycopg.Error) -> str | None:
    """Return the error's SQLSTATE; None if the connection broke or failed."""
    if error.sqlstate == _INTERNAL:
        for message, state in _STATES_OF_MESSAGES:
            if message.search(str(error)):
                return state
    return error.sqlstate


def is_integrity_violation(error: psycopg.Error) -> bool:
    """Return whether a constraint or a trigger rejected a change."""
    return (sqlstate_of(error) or "").startswith("23")


def constraint_of(error: psycopg.Error) -> str:
    """Return the name of the violated constraint; empty if the database names none."""
    name = error.diag.constraint_name
    if name is None and (found := _CONSTRAINT.search(error.diag.message_primary or "")):
        name = found[1]
    return _SHARD_NUMBER.sub("", name or "")
