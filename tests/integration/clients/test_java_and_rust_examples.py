"""The examples in Java and Rust, by grpc-java and tonic, against a server with TLS and tokens."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from credit_service import failpoints
from credit_service.domain.errors import UnavailableError
from credit_service.v1.credit_service_pb2 import ListLoansRequest
from credit_service_client import ClientTls, CreditClient
from tests.integration.clients.test_examples import ROOT, environment, settings
from tests.tools import tool

__all__ = ["environment", "settings"]

# The first build compiles all dependencies.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_800)]

SECONDS = 900
OUTPUT = re.compile(
    r"""rows read: 1 rejected: 0
checked: approved
Approved: ₹50,000.00 over 12 months at 12.5 % a year, ₹4,454.14 a month, the last ₹4,454.17.
repeated: the same loan
(?:INVALID_ARGUMENT|InvalidArgument) \(INVALID_FIELD\)
(?:  (?:loan_amount|interest_rate|tenure_months): [^\n]+\n){3}"""
)
FIRST_CUSTOMER = 1_000_000_000_000_001
"""Each example registers the first customer of a database."""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the contract, google's types and the examples, as in this repository."""
    folder = tmp_path_factory.mktemp("repository")
    subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "contract.py"), "imports"], check=True, timeout=60
    )
    shutil.copytree(ROOT / ".build" / "googleapis", folder / ".build" / "googleapis")
    shutil.copytree(ROOT / "protos", folder / "protos")
    ignored = shutil.ignore_patterns("target", "Cargo.lock")
    shutil.copytree(ROOT / "docs" / "examples", folder / "docs" / "examples", ignore=ignored)
    return folder


def _command(language: str) -> list[str]:
    """The documented command that builds and runs an example, with the path of its program."""
    page = " ".join((ROOT / "docs" / "integration.md").read_text(encoding="utf-8").split())
    (command,) = re.findall(rf"`((?:cargo|mvn) [^`]*)` in `docs/examples/{language}`", page)
    program, *arguments = command.split()
    return [tool(program), *arguments]


def _output_of(command: list[str], folder: Path, env: dict[str, str]) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env=env
        | {
            "LC_ALL": "C.UTF-8",  # for the output of Java
            # Compiled dependencies are kept, without debug information.
            "CARGO_TARGET_DIR": str(ROOT / ".build" / "rust"),
            "CARGO_PROFILE_DEV_DEBUG": "0",
        },
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.replace("\x1b[0m", "")  # Maven resets the color at its end


@pytest.fixture(scope="module", params=["java", "rust"])
def example(request: pytest.FixtureRequest, repository: Path) -> tuple[list[str], Path]:
    """The command that runs a compiled example, and its folder."""
    language = str(request.param)
    command, folder = _command(language), repository / "docs" / "examples" / language
    build = {"java": ["-q", "-B", "compile"], "rust": ["build", "--quiet"]}[language]
    _output_of([command[0], *build], folder, dict(os.environ))
    return command, folder


def test_the_example_books_once_though_a_response_is_lost(
    example: tuple[list[str], Path],
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lost: list[str] = []

    def lose(point: str) -> None:
        """Lose the first response after the commit, as when a server dies there."""
        if point == "create_loan.after_commit" and not lost:
            lost.append(point)
            raise UnavailableError("SHUTTING_DOWN", "The response was lost.", 0.0)

    monkeypatch.setattr(failpoints, "reach", lose)
    command, folder = example
    printed = _output_of(command, folder, environment)
    assert OUTPUT.fullmatch(printed), printed
    assert lost == ["create_loan.after_commit"]
    with CreditClient(
        environment["CREDIT_ADDRESS"],
        tls=ClientTls(Path(environment["CREDIT_SERVER_CA"])),
        token=Path(environment["CREDIT_TOKEN_FILE"]),
    ) as client:
        request = ListLoansRequest(customer_id=FIRST_CUSTOMER)
        (page,) = client.pages(client.credit.ListLoans, request)
    assert sorted(loan.loan_amount.units for loan in page.loans) == [50_000, 800_000]
