"""The benchmarks count, calculate and report correctly. No test asserts a time."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest

from benchmarks import calls, load, pgbench, picture, report, scale
from benchmarks.__main__ import GROUPS, SEPARATE
from benchmarks.bed import Machine
from benchmarks.load import LoadError, Order
from benchmarks.measuring import RATE, SECONDS, Goal, Result, Turn, by_turns

Handler = Callable[[bytes, grpc.ServicerContext], bytes]


@contextlib.contextmanager
def serving(handler: Handler) -> Iterator[int]:
    """A gRPC server that answers every method by `handler`; its port."""
    method = grpc.unary_unary_rpc_method_handler(handler)
    handlers = [grpc.method_handlers_generic_handler("x.X", {"Y": method})]
    server = grpc.server(futures.ThreadPoolExecutor(4), handlers=handlers)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


def test_the_generator_sends_every_body_once_and_counts_the_answers() -> None:
    received: list[bytes] = []
    lock = threading.Lock()

    def echo(request: bytes, _context: grpc.ServicerContext) -> bytes:
        with lock:
            received.append(request)
        return request

    bodies = [f"body {number}".encode() for number in range(100_000)]
    with serving(echo) as port:
        order = Order(port, "/x.X/Y", bodies, 0.3, callers=8, channels=2, once=True)
        outcome = load.run_apart(order)
    assert outcome.failed == 0
    assert outcome.calls == len(received) > 8
    assert sorted(received) == sorted(bodies[: len(received)])
    assert set(outcome.samples) <= set(received)
    assert outcome.p50_ms <= outcome.p99_ms


def test_metadata_of_any_length_arrives_with_every_call() -> None:
    received: set[object] = set()

    def note(_request: bytes, context: grpc.ServicerContext) -> bytes:
        received.add(frozenset(context.invocation_metadata()))
        return b""

    metadata = tuple((f"x-{length}", "a" * length) for length in (126, 127, 254, 255, 1000))
    with serving(note) as port:
        outcome = load.run(Order(port, "/x.X/Y", [b""], 0.1, callers=3, metadata=metadata))
    assert outcome.calls > 3
    assert all(set(metadata) <= each for each in received if isinstance(each, frozenset))
    assert received


def test_long_answers_arrive_whole() -> None:
    with serving(lambda request, _context: request * 300_000) as port:
        outcome = load.run(Order(port, "/x.X/Y", [b"a"], 0.2, callers=2, channels=1))
    assert outcome.calls > 0
    assert set(outcome.samples) == {b"a" * 300_000}


def test_failures_are_counted_separately_with_a_reason() -> None:
    def fail(_request: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.NOT_FOUND, "there is no such thing")

    with serving(fail) as port:
        outcome = load.run(Order(port, "/x.X/Y", [b""], 0.1, callers=2, channels=1))
    assert outcome.calls == 0
    assert outcome.failed > 0
    assert "there is no such thing" in outcome.failure


def test_running_out_of_bodies_is_an_error() -> None:
    with (
        serving(lambda request, _context: request) as port,
        pytest.raises(LoadError, match="all 10 bodies were used"),
    ):
        load.run(Order(port, "/x.X/Y", [b"a"] * 10, 1.0, callers=4, channels=1, once=True))


def test_several_processes_load_at_the_same_time_and_their_calls_are_added() -> None:
    received: list[bytes] = []
    both = threading.Event()

    def echo(request: bytes, _context: grpc.ServicerContext) -> bytes:
        received.append(request)
        if set(received) == {b"a", b"b"}:
            both.set()
        # One process alone would wait for the other in vain.
        assert both.wait(30)
        return request

    with serving(echo) as port:
        orders = [Order(port, "/x.X/Y", [body], 0.1, callers=2) for body in (b"a", b"b")]
        outcome = load.run_together(orders)
    assert outcome.failed == 0
    assert outcome.calls == len(received)
    assert set(outcome.samples) == {b"a", b"b"}


def test_a_load_process_that_dies_is_an_error() -> None:
    with pytest.raises(RuntimeError, match=r"a process of tests\.absent died"):
        load.ordered("tests.absent", [None, None])


@pytest.mark.parametrize(
    ("busy", "limit"),
    [
        ({"machine": 1.9, "server": 1.0, "load": 0.2}, "all 2 processors"),
        ({"machine": 1.2, "server": 1.9, "load": 0.2}, "the serving processes"),
        ({"machine": 1.2, "server": 1.0, "load": 0.95}, "the load"),
        ({"machine": 1.2, "server": 1.0, "load": 0.2}, "waiting for PostgreSQL or Redis"),
    ],
)
def test_a_result_names_its_limit(busy: dict[str, float], limit: str) -> None:
    assert scale.saturated(busy, count=2, loads=1, processors=2) == limit


def test_each_stream_has_customers_of_its_own() -> None:
    lines = scale._rows(500).replace("STREAM", "1234").splitlines()
    assert len(lines) == 501
    customers = {int(line.partition(",")[0]) for line in lines[1:]}
    assert customers <= set(range(1_234_000, 1_235_000))


def test_workloads_alternate_after_a_warm_up() -> None:
    done: list[str] = []

    def work(name: str) -> Callable[[], Turn]:
        def turn() -> Turn:
            done.append(name)
            return Turn(float(len(done)))

        return turn

    turns = by_turns(3, [work("a"), work("b")])
    assert "".join(done) == "ab" + "ab" + "ba" + "ab"
    assert [each.figure for each in turns[0]] == [3.0, 6.0, 7.0]
    assert [each.figure for each in turns[1]] == [4.0, 5.0, 8.0]


def result(goal: Goal | None = None, **changes: Any) -> Result:
    given: dict[str, Any] = {
        "name": "work",
        "work": "Some work",
        "against": "a yardstick",
        "unit": RATE,
        "goal": goal,
        "turns": [
            Turn(50.0, {"server": 0.5}),
            Turn(80.0, {"server": 0.7}),
            Turn(10.0, {"server": 0}),
        ],
        "yardstick_turns": [Turn(100.0), Turn(100.0), Turn(100.0)],
    }
    return Result(**(given | changes))


def test_the_ratio_is_the_median_of_the_rounds() -> None:
    drifting = result(yardstick_turns=[Turn(100.0), Turn(200.0), Turn(10.0)])
    assert drifting.figure == 50.0
    assert drifting.yardstick == 100.0
    assert drifting.ratio == 0.5  # of 0.5, 0.4 and 1.0
    assert result(yardstick_turns=[]).ratio == 50.0


@pytest.mark.parametrize(
    ("goal", "met"),
    [
        (Goal("≥", 0.5), True),
        (Goal("≥", 0.51), False),
        (Goal("≤", 0.5), True),
        (Goal("≤", 0.49), False),
        (None, None),
    ],
)
def test_a_goal_is_met_or_not(goal: Goal | None, met: bool | None) -> None:
    assert result(goal).met is met


def test_the_table_and_the_json_are_equal(tmp_path: Path) -> None:
    results = [
        result(Goal("≥", 0.6)),
        result(Goal("≤", 4), unit=SECONDS, name="times"),
        result(name="alone", yardstick_turns=[], against=""),
        result(name="faster", yardstick_turns=[Turn(20.0)] * 3),
    ]
    table = report.table(results).splitlines()
    assert [line.count("|") for line in table] == [8] * 6
    assert "50% " in table[2]
    assert "≥ 60%" in table[2]
    assert "NO" in table[2]
    assert "0.50 times" in table[3]
    assert "yes" in table[3]
    assert "2.50 times" in table[5]
    machine = Machine("a processor", 2, 24, "Linux", "3.11", "18", 0.5)
    report.write_json(tmp_path / "x.json", machine, results, quick=True)
    document = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert [each["met"] for each in document["results"]] == [False, True, None, None]
    assert document["machine"]["processors"] == 2
    assert "50" in report.details(results)


def test_the_pgbench_script_names_every_value_it_uses() -> None:
    script = pgbench.script(100)
    known = {"customer_id", *pgbench.variables()}
    known |= {"r_read_version", "r_scorecard_version", "r_decision_id", "r_loan_id"}
    known |= {"r_new_request_id"}
    assert set(pgbench.parameters(script)) <= known
    assert script.count("\\gset") == 2


def test_bodies_differ_in_their_request_ids() -> None:
    assert calls.create_body(7) != calls.create_body(7)
    assert calls.check_body(7) == calls.check_body(7)
    assert all(1 <= each <= 3 for each in calls.picked(3, 50))


def test_the_groups_have_names_of_their_own() -> None:
    names = (*GROUPS, *SEPARATE)
    assert len(set(names)) == len(names)


def test_the_picture_has_every_point() -> None:
    def of_size(method: str, size: int, figure: float) -> dict[str, Any]:
        grown = result(
            name=f"growth-{method}-{size}", against="with 300 customers", turns=[Turn(figure)] * 3
        )
        return grown.as_dict()

    document = {
        "results": [
            of_size("CheckEligibility", 10_000, 1.25),
            of_size("CheckEligibility", 1_000_000, 1.5),
            of_size("CreateLoan", 1_000_000, 6.75),
            result().as_dict(),
        ]
    }
    found = picture.curves(document)
    assert found["CheckEligibility"] == [(300, 100.0), (10_000, 1.25), (1_000_000, 1.5)]
    drawn = picture.svg(found)
    assert drawn.count("<circle") == 5
    assert drawn.count("<polyline") == 2
    assert "1,000,000" in drawn
