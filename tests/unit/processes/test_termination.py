"""Told to stop by a signal, at any moment."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from credit_service.processes.termination import Termination

# The signal comes while the lock of the sign that is waited for is held by the main thread.
_INTERRUPTED_WHILE_IT_LOCKS = """
import os, signal, threading
from credit_service.processes.termination import Termination

class Signalled(threading.Condition):
    def wait(self, timeout=None):
        os.kill(os.getpid(), signal.SIGTERM)
        return super().wait(timeout)

sign = threading.Event()
sign._cond = Signalled(threading.Lock())
Termination().wait(sign)
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
def test_a_signal_before_the_wait_begins_ends_it(number: signal.Signals) -> None:
    termination = Termination()
    assert not termination.requested
    os.kill(os.getpid(), number)
    termination.wait()
    termination.wait(threading.Event())
    assert termination.requested


def test_the_other_sign_ends_the_wait() -> None:
    termination, sign = Termination(), threading.Event()
    sign.set()
    termination.wait(sign)
    assert not termination.requested


def test_a_signal_in_the_midst_of_the_wait_blocks_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED_WHILE_IT_LOCKS],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout == "stopped\n"


def test_a_second_signal_kills_where_it_should() -> None:
    Termination(second_kills=True)
    os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
