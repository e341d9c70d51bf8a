"""Third-party clients, buf and Node, with reflection and with the .proto files."""

import base64
import json
import os
import subprocess
import sysconfig
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from google.rpc import error_details_pb2

from tests.contract_files import contract_files
from tests.integration.conftest import Edge
from tests.tools import node_modules, tool

ROOT = Path(__file__).parents[3]
PROTOS = ROOT / "protos"
SITE_PACKAGES = Path(sysconfig.get_path("purelib"))
BUF = Path(sysconfig.get_path("scripts")) / "buf"


def buf(
    server: Edge, path: str, *arguments: str, data: str = ""
) -> "subprocess.CompletedProcess[str]":
    """Run `buf curl` on the server; `path` is a method or empty."""
    given = ("-d", data) if data else ()
    return subprocess.run(
        [str(BUF), "curl", "--protocol", "grpc", "--http2-prior-knowledge", *arguments, *given,
         f"http://{server.target}/{path}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )  # fmt: skip


REGISTRATION = json.dumps(
    {
        "requestId": str(uuid4()),
        "firstName": "Asha",
        "lastName": "Rao",
        "age": 30,
        "monthlyIncome": {"currencyCode": "INR", "units": "50000"},
        "phoneNumber": "9876598765",
    }
)


@pytest.mark.parametrize("protocol", ["grpc-v1", "grpc-v1alpha"])
def test_buf_lists_and_calls_methods_by_reflection(server: Edge, protocol: str) -> None:
    by = ("--reflect-protocol", protocol)
    services = buf(server, "", *by, "--list-services")
    assert services.stdout.split() == [
        "credit_service.v1.CreditService",
        "credit_service.v1.IngestionService",
        "credit_service.v1.OperationsService",
        "credit_service.v1.ScorecardService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ]
    methods = buf(server, "", *by, "--list-methods")
    assert "credit_service.v1.CreditService/CreateLoan" in methods.stdout
    done = buf(server, "credit_service.v1.CreditService/RegisterCustomer", *by, data=REGISTRATION)
    assert json.loads(done.stdout)["customer"]["phoneNumber"] == "+919876598765"


def test_buf_shows_the_error_and_its_details(server: Edge) -> None:
    wrong = buf(
        server,
        "credit_service.v1.CreditService/CheckEligibility",
        data='{"customerId": 1, "interestRate": {"value": "much"}}',
    )
    assert wrong.returncode != 0
    shown = json.loads(wrong.stderr)
    assert shown["code"] == "invalid_argument"
    assert "interest_rate must be a decimal number such as 12.5, found 'much'." in shown["message"]
    assert [each["type"] for each in shown["details"]] == [
        error_details_pb2.ErrorInfo.DESCRIPTOR.full_name,
        error_details_pb2.BadRequest.DESCRIPTOR.full_name,
    ]
    # buf omits the padding of base64.
    info = error_details_pb2.ErrorInfo.FromString(
        base64.b64decode(shown["details"][0]["value"] + "==")
    )
    assert (info.reason, info.domain) == ("INVALID_FIELD", "credit_service")


def test_buf_calls_by_the_proto_files(server: Edge, tmp_path: Path) -> None:
    done = buf(
        server,
        "credit_service.v1.CreditService/RegisterCustomer",
        "--schema",
        str(contract_files(tmp_path)),
        data=REGISTRATION,
    )
    assert json.loads(done.stdout)["customer"]["lastName"] == "Rao"


def test_node_calls_by_the_proto_files_and_by_reflection(server: Edge) -> None:
    modules = node_modules("@grpc/grpc-js", "@grpc/proto-loader")
    script = Path(__file__).with_name("rpc_node.cjs")
    finished = subprocess.run(
        [tool("node"), str(script), server.target, str(PROTOS), str(SITE_PACKAGES)],
        env={**os.environ, "NODE_PATH": modules},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    answers: dict[str, Any] = json.loads(finished.stdout)
    assert set(answers) == {"protos", "v1", "v1alpha"}
    for answer in answers.values():
        assert answer["registered"]["customer"]["first_name"] == "Asha"
        assert answer["check"]["tenure_months"] == 12
        assert answer["loan"]["reasons"][0]["code"] == "DECLINE_REASON_CODE_NO_CREDIT_HISTORY"
        assert answer["bad"]["code"] == "INVALID_ARGUMENT"
        assert answer["bad"]["details"] == "tenure_months must be 1 to 480, found 481."
        assert answer["bad"]["status"] == 1
