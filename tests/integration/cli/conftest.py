"""A command line that runs in the process of the test."""

import os
from collections.abc import Callable

import pytest

from credit_service.cli import app

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command; returns exit code, output, errors."""
    monkeypatch.setattr(os, "environ", dict(os.environ))

    def one(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = app.run(arguments)
        printed = capsys.readouterr()
        # The server in this process logs on standard error, too.
        errors = [line for line in printed.err.splitlines() if " [info " not in line]
        return code, printed.out, "\n".join(errors)

    return one
