"""Expected failures as one line and an exit code, without a traceback.

Commands import this module only after a failure, so it costs nothing before. It imports what only
the commands that run servers need last, after all failures that any command can have.
"""

# ruff: noqa: PLC0415 - see above

import re

import pydantic

from credit_service.cli.common import ExitCode, UsageError
from credit_service.cli.output import print_failure
from credit_service.clock import ClockFileError
from credit_service.settings_messages import problems
from credit_service_client.errors import ServiceError
from credit_service_client.sources import SourceError
from credit_service_client.tls import TlsFileError

_OUT_OF_RANGE = re.compile(r"Value out of range: (-?\d+)")
"""What protobuf says when a number does not fit into its field."""

_Explained = tuple[list[str], ExitCode] | None


def report(error: Exception) -> int:
    """Print the failure and return its exit code. Raise an unexpected error again."""
    explained = _explained(error) or _explained_for_servers(error)
    if explained is None:
        raise error
    lines, code = explained
    if lines:
        print_failure(lines)
    return code


def _explained(error: Exception) -> _Explained:
    match error:
        case ServiceError():
            code = ExitCode.UNAVAILABLE if error.unavailable else ExitCode.REFUSED
            lines = error.lines()
            if error.metadata.get("problem") == "missing":
                lines.append(
                    "  Give a token with --token-file or CREDIT_TOKEN, or save a profile with "
                    "`credit-service login`."
                )
            return lines, code
        case SourceError():
            return [str(error)], ExitCode.REFUSED
        case pydantic.ValidationError():
            return problems(error), ExitCode.USAGE
        case UsageError() | TlsFileError() | ClockFileError():
            return [str(error)], ExitCode.USAGE
        case ValueError() if number := _OUT_OF_RANGE.fullmatch(str(error)):
            # A number of the command line that no field of the contract can hold.
            return [f"{number[1]} is out of range: write a number closer to 0"], ExitCode.USAGE
        case OSError():
            named = f"{error.filename}: " if error.filename else ""
            return [f"{named}{error.strerror or error}"], ExitCode.REFUSED
    return None


def _explained_for_servers(error: Exception) -> _Explained:
    import psycopg
    import sqlalchemy.exc

    from credit_service.domain.errors import (
        CreditError,
        OverloadedError,
        RetryLaterError,
        UnavailableError,
    )
    from credit_service.processes.address import AddressRefusedError
    from credit_service.processes.stack_errors import DataFolderError, StackError
    from credit_service.processes.supervisor import ChildFailedError, ChildMisconfiguredError
    from credit_service.storage.readiness import UnsuitableDatabaseError

    match error:
        case AddressRefusedError() | DataFolderError() | UnsuitableDatabaseError():
            return [str(error)], ExitCode.USAGE
        case ChildMisconfiguredError():
            # The process that rejected its settings has printed the reason.
            return [], ExitCode.USAGE
        case StackError() | ChildFailedError():
            return [str(error)], ExitCode.UNAVAILABLE
        case UnavailableError() | RetryLaterError() | OverloadedError():
            return [f"the database is unavailable: {_database_reason(error)}"], (
                ExitCode.UNAVAILABLE
            )
        case CreditError():
            return [error.message], ExitCode.REFUSED
        case sqlalchemy.exc.OperationalError() | psycopg.OperationalError():
            return [f"the database is unavailable: {_database_reason(error)}"], (
                ExitCode.UNAVAILABLE
            )
        case sqlalchemy.exc.InternalError() if isinstance(
            error.orig, psycopg.errors.ReadOnlySqlTransaction
        ):
            return ["the database is read-only and accepts no writes"], ExitCode.UNAVAILABLE
        case sqlalchemy.exc.SQLAlchemyError() | psycopg.Error():
            return [_rejected_by_database(error)], ExitCode.REFUSED
    return None


def _rejected_by_database(error: Exception) -> str:
    from psycopg import errors

    cause = getattr(error, "orig", error)
    if isinstance(cause, errors.UndefinedTable | errors.UndefinedColumn):
        return (
            "the database schema does not match this version: run `credit-service migrate`"
            f" first ({_database_reason(error)})"
        )
    return f"the database rejected the statement: {_database_reason(error)}"


def _database_reason(error: Exception) -> str:
    """Return the driver's message on one line, without the SQL statement."""
    cause: BaseException = error
    while (deeper := getattr(cause, "orig", None) or cause.__cause__) is not None:
        cause = deeper
    return " ".join(str(cause).split()) or type(cause).__name__
