"""The request of any method as a form: its fields, and typed values as a message and back.

The name of a field in the form is its path in the message, such as 'charges[0].amount'. The form of
a repeated message has as many entries as its value under '#charges' says. An empty field is unset.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.type.decimal_pb2 import Decimal as DecimalMessage

from credit_service.console import formats, leaves
from credit_service.console.formats import Typed
from credit_service.console.methods import comment

MAX_ENTRIES = 20
"""Entries of a repeated message that a form can have."""
MAX_INPUTS = 300
"""Inputs of a whole form."""
_LONG_TEXTS = frozenset({"document", "after_document"})
_NANOS_PER_PAISA = 10_000_000
_INT32 = frozenset({FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32})

_FORMATS = {
    leaves.MONEY: "Rupees, such as 1,25,000.50.",
    leaves.DECIMAL: "A decimal, such as 12.5.",
    leaves.DATE: "A date, YYYY-MM-DD.",
    leaves.TIMESTAMP: "A time, such as 2026-01-31T10:00:00Z.",
    leaves.FIELD_MASK: "Names of fields, comma-separated, such as age,monthly_income.",
    leaves.DURATION: "Seconds, such as 30s.",
}
"""How a person writes a message of one value."""


class NotAFormError(Exception):
    """A form cannot have this request. The message says why."""


@dataclass(frozen=True, slots=True)
class Input:
    """A field of the form: one value, or the chosen ones of several."""

    name: str
    field: FieldDescriptor

    @property
    def label(self) -> str:
        """The field's name in the contract."""
        return self.field.name

    @property
    def about(self) -> str:
        """The field's comment in the contract."""
        return comment(self.field.full_name)

    @property
    def format(self) -> str:
        """How its value is written, or ''."""
        if self.field.message_type is not None:
            return _FORMATS[self.field.message_type.full_name]
        if self.kind == "lines":
            return "One on each line."
        return "Base64." if self.field.type == FieldDescriptor.TYPE_BYTES else ""

    @property
    def kind(self) -> str:
        """How it is typed: text, number, date, long, lines, flag, choice or choices."""
        field = self.field
        if field.enum_type is not None:
            return "choices" if field.is_repeated else "choice"
        if field.is_repeated:
            return "lines"
        if field.type == FieldDescriptor.TYPE_BOOL:
            return "choice" if field.has_presence else "flag"
        if field.name in _LONG_TEXTS:
            return "long"
        if field.message_type is not None:
            return "date" if field.message_type.full_name == leaves.DATE else "text"
        return "text" if field.cpp_type == FieldDescriptor.CPPTYPE_STRING else "number"

    @property
    def options(self) -> Sequence[str]:
        """The values of a choice."""
        if self.field.enum_type is None:
            return ("true", "false")
        return [each.name for each in self.field.enum_type.values if each.number]

    @property
    def others(self) -> Sequence[str]:
        """The other fields of its oneof, of which a request has at most one."""
        oneof = self.field.containing_oneof
        if oneof is None or len(oneof.fields) < 2:
            return ()
        return [each.name for each in oneof.fields if each is not self.field]


@dataclass(frozen=True, slots=True)
class Group:
    """The fields of a message in a message. It is unset if all of them are empty."""

    name: str
    field: FieldDescriptor
    parts: "Sequence[Part]"

    @property
    def about(self) -> str:
        """The field's comment in the contract."""
        return comment(self.field.full_name)


@dataclass(frozen=True, slots=True)
class Entries:
    """The entries of a repeated message, each with its fields."""

    name: str
    field: FieldDescriptor
    entries: "Sequence[Group]"

    @property
    def about(self) -> str:
        """The field's comment in the contract."""
        return comment(self.field.full_name)


Part = Input | Group | Entries


def parts(descriptor: Any, values: Mapping[str, str], prefix: str = "") -> list[Part]:
    """Return the form of a message, with as many entries as the values say."""
    made: list[Part] = []
    for field in descriptor.fields:
        name = prefix + field.name
        if leaves.is_leaf(field):
            made.append(Input(name, field))
        elif field.is_repeated:
            entries = [
                Group(each, field, parts(field.message_type, values, f"{each}."))
                for each in _entries(name, values)
            ]
            made.append(Entries(name, field, entries))
        else:
            made.append(Group(name, field, parts(field.message_type, values, f"{name}.")))
    return made


def _entries(name: str, values: Mapping[str, str]) -> list[str]:
    text = values.get(f"#{name}", "0")
    count = int(text) if text.isascii() and text.isdigit() and len(text) < 4 else 0
    return [f"{name}[{number}]" for number in range(min(count, MAX_ENTRIES))]


def inputs(made: Iterable[Part]) -> Iterator[Input]:
    """Yield all fields of a form in order."""
    for part in made:
        match part:
            case Input():
                yield part
            case Group():
                yield from inputs(part.parts)
            case Entries():
                yield from inputs(part.entries)


def with_entry(descriptor: Any, values: Mapping[str, str], name: str) -> tuple[dict[str, str], str]:
    """Return the values with one more entry of a list, or unchanged with the problem."""
    count = len(_entries(name, values))
    more = {**values, f"#{name}": str(count + 1)}
    too_many = len(list(inputs(parts(descriptor, more)))) > MAX_INPUTS
    if count >= MAX_ENTRIES or too_many:
        return dict(values), "A form has no room for more entries. Edit the request as JSON."
    return more, ""


def without_entry(values: Mapping[str, str], name: str) -> dict[str, str]:
    """Return the values without one entry of a list, such as 'charges[0]'."""
    match = re.fullmatch(r"(.+)\[([0-9]{1,3})\]", name)
    if match is None:
        return dict(values)
    path, removed = match[1], int(match[2])
    numbered = re.compile(rf"(#?){re.escape(path)}\[([0-9]{{1,3}})\](.*)")
    kept: dict[str, str] = {}
    for key, value in values.items():
        found = numbered.fullmatch(key)
        if found is None:
            kept[key] = value
        elif (number := int(found[2])) != removed:
            kept[f"{found[1]}{path}[{number - (number > removed)}]{found[3]}"] = value
    kept[f"#{path}"] = str(max(0, len(_entries(path, values)) - 1))
    return kept


# Typed values as a message.


def read(descriptor: Any, values: Mapping[str, str]) -> tuple[Message, dict[str, str]]:
    """Return the typed request, and the problem of each field that is not of its type."""
    problems: dict[str, str] = {}
    message = leaves.message_class(descriptor)()
    _fill(message, parts(descriptor, values), values, problems)
    return message, problems


def _fill(
    message: Any, made: Sequence[Part], values: Mapping[str, str], problems: dict[str, str]
) -> bool:
    """Set the filled fields of a message. Return whether there are any."""
    chosen: dict[str, str] = {}
    filled = False
    for part in made:
        match part:
            case Input():
                found = _values_of(part, values, problems)
                _set(message, part.field, found)
                is_filled = bool(found)
            case Group():
                child = leaves.message_class(part.field.message_type)()
                is_filled = _fill(child, part.parts, values, problems)
                if is_filled:
                    getattr(message, part.field.name).CopyFrom(child)
            case Entries():
                for each in part.entries:
                    entry = getattr(message, part.field.name).add()
                    _fill(entry, each.parts, values, problems)
                is_filled = bool(part.entries)
        filled = filled or is_filled
        oneof = part.field.containing_oneof
        if is_filled and oneof is not None:
            other = chosen.setdefault(oneof.name, part.name)
            if other != part.name:
                problems[part.name] = f"Fill in either this field or {other}."
    return filled


def _set(message: Any, field: FieldDescriptor, found: list[Any]) -> None:
    if field.is_repeated:
        getattr(message, field.name).extend(found)
    elif found and field.message_type is not None:
        getattr(message, field.name).CopyFrom(found[0])
    elif found:
        setattr(message, field.name, found[0])


def _values_of(part: Input, values: Mapping[str, str], problems: dict[str, str]) -> list[Any]:
    """Return the typed values of a field: none if it is empty or has a problem."""
    if part.kind == "choices":
        enum: Any = part.field.enum_type
        numbers = enum.values_by_name
        return [numbers[each].number for each in part.options if f"{part.name}:{each}" in values]
    text = values.get(part.name, "")
    texts = text.split("\n") if part.kind == "lines" else [text]
    found = []
    for each in texts:
        written = each if part.kind in ("text", "long") else each.strip()
        if written.strip() or (written and part.field.type == FieldDescriptor.TYPE_STRING):
            try:
                found.append(_value(part.field, written))
            except ValueError as error:
                problems[part.name] = str(error)
    return found


def _value(field: FieldDescriptor, text: str) -> Any:
    """Return one typed value. Raises ValueError, whose message is for the user."""
    if field.message_type is not None:
        return _message_value(field.message_type, text.strip())
    if field.enum_type is not None:
        if text not in field.enum_type.values_by_name:
            raise ValueError(f"“{text[:40]}” is not a value of {field.enum_type.name}.")
        return field.enum_type.values_by_name[text].number
    if field.type == FieldDescriptor.TYPE_BOOL:
        return text == "true"
    if field.type == FieldDescriptor.TYPE_BYTES:
        try:
            return base64.b64decode(text, validate=True)
        except binascii.Error:
            raise ValueError("This is not base64.") from None
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return text.replace("\r\n", "\n")
    typed = Typed({"x": text})
    largest = formats.MAX_INT32 if field.cpp_type in _INT32 else formats.MAX_INT64
    return _without_problem(typed, typed.whole("x", largest))


def _message_value(descriptor: Any, text: str) -> Any:
    typed = Typed({"x": text})
    match descriptor.full_name:
        case leaves.MONEY:
            return _without_problem(typed, typed.money("x"))
        case leaves.DATE:
            return _without_problem(typed, typed.day("x"))
        case leaves.DECIMAL:
            return DecimalMessage(value=text)
    made: Any = leaves.message_class(descriptor)()
    if descriptor.full_name == leaves.FIELD_MASK:
        made.paths.extend(each for each in re.split(r"[\s,]+", text) if each)
        return made
    try:
        made.FromJsonString(text)
    except ValueError:
        raise ValueError(_FORMATS[descriptor.full_name]) from None
    return made


def _without_problem(typed: Typed, value: Any) -> Any:
    if typed.problems:
        raise ValueError(typed.problems["x"])
    return value


# A message as typed values.


def written(message: Message) -> dict[str, str]:
    """Return the values of the form that gives this message. Raises NotAFormError."""
    values: dict[str, str] = {}
    _write(message, "", values)
    if len(list(inputs(parts(message.DESCRIPTOR, values)))) > MAX_INPUTS:
        raise NotAFormError("This request has more fields than a form.")
    again, problems = read(message.DESCRIPTOR, values)
    if problems or _in_rupees(MessageToDict(again)) != _in_rupees(MessageToDict(message)):
        raise NotAFormError("This request has a value that a form cannot express.")
    return values


def _write(message: Any, prefix: str, values: dict[str, str]) -> None:
    for field, value in message.ListFields():
        name = prefix + field.name
        if not leaves.is_leaf(field):
            if field.is_repeated:
                values[f"#{name}"] = str(len(value))
                for number, each in enumerate(value):
                    _write(each, f"{name}[{number}].", values)
            else:
                _write(value, f"{name}.", values)
        elif field.enum_type is not None and field.is_repeated:
            values |= {f"{name}:{_enum_text(field, each)}": "true" for each in value}
        elif field.is_repeated:
            values[name] = "\n".join(_text(field, each) for each in value)
        else:
            values[name] = _text(field, value)
            if Input(name, field).kind != "long" and not values[name].isprintable():
                raise NotAFormError("This request has a line break or a similar character.")


def _text(field: FieldDescriptor, value: Any) -> str:
    if field.message_type is not None:
        return _message_text(field.message_type.full_name, value)
    if field.enum_type is not None:
        return _enum_text(field, value)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return "true" if value else "false"
    if field.type == FieldDescriptor.TYPE_BYTES:
        return base64.b64encode(value).decode()
    return str(value)


def _enum_text(field: FieldDescriptor, value: int) -> str:
    enum: Any = field.enum_type
    found = enum.values_by_number.get(value)
    return "" if found is None else str(found.name)


def _message_text(name: str, value: Any) -> str:
    match name:
        case leaves.MONEY:
            if value.currency_code not in ("", "INR") or value.nanos % _NANOS_PER_PAISA:
                raise NotAFormError("A form has amounts in rupees and paise only.")
            return formats.plain_amount(value)
        case leaves.DATE:
            return formats.iso(value)
        case leaves.DECIMAL:
            return str(value.value)
        case leaves.FIELD_MASK:
            return ",".join(value.paths)
    return str(value.ToJsonString())


def _in_rupees(document: Any) -> Any:
    """Return a document without the currency INR, which amounts have by default."""
    if isinstance(document, list):
        return [_in_rupees(each) for each in document]
    if not isinstance(document, dict):
        return document
    return {
        key: _in_rupees(value)
        for key, value in document.items()
        if (key, value) != ("currencyCode", "INR")
    }


# Problems that the service finds.


def beside(
    made: Sequence[Part], violations: Iterable[tuple[str, str]]
) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Return the violations by the field of the form that has them, and those of no field.

    The path 'charges[0].amount.units' belongs to 'charges[0].amount', and the name of a oneof to
    its first field.
    """
    names: dict[str, str] = {}
    for each in inputs(made):
        names[each.name] = each.name
        oneof = each.field.containing_oneof
        if oneof is not None and each.others:
            parent = each.name.removesuffix(each.field.name)
            names.setdefault(parent + oneof.name, each.name)
    found: dict[str, str] = {}
    others: list[tuple[str, str]] = []
    for path, problem in violations:
        known = path
        while known and known not in names:
            known = known.rpartition(".")[0]
        if known:
            name = names[known]
            found[name] = f"{found[name]} {problem}" if name in found else problem
        else:
            others.append((path, problem))
    return found, others
