"""The access log: one line for each call, with its caller, its status and the ids it named.

A call adds an entry to a queue without waiting. A separate thread formats and writes the lines, so
logging adds a few microseconds to a call and a full pipe delays none. Lines are at most about a
tenth of a second late; a killed process loses that much.

Calls rejected at capacity, or for an unknown method, are only counted: one line a second for each
method and reason, with the count.
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

from credit_service.observability.logs import masked_text
from credit_service.rpc.calls.record_ids import MAX_IDS, Ids
from credit_service.v1 import (
    credit_service_pb2,
    ingestion_service_pb2,
    operations_service_pb2,
    options_pb2,
    scorecard_service_pb2,
)

MAX_WAITING = 20_000
"""Longest queue of entries; beyond it calls are counted instead of logged."""

COUNTED_REASONS = frozenset({"OVERLOADED", "METHOD_NOT_IMPLEMENTED"})
"""Reasons of rejections that are counted instead of logged one by one."""

_GATHER_SECONDS = 0.05
_COUNT_SECONDS = 1.0
# A pipe takes this much in one piece, so lines of several processes do not mix.
_WRITE_BYTES = 4_096
_MAX_METHOD = 120
_STATUS_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}
# A call id set by the caller could contain a phone number.
_MANY_DIGITS = re.compile(r"\d[\d-]{7,}")

_SCOPES: dict[str, str] = {
    f"{service.full_name}/{method.name}": method.GetOptions().Extensions[options_pb2.scope]
    for file in (
        credit_service_pb2.DESCRIPTOR,
        ingestion_service_pb2.DESCRIPTOR,
        scorecard_service_pb2.DESCRIPTOR,
        operations_service_pb2.DESCRIPTOR,
    )
    for service in file.services_by_name.values()
    for method in service.methods
}


class Entry(NamedTuple):
    """A finished call. A plain tuple with the same fields works too: creating one takes a tenth of
    the time."""

    at: float
    """In seconds of time.time()."""
    method: str
    principal: str | None
    """None where the call was rejected before its caller was known."""
    peer: str
    code: int
    reason: str
    seconds: float
    call_id: str
    trace_id: str
    ids: Ids
    received: int | None
    """Message counts of a stream; None for other calls."""
    sent: int | None


EntryParts = tuple[
    float, str, str | None, str, int, str, float, str, str, Ids, int | None, int | None
]


class AccessLog:
    """Writes the lines. One for each server; thread-safe."""

    def __init__(
        self, log_format: Literal["json", "console"], stream: TextIO | None = None
    ) -> None:
        """`stream` defaults to standard error."""
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
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    def add(self, entry: "Entry | EntryParts") -> None:
        """Queue the call's line; count it as left out if the queue is full."""
        if len(self._entries) >= MAX_WAITING:
            self._dropped += 1
            return
        self._entries.append(entry)
        if not self._waiting.is_set():
            self._waiting.set()

    def count(self, method: str, code: int, reason: str, call_id: str) -> None:
        """Count a rejection: its line has the count and the last call's id."""
        # Callers can invent method names, so one line covers all of them, with the last name.
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
        """Write the queued entries and end the thread. Later entries are dropped."""
        self._closing.set()
        self._waiting.set()
        self._thread.join()

    def _run(self) -> None:
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
                self._write_block("".join(block))
                block, size = [], 0
            block.append(line)
            size += len(line)
        if block:
            self._write_block("".join(block))

    def _write_block(self, text: str) -> None:
        stream = self._stream or sys.stderr
        try:
            stream.write(text)
            stream.flush()
        except (OSError, ValueError):
            # The log's reader has gone; the server still answers calls.
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
    """A line's fields in their order; fields without a value are absent."""
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
    """The same line as `_as_json(fields_of(entry))`, in a third of the time."""
    at, method, principal, peer, code, reason, seconds, call_id, trace_id, ids, received, sent = (
        entry
    )
    # A call id has no character that JSON escapes.
    if _MANY_DIGITS.search(call_id):
        call_id = masked_text(call_id)
    line = (
        f'{_CALL_HEAD}{_second(int(at))}.{int(at % 1 * 1_000_000):06d}Z"'
        f"{_outcome_as_json(method, principal, peer, code, reason)}"
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
def _outcome_as_json(method: str, principal: str | None, peer: str, code: int, reason: str) -> str:
    fields = _outcome(method, principal, peer, code, reason)
    return f",{_encode(fields)[1:-1]}"


def _outcome(
    method: str, principal: str | None, peer: str, code: int, reason: str
) -> dict[str, str]:
    """Fields with few distinct values."""
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
    """The same line as `_as_text(fields_of(entry))`, in a third of the time."""
    at, method, principal, peer, code, reason, seconds, call_id, trace_id, ids, received, sent = (
        entry
    )
    if _MANY_DIGITS.search(call_id):
        call_id = masked_text(call_id)
    line = (
        f"{_second(int(at))}.{int(at % 1 * 1_000_000):06d}Z"
        f"{_outcome_as_text(method, principal, peer, code, reason)}"
        f" duration_ms={round(seconds * 1000, 3)} call_id={_formatted(call_id)}"
    )
    if trace_id:
        line += f" trace_id={trace_id}"
    if received is not None:
        line += f" messages_received={received} messages_sent={sent}"
    for name, found in ids.items():
        values = list(found)[:MAX_IDS]
        left_out = " ids_left_out=True" if len(found) > MAX_IDS else ""
        line += f"{left_out} {name}={_formatted(values)}"
    return f"{line}\n"


@lru_cache(maxsize=1024)
def _outcome_as_text(method: str, principal: str | None, peer: str, code: int, reason: str) -> str:
    fields = _outcome(method, principal, peer, code, reason)
    return f" [{'info':9}] {'call':30}{''.join(f' {k}={_formatted(v)}' for k, v in fields.items())}"


def _as_text(fields: dict[str, Any]) -> str:
    """A line like those of the other logs on a terminal."""
    named = " ".join(
        f"{name}={value if isinstance(value, int | float) else _formatted(value)}"
        for name, value in fields.items()
        if name not in {"event", "level", "timestamp", "logger", "component"}
    )
    return f"{fields['timestamp']} [{fields['level']:9}] {fields['event']:30} {named}\n"


def _formatted(value: str | list[int | str]) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return value if value.isprintable() and " " not in value else repr(value)
