"""Failures that a person can foresee, as a few lines and an exit code; no traceback.

Imported when something failed, so its imports cost nothing before; and those of the commands that
run servers only when it was nothing that every command can meet.
"""

# ruff: noqa: PLC0415 - see above

import pydantic

from credit_service.cli import ExitCode, UsageError
from credit_service.cli.output import print_failure
from credit_service.client.channel import ServiceError
from credit_service.client.rows import SourceError


def tell(error: Exception) -> int:
    """Print the failure; its exit code. A defect of ours is raised again, traceback and all."""
    lines, code = _explained(error)
    if not lines:
        raise error
    print_failure(lines)
    return code


def _explained(error: Exception) -> tuple[list[str], ExitCode]:
    match error:
        case ServiceError():
            code = ExitCode.UNAVAILABLE if error.unavailable else ExitCode.REFUSED
            return error.lines(), code
        case SourceError():
            return [str(error)], ExitCode.REFUSED
        case pydantic.ValidationError():
            wrong = [
                f"  {'.'.join(map(str, each['loc']))}: {each['msg']}"
                for each in error.errors(include_url=False, include_input=False)
            ]
            return ["the settings are wrong:", *wrong], ExitCode.USAGE
        case UsageError():
            return [str(error)], ExitCode.USAGE
    return _explained_for_servers(error)


def _explained_for_servers(error: Exception) -> tuple[list[str], ExitCode]:
    import psycopg
    import sqlalchemy.exc

    from credit_service.embedded import StackError
    from credit_service.rpc.address import AddressRefusedError
    from credit_service.rpc.supervisor import ServersFailedError
    from credit_service.storage.condition import UnsuitableDatabaseError

    match error:
        case UnsuitableDatabaseError():
            return [str(error)], ExitCode.USAGE
        case AddressRefusedError():
            return [str(error)], ExitCode.USAGE
        case StackError() | ServersFailedError():
            return [str(error)], ExitCode.UNAVAILABLE
        case sqlalchemy.exc.OperationalError() | psycopg.OperationalError():
            reason = str(getattr(error, "orig", None) or error).strip().splitlines()
            return ["the database is out of reach:", *(f"  {x}" for x in reason)], (
                ExitCode.UNAVAILABLE
            )
        case sqlalchemy.exc.InternalError() if isinstance(
            error.orig, psycopg.errors.ReadOnlySqlTransaction
        ):
            return ["the database is read-only now and takes no writes"], ExitCode.UNAVAILABLE
        case OSError():
            named = f"{error.filename}: " if error.filename else ""
            return [f"{named}{error.strerror or error}"], ExitCode.REFUSED
    return [], ExitCode.REFUSED
