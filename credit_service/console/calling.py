"""Calls any method of the contract, and reads requests of any method from JSON."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc import (
    error_details_pb2,  # noqa: F401 - JSON needs the types of details
    status_pb2,
)

from credit_service.client.methods import responses
from credit_service.console.calls import request_json
from credit_service.console.leaves import message_class
from credit_service.console.methods import Method
from credit_service.console.service import (
    CALL_TIMEOUT_SECONDS,
    STREAM_TIMEOUT_SECONDS,
    UPLOAD_TIMEOUT_SECONDS,
    Service,
)
from credit_service_client.errors import ServiceError

MAX_MESSAGES = 100
"""Messages that are read from a stream of responses."""
MAX_ANSWER_CHARACTERS = 200_000
_STATUS_DETAILS_KEY = "grpc-status-details-bin"


class RequestJsonError(Exception):
    """The text is not a request of the method. The message says where and why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call returned."""

    status: str
    milliseconds: int
    text: str
    """The messages as JSON, the first MAX_ANSWER_CHARACTERS of it."""
    is_cut: bool
    """Whether the text is longer."""
    count: int
    """Number of messages."""
    is_open: bool
    """Whether the console ended the stream of responses."""
    error: ServiceError | None
    details: str
    """The google.rpc.Status of a failed call as JSON, or ''."""


def answered(service: Service, method: Method, requests: Sequence[Message], most: int) -> Answer:
    """Call the method, and return its response, or the first `most` messages of a stream.

    A stream ends after STREAM_TIMEOUT_SECONDS at the latest. A failed call is an answer too.
    """
    found: list[Message] = []
    error: ServiceError | None = None
    details = ""
    streams = method.descriptor.server_streaming
    try:
        with service.recorded(*requests):
            try:
                found.extend(islice(_responses(service, method, requests), most))
            except grpc.RpcError as failure:
                details = _details(failure)
                raise
    except ServiceError as failure:
        error = failure
    call = service.calls[-1]
    is_late = streams and error is not None and error.code is grpc.StatusCode.DEADLINE_EXCEEDED
    text = "\n".join(pretty(each) for each in found)
    return Answer(
        status=call.status,
        milliseconds=call.milliseconds,
        text=text[:MAX_ANSWER_CHARACTERS],
        is_cut=len(text) > MAX_ANSWER_CHARACTERS,
        count=len(found),
        is_open=is_late or (streams and len(found) == most),
        error=None if is_late else error,
        details=details,
    )


def _responses(service: Service, method: Method, requests: Sequence[Message]) -> Iterator[Message]:
    kind = (method.descriptor.client_streaming, method.descriptor.server_streaming)
    timeout_seconds = {
        (False, False): CALL_TIMEOUT_SECONDS,
        (True, False): UPLOAD_TIMEOUT_SECONDS,
    }.get(kind, STREAM_TIMEOUT_SECONDS)
    return responses(
        service.channel,
        method.descriptor,
        requests,
        timeout_seconds=timeout_seconds,
        metadata=service.metadata,
        wait_for_ready=False,
    )


def _details(failure: Exception) -> str:
    """Return the google.rpc.Status of a failed call as JSON, or '' if it has none."""
    if isinstance(failure, grpc.Call):
        for key, value in failure.trailing_metadata() or ():
            if key == _STATUS_DETAILS_KEY:
                return pretty(status_pb2.Status.FromString(value))
    return ""


def pretty(message: Message) -> str:
    """Return a message as indented JSON, with the contract's field names."""
    return json.dumps(json.loads(request_json(message)), ensure_ascii=False, indent=2)


def requests_of(method: Method, text: str) -> list[Message]:
    """Return the requests in a JSON text: one, or for a client stream one or more in a row.

    Raises RequestJsonError.
    """
    decoder, found, place = json.JSONDecoder(), [], 0
    try:
        while text[place:].strip():
            place += len(text[place:]) - len(text[place:].lstrip())
            document, place = decoder.raw_decode(text, place)
            found.append(_request(method, document))
    except json.JSONDecodeError as error:
        raise RequestJsonError(
            f"This is not JSON: {error.msg}, line {error.lineno} column {error.colno}."
        ) from None
    except RecursionError:
        raise RequestJsonError("This is nested too deeply.") from None
    if not found or (len(found) > 1 and not method.descriptor.client_streaming):
        raise RequestJsonError(f"Enter one JSON object, found {len(found)}.")
    return found


def _request(method: Method, document: Any) -> Message:
    if not isinstance(document, dict):
        raise RequestJsonError("Enter a JSON object.")
    made = message_class(method.descriptor.input_type)()
    try:
        return json_format.ParseDict(document, made)
    except (json_format.ParseError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise RequestJsonError(f"This is not a request of {method.name}: {error}") from None
