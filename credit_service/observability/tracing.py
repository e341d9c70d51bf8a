"""Traces of calls and tasks, through the OpenTelemetry API.

Context is W3C's, https://www.w3.org/TR/trace-context/. If a caller sends `traceparent`, the call's
log lines have its `trace_id`, and `traceresponse` returns the call's span. Events and tasks keep
the `traceparent` of their call in the database, so the worker's log lines and spans belong to the
same trace.

This process records and exports spans only if CREDIT_OTLP_ENDPOINT is set: see `setup`. The SDK is
not loaded otherwise, and a call without `traceparent` then has no span and touches no context.
"""

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import version
from typing import TypeVar

from opentelemetry.context import Context, create_key, get_value, set_value
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    Tracer,
    TracerProvider,
    format_span_id,
    format_trace_id,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

TRACEPARENT_KEY = "traceparent"
TRACERESPONSE_KEY = "traceresponse"

MAX_CHILD_SPANS = 100
"""Child spans of one call or task; a stream may stay open for days."""

T = TypeVar("T")
Attributes = Mapping[str, str | int]

NO_SPAN = Context()
"""The context of work that belongs to no trace."""

_PROPAGATOR = TraceContextTextMapPropagator()
_CHILD_NUMBERS = create_key("credit-child-span-numbers")

_tracer: Tracer | None = None


def start_span(
    name: str, kind: SpanKind, traceparent: str | None, attributes: Attributes
) -> Span | None:
    """Start the span of a call or task, as a child of `traceparent` or at the root of a new trace.

    An invalid `traceparent` is ignored. None if the work belongs to no trace: this process records
    no spans and there is no valid `traceparent`.
    """
    if _tracer is None and traceparent is None:
        return None
    carrier = {} if traceparent is None else {TRACEPARENT_KEY: traceparent}
    parent = _PROPAGATOR.extract(carrier, NO_SPAN)
    if _tracer is not None:
        return _tracer.start_span(name, parent, kind, attributes)
    caller = get_current_span(parent).get_span_context()
    if not caller.is_valid:
        return None
    span_id = random.getrandbits(64) or 1
    return NonRecordingSpan(
        SpanContext(caller.trace_id, span_id, is_remote=False, trace_flags=caller.trace_flags)
    )


def end_span(span: Span, *, error: str = "", attributes: Attributes | None = None) -> None:
    """End the span. `error` is the kind of failure, never a message, which may name a person."""
    if attributes is not None:
        span.set_attributes(attributes)
    if error:
        span.set_status(StatusCode.ERROR, error)
    span.end()


def context_of(span: Span) -> Context:
    """A context to attach, in which `span` is current and has no child spans yet."""
    context = set_span_in_context(span, NO_SPAN)
    if not span.is_recording():
        return context
    return set_value(_CHILD_NUMBERS, itertools.count(), context)


def in_child_span(
    name: str,
    attributes: Attributes,
    work: AbstractContextManager[T],
    *,
    kind: SpanKind = SpanKind.CLIENT,
    links: Sequence[Link] = (),
) -> AbstractContextManager[T]:
    """Return `work`, recorded as a child of the current span if that one is recorded. `links` are
    those of `current_link`."""
    if _tracer is None or not get_current_span().is_recording():
        return work
    return _in_child_span(_tracer, name, attributes, work, kind, links)


@contextmanager
def _in_child_span(
    tracer: Tracer,
    name: str,
    attributes: Attributes,
    work: AbstractContextManager[T],
    kind: SpanKind,
    links: Sequence[Link],
) -> Iterator[T]:
    numbers = get_value(_CHILD_NUMBERS)
    if not isinstance(numbers, itertools.count) or next(numbers) >= MAX_CHILD_SPANS:
        with work as value:
            yield value
        return
    span = tracer.start_span(name, kind=kind, attributes=attributes, links=links)
    error = ""
    try:
        with work as value:
            yield value
    except BaseException as raised:
        error = type(raised).__name__
        raise
    finally:
        end_span(span, error=error)


def current_link() -> Link | None:
    """A link to the current span, for a span of other work; None if this process records none."""
    if _tracer is None:
        return None
    span = get_current_span()
    return Link(span.get_span_context()) if span.is_recording() else None


def add_link(link: Link | None) -> None:
    """Link the current span to that of `current_link`, other work that this one used."""
    if link is not None:
        get_current_span().add_link(link.context)


def traceparent() -> str | None:
    """The `traceparent` of the current span; None without one."""
    span = get_current_span()
    return traceparent_of(span) if span.get_span_context().is_valid else None


def traceparent_of(span: Span) -> str:
    """The span as a `traceparent`; `traceresponse` has the same form.

    The propagator's `inject` takes more than twice as long: it needs a carrier and a context.
    """
    context = span.get_span_context()
    ids = f"{format_trace_id(context.trace_id)}-{format_span_id(context.span_id)}"
    return f"00-{ids}-{context.trace_flags:02x}"


def log_fields(traceparent: str) -> dict[str, str]:
    """The `trace_id` and `span_id` for log lines, in lower-case hexadecimal."""
    _, trace_id, span_id, _ = traceparent.split("-")
    return {"trace_id": trace_id, "span_id": span_id}


class TracingRefusedError(ValueError):
    """The settings ask for spans, and this process cannot record them."""


@contextmanager
def recorded_by(provider: TracerProvider) -> Iterator[None]:
    """While open, `provider` records the spans of this process.

    OpenTelemetry's own global provider stays unset: libraries, such as redis-py, record nothing.
    """
    global _tracer  # noqa: PLW0603 - one per process, like logs and metrics
    before, _tracer = _tracer, provider.get_tracer("credit_service", version("credit-service"))
    try:
        yield
    finally:
        _tracer = before
