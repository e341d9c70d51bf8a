"""Which call reads for which, and what a call does when another one's read fails it."""

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from opentelemetry import context as trace_context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from credit_service.clock import Clock, Moment
from credit_service.domain.errors import NotFoundError, UnavailableError
from credit_service.observability import metrics, tracing
from credit_service.rpc.calls import shared_reads
from credit_service.rpc.calls.shared_reads import Arrival, Arrivals, SharedReads
from credit_service.storage.cancellation import ScopeCancelledError

MOMENT = Clock().moment()
UNREACHABLE = UnavailableError("DATABASE_UNAVAILABLE", "unreachable", 1.0)
_PATIENCE_SECONDS = 10.0


class Reader:
    """A `read` that multiplies by 10. A test can put something before each of its steps."""

    def __init__(self) -> None:
        self.asked: list[set[int]] = []
        self.steps: Callable[[Collection[int]], Iterator[Mapping[int, int]]] = lambda keys: iter(
            [{each: 10 * each for each in keys}]
        )
        self.alone: list[int] = []

    def __call__(self, keys: Collection[int], _moment: Moment) -> Iterator[Mapping[int, int]]:
        self.asked.append(set(keys))
        return self.steps(keys)


class Calls:
    """The calls of a method, with numbers as messages."""

    def __init__(self, largest: int = 16) -> None:
        self.arrivals = Arrivals()
        self.reader = Reader()
        self.reads = reads(self.reader, largest)
        self.expected_late = 0

    def arrive(self, *numbers: int) -> list[Arrival]:
        """Let a call arrive for each number."""
        found = [self.arrivals.add(str(each).encode()) for each in numbers]
        return [each for each in found if each is not None]

    def serve(self, arrival: Arrival, moment: Moment = MOMENT) -> int:
        """What the call gets; 1000 times its number where it reads by itself."""
        number = int(arrival.data)

        def alone() -> int:
            self.reader.alone.append(number)
            return 1000 * number

        return self.reads.get(arrival, number, moment, alone)


def reads(reader: Reader, largest: int = 16) -> SharedReads[int, int]:
    return SharedReads("test", _number, reader, largest=largest)


def _number(data: bytes) -> int | None:
    if data == b"broken":
        raise DecodeError
    return int(data) or None


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[Calls]:
    """No call may run out of patience, unless the test expects it."""
    monkeypatch.setattr(shared_reads, "PATIENCE_SECONDS", _PATIENCE_SECONDS)
    calls, before = Calls(), _left("late")
    yield calls
    assert _left("late") == before + calls.expected_late


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(24) as pool:
        yield pool


def test_a_call_without_others_reads_by_itself(calls: Calls) -> None:
    assert [calls.serve(calls.arrive(each)[0]) for each in (1, 2)] == [1000, 2000]
    assert calls.reader.asked == []
    assert len(calls.arrivals) == 0


def test_a_call_that_is_not_shared_reads_by_itself(calls: Calls) -> None:
    calls.arrive(2)
    assert calls.reads.get(None, 1, MOMENT, lambda: 7) == 7
    # Neither a call without a message nor a padded message.
    assert [calls.arrivals.add(each) for each in (None, b"0" * 4097)] == [None, None]


def test_a_call_reads_for_those_that_have_arrived(calls: Calls) -> None:
    arrived = calls.arrive(1, 2, 3, 2)
    # In any order.
    assert [calls.serve(each) for each in reversed(arrived)] == [20, 30, 20, 10]
    assert calls.reader.asked == [{1, 2, 3}]
    assert calls.reader.alone == []
    assert len(calls.arrivals) == 0


def test_a_read_has_a_largest_size() -> None:
    calls = Calls(largest=3)
    arrived = calls.arrive(1, 2, 3, 4, 5)
    assert [calls.serve(each) for each in arrived] == [10, 20, 30, 40, 50]
    assert calls.reader.asked == [{1, 2, 3}, {4, 5}]


def test_a_call_that_arrives_during_a_read_does_not_use_it(calls: Calls) -> None:
    later: list[Arrival] = []

    def steps(keys: Collection[int]) -> Iterator[Mapping[int, int]]:
        later.extend(calls.arrive(3))
        yield {each: 10 * each for each in {*keys, 3}}

    calls.reader.steps = steps
    first, second = calls.arrive(1, 2)
    assert [calls.serve(first), calls.serve(second)] == [10, 20]
    assert calls.serve(later[0]) == 3000


def test_a_call_that_another_one_reads_for_meanwhile_reads_for_none(calls: Calls) -> None:
    first, second, third = calls.arrive(1, 2, 3)
    read = shared_reads._Read(calls.reads, MOMENT.today)
    assert calls.arrivals.claim(first, read, 1) == [second]
    assert calls.arrivals.claim(second, read, 15) == []
    assert third.read is None


def test_a_call_that_ended_without_reading_is_not_read_for(calls: Calls) -> None:
    first, ended, second = calls.arrive(1, 2, 3)
    ended.leave()
    assert [calls.serve(first), calls.serve(second)] == [10, 30]
    assert calls.reader.asked == [{1, 3}]


def test_a_call_waits_for_a_read_that_runs(calls: Calls, threads: ThreadPoolExecutor) -> None:
    first_step, second_step = threading.Event(), threading.Event()

    def steps(_keys: Collection[int]) -> Iterator[Mapping[int, int]]:
        assert first_step.wait(_PATIENCE_SECONDS)
        yield {2: 20}
        assert second_step.wait(_PATIENCE_SECONDS)
        yield {1: 10, 3: 30}

    calls.reader.steps = steps
    arrived = calls.arrive(1, 2, 3)
    reading = threads.submit(calls.serve, arrived[0])
    _until(lambda: arrived[1].read is not None)
    others = [threads.submit(calls.serve, each) for each in arrived[1:]]
    first_step.set()
    assert others[0].result(_PATIENCE_SECONDS) == 20
    assert not others[1].done()
    second_step.set()
    assert [each.result(_PATIENCE_SECONDS) for each in (reading, others[1])] == [10, 30]
    assert calls.reader.alone == []


def test_a_call_waits_for_a_read_that_hangs_only_so_long(
    calls: Calls, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_reads, "PATIENCE_SECONDS", 0.001)
    hangs = threading.Event()

    def steps(keys: Collection[int]) -> Iterator[Mapping[int, int]]:
        assert hangs.wait(_PATIENCE_SECONDS)
        yield {each: 10 * each for each in keys}

    calls.reader.steps = steps
    first, second = calls.arrive(1, 2)
    reading = threads.submit(calls.serve, first)
    _until(lambda: second.read is not None)
    calls.expected_late = 1
    try:
        assert calls.serve(second) == 2000
        # Nor does it hold up calls that arrive later: there are no lanes.
        assert calls.serve(calls.arrive(3)[0]) == 3000
    finally:
        hangs.set()
    assert reading.result(_PATIENCE_SECONDS) == 10


def test_a_call_reads_no_longer_than_it_needs(calls: Calls) -> None:
    def steps(_keys: Collection[int]) -> Iterator[Mapping[int, int]]:
        yield {1: 10, 3: 30}
        raise AssertionError("it reads what only another call needs")

    calls.reader.steps = steps
    arrived = calls.arrive(1, 2, 3)
    assert [calls.serve(each) for each in arrived] == [10, 2000, 30]


def test_a_call_without_a_value_raises_its_own_error(calls: Calls) -> None:
    missing = NotFoundError("LOAN_NOT_FOUND", "loan", "2")

    def alone() -> int:
        raise missing

    calls.reader.steps = lambda _keys: iter([{1: 10}])
    first, second = calls.arrive(1, 2)
    assert calls.serve(first) == 10
    with pytest.raises(NotFoundError) as raised:
        calls.reads.get(second, 2, MOMENT, alone)
    assert raised.value is missing


def test_an_invalid_message_harms_no_other_call(calls: Calls) -> None:
    first, _, second = calls.arrive(1, 0, 2)
    calls.arrivals.add(b"broken")
    assert [calls.serve(first), calls.serve(second)] == [10, 20]
    assert calls.reader.asked == [{1, 2}]


@pytest.mark.parametrize("error", [UNREACHABLE, ScopeCancelledError()])
def test_a_failure_of_the_connection_fails_the_reading_call_alone(
    calls: Calls, error: Exception
) -> None:
    def steps(_keys: Collection[int]) -> Iterator[Mapping[int, int]]:
        raise error

    calls.reader.steps = steps
    first, second = calls.arrive(1, 2)
    with pytest.raises(type(error)):
        calls.serve(first)
    assert calls.serve(second) == 2000


def test_a_statement_that_fails_fails_no_call(calls: Calls) -> None:
    def steps(_keys: Collection[int]) -> Iterator[Mapping[int, int]]:
        raise ValueError("about another call")

    calls.reader.steps = steps
    before = _left("failed")
    first, second = calls.arrive(1, 2)
    assert [calls.serve(first), calls.serve(second)] == [1000, 2000]
    assert _left("failed") == before + 1


def test_the_others_read_by_themselves_if_the_reading_thread_ends(calls: Calls) -> None:
    def steps(_keys: Collection[int]) -> Iterator[Mapping[int, int]]:
        raise SystemExit

    calls.reader.steps = steps
    first, second = calls.arrive(1, 2)
    with pytest.raises(SystemExit):
        calls.serve(first)
    assert calls.serve(second) == 2000


def test_a_call_does_not_use_what_another_server_or_day_has(calls: Calls) -> None:
    first, elsewhere, tomorrow = calls.arrive(1, 2, 3)
    assert calls.serve(first) == 10
    # As where the replica read, and the primary must answer.
    assert reads(Reader()).get(elsewhere, 2, MOMENT, lambda: 7) == 7
    day = timedelta(days=1)
    assert calls.serve(tomorrow, Moment(MOMENT.now + day, MOMENT.today + day)) == 3000


def test_the_size_of_each_read_is_observed(calls: Calls) -> None:
    def observed() -> tuple[float, float]:
        names = ("credit_group_calls_count", "credit_group_calls_sum")
        count, total = (
            metrics.REGISTRY.get_sample_value(each, {"command": "test"}) or 0 for each in names
        )
        return count, total

    before = observed()
    for each in calls.arrive(1, 2, 3):
        calls.serve(each)
    calls.serve(calls.arrive(4)[0])
    assert observed() == (before[0] + 2, before[1] + 4)


def test_the_span_of_a_call_is_linked_to_the_one_that_read(calls: Calls) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with tracing.recorded_by(provider):
        for each in calls.arrive(1, 2):
            span = tracing.start_span(f"call-{int(each.data)}", SpanKind.SERVER, None, {})
            assert span is not None
            token = trace_context.attach(tracing.context_of(span))
            calls.serve(each)
            trace_context.detach(token)
            span.end()
    first, second = exporter.get_finished_spans()
    assert [each.context for each in second.links] == [first.context]
    assert not first.links


def test_many_calls_of_many_threads_each_get_their_own_value(
    calls: Calls, threads: ThreadPoolExecutor
) -> None:
    def steps(keys: Collection[int]) -> Iterator[Mapping[int, int]]:
        time.sleep(0.0005)
        yield {each: 10 * each for each in keys}

    calls.reader.steps = steps
    arrived = calls.arrive(*range(1, 2_001))
    found: list[Future[Any]] = [threads.submit(calls.serve, each) for each in arrived]
    assert [each.result(_PATIENCE_SECONDS) for each in found] == [
        10 * number for number in range(1, 2_001)
    ]
    assert sum(map(len, calls.reader.asked)) == 2_000
    assert max(map(len, calls.reader.asked)) == 16


def _left(reason: str) -> float:
    labels = {"command": "test", "reason": reason}
    return metrics.REGISTRY.get_sample_value("credit_group_exits_total", labels) or 0.0


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)
