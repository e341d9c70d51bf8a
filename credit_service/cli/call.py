"""`call` makes any RPC of the service from JSON: one message, or a stream of messages."""

import difflib
import json
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any
from uuid import uuid4

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2

from credit_service.cli.common import ExitCode, Format, Target, UsageError
from credit_service.cli.connection import CALL_TIMEOUT_SECONDS, connected
from credit_service.cli.output import Listing, as_dict, note, print_json, print_json_line, records
from credit_service.client.methods import responses
from credit_service.v1 import (
    credit_service_pb2,
    ingestion_service_pb2,
    operations_service_pb2,
    scorecard_service_pb2,
)
from credit_service_client.errors import decoded_errors

_SERVICES = (
    credit_service_pb2.DESCRIPTOR.services_by_name["CreditService"],
    ingestion_service_pb2.DESCRIPTOR.services_by_name["IngestionService"],
    scorecard_service_pb2.DESCRIPTOR.services_by_name["ScorecardService"],
    operations_service_pb2.DESCRIPTOR.services_by_name["OperationsService"],
    health_pb2.DESCRIPTOR.services_by_name["Health"],
)
METHODS: tuple[MethodDescriptor, ...] = tuple(
    method for service in _SERVICES for method in service.methods
)
"""Every method that can be called."""

# Examples for the types that people most often write incorrectly.
_EXAMPLES = {
    "google.type.Money": '{"units": 100000}',
    "google.type.Decimal": '{"value": "10.5"}',
    "google.type.Date": '{"year": 2026, "month": 1, "day": 31}',
}
_MAX_PROBLEMS = 10
_MAX_INPUT_CHARACTERS = 256 * 1024 * 1024


def list_methods(form: Format) -> int:
    """Print every method with its request fields."""
    if form.json:
        print_json(
            {
                "methods": [
                    {
                        "name": _path(method)[1:],
                        "request": method.input_type.full_name,
                        "response": method.output_type.full_name,
                        "client_streaming": method.client_streaming,
                        "server_streaming": method.server_streaming,
                    }
                    for method in METHODS
                ]
            }
        )
        return ExitCode.GOOD
    table = Listing("method", "request fields")
    for method in METHODS:
        streams = " (client stream)" if method.client_streaming else ""
        table.add(method.name, _field_names(method.input_type) + streams)
    if form.csv:
        table.print_csv()
    else:
        table.print()
    return ExitCode.GOOD


def call(
    name: str,
    request: str,
    target: Target,
    form: Format,
    *,
    first: int | None,
    timeout_seconds: float | None,
) -> int:
    """Call a method, print each response message, and return the exit code.

    Add a request_id to a write without one, and print it before the call. `first` ends a response
    stream after that many messages. Raises UsageError for an unknown method or an invalid request,
    ServiceError.
    """
    method = find_method(name)
    requests = read_requests(
        method, sys.stdin.read(_MAX_INPUT_CHARACTERS) if request == "-" else request
    )
    _fill_in_request_id(requests)
    if timeout_seconds is None and not (method.client_streaming or method.server_streaming):
        timeout_seconds = CALL_TIMEOUT_SECONDS
    with connected(target) as channel, decoded_errors():
        answers = responses(channel, method, requests, timeout_seconds=timeout_seconds)
        for number, response in enumerate(islice(answers, first)):
            _show(response, form, is_first=number == 0)
    return ExitCode.GOOD


def _fill_in_request_id(requests: Sequence[Message]) -> None:
    """Add a new request_id to each write without one. All its retries use it.

    Print it before the call, so that the user knows it even if the call fails.
    """
    for request in requests:
        if "request_id" not in request.DESCRIPTOR.fields_by_name:
            return
        # By name: the request messages have no common type with this field.
        filled: Any = request
        if not filled.request_id:
            filled.request_id = str(uuid4())
            note(
                f"Generated request_id {filled.request_id}. To retry this write safely, add it to "
                "the request."
            )


def _show(response: Message, form: Format, *, is_first: bool) -> None:
    if form.csv:
        records(response).print_csv(names=is_first)
        if token := getattr(response, "next_page_token", ""):
            note(f'There are more. Add to the request: "page_token": "{token}"')
    elif form.json:
        print_json_line(as_dict(response))
    else:
        print_json(as_dict(response))


# Methods.


def find_method(name: str) -> MethodDescriptor:
    """Return a method by its name: short, Service/Method or in full. Raises UsageError."""
    wanted = name.strip("/").replace("/", ".").casefold()
    for method in METHODS:
        if f".{method.full_name}".casefold().endswith(f".{wanted}"):
            return method
    names = [method.name for method in METHODS]
    folded = {each.casefold(): each for each in names}
    close = difflib.get_close_matches(wanted.rpartition(".")[2], folded, n=3, cutoff=0.5)
    meant = f" Did you mean {' or '.join(folded[each] for each in close)}?" if close else ""
    raise UsageError(f"There is no method {name}.{meant} The methods are: {', '.join(names)}")


def _path(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


def _field_names(descriptor: Descriptor) -> str:
    return ", ".join(field.name for field in descriptor.fields) or "none"


# Requests.


def read_requests(method: MethodDescriptor, text: str) -> list[Message]:
    """Return the messages of a JSON text: one, or for a client stream any number, in a row or list.

    Raises UsageError, which names each unknown field.
    """
    documents = _documents(text)
    if method.client_streaming:
        if len(documents) == 1 and isinstance(documents[0], list):
            documents = documents[0]
    elif len(documents) != 1:
        raise UsageError(f"{method.name} takes one JSON object, found {len(documents)}")
    return [_message(method, document) for document in documents]


def _documents(text: str) -> list[Any]:
    decoder, found, position = json.JSONDecoder(), [], 0
    while (position := _next_text(text, position)) < len(text):
        try:
            document, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise UsageError(
                f"the request is not JSON: {error.msg}, line {error.lineno} column {error.colno}"
            ) from None
        except RecursionError:
            raise UsageError("the request is nested too deeply") from None
        found.append(document)
    return found


def _next_text(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _message(method: MethodDescriptor, document: Any) -> Message:
    descriptor = method.input_type
    if not isinstance(document, dict):
        raise UsageError(
            f"a request of {method.name} must be a JSON object with: {_field_names(descriptor)}"
        )
    problems = list(islice(_problems(document, descriptor, ""), _MAX_PROBLEMS))
    if problems:
        raise UsageError("\n  ".join([f"invalid request for {method.name}:", *problems]))
    try:
        return ParseDict(document, GetMessageClass(descriptor)())
    except (ParseError, RecursionError, OverflowError) as error:
        raise UsageError(f"invalid request for {method.name}: {error}") from None


def _problems(document: dict[str, Any], descriptor: Descriptor, path: str) -> Iterator[str]:
    """Yield each unknown field of the document, and each value that is not of its field's type."""
    known = {name: field for field in descriptor.fields for name in (field.name, field.json_name)}
    for name, value in document.items():
        field = known.get(name)
        if field is None:
            yield (
                f"{path}{name}: unknown field.{_meant(name, known)} The fields are: "
                f"{_field_names(descriptor)}"
            )
        elif value is not None:
            yield from _problems_of_values(value, field, f"{path}{field.name}")


def _problems_of_values(value: Any, field: FieldDescriptor, path: str) -> Iterator[str]:
    descriptor = field.message_type
    if descriptor is None:
        return
    # Timestamps and similar types are texts in JSON. ParseDict validates them.
    if descriptor.full_name.startswith("google.protobuf."):
        return
    if field.is_repeated:
        if not isinstance(value, list):
            yield f"{path}: expected a list"
            return
        numbered = [(f"{path}[{number}]", each) for number, each in enumerate(value)]
    else:
        numbered = [(path, value)]
    for where, each in numbered:
        if isinstance(each, dict):
            yield from _problems(each, descriptor, f"{where}.")
        else:
            example = _EXAMPLES.get(descriptor.full_name)
            written = f", for example {example}" if example else f" with {_field_names(descriptor)}"
            yield f"{where}: expected a JSON object{written}"


def _meant(name: str, known: dict[str, FieldDescriptor]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {known[close[0]].name}?" if close else ""
