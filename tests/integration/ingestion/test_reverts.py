"""A revert takes an ingestion's rows back, each once, and lists those that something depends on."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from credit_service import failpoints
from credit_service.clock import Clock, Moment
from credit_service.commands.create_loan import CreateLoan, create_loan
from credit_service.commands.record_payment import RecordPayment, record_payment
from credit_service.domain.eligibility import Ask
from credit_service.domain.errors import (
    NotOwnerError,
    PreconditionFailedError,
    RequestIdReusedError,
)
from credit_service.ingestion import reverting
from credit_service.ingestion.cancelling import cancel_ingestion
from credit_service.ingestion.reverting import revert_ingestion, run_revert
from credit_service.ingestion.streams import begin_stream
from credit_service.queries.ingestions import get_ingestion, list_row_errors
from credit_service.rpc.convert.events import write_event
from credit_service.storage import (
    event_stream,
    imported_customers,
    imported_loans,
    reverts,
)
from credit_service.storage.database import Database
from credit_service.storage.ingestions import Ingestion
from credit_service.storage.retention import Deletion, Retention
from credit_service.v1 import event_pb2
from tests.integration.imported import (
    PRINCIPAL,
    CustomerRow,
    LoanRow,
    assert_positions_are_right,
    execute,
    header_of,
    ingest,
    scalar,
)
from tests.integration.portfolio import LAKH, on, recompute_lagging

TODAY = on(date(2025, 6, 15))
# On the same day, so that positions are of the same day.
BEFORE = replace(TODAY, now=TODAY.now - timedelta(hours=1))
LATER = on(date(2025, 6, 16))
ACTIVE = LoanRow(1, 7, rupees=200_000, tenure_months=60)


class _Clock(Clock):
    """A clock that stands still."""

    def __init__(self, moment: Moment) -> None:
        self._moment = moment

    def moment(self) -> Moment:
        return self._moment


def revert(
    database: Database,
    ingestion: Ingestion,
    *,
    step_customers: int = reverting.STEP_CUSTOMERS,
    moved: list[int] | None = None,
) -> Ingestion:
    """Revert an ingestion as a server and a worker do."""
    revert_ingestion(database, ingestion.ingestion_id, uuid4(), TODAY, PRINCIPAL)
    return work(database, ingestion, step_customers=step_customers, moved=moved)


def work(
    database: Database,
    ingestion: Ingestion,
    *,
    step_customers: int = reverting.STEP_CUSTOMERS,
    moved: list[int] | None = None,
) -> Ingestion:
    return run_revert(
        database,
        ingestion.ingestion_id,
        _Clock(TODAY),
        step_customers=step_customers,
        on_moved=None if moved is None else moved.extend,
    )


def taken_back(ingestion: Ingestion) -> tuple[int, int, int]:
    assert ingestion.state == "REVERTED"
    assert ingestion.reverted_at is not None
    return ingestion.rows_removed, ingestion.rows_restored, ingestion.rows_kept


def kept(database: Database, ingestion: Ingestion) -> list[tuple[int, str, str]]:
    """(row number, key, code) of the rows that the revert kept."""
    found = list_row_errors(database, ingestion.ingestion_id, None, 1_000, ["KEPT"])
    assert all(each.message and each.expected for each in found)
    return [(each.row_number, each.found, each.code) for each in found]


# Versions and numbers of events only grow.
_EVERYTHING = {
    "customers": """SELECT (to_jsonb(t) - 'version' - 'event_seq' - 'arrears_version'
            || jsonb_build_object('arrears_known', t.arrears_version = t.version))::text
        FROM customers t""",
    "loans": "SELECT to_jsonb(t)::text FROM loans t",
    "phone_numbers": "SELECT to_jsonb(t)::text FROM phone_numbers t",
    "credit_scores": """SELECT (to_jsonb(t) - 'computed_at' - 'customer_version')::text
        FROM credit_scores t""",
    "contested_customers": "SELECT to_jsonb(t)::text FROM contested_customers t",
}


def everything(database: Database) -> dict[str, list[str]]:
    """All rows about customers and loans, with scores as a worker computes them, byte for byte."""
    while recompute_lagging(database, TODAY):
        pass
    with database.autocommit() as connection:
        return {
            name: sorted(connection.execute(text(statement)).scalars())
            for name, statement in _EVERYTHING.items()
        }


def published(database: Database) -> list[event_pb2.CreditEvent]:
    for _ in range(2):
        with database.transaction() as connection:
            event_stream.publish(connection, 10_000)
    with database.autocommit() as connection:
        found = event_stream.read(connection, after=0, until=10_000, limit=10_000)
    return [event for each in found if (event := write_event(each)) is not None]


@pytest.fixture
def stored(database: Database) -> Database:
    """Customers 1 to 4 with loans, and their scores."""
    ingest(database, [CustomerRow(n, limit_rupees=300_000) for n in range(1, 5)], BEFORE)
    ingest(database, [ACTIVE, LoanRow(1, 8), LoanRow(2, 7, emis_paid_on_time=12)], BEFORE)
    return database


# --- Rows that nothing depends on -----------------------------------------------------------------


@pytest.mark.parametrize("step_customers", [1, 3, 5_000])
def test_inserted_loans_go_and_everything_is_as_before(
    stored: Database, step_customers: int
) -> None:
    before = everything(stored)
    rows = [LoanRow(1, 9), LoanRow(2, 8, rupees=50_000), LoanRow(3, 1, emis_paid_on_time=3)]
    done = ingest(stored, rows, TODAY, batch_rows=2)
    assert everything(stored) != before
    moved: list[int] = []
    assert taken_back(revert(stored, done, step_customers=step_customers, moved=moved)) == (3, 0, 0)
    assert everything(stored) == before
    assert moved == [1, 2, 3]
    assert_positions_are_right(stored, range(1, 5), TODAY.today)


def test_updated_loans_get_their_former_facts_back(stored: Database) -> None:
    before = everything(stored)
    rows = [
        LoanRow(1, 8, rate="12.5"),
        replace(ACTIVE, emis_paid_on_time=60),
        LoanRow(2, 7, start=date(2024, 2, 29), installment_rupees=9_000),
        LoanRow(4, 1),
    ]
    done = ingest(stored, rows, TODAY, on_existing="UPDATE")
    assert (done.inserted, done.updated) == (1, 3)
    changes = scalar(stored, "SELECT count(*) FROM fact_changes")
    assert taken_back(revert(stored, done)) == (1, 3, 0)
    assert everything(stored) == before
    # The record stays, and has the way back.
    assert scalar(stored, "SELECT count(*) FROM fact_changes") == 2 * changes
    updates = [each for each in published(stored) if each.HasField("loan_updated")]
    back = [each for each in updates if each.loan_updated.reverted]
    assert (len(updates), len(back)) == (6, 3)
    restored = next(each for each in back if each.loan_updated.loan_id == 8)
    assert [
        (each.field, each.previous, each.current) for each in restored.loan_updated.changes
    ] == [("interest_rate", "12.5", "12")]
    assert {each.loan_updated.ingestion_id for each in back} == {str(done.ingestion_id)}
    version = scalar(stored, "SELECT version FROM customers WHERE customer_id = 1")
    # The score's event has the version of the same position.
    assert restored.customer_version == version


def test_inserted_customers_go_with_their_phone_numbers_and_scores(stored: Database) -> None:
    before = everything(stored)
    done = ingest(stored, [CustomerRow(n) for n in (5, 6, 7)], TODAY)
    assert everything(stored) != before
    moved: list[int] = []
    assert taken_back(revert(stored, done, moved=moved)) == (3, 0, 0)
    assert everything(stored) == before
    # Reported at the end once more, for a killed step.
    assert moved == [5, 6, 7, 5, 6, 7]


def test_updated_customers_get_their_former_facts_back(stored: Database) -> None:
    before = everything(stored)
    rows = [
        CustomerRow(1, limit_rupees=900_000, age=31, phone="9123456780"),
        CustomerRow(2, last_name="Iyer", limit_rupees=300_000),
        CustomerRow(5),
    ]
    done = ingest(stored, rows, TODAY, on_existing="UPDATE")
    assert taken_back(revert(stored, done)) == (1, 2, 0)
    assert everything(stored) == before
    events = [each for each in published(stored) if each.HasField("customer_updated")]
    assert sorted(each.customer_updated.reverted for each in events) == [False, False, True, True]


def test_a_customer_imported_again_continues_versions_and_events(stored: Database) -> None:
    """Cache entries and events of the removed customer may still exist."""
    row = CustomerRow(5)
    first = ingest(stored, [row], TODAY)
    everything(stored)
    version, seq = _numbers(stored)
    assert seq > 0
    assert taken_back(revert(stored, first)) == (1, 0, 0)
    again = ingest(stored, [row], TODAY)
    everything(stored)
    later_version, later_seq = _numbers(stored)
    assert later_version > version
    assert later_seq > seq
    assert taken_back(revert(stored, again)) == (1, 0, 0)
    ingest(stored, [row], TODAY)
    assert scalar(stored, "SELECT count(*) FROM removed_customers") == 0
    versions = [e.customer_version for e in published(stored) if e.customer_id == row.customer_id]
    assert versions == sorted(versions)
    assert len(versions) == 2


def _numbers(database: Database) -> tuple[int, int]:
    with database.autocommit() as connection:
        statement = "SELECT version, event_seq FROM customers WHERE customer_id = 5"
        version, seq = connection.execute(text(statement)).one()
        return version, seq


def test_a_dry_run_is_reverted_at_once(stored: Database) -> None:
    done = ingest(stored, [LoanRow(3, 1)], TODAY, validate_only=True)
    found = revert_ingestion(stored, done.ingestion_id, uuid4(), TODAY, PRINCIPAL)
    assert taken_back(found) == (0, 0, 0)
    assert scalar(stored, "SELECT count(*) FROM tasks WHERE actor = 'revert_ingestion'") == 0


def test_the_event_at_the_end_has_the_counts_and_scores_follow(stored: Database) -> None:
    done = ingest(
        stored, [LoanRow(3, 1), replace(ACTIVE, emis_paid_on_time=9)], TODAY, on_existing="UPDATE"
    )
    revert(stored, done, step_customers=1)
    ingested = [each.rows_ingested for each in published(stored) if each.HasField("rows_ingested")]
    last = ingested[-1]
    assert last.ingestion_id == str(done.ingestion_id)
    assert (last.inserted, last.updated, last.removed, last.restored) == (1, 1, 1, 1)
    assert [each.removed for each in ingested[:-1]] == [0] * (len(ingested) - 1)


# --- Rows that stay -------------------------------------------------------------------------------


def test_a_loan_with_a_payment_stays(stored: Database) -> None:
    done = ingest(stored, [replace(ACTIVE, loan_id=9), LoanRow(3, 1)], TODAY)
    command = RecordPayment(uuid4(), 1, 9, 100_000, None)
    record_payment(stored, command, TODAY, PRINCIPAL)
    assert taken_back(revert(stored, done)) == (1, 0, 1)
    assert kept(stored, done) == [(1, "loan 9 of customer 1", "PAYMENT_SINCE")]
    assert scalar(
        stored, "SELECT array_agg(loan_id ORDER BY loan_id) FROM loans WHERE customer_id IN (1, 3)"
    ) == [7, 8, 9]
    assert_positions_are_right(stored, (1, 3), TODAY.today)


def a_borrower(database: Database, customer_id: int, moment: Moment) -> None:
    """An imported customer to whom loans are approved."""
    ingest(database, [CustomerRow(customer_id, income_rupees=100_000)], moment)
    history = [
        LoanRow(
            customer_id,
            100 + year,
            rupees=500_000,
            rate="10",
            installment_rupees=45_454,
            emis_paid_on_time=12,
            start=date(year, 1, 15),
        )
        for year in (2020, 2021, 2022)
    ]
    ingest(database, history, moment)


def book(database: Database, customer_id: int, moment: Moment) -> bool:
    command = CreateLoan(uuid4(), customer_id, Ask(LAKH, 1200, 24))
    return create_loan(database, command, moment, PRINCIPAL).loan_id is not None


def test_rows_of_a_customer_who_got_a_loan_since_stay(database: Database) -> None:
    for customer_id in (11, 12):
        a_borrower(database, customer_id, BEFORE)
        assert book(database, customer_id, BEFORE)
    rows = [LoanRow(n, 1, emis_paid_on_time=12, start=date(2023, 1, 15)) for n in (11, 12)]
    done = ingest(database, rows, TODAY)
    customers = [CustomerRow(n, income_rupees=100_000, age=31) for n in (11, 12)]
    changed = ingest(database, customers, TODAY, on_existing="UPDATE")
    assert book(database, 11, LATER)
    assert taken_back(revert(database, done)) == (1, 0, 1)
    assert kept(database, done) == [(1, "loan 1 of customer 11", "BOOKING_SINCE")]
    assert taken_back(revert(database, changed)) == (0, 1, 1)
    assert kept(database, changed) == [(1, "customer 11", "BOOKING_SINCE")]


def test_rows_that_a_later_import_changed_stay_until_that_is_reverted(stored: Database) -> None:
    before = everything(stored)
    first = ingest(
        stored, [replace(ACTIVE, emis_paid_on_time=5), LoanRow(3, 1)], TODAY, on_existing="UPDATE"
    )
    middle = everything(stored)
    second = ingest(
        stored,
        [replace(ACTIVE, emis_paid_on_time=6), LoanRow(3, 1, rate="9")],
        TODAY,
        on_existing="UPDATE",
    )
    assert taken_back(revert(stored, first)) == (0, 0, 2)
    assert kept(stored, first) == [
        (1, "loan 7 of customer 1", "CHANGE_SINCE"),
        (2, "loan 1 of customer 3", "CHANGE_SINCE"),
    ]
    assert taken_back(revert(stored, second)) == (0, 2, 0)
    assert everything(stored) == middle
    assert middle != before


def test_imports_reverted_in_the_reverse_order_leave_nothing(stored: Database) -> None:
    before = everything(stored)
    done = [
        ingest(
            stored,
            [replace(ACTIVE, emis_paid_on_time=5), LoanRow(3, 1)],
            TODAY,
            on_existing="UPDATE",
        ),
        ingest(
            stored,
            [CustomerRow(3, limit_rupees=700_000), CustomerRow(9)],
            TODAY,
            on_existing="UPDATE",
        ),
        ingest(
            stored,
            [replace(ACTIVE, emis_paid_on_time=6), LoanRow(3, 1, rate="9")],
            TODAY,
            on_existing="UPDATE",
        ),
        ingest(stored, [CustomerRow(3, limit_rupees=800_000)], TODAY, on_existing="UPDATE"),
    ]
    found = [taken_back(revert(stored, each)) for each in reversed(done)]
    assert found == [(0, 1, 0), (0, 2, 0), (1, 1, 0), (1, 1, 0)]
    assert everything(stored) == before


def test_an_inserted_customer_with_loans_or_decisions_stays(database: Database) -> None:
    done = ingest(database, [CustomerRow(n) for n in (1, 2, 3)], TODAY)
    loans = ingest(database, [LoanRow(1, 1)], TODAY)
    assert not book(database, 2, TODAY)
    assert taken_back(revert(database, done)) == (1, 0, 2)
    assert kept(database, done) == [
        (1, "customer 1", "CUSTOMER_IN_USE"),
        (2, "customer 2", "CUSTOMER_IN_USE"),
    ]
    assert taken_back(revert(database, loans)) == (1, 0, 0)
    assert scalar(
        database, "SELECT array_agg(customer_id ORDER BY customer_id) FROM customers"
    ) == [1, 2]


def test_a_customer_whose_former_phone_number_is_taken_stays(stored: Database) -> None:
    former = CustomerRow(1).phone_number
    done = ingest(
        stored,
        [CustomerRow(1, phone="9123456780", limit_rupees=300_000)],
        TODAY,
        on_existing="UPDATE",
    )
    ingest(stored, [CustomerRow(5, phone=former)], TODAY)
    assert taken_back(revert(stored, done)) == (0, 0, 1)
    assert kept(stored, done) == [(1, "customer 1", "PHONE_TAKEN")]
    assert scalar(stored, "SELECT phone_number FROM phone_numbers WHERE customer_id = 5") == former


def test_kept_rows_are_counted_when_the_list_has_expired(stored: Database) -> None:
    done = ingest(stored, [replace(ACTIVE, loan_id=9)], TODAY)
    record_payment(stored, RecordPayment(uuid4(), 1, 9, 100_000, None), LATER, PRINCIPAL)
    execute(stored, "UPDATE ingestions SET row_errors_state = 'DELETED'")
    found = revert(stored, done)
    assert taken_back(found) == (0, 0, 1)
    assert found.is_row_errors_expired
    assert kept(stored, done) == []


def test_the_list_of_kept_rows_is_kept_from_the_request_on(stored: Database) -> None:
    done = ingest(stored, [replace(ACTIVE, loan_id=9)], TODAY)
    record_payment(stored, RecordPayment(uuid4(), 1, 9, 100_000, None), LATER, PRINCIPAL)
    revert(stored, done)
    execute(
        stored,
        """UPDATE ingestions SET finished_at = now() - interval '100 days',
        revert_requested_at = now() - interval '89 days' WHERE reverted_at IS NOT NULL""",
    )
    deletion = Deletion(Retention(0, 0, 0, 90, 0, 0))
    while _deleted(stored, deletion):
        pass
    assert len(kept(stored, done)) == 1
    execute(
        stored,
        """UPDATE ingestions SET revert_requested_at = now() - interval '91 days'
        WHERE reverted_at IS NOT NULL""",
    )
    while _deleted(stored, deletion):
        pass
    assert kept(stored, done) == []
    assert get_ingestion(stored, done.ingestion_id).is_row_errors_expired


def _deleted(database: Database, deletion: Deletion) -> bool:
    with database.transaction() as connection:
        return deletion.step(connection) is not None


# --- Once, by whom, and when ----------------------------------------------------------------------


def test_a_request_reverts_once_and_another_is_refused(stored: Database) -> None:
    done, request_id = ingest(stored, [LoanRow(3, 1)], TODAY), uuid4()
    begun = revert_ingestion(stored, done.ingestion_id, request_id, TODAY, PRINCIPAL)
    assert begun.state == "REVERTING"
    assert revert_ingestion(stored, done.ingestion_id, request_id, TODAY, PRINCIPAL) == begun
    assert scalar(stored, "SELECT count(*) FROM tasks WHERE actor = 'revert_ingestion'") == 1
    for _ in range(2):
        with pytest.raises(PreconditionFailedError) as refused:
            revert_ingestion(stored, done.ingestion_id, uuid4(), TODAY, PRINCIPAL)
        assert refused.value.reason == "INGESTION_ALREADY_REVERTED"
        ended = work(stored, done)
    assert taken_back(ended) == (1, 0, 0)
    assert revert_ingestion(stored, done.ingestion_id, request_id, TODAY, PRINCIPAL) == ended
    other = ingest(stored, [LoanRow(4, 1)], TODAY)
    with pytest.raises(RequestIdReusedError):
        revert_ingestion(stored, other.ingestion_id, request_id, TODAY, PRINCIPAL)


def test_an_ingestion_being_reverted_cannot_be_resumed(stored: Database) -> None:
    header = header_of([LoanRow(3, 1)])
    begin_stream(stored, header, TODAY, PRINCIPAL)
    with pytest.raises(PreconditionFailedError) as refused:
        revert_ingestion(stored, header.ingestion_id, uuid4(), TODAY, PRINCIPAL)
    assert refused.value.reason == "INGESTION_NOT_ENDED"
    execute(
        stored,
        "UPDATE ingestions SET state = 'FAILED', error_code = 'ABANDONED', "
        "finished_at = now(), inserted = 1, rows_read = 1 WHERE state = 'RUNNING'",
    )
    revert_ingestion(stored, header.ingestion_id, uuid4(), TODAY, PRINCIPAL)
    assert begin_stream(stored, header, TODAY, PRINCIPAL).state == "REVERTING"


def test_only_the_owner_reverts_an_ingestion(stored: Database) -> None:
    done = ingest(stored, [LoanRow(3, 1)], TODAY)
    for call in (revert_ingestion, cancel_ingestion):
        with pytest.raises(NotOwnerError) as refused:
            call(stored, done.ingestion_id, uuid4(), TODAY, "another")
        assert refused.value.reason == "INGESTION_NOT_OWNED"
    found = revert_ingestion(stored, done.ingestion_id, uuid4(), TODAY, "another", owns_all=True)
    assert found.reverted_by == "another"


def test_an_ingestion_of_an_earlier_release_is_refused(stored: Database) -> None:
    done = ingest(stored, [LoanRow(3, 1)], TODAY)
    execute(stored, "UPDATE ingestions SET is_traced = false")
    with pytest.raises(PreconditionFailedError) as refused:
        revert(stored, done)
    assert refused.value.reason == "INGESTION_NOT_REVERTIBLE"


# --- Kills and concurrent work --------------------------------------------------------------------


class _KilledError(BaseException):
    """Simulates the end of the process."""


@pytest.mark.parametrize("point", ["revert.before_commit", "revert.after_commit"])
@pytest.mark.parametrize("kind", ["loans", "customers"])
def test_a_killed_revert_continues_and_takes_each_row_back_once(
    stored: Database, point: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = everything(stored)
    rows: list[Any] = [LoanRow(n, 50 + m) for n in range(1, 5) for m in range(3)]
    rows.append(replace(ACTIVE, emis_paid_on_time=5))
    if kind == "customers":
        rows = [CustomerRow(n, age=44) for n in range(3, 9)]
    done = ingest(stored, rows, TODAY, on_existing="UPDATE")
    revert_ingestion(stored, done.ingestion_id, uuid4(), TODAY, PRINCIPAL)
    kills = 0
    moved: list[int] = []
    while True:
        with monkeypatch.context() as patched:
            # Killed at the second step.
            patched.setattr(failpoints, "reach", _killer(point))
            try:
                ended = work(stored, done, step_customers=1, moved=moved)
            except _KilledError:
                kills += 1
                continue
        break
    assert kills > 1
    assert sum(taken_back(ended)) == done.inserted + done.updated
    assert everything(stored) == before
    if kind == "customers":
        assert {5, 6, 7, 8} <= set(moved)


def _killer(point: str) -> Callable[[str], None]:
    """Return a `reach` that ends the process at the second time it reaches that point."""
    reached: list[str] = []

    def reach(name: str) -> None:
        if name == point:
            reached.append(name)
            if len(reached) > 1:
                raise _KilledError

    return reach


def test_two_workers_take_each_row_back_once(stored: Database) -> None:
    before = everything(stored)
    rows = [LoanRow(n, 50 + m) for n in range(1, 5) for m in range(5)]
    done = ingest(stored, rows, TODAY)
    revert_ingestion(stored, done.ingestion_id, uuid4(), TODAY, PRINCIPAL)
    run_together(*[lambda: work(stored, done, step_customers=1)] * 3)
    found = get_ingestion(stored, done.ingestion_id)
    assert taken_back(found) == (len(rows), 0, 0)
    assert everything(stored) == before


def run_together(*works: Callable[[], object]) -> None:
    failures: list[BaseException] = []

    def attempt(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised by the test
            failures.append(error)

    threads = [threading.Thread(target=attempt, args=(each,)) for each in works]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    if failures:
        raise failures[0]


def test_a_revert_beside_another_import_leaves_what_one_after_the_other_leaves(
    stored: Database,
) -> None:
    ids = range(1, 41)
    ingest(stored, [CustomerRow(n) for n in ids if n > 4], BEFORE)
    first = ingest(stored, [LoanRow(n, 60) for n in ids], TODAY)
    revert_ingestion(stored, first.ingestion_id, uuid4(), TODAY, PRINCIPAL)
    second: list[Ingestion] = []
    rows = [LoanRow(n, 60, rate="9") for n in ids] + [LoanRow(n, 61) for n in ids]

    def other_import() -> None:
        second.append(ingest(stored, rows, TODAY, batch_rows=4, on_existing="UPDATE"))

    run_together(lambda: work(stored, first, step_customers=3), other_import)
    reverted = get_ingestion(stored, first.ingestion_id)
    removed, restored, stay = taken_back(reverted)
    assert removed + stay == len(ids)
    assert restored == 0
    # Each loan is the other import's: inserted after the removal, or updated before it.
    assert (second[0].updated, second[0].inserted) == (stay, removed + len(ids))
    assert scalar(
        stored, "SELECT count(*) FROM loans WHERE loan_id = 60 AND annual_rate_bps = 900"
    ) == len(ids)
    assert_positions_are_right(stored, ids, TODAY.today)


def test_customers_removed_beside_an_import_of_their_loans(database: Database) -> None:
    ids = range(1, 41)
    first = ingest(database, [CustomerRow(n) for n in ids], TODAY)
    revert_ingestion(database, first.ingestion_id, uuid4(), TODAY, PRINCIPAL)
    loans: list[Ingestion] = []

    def other_import() -> None:
        rows = [LoanRow(n, 1) for n in reversed(ids)]
        loans.append(ingest(database, rows, TODAY, batch_rows=4))

    run_together(lambda: work(database, first, step_customers=3), other_import)
    removed, _, stay = taken_back(get_ingestion(database, first.ingestion_id))
    assert removed + stay == len(ids)
    assert (loans[0].inserted, loans[0].rejected) == (stay, removed)
    assert scalar(database, "SELECT count(*) FROM customers") == stay
    assert scalar(database, "SELECT count(*) FROM phone_numbers") == stay


def test_facts_restored_are_all_that_an_import_records() -> None:
    assert list(reverts._LOAN_TYPES) == [name for name, _ in imported_loans.FACTS_OF_LOANS]
    assert list(reverts._CUSTOMER_TYPES) == [
        name for name, _ in imported_customers.FACTS_OF_CUSTOMERS
    ]


@pytest.mark.slow
def test_an_import_of_a_hundred_thousand_loans_is_reverted_byte_for_byte(
    database: Database,
) -> None:
    ids = range(1, 20_001)
    ingest(database, [CustomerRow(n) for n in ids], BEFORE, batch_rows=5_000)
    ingest(
        database, [LoanRow(n, 1, emis_paid_on_time=n % 13) for n in ids], BEFORE, batch_rows=5_000
    )
    with database.autocommit() as connection:
        # From here on the planner's statistics do not know the import, as shortly after a real one.
        connection.execute(text("ANALYZE"))
    before = everything(database)
    rows: Sequence[Any] = [LoanRow(n, m) for n in ids for m in range(2, 6)]
    rows = [*rows, *(LoanRow(n, 1, rate="11") for n in ids)]
    done = ingest(database, rows, TODAY, batch_rows=25_000, on_existing="UPDATE")
    assert (done.inserted, done.updated) == (80_000, 20_000)
    assert taken_back(revert(database, done)) == (80_000, 20_000, 0)
    assert everything(database) == before
