"""The calls of a page as commands that make the same call from a terminal."""

import json
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from credit_service.v1 import (
    credit_service_pb2,
    ingestion_service_pb2,
    operations_service_pb2,
    scorecard_service_pb2,
)

SERVICES = (
    credit_service_pb2.DESCRIPTOR.services_by_name["CreditService"],
    ingestion_service_pb2.DESCRIPTOR.services_by_name["IngestionService"],
    scorecard_service_pb2.DESCRIPTOR.services_by_name["ScorecardService"],
    operations_service_pb2.DESCRIPTOR.services_by_name["OperationsService"],
)

_METHODS: dict[str, MethodDescriptor] = {
    method.input_type.full_name: method for service in SERVICES for method in service.methods
}
"""Methods by the full name of their request, which is unique per method."""

_REQUESTS: dict[str, Descriptor] = {
    f"{method.containing_service.full_name}/{method.name}": method.input_type
    for method in _METHODS.values()
}

_LARGEST_EXACT = 2**53
_INT64 = frozenset(
    {
        FieldDescriptor.TYPE_INT64,
        FieldDescriptor.TYPE_UINT64,
        FieldDescriptor.TYPE_SINT64,
        FieldDescriptor.TYPE_FIXED64,
        FieldDescriptor.TYPE_SFIXED64,
    }
)
_CHUNK_CHARACTERS = 1_398_100
"""Base64 characters per line: 1 MiB less a byte. As a multiple of 4, each line decodes alone."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call that was made, or that a form will make (`status` is '')."""

    method: str
    """package.Service/Method."""
    request_json: str
    status: str = ""
    milliseconds: int = 0

    @property
    def name(self) -> str:
        """The method's name without its service."""
        return self.method.rpartition("/")[2]


def full_method(request: Message) -> str:
    """Return the method of a request, as package.Service/Method."""
    method = _METHODS[request.DESCRIPTOR.full_name]
    return f"{method.containing_service.full_name}/{method.name}"


def request_json(request: Message) -> str:
    """Return a request as one line of JSON, with the contract's field names."""
    document = MessageToDict(request, preserving_proto_field_name=True)
    return json.dumps(_with_numbers(document, request.DESCRIPTOR), ensure_ascii=False)


def _with_messages_for_masks(call: Call) -> str:
    """Return the requests of a call, one or a stream, as grpcurl reads them."""
    decoder, place, written = json.JSONDecoder(), 0, []
    while place < len(call.request_json):
        document, place = decoder.raw_decode(call.request_json, place)
        place += 1  # The space between the requests of a stream.
        request = _for_grpcurl(document, _REQUESTS[call.method])
        written.append(json.dumps(request, ensure_ascii=False))
    return " ".join(written)


def _for_grpcurl(document: Any, descriptor: Descriptor) -> Any:
    """Return a request with field masks as grpcurl reads them: as messages instead of text."""
    if not isinstance(document, dict):
        return document
    fields = descriptor.fields_by_name
    return {
        name: _mask_as_message(value, fields[name].message_type) if name in fields else value
        for name, value in document.items()
    }


def _mask_as_message(value: Any, descriptor: Descriptor | None) -> Any:
    if descriptor is None:
        return value
    if isinstance(value, list):
        return [_mask_as_message(each, descriptor) for each in value]
    if descriptor.full_name == FieldMask.DESCRIPTOR.full_name:
        mask = FieldMask()
        mask.FromJsonString(value)
        return {"paths": list(mask.paths)}
    return _for_grpcurl(value, descriptor)


def _with_numbers(document: Any, descriptor: Any) -> Any:
    """Return 64-bit integers as numbers instead of text, if JSON readers keep them exact."""
    if not isinstance(document, dict):
        return document
    fields = descriptor.fields_by_name
    return {
        name: _number_or_same(value, fields[name]) if name in fields else value
        for name, value in document.items()
    }


def _number_or_same(value: Any, field: FieldDescriptor) -> Any:
    if isinstance(value, list):
        return [_number_or_same(each, field) for each in value]
    if field.message_type is not None:
        return _with_numbers(value, field.message_type)
    if field.type in _INT64 and abs(int(value)) < _LARGEST_EXACT:
        return int(value)
    return value


class Snippets:
    """Formats calls as commands for one server."""

    def __init__(
        self,
        address: str,
        ca: Path | None = None,
        certificate: Path | None = None,
        private_key: Path | None = None,
    ) -> None:
        """`address` is the host:port that the console calls. The paths are those of its TLS files:
        `ca` has the trusted authorities, None for no TLS; the others are its own certificate."""
        self._address = address
        self._has_tls = ca is not None
        self._files = [] if ca is None else [("cacert", ca)]
        self._options = [] if ca is None else [("ca", ca)]
        if ca is not None and certificate is not None and private_key is not None:
            self._files += [("cert", certificate), ("key", private_key)]
            self._options += [("certificate", certificate), ("private-key", private_key)]

    def _tls(self, dashes: str) -> str:
        return "".join(f" {dashes}{name} {shlex.quote(str(path))}" for name, path in self._files)

    def grpcurl(self, call: Call, *, with_token: bool) -> str:
        """Return the grpcurl command, with `$CREDIT_TOKEN` in place of the token."""
        feed, data = _data(replace(call, request_json=_with_messages_for_masks(call)))
        transport = self._tls("-") or " -plaintext"
        return (
            f"{feed}grpcurl{transport}{_header(with_token)} -d {data} {self._address} {call.method}"
        )

    def buf_curl(self, call: Call, *, with_token: bool) -> str:
        """Return the buf curl command, which reads the schema by server reflection."""
        feed, data = _data(call)
        data = "@-" if data == "@" else data
        transport = self._tls("--") or " --http2-prior-knowledge"
        scheme = "https" if self._has_tls else "http"
        return (
            f"{feed}buf curl --protocol grpc{transport}{_header(with_token)} "
            f"-d {data} {scheme}://{self._address}/{call.method}"
        )

    def credit_service(self, call: Call) -> str:
        """Return the credit-service command, which reads the token from CREDIT_TOKEN by itself."""
        feed, data = _data(call)
        data = "-" if data == "@" else data
        options = "".join(f" --{name} {shlex.quote(str(path))}" for name, path in self._options)
        return f"{feed}credit-service call {call.name} {data} --address {self._address}{options}"


def _header(with_token: bool) -> str:
    return ' -H "authorization: Bearer $CREDIT_TOKEN"' if with_token else ""


def _data(call: Call) -> tuple[str, str]:
    """Return the part before the pipe, and the argument of -d."""
    filename = _filename(call)
    if not filename:
        return "", shlex.quote(call.request_json)
    read = f"base64 -w {_CHUNK_CHARACTERS} {shlex.quote('./' + filename)}"
    wrap = 'sed \'s/.*/{"chunk":"&"}/\''
    return f"{{ echo {shlex.quote(call.request_json)}; {read} | {wrap}; }} | ", "@"


def _filename(call: Call) -> str:
    """Return the file that an upload reads, or '' if the call has all its requests."""
    if call.name != "UploadSpreadsheet":
        return ""
    try:
        header = json.loads(call.request_json).get("header", {})
    except json.JSONDecodeError:  # Several requests: the chunks are among them.
        return ""
    return str(header.get("filename", ""))
