"""W3C trace context where no spans are recorded: the caller's trace, or none."""

import pytest
from opentelemetry.trace import Span, SpanKind

from credit_service.observability import tracing

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def started(traceparent: str | None) -> Span | None:
    return tracing.start_span("a call", SpanKind.SERVER, traceparent, {})


def fields_of(span: Span | None) -> dict[str, str]:
    assert span is not None
    return tracing.log_fields(tracing.traceparent_of(span))


def test_a_call_has_its_own_ids_in_its_callers_trace() -> None:
    spans = [started(f"00-{TRACE}-{SPAN}-01") for _ in range(100)]
    fields = [fields_of(span) for span in spans]
    assert {each["trace_id"] for each in fields} == {TRACE}
    ids = {each["span_id"] for each in fields}
    assert len(ids) == 100
    assert SPAN not in ids


@pytest.mark.parametrize("flags", ["00", "01"])
def test_traceresponse_keeps_the_callers_flags(flags: str) -> None:
    span = started(f"00-{TRACE}-{SPAN}-{flags}")
    assert span is not None
    assert not span.is_recording()
    own = fields_of(span)["span_id"]
    assert tracing.traceparent_of(span) == f"00-{TRACE}-{own}-{flags}"


def test_later_versions_are_read_as_far_as_they_are_known() -> None:
    span = started(f"cc-{TRACE}-{SPAN}-01-what-the-future-brings")
    assert fields_of(span)["trace_id"] == TRACE


def test_without_a_span_there_is_no_traceparent() -> None:
    assert tracing.traceparent() is None


@pytest.mark.parametrize(
    "traceparent",
    [
        None,
        "",
        "x" * 5000,
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}",
    ],
)
def test_an_invalid_traceparent_is_ignored(traceparent: str | None) -> None:
    assert started(traceparent) is None
