"""Traces: which one a piece of work belongs to, and, where asked for, a record of it as a span.

Context is W3C's, https://www.w3.org/TR/trace-context/. A caller that sends `traceparent` finds the
call's log lines by `trace_id` and is told by `traceresponse` under which span. What a call wishes
for keeps the call's `traceparent` in the database, so that the worker's lines, and its spans, are
of the same trace.

Spans are recorded and sent only where CREDIT_OTLP_ENDPOINT says where to: see `setup`.
"""

import random
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, Protocol, Self, TypeVar

TRACEPARENT_KEY = "traceparent"
TRACERESPONSE_KEY = "traceresponse"

MAX_PARTS = 100
"""Spans that one call or task may have inside it; a stream may be open for days."""

_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(-.*)?"
)
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16

T = TypeVar("T")
Attributes = Mapping[str, str | int]
Kind = Literal["server", "consumer", "client"]


@dataclass(frozen=True, slots=True)
class Span:
    """A place in a trace: ids in lower-case hexadecimal, 32, 16 and 2 digits."""

    trace_id: str
    span_id: str
    flags: str

    @classmethod
    def read(cls, traceparent: str) -> Self | None:
        """The caller's span; None for what the specification calls invalid, which is ignored."""
        found = _TRACEPARENT.fullmatch(traceparent)
        if found is None or found["trace"] == _NO_TRACE or found["span"] == _NO_SPAN:
            return None
        # Of a later version only these fields are known; one of version 00 has no others.
        if traceparent.startswith("00") and found[4] is not None:
            return None
        return cls(found["trace"], found["span"], found["flags"])

    def child(self) -> "Span":
        """A span of its own in the same trace."""
        span_id = f"{random.getrandbits(64) or 1:016x}"
        return Span(self.trace_id, span_id, self.flags)

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


class Recording(Protocol):
    """A span that is being recorded."""

    @property
    def span(self) -> Span:
        """Its place."""

    @property
    def sampled(self) -> bool:
        """Whether anything will come of it."""

    def end(self, *, error: str, attributes: Attributes) -> None:
        """It ends now; `error` names what went wrong, empty where nothing did."""


class Recorder(Protocol):
    """Where spans are recorded."""

    def begin(
        self, name: str, kind: Kind, parent: Span | None, attributes: Attributes
    ) -> Recording:
        """A span that begins now, the first of a new trace where it has no parent."""

    def close(self) -> None:
        """Send what there is, within a few seconds, and record no more."""


class Activity:
    """A piece of work under way that belongs to a trace: a call, a task, or a part of one."""

    __slots__ = ("_parts", "_recording", "span")

    def __init__(self, span: Span, recording: Recording | None = None) -> None:
        self.span = span
        self._recording = recording
        self._parts = 0

    def part(self, name: str, attributes: Attributes) -> "Activity | None":
        """A part of this work that begins now; None where it is not recorded."""
        if self._recording is None or _recorder is None or self._parts >= MAX_PARTS:
            return None
        self._parts += 1
        return _recorded(_recorder.begin(name, "client", self.span, attributes))

    def end(self, *, error: str = "", attributes: Attributes | None = None) -> None:
        """The work ends now; `error` names what went wrong, and never whom it was about."""
        if self._recording is not None:
            self._recording.end(error=error, attributes=attributes or {})


current: ContextVar[Activity | None] = ContextVar("credit_service_activity", default=None)
"""What the current thread is at; None for what belongs to no trace."""

_recorder: Recorder | None = None


def begin(name: str, kind: Kind, parent: Span | None, attributes: Attributes) -> Activity | None:
    """Work that begins now. None where it belongs to no trace: spans are not recorded, and
    whoever caused it named none."""
    if _recorder is not None:
        return _recorded(_recorder.begin(name, kind, parent, attributes))
    return None if parent is None else Activity(parent.child())


def _recorded(recording: Recording) -> Activity:
    return Activity(recording.span, recording if recording.sampled else None)


def traceparent() -> str | None:
    """The current place, as it is handed on; None for what belongs to no trace."""
    activity = current.get()
    return None if activity is None else str(activity.span)


def as_part(
    name: str, attributes: Attributes, work: AbstractContextManager[T]
) -> AbstractContextManager[T]:
    """The same context, recorded as a part of the current work where that is recorded."""
    activity = None if _recorder is None else current.get()
    return work if activity is None else _recording_part(activity, name, attributes, work)


@contextmanager
def _recording_part(
    activity: Activity, name: str, attributes: Attributes, work: AbstractContextManager[T]
) -> Iterator[T]:
    part = activity.part(name, attributes)
    error = ""
    try:
        with work as given:
            yield given
    except BaseException as raised:
        # The kind alone: a message may tell whom it is about.
        error = type(raised).__name__
        raise
    finally:
        if part is not None:
            part.end(error=error)


class TracingRefusedError(ValueError):
    """Spans are to be recorded, and cannot be."""


@contextmanager
def recorded_by(recorder: Recorder) -> Iterator[None]:
    """While open, the spans of this process are recorded by `recorder`, which is closed then."""
    global _recorder  # noqa: PLW0603 - of the process, like its logs and its metrics
    before, _recorder = _recorder, recorder
    try:
        yield
    finally:
        _recorder = before
        recorder.close()
