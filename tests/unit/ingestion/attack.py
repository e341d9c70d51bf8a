"""Attacks of a hostile file that has taken control of the process that reads it.

`python -m tests.unit.ingestion.attack ORDER`: the order, in JSON, has `layers`, the parts of the
sandbox to enter first, and the targets. Prints the result of each attack as JSON: an error's name,
or "done".
"""

import ctypes
import json
import os
import platform
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from credit_service.ingestion import linux_sandbox, sandbox

_PTRACE_ATTACH, _PTRACE_DETACH = 16, 17
_PROCESS_VM_READV = {"x86_64": 310, "aarch64": 270}


def _c_result(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")


def _connect(family: int, address: Any) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as attempt:
        attempt.settimeout(5)
        attempt.connect(address)


def _run_program() -> None:
    child = os.fork()
    if child == 0:
        os.execv("/bin/true", ["true"])  # noqa: S606 - as an attacker would
    if os.waitpid(child, 0)[1] != 0:
        raise OSError


def _trace(library: ctypes.CDLL, pid: int) -> None:
    _c_result(library.ptrace(_PTRACE_ATTACH, pid, None, None))
    os.waitpid(pid, 0)
    library.ptrace(_PTRACE_DETACH, pid, None, None)


def _read_memory(library: ctypes.CDLL, pid: int, address: int) -> None:
    class Vector(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]

    buffer = ctypes.create_string_buffer(1)
    here = Vector(ctypes.cast(buffer, ctypes.c_void_p), 1)
    there = Vector(ctypes.c_void_p(address), 1)
    number = ctypes.c_long(_PROCESS_VM_READV[platform.machine()])
    one, none = ctypes.c_long(1), ctypes.c_long(0)
    _c_result(
        library.syscall(
            number, ctypes.c_long(pid), ctypes.byref(here), one, ctypes.byref(there), one, none
        )
    )


def attacks(order: dict[str, Any]) -> dict[str, Callable[[], object]]:
    """Each attack by name; a failed one raises OSError."""
    library = ctypes.CDLL(None, use_errno=True)
    library.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    pid = order["pid"]

    def read_environment() -> None:
        if b"DATABASE_URL" not in Path(f"/proc/{pid}/environ").read_bytes():
            raise OSError

    return {
        "environment": read_environment,
        "file": lambda: Path(order["secret"]).read_bytes(),
        "write": lambda: Path(order["writable"]).write_bytes(b"x"),
        "tcp": lambda: _connect(socket.AF_INET, ("127.0.0.1", order["port"])),
        "unix": lambda: _connect(socket.AF_UNIX, order["socket"]),
        "abstract": lambda: _connect(socket.AF_UNIX, "\0" + order["abstract"]),
        "program": _run_program,
        "trace": lambda: _trace(library, pid),
        "memory": lambda: _read_memory(library, pid, order["address"]),
        "signal": lambda: os.kill(pid, 0),
    }


def main() -> None:
    """Enter the layers of the order, attack, and print the results."""
    order = json.loads(sys.argv[1])
    sandbox.load_encodings()
    if order["user"] != os.getuid():
        os.setgroups([])
        os.setresgid(order["user"], order["user"], order["user"])
        os.setresuid(order["user"], order["user"], order["user"])
    entered: list[str] = []
    if "ALL" in order["layers"]:
        entered += sandbox.enter(memory_bytes=1024**3, cpu_seconds=60)
    if "AWAY" in order["layers"]:
        entered += linux_sandbox.leave()
        sandbox.limit_resources(memory_bytes=1024**3, cpu_seconds=60)
    if "USER" in order["layers"] and linux_sandbox.become_unprivileged():
        entered.append("OWN_USER")
        sandbox.limit_resources(memory_bytes=1024**3, cpu_seconds=60)
    if "FILTER" in order["layers"] and linux_sandbox.filter_system_calls():
        entered.append("SYSTEM_CALL_FILTER")
    met = {}
    for name, attack in attacks(order).items():
        try:
            attack()
        except OSError as error:
            met[name] = type(error).__name__
        else:
            met[name] = "done"
    sys.stdout.write(json.dumps({"entered": entered, "met": met}))


if __name__ == "__main__":
    main()
