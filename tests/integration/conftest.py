"""A real server on a real port: `server`, with stubs, against the test's own database."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from pydantic import SecretStr

from credit_service.rpc.server import CreditServer
from credit_service.settings import Settings
from credit_service.storage.database import Database
from credit_service.v1.credit_service_pb2_grpc import CreditServiceStub
from credit_service.v1.ingestion_service_pb2_grpc import IngestionServiceStub
from credit_service.v1.operations_service_pb2_grpc import OperationsServiceStub
from credit_service.v1.scorecard_service_pb2_grpc import ScorecardServiceStub

_DETAILS: tuple[type[Message], ...] = (
    error_details_pb2.BadRequest,
    error_details_pb2.ResourceInfo,
    error_details_pb2.PreconditionFailure,
    error_details_pb2.RetryInfo,
    error_details_pb2.QuotaFailure,
)


@dataclass(frozen=True, slots=True)
class Edge:
    """A running server and ways to call it."""

    server: CreditServer
    target: str
    channel: grpc.Channel
    credit: CreditServiceStub
    ingestion: IngestionServiceStub
    scorecards: ScorecardServiceStub
    operations: OperationsServiceStub
    health: health_pb2_grpc.HealthStub

    @classmethod
    def of(cls, server: CreditServer, channel: grpc.Channel) -> "Edge":
        """Stubs on a channel to the server."""
        return cls(
            server,
            str(server.address),
            channel,
            CreditServiceStub(channel),
            IngestionServiceStub(channel),
            ScorecardServiceStub(channel),
            OperationsServiceStub(channel),
            health_pb2_grpc.HealthStub(channel),
        )


@dataclass(frozen=True, slots=True)
class Refusal:
    """The parts of a status."""

    code: grpc.StatusCode
    reason: str
    message: str
    metadata: dict[str, str]
    details: dict[str, Any]

    @property
    def fields(self) -> set[str]:
        """The fields listed in BadRequest."""
        return {each.field for each in self.details["BadRequest"].field_violations}


def refusal_of(error: grpc.RpcError) -> Refusal:
    """The error of a failed call; checks that it has an ErrorInfo of our domain."""
    # A grpc error is also the call, which the types do not express.
    call: Any = error
    status = rpc_status.from_call(call)
    assert status is not None, f"{call.code()} without details: {call.details()}"
    return taken_apart(status, call.code())


def taken_apart(status: status_pb2.Status, code: grpc.StatusCode) -> Refusal:
    """The ErrorInfo, of which every status has exactly one, and the other details by name."""
    assert status.code == code.value[0]
    infos, details = [], {}
    for packed in status.details:
        if packed.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo()
            packed.Unpack(info)
            infos.append(info)
            continue
        for kind in _DETAILS:
            if packed.Is(kind.DESCRIPTOR):
                message = kind()
                packed.Unpack(message)
                details[kind.__name__] = message
                break
        else:
            raise AssertionError(f"not a standard detail: {packed.type_url}")
    assert len(infos) == 1
    assert infos[0].domain == "credit_service"
    return Refusal(code, infos[0].reason, status.message, dict(infos[0].metadata), details)


def code_of(error: grpc.RpcError) -> grpc.StatusCode:
    """The status code of a failed call."""
    call: Any = error
    code: grpc.StatusCode = call.code()
    return code


@pytest.fixture
def settings(database_url: str) -> Settings:
    """The settings of `server`; a test that needs others overrides this fixture."""
    return Settings(
        database_url=SecretStr(database_url), redis_url=None, listen="127.0.0.1:0", threads=12
    )


@pytest.fixture
def server(settings: Settings, database: Database) -> Iterator[Edge]:
    """A server in this process that is ready, stopped after the test."""
    running = CreditServer(settings, database)
    running.start()
    with grpc.insecure_channel(str(running.address)) as channel:
        edge = Edge.of(running, channel)
        watch: Any = edge.health.Watch(health_pb2.HealthCheckRequest(), timeout=20)
        for status in watch:
            if status.status == health_pb2.HealthCheckResponse.SERVING:
                break
        watch.cancel()
        while running._health.watches:  # it counts until the server has noticed its end
            time.sleep(0.005)
        yield edge
    running.stop(grace_seconds=5)
