"""Calls of any method of the contract, by its descriptor."""

from collections.abc import Iterator, Sequence
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass


def responses(
    channel: grpc.Channel,
    method: MethodDescriptor,
    requests: Sequence[Message],
    *,
    timeout_seconds: float | None,
    metadata: Sequence[tuple[str, str]] | None = None,
    wait_for_ready: bool | None = None,
) -> Iterator[Message]:
    """Call a method and yield its responses: one, or those of a stream, which ends with the
    iterator. A method that takes no stream gets the first request. Raises grpc.RpcError."""
    opener = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, False): channel.stream_unary,
        (True, True): channel.stream_stream,
    }[(method.client_streaming, method.server_streaming)]
    # The four kinds of calls take and return different types, which one type cannot express.
    invoke: Any = opener(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    response = invoke(
        iter(requests) if method.client_streaming else requests[0],
        timeout=timeout_seconds,
        metadata=metadata,
        wait_for_ready=wait_for_ready,
    )
    if not method.server_streaming:
        yield response
        return
    try:
        yield from response
    finally:
        response.cancel()
