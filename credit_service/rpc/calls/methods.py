"""What is known of the methods: what they do in the database, their metrics, their handlers."""

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
from credit_service.v1 import credit_service_pb2, ingestion_service_pb2

if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[Any, Any]
else:
    # Generic for the type checker only.
    Handler = grpc.RpcMethodHandler

Behavior = Callable[..., Any]
Parse = Callable[[bytes], Any]

HEALTH_PREFIX = "/grpc.health.v1.Health/"
HEALTH_WATCH = f"{HEALTH_PREFIX}Watch"

_CONTRACT = (credit_service_pb2.DESCRIPTOR, ingestion_service_pb2.DESCRIPTOR)
# A longer message is not looked into on grpc's thread: it is padded, and takes no turn.
_MAX_LOOKED_INTO_BYTES = 4096


def is_reflection(method: str) -> bool:
    """Whether the method is one of server reflection."""
    return method in REFLECTION_METHODS


def _kinds() -> dict[str, Kind]:
    """What the methods of the contract do in the database, by path; those that only read left out.

    Other methods than these write nothing, or next to nothing.
    """
    services = [service for file in _CONTRACT for service in file.services_by_name.values()]
    kinds: dict[str, Kind] = {
        path: "write" for path, scope in method_scopes(services).items() if scope == "credit.write"
    }
    for service in services:
        for method in service.methods:
            if method.client_streaming:
                kinds[f"/{service.full_name}/{method.name}"] = "ingestion"
    return kinds


KINDS = _kinds()


def contract_metrics() -> dict[str, MethodMetrics]:
    """The metrics of every method of the contract, by path."""
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


def customer_finder(parse: Parse) -> Callable[[bytes], int]:
    """What finds the customer that a message names; 0 where it names none."""

    def customer_of(data: bytes) -> int:
        if len(data) > _MAX_LOOKED_INTO_BYTES:
            return 0
        try:
            return int(getattr(parse(data), "customer_id", 0))
        except InvalidRequestError:
            return 0

    return customer_of


def taking_streams(handler: Handler) -> Callable[..., Handler]:
    """What makes a handler that answers as the given one does and takes a stream of messages."""
    if handler.response_streaming:
        return grpc.stream_stream_rpc_method_handler
    return grpc.stream_unary_rpc_method_handler


def taken_apart(handler: Handler) -> tuple[str, Any]:
    """The name of a handler's kind, and the behavior inside."""
    if handler.request_streaming and handler.response_streaming:
        return "stream_stream", handler.stream_stream
    if handler.request_streaming:
        return "stream_unary", handler.stream_unary
    if handler.response_streaming:
        return "unary_stream", handler.unary_stream
    return "unary_unary", handler.unary_unary


def parser(deserializer: Callable[[bytes], Any] | None) -> Parse:
    if deserializer is None:
        raise TypeError("a method without a deserializer")

    def parse(data: bytes) -> Any:
        try:
            return deserializer(data)
        except DecodeError as error:
            raise InvalidRequestError(
                "INVALID_FIELD",
                "The bytes sent are not a valid request message; encode them by the contract.",
            ) from error

    return parse


def counting(convert: Callable[[Any], Any], counter: Counter) -> Callable[[Any], Any]:
    """The same conversion of a message, counted."""

    def counting(message: Any) -> Any:
        counter.inc()
        return convert(message)

    return counting
