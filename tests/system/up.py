"""`credit-service up` as a user runs it, with its own databases and a free port."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.preloaded import run_module

START_TIMEOUT_SECONDS = 90.0
STOP_TIMEOUT_SECONDS = 40.0


def environment(**settings: str) -> dict[str, str]:
    """This process's environment with these settings of the service only.

    A server has one serving process, because each takes a second to start.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in {"DATABASE_URL", "REDIS_URL"} and not name.startswith("CREDIT_")
    }
    return {**kept, "NO_COLOR": "1", "COLUMNS": "120", "CREDIT_PROCESSES": "1", **settings}


def credit_service(
    *arguments: str, env: Mapping[str, str] | None = None, timeout_seconds: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    chosen = dict(env) if env is not None else environment()
    return run_module("credit_service.cli", *arguments, env=chosen, timeout_seconds=timeout_seconds)


@dataclass
class Up:
    """A running `credit-service up`."""

    process: subprocess.Popen[bytes]
    folder: Path
    address: str
    worker_pid: int
    console_url: str

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(encoding="utf-8")

    def running(self, module: str) -> list[psutil.Process]:
        """The running processes of `python -m module`."""
        found = []
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if module in child.cmdline():
                    found.append(child)
        return found

    def stop(self) -> int:
        """Stop it like a service manager; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_TIMEOUT_SECONDS)


@contextmanager
def up(
    *arguments: str, folder: Path | None = None, console: bool = False, **settings: str
) -> Iterator[Up]:
    """Run everything, and stop it at the end. A given `folder` is kept.

    The console, which is slow to start, runs only on request."""
    home = folder or Path(tempfile.mkdtemp(prefix="credit-service-cli-"))
    # As root the databases run as another user, who needs access to this folder.
    home.chmod(0o711)
    ready = home / "ready.json"
    free_ports = {"CREDIT_LISTEN": "127.0.0.1:0", "CREDIT_CONSOLE_LISTEN": "127.0.0.1:0"}
    env = environment(CREDIT_DATA_DIR=str(home / "data"), **{**free_ports, **settings})
    if not console and "--no-console" not in arguments:
        arguments = ("--no-console", *arguments)
    command: Sequence[str] = [sys.executable, "-m", "credit_service.cli", "up", *arguments]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, f"--ready-file={ready}"],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not ready.exists():
            text = (home / "log").read_text(encoding="utf-8")
            assert process.poll() is None, text
            assert time.monotonic() < deadline, text
            time.sleep(0.02)
        content = json.loads(ready.read_text(encoding="utf-8"))
        yield Up(process, home, content["address"], content["worker_pid"], content["console_url"])
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if folder is None:
            shutil.rmtree(home, ignore_errors=True)
