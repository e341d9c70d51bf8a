"""Arrears in the real database: stored with payments, announced once, listed in pages."""

import itertools
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any
from uuid import uuid4

import grpc
import pytest
from sqlalchemy import Connection, text

from credit_service import failpoints
from credit_service.clock import Clock
from credit_service.commands.announce_classes import announce_classes
from credit_service.commands.reconcile import reconcile
from credit_service.commands.record_payment import RecordPayment, record_payment
from credit_service.commands.reverse_payment import ReversePayment, reverse_payment
from credit_service.domain.as_of import UnknownFact
from credit_service.domain.delinquency import Arrears, AssetClass
from credit_service.domain.loans import Loan
from credit_service.domain.payments import ReversalReason, outstanding_paise
from credit_service.queries.as_of import credit_of
from credit_service.queries.customers import get_customer, list_customers
from credit_service.queries.delinquency import (
    OverdueLoan,
    delinquency_as_of,
    get_delinquency,
    list_overdue_loans,
)
from credit_service.rpc.convert.as_of import write_customer_as_of
from credit_service.rpc.convert.delinquency import write_delinquency
from credit_service.storage import arrears, loans, overdue_loans, positions
from credit_service.storage.customer_search import PageStart
from credit_service.storage.database import Database
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import decision_pb2
from tests.integration.conftest import Edge, refusal_of
from tests.integration.credit.test_record_payment import START, a_loan, pay
from tests.integration.imported import CustomerRow, LoanRow, errors, execute, ingest, scalar
from tests.integration.portfolio import on

STANDARD, SMA_0, SMA_1, SMA_2, NPA = AssetClass
# Installments of a_loan fall due on 28 February, 31 March, 30 April … 2026.
FEB, MAR, APR = date(2026, 2, 28), date(2026, 3, 31), date(2026, 4, 30)


def stored(database: Database, customer_id: int, day: date) -> Arrears | None:
    """The stored arrears; asserts that they are those of the facts, if they are known."""
    found = get_customer(database, customer_id=customer_id).position.arrears
    with database.autocommit() as connection:
        assert found in (None, arrears.compute(connection, [customer_id], day)[customer_id])
    return found


def standing(database: Database, customer_id: int, day: date) -> tuple[int, AssetClass]:
    """Days past due and class, as every reader sees them."""
    found = get_delinquency(database, customer_id, day).delinquency
    known = get_customer(database, customer_id=customer_id, day=day).position.arrears
    assert known is not None
    assert (known.days_past_due(day), known.asset_class(day)) == (
        found.days_past_due,
        found.asset_class,
    )
    return found.days_past_due, found.asset_class


def announced(database: Database, customer_id: int) -> list[tuple[str, str, str, int]]:
    """The announced changes, in order: previous class, class, first day, days past due."""
    with database.autocommit() as connection:
        rows = connection.execute(
            text(
                """SELECT payload FROM events WHERE customer_id = :customer_id
                AND kind = 'asset_class_changed' ORDER BY event_seq"""
            ),
            {"customer_id": customer_id},
        ).scalars()
        return [tuple(each.values()) for each in rows]


def pay_on(database: Database, loan: Loan, amount_paise: int, paid_on: date, day: date) -> None:
    """Record a payment of `paid_on` on `day`."""
    command = RecordPayment(uuid4(), loan.customer_id, loan.loan_id, amount_paise, paid_on)
    record_payment(database, command, on(day), "tests")


def test_the_class_follows_the_days_while_no_worker_runs(database: Database) -> None:
    loan = a_loan(database, 12)
    assert stored(database, loan.customer_id, START.today) == Arrears(FEB)
    for day, expected in (
        (FEB - timedelta(days=1), (0, STANDARD)),
        (FEB, (1, SMA_0)),
        (date(2026, 3, 30), (31, SMA_1)),
        (date(2026, 4, 29), (61, SMA_2)),
        (date(2026, 5, 29), (91, NPA)),
    ):
        assert standing(database, loan.customer_id, day) == expected
    assert announced(database, loan.customer_id) == []


def test_payments_move_the_arrears_and_announce_improvements_once(database: Database) -> None:
    loan = a_loan(database, 12)
    emi, customer_id = loan.installment_paise, loan.customer_id
    # 60 days past due on 28 April. Part of an installment changes nothing.
    day = date(2026, 4, 28)
    pay(database, loan, emi // 2, day)
    assert stored(database, customer_id, day) == Arrears(FEB)
    changes = [("STANDARD", "SMA_0", "2026-02-28", 1), ("SMA_0", "SMA_1", "2026-03-30", 31)]
    assert announced(database, customer_id) == changes
    pay(database, loan, emi, day)
    assert stored(database, customer_id, day) == Arrears(MAR)
    changes.append(("SMA_1", "SMA_0", "2026-04-28", 29))
    assert announced(database, customer_id) == changes
    pay(database, loan, emi, day)
    assert standing(database, customer_id, day) == (0, STANDARD)
    changes.append(("SMA_0", "STANDARD", "2026-04-28", 0))
    assert announced(database, customer_id) == changes
    assert announce_classes(database, on(day)) == 0
    assert announced(database, customer_id) == changes
    kinds = scalar(
        database,
        f"""SELECT string_agg(kind, ' ' ORDER BY event_seq) FROM events
        WHERE customer_id = {customer_id} AND event_seq > 2""",  # noqa: S608 - a number
    )
    assert kinds.split() == [
        *("payment_recorded", "asset_class_changed", "asset_class_changed"),
        *("payment_recorded", "asset_class_changed") * 2,
    ]


def test_an_npa_stays_while_arrears_are_left(database: Database) -> None:
    loan = a_loan(database, 12)
    emi, customer_id = loan.installment_paise, loan.customer_id
    day = date(2026, 6, 10)
    pay(database, loan, 2 * emi, day)
    assert stored(database, customer_id, day) == Arrears(APR, date(2026, 5, 29))
    assert standing(database, customer_id, day) == (42, NPA)
    # A refresh keeps it, and so does another payment that leaves arrears.
    with database.transaction() as connection:
        positions.refresh(connection, [customer_id], date(2026, 7, 3))
    assert standing(database, customer_id, date(2026, 7, 3)) == (65, NPA)
    pay(database, loan, emi, date(2026, 7, 3))
    assert standing(database, customer_id, date(2026, 7, 3)) == (34, NPA)
    pay(database, loan, 2 * emi, date(2026, 7, 3))
    assert standing(database, customer_id, date(2026, 7, 3)) == (0, STANDARD)
    assert [each[1] for each in announced(database, customer_id)] == [
        *("SMA_0", "SMA_1", "SMA_2", "NPA", "STANDARD"),
    ]


def test_a_payment_of_an_earlier_day_decides_about_an_npa(database: Database) -> None:
    """Recorded on 1 June, 28 May prevents the NPA of 29 May, and 30 May does not."""
    for paid_on, expected in (
        (date(2026, 5, 28), Arrears(MAR)),
        (date(2026, 5, 30), Arrears(MAR, date(2026, 5, 29))),
    ):
        loan = a_loan(database, 12)
        pay_on(database, loan, loan.installment_paise, paid_on, date(2026, 6, 1))
        assert stored(database, loan.customer_id, date(2026, 6, 1)) == expected


def test_a_worker_announces_each_class_of_an_ended_day_once(database: Database) -> None:
    loan = a_loan(database, 12)
    customer_id = loan.customer_id
    announce_classes(database, on(date(2026, 2, 1)))
    # The due date is not over.
    assert announce_classes(database, on(FEB)) == 0
    assert announce_classes(database, on(FEB + timedelta(days=1))) == 1
    assert announce_classes(database, on(FEB + timedelta(days=1))) == 0
    # No worker runs for 70 days.
    assert announce_classes(database, on(date(2026, 5, 10))) == 2
    assert announced(database, customer_id) == [
        ("STANDARD", "SMA_0", "2026-02-28", 1),
        ("SMA_0", "SMA_1", "2026-03-30", 31),
        ("SMA_1", "SMA_2", "2026-04-29", 61),
    ]
    seqs = scalar(
        database, "SELECT count(*) - count(DISTINCT (customer_id, event_seq)) FROM events"
    )
    assert seqs == 0


def test_announcements_of_several_workers_are_written_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both find the same customers before one of them writes."""
    loan = a_loan(database, 12)
    announce_classes(database, on(date(2026, 2, 1)))
    find = arrears.to_announce

    def find_and_be_late(*arguments: Any) -> list[int]:
        found: list[int] = find(*arguments)
        monkeypatch.setattr(arrears, "to_announce", find)
        announce_classes(database, on(date(2026, 3, 2)))
        return found

    monkeypatch.setattr(arrears, "to_announce", find_and_be_late)
    announce_classes(database, on(date(2026, 3, 2)))
    assert len(announced(database, loan.customer_id)) == 1


def announcing_before_the_write(
    database: Database, monkeypatch: pytest.MonkeyPatch, day: date
) -> None:
    """Let a worker announce classes between the next read and its write."""
    reach = failpoints.reach

    def announce(_point: str) -> None:
        monkeypatch.setattr(failpoints, "reach", reach)
        assert announce_classes(database, on(day)) == 1

    monkeypatch.setattr(failpoints, "reach", announce)


def test_a_payment_does_not_repeat_a_class_announced_since_its_read(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker announces classes without a new version of the customer."""
    loan, day = a_loan(database, 12), FEB + timedelta(days=1)
    announce_classes(database, on(FEB))
    announcing_before_the_write(database, monkeypatch, day)
    pay(database, loan, 100, day)
    assert announced(database, loan.customer_id) == [("STANDARD", "SMA_0", "2026-02-28", 1)]
    assert announce_classes(database, on(day)) == 0


def test_a_reversal_does_not_repeat_a_class_announced_since_its_read(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    loan, day = a_loan(database, 12), MAR + timedelta(days=1)
    paid = pay(database, loan, loan.installment_paise, date(2026, 2, 27)).payment
    announce_classes(database, on(MAR))
    announcing_before_the_write(database, monkeypatch, day)
    command = ReversePayment(uuid4(), paid.payment_id, ReversalReason.BOUNCED)
    reverse_payment(database, command, on(day), "tests")
    assert announced(database, loan.customer_id) == [
        ("STANDARD", "SMA_0", "2026-03-31", 1),
        ("SMA_0", "SMA_1", "2026-03-30", 31),
    ]


def test_changes_by_a_server_of_the_previous_release_are_noticed(database: Database) -> None:
    """It raises the version, and knows no arrears: they are computed until a worker stores them."""
    loan = a_loan(database, 12)
    customer_id, day = loan.customer_id, date(2026, 4, 10)
    announce_classes(database, on(day))
    assert announced(database, customer_id)[-1][1] == "SMA_1"
    execute(
        database,
        f"""WITH c AS (UPDATE customers SET version = version + 1
                WHERE customer_id = {customer_id} RETURNING customer_id),
            l AS (UPDATE loans SET installments_settled = 2, paid_paise = 2 * installment_paise,
                last_paid_on = '2026-04-10' FROM c WHERE loans.customer_id = c.customer_id
                AND loan_id = {loan.loan_id})
        INSERT INTO payments (customer_id, loan_id, payment_number, payment_id, amount_paise,
            paid_on, recorded_at, first_settled, settled_count, on_time_count, closed_loan,
            principal)
        SELECT customer_id, {loan.loan_id}, 1, nextval('payment_ids'),
            {2 * loan.installment_paise}, '2026-04-10', now(), 1, 2, 0, false, 'tests' FROM c""",  # noqa: S608 - numbers
    )
    assert stored(database, customer_id, day) is None
    assert standing(database, customer_id, day) == (0, STANDARD)
    listed = list_customers(database, "", PageStart(), 1000, day).customers
    found = next(each for each in listed if each.customer.customer_id == customer_id)
    assert found.position.arrears == Arrears(APR)
    # A write of this release with unknown arrears computes them from the facts.
    pay(database, loan, 100, day)
    assert stored(database, customer_id, day) == Arrears(APR)
    assert announced(database, customer_id)[-1] == ("SMA_1", "STANDARD", "2026-04-10", 0)
    # And so does a worker.
    statement = f"UPDATE customers SET version = version + 1 WHERE customer_id = {customer_id}"  # noqa: S608 - a number
    execute(database, statement)
    assert stored(database, customer_id, day) is None
    announce_classes(database, on(day + timedelta(days=1)))
    assert stored(database, customer_id, day) == Arrears(APR)


def test_arrears_older_than_this_release_are_stored_without_events(database: Database) -> None:
    loan = a_loan(database, 12)
    execute(database, "DELETE FROM bookmarks WHERE name = 'classes'")
    execute(database, "UPDATE customers SET arrears_version = 1, oldest_unpaid_due = NULL")
    day = date(2026, 4, 10)
    announce_classes(database, on(day))
    assert stored(database, loan.customer_id, day) == Arrears(FEB)
    assert announced(database, loan.customer_id) == []
    # From then on they are announced.
    announce_classes(database, on(date(2026, 4, 30)))
    assert announced(database, loan.customer_id) == [("SMA_1", "SMA_2", "2026-04-29", 61)]


def test_the_answer_says_whether_arrears_before_an_import_are_unknown(database: Database) -> None:
    day = date(2026, 6, 10)
    ingest(database, [CustomerRow(1), CustomerRow(2)], on(day))
    start = date(2026, 1, 31)
    rows = [
        # Due on 30 June: the first installment after the import.
        LoanRow(1, 1, start=start),
        LoanRow(1, 2, start=date(2026, 1, 1), tenure_months=6, emis_paid_on_time=5),
        # Closed by its import.
        LoanRow(1, 3, start=date(2020, 1, 1)),
        LoanRow(2, 1, start=start, installments_settled=4),
    ]
    ingest(database, rows, on(day))
    imported = get_delinquency(database, 1, day)
    assert (imported.delinquency.days_past_due, imported.loans) == (0, [])
    # The latest day of both open loans: 1 July.
    assert imported.known_from == date(2026, 7, 1)
    assert get_delinquency(database, 2, day).known_from is None
    # Nothing of the second loan is owed any more.
    with database.autocommit() as connection:
        ending = next(each for each in loans.all_of(connection, 1) if each.loan_id == 2)
    pay(database, ending, outstanding_paise(ending), day)
    assert get_delinquency(database, 1, day).known_from == date(2026, 6, 30)

    before = delinquency_as_of(database, 1, date(2026, 5, 1), on(day))
    assert (before.delinquency.days_past_due, before.loans) == (0, [])
    assert before.known_from == date(2026, 7, 1)
    assert before.unknown == (UnknownFact.IMPORTED_PAYMENTS, UnknownFact.CUSTOMER)
    written = write_delinquency(before).delinquency
    assert str(written.arrears_known_from) == "year: 2026\nmonth: 7\nday: 1\n"
    assert len(written.unknown_facts) == 2


def test_reconciliation_corrects_arrears(database: Database) -> None:
    loan = a_loan(database, 12)
    day = date(2026, 6, 10)
    pay(database, loan, 2 * loan.installment_paise, day)
    execute(
        database,
        f"UPDATE customers SET npa_since = NULL WHERE customer_id = {loan.customer_id}",  # noqa: S608 - a number
    )
    assert sum(reconcile(database, on(day)).discrepancies for _ in range(3)) == 1
    assert stored(database, loan.customer_id, day) == Arrears(APR, date(2026, 5, 29))


def test_an_import_may_give_the_settled_installments(database: Database) -> None:
    day = date(2026, 6, 10)
    ingest(database, [CustomerRow(each) for each in (1, 2, 3)], on(day))
    start = date(2026, 1, 1)
    rows = [
        # Due on 1 February … 1 June: one paid, on time, and one more late.
        LoanRow(1, 1, start=start, emis_paid_on_time=1, installments_settled=2),
        LoanRow(2, 1, start=start, emis_paid_on_time=1),
        LoanRow(3, 1, start=start, emis_paid_on_time=0, installments_settled=0),
    ]
    ingest(database, rows, on(day))
    assert standing(database, 1, day) == (71, SMA_2)
    assert standing(database, 2, day) == (0, STANDARD)
    assert standing(database, 3, day) == (130, NPA)
    assert [each[1] for each in announced(database, 3)] == ["SMA_0", "SMA_1", "SMA_2", "NPA"]
    assert announced(database, 2) == []
    for customer_id in (1, 2, 3):
        stored(database, customer_id, day)
    # The same rows again change nothing; another number does.
    assert ingest(database, rows, on(day)).unchanged == 3
    more = [LoanRow(3, 1, start=start, emis_paid_on_time=0, installments_settled=5)]
    assert ingest(database, more, on(day)).skipped == 1
    assert ingest(database, more, on(day), on_existing="UPDATE").updated == 1
    assert standing(database, 3, day) == (0, STANDARD)
    assert announced(database, 3)[-1][:2] == ("NPA", "STANDARD")


def test_settled_installments_of_an_import_fit_the_loan(database: Database) -> None:
    ingest(database, [CustomerRow(1)], on(date(2026, 6, 10)))
    rows = [
        LoanRow(1, 1, emis_paid_on_time=3, installments_settled=2),
        LoanRow(1, 2, emis_paid_on_time=3, installments_settled=13),
        LoanRow(1, 3, emis_paid_on_time=3, installments_settled=3),
        LoanRow(1, 4, emis_paid_on_time=12, installments_settled=12),
    ]
    done = ingest(database, rows, on(date(2026, 6, 10)))
    assert errors(database, done.ingestion_id) == [
        (1, "installments_settled", "OUT_OF_RANGE"),
        (2, "installments_settled", "OUT_OF_RANGE"),
    ]
    assert scalar(database, "SELECT closed_on FROM loans WHERE loan_id = 4") == date(2025, 1, 31)


def test_a_customer_has_the_class_since_the_day_of_the_arrears(database: Database) -> None:
    """As GetDelinquency, whatever moved the class: time, a payment, a payment of an earlier day."""
    loan = a_loan(database, 12)
    emi, customer_id = loan.installment_paise, loan.customer_id
    day = date(2026, 4, 15)
    assert since(database, customer_id, FEB - timedelta(days=1)) is None
    assert since(database, customer_id, day) == date(2026, 3, 30)
    # Still SMA_0 on 15 April, but since the payment, not since the due date.
    pay(database, loan, emi, day)
    assert (since(database, customer_id, day), day - MAR) == (day, timedelta(days=15))
    pay_on(database, loan, emi, date(2026, 4, 10), day)
    assert since(database, customer_id, day) == day
    # NPA: without a payment, and with one that keeps it.
    day = date(2026, 8, 10)
    npa_from = APR + timedelta(days=90)
    assert since(database, customer_id, day) == npa_from
    pay(database, loan, emi, day)
    assert stored(database, customer_id, day) == Arrears(date(2026, 5, 31), npa_from)
    assert since(database, customer_id, day) == npa_from
    pay(database, loan, 3 * emi, day)
    assert since(database, customer_id, day) == day
    assert since(database, a_loan(database, 12).customer_id, START.today) is None


def since(database: Database, customer_id: int, day: date) -> date | None:
    """The first day of the class, as every reader sees it."""
    found = get_customer(database, customer_id=customer_id, day=day).class_since
    assert found == get_delinquency(database, customer_id, day).delinquency.since
    credit = credit_of(database, customer_id, day, on(date(2026, 12, 31)))
    shown = write_customer_as_of(credit).asset_class_since
    assert (found is None) == (shown.year == 0)
    assert found is None or (shown.year, shown.month, shown.day) == (
        found.year,
        found.month,
        found.day,
    )
    return found


# Lists.

LISTED_ON = date(2026, 6, 10)


@pytest.fixture
def portfolio(database: Database) -> list[int]:
    """Customers of each class, with up to three loans, and two with a kept NPA."""
    ids = list(range(1, 15))
    ingest(database, [CustomerRow(each) for each in ids], on(LISTED_ON))
    rows = [
        LoanRow(
            customer_id,
            loan_id,
            tenure_months=24,
            start=date(2025, 9, 1) + timedelta(days=7 * customer_id + 20 * loan_id),
            emis_paid_on_time=0,
            installments_settled=min(24, (customer_id * loan_id) % 10),
        )
        for customer_id in ids[2:]
        for loan_id in range(1, 2 + customer_id % 3)
    ]
    unpaid = [
        LoanRow(each, 1, start=date(2026, 1, each), emis_paid_on_time=0, installments_settled=0)
        for each in ids[:2]
    ]
    ingest(database, [*rows, *unpaid], on(LISTED_ON))
    for customer_id in ids[:2]:
        (found,) = get_delinquency(database, customer_id, LISTED_ON).loans
        assert found.asset_class is NPA
        rest = (found.installments - 1) * found.loan.installment_paise
        pay(database, found.loan, rest, LISTED_ON)
    return ids


def pages(
    database: Database, asset_class: AssetClass | None, days: int, size: int
) -> Iterator[OverdueLoan]:
    start = None
    while True:
        found = list_overdue_loans(database, asset_class, days, start, size, LISTED_ON)
        # Those of a class may be short.
        assert asset_class or len(found.loans) == size or found.following is None
        yield from found.loans
        if found.following is None:
            return
        start = found.following


def test_pages_have_every_overdue_loan_once(database: Database, portfolio: list[int]) -> None:
    overdue = [
        each
        for customer_id in portfolio
        for each in get_delinquency(database, customer_id, LISTED_ON).loans
    ]
    assert {each.asset_class for each in overdue} == {SMA_0, SMA_1, SMA_2, NPA}
    assert min(each.days_past_due for each in overdue if each.asset_class is NPA) <= 30
    for asset_class, days, size in itertools.product(
        (None, SMA_0, SMA_1, SMA_2, NPA), (1, 20, 80, 95), (1, 3, 100)
    ):
        expected = {
            (each.loan.customer_id, each.loan.loan_id): each
            for each in overdue
            if each.days_past_due >= days and asset_class in (None, each.asset_class)
        }
        found = list(pages(database, asset_class, days, size))
        assert {(each.loan.customer_id, each.loan.loan_id): each for each in found} == expected
        assert len(found) == len(expected)
        if asset_class is None:
            by_days = [each.days_past_due for each in found]
            assert by_days == sorted(by_days, reverse=True)


@pytest.mark.parametrize("examined", [1, 2])
def test_pages_that_examine_few_loans_have_every_one_once(
    database: Database, portfolio: list[int], monkeypatch: pytest.MonkeyPatch, examined: int
) -> None:
    whole = {each: list(pages(database, each, 1, 100)) for each in (SMA_0, SMA_1, SMA_2, NPA)}
    monkeypatch.setattr(overdue_loans, "_LEAST_EXAMINED", examined)
    monkeypatch.setattr(overdue_loans, "_EXAMINED_PER_LOAN", 0)
    for asset_class, size in itertools.product(whole, (1, 3, 100)):
        assert list(pages(database, asset_class, 1, size)) == whole[asset_class]


_COPIES = """
    INSERT INTO customers (SELECT (jsonb_populate_record(c, jsonb_build_object(
            'customer_id', c.customer_id * 10000 + n,
            'phone_number', '+9197' || 10000000 + c.customer_id * 10000 + n))).*
        FROM customers c CROSS JOIN generate_series(1, 2000) n WHERE c.customer_id IN (1, 2));
    INSERT INTO loans (SELECT (jsonb_populate_record(l, jsonb_build_object(
            'customer_id', l.customer_id * 10000 + n))).*
        FROM loans l CROSS JOIN generate_series(1, 2000) n WHERE l.customer_id IN (1, 2));
    ANALYZE customers; ANALYZE loans"""
_READ = text(
    """SELECT (SELECT sum(seq_tup_read + idx_tup_fetch) FROM pg_stat_user_tables
            WHERE relname IN ('customers', 'loans')),
        (SELECT idx_blks_read + idx_blks_hit FROM pg_statio_user_indexes
            WHERE indexrelname = 'loans_first_unpaid_due_idx')"""
)


def read_so_far(connection: Connection) -> tuple[int, int]:
    """The rows read, and the blocks read of the index of due dates."""
    connection.execute(text("SELECT pg_stat_force_next_flush()"))
    found_rows, blocks = connection.execute(_READ).one()
    return found_rows, blocks


@pytest.mark.one_server("counts the rows that this server reads")
def test_a_page_of_any_class_reads_few_rows(database: Database) -> None:
    """Of 4,000 borrowers, half are NPA through one of four loans, half keep an NPA: a page of
    another class skips their loans."""
    ingest(database, [CustomerRow(1), CustomerRow(2)], on(LISTED_ON))
    starts = [(1, month, date(2026, month, 1)) for month in (1, 3, 4, 5)]
    rows = [
        LoanRow(customer_id, loan_id, start=start, emis_paid_on_time=0, installments_settled=0)
        for customer_id, loan_id, start in (*starts, (2, 1, date(2026, 1, 1)))
    ]
    ingest(database, rows, on(LISTED_ON))
    (kept,) = get_delinquency(database, 2, LISTED_ON).loans
    pay(database, kept.loan, 3 * kept.loan.installment_paise, LISTED_ON)
    for each in _COPIES.split(";"):
        execute(database, each)
    with database.autocommit() as connection:
        for asset_class, days in itertools.product((SMA_0, SMA_1, SMA_2, NPA), (1, 95)):
            start, latest_due = None, LISTED_ON - timedelta(days=days - 1)
            before = read_so_far(connection)
            while True:
                page = overdue_loans.page(connection, asset_class, latest_due, start, 50, LISTED_ON)
                after = read_so_far(connection)
                found_rows, blocks = (now - then for now, then in zip(after, before, strict=True))
                assert found_rows < 400, (asset_class, days, start)
                # Those of NPA borrowers are read with it too.
                assert blocks < 10 or asset_class is NPA, (asset_class, days, start)
                start, before = page.following, after
                if start is None:
                    break


def test_overdue_amounts_are_the_unpaid_installments(database: Database) -> None:
    loan = a_loan(database, 12)
    day = date(2026, 4, 15)
    pay(database, loan, 100, day)
    (found,) = get_delinquency(database, loan.customer_id, day).loans
    assert (found.days_past_due, found.oldest_due_date, found.installments) == (47, FEB, 2)
    assert found.overdue_paise == 2 * loan.installment_paise - 100
    assert get_delinquency(database, loan.customer_id, day).delinquency.since == date(2026, 3, 30)


# Calls.


def test_calls_show_arrears_of_today(server: Edge, database: Database) -> None:
    today = Clock().moment().today
    ingest(database, [CustomerRow(1), CustomerRow(2)], on(today))
    start = today - timedelta(days=200)
    rows = [
        LoanRow(1, 1, start=start, emis_paid_on_time=0, installments_settled=0),
        LoanRow(2, 1, start=start, emis_paid_on_time=0),
    ]
    ingest(database, rows, on(today))
    customer = server.credit.GetCustomer(pb.GetCustomerRequest(customer_id=1)).customer
    assert customer.asset_class == decision_pb2.ASSET_CLASS_NPA
    assert customer.HasField("asset_class_since")
    loan = server.credit.GetLoan(pb.GetLoanRequest(loan_id=1, customer_id=1)).loan
    assert loan.days_past_due == customer.days_past_due > 90
    assert not loan.HasField("arrears_known_from")
    other = server.credit.GetLoan(pb.GetLoanRequest(loan_id=1, customer_id=2)).loan
    assert other.days_past_due == 0
    assert other.arrears_known_from == other.next_due_date
    found = server.credit.GetDelinquency(pb.GetDelinquencyRequest(customer_id=1)).delinquency
    assert found.asset_class == decision_pb2.ASSET_CLASS_NPA
    assert [each.loan_id for each in found.loans] == [1]
    assert found.asset_class_since == customer.asset_class_since
    listed = server.credit.ListDelinquentLoans(
        pb.ListDelinquentLoansRequest(asset_class=decision_pb2.ASSET_CLASS_NPA)
    )
    assert list(listed.loans) == list(found.loans)
    assert listed.as_of == found.as_of


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (
            pb.ListDelinquentLoansRequest(asset_class=decision_pb2.ASSET_CLASS_STANDARD),
            "asset_class",
        ),
        (pb.ListDelinquentLoansRequest(min_days_past_due=-1), "min_days_past_due"),
        (pb.ListDelinquentLoansRequest(page_token="x"), "page_token"),
    ],
)
def test_lists_reject_bad_filters(server: Edge, request_: Any, field: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        server.credit.ListDelinquentLoans(request_)
    assert refusal_of(caught.value).fields == {field}
