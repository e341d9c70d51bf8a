"""Termination by a signal, at any moment."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from credit_service.processes.termination import Termination

# The signal arrives while the main thread holds the lock of the event it waits for.
_INTERRUPTED_WHILE_IT_LOCKS = """
import os, signal, threading
from credit_service.processes.termination import Termination

class Signalled(threading.Condition):
    def wait(self, timeout=None):
        os.kill(os.getpid(), signal.SIGTERM)
        return super().wait(timeout)

event = threading.Event()
event._cond = Signalled(threading.Lock())
Termination().wait(event)
print("stopped")
"""


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_the_wait_ends_it(number: signal.Signals) -> None:
    termination = Termination()
    assert not termination.requested
    os.kill(os.getpid(), number)
    termination.wait()
    termination.wait(threading.Event())
    assert termination.requested


def test_the_other_event_ends_the_wait() -> None:
    termination, event = Termination(), threading.Event()
    event.set()
    termination.wait(event)
    assert not termination.requested


def test_a_signal_during_the_wait_causes_no_deadlock() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED_WHILE_IT_LOCKS],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout == "stopped\n"


def test_a_second_signal_kills_if_configured() -> None:
    Termination(second_kills=True)
    os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
