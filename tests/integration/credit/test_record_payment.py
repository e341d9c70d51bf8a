"""Payments in the real database settle installments in order and once, and update the position."""

from datetime import date
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from credit_service.commands import record_payment as recording
from credit_service.commands.create_loan import CreateLoan, create_loan
from credit_service.commands.loan_changes import Request
from credit_service.commands.record_payment import (
    PaymentCall,
    RecordedPayment,
    RecordPayment,
    record_payment,
)
from credit_service.domain.eligibility import Ask
from credit_service.domain.errors import (
    NotFoundError,
    PreconditionFailedError,
    RequestIdReusedError,
)
from credit_service.domain.loans import Loan, LoanState
from credit_service.domain.payments import outstanding_paise
from credit_service.domain.schedules import schedule
from credit_service.queries.customers import get_customer
from credit_service.queries.loans import list_loans, repayment_schedule
from credit_service.rpc.convert.payments import write_recorded_payment
from credit_service.storage import positions
from credit_service.storage.database import Database
from tests.integration.credit.test_create_loan import from_scratch, in_parallel
from tests.integration.portfolio import LAKH, a_good_customer, on
from tests.integration.rivals import after_every_statement

START = on(date(2026, 1, 31))


def a_loan(database: Database, months: int = 3) -> Loan:
    customer_id = a_good_customer(database, START)
    command = CreateLoan(uuid4(), customer_id, Ask(LAKH, 1200, months))
    loan = create_loan(database, command, START, "tests").loan_as_booked()
    assert loan is not None
    return loan


def pay(
    database: Database, loan: Loan, amount_paise: int, day: date, key: UUID | None = None
) -> RecordedPayment:
    command = RecordPayment(key or uuid4(), loan.customer_id, loan.loan_id, amount_paise, None)
    return record_payment(database, command, on(day), "tests")


def seen(recorded: RecordedPayment) -> bytes:
    """The response as a caller sees it."""
    return write_recorded_payment(recorded, START.today).SerializeToString(deterministic=True)


def test_payments_settle_a_loan_until_it_is_closed(database: Database) -> None:
    loan = a_loan(database)
    first, second, third = schedule(loan).installments
    assert [first.due_date, second.due_date, third.due_date] == [
        date(2026, 2, 28),
        date(2026, 3, 31),
        date(2026, 4, 30),
    ]
    on_time = pay(database, loan, first.payment_paise, date(2026, 2, 28))
    assert (list(on_time.payment.settled_numbers), on_time.payment.on_time_count) == ([1], 1)
    in_part = pay(database, loan, 100, date(2026, 3, 30))
    assert list(in_part.payment.settled_numbers) == []
    late = pay(database, loan, second.payment_paise - 100, date(2026, 4, 1))
    assert (list(late.payment.settled_numbers), late.payment.on_time_count) == ([2], 0)
    position = get_customer(database, customer_id=loan.customer_id).position
    assert (position.emis_on_time, position.emis_due) == (36 + 1, 36 + 2)
    from_scratch(database, loan.customer_id)

    last = pay(database, loan, third.payment_paise, date(2026, 4, 2))
    assert last.payment.closed_loan
    assert last.loan.state is LoanState.CLOSED
    assert last.loan.closed_on == date(2026, 4, 2)
    position = get_customer(database, customer_id=loan.customer_id).position
    assert (position.current_debt_paise, position.current_installments_paise) == (0, 0)
    from_scratch(database, loan.customer_id)
    stored = next(
        each
        for each in list_loans(database, loan.customer_id, None, None, 50)
        if each.loan_id == loan.loan_id
    )
    assert stored == last.loan
    states = repayment_schedule(database, loan.customer_id, loan.loan_id, on(date(2026, 5, 1)))
    assert {each.state for each in states.progress} == {"SETTLED"}


def test_the_position_includes_all_loans_in_any_order_of_due_dates(database: Database) -> None:
    first = a_loan(database)
    day = date(2026, 2, 10)
    create = CreateLoan(uuid4(), first.customer_id, Ask(LAKH // 10, 1200, 3))
    later = create_loan(database, create, on(day), "tests").loan_as_booked()
    assert later is not None
    # Part payments while the stored position is valid, then after it has expired.
    for at in (day, date(2026, 2, 28), date(2026, 4, 1)):
        for loan in (first, later):
            pay(database, loan, 100, at)
            from_scratch(database, first.customer_id)
    # The second loan is due first, on 10 April, and the first loan on 30 April.
    for loan in (later, first):
        outstanding = sum(each.payment_paise for each in schedule(loan).installments) - 300
        assert pay(database, loan, outstanding, date(2026, 4, 2)).payment.closed_loan
        from_scratch(database, first.customer_id)
    assert get_customer(database, customer_id=first.customer_id).position.current_debt_paise == 0


def many_repaid_loans(database: Database, customer_id: int, count: int) -> None:
    with database.transaction() as connection:
        connection.execute(
            text(
                """INSERT INTO loans (customer_id, loan_id, principal_paise, annual_rate_bps,
                    tenure_months, installment_paise, start_date, end_date, imported,
                    settled_at_import, emis_paid_on_time, installments_settled, closed_on)
                SELECT :customer_id, number, 10000, 1000, 12, 1000, '2020-01-15', '2021-01-15',
                    true, 12, 12, 12, '2021-01-15'
                FROM generate_series(1, :count) AS number"""
            ),
            {"customer_id": customer_id, "count": count},
        )
        positions.refresh(connection, [customer_id], START.today)


def loans_read_by(database: Database, loan: Loan, amount_paise: int, day: date) -> int:
    """The number of loan rows that PostgreSQL reads for a payment."""
    command = RecordPayment(uuid4(), loan.customer_id, loan.loan_id, amount_paise, None)
    request = Request(command.request_id, bytes(32), "tests", on(day), None)
    counted = text(
        """SELECT coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)
        FROM pg_stat_xact_user_tables WHERE relname = 'loans'"""
    )
    with database.transaction() as connection:
        # The counters include earlier transactions that the session has not reported yet.
        before = connection.execute(counted).scalar() or 0
        recording.record(connection, PaymentCall(command, request), lock=True)
        return int(connection.execute(counted).scalar_one()) - before


@pytest.mark.one_server("counts the rows that this server reads")
def test_a_payment_reads_no_other_loans_of_the_customer(database: Database) -> None:
    loan = a_loan(database)
    many_repaid_loans(database, loan.customer_id, 2_000)
    with database.autocommit() as connection:
        connection.execute(text("ANALYZE loans"))
    assert loans_read_by(database, loan, 100, START.today) < 10
    # The position has expired, and the payment recomputes it.
    assert loans_read_by(database, loan, 100, date(2026, 3, 1)) > 2_000
    assert loans_read_by(database, loan, 100, date(2026, 3, 1)) < 10
    position = get_customer(database, customer_id=loan.customer_id).position
    assert position.loan_count == 2_000 + 4
    assert position.current_debt_paise == loan.principal_paise


def test_rejections_change_nothing(database: Database) -> None:
    loan = a_loan(database)
    pay(database, loan, 100, date(2026, 2, 10))
    for amount, paid_on, reason in (
        (outstanding_paise(loan) - 99, date(2026, 2, 10), "PAYMENT_EXCEEDS_OUTSTANDING"),
        (100, date(2026, 2, 12), "PAYMENT_IN_FUTURE"),
        (100, date(2026, 1, 30), "PAYMENT_BEFORE_LOAN_START"),
    ):
        command = RecordPayment(uuid4(), loan.customer_id, loan.loan_id, amount, paid_on)
        with pytest.raises(PreconditionFailedError) as refused:
            record_payment(database, command, on(date(2026, 2, 11)), "tests")
        assert refused.value.reason == reason
    pay(database, loan, outstanding_paise(loan) - 100, date(2026, 2, 11))
    with pytest.raises(PreconditionFailedError, match="LOAN_CLOSED"):
        pay(database, loan, 100, date(2026, 2, 11), uuid4())
    with pytest.raises(NotFoundError, match="LOAN_NOT_FOUND"):
        record_payment(
            database, RecordPayment(uuid4(), loan.customer_id, 4711, 100, None), START, "tests"
        )
    from_scratch(database, loan.customer_id)
    with database.autocommit() as connection:
        rows = connection.execute(text("SELECT method FROM requests ORDER BY method")).all()
    effects = ["CreateLoan", "RecordPayment", "RecordPayment", "RegisterCustomer"]
    assert [row.method for row in rows] == effects


def test_the_same_payment_sent_twenty_times_counts_once(database: Database) -> None:
    loan, key = a_loan(database), uuid4()
    answers = in_parallel(lambda: pay(database, loan, 1_000_00, date(2026, 2, 1), key), 20)
    assert len({seen(answer) for answer in answers}) == 1
    again = pay(database, loan, 500_00, date(2026, 2, 2))
    assert again.loan.paid_paise == 1_500_00
    # The retry returns the first response, although the loan has changed since.
    assert seen(pay(database, loan, 1_000_00, date(2026, 2, 3), key)) == seen(answers[0])
    with pytest.raises(RequestIdReusedError):
        pay(database, loan, 1_000_01, date(2026, 2, 3), key)


def test_a_rejected_payment_is_evaluated_again(database: Database) -> None:
    loan, key = a_loan(database), uuid4()
    command = RecordPayment(key, loan.customer_id, loan.loan_id, 100, date(2026, 3, 1))
    with pytest.raises(PreconditionFailedError, match="PAYMENT_IN_FUTURE"):
        record_payment(database, command, on(date(2026, 2, 1)), "tests")
    recorded = record_payment(database, command, on(date(2026, 3, 1)), "tests")
    again = record_payment(database, command, on(date(2026, 4, 1)), "tests")
    assert seen(again) == seen(recorded)


def test_concurrent_payments_are_all_counted_up_to_the_outstanding_amount(
    database: Database,
) -> None:
    loan = a_loan(database)
    fifth = outstanding_paise(loan) // 5
    answers = in_parallel(lambda: pay(database, loan, fifth, date(2026, 2, 1)), 12)
    taken = [answer for answer in answers if isinstance(answer, RecordedPayment)]
    refused = [answer for answer in answers if isinstance(answer, PreconditionFailedError)]
    assert (len(taken), len(refused)) == (5, 7)
    assert sorted(answer.payment.payment_number for answer in taken) == [1, 2, 3, 4, 5]
    stored = next(
        each
        for each in list_loans(database, loan.customer_id, LoanState.ACTIVE, None, 50)
        if each.loan_id == loan.loan_id
    )
    assert stored.paid_paise == 5 * fifth
    from_scratch(database, loan.customer_id)


def test_a_retry_returns_the_same_despite_concurrent_payments(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    loan, key = a_loan(database, 12), uuid4()
    installment = schedule(loan).installments[0].payment_paise
    first = pay(database, loan, 100, date(2026, 2, 10), key)

    def rival() -> None:
        pay(database, loan, installment, date(2026, 2, 10))

    with after_every_statement(monkeypatch, rival) as times:
        again = pay(database, loan, 100, date(2026, 2, 10), key)
    assert times() > 0
    assert seen(again) == seen(first)
