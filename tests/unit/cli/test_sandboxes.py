"""`up --sandbox` has databases of its own, and starts no second year in an interrupted one."""

from pathlib import Path

import pytest

from credit_service.cli import running
from credit_service.cli.common import UsageError
from credit_service.cli.sandboxes import Sandbox
from credit_service.clock import Clock
from credit_service.processes.supervisor import environment_of
from credit_service.sandbox.year import Size
from credit_service.settings import Settings


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in ("DATABASE_URL", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    return Settings(data_dir=tmp_path)


def test_its_service_starts_in_the_past_in_a_folder_of_its_own(settings: Settings) -> None:
    sandbox = Sandbox(settings, Size(days=40))
    assert sandbox.settings.data_dir == settings.data_dir / "sandbox"
    days = Clock().moment().today - sandbox.settings.clock.moment().today
    assert days.days in (40, 41)


def test_it_logs_only_warnings_unless_asked(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = Sandbox(settings).settings
    assert (quiet.log_level, quiet.access_log) == ("warning", False)
    monkeypatch.setenv("CREDIT_ACCESS_LOG", "true")
    monkeypatch.setenv("CREDIT_LOG_LEVEL", "info")
    asked = Sandbox(running.settings_with(data_dir=settings.data_dir)).settings
    assert (asked.log_level, asked.access_log) == ("info", True)


def test_its_console_names_it_unless_another_name_is_set(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = environment_of(Sandbox(settings).settings)
    assert environment["CREDIT_CONSOLE_ENVIRONMENT"] == "sandbox"
    monkeypatch.setenv("CREDIT_CONSOLE_ENVIRONMENT", "training")
    named = Sandbox(running.settings_with(data_dir=settings.data_dir)).settings
    assert named.console_environment == "training"


def test_an_interrupted_year_is_not_continued(settings: Settings) -> None:
    Sandbox(settings)
    # Not started: a start that failed can be repeated.
    Sandbox(settings)
    (settings.data_dir / "sandbox" / "year").write_text("begun")
    with pytest.raises(UsageError, match="was interrupted"):
        Sandbox(settings)


def test_a_filled_sandbox_starts_in_the_present(settings: Settings) -> None:
    folder = settings.data_dir / "sandbox"
    folder.mkdir()
    (folder / "year").write_text("over")
    (folder / "clock").write_text("0")
    Sandbox(settings)
    assert (folder / "clock").read_text() == "0"


@pytest.mark.parametrize(
    "given",
    [
        {"database_url": "postgresql://db/credit"},
        {"redis_url": "redis://cache"},
    ],
)
def test_it_refuses_the_databases_of_a_service(settings: Settings, given: dict[str, str]) -> None:
    real = Settings.model_validate({"data_dir": settings.data_dir, **given})
    with pytest.raises(UsageError, match="databases of its own"):
        Sandbox(real)
    assert not (settings.data_dir / "sandbox").exists()
