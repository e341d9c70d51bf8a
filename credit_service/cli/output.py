"""Output of commands: results on standard output, progress and failures on standard error.

The program wraps no lines, so that printed commands can be pasted and a pipe gets one record per
line. It respects NO_COLOR, and animates nothing unless the output is a terminal.

`print_data` is the one place that prints messages for programs: as the JSON of the contract, or as
CSV with a column for each of its fields.
"""

import base64
import csv
import json
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import zip_longest
from typing import Any, Literal, NamedTuple

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from credit_service.cli.common import Format
from credit_service.client.csv_cells import neutralised
from credit_service.client.display import enum_name, inr, number_name, paise
from credit_service.rupees import RUPEE_PAISE, group_digits
from credit_service.v1 import decision_pb2

SERVICE = "credit_service.v1.CreditService"


out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(document: Mapping[str, Any]) -> None:
    """Print one JSON document on standard output."""
    out.print(Text(json.dumps(document, ensure_ascii=False, indent=2)), soft_wrap=True)


def counted(number: int, noun: str) -> str:
    """Return a number of things in words: '1 row', '1,00,000 rows'."""
    return f"{group_digits(number)} {noun}{'' if number == 1 else 's'}"


def print_failure(lines: Sequence[str]) -> None:
    """Print an error on standard error: the first line with the mark `error:`, then the others."""
    first, *others = lines
    err.print(Text.assemble(("error: ", "bold red"), first), soft_wrap=True)
    for line in others:
        err.print(Text(line), soft_wrap=True)


def note(text: str) -> None:
    """Print a remark on standard error."""
    err.print(Text(text), soft_wrap=True)


def paste(call: str) -> Text:
    """Return a command to paste, on one line of any length."""
    return Text(call, style="cyan", no_wrap=True)


def as_dict(message: Message) -> dict[str, Any]:
    """Return a message as a JSON object with the contract's field names."""
    document: dict[str, Any] = MessageToDict(message, preserving_proto_field_name=True)
    return document


@dataclass(frozen=True, slots=True)
class Credentials:
    """Credentials of a call to paste: shell words, which can contain variables. '' for none."""

    ca: str = ""
    certificate: str = ""
    private_key: str = ""
    token: str = ""


_NONE = Credentials()


def grpcurl(address: str, method: str, request: Message, with_: Credentials = _NONE) -> str:
    """Return the call as a grpcurl command. `method` is package.Service/Method."""
    words = ["grpcurl", f"-cacert {with_.ca}" if with_.ca else "-plaintext"]
    if with_.certificate:
        words.append(f"-cert {with_.certificate} -key {with_.private_key}")
    if with_.token:
        words.append(f'-H "authorization: Bearer {with_.token}"')
    return " ".join([*words, f"-d {_quoted_json(request)} {address} {method}"])


def buf_curl(address: str, method: str, request: Message, with_: Credentials = _NONE) -> str:
    """Return the call as a buf curl command, which reads the schema by server reflection."""
    words = ["buf curl --protocol grpc"]
    words.append(f"--cacert {with_.ca}" if with_.ca else "--http2-prior-knowledge")
    if with_.certificate:
        words.append(f"--cert {with_.certificate} --key {with_.private_key}")
    if with_.token:
        words.append(f'-H "authorization: Bearer {with_.token}"')
    scheme = "https" if with_.ca else "http"
    return " ".join([*words, f"-d {_quoted_json(request)} {scheme}://{address}/{method}"])


def _quoted_json(request: Message) -> str:
    return shlex.quote(json.dumps(_plain(request), ensure_ascii=False))


def _plain(message: Message) -> dict[str, Any]:
    """Return a request as a person writes it: with ids as numbers, not as text like protobuf."""
    document: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.message_type is not None:
            document[field.name] = _plain(value)
        elif field.enum_type is not None:
            document[field.name] = field.enum_type.values_by_number[value].name
        else:
            document[field.name] = value
    return document


def decline_codes(codes: Iterable[Any]) -> list[str]:
    """Return the names of decline reasons."""
    return [enum_name(code, decision_pb2.DeclineReasonCode) for code in codes]


def instant(moment: Timestamp) -> str:
    """Return an instant in UTC, to the second: '2026-01-31 10:15:00Z'."""
    return f"{datetime.fromtimestamp(moment.seconds, UTC):%Y-%m-%d %H:%M:%SZ}"


_GAP = "  "
_CSV_NAMES = {"no.": "number"}


class Figure(NamedTuple):
    """A cell that shows a figure: for a person, and as a decimal number for a program."""

    text: str
    value: str


def money(amount: Any) -> Figure:
    """Return a google.type.Money as a cell: '₹1,00,000.00', for a program '100000.00'."""
    whole = paise(amount)
    rupees, rest = divmod(abs(whole), RUPEE_PAISE)
    return Figure(inr(amount), f"{'-' if whole < 0 else ''}{rupees}.{rest:02}")


def percent(rate: Any) -> Figure:
    """Return a google.type.Decimal in percent as a cell: '10.5 %', for a program '10.5'."""
    return Figure(f"{rate.value} %", rate.value)


class Listing:
    """Records of text in columns.

    On a terminal they form a table, or one block per record if the terminal is too narrow for the
    longest words. In a pipe or file each record is one line of tab-separated fields. As CSV,
    amounts and rates are decimal numbers.
    """

    def __init__(self, *columns: str | tuple[str, Literal["right"]]) -> None:
        """A column is its name, or (name, "right") for right-aligned figures."""
        self._names = [each if isinstance(each, str) else each[0] for each in columns]
        self._right = [not isinstance(each, str) for each in columns]
        self._rows: list[list[str]] = []
        self._values: list[list[str]] = []

    def add(self, *cells: str | Figure) -> None:
        """Add a record: one text or figure per column."""
        if len(cells) != len(self._names):
            raise ValueError(f"{len(self._names)} cells expected, found {len(cells)}")
        # A cell contains no line break and no tab.
        texts = [each.text if isinstance(each, Figure) else each for each in cells]
        self._rows.append([" ".join(each.split()) for each in texts])
        self._values.append(
            [each.value if isinstance(each, Figure) else neutralised(each) for each in cells]
        )

    def print_csv(self, *, names: bool = True) -> None:
        """Print all records as CSV on standard output, after a line of column names if `names`.

        A spreadsheet program treats no cell as a formula. A column without a name, which only
        decorates the table, is left out.
        """
        writer = csv.writer(out.file, lineterminator="\n")
        if names:
            writer.writerow(_CSV_NAMES.get(each) or _csv_name(each) for each in self._names if each)
        for row in self._values:
            writer.writerow(value for name, value in zip(self._names, row, strict=True) if name)
        out.file.flush()

    def print(self) -> None:
        """Print all records on standard output."""
        for text, style in self.lines(out.width if out.is_terminal else None):
            out.print(Text(text, style=style))

    def lines(self, width: int | None) -> Iterator[tuple[str, str]]:
        """Yield each line and its style for a terminal of `width` cells; None for no terminal."""
        if width is None:
            for row in (self._names, *self._rows):
                yield "\t".join(row), ""
            return
        widths = self._widths(width)
        if widths is None:
            yield from self._blocks()
            return
        for number, row in enumerate((self._names, *self._rows)):
            for line in self._wrapped(row, widths):
                yield line, "" if number else "bold"

    def _widths(self, width: int) -> list[int] | None:
        """Return column widths of at least the longest word, or None if they do not fit."""
        columns = list(zip(self._names, *self._rows, strict=True))
        wanted = [max(map(cell_len, column)) for column in columns]
        widths = [
            max(cell_len(word) for cell in column for word in cell.split() or [""])
            if not right
            else most
            for column, right, most in zip(columns, self._right, wanted, strict=True)
        ]
        room = width - len(_GAP) * (len(columns) - 1) - sum(widths)
        if room < 0:
            return None
        # Columns that miss the least width get it first, so that most columns need one line only.
        for index in sorted(range(len(columns)), key=lambda each: wanted[each] - widths[each]):
            more = min(room, wanted[index] - widths[index])
            widths[index] += more
            room -= more
        return widths

    def _wrapped(self, row: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
        cells = [list(_words_in(cell, width)) for cell, width in zip(row, widths, strict=True)]
        for parts in zip_longest(*cells, fillvalue=""):
            padded = (
                " " * (width - cell_len(part)) + part
                if right
                else part + " " * (width - cell_len(part))
                for part, width, right in zip(parts, widths, self._right, strict=True)
            )
            yield _GAP.join(padded).rstrip()

    def _blocks(self) -> Iterator[tuple[str, str]]:
        width = max(map(cell_len, self._names))
        for number, row in enumerate(self._rows):
            if number:
                yield "", ""
            for name, cell in zip(self._names, row, strict=True):
                if cell:
                    yield f"{name}{' ' * (width - cell_len(name))}{_GAP}{cell}".strip(), ""


def _csv_name(name: str) -> str:
    return re.sub(r"[^\w.]+", "_", name.lower()).strip("_")


def _words_in(cell: str, width: int) -> Iterator[str]:
    """Yield the cell in lines of at most `width` cells, broken between words only."""
    line = ""
    for word in cell.split():
        longer = f"{line} {word}" if line else word
        if line and cell_len(longer) > width:
            yield line
            line = word
        else:
            line = longer
    yield line


# Messages of the contract for programs.


def print_data(form: Format, response: Message, table: Listing | None = None) -> bool:
    """Print a response as JSON or CSV if `form` asks for it; return whether it does.

    As CSV it is `table`, by default a record for each item of a list, and one record for any other
    response. See `records`.
    """
    if form.json:
        print_json(as_dict(response))
    elif form.csv:
        (table or records(response)).print_csv()
    return form.json or form.csv


def print_json_line(document: Mapping[str, Any]) -> None:
    """Print a JSON document on one line, so that a program can read a stream of them."""
    out.print(Text(json.dumps(document, ensure_ascii=False)), soft_wrap=True)


def records(response: Message) -> Listing:
    """Return a response as records with a column for each field of the contract.

    A page of a list has a record for each item. A response that consists of one field is that
    field. Fields of a message in a message are columns such as `credit_score.score`, repeated
    messages are JSON in one cell, and unset fields are empty. Amounts and rates are decimal
    numbers, days and instants are those of ISO 8601, and enum values have no prefix.
    """
    message: Any = response
    fields: list[Any] = list(response.DESCRIPTOR.fields)
    if "next_page_token" in response.DESCRIPTOR.fields_by_name:
        fields = [each for each in fields if each.is_repeated]
    while len(fields) == 1 and _is_message(fields[0]):
        found = getattr(message, fields[0].name)
        if fields[0].is_repeated:
            return _listing(fields[0].message_type, found)
        message, fields = found, list(found.DESCRIPTOR.fields)
    return _listing(message.DESCRIPTOR, [message])


def _listing(descriptor: Any, messages: Iterable[Message]) -> Listing:
    table = Listing(*(name for name, _ in _cells(descriptor, None)))
    for each in messages:
        table.add(*(cell for _, cell in _cells(descriptor, each)))
    return table


def _cells(
    descriptor: Any, message: Message | None, path: str = ""
) -> Iterator[tuple[str, str | Figure]]:
    """Yield the columns of a message, each with its name; empty ones for None."""
    for field in descriptor.fields:
        name = f"{path}{field.name}"
        is_set = message is not None and not (
            field.has_presence and not message.HasField(field.name)
        )
        value = getattr(message, field.name) if is_set else None
        if _is_message(field) and not field.is_repeated:
            yield from _cells(field.message_type, value, f"{name}.")
        elif message is None or value is None:
            yield name, ""
        elif field.is_repeated and field.message_type is not None:
            items = as_dict(message).get(field.name)
            yield name, json.dumps(items, ensure_ascii=False) if items else ""
        elif field.is_repeated:
            yield name, ", ".join(_text(field, each) for each in value)
        else:
            yield name, _cell(field, value)


def _is_message(field: FieldDescriptor) -> bool:
    """Whether the field is a message of several columns."""
    return field.message_type is not None and field.message_type.full_name not in _VALUES


def _instant_cell(moment: Any) -> str:
    text: str = moment.ToJsonString()
    return text


def _day_cell(day: Any) -> str:
    return f"{day.year:04}-{day.month:02}-{day.day:02}" if day.year else ""


_VALUES: Mapping[str, Callable[[Any], str | Figure]] = {
    "google.type.Money": money,
    "google.type.Decimal": percent,
    "google.type.Date": _day_cell,
    "google.protobuf.Timestamp": _instant_cell,
    "google.protobuf.Duration": _instant_cell,
}
"""The messages that are one value."""


def _cell(field: FieldDescriptor, value: Any) -> str | Figure:
    if field.message_type is not None:
        return _VALUES[field.message_type.full_name](value)
    text = _text(field, value)
    return text if isinstance(value, str) else Figure(text, text)


def _text(field: FieldDescriptor, value: Any) -> str:
    if field.enum_type is not None:
        return number_name(value, field.enum_type) if value else ""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value).lower() if isinstance(value, bool) else str(value)
