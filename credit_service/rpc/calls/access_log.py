"""The access log: a line for each call, with who called, how it ended and which records it named.

A call adds an entry to a queue and waits for nothing. A thread of its own turns entries into lines
and writes them: a call takes a few microseconds longer, and a full pipe delays no call. Lines are
at most about a tenth of a second late, which is what a killed process loses.

Ids come from requests and answers by the names of their fields (`customer_id`, `loan_id`, …), so a
new method needs nothing here. Names, phone numbers and amounts never get here: only ids do, and of
those in text only such as have the form of one.

Calls that are refused because the server is at capacity, or for a method that it does not have, are
counted: a line a second for each method and reason, with their number.
"""

import json
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal, NamedTuple, TextIO

import grpc
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from credit_service.observability.logs import masked_text
from credit_service.v1 import credit_service_pb2, ingestion_service_pb2, options_pb2

MAX_IDS = 1_000
"""Ids of one kind in a line: as many as a page of answers can hold."""

MAX_WAITING = 20_000
"""Entries that may wait to be written; beyond them calls are not logged but counted."""

COUNTED_REASONS = frozenset({"OVERLOADED", "METHOD_NOT_IMPLEMENTED"})
"""Refusals that are counted instead of logged one by one."""

_GATHER_SECONDS = 0.05
_COUNT_SECONDS = 1.0
# What a pipe takes as a whole: lines of several processes do not mix.
_WRITE_BYTES = 4_096
_MAX_METHOD = 120
_STATUS_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}
_ID_TEXT = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
# Where a caller's id for its call could hold a phone number.
_MANY_DIGITS = re.compile(r"\d[\d-]{7,}")
_OURS = "credit_service.v1."
# Places in the stream of events, not records.
_NO_RECORDS = frozenset({"event_id", "after_event_id", "last_event_id", "cause_event_id"})

_SCOPES: dict[str, str] = {
    f"{service.full_name}/{method.name}": method.GetOptions().Extensions[options_pb2.scope]
    for file in (credit_service_pb2.DESCRIPTOR, ingestion_service_pb2.DESCRIPTOR)
    for service in file.services_by_name.values()
    for method in service.methods
}

Ids = dict[str, dict[int | str, None]]
"""Ids by their name, each once, in the order in which they were met."""


class _Plan(NamedTuple):
    """Where a message has ids: by name in fields of its own, and in messages below it."""

    fields: tuple[tuple[str, str], ...]
    messages: tuple[tuple[str, "_Plan"], ...]
    lists: tuple[tuple[str, "_Plan"], ...]


_EMPTY = _Plan((), (), ())
_plans: dict[type, _Plan] = {}


def note_ids(message: Any, ids: Ids, *, lists: bool = True) -> None:
    """Add the ids in a message of the contract; those in its lists only where `lists` says so.

    What is no message of the contract has none.
    """
    kind = type(message)
    plan = _plans.get(kind)
    if plan is None:
        descriptor = getattr(kind, "DESCRIPTOR", None)
        plan = _plan(descriptor, ()) if isinstance(descriptor, Descriptor) else _EMPTY
        _plans[kind] = plan
    if plan is not _EMPTY:
        _note(message, plan, ids, lists=lists)


def _note(message: Any, plan: _Plan, ids: Ids, *, lists: bool) -> None:
    for name, field in plan.fields:
        value = getattr(message, field)
        # 0 and "" are what an absent id reads as.
        if value and (type(value) is int or _ID_TEXT.fullmatch(value)):
            found = ids.get(name)
            if found is None:
                ids[name] = {value: None}
            elif len(found) <= MAX_IDS:  # one more shows that some are left out
                found[value] = None
    for field, below in plan.messages:
        if message.HasField(field):
            _note(getattr(message, field), below, ids, lists=lists)
    if lists:
        for field, below in plan.lists:
            for each in getattr(message, field):
                _note(each, below, ids, lists=True)


def _plan(descriptor: Descriptor, above: tuple[str, ...]) -> _Plan:
    if descriptor.full_name in above or not descriptor.full_name.startswith(_OURS):
        return _EMPTY
    above = (*above, descriptor.full_name)
    fields: list[tuple[str, str]] = []
    messages: list[tuple[str, _Plan]] = []
    lists: list[tuple[str, _Plan]] = []
    for field in descriptor.fields:
        if field.message_type is not None:
            below = _plan(field.message_type, above)
            if below != _EMPTY:
                (lists if field.is_repeated else messages).append((field.name, below))
        elif _is_id(field):
            fields.append((f"{field.name}s", field.name))
    return _Plan(tuple(fields), tuple(messages), tuple(lists))


def _is_id(field: FieldDescriptor) -> bool:
    kinds = (FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_STRING)
    return (
        field.name.endswith("_id")
        and field.name not in _NO_RECORDS
        and field.type in kinds
        and not field.is_repeated
    )


class Entry(NamedTuple):
    """What is known of a call at its end. A plain tuple with the same parts will do: it is made in
    a tenth of the time."""

    at: float
    """In seconds of time.time()."""
    method: str
    principal: str | None
    """None where the caller is not known, because it was refused before."""
    peer: str
    code: int
    reason: str
    seconds: float
    call_id: str
    trace_id: str
    ids: Ids
    received: int | None
    """Messages of a stream; None for calls that are none."""
    sent: int | None


EntryParts = tuple[
    float, str, str | None, str, int, str, float, str, str, Ids, int | None, int | None
]


class AccessLog:
    """Writes the lines. One for each server; safe to share between threads."""

    def __init__(
        self, log_format: Literal["json", "console"], stream: TextIO | None = None
    ) -> None:
        """`stream` is standard error where none is given."""
        self._render = _as_json if log_format == "json" else _as_text
        self._render_call = _call_as_json if log_format == "json" else _call_as_text
        self._stream = stream
        self._entries: deque[Entry | EntryParts] = deque()
        self._dropped = 0
        self._counts: dict[tuple[str, int, str], list[Any]] = {}
        self._counts_lock = threading.Lock()
        self._counts_written_at = 0.0
        self._waiting = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write_on, name="access-log", daemon=True)
        self._thread.start()

    def add(self, entry: "Entry | EntryParts") -> None:
        """Log the call, unless so many wait that it is counted as left out."""
        if len(self._entries) >= MAX_WAITING:
            self._dropped += 1
            return
        self._entries.append(entry)
        if not self._waiting.is_set():
            self._waiting.set()

    def count(self, method: str, code: int, reason: str, call_id: str) -> None:
        """Count a refusal: its line has the number of such refusals, and the last one's id."""
        # Anyone can make up names of methods: of those the reason's own line has the last.
        name = method if reason != "METHOD_NOT_IMPLEMENTED" else ""
        key = (name, code, reason)
        with self._counts_lock:
            found = self._counts.get(key)
            if found is None:
                self._counts[key] = [1, method, call_id]
            else:
                found[0] += 1
                found[1:] = method, call_id
        if not self._waiting.is_set():
            self._waiting.set()

    def close(self) -> None:
        """Write what waits, and end the thread. Later entries are not written."""
        self._closing.set()
        self._waiting.set()
        self._thread.join()

    def _write_on(self) -> None:
        while not self._closing.is_set():
            self._waiting.wait()
            self._closing.wait(_GATHER_SECONDS)
            self._waiting.clear()
            self._write(self._lines())
            if self._counts:
                self._waiting.set()
        self._write(self._lines())

    def _lines(self) -> Iterable[str]:
        for _ in range(len(self._entries)):
            yield self._render_call(self._entries.popleft())
        now = time.time()
        if self._counts and (
            now - self._counts_written_at >= _COUNT_SECONDS or self._closing.is_set()
        ):
            self._counts_written_at = now
            with self._counts_lock:
                counts, self._counts = self._counts, {}
            for (_, code, reason), (number, method, call_id) in counts.items():
                yield self._render(_fields_of_count(now, method, code, reason, number, call_id))
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            yield self._render(
                {**_head("access_log_incomplete", now, "warning"), "calls_left_out": dropped}
            )

    def _write(self, lines: Iterable[str]) -> None:
        block: list[str] = []
        size = 0
        for line in lines:
            if block and size + len(line) > _WRITE_BYTES:
                self._put("".join(block))
                block, size = [], 0
            block.append(line)
            size += len(line)
        if block:
            self._put("".join(block))

    def _put(self, text: str) -> None:
        stream = self._stream or sys.stderr
        try:
            stream.write(text)
            stream.flush()
        except (OSError, ValueError):
            # The reader has gone; calls are answered all the same.
            return


def _head(event: str, at: float, level: str = "info") -> dict[str, Any]:
    return {
        "event": event,
        "level": level,
        "logger": "credit_service.access",
        "component": "server",
        "timestamp": f"{_second(int(at))}.{int(at % 1 * 1_000_000):06d}Z",
    }


@lru_cache(maxsize=4)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def fields_of(entry: Entry) -> dict[str, Any]:
    """A line's fields, in the order in which they are written; those without a value are absent."""
    fields = _head("call", entry.at)
    fields |= _outcome(entry.method, entry.principal, entry.peer, entry.code, entry.reason)
    fields["duration_ms"] = round(entry.seconds * 1000, 3)
    fields["call_id"] = _call_id(entry.call_id)
    if entry.trace_id:
        fields["trace_id"] = entry.trace_id
    if entry.received is not None:
        fields["messages_received"] = entry.received
        fields["messages_sent"] = entry.sent
    for name, found in entry.ids.items():
        values = list(found)
        if len(values) > MAX_IDS:
            del values[MAX_IDS:]
            fields["ids_left_out"] = True
        fields[name] = values
    return fields


def _fields_of_count(
    at: float, method: str, code: int, reason: str, number: int, call_id: str
) -> dict[str, Any]:
    return {
        **_head("calls_refused", at),
        "method": masked_text(method[:_MAX_METHOD]),
        "status": _STATUS_NAMES[code],
        "reason": reason,
        "count": number,
        "call_id": _call_id(call_id),
    }


def _call_id(call_id: str) -> str:
    return masked_text(call_id) if _MANY_DIGITS.search(call_id) else call_id


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _as_json(fields: dict[str, Any]) -> str:
    return f"{_encode(fields)}\n"


def _call_as_json(entry: Entry | EntryParts) -> str:
    """What `_as_json` makes of the call's fields, in a third of the time: most lines are of this
    kind."""
    at, method, principal, peer, code, reason, seconds, call_id, trace_id, ids, received, sent = (
        entry
    )
    # A call's id has no character that JSON would escape.
    if _MANY_DIGITS.search(call_id):
        call_id = masked_text(call_id)
    line = (
        f'{_CALL_HEAD}{_second(int(at))}.{int(at % 1 * 1_000_000):06d}Z"'
        f"{_who_and_how(method, principal, peer, code, reason)}"
        f',"duration_ms":{seconds * 1000:.3f},"call_id":"{call_id}"'
    )
    if trace_id:
        line += f',"trace_id":"{trace_id}"'
    if received is not None:
        line += f',"messages_received":{received},"messages_sent":{sent}'
    for name, found in ids.items():
        if len(found) == 1:
            (value,) = found
            line += f',"{name}":[{value if type(value) is int else _encode(value)}]'
        else:
            cut = list(found)[:MAX_IDS]
            left_out = ',"ids_left_out":true' if len(found) > MAX_IDS else ""
            line += f'{left_out},"{name}":{_encode(cut)}'
    return f"{line}}}\n"


_CALL_HEAD = (
    '{"event":"call","level":"info","logger":"credit_service.access","component":"server",'
    '"timestamp":"'
)


@lru_cache(maxsize=1024)
def _who_and_how(method: str, principal: str | None, peer: str, code: int, reason: str) -> str:
    fields = _outcome(method, principal, peer, code, reason)
    return f",{_encode(fields)[1:-1]}"


def _outcome(
    method: str, principal: str | None, peer: str, code: int, reason: str
) -> dict[str, str]:
    """The fields that many calls have alike."""
    fields = {"method": method}
    if method in _SCOPES:
        fields["scope"] = _SCOPES[method]
    if principal is not None:
        fields["principal"] = masked_text(principal)
    if peer:
        fields["peer"] = peer
    fields["status"] = _STATUS_NAMES[code]
    if reason:
        fields["reason"] = reason
    return fields


def _call_as_text(entry: Entry | EntryParts) -> str:
    """What `_as_text` makes of the call's fields, in a third of the time."""
    at, method, principal, peer, code, reason, seconds, call_id, trace_id, ids, received, sent = (
        entry
    )
    if _MANY_DIGITS.search(call_id):
        call_id = masked_text(call_id)
    line = (
        f"{_second(int(at))}.{int(at % 1 * 1_000_000):06d}Z"
        f"{_who_and_how_as_text(method, principal, peer, code, reason)}"
        f" duration_ms={round(seconds * 1000, 3)} call_id={_shown(call_id)}"
    )
    if trace_id:
        line += f" trace_id={trace_id}"
    if received is not None:
        line += f" messages_received={received} messages_sent={sent}"
    for name, found in ids.items():
        values = list(found)[:MAX_IDS]
        left_out = " ids_left_out=True" if len(found) > MAX_IDS else ""
        line += f"{left_out} {name}={_shown(values)}"
    return f"{line}\n"


@lru_cache(maxsize=1024)
def _who_and_how_as_text(
    method: str, principal: str | None, peer: str, code: int, reason: str
) -> str:
    fields = _outcome(method, principal, peer, code, reason)
    return f" [{'info':9}] {'call':30}{''.join(f' {k}={_shown(v)}' for k, v in fields.items())}"


def _as_text(fields: dict[str, Any]) -> str:
    """As the other lines look on a terminal."""
    named = " ".join(
        f"{name}={value if isinstance(value, int | float) else _shown(value)}"
        for name, value in fields.items()
        if name not in {"event", "level", "timestamp", "logger", "component"}
    )
    return f"{fields['timestamp']} [{fields['level']:9}] {fields['event']:30} {named}\n"


def _shown(value: str | list[int | str]) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return value if value.isprintable() and " " not in value else repr(value)
