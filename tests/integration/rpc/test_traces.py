"""One trace from a caller through the server and the outbox to the actor that reacts."""

import io
import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.type.decimal_pb2 import Decimal
from google.type.money_pb2 import Money
from opentelemetry import context as trace_context
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from pydantic import SecretStr
from sqlalchemy import text

from credit_service.clock import Clock
from credit_service.observability import tracing
from credit_service.observability.logs import configure_logging
from credit_service.settings import Settings
from credit_service.storage import event_stream, tasks
from credit_service.storage.database import Database
from credit_service.v1 import credit_service_pb2 as pb
from tests.integration import portfolio
from tests.integration.conftest import Edge
from workers.process import WorkerProcess

TRACE, CALLERS_SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CALLER = (("traceparent", f"00-{TRACE}-{CALLERS_SPAN}-01"),)
MOMENT = Clock().moment()


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """An exporter with the ended spans of this process."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with tracing.recorded_by(provider):
        yield exporter


def logged() -> io.StringIO:
    """A stream that gets all following log lines as JSON."""
    stream = io.StringIO()
    configure_logging(Settings(log_format="json"), component="worker", stream=stream)
    return stream


def named(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in spans.get_finished_spans() if span.name == name]


def awaited(spans: InMemorySpanExporter, name: str) -> ReadableSpan:
    """The only span of a name; waits for it, as it may end shortly after the response."""
    until = time.monotonic() + 20
    while not named(spans, name):
        assert time.monotonic() < until, [span.name for span in spans.get_finished_spans()]
        time.sleep(0.02)
    (span,) = named(spans, name)
    return span


def place(span: ReadableSpan) -> tuple[str, str]:
    assert span.context is not None
    return f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"


def traceparent(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"00-{'-'.join(place(span))}-{span.context.trace_flags:02x}"


def parent(span: ReadableSpan) -> str:
    assert span.parent is not None
    return f"{span.parent.span_id:016x}"


def a_loan(customer_id: int) -> pb.CreateLoanRequest:
    return pb.CreateLoanRequest(
        request_id=str(uuid.uuid4()),
        customer_id=customer_id,
        loan_amount=Money(units=50_000),
        interest_rate=Decimal(value="16"),
        tenure_months=12,
    )


def worker(database_url: str, redis_url: str) -> WorkerProcess:
    settings = Settings(
        database_url=SecretStr(database_url),
        redis_url=SecretStr(redis_url),
        shutdown_grace_seconds=5,
    )
    return WorkerProcess(settings, timetable=False)


def finish_registration(database: Database) -> None:
    """Publish the events of the registration, which belong to no trace, without their tasks."""
    with database.transaction() as connection:
        event_stream.publish(connection, 100)


def test_a_booking_is_one_trace_from_the_caller_to_the_actor(
    server: Edge,
    database: Database,
    database_url: str,
    redis_url: str,
    spans: InMemorySpanExporter,
) -> None:
    customer_id = portfolio.a_good_customer(database, MOMENT)
    finish_registration(database)
    spans.clear()
    response, call = server.credit.CreateLoan.with_call(
        a_loan(customer_id), timeout=10, metadata=CALLER
    )
    assert response.approved
    returned = str(dict(call.trailing_metadata())["traceresponse"])

    of_call = awaited(spans, "credit_service.v1.CreditService/CreateLoan")
    assert of_call.kind is SpanKind.SERVER
    assert returned == traceparent(of_call)
    assert place(of_call)[0] == TRACE
    assert parent(of_call) == CALLERS_SPAN
    attributes = dict(of_call.attributes or {})
    assert attributes.pop("credit.call_id") == dict(call.trailing_metadata())["x-request-id"]
    assert attributes == {
        "rpc.system": "grpc",
        "rpc.service": "credit_service.v1.CreditService",
        "rpc.method": "CreateLoan",
        "rpc.grpc.status_code": 0,
    }
    parts = named(spans, "autocommit") + named(spans, "transaction")
    assert {(parent(part), place(part)[0]) for part in parts} == {(place(of_call)[1], TRACE)}
    assert all(part.kind is SpanKind.CLIENT for part in parts)

    process = worker(database_url, redis_url)
    spans.clear()
    log = logged()
    process.start()
    of_task = awaited(spans, "recompute_score")
    process.stop()
    assert of_task.kind is SpanKind.CONSUMER
    assert place(of_task)[0] == TRACE
    assert parent(of_task) == place(of_call)[1]
    inside = named(spans, "transaction")
    assert place(of_task)[1] in {parent(part) for part in inside if part.parent is not None}
    assert log.getvalue()

    with database.autocommit() as connection:
        (of_score,) = connection.execute(
            text("SELECT traceparent FROM events WHERE kind = 'score_changed'")
        ).scalars()
    assert of_score == traceparent(of_task)


def test_the_span_of_a_failed_call_has_the_reason_but_no_personal_data(
    server: Edge, database: Database, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("Asha Rao, +91 98765 43210")

    with pytest.raises(grpc.RpcError):
        server.credit.GetCustomer(pb.GetCustomerRequest(customer_id=4_000_000), timeout=10)
    refused = awaited(spans, "credit_service.v1.CreditService/GetCustomer")
    assert dict(refused.attributes or {})["error.type"] == "CUSTOMER_NOT_FOUND"
    assert dict(refused.attributes or {})["rpc.grpc.status_code"] == 5
    assert refused.status.status_code is StatusCode.UNSET  # an error of the caller

    spans.clear()
    monkeypatch.setattr("credit_service.rpc.credit.get_customer", fail)
    with pytest.raises(grpc.RpcError):
        server.credit.GetCustomer(pb.GetCustomerRequest(customer_id=1), timeout=10)
    failed = awaited(spans, "credit_service.v1.CreditService/GetCustomer")
    assert (failed.status.status_code, failed.status.description) == (StatusCode.ERROR, "INTERNAL")
    everything = " ".join(span.to_json() for span in spans.get_finished_spans())
    assert "Asha" not in everything
    assert "98765" not in everything


def test_a_stream_is_one_span(server: Edge, spans: InMemorySpanExporter) -> None:
    stream: Any = server.credit.WatchCreditEvents(pb.WatchCreditEventsRequest(), metadata=CALLER)
    next(iter(stream))
    stream.cancel()
    ended = awaited(spans, "credit_service.v1.CreditService/WatchCreditEvents")
    assert dict(ended.attributes or {})["rpc.grpc.status_code"] == 1
    assert place(ended)[0] == TRACE


def test_background_loops_start_no_traces(
    server: Edge, database_url: str, redis_url: str, spans: InMemorySpanExporter
) -> None:
    """Probes, relay and metrics query the database repeatedly without a caller."""
    process = worker(database_url, redis_url)
    process.start()
    time.sleep(1.2)
    process.stop()
    assert spans.get_finished_spans() == ()


def test_log_lines_of_a_task_have_its_trace_id_even_if_no_spans_are_recorded(
    server: Edge,
    database: Database,
    database_url: str,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a defect")

    customer_id = portfolio.a_good_customer(database, MOMENT)
    finish_registration(database)
    monkeypatch.setattr("workers.actors.recompute_scores", fail)
    server.credit.CreateLoan(a_loan(customer_id), timeout=10, metadata=CALLER)
    process = worker(database_url, redis_url)
    log = logged()
    process.start()
    until = time.monotonic() + 20
    while "task_failed" not in log.getvalue() and time.monotonic() < until:
        time.sleep(0.02)
    process.stop()
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    (failed,) = [line for line in lines if line["event"] == "task_failed"]
    assert failed["subject"] == str(customer_id)
    assert failed["trace_id"] == TRACE
    assert failed["span_id"] not in (CALLERS_SPAN, "")


def test_a_task_keeps_the_trace_that_enqueued_it_first(database: Database) -> None:
    first, second = (f"00-{TRACE}-{number:016x}-01" for number in (1, 2))

    def enqueue(traceparent: str | None) -> None:
        with database.transaction() as connection:
            tasks.enqueue_for(connection, "act", {"7": traceparent}, MOMENT)

    for each in (None, first, second, None):
        enqueue(each)
    with database.transaction() as connection:
        (task,) = tasks.claim(connection, ["act"], limit=9, window=9, timeout_seconds=0)
        (run,) = tasks.begin(connection, [task.task_id], lease_seconds=9)
    assert run.traceparent == first
    # Also after a failure, when it replaces a task enqueued meanwhile.
    enqueue(second)
    with database.transaction() as connection:
        tasks.fail(connection, run, "no luck")
        (kept,) = connection.execute(text("SELECT traceparent FROM tasks")).scalars()
    assert kept == first


def test_every_event_keeps_the_trace_of_its_call(server: Edge, database: Database) -> None:
    customer_id = portfolio.a_good_customer(database, MOMENT)
    finish_registration(database)
    server.credit.RegisterCustomer(
        pb.RegisterCustomerRequest(
            request_id=str(uuid.uuid4()),
            first_name="Asha",
            last_name="Rao",
            age=40,
            monthly_income=Money(units=90_000),
            phone_number="9876543210",
        ),
        timeout=10,
        metadata=CALLER,
    )
    request = a_loan(customer_id)
    request.tenure_months, request.loan_amount.units = 1, 20_000
    booked = server.credit.CreateLoan(request, timeout=10, metadata=CALLER).loan
    declined = a_loan(customer_id)
    declined.loan_amount.units = 90_000_000
    assert not server.credit.CreateLoan(declined, timeout=10, metadata=CALLER).approved
    server.credit.RecordPayment(
        pb.RecordPaymentRequest(
            request_id=str(uuid.uuid4()),
            customer_id=customer_id,
            loan_id=booked.loan_id,
            amount=booked.monthly_installment,
        ),
        timeout=10,
        metadata=CALLER,
    )
    with database.autocommit() as connection:
        rows = connection.execute(
            text("SELECT kind, traceparent FROM events WHERE event_id IS NULL")
        ).all()
    traces = {kind: (traceparent or "").split("-") for kind, traceparent in rows}
    assert set(traces) == {
        "customer_registered",
        "loan_created",
        "loan_declined",
        "payment_recorded",
        "loan_closed",
    }
    assert {fields[1] for fields in traces.values()} == {TRACE}


def test_events_without_a_customer_keep_their_trace(database: Database) -> None:
    span = tracing.start_span("call", SpanKind.SERVER, CALLER[0][1], {})
    assert span is not None
    of_call = tracing.context_of(span)
    for context, expected in (
        (trace_context.Context(), None),
        (of_call, tracing.traceparent_of(span)),
    ):
        token = trace_context.attach(context)
        try:
            with database.transaction() as connection:
                event_stream.append_for_no_customer(connection, "rows_ingested", {}, MOMENT)
                (published,) = event_stream.publish(connection, 10)
        finally:
            trace_context.detach(token)
        assert published.traceparent == expected
