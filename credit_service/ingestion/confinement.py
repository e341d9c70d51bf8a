"""What a process that opens uploaded files is given, and not given.

There a hostile file finds no secrets, no connection and little memory, and a crash of the parser is
one failed file.
"""

import os
import resource
import signal
from pathlib import Path

from credit_service.spreadsheets import SpreadsheetError

_SHARED = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "PYTHONDONTWRITEBYTECODE")
# What ends a process that exceeds its limits, or whose parser meets what it cannot bear.
_DEADLY = frozenset({signal.SIGXCPU, signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL})
_LAST_SECONDS = 5


def environment() -> dict[str, str]:
    """The environment of such a process: where to find programs and this package, no secret."""
    return {name: os.environ[name] for name in _SHARED if name in os.environ} | {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        # Threads of libraries would each take their share of the address space.
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }


def limit_resources(*, memory_bytes: int, cpu_seconds: int, file_bytes: int = 0) -> None:
    """Bound this process from now on: its address space, its computing time, what it can write."""
    for limit, most, spare in (
        (resource.RLIMIT_AS, memory_bytes, 0),
        # At its hard limit of time a process is killed, which tells nothing; before, it is told.
        (resource.RLIMIT_CPU, cpu_seconds, _LAST_SECONDS),
        (resource.RLIMIT_FSIZE, file_bytes, 0),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_NOFILE, 64, 0),
    ):
        _, hard = resource.getrlimit(limit)
        most_hard = most + spare if hard == resource.RLIM_INFINITY else min(most + spare, hard)
        resource.setrlimit(limit, (min(most, most_hard), most_hard))


def ended_early(status: int) -> Exception:
    """What it means that such a process ended with this status before it had answered."""
    if -status in _DEADLY:
        return SpreadsheetError(
            "FILE_UNSAFE", "Reading the file takes more memory or time than a file is given."
        )
    return RuntimeError(f"the process that reads a file ended with status {status}")
