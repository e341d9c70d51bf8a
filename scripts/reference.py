"""Renders the contract as Markdown pages from commented descriptors. Used by contract.py."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from textwrap import dedent

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
    MethodOptions,
    ServiceDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

OUR_PACKAGE = "credit_service.v1"
_REASONS = "ErrorReason"
_GENERATED = "<!-- Generated from protos/ by `make generate`. Do not edit. -->\n"
_MESSAGES, _ERRORS = "messages.md", "errors.md"
_SCALARS = {
    FieldDescriptorProto.TYPE_BOOL: "bool",
    FieldDescriptorProto.TYPE_BYTES: "bytes",
    FieldDescriptorProto.TYPE_INT32: "int32",
    FieldDescriptorProto.TYPE_INT64: "int64",
    FieldDescriptorProto.TYPE_STRING: "string",
}
_WELL_KNOWN = {
    "google.type.Money": "[Money](README.md#money)",
    "google.type.Decimal": "[Decimal](README.md#decimal)",
    "google.type.Date": "[Date](README.md#date)",
    "google.protobuf.Timestamp": "[Timestamp](README.md#timestamp)",
    "google.protobuf.FieldMask": "[FieldMask](README.md#fieldmask)",
    "google.rpc.Status": "[Status](README.md#status)",
}
_INTRODUCTION = """\
# Contract reference

The package is `credit_service.v1`. Its `.proto` files are in
[protos/](../../protos/credit_service/v1); a running server returns them by reflection.
[Recipes](../recipes.md) has a command to paste for every method,
[Integrating](../integration.md) has complete clients.

## Values

The JSON form of the Google types, as protobuf writes it. 64-bit numbers are strings in JSON.

### Money

`google.type.Money`: `units` are rupees, `nanos` are billionths of a rupee, both with the same sign.
₹1,00,000.50 is `{"units": "100000", "nanos": 500000000}`. An empty `currency_code` means INR. Other
currencies and amounts finer than a paisa (10,000,000 nanos) are rejected.

### Decimal

`google.type.Decimal`: an exact number as text: `{"value": "12.5"}`. Rates are in percent per year.

### Date

`google.type.Date`: a civil day in the business time zone: `{"year": 2026, "month": 1, "day": 31}`.

### Timestamp

`google.protobuf.Timestamp`: an instant, in JSON as text in UTC: `"2026-01-31T06:30:00Z"`.

### FieldMask

`google.protobuf.FieldMask`: names of fields, in JSON as text, comma-separated in camelCase:
`"monthlyIncome,phoneNumber"`.

### Status

`google.rpc.Status`: an error, where a response contains one. `code` is the number of the status,
`details` are those of a failed call: [errors](errors.md).

## Methods

`stream` marks a streaming request or response.

"""


@dataclass(slots=True)
class _Contract:
    """Our files, the comment of each element, and the page that contains it."""

    files: list[FileDescriptorProto]
    comments: dict[str, str] = field(default_factory=dict)
    pages: dict[str, str] = field(default_factory=dict)
    scopes: dict[str, str] = field(default_factory=dict)

    def about(self, name: str) -> str:
        """The comment of a dotted name, without the leading space of each line."""
        return "\n".join(line.strip() for line in self.comments[name].strip().splitlines())


def render(descriptor_set: bytes) -> dict[str, bytes]:
    """The pages by file name, from a serialized FileDescriptorSet with imports and comments."""
    every = FileDescriptorSet.FromString(descriptor_set)
    contract = _Contract([file for file in every.file if file.package == OUR_PACKAGE])
    contract.scopes = _scopes(every)
    for file in contract.files:
        _read_comments(contract, file)
        page = _page_of(file)
        contract.pages |= {each.name: page for each in (*file.message_type, *file.enum_type)}
    pages = {"README.md": _index(contract), _MESSAGES: _messages(contract)}
    pages[_ERRORS] = _errors(contract)
    for file in contract.files:
        for service in file.service:
            pages[_page_of(file)] = _service(contract, file, service)
    return {name: (_GENERATED + text.rstrip() + "\n").encode() for name, text in pages.items()}


def _scopes(every: FileDescriptorSet) -> dict[str, str]:
    """The scope of each method, read by the contract's own extension of MethodOptions."""
    pool = DescriptorPool()
    for file in every.file:
        pool.Add(file)
    extension = pool.FindExtensionByName(f"{OUR_PACKAGE}.scope")
    options = GetMessageClass(pool.FindMessageTypeByName("google.protobuf.MethodOptions"))
    return {
        method.name: options.FromString(method.options.SerializeToString()).Extensions[extension]
        for file in every.file
        for service in file.service
        for method in service.method
    }


def _read_comments(contract: _Contract, file: FileDescriptorProto) -> None:
    """Read the comment of each message, field, enum, value, service and method."""
    named: dict[tuple[int, ...], str] = {}
    for index, message in enumerate(file.message_type):
        named[4, index] = message.name
        for place, each in enumerate(message.field):
            named[4, index, 2, place] = f"{message.name}.{each.name}"
        for place, oneof in enumerate(message.oneof_decl):
            named[4, index, 8, place] = f"{message.name}.{oneof.name}"
    for index, enum in enumerate(file.enum_type):
        named[5, index] = enum.name
        for place, value in enumerate(enum.value):
            named[5, index, 2, place] = value.name
    for index, extension in enumerate(file.extension):
        named[7, index] = extension.name
    for index, service in enumerate(file.service):
        named[6, index] = service.name
        for place, method in enumerate(service.method):
            named[6, index, 2, place] = f"{service.name}.{method.name}"
    for location in file.source_code_info.location:
        name = named.get(tuple(location.path))
        if name is not None:
            contract.comments[name] = location.leading_comments


def _page_of(file: FileDescriptorProto) -> str:
    if file.service:
        return f"{file.service[0].name.removesuffix('Service').lower()}-service.md"
    return _ERRORS if any(enum.name == _REASONS for enum in file.enum_type) else _MESSAGES


# Pages.


def _index(contract: _Contract) -> str:
    rows = [
        f"| [{service.name}/{method.name}]({_page_of(file)}#{method.name.lower()}) "
        f"| {_sides(method)[0]} | {_sides(method)[1]} | `{contract.scopes[method.name]}` |"
        for file in contract.files
        for service in file.service
        for method in service.method
    ]
    scopes = dedent(contract.comments["scope"]).strip("\n")
    return (
        _INTRODUCTION
        + "| method | request | response | scope |\n|---|---|---|---|\n"
        + "\n".join(rows)
        + f"\n\nShared messages are in [messages]({_MESSAGES}), all errors in\n"
        + f"[errors]({_ERRORS}).\n\n## Scopes\n\n```text\n{scopes}\n```"
    )


def _service(
    contract: _Contract, file: FileDescriptorProto, service: ServiceDescriptorProto
) -> str:
    parts = [f"# {service.name}", contract.about(service.name)]
    messages = {message.name: message for message in file.message_type}
    for method in service.method:
        parts += _method(contract, service, method, messages)
    own = {_last(name) for m in service.method for name in (m.input_type, m.output_type)}
    others = [message for message in file.message_type if message.name not in own]
    if others:
        parts += ["## Messages"]
    for message in others:
        parts += _message(contract, message, "###")
    return "\n\n".join(parts)


def _method(
    contract: _Contract,
    service: ServiceDescriptorProto,
    method: MethodDescriptorProto,
    messages: dict[str, DescriptorProto],
) -> Iterator[str]:
    request, answer = _sides(method)
    reads = method.options.idempotency_level == MethodOptions.NO_SIDE_EFFECTS
    yield f"## {method.name}"
    yield (
        f"`rpc {method.name}({request}) returns ({answer})`, "
        f"scope `{contract.scopes[method.name]}`, "
        + ("without side effects." if reads else "writes.")
    )
    text, _, errors = contract.about(f"{service.name}.{method.name}").partition("Errors:")
    yield text.strip()
    yield "### Request"
    yield from _body(contract, messages[_last(method.input_type)])
    yield "### Response"
    yield from _body(contract, messages[_last(method.output_type)])
    yield "### Errors"
    yield "\n".join(f"- {_linked(entry)}" for entry in _error_entries(errors))


def _messages(contract: _Contract) -> str:
    parts = ["# Messages", "Messages shared by several methods, and the payloads of events."]
    for file in contract.files:
        if _page_of(file) == _MESSAGES:
            for message in file.message_type:
                parts += _message(contract, message)
            for enum in file.enum_type:
                parts += _enum(contract, enum)
    return "\n\n".join(parts)


def _errors(contract: _Contract) -> str:
    (enum,) = (e for file in contract.files for e in file.enum_type if e.name == _REASONS)
    parts = [
        "# Errors",
        contract.about(_REASONS),
        "A declined loan is not an error: CheckEligibility and CreateLoan return it as a response.",
        "| reason | status | details beside ErrorInfo |\n|---|---|---|\n"
        + "\n".join(
            f"| [{_reason(value.name)}](#{_reason(value.name).lower()}) | {status} | {details} |"
            for value in enum.value[1:]
            for status, details in [_status(contract.about(value.name))]
        ),
    ]
    for value in enum.value[1:]:
        text, _, metadata = contract.about(value.name).partition("Example metadata:")
        status, _ = _status(text)
        parts += [
            f"## {_reason(value.name)}",
            _joined(text).replace(status, f"**{status}**", 1),
            "Metadata: " + _code(_joined(metadata)),
        ]
    return "\n\n".join(parts)


# Pieces.


def _sides(method: MethodDescriptorProto) -> tuple[str, str]:
    request, answer = _last(method.input_type), _last(method.output_type)
    return (
        f"stream {request}" if method.client_streaming else request,
        f"stream {answer}" if method.server_streaming else answer,
    )


def _message(contract: _Contract, message: DescriptorProto, level: str = "##") -> Iterator[str]:
    yield f"{level} {message.name}"
    yield contract.about(message.name)
    yield from _body(contract, message, explain=False)


def _body(contract: _Contract, message: DescriptorProto, *, explain: bool = True) -> Iterator[str]:
    """The fields of a message as a table, preceded by its comment if that adds information."""
    text = contract.about(message.name)
    if explain and not re.fullmatch(r"(Request|Response) of \w+\.", text):
        yield text
    rows = ["| field | type | |", "|---|---|---|"]
    for each in message.field:
        name = f"`{each.name}`"
        if each.HasField("oneof_index") and not each.proto3_optional:
            name += f", of `{message.oneof_decl[each.oneof_index].name}`"
        about = _cell(contract.about(f"{message.name}.{each.name}"))
        rows.append(f"| {name} | {_type(contract, each)} | {about} |")
    yield "\n".join(rows)


def _enum(contract: _Contract, enum: EnumDescriptorProto) -> Iterator[str]:
    yield f"## {enum.name}"
    yield contract.about(enum.name)
    rows = ["| value | number | |", "|---|---|---|"]
    rows += [f"| `{v.name}` | {v.number} | {_cell(contract.about(v.name))} |" for v in enum.value]
    yield "\n".join(rows)


def _type(contract: _Contract, each: FieldDescriptorProto) -> str:
    name = each.type_name.removeprefix(".")
    if not name:
        text = _SCALARS[each.type]
    elif name in _WELL_KNOWN:
        text = _WELL_KNOWN[name]
    else:
        # The request and the response of a method are in the section of the method.
        section = re.sub(r"(Request|Response)$", "", _last(name)).lower()
        text = f"[{_last(name)}]({contract.pages[_last(name)]}#{section})"
    if each.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"list of {text}"
    return f"{text}, may be absent" if each.proto3_optional else text


def _error_entries(text: str) -> Iterable[str]:
    """The errors of a method, one for each status; each starts with the status in capitals."""
    return re.split(r" (?=[A-Z_]{5,} ?\()(?<!, )", " " + _joined(text))[1:]


def _linked(text: str) -> str:
    """The text with each reason in parentheses linked to its section."""

    def links(match: re.Match[str]) -> str:
        names = [name.strip() for name in match[1].split(",")]
        return "(" + ", ".join(f"[{name}]({_ERRORS}#{name.lower()})" for name in names) + ")"

    return re.sub(r"\(([A-Z][A-Z_]+(?:, [A-Z][A-Z_]+)*)\)", links, text)


def _status(text: str) -> tuple[str, str]:
    """The status at the start of a reason's comment, and the details sent with it."""
    match = re.match(r"([A-Z_]+)(?:, with ([\w. ]+?))?\.\s", text)
    if match is None:
        raise ValueError(f"no status at the start of: {text}")
    return match[1], (match[2] or "").replace("google.rpc.", "")


def _code(text: str) -> str:
    """Each JSON object in the text as code."""
    return re.sub(r"\{.*?\}", lambda match: f"`{match[0]}`", text)


def _joined(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return _joined(text).replace("|", "\\|")


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _reason(name: str) -> str:
    return name.removeprefix("ERROR_REASON_")
