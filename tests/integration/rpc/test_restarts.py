"""`up` restarts a process that keeps dying, and the others keep running."""

import errno
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from credit_service.cli import running
from credit_service.processes import supervisor
from credit_service.processes.embedded import EmbeddedStack
from credit_service.processes.stack_errors import StackError
from credit_service.processes.supervisor import (
    MAX_QUICK_DEATHS,
    QUICK_SECONDS,
    Backoff,
    Child,
    ChildMisconfiguredError,
)

_DEADLY = "a_module_that_dies"


@pytest.fixture
def dying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of a child whose module `_DEADLY` exits with the status in STATUS."""
    monkeypatch.setattr(supervisor, "MAX_PAUSE_SECONDS", 0.0)
    program = "import os, sys; sys.exit(int(os.environ['STATUS']))"
    (tmp_path / f"{_DEADLY}.py").write_text(program)
    return {**os.environ, "PYTHONPATH": str(tmp_path), "STATUS": "1"}


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_child_that_keeps_dying_is_restarted_and_reported(
    dying: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    child = Child(_DEADLY, dying)
    child.start()
    pids = set()

    def has_restarted() -> bool:
        running._poll("The worker", child)
        pids.add(child.pid)
        return len(pids - {None}) > MAX_QUICK_DEATHS + 2

    eventually(has_restarted)
    # Also if its settings are invalid now: they were valid at the first start.
    dying["STATUS"] = "2"
    pids.clear()
    eventually(has_restarted)
    child.stop(30.0)
    printed = capfd.readouterr().err
    assert "The worker ended with status 1; restarting in" in printed
    assert f"The worker keeps dying, {MAX_QUICK_DEATHS} times so far: see its log." in printed


def test_a_child_that_cannot_be_started_is_retried(
    monkeypatch: pytest.MonkeyPatch, dying: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    start, refusals = subprocess.Popen, [OSError(errno.ENOMEM, "Cannot allocate memory")]

    def popen(*arguments: Any, **options: Any) -> Any:
        if refusals:
            raise refusals.pop()
        return start(*arguments, **options)

    monkeypatch.setattr(subprocess, "Popen", popen)
    child = Child(_DEADLY, dying)

    def has_started() -> bool:
        running._poll("The worker", child)
        return child.pid is not None

    eventually(has_started)
    child.stop(30.0)
    printed = capfd.readouterr().err
    assert "The worker cannot be started: Cannot allocate memory; restarting in 0 s." in printed


def test_a_child_that_ignores_termination_is_killed_at_the_deadline(tmp_path: Path) -> None:
    """The stop waits for one that ends by itself."""
    program = (
        "import signal, socket, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "socket.socket(fileno=int(sys.argv[1].partition('=')[2])).sendall(b'ready\\n')\n"
        "time.sleep(600)\n"
    )
    (tmp_path / f"{_DEADLY}.py").write_text(program)
    child = Child(_DEADLY, {**os.environ, "PYTHONPATH": str(tmp_path)})
    child.start()
    pid = child.pid
    assert pid is not None
    assert child.wait_ready(60.0) == "ready"
    child.terminate()
    assert not child.wait(time.monotonic() + 0.1)
    assert not psutil.pid_exists(pid)
    assert child.pid is None


def test_invalid_settings_at_the_first_start_of_a_child_are_an_error(
    dying: dict[str, str],
) -> None:
    child = Child(_DEADLY, {**dying, "STATUS": "2"})
    child.start()

    def refused() -> bool:
        try:
            running._poll("The worker", child)
        except ChildMisconfiguredError:
            return True
        return False

    eventually(refused)


@pytest.mark.parametrize(
    "failure",
    [
        StackError("start failed"),
        OSError(errno.ENOSPC, "start failed"),
        psycopg.OperationalError("start failed"),
        psutil.AccessDenied(1, msg="start failed"),
        subprocess.TimeoutExpired("start failed", 30.0),
    ],
    ids=lambda each: type(each).__name__,
)
def test_a_database_that_fails_to_start_does_not_stop_the_others(
    failure: Exception, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    class Valkey:
        """A server that fails to start twice."""

        name = "Valkey"
        failures = 2

        def is_running(self) -> bool:
            return self.failures < 0

        def start(self) -> None:
            self.failures -= 1
            if self.failures >= 0:
                raise failure

    stack: Any = EmbeddedStack(tmp_path)
    stack._valkey = Valkey()
    local: Any = object.__new__(running.LocalStack)
    local.__dict__ |= {"databases": stack, "_databases_backoff": Backoff(), "_console": None}
    local.worker = Child("x", {})
    local.worker._backoff._due_at = float("inf")

    def revived() -> bool:
        local.poll()
        return bool(stack._valkey.is_running())

    eventually(revived)
    printed = capfd.readouterr().err
    assert "start failed" in printed
    assert "Retrying in 0.1 s; everything else keeps running." in printed
    assert "Valkey died and was restarted." in printed


def test_pauses_grow_to_a_maximum_and_a_long_run_resets_them() -> None:
    backoff = Backoff()
    assert backoff.is_due()
    pauses = [backoff.note_death(1.0) for _ in range(5_000)]
    assert not backoff.is_due()
    assert pauses == sorted(pauses)
    assert pauses[0] < 1
    assert pauses[-1] == supervisor.MAX_PAUSE_SECONDS
    assert backoff.note_death(QUICK_SECONDS) == pauses[0]
