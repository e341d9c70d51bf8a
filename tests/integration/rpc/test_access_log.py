"""The access log of a running server: each call has a line, and a customer's id finds its calls."""

import json
import subprocess
import threading
import uuid
from pathlib import Path
from typing import Any

import grpc
import pytest
from pydantic import SecretStr

from credit_service.settings import Settings
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import ingestion_pb2
from credit_service.v1 import ingestion_service_pb2 as ingestion_pb
from tests.integration import lending
from tests.integration.conftest import Edge
from tests.integration.rpc.test_identity_methods import ISSUER, KEY, bearing, token, write_keys
from tests.integration.rpc.test_rpc_server import eventually, raw
from tests.tools import tool

CREDIT = "credit_service.v1.CreditService/"
NAMES = ("Asha", "Rao", "98765")


class Lines:
    """The log so far."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.text = ""

    def all(self) -> list[dict[str, Any]]:
        self.text += self._capsys.readouterr().err
        found = [json.loads(line) for line in self.text.splitlines() if line.startswith("{")]
        return [line for line in found if line["logger"] == "credit_service.access"]

    def of(self, method: str, count: int = 1, **wanted: object) -> list[dict[str, Any]]:
        """The lines of a method, once there are enough."""

        def fitting() -> list[dict[str, Any]]:
            return [
                line
                for line in self.all()
                if line["method"] == method and wanted.items() <= line.items()
            ]

        eventually(lambda: len(fitting()) >= count)
        return fitting()


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Lines:
    return Lines(capsys)


@pytest.fixture
def settings(database_url: str) -> Settings:
    return Settings(
        database_url=SecretStr(database_url),
        redis_url=None,
        listen="127.0.0.1:0",
        threads=4,
        log_format="json",
    )


def test_each_call_has_a_line_with_the_ids_that_it_named_and_issued(
    lines: Lines, server: Edge
) -> None:
    customer_id = lending.register(server.credit, "+919876543210")
    request_id = str(uuid.uuid4())
    loan = server.credit.CreateLoan(
        lending.ask(customer_id, request_id), metadata=(("x-request-id", "my-call"),)
    )
    with pytest.raises(grpc.RpcError):
        server.credit.GetCustomer(pb.GetCustomerRequest(customer_id=999_999))
    (registered,) = lines.of(f"{CREDIT}RegisterCustomer")
    assert registered["customer_ids"] == [customer_id]
    assert (registered["status"], registered["scope"]) == ("OK", "credit.write")
    assert registered["principal"] == "anonymous"
    assert registered["duration_ms"] > 0
    (booked,) = lines.of(f"{CREDIT}CreateLoan")
    assert booked["call_id"] == "my-call"
    assert booked["customer_ids"] == [customer_id]
    assert booked["request_ids"] == [request_id]
    assert booked["decision_ids"] == [loan.decision_id]
    (missing,) = lines.of(f"{CREDIT}GetCustomer")
    assert (missing["status"], missing["reason"]) == ("NOT_FOUND", "CUSTOMER_NOT_FOUND")
    assert missing["customer_ids"] == [999_999]
    assert not any(name in lines.text for name in NAMES)


def test_streams_have_one_line_at_their_end(lines: Lines, server: Edge) -> None:
    customer_id = lending.register(server.credit, "+919876543210")
    ingestion = lending.import_loans(server, customer_id, 3)
    (line,) = lines.of("credit_service.v1.IngestionService/IngestRows")
    assert line["ingestion_ids"] == [ingestion.ingestion_id]
    assert line["scope"] == "ingest"
    assert line["messages_received"] >= 2
    # The response has the stored form of the id, regardless of the caller's notation.
    ingestion_id = str(uuid.uuid4())
    header = ingestion_pb.IngestRowsHeader(
        ingestion_id=ingestion_id.upper(), kind=ingestion_pb2.INGESTION_KIND_LOANS
    )
    server.ingestion.IngestRows(iter([ingestion_pb.IngestRowsRequest(header=header)]))
    line = lines.of("credit_service.v1.IngestionService/IngestRows", 2)[-1]
    assert ingestion_id in line["ingestion_ids"]
    watch: Any = server.credit.WatchCreditEvents(pb.WatchCreditEventsRequest())
    next(iter(watch))
    watch.cancel()
    (line,) = lines.of(f"{CREDIT}WatchCreditEvents")
    assert (line["status"], line["messages_received"]) == ("CANCELLED", 1)
    assert line["messages_sent"] >= 1


def test_invalid_messages_and_unknown_methods_are_logged(lines: Lines, server: Edge) -> None:
    with pytest.raises(grpc.RpcError):
        raw(server, f"/{CREDIT}GetCustomer")(b"\xff\xff")
    (line,) = lines.of(f"{CREDIT}GetCustomer")
    assert (line["status"], line["reason"]) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    for number in range(20):
        with pytest.raises(grpc.RpcError):
            raw(server, f"/made.up/Method{number}")(b"")

    def counted() -> int:
        found = [each for each in lines.all() if each["event"] == "calls_refused"]
        assert {each["reason"] for each in found} <= {"METHOD_NOT_IMPLEMENTED"}
        assert len(found) < 20
        return sum(each["count"] for each in found)

    eventually(lambda: counted() == 20)


def test_calls_that_are_shed_are_counted(
    lines: Lines, server: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.server._pipeline._reads.shedder, "waited_too_long", lambda: True)
    for _ in range(10):
        with pytest.raises(grpc.RpcError):
            server.credit.GetCustomer(pb.GetCustomerRequest(customer_id=1))
    monkeypatch.undo()
    eventually(
        lambda: sum(each["count"] for each in lines.all() if each["event"] == "calls_refused") == 10
    )
    assert {each["reason"] for each in lines.all()} == {"OVERLOADED"}


def test_health_checks_are_not_logged(lines: Lines, server: Edge) -> None:
    server.credit.ListCustomers(pb.ListCustomersRequest())
    lines.of(f"{CREDIT}ListCustomers")
    assert not [each for each in lines.all() if "Health" in each["method"]]


class TestCallersWithTokens:
    @pytest.fixture
    def settings(self, database_url: str, tmp_path: Path) -> Settings:
        keys = tmp_path / "jwks.json"
        write_keys(keys, k1=KEY)
        return Settings(
            database_url=SecretStr(database_url),
            redis_url=None,
            listen="127.0.0.1:0",
            threads=4,
            token_keys=keys,
            token_issuer=ISSUER,
            log_format="json",
            max_calls_per_second=3,
        )

    def test_a_rejected_caller_is_named_if_known(self, lines: Lines, server: Edge) -> None:
        request = pb.GetCustomerRequest(customer_id=5)
        for metadata in (None, bearing("nonsense"), bearing(token(scope="ingest"))):
            with pytest.raises(grpc.RpcError):
                server.credit.GetCustomer(request, metadata=metadata)
        found = lines.of(f"{CREDIT}GetCustomer", 3)
        assert [each["reason"] for each in found] == [
            "UNAUTHENTICATED",
            "UNAUTHENTICATED",
            "PERMISSION_DENIED",
        ]
        assert [each.get("principal") for each in found] == [None, None, "teller-7"]
        assert ["peer" in each for each in found] == [True, True, False]
        assert found[0]["peer"].startswith("ipv4:127.0.0.1:")
        assert not any("customer_ids" in each for each in found)

    def test_a_rate_limited_caller_is_named(self, lines: Lines, server: Edge) -> None:
        metadata = bearing(token(scope="credit.read"))
        for _ in range(20):
            with pytest.raises(grpc.RpcError):
                server.credit.GetCustomer(pb.GetCustomerRequest(customer_id=5), metadata=metadata)
        found = lines.of(f"{CREDIT}GetCustomer", 20)
        limited = [each for each in found if each["reason"] == "RATE_LIMITED"]
        assert limited
        assert {each["principal"] for each in limited} == {"teller-7"}


class TestSwitchedOff:
    @pytest.fixture
    def settings(self, database_url: str) -> Settings:
        return Settings(
            database_url=SecretStr(database_url),
            redis_url=None,
            listen="127.0.0.1:0",
            threads=4,
            log_format="json",
            access_log=False,
        )

    def test_no_lines_are_written_and_no_thread_runs(self, lines: Lines, server: Edge) -> None:
        customer_id = lending.register(server.credit, "+919876543210")
        lending.import_loans(server, customer_id, 1)
        next(iter(server.credit.WatchCreditEvents(pb.WatchCreditEventsRequest())))
        assert lines.all() == []
        assert "access-log" not in {each.name for each in threading.enumerate()}


ROOT = Path(__file__).parents[3]


def test_the_documented_query_finds_reads_and_changes_of_a_customer(
    lines: Lines, server: Edge, tmp_path: Path
) -> None:
    tool("jq")
    first = lending.register(server.credit, "+919876543210")
    second = lending.register(server.credit, "+919876543211")
    server.credit.CreateLoan(lending.ask(first))
    server.credit.GetCustomer(pb.GetCustomerRequest(customer_id=second))
    server.credit.ListCustomers(pb.ListCustomersRequest())
    lines.of(f"{CREDIT}ListCustomers")
    log = tmp_path / "log"
    log.write_text(lines.text + "not JSON: another program's line\n")
    documented = _documented_command()
    assert "42" in documented
    command = documented.replace("42", str(first)).replace("server.log", str(log))
    answer = subprocess.run(
        ["/bin/sh", "-c", command], capture_output=True, text=True, check=True, timeout=20
    )
    rows = [line.split("\t") for line in answer.stdout.splitlines()]
    assert [(row[2], row[3].rpartition("/")[2]) for row in rows] == [
        ("credit.write", "RegisterCustomer"),
        ("credit.write", "CreateLoan"),
        ("credit.read", "ListCustomers"),
    ]
    assert {row[1] for row in rows} == {"anonymous"}


def _documented_command() -> str:
    """The one of docs/operations.md, whose program is there everywhere Python is not enough."""
    text = (ROOT / "docs" / "operations.md").read_text()
    (line,) = [each for each in text.splitlines() if "customer_ids" in each and "jq" in each]
    return line.strip()
