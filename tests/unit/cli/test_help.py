"""The help texts use plain English and the usual technical terms."""

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from cyclopts import App

from credit_service.cli import app
from tests.unit.test_language import matches


def _commands(app: App, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name in app:
        if not name.startswith("-"):
            command: Any = app[name]
            yield from _commands(command, (*path, name))


@pytest.mark.parametrize("path", list(_commands(app.app)), ids=" ".join)
def test_the_help_is_plain(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run([*path, "--help"]) == 0
    text = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split()).casefold()
    assert list(matches(text)) == []


def test_the_help_of_the_program_describes_every_command() -> None:
    """In a process of its own, because here every command is imported."""
    done = subprocess.run(
        [sys.executable, "-m", "credit_service.cli", "--help"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    text = " ".join(re.sub(r"[│╭╮╰╯─]", " ", done.stdout).split())
    names = [each for each in app.app if not each.startswith("-")]
    assert names
    for name in names:
        first = " ".join(app.app[name].help.split("\n\n")[0].split())
        assert f"{name} {first}" in text
