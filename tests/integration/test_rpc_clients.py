"""Other people's clients: buf and Node, by reflection and by the .proto files."""

import base64
import json
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from google.rpc import error_details_pb2

from tests.integration.conftest import Edge

ROOT = Path(__file__).parents[2]
PROTOS = ROOT / "protos"
SITE_PACKAGES = Path(sysconfig.get_path("purelib"))
BUF = Path(sysconfig.get_path("scripts")) / "buf"
NODE_MODULES = Path(os.environ.get("CREDIT_NODE_MODULES", ROOT / ".build/node/node_modules"))
NODE_PACKAGES = "@grpc/grpc-js@1.14.7 @grpc/proto-loader@0.8.1"


def buf(
    server: Edge, path: str, *arguments: str, data: str = ""
) -> "subprocess.CompletedProcess[str]":
    """`buf curl` of the server; `path` is a method, or empty."""
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
        "firstName": "Asha",
        "lastName": "Rao",
        "age": 30,
        "monthlyIncome": {"currencyCode": "INR", "units": "50000"},
        "phoneNumber": "9876598765",
    }
)


@pytest.mark.parametrize("protocol", ["grpc-v1", "grpc-v1alpha"])
def test_buf_lists_and_calls_by_reflection(server: Edge, protocol: str) -> None:
    by = ("--reflect-protocol", protocol)
    services = buf(server, "", *by, "--list-services")
    assert services.stdout.split() == [
        "credit_service.v1.CreditService",
        "credit_service.v1.IngestionService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ]
    methods = buf(server, "", *by, "--list-methods")
    assert "credit_service.v1.CreditService/CreateLoan" in methods.stdout
    done = buf(server, "credit_service.v1.CreditService/RegisterCustomer", *by, data=REGISTRATION)
    assert json.loads(done.stdout)["customer"]["phoneNumber"] == "+919876598765"


def test_buf_shows_what_was_wrong(server: Edge) -> None:
    wrong = buf(
        server,
        "credit_service.v1.CreditService/CheckEligibility",
        data='{"customerId": 1, "interestRate": {"value": "much"}}',
    )
    assert wrong.returncode != 0
    told = json.loads(wrong.stderr)
    assert told["code"] == "invalid_argument"
    assert "interest_rate must be a decimal number such as 12.5, found 'much'." in told["message"]
    assert [each["type"] for each in told["details"]] == [
        error_details_pb2.ErrorInfo.DESCRIPTOR.full_name,
        error_details_pb2.BadRequest.DESCRIPTOR.full_name,
    ]
    # Base64 without its padding.
    info = error_details_pb2.ErrorInfo.FromString(
        base64.b64decode(told["details"][0]["value"] + "==")
    )
    assert (info.reason, info.domain) == ("INVALID_FIELD", "credit_service")


def test_buf_calls_by_the_proto_files(server: Edge, tmp_path: Path) -> None:
    shutil.copytree(PROTOS, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.binpb"))
    for name in ("money", "decimal", "date"):
        (tmp_path / "google/type").mkdir(parents=True, exist_ok=True)
        shutil.copy(SITE_PACKAGES / f"google/type/{name}.proto", tmp_path / "google/type")
    done = buf(
        server,
        "credit_service.v1.CreditService/RegisterCustomer",
        "--schema",
        str(tmp_path),
        data=REGISTRATION,
    )
    assert json.loads(done.stdout)["customer"]["lastName"] == "Rao"


@pytest.mark.skipif(
    not (NODE_MODULES / "@grpc/grpc-js").is_dir() or shutil.which("node") is None,
    reason=f"needs node and: npm install --prefix .build/node {NODE_PACKAGES}",
)
def test_node_calls_by_the_proto_files_and_by_reflection(server: Edge) -> None:
    script = Path(__file__).with_name("rpc_node.cjs")
    finished = subprocess.run(
        ["node", str(script), server.target, str(PROTOS), str(SITE_PACKAGES)],  # noqa: S607 - whichever node there is
        env={**os.environ, "NODE_PATH": str(NODE_MODULES)},
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
