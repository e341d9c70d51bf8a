"""A backup is restored into another database, where everything is as before."""

import hashlib
import importlib.util
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from uuid import uuid4

import psycopg
import pytest
import redis
from sqlalchemy import make_url

from credit_service.cli import app
from credit_service.clock import Clock
from credit_service.commands.create_loan import CreateLoan, create_loan
from credit_service.commands.reconcile import reconcile
from credit_service.domain.eligibility import Ask
from credit_service.processes import postgresql_tools
from credit_service.processes.postgresql_tools import ToolError
from credit_service.queries.backtest import replay_decision
from credit_service.storage import backups
from credit_service.storage.database import Database
from tests.integration.portfolio import LAKH, a_good_customer

ROOT = Path(__file__).resolve().parents[3]

Run = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.one_server("pg_dump of a coordinator does not back up the nodes")


@pytest.fixture
def comparing() -> ModuleType:
    """scripts/compare_databases.py."""
    path = ROOT / "scripts" / "compare_databases.py"
    spec = importlib.util.spec_from_file_location("compare_databases", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def restored_url(database_url: str) -> Iterator[str]:
    """A second, empty database."""
    url = make_url(database_url).set(drivername="postgresql")
    name = f"{url.database}_restored"
    maintenance = url.set(database="postgres").render_as_string(hide_password=False)
    with psycopg.connect(maintenance, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
        yield url.set(database=name).render_as_string(hide_password=False)
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command with a database; returns exit code, output, errors."""

    def one(url: str, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(os, "environ", dict(os.environ) | {"DATABASE_URL": url})
        capsys.readouterr()
        code = app.run(arguments)
        return code, *capsys.readouterr()

    return one


@pytest.mark.slow
def test_a_restored_backup_equals_the_original(
    comparing: ModuleType,
    database: Database,
    database_url: str,
    restored_url: str,
    redis_url: str,
    run: Run,
    tmp_path: Path,
) -> None:
    moment, folder = Clock().moment(), tmp_path / "monday"
    customer_id = a_good_customer(database, moment)
    request = CreateLoan(uuid4(), customer_id, Ask(LAKH, 1_200, 12))
    booked = create_loan(database, request, moment, "tests")
    source_url = make_url(database_url).set(drivername="postgresql")
    before = comparing.content(source_url.render_as_string(hide_password=False))
    assert before.tables["loans"][0] == 4

    code, _, errors = run(database_url, "backup", str(folder))
    assert code == 0, errors
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "credit.dump").stat().st_mode) == 0o600
    assert run(database_url, "backup", str(folder))[0] == 2
    # The connections of this test have the name of a server's.
    code, _, errors = run(database_url, "restore", str(folder), "--replace")
    assert (code, "stop the processes that use it: credit-service\n" in errors) == (1, True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REDIS_URL", redis_url)
        redis.Redis.from_url(redis_url).set("entry", "of a later state")
        code, shown, errors = run(restored_url, "restore", str(folder))
        assert code == 0, errors
        assert "it has 1 keys" in shown
        assert "restart watchers from event 0" in shown
        assert comparing.differences(before, comparing.content(restored_url)) == []
        code, _, errors = run(restored_url, "restore", str(folder))
        assert (code, "restore into an empty database" in errors) == (1, True)

        with psycopg.connect(restored_url) as connection:
            connection.execute("UPDATE loans SET paid_paise = paid_paise + 1")
            connection.execute("DELETE FROM requests")
        different = comparing.differences(before, comparing.content(restored_url))
        assert different == ["loans", "requests"]
        options = ("--replace", "--flush-redis")
        code, shown, errors = run(restored_url, "restore", str(folder), *options)
        assert (code, "Redis is empty." in shown) == (0, True), errors
    assert comparing.differences(before, comparing.content(restored_url)) == []

    restored = Database(restored_url.replace("postgresql://", "postgresql+psycopg://", 1))
    try:
        assert create_loan(restored, request, moment, "tests") == booked
        found = reconcile(restored, moment)
        assert (found.compared, found.discrepancies) == (1, 0)
        assert replay_decision(restored, booked.decision_id).is_identical
    finally:
        restored.dispose()
    # A repeat draws ids and does not use them.
    different = comparing.differences(before, comparing.content(restored_url))
    assert set(different) == {"bookmarks", "decision_ids", "loan_ids"}


def test_a_damaged_backup_is_not_restored(
    database: Database, database_url: str, restored_url: str, run: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "monday"
    assert run(database_url, "backup", str(folder))[0] == 0
    dump = folder / "credit.dump"
    dump.write_bytes(dump.read_bytes()[:-1])
    code, _, errors = run(restored_url, "restore", str(folder))
    assert (code, "the backup is damaged" in errors) == (1, True)

    # A dump of something else, with a manifest that fits it.
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    manifest["sha256"] = hashlib.sha256(dump.read_bytes()).hexdigest()
    manifest["rows"]["another_table"] = 1
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    code, _, errors = run(restored_url, "restore", str(folder))
    assert code == 3
    assert "lacks the data of another_table" in errors or "pg_restore failed" in errors
    assert run(restored_url, "restore", str(tmp_path))[0] == 2
    with psycopg.connect(restored_url) as connection:
        assert connection.execute("SELECT FROM pg_tables WHERE schemaname = 'public'").rowcount == 0


def test_the_password_is_in_no_argument_and_no_output(tmp_path: Path) -> None:
    program, seen = tmp_path / "pg_dump", tmp_path / "seen"
    program.write_text(
        f'#!/bin/sh\necho "$@" > {seen}\necho "no entry for $PGPASSWORD" >&2\nexit 1\n'
    )
    program.chmod(0o700)
    tool = postgresql_tools.Tool(program, 18)
    with pytest.raises(ToolError) as failed:
        tool.run(["--format=custom"], {"host": "db", "user": "credit"}, "s3cret")
    assert "no entry for ***" in str(failed.value)
    assert "--no-password --dbname=host=db user=credit" in seen.read_text()
    assert "s3cret" not in seen.read_text()


def test_a_connection_is_described_without_its_password(database_url: str) -> None:
    url = make_url(database_url).set(password="s3cret", username="postgres")
    database = Database(url.render_as_string(hide_password=False))
    try:
        with database.autocommit() as connection:
            server = backups.server_of(connection)
    finally:
        database.dispose()
    assert server.password == "s3cret"
    assert "s3cret" not in str(server.parameters)
    # Only parameters that programs of every version know.
    assert set(server.parameters) <= {"host", "port", "user", "dbname", "application_name"}
    assert server.parameters["dbname"] == url.database


def test_an_older_program_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("pg_dump", "17.2 (Debian)"), ("pg_restore", "19beta1")):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\necho "{name} (PostgreSQL) {text}"\n')
        program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert postgresql_tools.find("pg_dump", 17).path == tmp_path / "pg_dump"
    # The program of the embedded PostgreSQL, rather than a later one.
    assert postgresql_tools.find("pg_restore", 18).major == 18
    with pytest.raises(ToolError, match=r"only .*pg_dump \(17\)"):
        postgresql_tools.find("pg_dump", 99)
