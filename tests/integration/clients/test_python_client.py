"""The package of clients/python against a server with TLS and tokens: its README, and a restart."""

import os
import re
import subprocess
import sys
import threading
from importlib import metadata
from pathlib import Path

import pytest

from credit_service.rpc.server import CreditServer
from credit_service.settings import Settings
from credit_service.storage.database import Database
from credit_service.v1.credit_service_pb2 import GetCustomerRequest, RegisterCustomerRequest
from credit_service_client import ClientTls, CreditClient, rupees
from tests.integration.clients.test_examples import ROOT, SECONDS, environment, settings

__all__ = ["environment", "settings"]

PACKAGE = ROOT / "clients" / "python"
DEPENDENCIES = ("grpcio", "protobuf", "googleapis-common-protos", "typing-extensions")

OUTPUT = re.compile(
    r"""stored: 1
stored: 1
Approved: ₹50,000.00 over 12 months at 12.5 % a year, ₹4,454.14 a month, the last ₹4,454.17.
(?:loan of 800000.00
loan of 50000.00|loan of 50000.00
loan of 800000.00)
INVALID_FIELD (?:\w+ ?)+
"""
)


@pytest.fixture
def dependencies(tmp_path: Path) -> Path:
    """A folder with the packages that the client depends on, and no others."""
    folder = tmp_path / "packages"
    folder.mkdir()
    for name in DEPENDENCIES:
        for file in metadata.files(name) or ():
            # Two packages share the folder google, so files are linked, not folders.
            place = folder / file
            if ".." not in file.parts:
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(Path(str(file.locate())))
    return folder


def test_the_readme_works_with_the_declared_dependencies_alone(
    environment: dict[str, str], dependencies: Path, tmp_path: Path
) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", (PACKAGE / "README.md").read_text(), re.DOTALL)
    (tmp_path / "program.py").write_text(program)
    packages = os.pathsep.join([str(dependencies), str(PACKAGE / "src")])
    done = subprocess.run(
        # -S: without the packages of this environment.
        [sys.executable, "-S", str(tmp_path / "program.py")],
        env=environment | {"PYTHONPATH": packages},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert OUTPUT.fullmatch(done.stdout), done.stdout


def test_a_write_during_a_restart_takes_effect_once(
    settings: Settings, database: Database, environment: dict[str, str]
) -> None:
    first = CreditServer(settings, database)
    first.start()
    address = str(first.address)
    with CreditClient(
        address,
        tls=ClientTls(Path(environment["CREDIT_SERVER_CA"])),
        token=Path(environment["CREDIT_TOKEN_FILE"]),
    ) as client:
        client.require_ready(30)
        first.stop(grace_seconds=0)
        second = CreditServer(settings.model_copy(update={"listen": address}), database)
        starting = threading.Timer(1.0, second.start)
        starting.start()
        request = RegisterCustomerRequest(
            first_name="Asha",
            last_name="Rao",
            age=34,
            monthly_income=rupees(80_000),
            phone_number="9876598899",
        )
        customer = client.credit.RegisterCustomer(request).customer
        starting.join()
        found = client.credit.GetCustomer(GetCustomerRequest(customer_id=customer.customer_id))
        assert found.customer == customer
        second.stop(grace_seconds=5)
