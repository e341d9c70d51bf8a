"""Facts about methods and their handlers: database use, metrics, parsers."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError
from prometheus_client import Counter

from credit_service.domain.errors import InvalidRequestError
from credit_service.observability import metrics
from credit_service.observability.metrics import MethodMetrics, method_metrics
from credit_service.rpc.auth.gatekeeper import method_scopes
from credit_service.rpc.errors import REASONS
from credit_service.rpc.reflection import REFLECTION_METHODS
from credit_service.storage.cancellation import Kind
from credit_service.v1 import (
    credit_service_pb2,
    ingestion_service_pb2,
    scorecard_service_pb2,
)

if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[Any, Any]
else:
    # Generic for the type checker only.
    Handler = grpc.RpcMethodHandler

Behavior = Callable[..., Any]
Parse = Callable[[bytes], Any]

HEALTH_PREFIX = "/grpc.health.v1.Health/"
HEALTH_WATCH = f"{HEALTH_PREFIX}Watch"

_CONTRACT = (
    credit_service_pb2.DESCRIPTOR,
    ingestion_service_pb2.DESCRIPTOR,
    scorecard_service_pb2.DESCRIPTOR,
)
_WRITE_SCOPES = frozenset({"credit.write", "credit.review", "policy.write"})
# grpc's thread does not parse longer messages: they are padded, and take no customer lock.
_MAX_PARSED_BYTES = 4096


def is_reflection(method: str) -> bool:
    """Whether the method is one of server reflection."""
    return method in REFLECTION_METHODS


def _kinds() -> dict[str, Kind]:
    """What the contract's methods do in the database, by path.

    Methods that are not listed write nothing, or next to nothing.
    """
    services = [service for file in _CONTRACT for service in file.services_by_name.values()]
    kinds: dict[str, Kind] = {
        path: "write" for path, scope in method_scopes(services).items() if scope in _WRITE_SCOPES
    }
    for service in services:
        for method in service.methods:
            if method.client_streaming:
                kinds[f"/{service.full_name}/{method.name}"] = "ingestion"
    return kinds


KINDS = _kinds()
"""What a method does in the database, by its path '/package.Service/Method'."""


BATCHES = frozenset(
    f"/{service.full_name}/{method.name}"
    for file in _CONTRACT
    for service in file.services_by_name.values()
    for method in service.methods
    if method.name.startswith("Batch")
)
"""The methods that answer many requests in one call, by path."""


SHARED_READS = frozenset(
    f"/{credit_service_pb2.DESCRIPTOR.package}.CreditService/{name}"
    for name in ("CheckEligibility", "GetLoan")
)
"""The methods whose calls share reads, by path: see `shared_reads`."""


def contract_metrics() -> dict[str, MethodMetrics]:
    """Metrics of the contract's methods, by path."""
    metrics.show_reasons(REASONS)
    return {
        path: method_metrics(
            path,
            client_streaming=method.client_streaming,
            server_streaming=method.server_streaming,
        )
        for file in _CONTRACT
        for service in file.services_by_name.values()
        for method in service.methods
        for path in (f"/{service.full_name}/{method.name}",)
    }


def customer_reader(parse: Parse) -> Callable[[bytes], int]:
    """A function that reads the customer id of a message; it returns 0 where there is none."""

    def customer_of(data: bytes) -> int:
        if len(data) > _MAX_PARSED_BYTES:
            return 0
        try:
            message = parse(data)
        except InvalidRequestError:
            return 0
        # UpdateCustomer has the customer itself.
        return int(getattr(getattr(message, "customer", message), "customer_id", 0))

    return customer_of


def stream_handler_factory(handler: Handler) -> Callable[..., Handler]:
    """The factory of a handler with a request stream that answers as the given one does."""
    if handler.response_streaming:
        return grpc.stream_stream_rpc_method_handler
    return grpc.stream_unary_rpc_method_handler


def kind_and_behavior(handler: Handler) -> tuple[str, Any]:
    """The kind of a handler, such as 'unary_stream', and its behavior."""
    if handler.request_streaming and handler.response_streaming:
        return "stream_stream", handler.stream_stream
    if handler.request_streaming:
        return "stream_unary", handler.stream_unary
    if handler.response_streaming:
        return "unary_stream", handler.unary_stream
    return "unary_unary", handler.unary_unary


def request_parser(deserializer: Callable[[bytes], Any] | None) -> Parse:
    """A parser that raises InvalidRequestError for bytes that are not a message."""
    if deserializer is None:
        raise TypeError("the method has no deserializer")

    def parse(data: bytes) -> Any:
        try:
            return deserializer(data)
        except DecodeError as error:
            raise InvalidRequestError(
                "INVALID_FIELD",
                "The bytes sent are not a valid request message; encode them by the contract.",
            ) from error

    return parse


def counted(convert: Callable[[Any], Any], counter: Counter) -> Callable[[Any], Any]:
    """The conversion of a message, counting each message."""

    def convert_and_count(message: Any) -> Any:
        counter.inc()
        return convert(message)

    return convert_and_count
