"""The command line, `credit-service`: it runs one command and returns its exit code."""

# ruff: noqa: PLC0415 - only a failure needs the module that reports it

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper

from cyclopts import CycloptsError

from credit_service.cli.commands import (
    any_method,
    connecting,
    customers,
    events,
    files,
    loans,
    operate,
    policy,
    samples,
    serving,
)
from credit_service.cli.commands.root import app
from credit_service.cli.common import ExitCode

__all__ = ["GROUPS", "app", "main", "run"]

GROUPS = (
    serving,
    connecting,
    files,
    any_method,
    customers,
    loans,
    events,
    policy,
    operate,
    samples,
)
"""The modules that declare the commands. Importing one adds its commands to `app`."""


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code. Print each expected failure as one line."""
    try:
        result = app(
            list(arguments), result_action="return_value", exit_on_error=False, print_error=True
        )
    except CycloptsError:
        return ExitCode.USAGE
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - reported, or raised again
        from credit_service.cli import failures

        return failures.report(error)
    return result if isinstance(result, int) else ExitCode.GOOD


_RUNS_SERVERS = frozenset({"up", "serve", "worker", "console", "demo"})


def main() -> None:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal without ₹ shows a question mark instead of failing the command.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    if not _RUNS_SERVERS.intersection(sys.argv[1:2]):
        # gRPC logs a line for each connection attempt, which would hide the command's output.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    sys.exit(run(sys.argv[1:]))
