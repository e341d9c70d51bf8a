"""What commands print: results on standard output, progress and failures on standard error.

NO_COLOR is heeded, and nothing moves where the output is no terminal.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.type.money_pb2 import Money
from rich.console import Console
from rich.table import Table
from rich.text import Text

from credit_service.domain.money import format_inr

SERVICE = "credit_service.v1.CreditService"
INGESTION_SERVICE = "credit_service.v1.IngestionService"

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def print_json(document: Mapping[str, Any]) -> None:
    """One JSON document on standard output."""
    out.print(Text(json.dumps(document, ensure_ascii=False, indent=2)), soft_wrap=True)


def print_failure(lines: Sequence[str]) -> None:
    """What went wrong: the first line stands out, the others follow."""
    first, *others = lines
    err.print(Text.assemble(("error: ", "bold red"), first), soft_wrap=True)
    for line in others:
        err.print(Text(line), soft_wrap=True)


def note(text: str) -> None:
    """A remark on standard error."""
    err.print(Text(text), soft_wrap=True)


def paste(call: str) -> Text:
    """A command to paste, on one line however long it is."""
    return Text(call, style="cyan", no_wrap=True)


def as_dict(message: Message) -> dict[str, Any]:
    """A message as JSON shows it, with the names of the contract."""
    document: dict[str, Any] = MessageToDict(message, preserving_proto_field_name=True)
    return document


def grpcurl(address: str, method: str, request: Message) -> str:
    """The same call for grpcurl. `method` is package.Service/Method."""
    return f"grpcurl -plaintext -d {_quoted_json(request)} {address} {method}"


def buf_curl(address: str, method: str, request: Message) -> str:
    """The same call for buf curl, which asks the server for the schema by reflection."""
    options = "--protocol grpc --http2-prior-knowledge"
    return f"buf curl {options} -d {_quoted_json(request)} http://{address}/{method}"


def _quoted_json(request: Message) -> str:
    return shlex.quote(json.dumps(_plain(request), ensure_ascii=False))


def _plain(message: Message) -> dict[str, Any]:
    """A request as a person would write it: ids as numbers, which JSON of protobuf has as text."""
    document: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.message_type is not None:
            document[field.name] = _plain(value)
        elif field.enum_type is not None:
            document[field.name] = field.enum_type.values_by_number[value].name
        else:
            document[field.name] = value
    return document


def paise(money: Money) -> int:
    """Money of the wire in paise; the service sends nothing finer."""
    return int(money.units) * 100 + int(money.nanos) // 10_000_000


def inr(money: Money) -> str:
    """Money of the wire for a person: '₹1,00,000.00'."""
    return format_inr(paise(money))


def plain_table(*columns: str) -> Table:
    """A table that also reads well without colour and when cut off."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
