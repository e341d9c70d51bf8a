"""Mutants of every field of every method: first one field, then two or three together."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from credit_service.v1 import credit_service_pb2, ingestion_service_pb2
from tests.fuzz import values
from tests.fuzz.contract import METHODS
from tests.fuzz.values import Value, numbered_uuid
from tests.fuzz.world import World

_MESSAGE = FieldDescriptor.TYPE_MESSAGE
_OF_ROWS = frozenset({"IngestRowsRequest", "CustomerRow", "LoanRow"})
_TOO_MANY_ROWS = 10_001


@dataclass(frozen=True, slots=True)
class Mutant:
    """One call: serialized messages, and a description of the mutation.

    `refused` means that the call must not end with OK. `rejected` is the minimum number of rejected
    rows of an ingestion.
    """

    method: str
    messages: tuple[bytes, ...]
    what: str
    refused: bool = False
    rejected: int = 0
    metadata: tuple[tuple[str, str | bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class _Site:
    """A path in a message: names of fields and indexes of repeated fields."""

    path: tuple[str | int, ...]
    descriptor: FieldDescriptor

    def __str__(self) -> str:
        return ".".join(map(str, self.path))

    @property
    def type_name(self) -> str:
        """The full name of the field's message type."""
        return values.defined(self.descriptor.message_type).full_name


@dataclass(frozen=True)
class FieldMutants:
    """Mutants by number; the same seed, world and number give the same mutant."""

    seed: int
    world: World

    @cached_property
    def single(self) -> list[tuple[str, int, str, Callable[[list[Any]], bool]]]:
        """(method, base, description, change) of all single mutations. A change returns whether its
        result is invalid."""
        found = []
        for method in METHODS:
            for which, base in enumerate(self.world.bases(method, "0")):
                for place, message in enumerate(base):
                    for what, change in changes_of(message, self.world):
                        found.append((method, which, f"[{place}] {what}", _at(place, change)))
                if method == "WatchCreditEvents":
                    found.append((method, which, "[0] millions of event types", _event_types))
                if METHODS[method].client_streaming:
                    found += [
                        (method, which, what, change) for what, change in _stream_changes(base)
                    ]
        return found

    @property
    def systematic(self) -> int:
        """The number of mutants with a single change."""
        return len(self.single)

    def make(self, number: int) -> Mutant:
        """The mutant with a number; from `systematic` on they have several changes."""
        rng = random.Random(f"{self.seed}/fields/{number}")  # noqa: S311 - a repeatable choice
        if number < self.systematic:
            chosen = [self.single[number]]
        else:
            first = rng.choice(self.single)
            alike = [each for each in self.single if each[:2] == first[:2]]
            chosen = [first, *rng.choices(alike, k=rng.choice([1, 1, 2]))]
        method, which = chosen[0][:2]
        messages = self.world.bases(method, numbered_uuid(self.seed, number))[which]
        bad = False
        for _, _, _, change in chosen:
            bad = change(messages) or bad
        sole = len(chosen) == 1
        in_row = sole and "rows.0." in chosen[0][2]
        return Mutant(
            method,
            tuple(message.SerializeToString() for message in messages),
            "; ".join(what for _, _, what, _ in chosen),
            refused=bad and sole and not in_row and not _is_ignored(messages[0], chosen[0][2]),
            rejected=int(bad and in_row),
        )

    def good(self, method: str, rng: random.Random, name: str) -> Mutant:
        """A valid call with a request id derived from the name."""
        messages = rng.choice(self.world.bases(method, numbered_uuid(self.seed, name)))
        return Mutant(method, tuple(each.SerializeToString() for each in messages), "valid")


def _is_ignored(message: Message, what: str) -> bool:
    """Whether the change is one of a field of a customer that the mask does not name."""
    path = what.removeprefix("[0] ").split(".")
    return (
        isinstance(message, credit_service_pb2.UpdateCustomerRequest)
        and path[0] == "customer"
        and len(path) > 1
        and path[1].split(" ")[0] not in {"customer_id", *message.update_mask.paths}
    )


def _at(place: int, change: Callable[[Any], bool]) -> Callable[[list[Any]], bool]:
    def applied(messages: list[Any]) -> bool:
        return place < len(messages) and change(messages[place])

    return applied


def changes_of(message: Message, world: World) -> Iterator[tuple[str, Callable[[Any], bool]]]:
    """All changes to a message: description, and function that returns whether the result is
    invalid."""
    for site in _sites(message, ()):
        if site.descriptor.type != _MESSAGE:
            for value in [*values.of_field(site.descriptor), *_of_world(site, world)]:
                yield f"{site} = {value}", _setting(site, value)
        elif site.type_name == "google.type.Money":
            for value in values.MONEYS:
                yield f"{site} = {value}", _filling(site, value, ("units", "nanos"))
        elif site.type_name == "google.type.Date":
            for value in values.DATES:
                yield f"{site} = {value}", _filling(site, value, ("year", "month", "day"))
        yield f"{site} absent", _clearing(site)
        if site.descriptor.type == _MESSAGE and isinstance(site.path[-1], str):
            yield f"{site} empty", _emptying(site)
        if isinstance(site.path[-1], int):
            for count in (2, 1000, _TOO_MANY_ROWS):
                yield f"{site} {count} times", _repeating(site, count)
    yield "empty", _wiping


def _of_world(site: _Site, world: World) -> list[Value]:
    """Values known to this server: page tokens of other lists, stored ids."""
    match site.path[-1]:
        case "page_token":
            return [Value(token) for token in world.page_tokens]
        case "ingestion_id":
            return [Value(each) for each in world.ingestion_ids]
        case "request_id":
            return [Value(each) for each in world.request_ids]
    return []


def _sites(message: Any, path: tuple[str | int, ...]) -> Iterator[_Site]:
    """All fields, set or unset, of a message and of its set submessages."""
    for descriptor in message.DESCRIPTOR.fields:
        here = (*path, descriptor.name)
        if descriptor.is_repeated:
            if len(getattr(message, descriptor.name)):
                yield _Site((*here, 0), descriptor)
                if descriptor.type == _MESSAGE:
                    yield from _sites(getattr(message, descriptor.name)[0], (*here, 0))
            continue
        yield _Site(here, descriptor)
        if descriptor.type == _MESSAGE and message.HasField(descriptor.name):
            yield from _sites(getattr(message, descriptor.name), here)


def _parent(message: Any, path: Sequence[str | int]) -> Any:
    for step in path[:-1]:
        message = getattr(message, step) if isinstance(step, str) else message[step]
    return message


def _reachable(change: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """A change that does nothing if an earlier one has removed its path."""

    def applied(message: Any) -> bool:
        try:
            return change(message)
        except IndexError:
            return False

    return applied


def _setting(site: _Site, value: Value) -> Callable[[Any], bool]:
    def change(message: Any) -> bool:
        parent, last = _parent(message, site.path), site.path[-1]
        if isinstance(last, int):
            parent[last] = value.value
        else:
            setattr(parent, last, value.value)
        lenient = message.DESCRIPTOR.name in _OF_ROWS and isinstance(value.value, str)
        if lenient and value.value != value.value.strip() and value.value.strip().isascii():
            # A cell may have surrounding spaces.
            return "\x00" in value.value
        return value.bad

    return _reachable(change)


def _filling(site: _Site, value: Value, names: tuple[str, ...]) -> Callable[[Any], bool]:
    def change(message: Any) -> bool:
        target = getattr(_parent(message, site.path), str(site.path[-1]))
        target.SetInParent()
        for name, part in zip(names, value.value, strict=True):
            setattr(target, name, part)
        return value.bad

    return _reachable(change)


def _clearing(site: _Site) -> Callable[[Any], bool]:
    def change(message: Any) -> bool:
        parent, last = _parent(message, site.path), site.path[-1]
        if isinstance(last, int):
            del parent[last]
        else:
            parent.ClearField(last)
        # Without an id, a retried write would take effect twice.
        return last == "request_id"

    return _reachable(change)


def _emptying(site: _Site) -> Callable[[Any], bool]:
    def change(message: Any) -> bool:
        parent, last = _parent(message, site.path), str(site.path[-1])
        parent.ClearField(last)
        getattr(parent, last).SetInParent()
        return False

    return _reachable(change)


def _repeating(site: _Site, count: int) -> Callable[[Any], bool]:
    def change(message: Any) -> bool:
        parent = _parent(message, site.path)
        if len(parent):
            parent.extend([parent[0]] * (count - 1))
        return site.path[-2] == "rows" and count > 10_000

    return _reachable(change)


def _wiping(message: Any) -> bool:
    message.Clear()
    return "request_id" in message.DESCRIPTOR.fields_by_name


def _stream_changes(base: Sequence[Any]) -> Iterator[tuple[str, Callable[[list[Any]], bool]]]:
    """Messages of a stream reordered, duplicated, omitted."""
    changes: Mapping[str, Callable[[list[Any]], list[Any]]] = {
        "no message": lambda _: [],
        "no header": lambda each: each[1:],
        "header twice": lambda each: [each[0], *each],
        "header last": lambda each: [*each[1:], each[0]],
        "header again at the end": lambda each: [*each, each[0]],
        "an unset payload after the header": lambda each: [each[0], type(each[0])(), *each[1:]],
    }
    for what, change in changes.items():

        def applied(messages: list[Any], change: Any = change, what: str = what) -> bool:
            messages[:] = change(list(messages))
            return True

        yield what, applied
    yield "messages twice", _doubled
    yield "header only", _header_only
    yield "messages a hundred times", _hundredfold
    if isinstance(base[0], ingestion_service_pb2.IngestRowsRequest):
        yield "a batch of empty rows only", _empty_rows
        yield "a row of unreadable cells only", _unreadable_cells


def _doubled(messages: list[Any]) -> bool:
    messages += messages[1:]
    return False


def _hundredfold(messages: list[Any]) -> bool:
    messages[1:] = messages[1:] * 100
    return False


def _header_only(messages: list[Any]) -> bool:
    del messages[1:]
    return False


_FILL_BYTES = 3_900_000


def _event_types(messages: list[Any]) -> bool:
    messages[0].event_types.extend([99] * _FILL_BYTES)
    return True


def _empty_rows(messages: list[Any]) -> bool:
    """The maximum number of rows in a message: two bytes each."""
    batch = ingestion_service_pb2.IngestRowsRequest()
    batch.batch.loans.MergeFromString(b"\x0a\x00" * (_FILL_BYTES // 2))
    messages[1:] = [batch]
    return True


def _unreadable_cells(messages: list[Any]) -> bool:
    """One row with the maximum number of cells in a message: two bytes each."""
    batch = ingestion_service_pb2.IngestRowsRequest()
    batch.batch.loans.rows.add().MergeFromString(b"\x5a\x00" * (_FILL_BYTES // 2))
    messages[1:] = [batch]
    return False
