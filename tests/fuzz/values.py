"""Hostile values for a field, by its type and meaning.

`bad` marks values that a correct service must reject; it may accept or reject the others, with a
correct answer.
"""

import uuid
from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor

T = TypeVar("T")

MIN_INT32, MAX_INT32 = -(2**31), 2**31 - 1
MIN_INT64, MAX_INT64 = -(2**63), 2**63 - 1

_INT32 = frozenset({FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_SINT32})


@dataclass(frozen=True, slots=True)
class Value:
    """A value for a field, with a short description."""

    value: Any
    bad: bool = False

    def __str__(self) -> str:
        text = repr(self.value)
        return text if len(text) <= 60 else f"{text[:40]}… ({len(text)} characters)"


def _bad(*values: Any) -> list[Value]:
    return [Value(value, bad=True) for value in values]


def _any(*values: Any) -> list[Value]:
    return [Value(value) for value in values]


TEXTS = _any(
    "",
    " ",
    "\t\r\n",
    "\x00",
    "a\x00b",
    "\x1b[2J",
    "\u202eevil",
    "\u2066\u2069",
    "\u200b",
    "\ufeff",
    "\ufffe\uffff",
    "e\u0301" * 40,
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\U0010ffff",
    "नमस्ते",
    "१२३",
    "'; DROP TABLE customers; --",
    "%s%n%x{0}{{}}",
    "%",
    "_",
    "\\",
    "\\u0000",
    "=1+1",
    "../../etc/passwd",
    "null",
    "NaN",
    "A" * 51,
    "A" * 101,
    "A" * 10_000,
    "\u0939" * 100_000,
)

DECIMALS = [
    *_bad(
        "",
        " ",
        "NaN",
        "sNaN",
        "nan",
        "Infinity",
        "-inf",
        "1e999999999",
        "1e999",
        "1e-999999999",
        "-1",
        "-0.01",
        "100.01",
        "12.345",
        "0.001",
        " 12",
        "12 ",
        "12\n",
        "12\x00",
        "१२",
        "\uff11\uff12",
        "1_2",
        "12,5",
        "1,234",
        "0x10",
        "1e",
        ".",
        "+",
        "--1",
        "12.5.5",
        "9" * 10_000,
        "0." + "0" * 10_000 + "1",
        "1" + "0" * 38,
        "\u221212",
    ),
    *_any("0", "00", "-0", "+12.5", "12.", ".5", "1e1", "1.2E1", "12.500", "0e999", "100", "1e-2"),
]

UUIDS = [
    *_bad(
        "x",
        "0d6f1c1e-8a0b-4f0e-9d51-3c9a6a1f7b2",
        "0d6f1c1e8a0b4f0e9d513c9a6a1f7b20",
        "{0d6f1c1e-8a0b-4f0e-9d51-3c9a6a1f7b20}",
        "urn:uuid:0d6f1c1e-8a0b-4f0e-9d51-3c9a6a1f7b20",
        " 0d6f1c1e-8a0b-4f0e-9d51-3c9a6a1f7b20",
        "0d6f1c1e-8a0b-4f0e-9d51-3c9a6a1f7b20\n",
        "0d6f1c1e-8a0b-4f0e-9d51-3c9a6a1f7b2g",
        "\u0966d6f1c1e-8a0b-4f0e-9d51-3c9a6a1f7b20",
        "-" * 36,
        "0" * 100_000,
        "\x00" * 36,
        "",
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
    ),
    *_any(
        "0D6F1C1E-8A0B-4F0E-9D51-3C9A6A1F7B20",
    ),
]

CURRENCIES = [
    *_any("", "INR"),
    *_bad("USD", "inr", " INR", "INR\x00", "IN\u0052\u0301", "X" * 5000),
]

PHONES = [
    *_bad(
        "",
        " ",
        "+",
        "0",
        "12345",
        "9876598765;ext=7",
        "98765abcde",
        "+91" * 30,
        "९८७६५९८७६५x",
        "9" * 10_000,
        "\x00",
        "tel:+919876598765;phone-context=",
    ),
    *_any("+91 98765 98766", "098765-98767", "९८७६५९८७६५", "+1 201-555-0123", "98765\x0098768"),
]

TOKENS = _bad(
    "x",
    "!!!!",
    "====",
    "AAAAAAAAAAAA",
    "AAAAAAAAAAAAAAAA",
    "W10",
    "\u0915",
    "\x00",
    "A" * 256,
    "A" * 100_000,
)

_BY_NAME: dict[str, list[Value]] = {
    "request_id": UUIDS,
    "ingestion_id": UUIDS,
    "currency_code": CURRENCIES,
    "phone_number": [*PHONES, *TEXTS],
    "page_token": TOKENS,
}
_NAMES_OF_TEXT = _bad(
    "", " ", "\x00", "a\x00b", "\x1b[2J", "\u202eevil", "\u200b", "A" * 51, "A" * 10_000
)

DATES = [
    *_bad(
        (0, 2, 30),
        (2024, 0, 0),
        (2024, 1, 0),
        (2024, 2, 30),
        (2023, 2, 29),
        (2024, 13, 1),
        (2024, 1, 32),
        (10_000, 1, 1),
        (-1, 1, 1),
        (MAX_INT32, MAX_INT32, MAX_INT32),
        (MIN_INT32, MIN_INT32, MIN_INT32),
        (9999, 12, 31),
    ),
    *_any((1, 1, 1), (1900, 1, 1), (2024, 2, 29), (0, 0, 0)),
]

MONEYS = [
    *_bad(
        (MAX_INT64, 999_999_999),
        (MIN_INT64, -999_999_999),
        (MIN_INT64, 0),
        (MAX_INT64, 0),
        (1, -1),
        (-1, 1),
        (1, -10_000_000),
        (0, -10_000_000),
        (1, 1),
        (1, 9_999_999),
        (1, 1_000_000_000),
        (0, MAX_INT32),
        (0, MIN_INT32),
        (-1, 0),
        (10**13, 0),
        (92_233_720_368_547_758, 80_000_000),
    ),
    *_any((0, 0), (0, 10_000_000), (1, 990_000_000)),
]


def defined(descriptor: T | None) -> T:
    """The descriptor that a field of this type always has, which the types do not express."""
    if descriptor is None:
        raise TypeError("a field of another type")
    return descriptor


def of_field(field: FieldDescriptor) -> list[Value]:
    """Values for a scalar field, or for one element of a repeated field."""
    match field.type:
        case FieldDescriptor.TYPE_ENUM:
            known = [value.number for value in defined(field.enum_type).values]
            return [*_any(*known), *_bad(99, -1, MAX_INT32, MIN_INT32)]
        case FieldDescriptor.TYPE_BOOL:
            return [Value(value=False), Value(value=True)]
        case FieldDescriptor.TYPE_BYTES:
            return _any(b"", b"\x00", b"\xff" * 1000, b"PK\x03\x04")
        case FieldDescriptor.TYPE_STRING:
            return _of_text(field)
    return _of_number(field)


def _of_text(field: FieldDescriptor) -> list[Value]:
    if defined(field.containing_type).full_name == "google.type.Decimal":
        return DECIMALS
    if field.name in ("first_name", "last_name"):
        return [*_NAMES_OF_TEXT, *TEXTS]
    return _BY_NAME.get(field.name, TEXTS)


def _of_number(field: FieldDescriptor) -> list[Value]:
    small = field.type in _INT32
    least, most = (MIN_INT32, MAX_INT32) if small else (MIN_INT64, MAX_INT64)
    values = [*_bad(-1, least, least + 1), *_any(0, 1, 2, 120, 480, most, most - 1)]
    match field.name:
        case "page_size":
            return [*values, *_bad(1001), *_any(1000)]
        case "tenure_months" | "age":
            return [*values, *_bad(481, 0, most)]
        case "row_number":
            # Chosen by the client and returned without interpretation.
            return _any(-1, least, 0, most)
        case _ if not small:
            return [*values, *_any(MAX_INT32 + 1, 2**53 + 1, 10**15, 10**15 + 1)]
    return values


def numbered_uuid(*parts: object) -> str:
    """A UUID derived from the parts."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, "/".join(map(str, parts))))
