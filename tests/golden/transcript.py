"""A transcript: requests in YAML, and what the service answered to each, as protobuf's JSON has it.

A file is a list of steps under `about` (what it shows) and `clock` (date and time in India at its
beginning). A step is a `note` and one of:

    call: CreateLoan            a method, with `request`, or `requests` where it takes a stream
    clock: 2026-02-14 12:00     time passes
    workers: work               the relay publishes, the actors work, until all is done

Playing it writes under each call what came back: `response`, `responses` where they are a stream,
or `error` with every detail. Ids and versions that the service made are named where they first
appear, `{loan}`, `{loan2}` and so on, and a request may use the names; `{last_event}` is the last
event that was streamed. All else stands as it came.

Whole files are compared, so what differs shows as a diff of two transcripts.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import grpc
import yaml
from google.protobuf import json_format
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2  # so that details of errors are known by name
from grpc_status import rpc_status

from credit_service.v1 import credit_service_pb2, ingestion_service_pb2
from tests.golden.stage import Stage

METHODS: dict[str, MethodDescriptor] = {
    method.name: method
    for file in (credit_service_pb2, ingestion_service_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}

_TIMEOUT_SECONDS = 60
_KIND_OF_FIELD = {
    "customer_id": "customer",
    "loan_id": "loan",
    "decision_id": "decision",
    "payment_id": "payment",
    "event_id": "event",
    "cause_event_id": "event",
    "after_event_id": "event",
    "customer_version": "version",
    "version": "version",
    "next_page_token": "page",
    "page_token": "page",
}
_STEP_KEYS = ("note", "clock", "workers", "call")
_MOST_ON_A_LINE = 96
# Ids of these kinds are so large that one is known by itself in the middle of a sentence.
_KNOWN_IN_TEXT = ("customer", "loan", "decision", "payment")
_NAME = re.compile(r"\{([a-z_]+[0-9]*)\}")
_LAST_EVENT = "last_event"

assert error_details_pb2.ErrorInfo.DESCRIPTOR


@dataclass(slots=True)
class Names:
    """The names of what the service made, in the order in which it appeared."""

    _names: dict[tuple[str, str], str] = field(default_factory=dict)
    _values: dict[str, str] = field(default_factory=lambda: {_LAST_EVENT: "0"})
    _given: set[tuple[str, str]] = field(default_factory=set)

    def give(self, request: Any, name: str = "") -> Any:
        """A request with values in place of names. Its own ids are kept as they are from now on.

        Raises KeyError for a name that nothing has.
        """
        if isinstance(request, Mapping):
            return {key: self.give(value, key) for key, value in request.items()}
        if isinstance(request, list):
            return [self.give(each, name) for each in request]
        if isinstance(request, str):
            found = _NAME.sub(lambda match: self._values[match[1]], request)
            if found != request:
                return found
        if name in _KIND_OF_FIELD:
            self._given.add((_KIND_OF_FIELD[name], str(request)))
        return request

    def take(self, answer: Any, name: str = "") -> Any:
        """An answer with names in place of what the service made."""
        if isinstance(answer, Mapping):
            # A map of the wire has no order of its own.
            items = sorted(answer.items()) if name == "metadata" else answer.items()
            return {key: self.take(value, key) for key, value in items}
        if isinstance(answer, list):
            return [self.take(each, name) for each in answer]
        if not isinstance(answer, str):
            return answer
        kind = _KIND_OF_FIELD.get(name)
        if kind and answer and (kind, answer) not in self._given:
            return self._name(kind, answer)
        return re.sub(r"\b(?:\d{7}|\d{16})\b", self._known, answer)

    def _name(self, kind: str, value: str) -> str:
        if kind == "event" and int(value) > int(self._values[_LAST_EVENT]):
            self._values[_LAST_EVENT] = value
        if (kind, value) not in self._names:
            number = 1 + sum(each == kind for each, _ in self._names)
            name = kind if number == 1 else f"{kind}{number}"
            self._names[kind, value] = name
            self._values[name] = value
        return "{" + self._names[kind, value] + "}"

    def _known(self, match: re.Match[str]) -> str:
        names = (self._names.get((kind, match[0])) for kind in _KNOWN_IN_TEXT)
        name = next((each for each in names if each), None)
        return match[0] if name is None else "{" + name + "}"


def play(text: str, stage: Stage) -> str:
    """The transcript as it reads when it is played here. Raises ValueError for one that is none."""
    document = yaml.safe_load(text)
    stage.clock.set(_time(document["clock"]))
    names = Names()
    steps = [_step(step, stage, names) for step in document["steps"]]
    return write({"about": document["about"], "clock": document["clock"], "steps": steps})


def _step(step: Mapping[str, Any], stage: Stage, names: Names) -> dict[str, Any]:
    played = {key: step[key] for key in _STEP_KEYS if key in step}
    match step:
        case {"clock": at}:
            stage.clock.set(_time(at))
        case {"workers": "work"}:
            stage.let_workers_work()
        case {"call": name}:
            method = METHODS[name]
            key = "requests" if method.client_streaming else "request"
            played[key] = step[key]
            played |= names.take(_call(stage, method, names.give(step[key])))
        case _:
            raise ValueError(f"not a step: {step}")
    return played


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _call(stage: Stage, method: MethodDescriptor, request: Any) -> dict[str, Any]:
    """What the service answers, under the key of a step that says so."""
    kind = GetMessageClass(method.input_type)

    def message(document: Any) -> Message:
        made: Message = json_format.ParseDict(document, kind())
        return made

    kinds = ("stream" if method.client_streaming else "unary") + (
        "_stream" if method.server_streaming else "_unary"
    )
    invoke: Callable[..., Any] = getattr(stage.channel, kinds)(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=kind.SerializeToString,
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    sent: Any = (
        iter([message(each) for each in request]) if method.client_streaming else message(request)
    )
    try:
        if not method.server_streaming:
            return {"response": _document(invoke(sent, timeout=_TIMEOUT_SECONDS))}
        stream = invoke(sent, timeout=_TIMEOUT_SECONDS)
        found = [_document(each) for each in _until_caught_up(stream, stage)]
    except grpc.RpcError as error:
        return {"error": _error(error)}
    return {"responses": found}


def _until_caught_up(stream: Any, stage: Stage) -> Iterator[Message]:
    """The messages of a stream, without signs of life; one of events ends with the newest."""
    newest = stage.last_event_id()
    for response in stream:
        if not isinstance(response, credit_service_pb2.WatchCreditEventsResponse):
            yield response
            continue
        beat = response.WhichOneof("message") == "heartbeat"
        if not beat:
            yield response
        if (response.heartbeat.last_event_id if beat else response.event.event_id) >= newest:
            stream.cancel()
            return


def _document(message: Message) -> Any:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def _error(error: grpc.RpcError) -> dict[str, Any]:
    # An error of a call is the call itself, which the types do not say.
    call: Any = error
    status = rpc_status.from_call(call)
    assert status is not None, f"{call.code()} without details: {call.details()}"
    details = []
    for packed in status.details:
        document = _document(packed)
        kind = document.pop("@type").rpartition(".")[2]
        details.append({kind: document})
    return {"code": call.code().name, "message": status.message, "details": details}


class _Dumper(yaml.SafeDumper):
    """Block style, but for what is flat and short; lists are indented."""

    def represent_mapping(
        self, tag: str, mapping: Any, flow_style: bool | None = None
    ) -> yaml.MappingNode:
        node = super().represent_mapping(tag, mapping, flow_style)
        pairs = [(key.value, value.value) for key, value in node.value]
        is_step = bool(pairs) and pairs[0][0] in _STEP_KEYS
        if is_step or len(str(pairs)) > _MOST_ON_A_LINE:
            node.flow_style = False
        return node

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002 - the base class names it
        super().increase_indent(flow, indentless=False)

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the base class names it
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def write(document: Mapping[str, Any]) -> str:
    """A transcript in its one form, an empty line before each step."""
    head = {key: value for key, value in document.items() if key != "steps"}
    return _dumped(head) + "steps:\n" + "\n".join(map(_written, document["steps"]))


def _written(step: Mapping[str, Any]) -> str:
    lines = _dumped([step]).splitlines(keepends=True)
    return "".join(f"  {line}" if line.strip() else line for line in lines)


def _dumped(document: Mapping[str, Any] | Sequence[Any]) -> str:
    text: str = yaml.dump(
        document,
        Dumper=_Dumper,
        sort_keys=False,
        default_flow_style=None,
        allow_unicode=True,
        width=96,
    )
    return text
