"""Almost valid messages: flipped, cut and inserted bytes, wrong wire types, deep nesting."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from tests.fuzz.contract import METHODS
from tests.fuzz.fields import FieldMutants, Mutant

Rng = random.Random


def _varint(number: int) -> bytes:
    out = bytearray()
    number &= 2**64 - 1
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _cut(rng: Rng, data: bytes) -> bytes:
    return data[: rng.randint(0, len(data))]


def _flip_bits(rng: Rng, data: bytes) -> bytes:
    turned = bytearray(data or b"\x00")
    for _ in range(rng.choice([1, 1, 2, 8])):
        turned[rng.randrange(len(turned))] ^= 1 << rng.randrange(8)
    return bytes(turned)


def _insert(rng: Rng, data: bytes) -> bytes:
    place = rng.randint(0, len(data))
    return data[:place] + rng.randbytes(rng.choice([1, 2, 7, 200])) + data[place:]


def _remove(rng: Rng, data: bytes) -> bytes:
    first = rng.randint(0, len(data))
    return data[:first] + data[first + rng.randint(1, 8) :]


def _double(rng: Rng, data: bytes) -> bytes:
    first, last = sorted((rng.randint(0, len(data)), rng.randint(0, len(data))))
    return data[:last] + data[first:last] * rng.choice([1, 3, 100]) + data[last:]


def _other_type(rng: Rng, data: bytes) -> bytes:
    """A known field's number with any wire type, including the reserved 6 and 7."""
    tag = rng.randint(1, 20) << 3 | rng.randint(0, 7)
    return data + _varint(tag) + rng.randbytes(rng.choice([0, 1, 4, 8, 9]))


def _unknown_field(rng: Rng, data: bytes) -> bytes:
    number = rng.choice([50, 19_000, 2**28, 2**29 - 1])
    return data + _varint(number << 3 | 2) + _varint(3) + b"abc"


def _number_zero(_rng: Rng, data: bytes) -> bytes:
    return data + b"\x00\x01"


def _long_varint(rng: Rng, data: bytes) -> bytes:
    """A varint with too many bytes."""
    return data + _varint(rng.randint(1, 8) << 3) + b"\xff" * rng.randint(9, 12) + b"\x01"


def _endless_length(rng: Rng, data: bytes) -> bytes:
    length = rng.choice([2**31 - 1, 2**31, 2**32, 2**63, 2**64 - 1, len(data) + 1])
    return data + _varint(rng.randint(1, 8) << 3 | 2) + _varint(length) + b"x"


def _nest_messages(rng: Rng, data: bytes) -> bytes:
    inner = data[:100]
    for _ in range(rng.choice([50, 99, 101, 1_000])):
        inner = _varint(rng.choice([1, 2]) << 3 | 2) + _varint(len(inner)) + inner
    return inner


def _nest_groups(rng: Rng, data: bytes) -> bytes:
    depth = rng.choice([50, 99, 101, 100_000])
    closed = rng.random() < 0.5
    return data + b"\xfb\x3e" * depth + (b"\xfc\x3e" * depth if closed else b"")


def _bad_text(rng: Rng, data: bytes) -> bytes:
    """Invalid UTF-8: a lone surrogate, an overlong NUL, an invalid byte."""
    text = rng.choice([b"\xed\xa0\x80", b"\xc0\x80", b"\xff\xfe", b"\xf4\x90\x80\x80", b"\x80"])
    return data + _varint(rng.randint(1, 8) << 3 | 2) + _varint(len(text)) + text


def _noise(rng: Rng, _data: bytes) -> bytes:
    return rng.randbytes(rng.choice([1, 10, 1_000, 100_000]))


def _too_large(rng: Rng, data: bytes) -> bytes:
    return data + _varint(1 << 3 | 2) + _varint(size := 4 * 1024 * 1024) + bytes(size)


_CHANGES: tuple[Callable[[Rng, bytes], bytes], ...] = (
    *(_cut, _flip_bits, _flip_bits, _insert, _remove, _double, _other_type, _unknown_field),
    *(_number_zero, _long_varint, _endless_length, _nest_messages, _nest_groups, _bad_text, _noise),
)
_RARE = 500
"""One in this number of mutants exceeds the message size limit."""


@dataclass(frozen=True, slots=True)
class WireMutants:
    """Mutants by number, derived from field mutants."""

    fields: FieldMutants

    def make(self, number: int) -> Mutant:
        """The mutant with a number."""
        rng = random.Random(f"{self.fields.seed}/wire/{number}")  # noqa: S311 - a repeatable choice
        base = self.fields.good(rng.choice(sorted(METHODS)), rng, f"wire/{number}")
        messages = list(base.messages)
        place = rng.randrange(len(messages))
        changes = [_too_large] if number % _RARE == _RARE - 1 else rng.choices(_CHANGES, k=2)
        changes = changes[: rng.choice([1, 1, 2])]
        for change in changes:
            messages[place] = change(rng, messages[place])
        what = ", ".join(change.__name__.strip("_") for change in changes)
        return replace(base, messages=tuple(messages), what=f"[{place}] {what}")
