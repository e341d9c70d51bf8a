"""Sends mutants as raw serialized messages through generic stubs."""

from collections.abc import Iterator, Sequence
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor

from tests.fuzz.contract import METHODS, path_of
from tests.fuzz.fields import Mutant
from tests.fuzz.judge import Answer

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
_TIMEOUT_SECONDS = 60.0
_WATCH_SECONDS = 0.25
_MAX_RESPONSES = 50
_WATCHES = frozenset({"WatchCreditEvents", "WatchIngestion"})


def send(channel: grpc.Channel, mutant: Mutant) -> Answer:
    """The answer to a mutant. A response stream that stays open is cancelled after a while."""
    method = METHODS[mutant.method]
    # Wait for mutants that must be rejected: on a busy machine a rejection can take a while.
    watch = mutant.method in _WATCHES and not mutant.refused
    timeout = _WATCH_SECONDS if watch else _TIMEOUT_SECONDS
    responses = []
    try:
        call = _started(channel, method, mutant.messages, timeout, mutant.metadata)
        for response in call:
            responses.append(response)
            if watch and len(responses) >= _MAX_RESPONSES:
                call.cancel()
                break
    except grpc.RpcError as error:
        failed: Any = error
        left = watch and failed.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        return Answer(tuple(responses), error, given_up=left)
    return Answer(tuple(responses))


def _started(
    channel: grpc.Channel,
    method: MethodDescriptor,
    messages: Sequence[bytes],
    timeout: float,
    metadata: Sequence[tuple[str, str | bytes]],
) -> Any:
    """An iterator of the responses. grpc allows calling every method as a stream."""
    response_class = message_factory.GetMessageClass(method.output_type)
    stub = channel.stream_stream(
        path_of(method),
        request_serializer=None,
        response_deserializer=response_class.FromString,
    )
    return stub(_given(messages), timeout=timeout, metadata=tuple(metadata) or None)


def _given(messages: Sequence[bytes]) -> Iterator[bytes]:
    yield from messages


def oversized(mutant: Mutant) -> bool:
    """Whether the library rejects a mutant before it reaches the service."""
    return any(len(message) > MAX_MESSAGE_BYTES for message in mutant.messages)
