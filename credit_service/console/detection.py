"""Detects the kind of rows in an uploaded file from its headers, like the command line.

A workbook can be hostile, so a separate process opens it, with little memory, little time and no
secrets. If that process fails, the console continues, and the user chooses the kind.
"""

import json
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from credit_service.spreadsheets.columns import Kind
from credit_service.spreadsheets.source import kinds
from credit_service.spreadsheets.table import SpreadsheetError

MEMORY_LIMIT_BYTES = 768 * 1024**2
CPU_LIMIT_SECONDS = 10
WAIT_SECONDS = 20.0
MAX_AT_ONCE = 2

_KINDS: Mapping[str, Kind] = {"CUSTOMERS": "CUSTOMERS", "LOANS": "LOANS"}
_SHARED = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "PYTHONDONTWRITEBYTECODE")
_ASK = "The console cannot detect the kind of rows in this file. Choose customers or loans."
_turn = threading.BoundedSemaphore(MAX_AT_ONCE)


class UndetectedError(Exception):
    """The kind of rows cannot be detected. The message says why and what to do."""


def detected(file: IO[bytes], filename: str) -> tuple[Kind, ...]:
    """Return the kinds of rows in a file of the operating system, customers first.

    Raises:
        UndetectedError
    """
    file.seek(0)
    with _turn:
        try:
            ended = subprocess.run(
                [sys.executable, "-P", "-m", __name__, filename],
                stdin=file,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=_environment(),
                timeout=WAIT_SECONDS,
                check=False,
            )
        except (subprocess.TimeoutExpired, ValueError) as error:  # ValueError: NUL in the name
            raise UndetectedError(_ASK) from error
    try:
        answer = json.loads(ended.stdout)
    except ValueError as error:
        raise UndetectedError(_ASK) from error
    if "message" in answer:
        raise UndetectedError(answer["message"])
    return tuple(_KINDS[name] for name in answer["kinds"])


def _environment() -> dict[str, str]:
    return {name: os.environ[name] for name in _SHARED if name in os.environ} | {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        # Each thread of a library would use part of the limited address space.
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }


# --- In the process that opens the file -----------------------------------------------------------


def main(filename: str) -> None:
    """Read the file on standard input. Print its kinds, or the reason why there are none."""
    for limit, most in (
        (resource.RLIMIT_AS, MEMORY_LIMIT_BYTES),
        (resource.RLIMIT_CPU, CPU_LIMIT_SECONDS),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(limit)
        lowered = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (lowered, lowered))
    sys.stdout.write(json.dumps(_answer(filename)))


def _answer(filename: str) -> dict[str, object]:
    try:
        return {"kinds": kinds(sys.stdin.buffer, filename)}
    except SpreadsheetError as error:
        return {"message": error.message}


if __name__ == "__main__":
    main(sys.argv[1])
