"""A process that exits at a failpoint of a write leaves all of the write, or nothing."""

from collections.abc import Callable
from datetime import date
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from credit_service import failpoints
from credit_service.commands.create_loan import (
    CreateLoan,
    CreateLoanOffer,
    create_loan,
    create_loan_offer,
)
from credit_service.commands.offers import AcceptLoanOffer, accept_loan_offer
from credit_service.commands.reconcile import reconcile
from credit_service.commands.record_payment import RecordPayment, record_payment
from credit_service.commands.reverse_payment import ReversePayment, reverse_payment
from credit_service.domain.eligibility import Ask
from credit_service.domain.payments import PaymentPurpose, PrepaymentEffect, ReversalReason
from credit_service.rpc.convert.payments import write_recorded_payment
from credit_service.storage.database import Database
from tests.integration.portfolio import LAKH, a_good_customer, on

TODAY = on(date(2026, 6, 10))
ASK = Ask(LAKH, 1200, 24)

FACTS = text(
    """SELECT
        (SELECT count(*) FROM loans WHERE NOT imported),
        (SELECT count(*) FROM decisions),
        (SELECT count(*) FROM payments),
        (SELECT count(*) FROM requests WHERE method <> 'RegisterCustomer'),
        (SELECT count(*) FROM events WHERE kind IN ('loan_created', 'payment_recorded'))"""
)


class DeathError(BaseException):
    """Simulates the end of the process: no code in the service catches it."""


def die_at(
    point: str,
    work: Callable[[], object],
    rival: Callable[[], object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Run the work until it exits at the failpoint; for a lost race, after a concurrent call."""
    rivals = [rival] if point.endswith("before_commit") else []

    def reach(reached: str) -> None:
        if reached == point:
            raise DeathError
        if reached.endswith("before_write") and rivals:
            rivals.pop()()

    with monkeypatch.context() as patched:
        patched.setattr(failpoints, "reach", reach)
        with pytest.raises(DeathError):
            work()
    assert not rivals


def book(database: Database, customer_id: int, request_id: UUID) -> int:
    stored = create_loan(database, CreateLoan(request_id, customer_id, ASK), TODAY, "tests")
    assert stored.loan_id is not None
    return stored.loan_id


def facts(database: Database) -> tuple[int, ...]:
    with database.autocommit() as connection:
        return tuple(connection.execute(FACTS).one())


@pytest.mark.parametrize(
    ("point", "stored"),
    [
        ("create_loan.before_write", (0, 0, 0, 0, 0)),
        # Only the concurrent call's loan.
        ("create_loan.before_commit", (1, 1, 0, 1, 1)),
        ("create_loan.after_commit", (1, 1, 0, 1, 1)),
    ],
)
def test_a_booking_is_atomic(
    database: Database, point: str, stored: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    customer_id = a_good_customer(database, TODAY)
    request_id = uuid4()
    die_at(
        point,
        lambda: book(database, customer_id, request_id),
        lambda: book(database, customer_id, uuid4()),
        monkeypatch,
    )
    assert facts(database) == stored
    assert book(database, customer_id, request_id) == book(database, customer_id, request_id)
    rivals = 1 if point == "create_loan.before_commit" else 0
    assert facts(database) == (1 + rivals, 1 + rivals, 0, 1 + rivals, 1 + rivals)


@pytest.mark.parametrize(
    ("point", "stored"),
    [
        ("record_payment.before_write", (1, 1, 0, 1, 1)),
        ("record_payment.before_commit", (2, 2, 0, 2, 2)),
        ("record_payment.after_commit", (1, 1, 1, 2, 2)),
    ],
)
def test_a_payment_is_atomic(
    database: Database, point: str, stored: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    customer_id = a_good_customer(database, TODAY)
    loan_id = book(database, customer_id, uuid4())
    command = RecordPayment(uuid4(), customer_id, loan_id, 1_000, None)
    die_at(
        point,
        lambda: record_payment(database, command, TODAY, "tests"),
        lambda: book(database, customer_id, uuid4()),
        monkeypatch,
    )
    assert facts(database) == stored
    first, again = (
        write_recorded_payment(record_payment(database, command, TODAY, "tests"), TODAY.today)
        for _ in range(2)
    )
    assert again == first
    assert facts(database)[2] == 1


@pytest.mark.parametrize(
    ("point", "stored"),
    [
        ("end_offer.before_write", (0, 1, 0, 1, 0)),
        # Only the concurrent call's loan.
        ("end_offer.before_commit", (1, 2, 0, 2, 1)),
        ("end_offer.after_commit", (1, 1, 0, 2, 1)),
    ],
)
def test_an_acceptance_is_atomic(
    database: Database, point: str, stored: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    customer_id = a_good_customer(database, TODAY)
    offered = CreateLoanOffer(uuid4(), customer_id, ASK)
    _, offer = create_loan_offer(database, offered, TODAY, "tests")
    assert offer is not None
    command = AcceptLoanOffer(uuid4(), offer.offer_id)
    die_at(
        point,
        lambda: accept_loan_offer(database, command, TODAY, "tests"),
        lambda: book(database, customer_id, uuid4()),
        monkeypatch,
    )
    assert facts(database) == stored
    first = accept_loan_offer(database, command, TODAY, "tests")
    assert accept_loan_offer(database, command, TODAY, "tests") == first
    rivals = 1 if point == "end_offer.before_commit" else 0
    assert facts(database)[0] == 1 + rivals


PAYMENTS = text(
    """SELECT
        (SELECT count(*) FROM payments),
        (SELECT count(*) FROM payment_reversals),
        (SELECT count(*) FROM requests WHERE method IN ('RecordPayment', 'ReversePayment')),
        (SELECT count(*) FROM events WHERE kind IN ('payment_recorded', 'loan_prepaid')),
        (SELECT count(*) FROM events WHERE kind = 'payment_reversed')"""
)


@pytest.mark.parametrize(
    ("point", "payments"),
    [
        ("record_payment.before_write", 1),
        # Only the concurrent call's payment.
        ("record_payment.before_commit", 2),
        ("record_payment.after_commit", 2),
    ],
)
def test_a_prepayment_is_atomic(
    database: Database, point: str, payments: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    customer_id = a_good_customer(database, TODAY)
    loan_id = book(database, customer_id, uuid4())
    pay(database, customer_id, loan_id, 1_000)
    command = RecordPayment(
        uuid4(),
        customer_id,
        loan_id,
        LAKH // 10,
        None,
        PaymentPurpose.PART_PREPAYMENT,
        PrepaymentEffect.REDUCE_TENURE,
    )
    die_at(
        point,
        lambda: record_payment(database, command, TODAY, "tests"),
        lambda: pay(database, customer_id, loan_id, 1_000),
        monkeypatch,
    )
    prepaid = 1 if point == "record_payment.after_commit" else 0
    assert counts(database) == (payments, 0, payments, payments + prepaid, 0)
    record_payment(database, command, TODAY, "tests")
    record_payment(database, command, TODAY, "tests")
    rivals = 1 if point == "record_payment.before_commit" else 0
    assert counts(database) == (2 + rivals, 0, 2 + rivals, 3 + rivals, 0)
    assert reconcile(database, TODAY).discrepancies == 0


@pytest.mark.parametrize(
    ("point", "payments", "reversals"),
    [
        ("reverse_payment.before_write", 1, 0),
        ("reverse_payment.before_commit", 2, 0),
        ("reverse_payment.after_commit", 1, 1),
    ],
)
def test_a_reversal_is_atomic(
    database: Database,
    point: str,
    payments: int,
    reversals: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    customer_id = a_good_customer(database, TODAY)
    loan_id = book(database, customer_id, uuid4())
    payment_id = pay(database, customer_id, loan_id, 1_000)
    command = ReversePayment(uuid4(), payment_id, ReversalReason.BOUNCED)
    die_at(
        point,
        lambda: reverse_payment(database, command, TODAY, "tests"),
        lambda: pay(database, customer_id, loan_id, 1_000),
        monkeypatch,
    )
    total = payments + reversals
    assert counts(database) == (payments, reversals, total, payments, reversals)
    first = reverse_payment(database, command, TODAY, "tests")
    assert reverse_payment(database, command, TODAY, "tests") == first
    assert counts(database) == (payments, 1, payments + 1, payments, 1)
    assert reconcile(database, TODAY).discrepancies == 0


def pay(database: Database, customer_id: int, loan_id: int, amount_paise: int) -> int:
    command = RecordPayment(uuid4(), customer_id, loan_id, amount_paise, None)
    return record_payment(database, command, TODAY, "tests").payment.payment_id


def counts(database: Database) -> tuple[int, ...]:
    with database.autocommit() as connection:
        return tuple(connection.execute(PAYMENTS).one())
