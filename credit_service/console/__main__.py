"""The QA console: `python -m credit_service.console`, settings from the environment.

Exit status: 0 after a clean stop, 2 for settings that do not allow serving.
"""

import argparse
import contextlib
import socket
import sys
import threading

from credit_service.console.app import ConsoleAddressError, run
from credit_service.observability.logs import configure_logging
from credit_service.settings import Settings
from credit_service.settings_messages import describe, warn_of_unknown_variables

MISCONFIGURED = 2


def main() -> int:
    """Serve until a signal. With --control-fd, also until the parent process is gone."""
    parser = argparse.ArgumentParser(prog="python -m credit_service.console", description=__doc__)
    parser.add_argument(
        "--control-fd",
        type=int,
        help="socket to the parent process: receives the URL; closing it stops the console",
    )
    control_fd = parser.parse_args().control_fd
    control = None if control_fd is None else socket.socket(fileno=control_fd)
    stop = threading.Event()
    if control is not None:
        threading.Thread(target=_stop_with_parent, args=(control, stop), daemon=True).start()

    def announce(url: str) -> None:
        if control is not None:
            control.sendall(f"{url}\n".encode())
        else:
            print(f"Console on {url}", flush=True)  # noqa: T201 - for the user

    try:
        settings = Settings()
        configure_logging(settings, component="console")
        if control is None:
            # Otherwise the parent process has warned.
            warn_of_unknown_variables()
        run(settings, announce=announce, stop=stop)
    except ConsoleAddressError as error:
        return _misconfigured(error)
    except ValueError as error:  # pydantic's are of this kind
        return _misconfigured(error)
    return 0


def _stop_with_parent(control: socket.socket, stop: threading.Event) -> None:
    """Set `stop` once the parent process closes the socket or dies."""
    with contextlib.suppress(OSError):
        while control.recv(64):
            pass
    stop.set()


def _misconfigured(error: Exception) -> int:
    print(f"credit-service console: {describe(error)}", file=sys.stderr)  # noqa: T201 - no logging
    return MISCONFIGURED


if __name__ == "__main__":
    sys.exit(main())
