"""The process that reads uploaded files cannot do anything that `attack` tries."""

import io
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest

from credit_service.ingestion import reading, sandbox
from credit_service.ingestion.annotating import annotate, write_marks
from credit_service.spreadsheets.table import SpreadsheetError
from tests.unit.ingestion.test_annotating import ORDER
from tests.unit.spreadsheets.workbooks import (
    A_LOAN,
    CUSTOMER_HEADERS,
    LOAN_HEADERS,
    csv_of,
    loans_workbook,
    workbook,
)

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="Linux alone gives more than limits"
)

_UNPRIVILEGED_ID = 65534
_ATTACKS = {
    "environment",
    "file",
    "write",
    "tcp",
    "unix",
    "abstract",
    "program",
    "trace",
    "memory",
    "signal",
}
# If it is above 0, a process can trace only its own children, sandboxed or not.
_YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")


@cache
def _layers() -> tuple[str, ...]:
    return sandbox.available_layers()


def _needs(layer: str) -> None:
    if layer not in _layers():
        pytest.skip(f"this machine gives no {sandbox.described([layer])}")


@dataclass(frozen=True, slots=True)
class Attacked:
    """A process with a secret, and files and sockets of its user, to be attacked as `user`."""

    order: dict[str, Any]

    def by(self, *layers: str) -> tuple[list[str], dict[str, str]]:
        """The layers that an attacker entered, and the result of each attack."""
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "tests.unit.ingestion.attack",
                json.dumps(self.order | {"layers": layers}),
            ],
            stdout=subprocess.PIPE,
            env=sandbox.environment(),
            timeout=60,
            check=True,
        )
        printed = json.loads(done.stdout)
        return printed["entered"], printed["met"]


def _ids(user: int) -> dict[str, Any]:
    """The arguments of Popen to start a process as this user; none for the current user."""
    return {} if user == os.getuid() else {"user": user, "group": user, "extra_groups": []}


@contextmanager
def attacked_of(user: int) -> Iterator[Attacked]:
    """Targets of a user, to be attacked by a process that starts as the same user."""
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        secret = folder / "database_url"
        secret.write_text("secret")
        secret.chmod(0o600)
        tcp = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
        unix = opened.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind(str(folder / "socket"))
        unix.listen()
        name = f"credit-service-test-{secrets.token_hex(8)}"
        abstract = opened.enter_context(socket.socket(socket.AF_UNIX))
        abstract.bind("\0" + name)
        abstract.listen()
        for each in (folder, secret, folder / "socket"):
            os.chown(each, user, -1)
        process = opened.enter_context(
            subprocess.Popen(
                ["/bin/sleep", "300"],
                env={"DATABASE_URL": "postgresql://user:secret@127.0.0.1/x"},
                **_ids(user),
            )
        )
        opened.callback(process.kill)
        first_mapping = Path(f"/proc/{process.pid}/maps").read_text().partition("-")[0]
        yield Attacked(
            {
                "user": user,
                "pid": process.pid,
                "address": int(first_mapping, 16),
                "secret": str(secret),
                "writable": str(folder / "written"),
                "port": tcp.getsockname()[1],
                "socket": str(folder / "socket"),
                "abstract": name,
            }
        )


@pytest.fixture
def attacked() -> Iterator[Attacked]:
    # Targets of root would not be protected: the kernel permits root almost everything.
    with attacked_of(os.getuid() or _UNPRIVILEGED_ID) as attacked:
        yield attacked


def test_each_attack_succeeds_on_a_process_outside_the_sandbox(attacked: Attacked) -> None:
    entered, met = attacked.by()
    refused = {name for name, each in met.items() if each != "done"}
    assert entered == []
    assert set(met) == _ATTACKS
    assert refused <= ({"trace", "memory"} if _YAMA.exists() else set())


def test_the_system_call_filter_alone_stops_every_attack(attacked: Attacked) -> None:
    _needs("SYSTEM_CALL_FILTER")
    assert attacked.by("FILTER") == (
        ["SYSTEM_CALL_FILTER"],
        dict.fromkeys(_ATTACKS, "PermissionError"),
    )


def test_namespaces_alone_leave_signals_to_the_same_user(attacked: Attacked) -> None:
    _needs("NAMESPACES")
    entered, met = attacked.by("AWAY")
    assert entered == ["NAMESPACES"]
    assert {name for name, each in met.items() if each == "done"} == {"signal"}


def test_a_separate_user_alone_keeps_network_access() -> None:
    _needs("OWN_USER")
    with attacked_of(os.getuid()) as attacked:
        entered, met = attacked.by("USER")
    assert entered == ["OWN_USER"]
    assert {name for name, each in met.items() if each == "done"} == {"tcp", "abstract"}


def test_every_attack_fails_in_the_sandbox(attacked: Attacked) -> None:
    entered, met = attacked.by("ALL")
    assert entered == [each for each in _layers() if each != "OWN_USER"]
    assert "done" not in met.values()


def _is_filtered(pid: int) -> bool:
    return "Seccomp:\t2" in Path(f"/proc/{pid}/status").read_text()


@pytest.mark.slow
def test_files_are_read_and_annotated_in_sandboxed_processes() -> None:
    _needs("SYSTEM_CALL_FILTER")
    rows = b"".join(b"%d,1,1,1,1,1,1,2024-01-31,\r\n" % number for number in range(50_000))
    content = csv_of(LOAN_HEADERS) + rows
    with ExitStack() as opened:
        source, marks, output = (opened.enter_context(tempfile.TemporaryFile()) for _ in range(3))
        source.write(content)
        source.flush()
        order = reading.ReadingOrder("LOANS", "l.csv", date(2026, 1, 31), batch_rows=1_000)
        with reading.reading(source, order) as read:
            # The process waits until its batches are read.
            next(read.batches())
            assert read.sandbox == _layers()
            assert _is_filtered(read.process.pid)

        write_marks(marks, replace(ORDER, filename="l.csv"), iter(()))
        seen: list[bool] = []

        def raise_if_cancelled() -> None:
            seen.extend(_is_filtered(each.pid) for each in psutil.Process().children())

        annotate(source, marks, output, raise_if_cancelled)
        assert any(seen)


@pytest.mark.parametrize(
    ("phone", "is_good"), [("+1 202-555-0143", True), ("+41 44 668 18 00", True), ("+999 1", False)]
)
def test_numbers_of_all_countries_are_read_in_a_sandboxed_process(
    phone: str, *, is_good: bool
) -> None:
    row = f"1,Asha,Rao,30,{phone},50000,100000\r\n"
    with tempfile.TemporaryFile() as source:
        source.write(csv_of(CUSTOMER_HEADERS) + row.encode())
        source.flush()
        order = reading.ReadingOrder("CUSTOMERS", "c.csv", date(2026, 1, 31), batch_rows=10)
        with reading.reading(source, order) as read:
            (batch,) = read.batches()
    assert [each.column for each in batch.errors] == ([] if is_good else ["phone_number"])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_each_encoding_is_read_in_a_sandboxed_process(encoding: str) -> None:
    text = csv_of(LOAN_HEADERS).decode() + "1,1,100000,24,12.5,5000,10,2024-01-31,2026-01-31\r\n"
    with tempfile.TemporaryFile() as source:
        source.write(text.encode(encoding))
        source.flush()
        order = reading.ReadingOrder("LOANS", "l.csv", date(2026, 1, 31), batch_rows=10)
        with reading.reading(source, order) as read:
            (batch,) = read.batches()
    assert len(batch.frame) == 1


def test_an_encoding_that_is_not_loaded_is_rejected_in_a_sandboxed_process() -> None:
    with zipfile.ZipFile(io.BytesIO(loans_workbook(A_LOAN))) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    declaration = b'<?xml version="1.0" encoding="windows-1251"?>'
    parts["xl/workbook.xml"] = declaration + parts["xl/workbook.xml"]
    with tempfile.TemporaryFile() as source:
        source.write(workbook(extra=parts))
        source.flush()
        order = reading.ReadingOrder("LOANS", "l.xlsx", date(2026, 1, 31), batch_rows=10)
        with reading.reading(source, order) as read, pytest.raises(SpreadsheetError) as refused:
            list(read.batches())
    assert refused.value.code == "FILE_UNREADABLE"
    assert "is not written in UTF-8" in refused.value.message
