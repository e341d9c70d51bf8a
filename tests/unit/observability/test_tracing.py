"""Reading W3C trace context: examples of the specification, and what it calls invalid."""

import pytest

from credit_service.observability.tracing import Span

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_a_valid_traceparent_is_read_and_written_alike() -> None:
    span = Span.read(f"00-{TRACE}-{SPAN}-01")
    assert span == Span(TRACE, SPAN, "01")
    assert str(span) == f"00-{TRACE}-{SPAN}-01"


def test_a_child_stays_in_the_trace_under_an_id_of_its_own() -> None:
    parent = Span(TRACE, SPAN, "01")
    children = {parent.child() for _ in range(100)}
    assert len(children) == 100
    assert {(each.trace_id, each.flags) for each in children} == {(TRACE, "01")}
    assert all(Span.read(str(each)) == each for each in children)


def test_later_versions_are_read_as_far_as_they_are_known() -> None:
    assert Span.read(f"cc-{TRACE}-{SPAN}-01-what-the-future-brings") == Span(TRACE, SPAN, "01")


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "x" * 5000,
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}",
        f" 00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
    ],
)
def test_what_is_invalid_is_ignored(traceparent: str) -> None:
    assert Span.read(traceparent) is None
