"""Backdated payments, prepayments, foreclosures and reversals in the real database: the stored loan
is always that of its payments, and every request has one effect and one response."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from itertools import permutations
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import exc, text

from credit_service.commands.create_loan import CreateLoan, create_loan
from credit_service.commands.reconcile import reconcile
from credit_service.commands.record_payment import RecordedPayment, RecordPayment, record_payment
from credit_service.commands.reverse_payment import ReversedPayment, ReversePayment, reverse_payment
from credit_service.domain.errors import (
    NotFoundError,
    PreconditionFailedError,
    RequestIdReusedError,
    RetryLaterError,
)
from credit_service.domain.loans import Ask, Loan, LoanState
from credit_service.domain.payments import (
    InstallmentState,
    PaymentPurpose,
    PrepaymentEffect,
    ReversalReason,
    outstanding_paise,
)
from credit_service.domain.schedules import schedule
from credit_service.domain.scorecard import STANDARD
from credit_service.queries.loans import repayment_schedule
from credit_service.queries.payments import foreclosure_quote, list_payments
from credit_service.rpc.convert.payments import write_recorded_payment, write_reversed_payment
from credit_service.storage import loans, payments, policy_facts
from credit_service.storage.database import Database
from credit_service.v1 import loan_pb2
from tests.integration.credit.test_create_loan import from_scratch, in_parallel
from tests.integration.imported import CustomerRow, LoanRow, counts, errors, ingest
from tests.integration.policies import activated
from tests.integration.portfolio import LAKH, a_good_customer, on
from tests.integration.rivals import after_every_statement

START = on(date(2026, 1, 15))
TODAY = on(date(2026, 4, 25))
EMI = 888_488
PREPAID = 2_000_000


def a_loan(database: Database) -> Loan:
    """₹1,00,000 at 12 % over 12 months from 15 January 2026."""
    customer_id = a_good_customer(database, START)
    command = CreateLoan(uuid4(), customer_id, Ask(LAKH, 1200, 12))
    loan = create_loan(database, command, START, "tests").loan_as_booked()
    assert loan is not None
    assert loan.installment_paise == EMI
    return loan


def pay(
    database: Database,
    loan: Loan,
    amount_paise: int,
    paid_on: date,
    purpose: PaymentPurpose = PaymentPurpose.INSTALLMENTS,
    effect: PrepaymentEffect | None = None,
    *,
    key: UUID | None = None,
    validate_only: bool = False,
) -> RecordedPayment:
    command = RecordPayment(
        key or uuid4(),
        loan.customer_id,
        loan.loan_id,
        amount_paise,
        paid_on,
        purpose,
        effect,
        validate_only,
    )
    return record_payment(database, command, TODAY, "tests")


def prepay(database: Database, loan: Loan, *, key: UUID | None = None) -> RecordedPayment:
    """₹20,000 on 25 April, which shortens the loan."""
    return pay(
        database,
        loan,
        PREPAID,
        TODAY.today,
        PaymentPurpose.PART_PREPAYMENT,
        PrepaymentEffect.REDUCE_TENURE,
        key=key,
    )


def reverse(database: Database, payment_id: int, *, key: UUID | None = None) -> ReversedPayment:
    command = ReversePayment(key or uuid4(), payment_id, ReversalReason.BOUNCED)
    return reverse_payment(database, command, TODAY, "tests")


def three_installments(database: Database, loan: Loan) -> None:
    for month in (2, 3, 4):
        pay(database, loan, EMI, date(2026, month, 15))


def stored(database: Database, loan: Loan) -> Loan:
    """The stored loan, which is that of its payments, as are the position and the score."""
    with database.autocommit() as connection:
        found = loans.find(connection, loan.customer_id, loan.loan_id)
        history = payments.history(connection, loan.customer_id, loan.loan_id)
    assert found is not None
    assert history is not None
    assert history.account().loan == replace(found, on_time_at_import=0)
    from_scratch(database, loan.customer_id)
    assert reconcile(database, TODAY).discrepancies == 0
    return found


def events(database: Database, loan: Loan) -> list[tuple[str, dict[str, Any]]]:
    """The kinds and payloads of the customer's events about payments, in order."""
    with database.autocommit() as connection:
        rows = connection.execute(
            text(
                """SELECT kind, payload FROM events WHERE customer_id = :id
                    AND kind IN ('payment_recorded', 'loan_prepaid', 'loan_closed',
                        'payment_reversed')
                ORDER BY event_seq"""
            ),
            {"id": loan.customer_id},
        ).all()
    return [(row[0], row[1]) for row in rows]


# --- Prepayments and foreclosures -----------------------------------------------------------------


def test_a_prepayment_shortens_the_loan_as_published(database: Database) -> None:
    loan = a_loan(database)
    three_installments(database, loan)
    done = prepay(database, loan)
    assert done.prepaid_principal_paise == PREPAID
    after = stored(database, loan)
    assert after == done.loan
    assert (after.tenure_months, after.agreed_tenure_months) == (10, 12)
    assert after.end_date == date(2026, 11, 15)
    found = repayment_schedule(database, loan.customer_id, loan.loan_id, TODAY)
    assert [each.payment_paise for each in found.installments] == [EMI] * 9 + [501_966]
    assert [each.state for each in found.progress[:4]] == [
        *[InstallmentState.SETTLED] * 3,
        InstallmentState.UPCOMING,
    ]
    assert found.settled_on == {number: date(2026, number + 1, 15) for number in (1, 2, 3)}
    principal = sum(each.principal_paise for each in found.installments)
    assert principal + found.prepaid_principal_paise == loan.principal_paise

    kinds = [kind for kind, _ in events(database, loan)]
    assert kinds == ["payment_recorded"] * 4 + ["loan_prepaid"]
    prepaid = events(database, loan)[-1][1]
    assert prepaid["payment_id"] == done.payment.payment_id
    assert (prepaid["prepaid_principal_paise"], prepaid["tenure_months"]) == (PREPAID, 10)


def test_a_payment_in_order_after_a_prepayment_needs_no_replay(database: Database) -> None:
    loan = a_loan(database)
    three_installments(database, loan)
    prepay(database, loan)
    for _ in range(6):
        paid = pay(database, loan, EMI, TODAY.today)
        assert paid.account is None
        assert stored(database, loan) == paid.loan
    last = pay(database, loan, 501_966, TODAY.today)
    assert last.loan.closed_on == TODAY.today
    assert stored(database, loan).state is LoanState.CLOSED
    page = list_payments(database, loan.customer_id, loan.loan_id, None, 50)
    assert [each.payment_number for each in page.payments] == list(range(1, 12))
    assert page.prepaid_paise[4] == PREPAID


def test_the_total_of_a_quote_closes_the_loan_and_a_paisa_less_does_not(
    database: Database,
) -> None:
    loan = a_loan(database)
    day = date(2026, 1, 21)
    quote = foreclosure_quote(database, loan.customer_id, loan.loan_id, day, TODAY)
    for amount in (quote.total_paise - 1, quote.total_paise + 1):
        with pytest.raises(PreconditionFailedError, match="FORECLOSURE_AMOUNT_DIFFERS") as error:
            pay(database, loan, amount, day, PaymentPurpose.FORECLOSURE)
        assert error.value.metadata["total"] == f"{quote.total_paise / 100:.2f}"
    closed = pay(database, loan, quote.total_paise, day, PaymentPurpose.FORECLOSURE)
    after = stored(database, loan)
    assert after == closed.loan
    assert (after.closed_on, outstanding_paise(after)) == (day, 0)
    kinds = [kind for kind, _ in events(database, loan)]
    assert kinds == ["payment_recorded", "loan_closed"]

    with pytest.raises(PreconditionFailedError, match="LOAN_CLOSED"):
        foreclosure_quote(database, loan.customer_id, loan.loan_id, None, TODAY)
    reopened = reverse(database, closed.payment.payment_id)
    assert reopened.loan.state is LoanState.ACTIVE
    after = stored(database, loan)
    assert (after.tenure_months, after.revision, after.last_paid_on) == (12, None, None)
    assert events(database, loan)[-1][1]["reopened"]
    found = repayment_schedule(database, loan.customer_id, loan.loan_id, TODAY)
    assert tuple(found.installments) == schedule(loan).installments


def test_what_was_paid_too_much_is_shown(database: Database) -> None:
    """Without the last paisa of the eleventh installment, a foreclosure owes no interest of it."""
    loan = a_loan(database)
    ahead, day = date(2026, 1, 16), date(2026, 1, 17)
    pay(database, loan, 11 * EMI - 1, ahead)
    paisa = pay(database, loan, 1, ahead)
    quote = foreclosure_quote(database, loan.customer_id, loan.loan_id, day, TODAY)
    closed = pay(database, loan, quote.total_paise, day, PaymentPurpose.FORECLOSURE)
    assert not write_recorded_payment(closed, TODAY.today).loan.HasField("excess_paid")
    done = reverse(database, paisa.payment.payment_id)
    assert stored(database, loan) == done.loan
    eleventh = schedule(loan).installments[10]
    message = write_reversed_payment(done, TODAY.today).loan
    assert message.state == loan_pb2.LOAN_STATE_CLOSED
    assert (message.outstanding.units, message.outstanding.nanos) == (0, 0)
    excess = message.excess_paid.units * 100 + message.excess_paid.nanos // 10_000_000
    assert excess == eleventh.interest_paise - 1
    # Of what is paid too much, nothing settles an installment, and a later payment is rejected.
    with pytest.raises(PreconditionFailedError, match="LOAN_CLOSED"):
        pay(database, loan, 1, TODAY.today)


def test_a_foreclosure_pays_the_charge_of_the_scorecard_that_decided(database: Database) -> None:
    # 2 % of the principal.
    strict = replace(STANDARD, version="charging-1", prepayment_charge_bps=200)
    activated(database, strict, START)
    loan = a_loan(database)
    # Of which the loan's key facts statement knows nothing.
    activated(database, replace(STANDARD, version="dear-1", prepayment_charge_bps=500), TODAY)
    day = date(2026, 1, 21)
    quote = foreclosure_quote(database, loan.customer_id, loan.loan_id, day, TODAY)
    assert quote.charge_paise == LAKH // 50
    closed = pay(database, loan, quote.total_paise, day, PaymentPurpose.FORECLOSURE)
    message = write_recorded_payment(closed, TODAY.today).payment
    assert (message.prepayment_charge.units, message.amount.units) == (2_000, 102_193)
    assert stored(database, loan).paid_paise == quote.total_paise - quote.charge_paise
    # The first response, also under a scorecard without a charge.
    activated(database, replace(STANDARD, version="free-1"), TODAY)
    assert pay(
        database,
        loan,
        quote.total_paise,
        day,
        PaymentPurpose.FORECLOSURE,
        key=closed.payment.request_id,
    ).loan == stored(database, loan)


def test_a_foreclosure_before_another_payment_is_rejected(database: Database) -> None:
    loan = a_loan(database)
    pay(database, loan, EMI, date(2026, 2, 15))
    for call in (
        lambda: foreclosure_quote(
            database, loan.customer_id, loan.loan_id, date(2026, 2, 14), TODAY
        ),
        lambda: pay(database, loan, LAKH, date(2026, 2, 14), PaymentPurpose.FORECLOSURE),
    ):
        with pytest.raises(PreconditionFailedError, match="FORECLOSURE_BEFORE_PAYMENT"):
            call()


def test_a_payment_that_is_only_validated_stores_nothing(database: Database) -> None:
    loan, key = a_loan(database), uuid4()
    three_installments(database, loan)
    before = stored(database, loan), events(database, loan)
    effect = PrepaymentEffect.REDUCE_INSTALLMENT
    purpose = PaymentPurpose.PART_PREPAYMENT
    shown = pay(database, loan, PREPAID, TODAY.today, purpose, effect, key=key, validate_only=True)
    assert (stored(database, loan), events(database, loan)) == before
    assert shown.payment.payment_id == 0
    done = pay(database, loan, PREPAID, TODAY.today, purpose, effect, key=key)
    assert done.loan == shown.loan
    assert done.loan.tenure_months == 12
    left = write_recorded_payment(done, TODAY.today)
    assert left.schedule == write_recorded_payment(shown, TODAY.today).schedule
    assert [each.number for each in left.schedule] == list(range(4, 13))
    with pytest.raises(PreconditionFailedError, match="PREPAYMENT_TOO_LARGE"):
        pay(database, loan, LAKH, TODAY.today, purpose, effect, validate_only=True)
    # The last installment of the plain payment is shown too.
    plain = pay(database, loan, 100, TODAY.today, validate_only=True)
    assert len(write_recorded_payment(plain, TODAY.today).schedule) == 9


def test_a_prepayment_that_leaves_what_is_paid_ahead_closes_the_loan(database: Database) -> None:
    customer_id, half = a_good_customer(database, START), LAKH // 20
    command = CreateLoan(uuid4(), customer_id, Ask(2 * half, 1200, 1))
    loan = create_loan(database, command, START, "tests").loan_as_booked()
    assert loan is not None
    # With the interest of the month on it.
    pay(database, loan, half + half // 100, START.today)
    effect = PrepaymentEffect.REDUCE_TENURE
    pay(database, loan, half, START.today, PaymentPurpose.PART_PREPAYMENT, effect)
    assert stored(database, loan).state is LoanState.CLOSED
    kinds = [kind for kind, _ in events(database, loan)]
    assert kinds == ["payment_recorded", "payment_recorded", "loan_prepaid", "loan_closed"]


def test_what_may_not_be_prepaid(database: Database) -> None:
    loan = a_loan(database)
    pay(database, loan, EMI, date(2026, 2, 15))
    with pytest.raises(PreconditionFailedError, match="PREPAYMENT_WHILE_OVERDUE") as error:
        prepay(database, loan)
    assert error.value.metadata["overdue"] == "17769.76"
    pay(database, loan, 2 * EMI, date(2026, 4, 25))
    with pytest.raises(PreconditionFailedError, match="PREPAYMENT_TOO_LARGE"):
        pay(
            database,
            loan,
            8 * LAKH,
            TODAY.today,
            PaymentPurpose.PART_PREPAYMENT,
            PrepaymentEffect.REDUCE_TENURE,
        )
    assert stored(database, loan).revision is None


# --- Backdated payments and reversals -------------------------------------------------------------


def test_payments_in_any_order_of_recording_give_the_same_loan(database: Database) -> None:
    days = (date(2026, 2, 15), date(2026, 3, 15), date(2026, 4, 16))
    found = set()
    for order in permutations(days):
        loan = a_loan(database)
        for day in order:
            pay(database, loan, EMI, day)
        after = stored(database, loan)
        found.add((after.emis_paid_on_time, after.installments_settled, after.last_paid_on))
        settled = repayment_schedule(database, loan.customer_id, loan.loan_id, TODAY).settled_on
        assert settled == dict(zip((1, 2, 3), days, strict=True))
    assert found == {(2, 3, days[2])}


def test_a_backdated_payment_may_not_pay_more_than_is_owed(database: Database) -> None:
    loan = a_loan(database)
    pay(database, loan, outstanding_paise(loan) - 100, TODAY.today)
    with pytest.raises(PreconditionFailedError, match="PAYMENT_EXCEEDS_OUTSTANDING") as error:
        pay(database, loan, 101, date(2026, 1, 15))
    assert error.value.metadata["outstanding"] == "1.00"
    closed = pay(database, loan, 100, date(2026, 1, 15))
    # The later payment is the one that settles the last installment.
    assert closed.loan.closed_on == TODAY.today
    assert [kind for kind, _ in events(database, loan)][-1] == "loan_closed"
    assert stored(database, loan).state is LoanState.CLOSED


def test_reversing_the_last_payment_restores_the_loan_of_before(database: Database) -> None:
    loan = a_loan(database)
    three_installments(database, loan)
    # From the first reversal on, the loan keeps what it was at its import.
    reverse(database, pay(database, loan, 1, TODAY.today).payment.payment_id)
    before = stored(database, loan)
    makes: list[Callable[[], RecordedPayment]] = [
        lambda: pay(database, loan, 100, TODAY.today),
        lambda: pay(database, loan, 100, date(2026, 3, 1)),
        lambda: prepay(database, loan),
        lambda: pay(database, loan, outstanding_paise(before), TODAY.today),
    ]
    for make in makes:
        done = make()
        assert stored(database, loan) != before
        assert reverse(database, done.payment.payment_id).loan == before
        assert stored(database, loan) == before


def test_reversals_are_rejected_once_done_and_for_unknown_payments(database: Database) -> None:
    loan = a_loan(database)
    first = pay(database, loan, EMI, date(2026, 2, 15))
    reverse(database, first.payment.payment_id)
    with pytest.raises(PreconditionFailedError, match="PAYMENT_ALREADY_REVERSED"):
        reverse(database, first.payment.payment_id)
    with pytest.raises(NotFoundError, match="PAYMENT_NOT_FOUND"):
        reverse(database, 4711)
    assert stored(database, loan).paid_paise == 0
    [listed] = list_payments(database, loan.customer_id, loan.loan_id, None, 50).payments
    assert listed.reversal is not None
    assert listed.reversal.reason is ReversalReason.BOUNCED


def test_a_reversed_payment_settles_nothing_in_the_facts_of_a_policy(database: Database) -> None:
    loan = a_loan(database)
    three_installments(database, loan)
    made = pay(database, loan, EMI, TODAY.today)
    with database.autocommit() as connection:
        assert policy_facts.read(connection, loan.customer_id, TODAY.today).days_past_due == 0
    for payment in list_payments(database, loan.customer_id, loan.loan_id, None, 50).payments[1:]:
        reverse(database, payment.payment_id)
    assert made.payment.payment_number == 4
    with database.autocommit() as connection:
        found = policy_facts.read(connection, loan.customer_id, TODAY.today)
    # The installment of 15 March is the oldest unpaid one.
    assert found.days_past_due == (TODAY.today - date(2026, 3, 15)).days + 1


def test_a_reversal_never_changes(database: Database) -> None:
    loan = a_loan(database)
    reverse(database, pay(database, loan, 100, date(2026, 2, 15)).payment.payment_id)
    for statement in (
        "UPDATE payment_reversals SET reason = 'DUPLICATE'",
        "DELETE FROM payment_reversals",
        "TRUNCATE payment_reversals",
    ):
        with (
            pytest.raises(exc.IntegrityError, match="never change"),
            database.transaction() as connection,
        ):
            connection.execute(text(statement))


# --- Retries and concurrent calls -----------------------------------------------------------------


def test_retries_return_the_first_response_whatever_happened_since(database: Database) -> None:
    loan = a_loan(database)
    keys = [uuid4() for _ in range(5)]

    def calls() -> list[bytes]:
        """Installments, a backdated payment, a prepayment, a reversal, and a payment after it."""
        first = pay(database, loan, 2 * EMI, date(2026, 3, 15), key=keys[0])
        answers = [
            write_recorded_payment(each, TODAY.today).SerializeToString(deterministic=True)
            for each in (
                first,
                pay(database, loan, EMI + 7, date(2026, 2, 15), key=keys[1]),
                prepay(database, loan, key=keys[2]),
            )
        ]
        reversal = reverse(database, first.payment.payment_id, key=keys[3])
        message = write_reversed_payment(reversal, TODAY.today)
        answers.append(message.SerializeToString(deterministic=True))
        last = pay(database, loan, 100, date(2026, 2, 20), key=keys[4])
        again = write_recorded_payment(last, TODAY.today)
        return [*answers, again.SerializeToString(deterministic=True)]

    answers = calls()
    assert calls() == answers
    with pytest.raises(RequestIdReusedError):
        pay(database, loan, EMI, date(2026, 2, 15), key=keys[1])
    with pytest.raises(RequestIdReusedError):
        pay(database, loan, 100, TODAY.today, key=keys[3])
    later = pay(database, loan, 100, date(2026, 2, 21))
    reverse(database, later.payment.payment_id)
    assert calls() == answers
    assert len(events(database, loan)) == 3 + 1 + 1 + 1 + 2
    stored(database, loan)


def test_the_same_reversal_sent_twenty_times_has_one_effect(database: Database) -> None:
    loan, key = a_loan(database), uuid4()
    made = pay(database, loan, EMI, date(2026, 2, 15))
    pay(database, loan, EMI, date(2026, 3, 15))
    answers = in_parallel(lambda: reverse(database, made.payment.payment_id, key=key), 20)
    assert len({repr(answer) for answer in answers}) == 1
    assert stored(database, loan).paid_paise == EMI
    assert [kind for kind, _ in events(database, loan)].count("payment_reversed") == 1


def test_one_of_many_reversals_of_a_payment_wins(database: Database) -> None:
    loan = a_loan(database)
    made = pay(database, loan, EMI, date(2026, 2, 15))
    answers = in_parallel(lambda: reverse(database, made.payment.payment_id), 8)
    done = [each for each in answers if isinstance(each, ReversedPayment)]
    assert len(done) == 1
    assert {type(each) for each in answers} <= {
        ReversedPayment,
        PreconditionFailedError,
        RetryLaterError,
    }
    assert stored(database, loan).paid_paise == 0


@pytest.mark.parametrize("kind", ["payments", "reversal", "booking"])
def test_concurrent_writes_of_one_customer_are_all_counted(database: Database, kind: str) -> None:
    loan = a_loan(database)
    made = [pay(database, loan, 100, date(2026, 2, day)) for day in range(1, 6)]
    left = iter(made)

    def call(number: int) -> object:
        if number % 2 == 0:
            return pay(database, loan, 1_000, date(2026, 2, 1 + number % 7))
        if kind == "payments":
            return pay(database, loan, 1_000, TODAY.today)
        if kind == "reversal":
            return reverse(database, next(left).payment.payment_id)
        command = CreateLoan(uuid4(), loan.customer_id, Ask(LAKH // 10, 1200, 3))
        return create_loan(database, command, TODAY, "tests")

    numbers = iter(range(10))
    answers = in_parallel(lambda: call(next(numbers)), 10)
    failed = [each for each in answers if isinstance(each, Exception)]
    assert not [each for each in failed if not isinstance(each, RetryLaterError)]
    recorded = [each for each in answers if isinstance(each, RecordedPayment)]
    reversals = [each for each in answers if isinstance(each, ReversedPayment)]
    after = stored(database, loan)
    assert after.paid_paise == 1_000 * len(recorded) + 100 * (5 - len(reversals))
    numbers_of = sorted(each.payment.payment_number for each in recorded)
    assert numbers_of == list(range(6, 6 + len(recorded)))


@pytest.mark.parametrize("kind", ["backdated", "prepayment", "reversal"])
def test_a_payment_between_any_two_statements_is_not_lost(
    database: Database, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    loan = a_loan(database)
    three_installments(database, loan)
    made = pay(database, loan, 100, TODAY.today)
    rivals = 0

    def rival() -> None:
        nonlocal rivals
        pay(database, loan, 1_000, date(2026, 3, 20))
        rivals += 1

    with after_every_statement(monkeypatch, rival, most=3):
        if kind == "backdated":
            pay(database, loan, EMI, date(2026, 2, 1))
        elif kind == "prepayment":
            prepay(database, loan)
        else:
            reverse(database, made.payment.payment_id)
    assert rivals == 3
    own = {"backdated": EMI + 100, "prepayment": PREPAID + 100, "reversal": 0}[kind]
    assert stored(database, loan).paid_paise == 3 * EMI + 3 * 1_000 + own


def test_a_repeat_between_any_two_statements_gets_the_first_response(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    loan = a_loan(database)
    total = foreclosure_quote(database, loan.customer_id, loan.loan_id, None, TODAY).total_paise
    close, undo = uuid4(), uuid4()

    def foreclose() -> RecordedPayment:
        day = TODAY.today
        return pay(database, loan, total, day, PaymentPurpose.FORECLOSURE, key=close)

    # Without a check of what was read after the request's record: LOAN_CLOSED, and that the payment
    # was reversed before.
    for most in (1, 2):
        with after_every_statement(monkeypatch, foreclose, most):
            closed = foreclose()
    payment_id = closed.payment.payment_id
    for most in (1, 2, 3):
        with after_every_statement(
            monkeypatch, lambda: reverse(database, payment_id, key=undo), most
        ):
            assert reverse(database, payment_id, key=undo).loan.state is LoanState.ACTIVE
    kinds = [kind for kind, _ in events(database, loan)]
    assert kinds == ["payment_recorded", "loan_closed", "payment_reversed"]
    assert stored(database, loan).paid_paise == 0


# --- Imported loans -------------------------------------------------------------------------------


def test_an_import_does_not_replace_a_loan_whose_only_payment_was_reversed(
    database: Database,
) -> None:
    row = LoanRow(1, 1, emis_paid_on_time=2, start=START.today)
    ingest(database, [CustomerRow(1, limit_rupees=700_000)], TODAY)
    ingest(database, [row], TODAY)
    loan = on_file(database, 1, 1)
    assert (loan.installments_settled, loan.on_time_at_import) == (3, None)
    done = prepay(database, loan)
    again = ingest(database, [row], TODAY, on_existing="UPDATE")
    assert counts(again) == {"unchanged": 1}
    reverse(database, done.payment.payment_id)
    after = on_file(database, 1, 1)
    assert after == replace(loan, on_time_at_import=2)
    for rows, found in (([row], "unchanged"), ([replace(row, rupees=90_000)], "rejected")):
        ingestion = ingest(database, rows, TODAY, on_existing="UPDATE")
        assert counts(ingestion) == {found: 1}
    assert errors(database, ingestion.ingestion_id) == [(1, "loan_id", "LOAN_HAS_PAYMENTS")]
    assert reconcile(database, TODAY).discrepancies == 0


def on_file(database: Database, customer_id: int, loan_id: int) -> Loan:
    with database.autocommit() as connection:
        found = loans.find(connection, customer_id, loan_id)
    assert found is not None
    return found


# --- The previous release -------------------------------------------------------------------------

_OLD_PAYMENT = """
    WITH p AS (
        INSERT INTO payments (customer_id, loan_id, payment_number, payment_id, amount_paise,
            paid_on, recorded_at, first_settled, settled_count, on_time_count, closed_loan,
            principal)
        VALUES (:customer_id, :loan_id, (SELECT coalesce(max(payment_number), 0) + 1 FROM payments
                WHERE customer_id = :customer_id AND loan_id = :loan_id),
            nextval('payment_ids'), :amount, :paid_on, now(), :first, :count, :on_time, false, '')
    ), l AS (
        UPDATE loans SET emis_paid_on_time = emis_paid_on_time + :on_time,
            installments_settled = installments_settled + :count, paid_paise = paid_paise + :amount,
            last_paid_on = :paid_on
        WHERE customer_id = :customer_id AND loan_id = :loan_id
    )
    UPDATE customers SET version = version + 1, emis_on_time = emis_on_time + :on_time,
        emis_due = emis_due + :on_time
    WHERE customer_id = :customer_id"""


def old_payment(
    database: Database, loan: Loan, paid_on: date, first: int, count: int, on_time: int
) -> None:
    """What a server of the previous release writes: it knows no grace days and no prepayments."""
    with database.transaction() as connection:
        connection.execute(
            text(_OLD_PAYMENT),
            {
                "customer_id": loan.customer_id,
                "loan_id": loan.loan_id,
                "amount": count * EMI,
                "paid_on": paid_on,
                "first": first,
                "count": count,
                "on_time": on_time,
            },
        )


@pytest.mark.one_server("servers of the previous release know no cluster")
def test_payments_of_the_previous_release_count_as_they_did(database: Database) -> None:
    loan = a_loan(database)
    # Under the scorecard of that time 5 days late was on time.
    old_payment(database, loan, date(2026, 2, 20), 1, 1, 1)
    old_payment(database, loan, date(2026, 4, 25), 2, 2, 0)
    later = pay(database, loan, 100, date(2026, 2, 1))
    assert later.account is not None
    assert later.loan.on_time_at_import == 0
    assert (later.loan.emis_paid_on_time, later.loan.installments_settled) == (1, 3)
    assert later.loan.paid_paise == 3 * EMI + 100
    # Also one that such a server adds to a loan that was computed from all its payments.
    old_payment(database, loan, date(2026, 4, 25), 4, 1, 1)
    reversed_again = reverse(database, later.payment.payment_id)
    assert (reversed_again.loan.emis_paid_on_time, reversed_again.loan.paid_paise) == (2, 4 * EMI)
    settled = repayment_schedule(database, loan.customer_id, loan.loan_id, TODAY).settled_on
    assert settled[1] == date(2026, 2, 20)


@pytest.mark.one_server("servers of the previous release know no cluster")
def test_a_server_of_the_previous_release_adds_no_payment_to_a_prepaid_loan(
    database: Database,
) -> None:
    loan = a_loan(database)
    three_installments(database, loan)
    done = prepay(database, loan)

    def add() -> None:
        old_payment(database, loan, TODAY.today, 4, 1, 1)

    # It takes this as a lost race.
    with pytest.raises(RetryLaterError):
        database.retry(lambda _number: add())
    assert stored(database, loan) == done.loan
    reverse(database, done.payment.payment_id)
    add()


@pytest.mark.parametrize("is_prepaid", [False, True])
@pytest.mark.parametrize(
    ("column", "wrong"),
    [
        ("paid_paise", "UPDATE loans SET paid_paise = paid_paise - 1 WHERE loan_id = :id"),
        ("emis_paid_on_time", "UPDATE loans SET emis_paid_on_time = 2 WHERE loan_id = :id"),
        ("installments_settled", "UPDATE loans SET installments_settled = 4 WHERE loan_id = :id"),
        ("last_paid_on", "UPDATE loans SET last_paid_on = '2026-04-14' WHERE loan_id = :id"),
    ],
)
def test_a_loan_that_differs_from_its_payments_is_found_and_corrected(
    database: Database, is_prepaid: bool, column: str, wrong: str
) -> None:
    loan = a_loan(database)
    three_installments(database, loan)
    if is_prepaid:
        prepay(database, loan)
    right = stored(database, loan)
    with database.transaction() as connection:
        connection.execute(text(wrong), {"id": loan.loan_id})
    assert reconcile(database, TODAY).discrepancies == 1
    with database.autocommit() as connection:
        found = connection.execute(text("SELECT stored, computed FROM discrepancies")).one()
    name = f"loan {loan.loan_id}"
    assert found.stored[name][column] != found.computed[name][column]
    # As a write that replays, the correction stores `on_time_at_import`.
    assert stored(database, loan) == replace(right, on_time_at_import=0)


def test_a_wrong_loan_of_a_locked_customer_is_left_for_the_next_round(database: Database) -> None:
    loan = a_loan(database)
    three_installments(database, loan)
    with database.transaction() as connection:
        connection.execute(
            text("UPDATE loans SET paid_paise = 1 WHERE loan_id = :id"), {"id": loan.loan_id}
        )
    with database.transaction() as other:
        other.execute(
            text("SELECT FROM customers WHERE customer_id = :id FOR UPDATE"),
            {"id": loan.customer_id},
        )
        assert reconcile(database, TODAY).discrepancies == 0
    assert reconcile(database, TODAY).discrepancies == 1
    assert stored(database, loan).paid_paise == 3 * EMI
