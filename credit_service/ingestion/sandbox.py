"""The sandbox of processes that open uploaded files.

A hostile file finds no secrets, no connection and little memory there, and a crash of the parser
fails one file alone. `python -m credit_service.ingestion.sandbox` prints the layers that a machine
supports.
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
# The exits of a process that exceeds its limits, or whose parser crashes. The filter rejects the
# signal of abort(); glibc then exits by an instruction, which is SIGSEGV on x86_64 and SIGTRAP on
# aarch64, or with status 127.
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
"""Layers beyond limits and a clean environment, if the machine supports them.

See docs/security.md."""


def environment() -> dict[str, str]:
    """The environment of a sandboxed process: paths of programs and of this package, no secret."""
    return {name: os.environ[name] for name in _SHARED if name in os.environ} | {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        # Each thread of a library would take part of the address space.
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }


def limit_resources(*, memory_bytes: int, cpu_seconds: int, file_bytes: int = 0) -> None:
    """Limit the address space, the CPU time and the file size of this process from now on."""
    for limit, most, spare in (
        (resource.RLIMIT_AS, memory_bytes, 0),
        # The soft limit sends SIGXCPU, which names the cause; the hard one sends SIGKILL.
        (resource.RLIMIT_CPU, cpu_seconds, _LAST_SECONDS),
        (resource.RLIMIT_FSIZE, file_bytes, 0),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_NOFILE, 64, 0),
        # No processes or threads. The limit applies once root has become another user.
        (resource.RLIMIT_NPROC, 0, 0),
    ):
        _, hard = resource.getrlimit(limit)
        most_hard = most + spare if hard == resource.RLIM_INFINITY else min(most + spare, hard)
        resource.setrlimit(limit, (min(most, most_hard), most_hard))


def load_encodings() -> None:
    """Load the encodings of files, which Python otherwise loads on first use."""
    for name in _ENCODINGS:
        codecs.lookup(name)


def enter(*, memory_bytes: int, cpu_seconds: int, file_bytes: int = 0) -> tuple[str, ...]:
    """Give up, for good, everything that parsing a file does not need. Returns the active ones of
    LAYERS.

    `limit_resources` defines the limits. Open files stay open, and no other file can be opened, so
    every module must be loaded. Call it before any thread starts.
    """
    load_encodings()
    layers = linux_sandbox.leave() if sys.platform == "linux" else []
    limit_resources(memory_bytes=memory_bytes, cpu_seconds=cpu_seconds, file_bytes=file_bytes)
    if sys.platform == "linux" and linux_sandbox.filter_system_calls():
        layers.append("SYSTEM_CALL_FILTER")
    return tuple(layers)


def available_layers() -> tuple[str, ...]:
    """Those of LAYERS that a child process of this one can activate.

    Raises OSError, subprocess.SubprocessError or ValueError if no child can be started.
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
    """The layers as text for a person."""
    return ", ".join(each.lower().replace("_", " ") for each in layers) or "none"


def ended_early(status: int) -> Exception:
    """The error for a sandboxed process that exited with this status before it answered."""
    if status in _DEADLY:
        return SpreadsheetError(
            "FILE_UNSAFE", "Reading the file needs more memory or time than the limits allow."
        )
    return RuntimeError(f"the process that reads a file ended with status {status}")


if __name__ == "__main__":
    sys.stdout.write(json.dumps(enter(memory_bytes=1024**3, cpu_seconds=60)))
