"""Child processes, restarted for as long as this process runs.

A child is `python -m MODULE --control-fd=N`. N is one end of a socket pair. The child writes a line
to it once it is ready, if it reports that at all, and stops when the other end closes: it never
outlives this process, however this process ends.

The owner of a `Child` polls it, and reports the deaths in its own way. Nothing here touches gRPC,
whose threads do not survive a fork: each child is a new program.
"""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from pydantic import SecretStr

from credit_service.settings import Settings

MAX_QUICK_DEATHS = 8
"""Deaths in a row, each within QUICK_SECONDS of the start, that are worth a report of their own."""
QUICK_SECONDS = 30.0
MAX_PAUSE_SECONDS = 30.0
MISCONFIGURED = 2
"""Exit status of a child that refuses its settings, after it has printed the reason."""

MALLOC_ARENAS = "2"
"""Heaps that the C library spreads a process's threads over. By default it makes up to eight a
core, and each keeps the memory of its largest message. Measured over 3,600 hostile batches, a
server grew by 221 MiB with them and by 11 MiB with two, at the same speed."""

_MIN_PAUSE_SECONDS = 0.1
_UNPREFIXED = {"database_url": "DATABASE_URL", "redis_url": "REDIS_URL"}


class ChildFailedError(RuntimeError):
    """A child does not start, and a restart would not help."""


class ChildMisconfiguredError(ChildFailedError):
    """A child refused its settings, and has printed the reason."""


class Backoff:
    """When to restart a process: after a pause that doubles with each death, from 0.1 s up to
    MAX_PAUSE_SECONDS. A life of QUICK_SECONDS or more resets the pause."""

    def __init__(self) -> None:
        self.quick_deaths = 0
        """Deaths in a row, each within QUICK_SECONDS of the start."""
        self._due_at = 0.0

    def is_due(self) -> bool:
        """Whether the pause is over."""
        return time.monotonic() >= self._due_at

    def note_death(self, lived_seconds: float) -> float:
        """Start the pause after a death and return its seconds."""
        self.quick_deaths = self.quick_deaths + 1 if lived_seconds < QUICK_SECONDS else 1
        # Doublings are bounded too: a float has no room for a thousand of them.
        doublings = min(self.quick_deaths - 1, 16)
        pause_seconds = min(MAX_PAUSE_SECONDS, _MIN_PAUSE_SECONDS * 2.0**doublings)
        self._due_at = time.monotonic() + pause_seconds
        return pause_seconds


@dataclass(frozen=True, slots=True)
class Death:
    """The end of a child that was not asked to stop, or a start that failed."""

    pid: int
    """0 if the start failed."""
    status: int
    """The exit status, negative for a signal; the errno of a start that failed."""
    start_error: OSError | None
    lived_seconds: float
    is_first: bool
    quick_deaths: int
    """Deaths in a row, this one included, each within QUICK_SECONDS of the start."""
    pause_seconds: float
    """The child restarts after this pause."""

    @property
    def is_misconfiguration(self) -> bool:
        """Whether the child refused its settings."""
        return self.start_error is None and self.status == MISCONFIGURED


class Child:
    """A child process and its restarts. For one thread, but `pid`, `is_ready` and `control`."""

    def __init__(
        self, module: str, environment: Mapping[str, str], *, core: int | None = None
    ) -> None:
        self._module = module
        self._environment = environment
        self.core = core
        """The core to which the next process keeps; None: all."""
        self._process: subprocess.Popen[bytes] | None = None
        self._backoff = Backoff()
        self._has_died = False
        self._started_at = 0.0
        self._received = b""
        self.control: socket.socket | None = None
        """This process's end of the socket pair, non-blocking; None while the child is dead."""
        self.is_ready = False
        """Whether the living child has reported that it is ready."""
        self.has_been_ready = False
        """Whether it, or one before it, has done so."""

    @property
    def pid(self) -> int | None:
        """The process id; None while the child is dead."""
        process = self._process
        return None if process is None else process.pid

    def start(self) -> None:
        """Start the child now. Raises OSError."""
        self._started_at = time.monotonic()
        self._received = b""
        ours, theirs = socket.socketpair()
        ours.settimeout(0)
        self.control = ours
        core = [] if self.core is None else [f"--core={self.core}"]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module, f"--control-fd={theirs.fileno()}", *core],
                env=self._environment,
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                # Ctrl-C is for this process, which stops its children in order.
                start_new_session=True,
            )

    def poll(self) -> Death | None:
        """Note that the child is ready or has died, and restart it after its pause. Never waits.

        Returns a death that was not returned before.
        """
        if self._process is None:
            return self._restart() if self._backoff.is_due() else None
        status = self.exit_status()
        if status is not None:
            return self._note_death(self._process.pid, status, None)
        self._read_ready_line()
        return None

    def exit_status(self) -> int | None:
        """The status of a child that ended, until `poll` notes its death; None otherwise."""
        return None if self._process is None else self._process.poll()

    def wait_ready(self, timeout_seconds: float) -> str:
        """Wait for the line by which the child reports that it is ready.

        Returns the line; empty if the child ends, or `timeout_seconds` pass, before.
        """
        deadline = time.monotonic() + timeout_seconds
        while self.control is not None and not self.is_ready:
            remaining_seconds = max(0.0, deadline - time.monotonic())
            readable, _, _ = select.select([self.control], [], [], remaining_seconds)
            if not readable or not self._read_ready_line():
                return ""
        return self._received.decode().strip()

    def terminate(self) -> None:
        """Ask the child to stop, with SIGTERM."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)

    def wait(self, deadline: float) -> bool:
        """Wait for the child's end until `deadline`, in seconds of time.monotonic(), then kill it.

        Returns whether it ended by itself.
        """
        process, ended = self._process, True
        if process is not None:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                ended = False
                process.kill()
                process.wait()
        self._forget()
        return ended

    def stop(self, timeout_seconds: float) -> None:
        """Ask the child to stop, and kill it if it takes longer than `timeout_seconds`."""
        self.terminate()
        self.wait(time.monotonic() + timeout_seconds)

    def _restart(self) -> Death | None:
        try:
            self.start()
        except OSError as error:
            # Such as no memory, or too many processes, at this moment.
            return self._note_death(0, error.errno or 0, error)
        return None

    def _note_death(self, pid: int, status: int, start_error: OSError | None) -> Death:
        self._forget()
        is_first, self._has_died = not self._has_died, True
        lived_seconds = time.monotonic() - self._started_at
        pause_seconds = self._backoff.note_death(lived_seconds)
        return Death(
            pid,
            status,
            start_error,
            lived_seconds,
            is_first,
            self._backoff.quick_deaths,
            pause_seconds,
        )

    def _read_ready_line(self) -> bool:
        """Read what the child has written of its line; False if it has closed its end."""
        if self.is_ready or self.control is None:
            return True
        try:
            chunk = self.control.recv(1024)
        except BlockingIOError:
            return True
        self._received += chunk
        self.is_ready = self._received.endswith(b"\n")
        self.has_been_ready |= self.is_ready
        return bool(chunk)

    def _forget(self) -> None:
        if self.control is not None:
            self.control.close()
        self._process = self.control = None
        self.is_ready = False


def environment_of(settings: Settings) -> dict[str, str]:
    """This process's environment with every setting in it, so that a child reads the same."""
    environment = {"MALLOC_ARENA_MAX": MALLOC_ARENAS, **os.environ}
    for name in Settings.model_fields:
        value = getattr(settings, name)
        prefixed = f"CREDIT_{name.upper()}"
        environment.pop(prefixed, None)
        variable = _UNPREFIXED.get(name, prefixed)
        environment.pop(variable, None)
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        if value is not None:
            environment[variable] = str(value)
    return environment
