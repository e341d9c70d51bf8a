"""Answers an uploaded file of asks, as `credit-service check-file` does.

A file can be hostile, so a separate process reads it, with limited memory and time, and with no
secret but the user's token. It calls the service itself.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO, Any

import grpc

from credit_service.client.channel import open_channel
from credit_service.spreadsheets.table import SpreadsheetError
from credit_service_client.errors import ServiceError

MEMORY_LIMIT_BYTES = 2 * 1024**3
CPU_LIMIT_SECONDS = 300
FILE_LIMIT_BYTES = 1024**3
WAIT_SECONDS = 600.0
MAX_AT_ONCE = 2

_SHARED = (
    *("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "PYTHONDONTWRITEBYTECODE"),
    *("CREDIT_SERVER_CA", "CREDIT_CLIENT_CERTIFICATE", "CREDIT_CLIENT_PRIVATE_KEY"),
    "CREDIT_SECRETS_DIR",
)
_TOKEN = "CREDIT_TOKEN"  # noqa: S105 - the name of a variable
_FAILED = (
    "The file could not be checked. Split it into smaller files, or use credit-service check-file."
)
_turn = threading.BoundedSemaphore(MAX_AT_ONCE)


class FileRejectedError(Exception):
    """The file cannot be answered. The message says why and what to do."""


def answered(file: IO[bytes], filename: str, address: str, token: str) -> IO[bytes]:
    """Return the file of the operating system with its answers, open at its start.

    Raises:
        FileRejectedError: the file cannot be read, or the process failed.
        ServiceError: the service rejected a batch.
    """
    if not _turn.acquire(blocking=False):
        raise FileRejectedError("The console is checking other files; try again in a minute.")
    output = tempfile.TemporaryFile()  # noqa: SIM115 - returned to the caller
    try:
        file.seek(0)
        document = _run(file, filename, address, token, output)
    except BaseException:
        output.close()
        raise
    finally:
        _turn.release()
    if "counts" in document:
        output.seek(0)
        return output
    output.close()
    if "code" in document:
        code = grpc.StatusCode[document.pop("code")]
        violations = [(name, problem) for name, problem in document.pop("violations")]
        raise ServiceError(code, violations=violations, **document)
    raise FileRejectedError(document["message"])


def _run(
    file: IO[bytes], filename: str, address: str, token: str, output: IO[bytes]
) -> dict[str, Any]:
    try:
        ended = subprocess.run(
            [sys.executable, "-P", "-m", __name__, filename, address, str(output.fileno())],
            stdin=file,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(token),
            pass_fds=(output.fileno(),),
            timeout=WAIT_SECONDS,
            check=False,
        )
        document: dict[str, Any] = json.loads(ended.stdout)
    except (subprocess.TimeoutExpired, ValueError) as error:  # ValueError: NUL in the name
        raise FileRejectedError(_FAILED) from error
    return document


def _environment(token: str) -> dict[str, str]:
    return {name: os.environ[name] for name in _SHARED if name in os.environ} | {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        # Each thread of a library would use part of the limited address space.
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        _TOKEN: token,
    }


# --- In the process that reads the file -----------------------------------------------------------


def main(filename: str, address: str, output: int) -> None:
    """Answer the file on standard input. Print the counts, or why there are no answers."""
    for limit, most in (
        (resource.RLIMIT_AS, MEMORY_LIMIT_BYTES),
        (resource.RLIMIT_CPU, CPU_LIMIT_SECONDS),
        (resource.RLIMIT_FSIZE, FILE_LIMIT_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(limit)
        lowered = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (lowered, lowered))
    sys.stdout.write(json.dumps(_answer(filename, address, output)))


def _answer(filename: str, address: str, output: int) -> dict[str, Any]:
    # Importing openpyxl takes 0.3 s, which the console saves.
    from credit_service.client import asks  # noqa: PLC0415
    from credit_service.v1.credit_service_pb2_grpc import CreditServiceStub  # noqa: PLC0415

    with (
        open(output, "wb") as saved,
        open_channel(address, os.environ.get(_TOKEN) or None) as channel,
    ):
        try:
            counts = asks.answer(CreditServiceStub(channel), sys.stdin.buffer, filename, saved)
        except SpreadsheetError as error:
            return {"message": error.message}
        except ServiceError as error:
            return {
                "code": error.code.name,
                "message": error.message,
                "reason": error.reason,
                "metadata": error.metadata,
                "violations": error.violations,
                "retry_after_seconds": error.retry_after_seconds,
            }
    return {"counts": counts.rows}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
