"""The base of the embedded servers: finding, starting and stopping a server process."""

import contextlib
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from credit_service.processes.account import Account
from credit_service.processes.stack_errors import StackError

START_TIMEOUT_SECONDS = 120.0
"""Time limit of a start; PostgreSQL may have to replay its log after an unclean stop."""

_LOG_BYTES = 10 * 1024 * 1024  # the next start empties a log above this size


class EmbeddedServer:
    """One server process: found by its command line, started detached, stopped in steps."""

    name: str
    # Signals that stop it, each with the seconds to wait before the next, harsher one.
    _stop_signals: tuple[tuple[signal.Signals, float], ...]

    def __init__(self, account: Account, home: Path) -> None:
        self._account = account
        self._home = home
        self._log = home / "server.log"
        self._child: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def is_ours(self, arguments: Sequence[str]) -> bool:
        """Whether a process with this command line is this server."""
        raise NotImplementedError

    def answers(self) -> bool:
        raise NotImplementedError

    def start(self) -> None:
        """Adopt the server if it runs, or start it, and wait until it answers."""
        if self.find() is None:
            self._launch()
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not self.answers():
            if not self.is_running():
                self._reap()
                if not self._should_retry() or time.monotonic() > deadline:
                    raise StackError(f"{self.name} ended while starting:\n{self._log_tail()}")
                time.sleep(0.2)
                self._launch()
            if time.monotonic() > deadline:
                raise StackError(f"{self.name} does not answer:\n{self._log_tail()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop the server, whether this process started or adopted it."""
        process = self.find()
        for number, seconds in (*self._stop_signals, (signal.SIGKILL, 10.0)):
            if process is None:
                break
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
                if number != signal.SIGKILL:
                    # A suspended process handles no other signal.
                    process.send_signal(signal.SIGCONT)
            if self._ended(process, seconds):
                process = None
        self._reap()

    def is_running(self) -> bool:
        return self.find() is not None

    def find(self) -> psutil.Process | None:
        """The server's process, whichever process started it."""
        if self._child is not None:
            if self._child.poll() is None:
                return psutil.Process(self._child.pid)
            self._child = None
        for process in psutil.process_iter(["cmdline", "status"]):
            arguments = process.info["cmdline"]
            ended = process.info["status"] == psutil.STATUS_ZOMBIE
            if arguments and not ended and self.is_ours(arguments):
                return process
        return None

    def _launch(self) -> None:
        if not self._log.exists() or self._log.stat().st_size > _LOG_BYTES:
            self._log.write_bytes(b"")
            self._account.own(self._log)
        self._child = self._account.spawn(self.command(), self._home, self._log)

    def _ended(self, process: psutil.Process, seconds: float) -> bool:
        """Wait up to `seconds` for the process to end, and return whether it ended."""
        if self._child is not None and self._child.pid == process.pid:
            try:
                self._child.wait(seconds)
            except subprocess.TimeoutExpired:
                return False
            return True
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                # It ended and its parent has not reaped it; in a container it may never do so.
                if process.status() == psutil.STATUS_ZOMBIE:
                    return True
            except psutil.NoSuchProcess:
                return True
            time.sleep(0.01)
        return False

    def _reap(self) -> None:
        if self._child is not None and self._child.poll() is not None:
            self._child = None

    def _should_retry(self) -> bool:
        return False

    def _log_tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-12:])
