"""Failpoints: no effect without the variable, one exit per arming with it, and none unused."""

import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from credit_service import failpoints

ROOT = Path(__file__).parents[2]
POINT = "create_loan.after_commit"
REACHED = f"from credit_service import failpoints; failpoints.reach({POINT!r}); print('alive')"


def run(environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    kept = {name: value for name, value in os.environ.items() if name != failpoints.VARIABLE}
    return subprocess.run(
        [sys.executable, "-c", REACHED],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_without_the_variable_a_failpoint_has_no_effect(tmp_path: Path) -> None:
    (tmp_path / POINT).write_text("crash")
    assert run({}).stdout == "alive\n"
    assert failpoints.reach is failpoints._no_op


def test_an_armed_failpoint_ends_one_process(tmp_path: Path) -> None:
    (tmp_path / POINT).write_text("crash")
    armed = {failpoints.VARIABLE: str(tmp_path)}
    assert run(armed).returncode == -signal.SIGKILL
    assert run(armed).stdout == "alive\n"


def test_another_failpoint_has_no_effect(tmp_path: Path) -> None:
    (tmp_path / "create_loan.before_write").write_text("crash")
    failpoints.armed_in(tmp_path)(POINT)


def test_a_full_disk_stays_full_until_the_file_is_gone(tmp_path: Path) -> None:
    order = tmp_path / "upload.spool"
    order.write_text("full")
    reach = failpoints.armed_in(tmp_path)
    for _ in range(2):
        with pytest.raises(OSError, match="No space left") as raised:
            reach("upload.spool")
        assert raised.value.errno == errno.ENOSPC
    order.unlink()
    reach("upload.spool")


def test_an_unknown_failpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown failpoint"):
        failpoints.armed_in(tmp_path)("create_loan.sometime")


def test_exactly_the_listed_failpoints_are_used() -> None:
    reached = set()
    for folder in ("credit_service", "workers"):
        for path in (ROOT / folder).rglob("*.py"):
            reached |= set(re.findall(r'failpoints\.reach\("([^"]+)"\)', path.read_text("utf-8")))
    assert reached == failpoints.POINTS
