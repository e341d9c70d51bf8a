"""Health check of a container, by the process's metrics.

    python -m credit_service.observability.probe URL [NAME ...]

Reads the metrics at URL. The process is healthy if it answers, shows each NAME at least once, and
no sample of these names is 0. Needs no database address and no credentials, and only the standard
library, because it runs every few seconds.

Exit status: 0 healthy, 1 unhealthy (prints the reason), 2 wrong usage.
"""

import sys
import urllib.request
from collections.abc import Sequence

_TIMEOUT_SECONDS = 4.0


def trouble(exposition: str, names: Sequence[str]) -> str | None:
    """What is wrong according to the metrics' text; None if nothing is."""
    for name in names:
        values = [
            line.rpartition(" ")[2]
            for line in exposition.splitlines()
            if line.startswith((f"{name} ", f"{name}{{"))
        ]
        if not values:
            return f"{name} is not shown"
        if any(float(value) == 0 for value in values):
            return f"{name} is 0"
    return None


def main(arguments: Sequence[str]) -> int:
    """Probe, with the arguments of the command line, and return the exit status."""
    if not arguments or not arguments[0].startswith("http://"):
        print(__doc__, file=sys.stderr)  # noqa: T201 - the command's output
        return 2
    url, *names = arguments
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310 - http
            found = trouble(answer.read().decode(), names)
    except OSError as error:
        found = f"{url} does not answer: {error}"
    if found is not None:
        print(found, file=sys.stderr)  # noqa: T201 - the command's output
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
