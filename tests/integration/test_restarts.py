"""What `up` does with a part that keeps dying: it starts it again, and lets the others be."""

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
from credit_service.processes.embedded import EmbeddedStack, StackError
from credit_service.rpc import supervisor
from credit_service.rpc.supervisor import (
    MAX_QUICK_DEATHS,
    QUICK_SECONDS,
    Backoff,
    ServersMisconfiguredError,
)

_DEADLY = "a_module_that_dies"


@pytest.fixture
def dying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of a child of the module `_DEADLY`, which ends with the status in STATUS."""
    monkeypatch.setattr(supervisor, "MAX_PAUSE_SECONDS", 0.0)
    program = "import os, sys; sys.exit(int(os.environ['STATUS']))"
    (tmp_path / f"{_DEADLY}.py").write_text(program)
    return {**os.environ, "PYTHONPATH": str(tmp_path), "STATUS": "1"}


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_child_that_keeps_dying_is_started_again_and_reported(
    dying: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    child = running._Child("The worker", _DEADLY, dying)
    child.start()
    pids = set()

    def looked() -> bool:
        child.look()
        pids.add(child.pid)
        return len(pids - {None}) > MAX_QUICK_DEATHS + 2

    eventually(looked)
    # Also where it refuses its settings: they were good when all started.
    dying["STATUS"] = "2"
    pids.clear()
    eventually(looked)
    child.stop()
    told = capfd.readouterr().err
    assert "The worker ended with status 1; it starts again in" in told
    assert f"The worker keeps dying, {MAX_QUICK_DEATHS} times so far; its log says why." in told


def test_a_child_that_refuses_its_settings_at_first_ends_the_start(dying: dict[str, str]) -> None:
    child = running._Child("The worker", _DEADLY, {**dying, "STATUS": "2"})
    child.start()

    def refused() -> bool:
        try:
            child.look()
        except ServersMisconfiguredError:
            return True
        return False

    eventually(refused)


@pytest.mark.parametrize(
    "failure",
    [
        StackError("as it starts"),
        OSError(errno.ENOSPC, "as it starts"),
        psycopg.OperationalError("as it starts"),
        psutil.AccessDenied(1, msg="as it starts"),
        subprocess.TimeoutExpired("as it starts", 30.0),
    ],
    ids=lambda each: type(each).__name__,
)
def test_a_database_that_does_not_start_ends_nothing_else(
    failure: Exception, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    class Valkey:
        """One that does not start twice."""

        name = "Valkey"
        failures = 2

        def running(self) -> bool:
            return self.failures < 0

        def start(self) -> None:
            self.failures -= 1
            if self.failures >= 0:
                raise failure

    stack: Any = EmbeddedStack(tmp_path)
    stack._valkey = Valkey()
    everything: Any = object.__new__(running._Everything)
    everything.__dict__ |= {"stack": stack, "_backoff": Backoff(), "_next_revival": 0.0}
    everything.__dict__ |= {"_console": None, "worker": running._Child("The worker", "x", {})}
    everything.worker._next_start = float("inf")

    def revived() -> bool:
        everything.look()
        return bool(stack._valkey.running())

    eventually(revived)
    told = capfd.readouterr().err
    assert "as it starts" in told
    assert "It is tried again in 0.1 s; all else runs on." in told
    assert "Valkey had died and was started again." in told


def test_pauses_grow_to_a_bound_and_begin_anew_after_a_long_life() -> None:
    backoff = Backoff()
    pauses = [backoff.pause_seconds(1.0) for _ in range(5_000)]
    assert pauses == sorted(pauses)
    assert pauses[0] < 1
    assert pauses[-1] == supervisor.MAX_PAUSE_SECONDS
    assert backoff.pause_seconds(QUICK_SECONDS) == pauses[0]
