"""The metrics of a real server, of several processes on one address, and of a real worker."""

import os
import signal
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import grpc
import psycopg
import pytest
from google.type import decimal_pb2, money_pb2
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from sqlalchemy import text
from structlog.contextvars import get_contextvars

from credit_service.clock import Clock
from credit_service.commands.reconcile import reconcile
from credit_service.observability import metrics
from credit_service.rpc.server_group import ServerGroup
from credit_service.settings import Settings
from credit_service.storage import tasks
from credit_service.storage.database import Database
from credit_service.storage.retention import Retention
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import ingestion_pb2, ingestion_service_pb2
from credit_service.v1.credit_service_pb2_grpc import CreditServiceStub
from tests.integration.conftest import Edge, code_of
from tests.integration.lending import ask, import_loans, register
from workers.backlog import BacklogReader
from workers.process import WorkerProcess

SERVICE = "credit_service.v1.CreditService"
Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def eventually(condition: Callable[[], bool], timeout_seconds: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not hold in time"
        time.sleep(0.05)


class Counted:
    """The increase of this process's metrics since this object was created."""

    def __init__(self) -> None:
        self._before = self._now()

    @staticmethod
    def _now() -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in metrics.REGISTRY.collect()
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        """The increase of all series with this name and these labels."""
        wanted = frozenset(labels.items())
        return sum(
            value - self._before.get((found, its_labels), 0.0)
            for (found, its_labels), value in self._now().items()
            if found == name and wanted <= its_labels
        )


@pytest.fixture
def counted() -> Counted:
    """Created before the test's own calls: a fixture runs first."""
    return Counted()


# Calls.


def test_calls_are_counted_by_method_and_status(counted: Counted, server: Edge) -> None:
    customer_id = register(server.credit, "+919876500001")
    server.credit.GetCustomer(pb.GetCustomerRequest(customer_id=customer_id))
    for _ in range(3):
        with pytest.raises(grpc.RpcError):
            server.credit.GetCustomer(pb.GetCustomerRequest(customer_id=999_999))
    with pytest.raises(grpc.RpcError):
        server.credit.GetCustomer(pb.GetCustomerRequest(customer_id=-1))

    get = {"grpc_service": SERVICE, "grpc_method": "GetCustomer", "grpc_type": "unary"}
    # The caller gets the status before the server has counted it.
    eventually(lambda: counted("grpc_server_handling_seconds_count", **get) == 5)
    assert counted("grpc_server_started_total", **get) == 5
    assert counted("grpc_server_handled_total", **get, grpc_code="OK") == 1
    assert counted("grpc_server_handled_total", **get, grpc_code="NotFound") == 3
    assert counted("grpc_server_handled_total", **get, grpc_code="InvalidArgument") == 1
    assert counted("credit_call_failures_total", reason="CUSTOMER_NOT_FOUND") == 3
    assert counted("credit_call_failures_total", reason="INVALID_FIELD") == 1
    assert 0 < counted("grpc_server_handling_seconds_sum", **get) < 5
    assert counted("grpc_server_handled_total", grpc_method="RegisterCustomer") == 1


def test_unknown_methods_are_not_labels(counted: Counted, server: Edge) -> None:
    for number in range(20):
        call = server.channel.unary_unary(f"/made.up.Service/Method{number}", None, None)
        with pytest.raises(grpc.RpcError):
            call(b"")

    eventually(lambda: counted("grpc_server_handled_total", grpc_method="unknown") == 20)
    assert counted("grpc_server_handled_total", grpc_code="Unimplemented") == 20
    names = {
        sample.labels.get("grpc_service")
        for family in metrics.REGISTRY.collect()
        for sample in family.samples
    }
    assert not any("made" in (name or "") for name in names)


def test_messages_of_streams_are_counted(counted: Counted, server: Edge) -> None:
    def messages() -> Iterator[ingestion_service_pb2.IngestRowsRequest]:
        yield ingestion_service_pb2.IngestRowsRequest(
            header=ingestion_service_pb2.IngestRowsHeader(
                ingestion_id=str(uuid.uuid4()), kind=ingestion_pb2.INGESTION_KIND_CUSTOMERS
            )
        )

    server.ingestion.IngestRows(messages(), timeout=20)

    labels = {"grpc_method": "IngestRows", "grpc_type": "client_stream"}
    eventually(lambda: counted("grpc_server_handled_total", **labels, grpc_code="OK") == 1)
    assert counted("grpc_server_msg_received_total", **labels) == 1
    assert counted("grpc_server_msg_sent_total", **labels) == 0


def test_streams_that_callers_cancel_are_counted_as_cancelled_and_closed(
    counted: Counted, server: Edge
) -> None:
    watch = server.credit.WatchCreditEvents(pb.WatchCreditEventsRequest())
    register(server.credit, "+919876500002")
    labels = {"grpc_method": "WatchCreditEvents"}
    eventually(lambda: counted("grpc_server_started_total", **labels) == 1)
    eventually(lambda: metrics.REGISTRY.get_sample_value("credit_server_streams") == 1)

    watch.cancel()  # type: ignore[no-untyped-call]  # the stubs of grpc leave it untyped

    eventually(lambda: metrics.REGISTRY.get_sample_value("credit_server_streams") == 0)
    eventually(lambda: counted("grpc_server_handled_total", **labels, grpc_code="Canceled") == 1)


def test_answers_after_the_deadline_count_as_failures(
    counted: Counted, server: Edge, database_url: str
) -> None:
    customer_id = register(server.credit, "+919876500003")
    labels = {"grpc_method": "GetCustomer"}
    with psycopg.connect(database_url.replace("+psycopg", "")) as other:
        other.execute("LOCK TABLE customers IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(grpc.RpcError) as late:
            server.credit.GetCustomer(pb.GetCustomerRequest(customer_id=customer_id), timeout=0.5)
        assert code_of(late.value) is grpc.StatusCode.DEADLINE_EXCEEDED
        eventually(lambda: counted("grpc_server_handled_total", **labels) == 1)
    assert counted("grpc_server_handled_total", **labels, grpc_code="OK") == 0


def test_the_state_of_a_server_is_shown_while_it_runs(server: Edge) -> None:
    def value(name: str, kind: str | None = None) -> float | None:
        labels = None if kind is None else {"kind": kind}
        return metrics.REGISTRY.get_sample_value(name, labels)

    eventually(lambda: value("credit_server_ready") == 1)
    for kind in ("read", "write"):
        assert value("credit_server_threads", kind) == 12
        limit = value("credit_server_calls_waiting_limit", kind)
        assert limit == Settings().max_concurrent_calls - 12
    assert value("credit_server_calls_awaiting_turn") == 0
    assert value("credit_server_streams_limit") == 8 + 2  # 2 are reserved for ingestions
    assert value("credit_database_pool_size") == 12

    server.server.stop(grace_seconds=1)

    assert value("credit_server_ready") is None


# Decisions.


def test_repeated_answers_count_as_one_decision(counted: Counted, server: Edge) -> None:
    customer_id = register(server.credit, "+919876500004")
    request_id = str(uuid.uuid4())

    answers = [server.credit.CreateLoan(ask(customer_id, request_id)) for _ in range(4)]
    server.credit.CheckEligibility(
        pb.CheckEligibilityRequest(
            customer_id=customer_id,
            loan_amount=money_pb2.Money(currency_code="INR", units=1000),
            interest_rate=decimal_pb2.Decimal(value="10"),
            tenure_months=12,
        )
    )

    assert not answers[0].approved
    assert counted("credit_decisions_total") == 1
    assert (
        counted(
            "credit_decisions_total",
            outcome="declined",
            reason="NO_CREDIT_HISTORY",
            scorecard_version="standard-1",
        )
        == 1
    )
    assert counted("credit_score_count") == 1
    assert counted("credit_score_bucket", le="0.0") == 1


def test_the_reason_of_an_approval_states_whether_the_rate_changed(
    counted: Counted, server: Edge
) -> None:
    """The score of one short loan repaid on time allows only a corrected rate."""
    customer_id = register(server.credit, "+919876500005")
    import_loans(server, customer_id, count=1)
    assert server.credit.CreateLoan(ask(customer_id, rupees=10_000)).approved
    import_loans(server, customer_id, count=9)
    assert server.credit.CreateLoan(ask(customer_id, rupees=10_000)).approved

    approved = {"outcome": "approved", "scorecard_version": "standard-1"}
    assert counted("credit_decisions_total", **approved, reason="RATE_CORRECTED") == 1
    assert counted("credit_decisions_total", **approved, reason="RATE_STANDS") == 1


# Ingestion.


def test_rows_are_counted_by_outcome(counted: Counted, server: Edge) -> None:
    customer_id = register(server.credit, "+919876500006")
    import_loans(server, customer_id, count=3)

    loans = {"kind": "loans", "source": "stream"}
    assert counted("credit_ingestion_rows_total", **loans, outcome="inserted") == 3
    assert counted("credit_ingestion_rows_total", **loans) == 3
    assert counted("credit_ingestion_batch_seconds_count", **loans) == 1
    assert counted("credit_ingestions_total", **loans, state="succeeded") == 1
    assert counted("credit_ingestions_total") == 1


# Background tasks.


def test_a_discrepancy_is_counted(counted: Counted, database: Database, server: Edge) -> None:
    customer_id = register(server.credit, "+919876500007")
    moment = Clock().moment()
    reconcile(database, moment)
    assert counted("credit_discrepancies_total") == 0
    with database.autocommit() as connection:
        connection.execute(
            text("UPDATE customers SET loan_count = 7 WHERE customer_id = :id"),
            {"id": customer_id},
        )

    reconcile(database, moment)

    assert counted("credit_discrepancies_total") == 1
    assert counted("credit_reconciled_customers_total") >= 2


def test_the_backlog_is_read_from_the_database(database: Database, server: Edge) -> None:
    register(server.credit, "+919876500008")
    now = [0.0]
    actors = ["reconcile", "ingest_upload"]
    reader = BacklogReader(database, Clock(), actors, monotonic=lambda: now[0], kept=Retention())
    moment = Clock().moment()
    with database.transaction() as connection:
        tasks.enqueue(connection, "reconcile", "x", moment)
        connection.execute(
            text("UPDATE tasks SET due_at = now() - interval '90 seconds' WHERE subject = 'x'")
        )
        connection.execute(
            text("UPDATE events SET occurred_at = :then"),
            {"then": datetime.fromtimestamp(moment.now.timestamp() - 40, UTC)},
        )

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, labels)

    registry = CollectorRegistry()
    registry.register(metrics.backlog_readings)
    try:
        assert value("credit_outbox_events_waiting") is None
        reader.step()
        assert value("credit_outbox_events_waiting") == 1
        age = value("credit_outbox_oldest_event_age_seconds")
        assert age is not None
        assert 39 < age < 60
        assert value("credit_outbox_tasks", actor="reconcile", state="pending") == 1
        overdue = value("credit_outbox_oldest_task_overdue_seconds", actor="reconcile")
        assert overdue is not None
        assert 89 < overdue < 110
        assert value("credit_outbox_tasks", actor="reconcile", state="parked") == 0
        assert value("credit_outbox_tasks", actor="ingest_upload", state="pending") == 0
        assert value("credit_outbox_oldest_task_overdue_seconds", actor="ingest_upload") == 0
        assert value("credit_ingestions_unfinished", state="queued") == 0
        assert value("credit_referrals_pending") == 0
        assert value("credit_referrals_oldest_pending_age_seconds") == 0
        now[0] += 31
        assert value("credit_outbox_events_waiting") is None, "an outdated reading is not shown"
    finally:
        reader.close()


def test_a_worker_counts_its_work(
    counted: Counted, database_url: str, redis_url: str, server: Edge
) -> None:
    settings = Settings(
        database_url=SecretStr(database_url), redis_url=SecretStr(redis_url), worker_threads=2
    )
    worker = WorkerProcess(settings)
    worker.start()
    try:
        register(server.credit, "+919876500009")
        done = {"actor": "recompute_score", "outcome": "done"}
        eventually(lambda: counted("credit_tasks_total", **done) == 1)
        assert counted("credit_task_seconds_count", actor="recompute_score") == 1
        # The registration, and the score that it changed.
        eventually(lambda: counted("credit_events_published_total") == 2)
        eventually(
            lambda: metrics.REGISTRY.get_sample_value("credit_outbox_events_waiting") is not None
        )
    finally:
        worker.stop()
    assert metrics.REGISTRY.get_sample_value("credit_outbox_events_waiting") is None


# Several processes.


@pytest.fixture
def group(settings: Settings) -> Iterator[ServerGroup]:
    """Two processes that serve their metrics on one address."""
    running = ServerGroup(
        settings.model_copy(update={"processes": 2, "metrics_listen": "127.0.0.1:0"})
    )
    running.start()
    yield running
    running.stop()


def _scrape(group: ServerGroup) -> Samples:
    url = f"http://{group.metrics_address}/metrics"
    with urllib.request.urlopen(url, timeout=20) as answer:
        text_of_all = answer.read().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text_of_all)
        for sample in family.samples
    }


def _by_process(samples: Samples, name: str, **labels: str) -> dict[str, float]:
    wanted = frozenset(labels.items())
    return {
        dict(its_labels)["process"]: value
        for (found, its_labels), value in samples.items()
        if found == name and wanted <= its_labels
    }


def _call_until_both_served(group: ServerGroup) -> int:
    """Make calls over separate connections, which the kernel spreads; return their number."""
    handled = {"grpc_method": "ListCustomers", "grpc_code": "OK"}
    for calls in range(1, 200):
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(str(group.address), options=options) as channel:
            CreditServiceStub(channel).ListCustomers(pb.ListCustomersRequest(), timeout=20)
        found = _by_process(_scrape(group), "grpc_server_handled_total", **handled)
        if len(found) == 2 and all(found.values()):
            return calls
    raise AssertionError("one process got all connections")


@pytest.mark.slow
def test_one_endpoint_serves_the_metrics_of_all_processes_across_restarts(
    group: ServerGroup,
) -> None:
    calls = _call_until_both_served(group)
    samples = _scrape(group)
    handled = {"grpc_method": "ListCustomers", "grpc_code": "OK"}

    before = _by_process(samples, "grpc_server_handled_total", **handled)
    assert set(before) == {"0", "1"}
    assert sum(before.values()) == calls
    assert samples["credit_server_processes", frozenset()] == 2
    deaths = samples["credit_server_process_deaths_total", frozenset()]
    assert _by_process(samples, "credit_server_ready") == {"0": 1, "1": 1}

    victim = group.pids[0]
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: len(group.pids) == 2 and victim not in group.pids)
    eventually(lambda: len(_by_process(_scrape(group), "credit_server_ready")) == 2)

    after = _by_process(_scrape(group), "grpc_server_handled_total", **handled)
    assert after == {"0": 0, "1": before["1"]}, "the new process starts at 0, the other continues"
    assert _scrape(group)["credit_server_process_deaths_total", frozenset()] == deaths + 1


@pytest.mark.slow
def test_a_suspended_process_does_not_hide_the_others(
    group: ServerGroup,
) -> None:
    stopped = group.pids[0]
    os.kill(stopped, signal.SIGSTOP)
    try:
        samples = _scrape(group)
        assert set(_by_process(samples, "credit_server_ready")) == {"1"}
        # The liveness probe of deploy/kubernetes.
        assert set(_by_process(samples, "credit_server_threads", kind="read")) == {"1"}
    finally:
        os.kill(stopped, signal.SIGCONT)
    assert set(_by_process(_scrape(group), "credit_server_ready")) == {"0", "1"}


def test_metrics_are_off_by_default(settings: Settings) -> None:
    running = ServerGroup(settings)
    try:
        assert running.metrics_address is None
    finally:
        running.stop()


# Traces.


def test_a_call_continues_the_trace_of_its_caller(
    server: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, object]] = []

    def fail(*_: object, **__: object) -> None:
        seen.append(get_contextvars())
        raise RuntimeError("a defect")

    monkeypatch.setattr("credit_service.rpc.credit.get_customer", fail)
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    caller = f"00-{trace}-00f067aa0ba902b7-01"
    request = pb.GetCustomerRequest(customer_id=1)
    for traceparent in (caller, "nonsense", None):
        metadata = (("traceparent", traceparent),) if traceparent else ()
        with pytest.raises(grpc.RpcError) as failed:
            server.credit.GetCustomer(request, metadata=metadata)
        # The error of a call is also the call, despite its type.
        call: Any = failed.value
        traceresponse = dict(call.trailing_metadata()).get("traceresponse")
        if traceparent == caller:
            assert seen[-1]["trace_id"] == trace
            assert seen[-1]["span_id"] != "00f067aa0ba902b7"
            assert traceresponse == f"00-{trace}-{seen[-1]['span_id']}-01"
        else:
            assert traceresponse is None
            assert "trace_id" not in seen[-1]
        assert seen[-1]["call_id"] == dict(call.trailing_metadata())["x-request-id"]
