"""Policy facts read from the real database."""

from datetime import UTC, date, datetime, timedelta
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import text

from credit_service.commands.create_loan import CreateLoan, create_loan
from credit_service.commands.recompute_scores import recompute_scores
from credit_service.commands.reconcile import reconcile
from credit_service.commands.reverse_payment import ReversePayment, reverse_payment
from credit_service.domain.calendar import complete_months
from credit_service.domain.delinquency import AssetClass, Settlement, arrears
from credit_service.domain.eligibility import Ask
from credit_service.domain.payments import ReversalReason, outstanding_paise
from credit_service.domain.policy_facts import PolicyFacts, policy_facts
from credit_service.domain.scorecard import prudent
from credit_service.queries.customers import get_customer
from credit_service.storage import customers, loans, payments
from credit_service.storage import policy_facts as stored
from credit_service.storage.database import Database
from tests.integration.credit.test_record_payment import START, a_loan, pay
from tests.integration.imported import CustomerRow, LoanRow, execute, ingest
from tests.integration.policies import activated
from tests.integration.portfolio import LAKH, a_customer, a_good_customer, on

DAY = date(2026, 9, 1)


def by_domain(database: Database, customer_id: int, day: date) -> PolicyFacts:
    """The facts by the domain, from what other modules read."""
    with database.autocommit() as connection:
        view = customers.find(connection, customer_id)
        assert view is not None
        found = loans.all_of(connection, customer_id)
        settlements: dict[int, list[Settlement]] = {}
        for each in found:
            days = payments.settlement_days(connection, customer_id, each.loan_id)
            settlements[each.loan_id] = [
                Settlement(number, 1, days[number]) for number in sorted(days)
            ]
    stored_on = view.customer.created_at.astimezone(ZoneInfo("Asia/Kolkata")).date()
    known = arrears(found, settlements, day)
    return policy_facts(found, known, view.customer.age, stored_on, day)


def read(database: Database, customer_id: int, day: date = DAY) -> PolicyFacts:
    with database.autocommit() as connection:
        return stored.read(connection, customer_id, day)


@pytest.fixture
def portfolio(database: Database) -> list[int]:
    """Customers without loans, with imported ones, in arrears, and after arrears."""
    new = a_customer(database, START)
    repaid = a_good_customer(database, START)
    unpaid = a_loan(database, 12)
    late = a_loan(database, 12)
    emi = late.installment_paise
    pay(database, late, emi // 2, date(2026, 2, 28))
    pay(database, late, emi, date(2026, 7, 1))
    pay(database, late, emi, date(2026, 8, 20))
    ahead = a_loan(database, 3)
    pay(database, ahead, 2 * ahead.installment_paise, date(2026, 2, 10))
    ingest(database, [CustomerRow(40)], on(date(2026, 3, 5)))
    rows = [
        LoanRow(40, 1, start=date(2025, 9, 30), emis_paid_on_time=7),
        LoanRow(40, 2, start=date(2025, 11, 30), emis_paid_on_time=1),
        LoanRow(40, 3, start=date(2020, 1, 1), emis_paid_on_time=12),
    ]
    ingest(database, rows, on(date(2026, 3, 5)))
    return [new, repaid, unpaid.customer_id, late.customer_id, ahead.customer_id, 40]


def test_facts_are_those_of_the_domain(database: Database, portfolio: list[int]) -> None:
    for day in (date(2026, 8, 20), DAY, date(2027, 5, 31)):
        for customer_id in portfolio:
            assert read(database, customer_id, day) == by_domain(database, customer_id, day)


def test_facts_of_many_customers_equal_single_ones(
    database: Database, portfolio: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    single = {each: read(database, each) for each in portfolio}
    ids = [*reversed(portfolio), 999]
    with database.autocommit() as connection:
        assert stored.read_many(connection, ids, DAY) == single
        assert stored.read_many(connection, [], DAY) == {}
        # In several statements, too.
        monkeypatch.setattr(stored, "_BATCH", 2)
        assert stored.read_many(connection, ids, DAY) == single


def test_arrears_and_their_history(database: Database, portfolio: list[int]) -> None:
    new, _, unpaid, late, ahead, imported = portfolio
    assert read(database, new) == PolicyFacts(0, 0, 0, 0, 0, AssetClass.STANDARD, 30, 7)
    found = read(database, unpaid)
    assert (found.days_past_due, found.asset_class) == (186, AssetClass.NPA)
    # 28 February to 30 June is NPA; 31 March is the oldest unpaid one until 20 August, 30 April
    # after it, so the arrears never end.
    found = read(database, late)
    assert (found.days_past_due, found.asset_class) == (125, AssetClass.NPA)
    found = read(database, ahead)
    # Due on 28 February, 31 March and 30 April; the third is unpaid.
    assert (found.emis_on_time_when_due, found.emis_fallen_due) == (36 + 2, 36 + 3)
    assert found.days_past_due == (DAY - date(2026, 4, 30)).days + 1
    # The import has no arrears: the first installment after it fell due on 30 March (settled 7
    # ahead: on 31 May).
    assert read(database, imported, date(2026, 3, 29)).days_past_due == 0
    assert read(database, imported, date(2026, 3, 30)).days_past_due == 1


# --- Counts in the customer's row -----------------------------------------------------------------


@pytest.fixture
def scored(database: Database, portfolio: list[int]) -> list[int]:
    """The portfolio, with the scores of DAY under a scorecard whose policy needs facts."""
    activated(database, prudent(), on(DAY))
    recompute(database, portfolio)
    return portfolio


def recompute(database: Database, customer_ids: list[int], day: date = DAY) -> None:
    with database.transaction() as connection:
        recompute_scores(connection, customer_ids, on(day))


def from_row(database: Database, customer_id: int, day: date) -> bool:
    """Whether the facts of the day are read from the customer's row, and not from the loans."""
    with database.autocommit() as connection:
        return stored.read_versioned(connection, customer_id, day).counts is None


def test_a_score_stores_what_counts_in_the_loans(database: Database, scored: list[int]) -> None:
    later = [DAY + timedelta(days=days) for days in (0, 1, 26, 29, 30, 31, 61, 400)]
    for customer_id in scored:
        assert from_row(database, customer_id, DAY)
        for day in later:
            assert read(database, customer_id, day) == by_domain(database, customer_id, day)
    assert any(from_row(database, each, later[1]) for each in scored)
    # Two loans have a due date on 30 September.
    for customer_id in scored[2:4]:
        assert from_row(database, customer_id, date(2026, 9, 29))
        assert not from_row(database, customer_id, date(2026, 9, 30))
    # A server whose clock is late.
    assert not any(from_row(database, each, DAY - timedelta(days=1)) for each in scored)


def test_stored_counts_end_at_a_due_date_of_a_loan_that_is_repaid(database: Database) -> None:
    loan = a_loan(database, 3)
    pay(database, loan, outstanding_paise(loan), date(2026, 2, 10))
    activated(database, prudent(), on(date(2026, 2, 10)))
    recompute(database, [loan.customer_id], date(2026, 2, 10))
    before_due, due = date(2026, 2, 27), date(2026, 2, 28)
    assert from_row(database, loan.customer_id, before_due)
    assert not from_row(database, loan.customer_id, due)
    assert read(database, loan.customer_id, due) == by_domain(database, loan.customer_id, due)


def test_every_change_of_a_customer_ends_the_stored_counts(
    database: Database, scored: list[int]
) -> None:
    _, repaid, unpaid, _, _, imported = scored
    before = read(database, unpaid)
    with database.autocommit() as connection:
        (loan,) = (each for each in loans.all_of(connection, unpaid) if not each.imported)
    recorded = pay(database, loan, loan.installment_paise, DAY)
    assert read(database, unpaid) == by_domain(database, unpaid, DAY) != before
    recompute(database, scored)
    reversal = ReversePayment(uuid4(), recorded.payment.payment_id, ReversalReason.BOUNCED)
    reverse_payment(database, reversal, on(DAY), "tests")
    assert read(database, unpaid) == by_domain(database, unpaid, DAY) == before
    ingest(database, [LoanRow(40, 4, start=date(2026, 1, 30))], on(DAY))
    assert not from_row(database, imported, DAY)
    assert read(database, imported) == by_domain(database, imported, DAY)
    booking = CreateLoan(uuid4(), repaid, Ask(LAKH, 1200, 24))
    assert create_loan(database, booking, on(DAY), "tests").loan_id is not None
    assert read(database, repaid) == by_domain(database, repaid, DAY)
    # A server of 0.1.0 raises the version alone.
    recompute(database, scored)
    execute(database, "UPDATE customers SET version = version + 1")
    assert not any(from_row(database, each, DAY) for each in scored)


def test_the_reconciliation_corrects_stored_counts(database: Database, scored: list[int]) -> None:
    assert reconcile(database, on(DAY)).discrepancies == 0
    wrong = scored[2]
    statement = f"UPDATE customers SET emis_fallen_due = 1 WHERE customer_id = {wrong}"  # noqa: S608 - a number
    execute(database, statement)
    assert read(database, wrong) != by_domain(database, wrong, DAY)
    assert reconcile(database, on(DAY)).discrepancies == 1
    assert read(database, wrong) == by_domain(database, wrong, DAY)
    assert from_row(database, wrong, DAY)
    assert reconcile(database, on(DAY)).discrepancies == 0


def test_facts_have_the_version_of_the_customer(database: Database) -> None:
    loan = a_loan(database, 12)
    pay(database, loan, 100, date(2026, 2, 1))
    version = get_customer(database, customer_id=loan.customer_id).position.version
    with database.autocommit() as connection:
        single = stored.read_versioned(connection, loan.customer_id, DAY)
        assert single.version == version
        many = stored.read_many_versioned(connection, [loan.customer_id], DAY)
    assert many == {loan.customer_id: single}


def test_months_count_from_the_day_in_the_business_time_zone(database: Database) -> None:
    customer_id = a_customer(database, START)
    stored_at = datetime(2026, 1, 30, 20, 0, tzinfo=UTC)  # 31 January in India
    with database.transaction() as connection:
        connection.execute(
            text("UPDATE customers SET created_at = :at WHERE customer_id = :id"),
            {"at": stored_at, "id": customer_id},
        )
    day = date(2026, 3, 30)
    with database.autocommit() as connection:
        there = stored.read(connection, customer_id, day)
        here = stored.read(connection, customer_id, day, ZoneInfo("UTC"))
    assert there.months_as_customer == complete_months(date(2026, 1, 31), day) == 1
    assert here.months_as_customer == 2


def test_an_unknown_customer_has_no_facts(database: Database) -> None:
    with database.autocommit() as connection, pytest.raises(LookupError, match="no customer 999"):
        stored.read(connection, 999, DAY)
