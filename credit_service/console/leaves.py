"""Fields of any message as values: for a page as text, for a file as cells.

The descriptor decides the form, so that lists, exports and answers show a field alike.
"""

from collections.abc import Iterable
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from credit_service.client import display
from credit_service.console import formats
from credit_service.rupees import format_rupees

Value = str | int | bool | date | Decimal

MONEY = "google.type.Money"
DECIMAL = "google.type.Decimal"
DATE = "google.type.Date"
TIMESTAMP = "google.protobuf.Timestamp"
FIELD_MASK = "google.protobuf.FieldMask"
DURATION = "google.protobuf.Duration"
LEAF_MESSAGES = frozenset({MONEY, DECIMAL, DATE, TIMESTAMP, FIELD_MASK, DURATION})
"""Messages that a person reads and writes as one value."""


def message_class(descriptor: Any) -> type[Message]:
    """Return the class of a message."""
    found: type[Message] = GetMessageClass(descriptor)
    return found


def is_leaf(field: FieldDescriptor) -> bool:
    """Return whether a field holds one value, or several of them if it is repeated."""
    return field.message_type is None or field.message_type.full_name in LEAF_MESSAGES


def is_id(field: FieldDescriptor) -> bool:
    """Return whether a field is an identifier, which files contain as text."""
    return field.name.endswith("_id")


def field_of(descriptor: Any, path: str) -> FieldDescriptor:
    """Return the field at a dotted path, such as 'ask.loan_amount'. Raises KeyError."""
    *parents, last = path.split(".")
    for name in parents:
        descriptor = descriptor.fields_by_name[name].message_type
    found: FieldDescriptor = descriptor.fields_by_name[last]
    return found


def is_number(field: FieldDescriptor) -> bool:
    """Return whether a field has an amount, a rate or a count."""
    if field.message_type is not None:
        return field.message_type.full_name in (MONEY, DECIMAL)
    numeric = field.cpp_type not in (FieldDescriptor.CPPTYPE_STRING, FieldDescriptor.CPPTYPE_BOOL)
    return numeric and field.enum_type is None and not is_id(field)


def cell(message: Message, path: str) -> Value:
    """Return the field at a dotted path for a file: '' if it is unset, several joined by '; '.

    Amounts and rates are decimals, ids are text, times are text in UTC.
    """
    field = field_of(message.DESCRIPTOR, path)
    values = list(_found(message, path.split(".")))
    if not field.is_repeated and len(values) == 1:
        return _cell(field, values[0])
    return "; ".join(str(_cell(field, value)) for value in values)


def text(message: Message, path: str, zone: Any) -> str:
    """Return the field at a dotted path for a page: '—' if it is unset."""
    field = field_of(message.DESCRIPTOR, path)
    values = list(_found(message, path.split(".")))
    return ", ".join(shown(field, value, zone) for value in values) or "—"


def shown(field: FieldDescriptor, value: Any, zone: Any) -> str:
    """Return one value of a field for a page: '₹8,884.88', '29 Feb 2024', 'Closed'."""
    match field.message_type.full_name if field.message_type is not None else "":
        case "google.type.Money":
            return display.inr(value)
        case "google.type.Date":
            return formats.civil(value)
        case "google.protobuf.Timestamp":
            return formats.instant(value, zone)
    if field.enum_type is not None:
        return display.words(_enum_name(field.enum_type, value)) if value else "—"
    if field.type == FieldDescriptor.TYPE_BOOL:
        return "Yes" if value else "No"
    return str(_cell(field, value))


def _found(message: Message, names: list[str]) -> Iterable[Any]:
    name, *rest = names
    field = message.DESCRIPTOR.fields_by_name[name]
    value = getattr(message, name)
    if field.is_repeated:
        values = list(value)
    elif field.has_presence and not message.HasField(name):
        values = []
    else:
        values = [value]
    if not rest:
        return values
    return [each for part in values for each in _found(part, rest)]


def _cell(field: FieldDescriptor, value: Any) -> Value:
    if field.message_type is not None:
        return _message_cell(field.message_type.full_name, value)
    if field.enum_type is not None:
        return "" if value == 0 else _enum_name(field.enum_type, value)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return f"{len(value)} bytes"
    if is_id(field):
        return str(value) if value else ""
    if isinstance(value, bool | int | str):
        return value
    return str(value)


def _message_cell(name: str, value: Any) -> Value:
    if name == MONEY:
        return Decimal(format_rupees(display.paise(value)))
    if name == DECIMAL:
        try:
            return Decimal(value.value)
        except InvalidOperation:
            return str(value.value)
    if name == DATE:
        return date(value.year, value.month, value.day) if value.year else ""
    if name == TIMESTAMP:
        return formats.iso_instant(value)
    if name == FIELD_MASK:
        return ", ".join(value.paths)
    return str(value.ToJsonString())


def _enum_name(enum: Any, value: int) -> str:
    """Return the name of an enum value without the enum's prefix."""
    values = enum.values_by_number
    return short_name(enum, values[value].name) if value in values else f"UNKNOWN_{value}"


def short_name(enum: Any, name: str) -> str:
    """Return an enum value's name without the enum's prefix: LOAN_STATE_CLOSED gives CLOSED."""
    zero: str = enum.values_by_number[0].name
    return name.removeprefix(zero.removesuffix("UNSPECIFIED"))
