"""A transcript: requests in YAML, with the service's response to each in protobuf's JSON format.

A file is a list of steps with `about` (its purpose) and `clock` (start date and time in India). A
step is a `note` and one of:

    call: CreateLoan            a method, with `request`, or `requests` for a stream
    clock: 2026-02-14 12:00     time passes
    workers: work               relay and actors run until they are idle
    parked: {task_id, …}        a task whose attempts all failed, as `Stage.park` stores it

Playing a transcript adds the result to each call: `response`, `responses` for a stream, or `error`
with all details. Generated ids and versions get names at their first appearance, `{loan}`,
`{loan2}` and so on, which requests may use; `{last_event}` is the last streamed event. Everything
else is unchanged.

Whole files are compared, so a difference is a diff of two transcripts.
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

from credit_service.v1 import (
    credit_service_pb2,
    ingestion_service_pb2,
    operations_service_pb2,
    scorecard_service_pb2,
)
from tests.golden.stage import Stage

METHODS: dict[str, MethodDescriptor] = {
    method.name: method
    for file in (
        *(credit_service_pb2, ingestion_service_pb2),
        *(operations_service_pb2, scorecard_service_pb2),
    )
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}

_TIMEOUT_SECONDS = 60
_KIND_OF_FIELD = {
    "customer_id": "customer",
    "loan_id": "loan",
    "decision_id": "decision",
    "payment_id": "payment",
    "offer_id": "offer",
    "event_id": "event",
    "cause_event_id": "event",
    "after_event_id": "event",
    "customer_version": "version",
    "version": "version",
    "next_page_token": "page",
    "page_token": "page",
}
_STEP_KEYS = ("note", "clock", "workers", "parked", "call")
_MOST_ON_A_LINE = 96
# Ids of these kinds are large enough to be recognized in the middle of a sentence.
_KNOWN_IN_TEXT = ("customer", "loan", "decision", "payment")
_NAME = re.compile(r"\{([a-z_]+[0-9]*)\}")
_LAST_EVENT = "last_event"

assert error_details_pb2.ErrorInfo.DESCRIPTOR


@dataclass(slots=True)
class Names:
    """The names of generated values, in order of appearance."""

    _names: dict[tuple[str, str], str] = field(default_factory=dict)
    _values: dict[str, str] = field(default_factory=lambda: {_LAST_EVENT: "0"})
    _given: set[tuple[str, str]] = field(default_factory=set)

    def give(self, request: Any, name: str = "") -> Any:
        """A request with names replaced by values. Its own ids are never replaced by names.

        Raises KeyError for an unknown name.
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
        """A response with generated values replaced by names."""
        if isinstance(answer, Mapping):
            # Maps are unordered on the wire.
            items = sorted(answer.items()) if name == "metadata" else answer.items()
            return {key: self.take(value, key) for key, value in items}
        if isinstance(answer, list):
            return [self.take(each, name) for each in answer]
        if not isinstance(answer, str):
            return answer
        kind = _KIND_OF_FIELD.get(name)
        if name == "version" and not answer.isdecimal():
            kind = None  # a scorecard's, which is chosen, not generated
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
    """The transcript with the results of playing it here. Raises ValueError for an invalid one."""
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
            stage.run_workers()
        case {"parked": task}:
            stage.park(**task)
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
    """The service's result, under its key in a step."""
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
    """The messages of a stream without heartbeats; a stream of events ends with the newest one."""
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
    # The error of a call is also the call, despite its type.
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
    """YAML in block style except for short, flat values; lists are indented."""

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
    """A transcript in its canonical form, with an empty line before each step."""
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
