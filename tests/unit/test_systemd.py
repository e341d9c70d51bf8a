"""The units of deploy/systemd match the commands, the settings and the times of the service."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from credit_service.cli import app, running
from credit_service.cli.common import ExitCode
from credit_service.rpc import server_group
from credit_service.settings import Settings
from credit_service.settings_messages import variable_of
from tests.tools import tool

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "systemd"
COMMON = FOLDER / "credit-.service.d" / "50-common.conf"
UNITS = sorted(FOLDER.glob("*.service"))
PROGRAM = "/opt/credit-service/bin/credit-service"
VARIABLES = {variable_of(name): name for name in Settings.model_fields}
# Read by Python and by the settings themselves.
_OTHERS = {"CREDIT_SECRETS_DIR", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"}

Lines = dict[str, list[str]]


def lines(path: Path) -> Lines:
    """The assignments of a unit or of a file of variables, by key."""
    found: Lines = {}
    for line in path.read_text("utf-8").splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def environment(unit: Path) -> Iterator[tuple[str, str]]:
    """The variables that a unit sets, its instance being 9465."""
    for path in (COMMON, unit):
        for line in lines(path).get("Environment", []):
            for assignment in shlex.split(line):
                name, _, value = assignment.partition("=")
                yield name, value.replace("%i", "9465").replace("%d", "/run/credentials/unit")


@pytest.fixture(scope="module")
def variables() -> dict[str, str]:
    """The variables of settings.env."""
    return {name: value for name, (value,) in lines(FOLDER / "settings.env").items()}


def settings_of(variables: dict[str, str]) -> Settings:
    return Settings(**{VARIABLES[name]: value for name, value in variables.items()})  # type: ignore[arg-type] # validated


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_each_unit_runs_a_command_that_exists(unit: Path) -> None:
    (start,) = lines(unit)["ExecStart"]
    program, *arguments = shlex.split(start)
    assert program == PROGRAM
    command, _, _ = app.app.parse_args(arguments, print_error=False, exit_on_error=False)
    assert command.__name__ == arguments[0]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_each_variable_is_a_setting_with_a_valid_value(
    unit: Path, variables: dict[str, str]
) -> None:
    given = dict(environment(unit))
    assert given.keys() <= VARIABLES.keys() | _OTHERS
    settings = settings_of(variables | {each: given[each] for each in given.keys() - _OTHERS})
    # Passwords are files of the credentials, by the names of the settings.
    assert not any(isinstance(getattr(settings, name), SecretStr) for name in VARIABLES.values())
    for credential in lines(unit)["LoadCredential"]:
        name, _, path = credential.partition(":")
        assert name.upper() in VARIABLES
        assert Path(path).name == name
    assert not settings.insecure


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_stop_is_graceful_and_invalid_settings_are_final(
    unit: Path, variables: dict[str, str]
) -> None:
    (seconds,) = lines(COMMON)["TimeoutStopSec"]
    settings = settings_of(variables)
    stop = settings.shutdown_delay_seconds + settings.shutdown_grace_seconds
    assert int(seconds) > stop + server_group._STOP_SLACK_SECONDS
    assert int(seconds) > running._STOP_TIMEOUT_SECONDS
    if lines(unit)["Type"] != ["oneshot"]:
        assert lines(unit)["RestartPreventExitStatus"] == [str(ExitCode.USAGE.value)]
        assert lines(unit)["Restart"] == ["on-failure"]


@pytest.fixture
def installed(tmp_path: Path) -> list[str]:
    """The units as installed, with a program that exists; the worker as an instance."""
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    program = Path(sys.executable).parent / "credit-service"
    for path in tmp_path.glob("*.service"):
        path.write_text(path.read_text("utf-8").replace(PROGRAM, str(program)), "utf-8")
    template = tmp_path / "credit-worker@.service"
    template.rename(tmp_path / "credit-worker@9465.service")
    return [str(each) for each in sorted(tmp_path.glob("*.service"))]


def _analyze(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [tool("systemd-analyze"), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": os.defpath, "SYSTEMD_LOG_LEVEL": "warning", "LC_ALL": "C"},
    )


def test_systemd_accepts_the_units(installed: list[str]) -> None:
    done = _analyze("verify", "--man=no", *installed)
    problems = [
        line
        for line in done.stderr.splitlines()
        if any(each in line for each in ("credit-", "50-"))
    ]
    assert (done.returncode, problems) == (0, []), done.stderr


def test_systemd_finds_a_mistake_in_what_the_units_share(installed: list[str]) -> None:
    common = Path(installed[0]).parent / "credit-.service.d" / "50-common.conf"
    common.write_text(common.read_text("utf-8").replace("ProtectSystem=", "ProtectSistem="))
    for unit in installed:
        assert "ProtectSistem" in _analyze("verify", "--man=no", unit).stderr, unit


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_the_units_are_confined(unit: Path, installed: list[str]) -> None:
    (path,) = [each for each in installed if Path(each).name.startswith(unit.stem)]
    done = _analyze("security", "--offline=true", "--threshold=30", "--no-pager", path)
    assert done.returncode == 0, done.stdout + done.stderr
