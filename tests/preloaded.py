"""Runs commands of the service in processes forked with its modules already loaded.

Loading SQLAlchemy, grpc, numpy and other modules takes a command about a second of CPU time, and
tests run some seventy commands. The first command starts a process that loads the modules, starts
nothing, and forks a process for each command, with its own arguments, environment and output. The
forked process behaves like `python -m MODULE`, including the exit status.
"""

import atexit
import contextlib
import functools
import importlib
import json
import os
import pkgutil
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_LOADED = ("credit_service.cli", "credit_service.rpc", "credit_service.storage", "workers")
_LARGEST_REQUEST = 256 * 1024
_START_SECONDS = 60.0


# In the test's process.


def run_module(
    module: str, *arguments: str, env: Mapping[str, str], timeout_seconds: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run `python -m module arguments` until it exits, without input.

    Raises:
        subprocess.TimeoutExpired: it took too long, and was killed.
    """
    command = [sys.executable, "-m", module, *arguments]
    request = json.dumps({"module": module, "arguments": arguments, "env": dict(env)}).encode()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        with theirs:
            files = [output.fileno(), errors.fileno(), theirs.fileno()]
            socket.send_fds(_forking_process(), [request], files)
        ours.settimeout(_START_SECONDS)
        pid = int(ours.recv(100))
        ours.settimeout(timeout_seconds)
        try:
            status = int(ours.recv(100))
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            ours.settimeout(_START_SECONDS)
            ours.recv(100)
            raise subprocess.TimeoutExpired(command, timeout_seconds) from None
        output.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess(command, status, output.read(), errors.read())


_STARTING = threading.Lock()


def _forking_process() -> socket.socket:
    """The socket for its commands; the first call starts the process."""
    with _STARTING:
        return _started_once()


@functools.cache
def _started_once() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.preloaded", str(theirs.fileno())],
            cwd=_ROOT,
            # Threads of libraries would not survive a fork.
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            pass_fds=[theirs.fileno()],
        )

    def end() -> None:
        ours.close()
        assert process.stdout is not None
        process.stdout.close()
        process.wait()

    atexit.register(end)
    return ours


# In the process that forks.


def _load() -> None:
    for name in _LOADED:
        package = importlib.import_module(name)
        for each in pkgutil.iter_modules(package.__path__, f"{name}."):
            if not each.ispkg and not each.name.endswith(".__main__"):
                importlib.import_module(each.name)


def _serve(control: socket.socket) -> None:
    """Fork a process for each request; returns the request in the forked process.

    The response on the request's socket is the process id and, at its end, its status.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        while True:
            for key, _events in selector.select():
                if key.fileobj is not control:
                    selector.unregister(key.fileobj)
                    _report_exit(key.fd, *key.data)
                    continue
                request, files, _flags, _sender = socket.recv_fds(control, _LARGEST_REQUEST, 3)
                if not request:
                    sys.exit()
                *outputs, answers = files
                pid = os.fork()
                if pid == 0:
                    os.close(answers)
                    control.close()
                    return _become(json.loads(request), outputs)
                for file in outputs:
                    os.close(file)
                answer = socket.socket(fileno=answers)
                # The requester may have exited.
                with contextlib.suppress(OSError):
                    answer.send(str(pid).encode())
                selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, answer))


def _report_exit(pidfd: int, pid: int, answer: socket.socket) -> None:
    os.close(pidfd)
    _pid, status = os.waitpid(pid, 0)
    with answer, contextlib.suppress(OSError):
        answer.send(str(os.waitstatus_to_exitcode(status)).encode())


def _become(request: dict[str, object], files: list[int]) -> None:
    """Apply the output, environment and arguments of a request, and run its module."""
    for number, file in enumerate(files, start=1):
        os.dup2(file, number)
        os.close(file)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    env, arguments = request["env"], request["arguments"]
    assert isinstance(env, dict)
    assert isinstance(arguments, list)
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    module = str(request["module"])
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _load()
    _serve(socket.socket(fileno=int(sys.argv[1])))
