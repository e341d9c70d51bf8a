"""No command ends in a traceback for a wrong setting, address, file or permission.

Every command is run with every possible kind of mistake, and must print one line on standard error
and exit with a documented code.
"""

import contextlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from cyclopts import App
from psycopg import sql

from credit_service.cli import app, connection, events
from credit_service.domain.scorecard import STANDARD_DOCUMENT
from credit_service.processes import embedded
from credit_service.settings import Settings
from credit_service.settings_messages import unknown_variables
from tests.system.up import environment

REFUSED, USAGE, UNAVAILABLE = 1, 2, 3
NOWHERE = {
    "DATABASE_URL": "postgresql://user@127.0.0.1:1/none",
    "REDIS_URL": "redis://127.0.0.1:1/0",
}
UNPRIVILEGED_ID = 65534
_ID = str(uuid4())

STARTING: dict[str, tuple[str, ...]] = {
    "up": ("--no-console",),
    "serve": (),
    "worker": (),
    "migrate": (),
    "backup": ("{new}",),
}
OPERATING: dict[str, tuple[str, ...]] = {
    "replay": ("1",),
    "parked list": (),
    "parked retry": ("1",),
    "parked discard": ("1",),
    "personal-data export": ("1",),
    "personal-data erase": ("1",),
}
CALLING: dict[str, tuple[str, ...]] = {
    "login": (),
    "ingest": ("{csv}",),
    "annotated": (_ID,),
    "ingestions": (),
    "ingestion": (_ID,),
    "row-errors": (_ID,),
    "cancel-ingestion": (_ID,),
    "revert-ingestion": (_ID,),
    "check-file": ("{csv}",),
    "call": ("ListCustomers",),
    "customer": ("1",),
    "customers": (),
    "register-customer": (
        *("--first-name=A", "--last-name=B", "--age=30", "--income=50000", "--phone=9876500001"),
    ),
    "update-customer": ("1", "--age=31"),
    "changes": ("1",),
    "score": ("1",),
    "check": ("1", "1000", "10", "12"),
    "create-loan": ("1", "1000", "10", "12"),
    "loans": ("1",),
    "offers": ("1",),
    "offer": ("1",),
    "create-offer": ("1", "1000", "10", "12"),
    "accept-offer": ("1",),
    "withdraw-offer": ("1",),
    "loan": ("1",),
    "schedule": ("1", "1"),
    "key-facts": ("1",),
    "pay": ("1", "1", "10"),
    "payments": ("1", "1"),
    "reverse-payment": ("1", "--reason=bounced"),
    "prepay": ("1", "1", "10"),
    "foreclosure": ("1", "1"),
    "arrears": ("1",),
    "overdue": (),
    "decisions": (),
    "decision": ("1",),
    "review-decision": ("1", "approve", "--reason=Known."),
    "events": ("--no-follow",),
    "scorecard activate": ("{scorecard}",),
    "scorecard shadow": (),
    "scorecard list": (),
    "scorecard show": (),
    "scorecard compare": ("{scorecard}",),
    "scorecard retire": ("example-1",),
    "scorecard trial": (),
    "backtest": ("{scorecard}",),
}
WRITING = (
    *("register-customer", "update-customer", "create-loan", "pay", "reverse-payment", "prepay"),
    *("create-offer", "accept-offer", "withdraw-offer", "review-decision"),
)
LOCAL: dict[str, tuple[str, ...]] = {
    "scorecard check": ("{scorecard}",),
    "doctor": (),
    "token": ("--key={key}",),
    "token key": ("{new}",),
    "completion": ("bash",),
    "certificates": ("{new}",),
    "sample-data": ("{new}",),
    "template": ("loans", "--output={new}"),
    "demo": (),
    "console": (),
    "probe": (),
    # Reads the backup before it connects to the database.
    "restore": ("{csv}",),
    "profiles": (),
    "profiles use": ("absent",),
    "profiles remove": ("absent",),
}
COMMANDS = STARTING | OPERATING | CALLING | LOCAL

_CUSTOMERS = "customer_id,first_name,last_name,age,monthly_salary,phone_number\n"


@dataclass(frozen=True, slots=True)
class Done:
    """The end of a command."""

    code: int
    errors: str


Run = Callable[..., Done]


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Run]:
    """Runs a command in this process, with only the given settings, and with all needed files."""
    files = {
        "scorecard": tmp_path / "scorecard.json",
        "csv": tmp_path / "customers.csv",
        "new": tmp_path / "new",
        "key": tmp_path / "keys" / "signing-key.private.jwk",
    }
    files["csv"].write_text(_CUSTOMERS)
    files["scorecard"].write_text(json.dumps({**STANDARD_DOCUMENT, "version": "example-1"}))
    before = dict(os.environ)
    for name in before:
        if name in {"DATABASE_URL", "REDIS_URL"} or name.startswith("CREDIT_"):
            del os.environ[name]
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(events, "CONNECT_TIMEOUT_SECONDS", 0.3)
    assert app.run(["token", "key", str(tmp_path / "keys")]) == 0

    def one(command: str, *arguments: str, **settings: str) -> Done:
        capsys.readouterr()
        given = arguments or COMMANDS[command]
        with monkeypatch.context() as patch:
            for name, value in settings.items():
                patch.setenv(name, value)
            code = app.run([*command.split(), *(each.format(**files) for each in given)])
        return Done(code, capsys.readouterr().err)

    yield one
    os.environ.clear()
    os.environ.update(before)


def _is_one_line(done: Done, code: int, *words: str) -> None:
    assert "Traceback" not in done.errors
    assert (done.code, len(done.errors.splitlines())) == (code, 1), done
    for each in words:
        assert each in done.errors, done


def _names(app: App, prefix: str = "") -> Iterator[str]:
    for name in app:
        if name.startswith("-"):
            continue
        command: Any = app[name]
        inner = list(_names(command, f"{prefix}{name} "))
        if not inner or command.default_command is not None:
            yield f"{prefix}{name}"
        yield from inner


def test_the_table_has_every_command() -> None:
    assert set(_names(app.app)) == set(COMMANDS)


WRONG_SETTINGS = [
    ("CREDIT_TIME_ZONE", "Asia/kolkata", "did you mean Asia/Kolkata?"),
    ("DATABASE_URL", "postgresql+psycopg2://u:hush-hush@h/d", "postgresql+psycopg2://u:***@h/d"),
    ("DATABASE_URL", "jdbc:postgresql://h/d?user=u&password=hush-hush", "password=***"),
    ("DATABASE_URL", "mysql://u:hush-hush@h/d", "starts with postgresql://"),
    ("DATABASE_URL", "host=h password=hush-hush", "password=***"),
    ("DATABASE_URL", "postgresql://u:hush-hush/x@h:5432/d", "percent-encoded"),
    ("DATABASE_URL", "postgresql://h:99999/d", "from 1 to 65535"),
    ("DATABASE_URL", "", "starts with postgresql://"),
    ("REDIS_URL", "http://:hush-hush@h", "starts with redis://"),
    ("CREDIT_LISTEN", "127.0.0.1:99999", "from 0 to 65535"),
    ("CREDIT_CONSOLE_LISTEN", "here", "write host:port"),
    ("CREDIT_PROCESSES", "-1", "at least 1 and at most 64"),
    ("CREDIT_STATEMENT_TIMEOUT_SECONDS", "inf", "at most"),
    ("CREDIT_CONSOLE_SECRET", "hush-hush", "at least 32 characters"),
    ("CREDIT_CLOCK_OFFSET_FILE", "/", "Is a directory"),
]
_READ_NO_SETTINGS = {
    "scorecard check",
    "token key",
    "completion",
    "template",
    "probe",
    "certificates",
    "profiles",
    "profiles use",
    "profiles remove",
}


@pytest.mark.slow
@pytest.mark.parametrize("command", sorted({*STARTING, *OPERATING, *LOCAL} - _READ_NO_SETTINGS))
@pytest.mark.parametrize(("name", "value", "words"), WRONG_SETTINGS)
def test_an_invalid_setting_is_reported_in_one_line(
    run: Run, command: str, name: str, value: str, words: str
) -> None:
    done = run(command, **{name: value})
    if command == "doctor" and name == "CREDIT_CLOCK_OFFSET_FILE":
        assert done == Done(REFUSED, "")  # a finding among others
        return
    _is_one_line(done, USAGE, name, words)
    assert "hush-hush" not in done.errors


@pytest.mark.slow
@pytest.mark.parametrize("module", ["credit_service.rpc", "credit_service.console", "workers"])
def test_an_invalid_setting_ends_a_process(module: str) -> None:
    env = environment(CREDIT_TIME_ZONE="Asia/kolkata")
    done = subprocess.run(
        [sys.executable, "-m", module], env=env, capture_output=True, text=True, check=False
    )
    _is_one_line(Done(done.returncode, done.stderr), USAGE, "CREDIT_TIME_ZONE=Asia/kolkata")


def test_unknown_variables_are_named(run: Run) -> None:
    done = run("up", CREDIT_TIMEZONE="UTC", CREDIT_MAX_WAIT_SECOND="1", **NOWHERE)
    assert "CREDIT_TIMEZONE is not a setting" in done.errors
    assert "did you mean CREDIT_TIME_ZONE?" in done.errors
    assert "did you mean CREDIT_MAX_WAIT_SECONDS?" in done.errors
    known = {f"CREDIT_{name.upper()}": "1" for name in Settings.model_fields}
    known |= {"CREDIT_SERVICE_SERVICE_HOST": "1", "CREDIT_SERVICE_PORT_50051_TCP_ADDR": "1"}
    known |= {"CREDIT_TOKEN": "1", "CREDIT_ADDRESS": "1", "CREDIT_FAILPOINTS": "1"}
    assert list(unknown_variables(known)) == []


@pytest.mark.parametrize("command", [*OPERATING, "migrate", "up"])
def test_an_unreachable_database_is_reported_in_one_line(run: Run, command: str) -> None:
    """Server and worker start without Redis and wait for it."""
    _is_one_line(run(command, **NOWHERE), UNAVAILABLE, "the database is unavailable", "port 1")


@pytest.mark.parametrize("command", OPERATING)
def test_a_command_that_uses_a_database_starts_none(
    run: Run, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(embedded.EmbeddedStack, "start", started)
    folder = tmp_path / "none"
    arguments = (*COMMANDS[command], f"--data-dir={folder}")
    words = ("no embedded PostgreSQL runs in", f"credit-service up --data-dir {folder}")
    _is_one_line(run(command, *arguments), UNAVAILABLE, *words)
    _is_one_line(run(command, CREDIT_DATA_DIR=str(folder)), UNAVAILABLE, *words)
    assert not folder.exists()
    _is_one_line(run(command, *arguments, **NOWHERE), USAGE, "--data-dir", "DATABASE_URL")


@pytest.mark.parametrize("command", [*OPERATING, *STARTING])
def test_a_data_folder_that_is_a_file_is_reported(run: Run, command: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    _let_others_pass(tmp_path)
    arguments = (*COMMANDS[command], f"--data-dir={tmp_path / 'file' / 'data'}")
    done = run(command, *arguments)
    errors = done.errors.removeprefix("Starting the embedded servers …\n")
    _is_one_line(Done(done.code, errors), USAGE, "the data folder", "Not a directory")


@pytest.mark.parametrize("command", OPERATING)
def test_missing_permissions_on_the_database_are_reported(
    run: Run, command: str, database_url: str
) -> None:
    url = database_url.replace("+psycopg", "")
    with psycopg.connect(url, autocommit=True) as owner:
        role = sql.Identifier(f"stranger_{uuid4().hex}")
        owner.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
        stranger = url.replace("//postgres@", f"//{role.as_string()[1:-1]}@")
        try:
            _is_one_line(run(command, DATABASE_URL=stranger), REFUSED, "permission denied")
        finally:
            owner.execute(sql.SQL("DROP ROLE {}").format(role))


@pytest.mark.parametrize("command", OPERATING)
def test_a_database_without_the_schema(run: Run, command: str, servers: tuple[str, str]) -> None:
    url = psycopg.conninfo.conninfo_to_dict(servers[0])
    empty = servers[0].replace(f"/{url['dbname']}", "/postgres")
    _is_one_line(run(command, DATABASE_URL=empty), REFUSED, "credit-service migrate")


@pytest.mark.slow
@pytest.mark.parametrize("command", CALLING)
def test_an_unreachable_service_is_reported_in_one_line(run: Run, command: str) -> None:
    arguments = (*COMMANDS[command], "--address=127.0.0.1:1")
    done = run(command, *arguments, DATABASE_URL="mysql://of/another/program")
    if command in WRITING:
        note, errors = done.errors.split("\n", 1)
        assert "repeat the command with --request-id " in note
        done = Done(done.code, errors)
    _is_one_line(done, UNAVAILABLE, "No credit service answers at 127.0.0.1:1")


@pytest.mark.slow
@pytest.mark.parametrize("command", [*CALLING, "doctor"])
@pytest.mark.parametrize(
    "address", ["127.0.0.1:https", "127.0.0.1", "127.0.0.1:0", "h:99999", ":1"]
)
def test_an_invalid_address_is_reported_in_one_line(run: Run, command: str, address: str) -> None:
    done = run(command, *COMMANDS[command], f"--address={address}")
    _is_one_line(
        Done(
            done.code,
            done.errors.split("\n", 1)[-1]
            if command in WRITING and done.errors.count("\n") > 1
            else done.errors,
        ),
        USAGE,
        f"--address {address}",
    )


@pytest.mark.slow
@pytest.mark.parametrize("command", [*CALLING, "doctor"])
@pytest.mark.parametrize(
    ("option", "path", "words"),
    [
        ("--ca", "absent.pem", "CREDIT_SERVER_CA) cannot be read: No such file"),
        ("--ca", ".", "CREDIT_SERVER_CA) cannot be read: Is a directory"),
        ("--ca", "customers.csv", "is not a PEM file of certificate authorities"),
        ("--token-file", "absent", "CREDIT_TOKEN_FILE) cannot be read: No such file"),
        ("--token-file", "customers.csv.d", "CREDIT_TOKEN_FILE) cannot be read: Is a directory"),
    ],
)
def test_an_unusable_file_of_credentials_is_reported(
    run: Run, command: str, option: str, path: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / "customers.csv.d").mkdir()
    _is_one_line(run(command, *COMMANDS[command], f"{option}={tmp_path / path}"), USAGE, words)


FILES = [
    ("ingest {bad}", REFUSED),
    ("ingest {bad} --upload --kind=loans", REFUSED),
    ("scorecard check {bad}", REFUSED),
    ("scorecard activate {bad}", REFUSED),
    ("scorecard shadow {bad}", REFUSED),
    ("backtest {bad}", REFUSED),
    ("token --key={bad}", USAGE),
    ("customer 1 --token-file={bad}", USAGE),
    ("customer 1 --ca={bad}", USAGE),
    ("token key {bad}", REFUSED),
    ("sample-data {bad}", REFUSED),
    ("template loans --output={bad}/x", REFUSED),
]


def _let_others_pass(path: Path) -> None:
    for folder in (path, *path.parents):
        if not folder.stat().st_mode & stat.S_IXOTH:
            folder.chmod(folder.stat().st_mode | stat.S_IXOTH)


@contextlib.contextmanager
def _unprivileged() -> Iterator[None]:
    """As a user to whom file permissions apply."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(UNPRIVILEGED_ID)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("kind", ["absent", "no permission"])
@pytest.mark.parametrize(("line", "code"), FILES)
def test_a_file_that_cannot_be_read(
    run: Run, line: str, code: int, kind: str, tmp_path: Path, database_url: str
) -> None:
    bad = tmp_path / "bad"
    if kind == "no permission":
        bad.mkdir() if "key {bad}" in line or "sample" in line else bad.write_text("x")
        bad.chmod(0)
    elif "key {bad}" in line or "sample" in line:
        (tmp_path / "bad").write_text("")
        bad = tmp_path / "bad" / "inner"
    _let_others_pass(tmp_path)
    command, *arguments = line.split()
    settings = {"DATABASE_URL": database_url.replace("+psycopg", "")}
    with _unprivileged():
        done = run(command, *(each.replace("{bad}", str(bad)) for each in arguments), **settings)
    bad.parent.chmod(0o755) if bad.parent.is_dir() else None
    _is_one_line(done, code, str(bad))
