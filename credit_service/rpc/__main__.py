"""One serving process: `python -m credit_service.rpc`, with settings from the environment.

Exit status: 0 after a clean stop, 2 for invalid settings.
"""

import argparse
import socket
import sys
import threading
from contextlib import ExitStack, closing

import structlog

from credit_service.observability import setup
from credit_service.observability.logs import configure_logging
from credit_service.observability.metrics_http import MetricsEndpoint, answer_until_closed
from credit_service.observability.tracing import TracingRefusedError
from credit_service.processes import cores
from credit_service.processes.address import Address, MisconfiguredError
from credit_service.rpc.server import serve
from credit_service.settings import Settings
from credit_service.settings_messages import describe, warn_of_unknown_variables
from credit_service.storage import readiness

MISCONFIGURED = 2

_log = structlog.get_logger(__name__)


def main() -> int:
    """Serve until stopped by a signal; with --control-fd, also until the supervisor is gone."""
    parser = argparse.ArgumentParser(prog="python -m credit_service.rpc", description=__doc__)
    parser.add_argument(
        "--control-fd",
        type=int,
        help="socket of the supervisor: reports when this process serves, and stops it when closed",
    )
    parser.add_argument("--core", type=int, help="run on this core alone")
    arguments = parser.parse_args()
    control_fd = arguments.control_fd
    control = None if control_fd is None else socket.socket(fileno=control_fd)
    try:
        settings = Settings()
        readiness.require_suitable(settings.require_database_url(), settings.database_pooler)
    except ValueError as error:  # pydantic's are of this kind
        return _misconfigured(error)
    configure_logging(settings)
    if arguments.core is not None:
        _keep_to(arguments.core)
    if control is None:
        # Otherwise the supervisor has warned.
        warn_of_unknown_variables()
    try:
        stop = threading.Event()
        if control is not None:
            threading.Thread(target=_serve_supervisor, args=(control, stop), daemon=True).start()

        def announce(address: Address) -> None:
            if control is not None:
                control.sendall(b"serving\n")
            else:
                print(f"Serving on {address}", flush=True)  # noqa: T201 - for the person who started it

        with ExitStack() as running:
            if control is None and settings.metrics_listen is not None:
                # Otherwise the supervisor serves the metrics of all its processes.
                running.enter_context(
                    closing(
                        MetricsEndpoint(settings.metrics_listen, insecure=settings.metrics_insecure)
                    )
                )
            running.enter_context(setup.recorded_as_configured(settings, "credit-service"))
            serve(settings, announce, stop=stop, share_port=control is not None)
    except (MisconfiguredError, TracingRefusedError) as error:
        return _misconfigured(error)
    return 0


def _keep_to(core: int) -> None:
    """Run on this core alone, if the system allows it."""
    try:
        cores.keep_to(core)
    except OSError as error:
        _log.warning("core_not_available", core=core, error=str(error))


def _misconfigured(error: Exception) -> int:
    print(f"credit-service: {describe(error)}", file=sys.stderr)  # noqa: T201 - no logging yet
    return MISCONFIGURED


def _serve_supervisor(control: socket.socket, stop: threading.Event) -> None:
    """Answer the supervisor's requests for metrics; set `stop` when it closes its side."""
    answer_until_closed(control)
    stop.set()


if __name__ == "__main__":
    sys.exit(main())
