"""The examples of docs/integration.md, run against a server with TLS and tokens, and a worker."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
import uuid
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from google.type.money_pb2 import Money
from pydantic import SecretStr

from credit_service.cli import app
from credit_service.observability import metrics
from credit_service.rpc.server import CreditServer
from credit_service.settings import Settings
from credit_service.storage.database import Database
from credit_service.v1 import ingestion_pb2, ingestion_service_pb2_grpc
from credit_service.v1.credit_service_pb2_grpc import CreditServiceStub
from credit_service_client.channel import SERVICE_CONFIG
from tests.integration.conftest import Edge
from tests.integration.rpc.test_limits import eventually, loan_request
from tests.tools import node_modules, tool
from workers.process import WorkerProcess

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "docs" / "examples"
SITE_PACKAGES = sysconfig.get_path("purelib")
SECONDS = 90

OUTPUT = re.compile(
    r"""rows read: 1 rejected: 0
rows read: 1 rejected: 0
Approved: ₹50,000.00 over 12 months at 12.5 % a year, ₹4,454.14 a month, the last ₹4,454.17.
retried: the same loan
offered ₹25000, lent ₹20000
INVALID_ARGUMENT \(INVALID_FIELD\)
(?:  \w+: [^\n]+\n){3}checked: approved
checked: error 3
(?:event: score_changed\n){0,2}event: loan_created
"""
)

PAYMENTS = """paid: installments settled 1
bounced: installments settled 0
a prepayment would leave 8 installments
prepaid: outstanding 6253.29
foreclosed for 6000.00: LOAN_STATE_CLOSED
new limit: 3200000.00
"""


@pytest.fixture
def settings(database_url: str, redis_url: str, tmp_path: Path) -> Settings:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "certificate.pem")
    assert app.run(["token", "key", str(tmp_path)]) == 0
    return Settings(
        database_url=SecretStr(database_url),
        redis_url=SecretStr(redis_url),
        listen="127.0.0.1:0",
        threads=4,
        tls_certificate=tmp_path / "certificate.pem",
        tls_private_key=tmp_path / "key.pem",
        token_keys=tmp_path / "jwks.json",
        token_issuer="credit-service-dev",
        worker_threads=2,
    )


@pytest.fixture
def environment(
    settings: Settings,
    database: Database,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[dict[str, str]]:
    """The settings of an example program."""
    capsys.readouterr()
    scopes = [f"--scope={scope}" for scope in ("credit.read", "credit.write", "ingest")]
    assert app.run(["token", f"--key={tmp_path / 'signing-key.private.jwk'}", *scopes]) == 0
    (tmp_path / "token").write_text(capsys.readouterr().out)
    server, worker = CreditServer(settings, database), WorkerProcess(settings)
    server.start()
    worker.start()
    yield {
        **os.environ,
        "CREDIT_ADDRESS": str(server.address),
        "CREDIT_SERVER_CA": str(tmp_path / "ca.pem"),
        "CREDIT_TOKEN_FILE": str(tmp_path / "token"),
    }
    worker.stop()
    server.stop(grace_seconds=5)


def output_of(*command: str, env: dict[str, str], cwd: Path | None = None) -> str:
    done = subprocess.run(
        command, env=env, cwd=cwd, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_python_client_works(environment: dict[str, str]) -> None:
    printed = output_of(sys.executable, str(EXAMPLES / "python/credit_client.py"), env=environment)
    assert OUTPUT.fullmatch(printed), printed
    paying = (sys.executable, str(EXAMPLES / "python/payments.py"), "880000001")
    assert output_of(*paying, env=environment) == PAYMENTS


def test_the_node_client_works(environment: dict[str, str]) -> None:
    environment = environment | {"NODE_PATH": node_modules("@grpc/grpc-js", "@grpc/proto-loader")}
    program = str(EXAMPLES / "node/credit_client.cjs")
    folders = str(ROOT / "protos"), SITE_PACKAGES
    printed = output_of(tool("node"), program, *folders, env=environment)
    assert OUTPUT.fullmatch(printed), printed
    paying = (tool("node"), str(EXAMPLES / "node/payments.cjs"), *folders, "880000002")
    assert output_of(*paying, env=environment) == PAYMENTS


def test_the_documented_command_generates_the_stubs(tmp_path: Path) -> None:
    page = (ROOT / "docs/integration.md").read_text(encoding="utf-8")
    (command,) = re.findall(
        r"^python -m grpc_tools.protoc .*?[^\\]$", page, re.MULTILINE | re.DOTALL
    )
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        ["/bin/sh", "-ec", command],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        timeout=SECONDS,
        check=True,
    )
    made = {each.name for each in (tmp_path / "credit_service/v1").glob("*.py")}
    assert {"credit_service_pb2.py", "ingestion_service_pb2_grpc.py", "options_pb2.py"} <= made


def test_the_documented_service_config_equals_that_of_the_client() -> None:
    text = (EXAMPLES / "service-config.json").read_text(encoding="utf-8")
    assert json.loads(text) == SERVICE_CONFIG
    page = (ROOT / "docs" / "integration.md").read_text("utf-8")
    assert text in re.findall(r"```json\n(.*?)```", page, re.DOTALL)


# Error handling of the Python client.


@pytest.fixture(scope="module")
def client() -> Any:
    spec = spec_from_file_location("credit_client", EXAMPLES / "python/credit_client.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_events_are_followed_after_a_token_expires(
    client: Any,
    environment: dict[str, str],
    settings: Settings,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    where = environment["CREDIT_ADDRESS"], tmp_path / "ca.pem"
    rotated = tmp_path / "rotated"
    assert app.run(["token", "key", str(rotated)]) == 0
    capsys.readouterr()
    key = f"--key={rotated / 'signing-key.private.jwk'}"
    assert app.run(["token", key, "--scope=credit.read", "--scope=credit.write"]) == 0
    new_token = token_in(capsys.readouterr().out)
    channel = client.connect(*where, Path(environment["CREDIT_TOKEN_FILE"]))
    customer_id = registered(client, channel).customer_id
    service = CreditServiceStub(channel)
    events = client.follow(service, after_event_id=0, customer_id=customer_id)
    assert next(events).HasField("customer_registered")

    (tmp_path / "token").write_text(new_token)
    assert settings.token_keys is not None
    (rotated / "jwks.json").replace(settings.token_keys)
    # The server ends the stream, and then accepts the new key.
    eventually(lambda: metrics.REGISTRY.get_sample_value("credit_server_streams") == 0, 60)
    service.CreateLoan(loan_request(customer_id), timeout=20)
    for event in events:
        if event.HasField("loan_created") or event.HasField("loan_declined"):
            break
    channel.close()


def token_in(output: str) -> str:
    """The printed token, possibly between log lines of the server."""
    (token,) = re.findall(r"^[\w-]+\.[\w-]+\.[\w-]+$", output, re.MULTILINE)
    return str(token)


def registered(client: Any, channel: grpc.Channel) -> Any:
    request = client.credit_service_pb2.RegisterCustomerRequest(
        request_id=str(uuid.uuid4()),
        first_name="Asha",
        last_name="Rao",
        age=30,
        monthly_income=Money(units=50_000),
        phone_number="9876598765",
    )
    return client.answer_of(CreditServiceStub(channel).RegisterCustomer, request).customer


class TestTrouble:
    """Against a server without credentials, with failing calls in between."""

    @pytest.fixture
    def settings(self, database_url: str) -> Settings:
        return Settings(database_url=SecretStr(database_url), redis_url=None, listen="127.0.0.1:0")

    def test_rows_of_a_broken_stream_are_stored_once(self, client: Any, server: Edge) -> None:
        rows = [
            ingestion_pb2.CustomerRow(
                customer_id=number,
                first_name="Asha",
                last_name="Rao",
                age=30,
                phone_number=f"98765{number:05d}",
                monthly_income=Money(units=50_000),
            )
            for number in range(1, 2_502)
        ]
        kind, ingestion_id = ingestion_pb2.INGESTION_KIND_CUSTOMERS, str(uuid.uuid4())
        broken = BreaksAfter(server.ingestion, messages=2)
        done = client.ingest(broken, ingestion_id, kind, rows)
        assert broken.calls == 2
        assert (done.ingestion.inserted, done.ingestion.rows_read) == (2_501, 2_501)
        again = client.ingest(server.ingestion, ingestion_id, kind, rows)
        assert again.ingestion == done.ingestion

    def test_a_call_with_a_lost_response_is_retried(self, client: Any, server: Edge) -> None:
        request = client.credit_service_pb2.RegisterCustomerRequest(
            request_id=str(uuid.uuid4()),
            first_name="Asha",
            last_name="Rao",
            age=30,
            monthly_income=Money(units=50_000),
            phone_number="9876598765",
        )
        answers = []

        def losing(sent: Any, timeout: float) -> Any:
            answers.append(server.credit.RegisterCustomer(sent, timeout=timeout))
            if len(answers) == 1:
                # Executed by the server, but the response is lost: UNAVAILABLE.
                with grpc.insecure_channel("127.0.0.1:1") as nowhere:
                    CreditServiceStub(nowhere).RegisterCustomer(sent, timeout=timeout)
            return answers[-1]

        answer = client.answer_of(losing, request)
        assert answers == [answer, answer]
        request.age = 31
        with pytest.raises(client.RefusedError, match="REQUEST_ID_REUSED") as refused:
            client.answer_of(server.credit.RegisterCustomer, request)
        assert refused.value.metadata == {"request_id": request.request_id}


class BreaksAfter:
    """Ends the first IngestRows after some messages, like a broken connection."""

    def __init__(
        self, stub: ingestion_service_pb2_grpc.IngestionServiceStub, messages: int
    ) -> None:
        self.GetIngestion = stub.GetIngestion
        self._stub = stub
        self._messages = messages
        self.calls = 0

    def IngestRows(self, requests: Iterator[Any], timeout: float) -> Any:  # noqa: N802 - as the stub has it
        self.calls += 1
        if self.calls > 1:
            return self._stub.IngestRows(requests, timeout=timeout)

        def some() -> Iterator[Any]:
            for _, request in zip(range(self._messages), requests, strict=False):
                yield request
            # Neither more rows nor an end.
            over.wait(10)

        over = threading.Event()
        try:
            return self._stub.IngestRows(some(), timeout=1.0)
        finally:
            over.set()
