"""Calls in groups: who leads, who waits, and what happens to each call of a group that fails."""

import math
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from opentelemetry import context as trace_context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from credit_service.commands.grouping import GoAloneError, Grouping
from credit_service.observability import metrics, tracing
from credit_service.storage.cancellation import CancelScope, ScopeCancelledError
from tests.unit.commands.groups import (
    PATIENCE_SECONDS,
    Work,
    grouping,
    queued,
    results,
    submit_in,
    until,
)


def test_a_lone_call_runs_at_once_on_its_own_thread() -> None:
    ran_on: list[int] = []

    def run(members: Sequence[int]) -> Sequence[int]:
        ran_on.append(threading.get_ident())
        return members

    groups = Grouping("test", run, lanes=1, largest=8, key=lambda each: each)
    assert [groups.submit(each) for each in range(3)] == [0, 1, 2]
    assert ran_on == [threading.get_ident()] * 3


def test_calls_that_arrive_meanwhile_form_the_next_group(threads: ThreadPoolExecutor) -> None:
    work = Work()
    groups = grouping(work)
    first = threads.submit(groups.submit, 1)
    work.await_start()
    others = queued(threads, groups, [2, 3, 4])
    work.release(2)
    assert results([first, *others]) == [10, 20, 30, 40]
    assert work.groups == [[1], [2, 3, 4]]


def test_a_free_lane_does_not_wait_for_a_busy_one(threads: ThreadPoolExecutor) -> None:
    work = Work()
    groups = grouping(work, lanes=2)
    first = threads.submit(groups.submit, 1)
    work.await_start()
    second = threads.submit(groups.submit, 2)
    work.await_start()
    others = queued(threads, groups, [3, 4])
    assert work.groups == [[1], [2]]
    # One after the other: two lanes that become free together would share the waiting calls.
    work.release()
    work.await_start()
    work.release(2)
    assert results([first, second, *others]) == [10, 20, 30, 40]
    assert work.groups == [[1], [2], [3, 4]]


def test_a_group_has_a_largest_size(threads: ThreadPoolExecutor) -> None:
    work = Work()
    groups = grouping(work, largest=2)
    calls = [threads.submit(groups.submit, 1)]
    work.await_start()
    calls += queued(threads, groups, [2, 3, 4])
    work.release(3)
    assert results(calls) == [10, 20, 30, 40]
    assert work.groups == [[1], [2, 3], [4]]


def test_one_key_is_once_in_a_group_and_keeps_its_order(threads: ThreadPoolExecutor) -> None:
    work = Work()
    groups = grouping(work, key=lambda each: each % 10)
    calls = [threads.submit(groups.submit, 1)]
    work.await_start()
    calls += queued(threads, groups, [2, 12, 3, 22, 13])
    work.release(4)
    assert results(calls) == [10, 20, 120, 30, 220, 130]
    assert work.groups == [[1], [2, 3], [12, 13], [22]]


def test_each_call_raises_its_own_exception(threads: ThreadPoolExecutor) -> None:
    work = Work()
    error = ValueError("only this one")
    work.answer = lambda members: [error if each == 3 else each for each in members]
    groups = grouping(work)
    calls = [threads.submit(groups.submit, 1)]
    work.await_start()
    calls += queued(threads, groups, [2, 3, 4])
    work.release(2)
    assert results(calls) == [1, 2, error, 4]


def test_every_call_raises_the_exception_of_the_group(threads: ThreadPoolExecutor) -> None:
    work = Work()
    error = ValueError("the whole group")

    def answer(members: Sequence[int]) -> Sequence[int]:
        if 3 in members:
            raise error
        return members

    work.answer = answer
    groups = grouping(work)
    calls = [threads.submit(groups.submit, 1)]
    work.await_start()
    calls += queued(threads, groups, [2, 3])
    work.release(2)
    assert results(calls) == [1, error, error]
    # The lane is free again.
    work.release()
    assert groups.submit(5) == 5


def test_a_call_that_leaves_its_group_is_counted(threads: ThreadPoolExecutor) -> None:
    work = Work()
    work.answer = lambda members: [GoAloneError("repeat") for _ in members]
    work.release()
    before = left("repeat")
    with pytest.raises(GoAloneError, match="repeat"):
        grouping(work).submit(1)
    assert left("repeat") == before + 1


def left(reason: str) -> float:
    labels = {"command": "test", "reason": reason}
    return metrics.REGISTRY.get_sample_value("credit_group_exits_total", labels) or 0.0


def test_the_size_of_each_group_is_observed(threads: ThreadPoolExecutor) -> None:
    def observed() -> tuple[float, float]:
        labels = {"command": "test"}
        names = ("credit_group_calls_count", "credit_group_calls_sum")
        count, total = (metrics.REGISTRY.get_sample_value(each, labels) or 0 for each in names)
        return count, total

    work = Work()
    groups = grouping(work)
    before = observed()
    calls = [threads.submit(groups.submit, 1)]
    work.await_start()
    calls += queued(threads, groups, [2, 3, 4])
    work.release(2)
    results(calls)
    assert observed() == (before[0] + 2, before[1] + 4)


def test_the_calls_of_a_leader_that_dies_run_by_themselves(threads: ThreadPoolExecutor) -> None:
    work = Work()

    def answer(members: Sequence[int]) -> Sequence[int]:
        if 2 in members:
            raise SystemExit
        return members

    work.answer = answer
    groups = grouping(work)
    calls = [threads.submit(groups.submit, 1)]
    work.await_start()
    calls += queued(threads, groups, [2, 3, 4])
    work.release(2)
    first, leader, *others = results(calls)
    assert (first, type(leader)) == (1, SystemExit)
    assert [str(each) for each in others] == ["leader_died"] * 2
    work.release()
    assert groups.submit(5) == 5


def test_no_call_gets_the_outcome_of_another(threads: ThreadPoolExecutor) -> None:
    work = Work()
    work.answer = lambda members: members[-1:]
    groups = grouping(work)
    calls = [threads.submit(groups.submit, 1)]
    work.await_start()
    calls += queued(threads, groups, [2, 3])
    work.release(2)
    first, *others = results(calls)
    assert first == 1
    assert [type(each) for each in others] == [ValueError, GoAloneError]


def test_a_cancelled_call_leaves_the_queue(threads: ThreadPoolExecutor) -> None:
    work = Work()
    groups = grouping(work)
    calls = [threads.submit(groups.submit, 1)]
    work.await_start()
    scope = CancelScope(math.inf)
    cancelled = threads.submit(submit_in, scope, groups, 2)
    until(lambda: groups.waiting == 1)
    calls += queued(threads, groups, [3])
    scope.cancel()
    assert isinstance(cancelled.exception(PATIENCE_SECONDS), ScopeCancelledError)
    assert groups.waiting == 1
    work.release(2)
    assert results(calls) == [10, 30]
    assert work.groups == [[1], [3]]


def test_a_cancelled_call_that_gets_the_lane_passes_it_on(
    threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It does not notice its cancellation before it gets the lane.
    monkeypatch.setattr("credit_service.commands.grouping._POLL_SECONDS", PATIENCE_SECONDS)
    work = Work()
    groups = grouping(work)
    calls = [threads.submit(groups.submit, 1)]
    work.await_start()
    scope = CancelScope(math.inf)
    cancelled = threads.submit(submit_in, scope, groups, 2)
    until(lambda: groups.waiting == 1)
    calls += queued(threads, groups, [3])
    scope.cancel()
    work.release(3)
    assert isinstance(cancelled.exception(PATIENCE_SECONDS), ScopeCancelledError)
    assert results(calls) == [10, 30]
    assert work.groups == [[1], [3]]
    # Not in the cancelled scope, which would fail the other call.
    assert work.scopes == [None, None]
    assert groups.submit(4) == 40


def test_a_call_whose_group_runs_can_leave_it(threads: ThreadPoolExecutor) -> None:
    work = Work()
    groups = grouping(work)
    calls = [threads.submit(groups.submit, 1)]
    work.await_start()
    calls += queued(threads, groups, [2])
    scope = CancelScope(math.inf)
    leaving = threads.submit(submit_in, scope, groups, 3)
    until(lambda: groups.waiting == 2)
    work.release()
    work.await_start()
    scope.cancel()
    assert isinstance(leaving.exception(PATIENCE_SECONDS), ScopeCancelledError)
    work.release()
    assert results(calls) == [10, 20]
    assert work.groups == [[1], [2, 3]]


def test_a_group_is_cancelled_with_its_last_call(threads: ThreadPoolExecutor) -> None:
    work = Work()
    groups = grouping(work)
    first = threads.submit(groups.submit, 1)
    work.await_start()
    scopes = [CancelScope(deadline, "write") for deadline in (7.0, 9.0, 8.0)]
    calls = []
    for number, scope in enumerate(scopes):
        calls.append(threads.submit(submit_in, scope, groups, number))
        until(lambda number=number: groups.waiting == number + 1)  # type: ignore[misc]  # bound
    work.release()
    work.await_start()
    shared = work.scopes[1]
    assert shared is not None
    assert (shared.deadline, shared.kind) == (9.0, "write")
    # The leader's cancellation stops neither the group nor its statement.
    cancelled = []
    for scope in scopes:
        scope.cancel()
        cancelled.append(shared.is_cancelled)
    assert cancelled == [False, False, True]
    work.release()
    for each in (first, *calls):
        each.exception(PATIENCE_SECONDS)
    # After the group, the scopes are on their own.
    assert scopes[0]._shared is None


def test_a_call_alone_in_its_group_keeps_its_own_scope() -> None:
    work = Work()
    work.release()
    scope = CancelScope(math.inf)
    assert submit_in(scope, grouping(work), 1) == 10
    assert work.scopes == [scope]


def test_work_outside_of_calls_is_never_cancelled_with_a_call(threads: ThreadPoolExecutor) -> None:
    work = Work()
    groups = grouping(work)
    calls = [threads.submit(groups.submit, 1)]
    work.await_start()
    scope = CancelScope(5.0)
    calls.append(threads.submit(submit_in, scope, groups, 2))
    until(lambda: groups.waiting == 1)
    calls += queued(threads, groups, [3])
    work.release()
    work.await_start()
    scope.cancel()
    shared = work.scopes[1]
    assert shared is not None
    assert (shared.deadline, shared.is_cancelled) == (math.inf, False)
    work.release()
    results(calls)


def test_the_span_of_a_group_is_the_leaders_and_linked_to_the_others(
    threads: ThreadPoolExecutor,
) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    work = Work()
    groups = grouping(work)

    def traced(number: int) -> int:
        span = tracing.start_span(f"call-{number}", SpanKind.SERVER, None, {})
        assert span is not None
        token = trace_context.attach(tracing.context_of(span))
        try:
            return groups.submit(number)
        finally:
            trace_context.detach(token)
            span.end()

    with tracing.recorded_by(provider):
        calls = []
        for number in (1, 2, 3, 4):
            calls.append(threads.submit(traced, number))
            if number == 1:
                work.await_start()
            until(lambda number=number: groups.waiting == number - 1)  # type: ignore[misc]  # bound
        work.release(2)
        assert results(calls) == [10, 20, 30, 40]
    spans = {each.name: each for each in exporter.get_finished_spans()}
    assert set(spans) == {"call-1", "call-2", "call-3", "call-4", "group"}
    group = spans["group"]
    assert group.parent == spans["call-2"].context
    assert [each.context for each in group.links] == [spans[f"call-{n}"].context for n in (3, 4)]
    assert group.attributes == {"calls": 3}


def test_many_calls_of_many_threads_each_get_their_own_result() -> None:
    sizes: list[int] = []

    def run(members: Sequence[int]) -> Sequence[int]:
        sizes.append(len(members))
        time.sleep(0.0005)
        return [each * 3 for each in members]

    groups = Grouping("test", run, lanes=2, largest=16, key=lambda each: each % 97)
    with ThreadPoolExecutor(32) as threads:
        assert list(threads.map(groups.submit, range(3_000))) == [3 * n for n in range(3_000)]
    assert sum(sizes) == 3_000
    assert 1 < max(sizes) <= 16
