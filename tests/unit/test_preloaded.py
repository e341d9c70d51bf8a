"""Commands in forked processes have their own arguments, environment, output and exit status."""

import os
import signal
import subprocess

import psutil
import pytest

from tests.preloaded import run_module

# `python -m timeit` runs a statement, and exits with 1 if it fails.
ONCE = ("-n1", "-r1")


@pytest.mark.slow
def test_a_process_has_its_own_environment_and_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER", "not for the command")
    shown = "import os, sys; print(os.environ); print(sys.argv, file=sys.stderr)"
    done = run_module("timeit", *ONCE, shown, env={"ONLY": "this"})
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == "environ({'ONLY': 'this'})"
    assert shown in done.stderr
    again = run_module("timeit", *ONCE, "print(1)", env={})
    assert "ONLY" not in again.stdout
    assert again.stderr == ""


def test_a_failure_has_an_exit_status_and_a_traceback() -> None:
    done = run_module("timeit", *ONCE, "1 / 0", env={})
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    killed = run_module("timeit", *ONCE, "import os; os.kill(os.getpid(), 9)", env={})
    assert killed.returncode == -9


@pytest.mark.slow
def test_a_process_that_takes_too_long_is_killed() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        run_module("timeit", *ONCE, "import time; time.sleep(100)", env={}, timeout_seconds=0.5)
    # Servers of other tests may also be children of this process.
    forking = [
        each
        for each in psutil.Process(os.getpid()).children()
        if "tests.preloaded" in each.cmdline()
    ]
    assert forking
    assert not any(each.children() for each in forking)
    assert run_module("timeit", *ONCE, "pass", env={}).returncode == 0


def test_interrupts_work_although_the_parent_ignores_them() -> None:
    done = run_module("timeit", *ONCE, "import os; os.kill(os.getpid(), 2)", env={})
    assert done.returncode != 0
    assert "KeyboardInterrupt" in done.stderr


def test_an_aborted_test_leaves_no_response_to_the_next() -> None:
    def end(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, end)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(KeyboardInterrupt):
            run_module("timeit", *ONCE, "import time; time.sleep(2); 1 / 0", env={})
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert run_module("timeit", *ONCE, "pass", env={}).returncode == 0
