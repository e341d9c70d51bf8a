"""The module of clients/go against a server with TLS and tokens: its README, and a restart."""

import json
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from credit_service import failpoints
from credit_service.domain.errors import UnavailableError
from credit_service.rpc.server import CreditServer
from credit_service.settings import Settings
from credit_service.storage.database import Database
from credit_service.v1.credit_service_pb2 import ListLoansRequest
from credit_service_client import ClientTls, CreditClient, in_rupees
from credit_service_client.channel import SERVICE_CONFIG
from tests.integration.clients.test_examples import (
    EXAMPLES,
    PAYMENTS,
    ROOT,
    environment,
    output_of,
    settings,
)
from tests.tools import tool

__all__ = ["environment", "settings"]

# The first build compiles all dependencies.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PACKAGE = ROOT / "clients" / "go"
BUILD_SECONDS = 500
CUSTOMER = 101
README_OUTPUT = """stored: 1
stored: 1
Approved: ₹50,000.00 over 12 months at 12.5 % a year, \
₹4,454.14 a month, the last ₹4,454.17.
the same loan: true
loan of {}
loan of {}
INVALID_FIELD 3
"""


EXAMPLE_OUTPUT = re.compile(
    r"""rows read: 1 rejected: 0
Approved: ₹50,000.00 over 12 months at 12.5 % a year, ₹4,454.14 a month, the last ₹4,454.17.
offered ₹25000, lent ₹20000
InvalidArgument \(INVALID_FIELD\)
(?:  \w+: [^\n]+\n){3}checked: approved
checked: error 3
event: \*creditpb.CreditEvent_CustomerRegistered
(?:event: \*creditpb.CreditEvent_ScoreChanged\n){0,2}event: \*creditpb.CreditEvent_LoanCreated
"""
)
FIRST_CUSTOMER = 1_000_000_000_000_001
"""The example registers the first customer of a database."""


def _build(folder: Path, program: Path) -> Path:
    """Compile the package in a folder, and vet it."""
    for command in (["vet", "./..."], ["build", "-o", str(program), "."]):
        done = subprocess.run(
            [tool("go"), *command],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=BUILD_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    return program


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client's module with the generated code."""
    tool("go")
    package = tmp_path_factory.mktemp("go") / "package"
    shutil.copytree(PACKAGE, package)
    subprocess.run(
        [sys.executable, str(ROOT / "scripts/clients.py"), "--generate-go", str(package)],
        check=True,
        timeout=BUILD_SECONDS,
    )
    return package


def _module(folder: Path, name: str, *lines: str) -> None:
    """Make a folder a module that requires what the client does."""
    required = (PACKAGE / "go.mod").read_text().partition("\nrequire")[2]
    text = "\n".join([f"module {name}", "go 1.25.0", *lines])
    (folder / "go.mod").write_text(f"{text}\nrequire{required}")
    shutil.copyfile(PACKAGE / "go.sum", folder / "go.sum")


@pytest.fixture(scope="module")
def readme(package: Path) -> Path:
    """The compiled program of the README, in a module that uses the client's."""
    consumer = package.parent / "consumer"
    consumer.mkdir()
    (program,) = re.findall(r"```go\n(.*?)```", (PACKAGE / "README.md").read_text(), re.DOTALL)
    (consumer / "main.go").write_text(program)
    client = "example.com/credit-service-client"
    requirement = f"require {client} v0.1.0", f"replace {client} => {package}"
    _module(consumer, "example.com/consumer", *requirement)
    return _build(consumer, package.parent / "program")


@pytest.fixture(scope="module")
def example(package: Path) -> Path:
    """The compiled example of the documentation, with the generated code in its own module."""
    examples = package.parent / "examples"
    shutil.copytree(EXAMPLES, examples)
    shutil.copytree(package / "creditpb", examples / "go" / "creditpb")
    _module(examples / "go", "example.com/credit")
    return _build(examples / "go", examples / "go" / "program")


def test_the_tests_of_the_module_pass(package: Path) -> None:
    """The client against a server in Go that fails as each test needs it."""
    for command in (["vet", "./..."], ["test", "-count=1", "./..."]):
        done = subprocess.run(
            [tool("go"), *command],
            cwd=package,
            capture_output=True,
            text=True,
            timeout=BUILD_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_example_of_the_documentation_works(example: Path, environment: dict[str, str]) -> None:
    folder = example.parent
    printed = output_of(str(example), env=environment, cwd=folder)
    assert EXAMPLE_OUTPUT.fullmatch(printed), printed
    paying = (str(example), "payments", str(FIRST_CUSTOMER))
    assert output_of(*paying, env=environment, cwd=folder) == PAYMENTS


def _client(environment: dict[str, str]) -> CreditClient:
    return CreditClient(
        environment["CREDIT_ADDRESS"],
        tls=ClientTls(Path(environment["CREDIT_SERVER_CA"])),
        token=Path(environment["CREDIT_TOKEN_FILE"]),
    )


def test_a_booking_during_a_restart_with_a_lost_response_takes_effect_once(
    readme: Path,
    settings: Settings,
    database: Database,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lost: list[str] = []

    def lose(point: str) -> None:
        """Lose the first response after the commit, as when a server dies there."""
        if point == "create_loan.after_commit" and not lost:
            lost.append(point)
            raise UnavailableError("SHUTTING_DOWN", "The response was lost.", 0.0)

    with _client(environment) as client:
        first = CreditServer(settings, database)
        first.start()
        address = str(first.address)
        first.stop(grace_seconds=0)
        monkeypatch.setattr(failpoints, "reach", lose)
        second = CreditServer(settings.model_copy(update={"listen": address}), database)
        starting = threading.Timer(1.0, second.start)
        starting.start()
        printed = output_of(str(readme), env=environment | {"CREDIT_ADDRESS": address})
        starting.join()
        second.stop(grace_seconds=5)
        amounts = [
            in_rupees(loan.loan_amount)
            for page in client.pages(
                client.credit.ListLoans, ListLoansRequest(customer_id=CUSTOMER)
            )
            for loan in page.loans
        ]
    assert lost == ["create_loan.after_commit"]
    assert sorted(map(str, amounts)) == ["50000.00", "800000.00"]
    assert printed == README_OUTPUT.format(*amounts)


def test_the_service_config_equals_the_published_one() -> None:
    text = (PACKAGE / "service-config.json").read_text(encoding="utf-8")
    assert json.loads(text) == SERVICE_CONFIG
