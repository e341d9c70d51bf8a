"""`python -m workers`: the relay and the actors, until SIGTERM.

Configured by the environment (credit_service/settings.py). Without DATABASE_URL and REDIS_URL it
joins the embedded servers that `credit-service up` runs, or starts its own. Exit status: 0 after a
stop, 2 if the settings do not allow it to run.
"""

import argparse
import contextlib
import os
import signal
import socket
import sys
import threading
from contextlib import AbstractContextManager, closing, nullcontext

from credit_service.observability import setup
from credit_service.observability.logs import configure_logging
from credit_service.observability.metrics_http import MetricsEndpoint
from credit_service.processes import embedded
from credit_service.processes.stack_errors import StackError
from credit_service.settings import Settings
from credit_service.settings_messages import describe, warn_of_unknown_variables
from credit_service.storage import readiness
from workers.process import WorkerProcess, run

MISCONFIGURED = 2


def main() -> int:
    """Run a worker, with the arguments of the command line, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m workers", description=__doc__)
    parser.add_argument(
        "--control-fd",
        type=int,
        help="socket of the parent process; the worker stops when the parent closes it or dies",
    )
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--relay-only", action="store_true", help="run no actors")
    part.add_argument("--actors-only", action="store_true", help="run no relay")
    arguments = parser.parse_args()
    if arguments.control_fd is not None:
        control = socket.socket(fileno=arguments.control_fd)
        threading.Thread(target=_obey, args=(control,), daemon=True).start()
    try:
        settings = Settings()
        configure_logging(settings, component="worker")
        if arguments.control_fd is None:
            # With it, the parent has warned.
            warn_of_unknown_variables()
        with (
            _metrics_shown(settings),
            setup.recorded_as_configured(settings, "credit-service-worker"),
            embedded.provided(settings, join=True) as provided,
        ):
            readiness.require_suitable(provided.require_database_url(), provided.database_pooler)
            run(
                WorkerProcess(
                    provided, relay=not arguments.actors_only, act=not arguments.relay_only
                )
            )
    except (ValueError, StackError) as error:  # pydantic's errors are ValueErrors
        print(f"python -m workers: {describe(error)}", file=sys.stderr)  # noqa: T201 - no logging
        return MISCONFIGURED
    return 0


def _obey(control: socket.socket) -> None:
    """Stop this process with SIGTERM once the parent closes its end."""
    with contextlib.suppress(OSError):
        while control.recv(64):
            pass
    os.kill(os.getpid(), signal.SIGTERM)


def _metrics_shown(settings: Settings) -> AbstractContextManager[object]:
    """While open, show the metrics at the address in the settings."""
    if settings.worker_metrics_listen is None:
        return nullcontext()
    listen, insecure = settings.worker_metrics_listen, settings.metrics_insecure
    return closing(MetricsEndpoint(listen, insecure=insecure))


if __name__ == "__main__":
    sys.exit(main())
