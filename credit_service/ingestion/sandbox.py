"""What a process that opens uploaded files is given, and not given.

There a hostile file finds no secrets, no connection and little memory, and a crash of the parser is
one failed file. How far that holds on a machine, `python -m credit_service.ingestion.sandbox`
tells.
"""

import codecs
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from credit_service.ingestion import linux_sandbox
from credit_service.spreadsheets.table import SpreadsheetError

_SHARED = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "PYTHONDONTWRITEBYTECODE")
# How a process ends that exceeds its limits, or whose parser meets what it cannot bear. The filter
# refuses the signal that abort() sends: glibc then ends by an instruction, which is SIGSEGV on
# x86_64 and SIGTRAP on aarch64, and with status 127 where that fails too.
_DEADLY = frozenset(
    {
        -signal.SIGXCPU,
        -signal.SIGABRT,
        -signal.SIGSEGV,
        -signal.SIGBUS,
        -signal.SIGILL,
        -signal.SIGTRAP,
        127,
    }
)
_LAST_SECONDS = 5
_ENCODINGS = ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1", "cp1252", "cp437")
_TRY_SECONDS = 30.0

LAYERS = ("OWN_USER", "NAMESPACES", "SYSTEM_CALL_FILTER")
"""What can be in force beyond limits and a clean environment: see docs/security.md."""


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
        # No processes or threads; root is not held to it until it is another user.
        (resource.RLIMIT_NPROC, 0, 0),
    ):
        _, hard = resource.getrlimit(limit)
        most_hard = most + spare if hard == resource.RLIM_INFINITY else min(most + spare, hard)
        resource.setrlimit(limit, (min(most, most_hard), most_hard))


def load_encodings() -> None:
    """Load what files are decoded with, which Python does else when it is first used."""
    for name in _ENCODINGS:
        codecs.lookup(name)


def enter(*, memory_bytes: int, cpu_seconds: int, file_bytes: int = 0) -> tuple[str, ...]:
    """Give up, for good, all that parsing a file does not take; those of LAYERS that are in force.

    The limits are those of `limit_resources`. What was opened before stays open, and nothing else
    can be: every module that will be needed must be loaded. Call it before any thread is started.
    """
    load_encodings()
    layers = linux_sandbox.leave() if sys.platform == "linux" else []
    limit_resources(memory_bytes=memory_bytes, cpu_seconds=cpu_seconds, file_bytes=file_bytes)
    if sys.platform == "linux" and linux_sandbox.filter_system_calls():
        layers.append("SYSTEM_CALL_FILTER")
    return tuple(layers)


def available_layers() -> tuple[str, ...]:
    """Those of LAYERS that a process started by this one gets.

    Raises OSError, subprocess.SubprocessError, ValueError where none can be started.
    """
    done = subprocess.run(
        [sys.executable, "-P", "-m", __name__],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment(),
        timeout=_TRY_SECONDS,
        check=True,
    )
    return tuple(json.loads(done.stdout))


def described(layers: Sequence[str]) -> str:
    """The layers as a person reads them."""
    return ", ".join(each.lower().replace("_", " ") for each in layers) or "none"


def ended_early(status: int) -> Exception:
    """What it means that such a process ended with this status before it had answered."""
    if status in _DEADLY:
        return SpreadsheetError(
            "FILE_UNSAFE", "Reading the file takes more memory or time than a file is given."
        )
    return RuntimeError(f"the process that reads a file ended with status {status}")


if __name__ == "__main__":
    sys.stdout.write(json.dumps(enter(memory_bytes=1024**3, cpu_seconds=60)))
