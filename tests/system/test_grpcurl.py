"""Every grpcurl recipe of docs/recipes.md in a shell: plaintext, and TLS with a token."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format, message_factory

from credit_service.cli.call import METHODS
from tests.system.secured import secured_settings
from tests.system.up import Up, credit_service, environment, up
from tests.tools import tool

ROOT = Path(__file__).parents[2]
RECIPES = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
ADDRESS = "127.0.0.1:50051"
# What the page says to write instead of -plaintext for a service with TLS and tokens.
SECURED = '-cacert ca.pem -H "authorization: Bearer $CREDIT_TOKEN"'
SECONDS = 60
# A command with the rejection that the page documents below its block, if it does.
_BLOCK = re.compile(r"```sh\n(.*?)```(?:\n\nRejected[^`]*`([A-Z_]+)`)?", re.DOTALL)

Paste = Callable[[str], "subprocess.CompletedProcess[str]"]


def _recipes() -> list[tuple[str, str]]:
    """The commands of the page and the reason of their rejection, or ""."""
    return [
        (line, refusal)
        for block, refusal in _BLOCK.findall(RECIPES)
        for line in block.splitlines()
        if line.startswith("grpcurl ")
    ]


def _inline() -> list[str]:
    """The commands within sentences, which describe or list."""
    found = re.findall(r"`(grpcurl [^`]*)`", RECIPES)
    return [" ".join(command.split()) for command in found]


@pytest.fixture(params=["plaintext", "TLS and token"])
def transport(request: pytest.FixtureRequest) -> str:
    tool("grpcurl")
    return str(request.param)


@pytest.fixture
def secured(transport: str, tmp_path: Path) -> dict[str, str]:
    """The settings of the service for the transport, and of its callers."""
    if transport == "plaintext":
        return {}
    return secured_settings(tmp_path)


@pytest.fixture
def service(secured: dict[str, str], tmp_path: Path) -> Iterator[Up]:
    """A new service with the sample workbooks."""
    settings: dict[str, Any] = {**secured}
    with up(**settings) as running:
        env = environment(**secured, CREDIT_ADDRESS=running.address)
        assert credit_service("sample-data", str(tmp_path)).returncode == 0
        for name in ("customer_data", "loan_data"):
            done = credit_service("ingest", str(tmp_path / f"{name}.xlsx"), env=env)
            assert done.returncode == 0, done.stderr
        yield running


@pytest.fixture
def paste(service: Up, secured: dict[str, str], tmp_path: Path) -> Paste:
    """Runs a command as the page has it; only the address, and -plaintext under TLS, differ."""
    folders = f"{Path(tool('grpcurl')).parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = environment(**secured, PATH=folders)

    def run(command: str) -> "subprocess.CompletedProcess[str]":
        assert command.count("-plaintext") == command.count(ADDRESS) == 1
        if secured:
            command = command.replace("-plaintext", SECURED)
        return subprocess.run(
            ["/bin/sh", "-c", command.replace(ADDRESS, service.address)],
            env=env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    return run


def _messages(output: str) -> list[dict[str, Any]]:
    found, place = [], 0
    while place < len(output.rstrip()):
        message, end = json.JSONDecoder().raw_decode(output, place)
        found.append(message)
        place = end + len(output[end:]) - len(output[end:].lstrip())
    return found


def test_every_recipe_works_as_pasted(
    paste: Paste, transport: str, record_property: Callable[[str, object], None]
) -> None:
    methods = {
        f"{each.containing_service.full_name}/{each.name}": each
        for each in METHODS
        if each.containing_service.full_name.startswith("credit_service.v1.")
    }
    tried = []
    for command, refusal in _recipes():
        method = methods[command.rpartition(" ")[2]]
        done = paste(command)
        if refusal:
            assert done.returncode != 0, command
            assert f'"{refusal}"' in done.stderr, (command, done.stderr)
        elif method.name == "WatchCreditEvents":
            # The stream stays open until the time limit of the command.
            assert "Code: DeadlineExceeded" in done.stderr, done
        else:
            assert done.returncode == 0, (command, done.stderr)
        answers = _messages(done.stdout)
        assert bool(answers) != bool(refusal), (command, done)
        for answer in answers:
            # Raises an error for a field that the response does not have.
            json_format.ParseDict(answer, message_factory.GetMessageClass(method.output_type)())
        tried.append(f"{method.name} ({refusal})" if refusal else method.name)
    assert {each.partition(" ")[0] for each in tried} == {each.name for each in methods.values()}

    for command in _inline():
        done = paste(command)
        assert (done.returncode, done.stderr) == (0, ""), command
        assert "credit_service.v1.CheckEligibilityRequest is a message:" in done.stdout
        assert "interest_rate" in done.stdout
        tried.append(command.partition(ADDRESS)[2].strip())

    (command,) = re.findall(r"```sh\n(grpcurl .*?)```", README, re.DOTALL)
    (shown,) = re.findall(r"The response starts with\n\n```json\n(.*?),\n```", README, re.DOTALL)
    method = methods[command.split()[-1]]
    whole, start = (message_factory.GetMessageClass(method.output_type)() for _ in range(2))
    done = paste(command)
    assert done.returncode == 0, done.stderr
    json_format.Parse(done.stdout, whole)
    json_format.Parse(shown + "}", start)
    for field, value in start.ListFields():
        assert getattr(whole, field.name) == value
    tried.append("the call of README.md")
    record_property("tried", f"grpcurl, {transport}, {len(tried)} commands: {', '.join(tried)}")


def test_the_page_says_what_to_write_instead_of_plaintext() -> None:
    assert f"`{SECURED}`" in " ".join(RECIPES.split())
