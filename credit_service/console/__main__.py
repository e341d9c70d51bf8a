"""The QA console: `python -m credit_service.console`, settings from the environment.

Exit status: 0 after a clean stop, 2 when the settings do not allow to serve.
"""

import argparse
import contextlib
import socket
import sys
import threading

from credit_service.console.app import ConsoleAddressError, run
from credit_service.observability.logs import configure_logging
from credit_service.settings import Settings, describe, warn_of_unknown_variables

MISCONFIGURED = 2


def main() -> int:
    """Serve until told to stop. With --control-fd, also until its starter is gone."""
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
        threading.Thread(target=_obey, args=(control, stop), daemon=True).start()

    def announce(url: str) -> None:
        if control is not None:
            control.sendall(f"{url}\n".encode())
        else:
            print(f"Console on {url}", flush=True)  # noqa: T201 - said to who started it

    try:
        settings = Settings()
        configure_logging(settings, component="console")
        if control is None:
            # Else its starter has warned.
            warn_of_unknown_variables()
        run(settings, announce=announce, stop=stop)
    except ConsoleAddressError as error:
        return _misconfigured(error)
    except ValueError as error:  # pydantic's are of this kind
        return _misconfigured(error)
    return 0


def _obey(control: socket.socket, stop: threading.Event) -> None:
    """Stop once the other side is gone, also by its death."""
    with contextlib.suppress(OSError):
        while control.recv(64):
            pass
    stop.set()


def _misconfigured(error: Exception) -> int:
    print(f"credit-service console: {describe(error)}", file=sys.stderr)  # noqa: T201 - no logging
    return MISCONFIGURED


if __name__ == "__main__":
    sys.exit(main())
