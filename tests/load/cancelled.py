"""5,000 calls and 500 streams cancelled by their callers: the server releases all resources."""

import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import grpc
import psycopg
from google.type.decimal_pb2 import Decimal
from google.type.money_pb2 import Money

from benchmarks import bed
from benchmarks.bed import Bed, Server
from credit_service.v1 import credit_service_pb2 as pb
from tests.load.report import Report

_CUSTOMERS = 100
_CALLS, _CALLS_AT_ONCE = 5_000, 100
_STREAMS, _STREAMS_AT_ONCE = 500, 4
_MOST_GROWTH_BYTES = 8 * 2**20


def run(test_bed: Bed) -> Report:
    """Run this part on a separate database."""
    report = Report("cancelled")
    url = test_bed.database("cancelled")
    bed.fill(url, 1, _CUSTOMERS, 3)
    with ExitStack() as running:
        server = running.enter_context(bed.server(url, test_bed.redis_url, test_bed.all_processors))
        stub: Any = server.stub(running)
        for name, cancel in (
            (f"{_CALLS:,} calls", partial(_cancel_calls, stub)),
            (f"{_STREAMS} streams", partial(_cancel_streams, stub)),
        ):
            # The first round fills what a server keeps: threads, connections, allocator memory.
            cancel()
            _measure(report, server, url, name, cancel)
        left = stub.CheckEligibility(_check(1), timeout=10)
        report.expect(left.approved, "the next call succeeds")
    return report


def _measure(
    report: Report, server: Server, url: str, name: str, cancel: Callable[[], int]
) -> None:
    _settled(server, url)
    threads, memory = server.process.num_threads(), server.process.memory_info().rss
    began = time.monotonic()
    finished = cancel()
    seconds = time.monotonic() - began
    busy = _settled(server, url)
    grown = server.process.memory_info().rss - memory
    more = server.process.num_threads() - threads
    report.note(f"{name} cancelled in {seconds:.1f} s; {finished} had ended earlier")
    report.expect(busy == 0, f"after {name}: {busy} connections active or in a transaction")
    report.expect(more <= 0, f"after {name}: {more:+d} threads")
    report.expect(
        grown <= _MOST_GROWTH_BYTES, f"after {name}: memory grew by {grown / 2**20:.1f} MiB"
    )


def _settled(server: Server, url: str) -> int:
    """Wait until the server is idle; returns the connections in use."""
    busy = 0
    until = time.monotonic() + 10
    with psycopg.connect(url, autocommit=True) as connection:
        while time.monotonic() < until:
            row = connection.execute(
                """SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                AND application_name = 'credit-service' AND state <> 'idle'"""
            ).fetchone()
            assert row is not None
            busy = row[0]
            if not busy:
                break
            time.sleep(0.1)
    time.sleep(1.0)
    return busy


def _check(customer_id: int) -> pb.CheckEligibilityRequest:
    return pb.CheckEligibilityRequest(
        customer_id=customer_id,
        loan_amount=Money(units=5_000),
        interest_rate=Decimal(value="16"),
        tenure_months=12,
    )


def _booking(number: int) -> pb.CreateLoanRequest:
    return pb.CreateLoanRequest(
        request_id=str(uuid.uuid4()),
        customer_id=1 + number % _CUSTOMERS,
        loan_amount=Money(units=500),
        interest_rate=Decimal(value="16"),
        tenure_months=12,
    )


def _cancel_calls(stub: Any) -> int:
    """Cancel reads and bookings at random times; returns how many ended before."""
    finished = 0
    for batch in range(_CALLS // _CALLS_AT_ONCE):
        calls = [
            stub.CreateLoan.future(_booking(number))
            if number % 2
            else stub.CheckEligibility.future(_check(1 + number))
            for number in range(_CALLS_AT_ONCE)
        ]
        time.sleep(batch % 10 / 1000)
        finished += sum(not call.cancel() for call in calls)
    return finished


def _cancel_streams(stub: Any) -> int:
    finished = 0
    for batch in range(_STREAMS // _STREAMS_AT_ONCE):
        streams = [
            stub.WatchCreditEvents(pb.WatchCreditEventsRequest(after_event_id=0))
            for _ in range(_STREAMS_AT_ONCE)
        ]
        if batch % 2:
            for stream in streams:
                # Streams of the previous batch may still be open: the server then rejects this one.
                with suppress(grpc.RpcError):
                    next(stream)
        finished += sum(not stream.cancel() for stream in streams)
        time.sleep(0.01)
    return finished
