"""Other writers of a row, at the worst moments."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest


@contextmanager
def after_every_statement(
    monkeypatch: pytest.MonkeyPatch, rival: Callable[[], object], most: int = 10
) -> Iterator[Callable[[], int]]:
    """Call `rival` after each of the first `most` statements, except its own.

    Yields a function that returns how often it was called.
    """
    execute = psycopg.Cursor.execute
    busy, times = False, 0

    def execute_then_rival(self: psycopg.Cursor, *args: Any, **options: Any) -> psycopg.Cursor:
        nonlocal busy, times
        result = execute(self, *args, **options)
        if not busy and times < most:
            busy = True
            rival()
            busy, times = False, times + 1
        return result

    with monkeypatch.context() as patched:
        patched.setattr(psycopg.Cursor, "execute", execute_then_rival)
        yield lambda: times
