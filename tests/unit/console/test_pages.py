"""Checks of every template and file of the console without running it."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from credit_service.console import app
from credit_service.console.checklist import runner
from credit_service.settings import Settings

CONSOLE = Path(app.__file__).parent
TEMPLATES = sorted((CONSOLE / "templates").glob("*.html"))
STATIC = sorted((CONSOLE / "static").iterdir())


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_a_template_contains_nothing_forbidden_by_the_policy(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"\sstyle=", text)
    assert not re.search(r"\son[a-z]+=", text)
    assert "<style" not in text
    assert all("src=" in each for each in re.findall(r"<script[^>]*>", text))
    assert "| safe" not in text
    assert "autoescape" not in text


@pytest.mark.parametrize("path", [*TEMPLATES, *STATIC], ids=lambda path: path.name)
def test_no_file_of_the_console_names_another_host(path: Path) -> None:
    text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|\burl\(|@import", text)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_every_form_that_writes_carries_its_token(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for form in re.findall(r"<form[^>]*method=\"post\".*?</form>", text, re.DOTALL):
        assert 'name="csrf_token"' in form


def test_every_page_has_one_route() -> None:
    built = app.build_app(Settings(server_address="127.0.0.1:1"))
    built.state.feeds.close()
    routes = [(path, method) for method, path, _ in app._PAGES]
    assert len(routes) == len(set(routes))


def test_every_page_is_well_formed_by_name() -> None:
    used = set()
    for path in CONSOLE.rglob("*.py"):
        used |= set(re.findall(r"\"([a-z_]+\.html)\"", path.read_text(encoding="utf-8")))
    for path in TEMPLATES:
        text = path.read_text(encoding="utf-8")
        used |= set(re.findall(r"'([a-z_]+\.html)'", text))
    assert {path.name for path in TEMPLATES} == used


def test_the_checklist_has_the_four_flows_and_each_check_once() -> None:
    assert [flow.key for flow in runner.FLOWS] == [
        "registration",
        "eligibility",
        "loans",
        "integrity",
    ]
    keys = [item.key for flow in runner.FLOWS for item in flow.items]
    assert len(keys) == len(set(keys)) == len(runner.ITEMS)


@pytest.mark.parametrize(
    "listen", ["nonsense", "127.0.0.1", "127.0.0.1:x", "0.0.0.0:0", "10.0.0.1:0", "127.0.0.1:99999"]
)
def test_an_invalid_or_insecure_address_is_rejected(listen: str) -> None:
    with pytest.raises((app.ConsoleAddressError, ValidationError)):
        app._listener(Settings(console_listen=listen))


def test_naming_the_hosts_allows_other_addresses() -> None:
    settings = Settings(console_listen="0.0.0.0:0", console_hosts="console.example")
    app._listener(settings).close()
