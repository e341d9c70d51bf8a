"""The command line, `credit-service`: it runs one command and returns its exit code."""

# ruff: noqa: PLC0415 - only a failure needs the module that reports it

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from io import TextIOWrapper

from cyclopts import CycloptsError, Group

from credit_service.cli.commands.root import app
from credit_service.cli.common import ExitCode

__all__ = ["app", "main", "run"]

_COMMANDS = {
    Group("Run the service", sort_key=0): (
        "commands.serving:up",
        "commands.serving:serve",
        "commands.serving:worker",
        "commands.serving:console",
        "commands.serving:migrate",
    ),
    Group("Use a running service", sort_key=1): (
        "commands.connecting:login",
        "commands.connecting:profiles",
        "commands.files:ingest",
        "commands.files:template",
        "commands.files:annotated",
        "commands.files:ingestions",
        "commands.files:ingestion",
        "commands.files:row_errors",
        "commands.files:cancel_ingestion",
        "commands.files:revert_ingestion",
        "commands.files:check_file",
        "commands.any_method:call",
        "commands.customers:customer",
        "commands.customers:customers",
        "commands.customers:register_customer",
        "commands.customers:update_customer",
        "commands.customers:changes",
        "commands.customers:score",
        "commands.loans:check",
        "commands.loans:create_loan",
        "commands.loans:loans",
        "commands.loans:overdue",
        "commands.loans:arrears",
        "commands.offers:offers",
        "commands.offers:offer",
        "commands.offers:create_offer",
        "commands.offers:accept_offer",
        "commands.offers:withdraw_offer",
        "commands.loans:loan",
        "commands.loans:key_facts",
        "commands.loans:schedule",
        "commands.loans:pay",
        "commands.loans:payments",
        "commands.loans:reverse_payment",
        "commands.loans:prepay",
        "commands.loans:foreclosure",
        "commands.loans:decisions",
        "commands.loans:decision",
        "commands.loans:review_decision",
        "commands.events:events",
    ),
    Group("Try it out", sort_key=2): (
        "commands.samples:sample_data",
        "commands.samples:demo",
    ),
    Group("Operate the service", sort_key=3): (
        "commands.policy:scorecard",
        "commands.policy:backtest",
        "commands.operate:replay",
        "commands.operate:doctor",
        "commands.operate:backup",
        "commands.operate:restore",
        "parked:parked",
        "personal_data:personal_data",
        "tokens:token",
        "commands.operate:probe",
        "commands.operate:certificates",
        "commands.operate:completion",
    ),
}
"""The commands by group, as module:function. cyclopts imports the module when the command runs."""

for _group, _paths in _COMMANDS.items():
    for _path in _paths:
        app.command(f"credit_service.cli.{_path}", group=_group)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code. Print each expected failure as one line."""
    if not arguments or arguments[0].startswith("-"):
        # The help of the program shows the first sentence of every command.
        app.resolved_commands()
    try:
        result = app(
            list(arguments), result_action="return_value", exit_on_error=False, print_error=False
        )
    except CycloptsError as error:
        from credit_service.cli import output, usage

        output.print_failure([usage.explained(error)])
        return ExitCode.USAGE
    except BrokenPipeError:
        _ignore_output()
        return ExitCode.OUTPUT_CLOSED
    except SystemExit as exiting:
        # rich, which also prints the help, ends the program with 1 when the output is closed.
        if isinstance(exiting.__context__, BrokenPipeError):
            return ExitCode.OUTPUT_CLOSED
        raise
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - reported, or raised again
        from credit_service.cli import failures

        return failures.report(error)
    return result if isinstance(result, int) else ExitCode.GOOD


def _ignore_output() -> None:
    """Send what is still buffered nowhere: otherwise Python reports at its end that it cannot."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
