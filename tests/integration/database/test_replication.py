"""Synchronous replication: a commit that no standby has confirmed is no answer, the first time and
when the request is repeated.

For these tests PostgreSQL requires a standby that does not exist: every commit waits until its call
is cancelled, and is on this server alone from then on. A failover would lose it.
"""

import hashlib
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import grpc
import psycopg
import pytest
from google.type import money_pb2
from sqlalchemy import Connection, make_url

from credit_service.clock import Clock
from credit_service.domain.errors import UnavailableError
from credit_service.ingestion.streams import begin_stream, finish_stream, ingest_rows
from credit_service.ingestion.uploads import store_upload
from credit_service.ingestion.wire import RowBatch
from credit_service.storage import replication
from credit_service.storage.cancellation import CancelScope, current_scope
from credit_service.storage.database import Database
from credit_service.storage.ingestions import Header
from credit_service.storage.statements import Statement
from credit_service.v1 import credit_service_pb2 as pb
from tests.integration import lending
from tests.integration.conftest import Edge, code_of
from tests.integration.imported import PRINCIPAL, CustomerRow, columns_of, header_of
from tests.integration.rpc.test_rpc_server import eventually

pytestmark = pytest.mark.one_server("on a cluster the nodes with the rows do not wait")

MOMENT = Clock().moment()
EMIT = Statement("SELECT pg_logical_emit_message(true, 'tests', '')")
ASSIGNED = Statement("SELECT pg_current_xact_id_if_assigned() IS NOT NULL")
SUPERUSER = Statement("SELECT current_setting('is_superuser')")
CANCEL_WAITING = """SELECT pg_cancel_backend(pid) FROM pg_stat_activity
    WHERE wait_event = 'SyncRep' AND datname = current_database()"""
SHORT_SECONDS = 0.6


class Standby:
    """The standby that PostgreSQL requires and that does not exist."""

    def __init__(self, database_url: str) -> None:
        url = make_url(database_url).set(drivername="postgresql")
        self._url = url.render_as_string(hide_password=False)

    @contextmanager
    def required(self) -> Iterator[None]:
        with psycopg.connect(self._url, autocommit=True) as session:
            self._require(session, "absent")
            try:
                # PostgreSQL's processes read the setting at different times.
                eventually(lambda: self._does_a_commit_wait(session))
                yield
            finally:
                self._require(session, "")
                eventually(lambda: not self._does_a_commit_wait(session))

    def _require(self, session: psycopg.Connection, name: str) -> None:
        session.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'".encode())
        session.execute("SELECT pg_reload_conf()")

    def _does_a_commit_wait(self, session: psycopg.Connection) -> bool:
        with (
            psycopg.connect(self._url, autocommit=True) as other,
            ThreadPoolExecutor(1) as thread,
        ):
            committed = thread.submit(other.execute, EMIT.text)
            waited = False
            while not committed.done():
                waited = session.execute(CANCEL_WAITING).fetchone() is not None or waited
            return waited


@pytest.fixture
def standby(database: Database, database_url: str) -> Standby:
    with database.autocommit() as connection:
        if SUPERUSER.row(connection, {}) != ("on",):
            pytest.skip("the role of the tests must not change settings of the server")
    return Standby(database_url)


@contextmanager
def cancelled_soon() -> Iterator[None]:
    """Cancel the statements inside after a moment, as at the deadline of a call."""
    scope = CancelScope(deadline=float("inf"))
    stopping = threading.Event()

    def cancel() -> None:
        pause_seconds = SHORT_SECONDS
        while not stopping.wait(pause_seconds):
            scope.cancel()
            pause_seconds = 0.1

    canceller = threading.Thread(target=cancel)
    canceller.start()
    token = current_scope.set(scope)
    try:
        yield
    finally:
        current_scope.reset(token)
        stopping.set()
        canceller.join()


# Commits.


def emit(connection: Connection) -> None:
    EMIT.run(connection, {})


@pytest.mark.parametrize("lend", ["autocommit", "transaction"])
def test_a_cancelled_commit_fails_although_this_server_has_it(
    database: Database, standby: Standby, lend: str
) -> None:
    def commit() -> None:
        with getattr(database, lend)() as connection:
            emit(connection)

    commit()
    with standby.required():
        for _ in range(2):
            with cancelled_soon(), pytest.raises(UnavailableError, match="standby"):
                commit()
    assert database.pool_use()[0] == 0
    commit()


def test_a_confirmation_writes_nothing_without_standbys(database: Database) -> None:
    with database.transaction() as connection:
        replication.confirm(connection)
        assert ASSIGNED.row(connection, {}) == (False,)


# Repeated requests.


@pytest.mark.slow
def test_a_repeated_request_gets_no_unconfirmed_answer(server: Edge, standby: Standby) -> None:
    customer_id = lending.register(server.credit, "+919811111111")
    lending.import_loans(server, customer_id, 3)
    paid_loan = server.credit.CreateLoan(lending.ask(customer_id)).loan
    of_customer = pb.ListLoansRequest(customer_id=customer_id)
    before = len(server.credit.ListLoans(of_customer).loans)
    payment = pb.RecordPaymentRequest(
        request_id=str(uuid.uuid4()),
        customer_id=customer_id,
        loan_id=paid_loan.loan_id,
        amount=money_pb2.Money(currency_code="INR", units=100),
    )
    registration = pb.RegisterCustomerRequest(
        request_id=str(uuid.uuid4()),
        first_name="Asha",
        last_name="Rao",
        age=30,
        monthly_income=money_pb2.Money(currency_code="INR", units=50_000),
        phone_number="+919822222222",
    )
    calls: list[tuple[Callable[..., object], object]] = [
        (server.credit.CreateLoan, lending.ask(customer_id)),
        (server.credit.RecordPayment, payment),
        (server.credit.RegisterCustomer, registration),
    ]
    with standby.required():
        for call, request in calls:
            # The first one commits when its deadline ends the wait; the second reads its record.
            for _ in range(2):
                with pytest.raises(grpc.RpcError) as caught:
                    call(request, timeout=SHORT_SECONDS)
                assert code_of(caught.value) in {
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                    grpc.StatusCode.UNAVAILABLE,
                    grpc.StatusCode.ABORTED,
                }
        # Reads do not wait.
        assert len(server.credit.ListLoans(of_customer).loans) == before + 1
    for call, request in calls:
        assert call(request) == call(request)
    assert len(server.credit.ListLoans(of_customer).loans) == before + 1


ROWS = [CustomerRow(number) for number in (1, 2, 3)]
FILE = b"Customer ID,First Name\n1,Asha\n"
UPLOAD = Header(
    uuid.uuid4(), "CUSTOMERS", filename="rows.csv", sha256=hashlib.sha256(FILE).digest()
)


@pytest.mark.slow
def test_resuming_an_ingestion_waits_for_the_standby(database: Database, standby: Standby) -> None:
    header, upload = header_of(ROWS), replace(UPLOAD, ingestion_id=uuid.uuid4())
    batch = RowBatch(0, columns_of(ROWS))
    steps: list[Callable[[], object]] = [
        lambda: begin_stream(database, header, MOMENT, PRINCIPAL),
        lambda: ingest_rows(database, header.ingestion_id, [batch], MOMENT),
        lambda: finish_stream(database, header.ingestion_id, MOMENT),
        lambda: store_upload(database, upload, [FILE], MOMENT, PRINCIPAL, 1_000),
    ]
    done = [step() for step in steps]
    with standby.required():
        for step in steps:
            with cancelled_soon(), pytest.raises(UnavailableError, match="standby"):
                step()
    assert [step() for step in steps[1:]] == [done[2], done[2], done[3]]
