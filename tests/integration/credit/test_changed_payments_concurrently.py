"""Payments, prepayments, foreclosures, reversals and bookings of one customer from several
processes at once, each call sent twice: in the end the loan is that of what was acknowledged."""

import random
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import date, timedelta
from multiprocessing import get_context
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from credit_service.commands.create_loan import CreateLoan, create_loan
from credit_service.commands.reconcile import reconcile
from credit_service.commands.record_payment import RecordPayment, record_payment
from credit_service.commands.reverse_payment import ReversePayment, reverse_payment
from credit_service.domain.errors import CreditError, PreconditionFailedError, RetryLaterError
from credit_service.domain.loans import Ask
from credit_service.domain.payments import PaymentPurpose, PrepaymentEffect, ReversalReason
from credit_service.queries.payments import foreclosure_quote
from credit_service.rpc.convert.payments import write_recorded_payment, write_reversed_payment
from credit_service.storage import payments
from credit_service.storage.database import Database
from tests.integration.credit.test_create_loan import from_scratch
from tests.integration.portfolio import LAKH, a_good_customer, on

START = on(date(2026, 1, 15))
TODAY = on(date(2026, 3, 10))
PROCESSES = 3
THREADS = 4
CALLS = 20

Key = tuple[int, int]
Answer = tuple[str, int]
"""What was acknowledged, and the payment."""


def calls(url: str, key: Key, seed: int) -> list[Answer]:
    """Make a share of the calls from several threads, each twice; return what was acknowledged."""
    database = Database(url, pool_size=THREADS)
    with ThreadPoolExecutor(THREADS) as threads:
        answers = list(threads.map(lambda n: call(database, key, seed * 1_000 + n), range(CALLS)))
    database.dispose()
    return [each for each in answers if each is not None]


def call(database: Database, key: Key, number: int) -> Answer | None:
    """Make a call twice, until it is not asked to retry; both responses are equal.

    A rejected call is not stored: its repeat is accepted if the loan has changed meanwhile.
    """
    first = until_answered(database, key, number)
    again = until_answered(database, key, number)
    if first is None:
        return again[0] if again is not None else None
    assert again is not None
    assert again[1] == first[1]
    return first[0]


def until_answered(database: Database, key: Key, number: int) -> tuple[Answer, bytes] | None:
    while True:
        try:
            return answer(database, key, number)
        except RetryLaterError:
            continue
        except PreconditionFailedError:
            # The loan is closed, or the payment does not fit the loan of the moment.
            return None
        except CreditError as error:
            assert error.reason == "PAYMENT_NOT_FOUND", error  # noqa: PT017 - the others are wrong
            return None


def answer(database: Database, key: Key, number: int) -> tuple[Answer, bytes]:
    pick = random.Random(number)  # noqa: S311 - repeatable load
    request_id = UUID(int=number + 1, version=4)
    kind = pick.choices(["pay", "prepay", "foreclose", "reverse", "book"], [8, 2, 1, 6, 1])[0]
    if kind == "book":
        create_loan(database, CreateLoan(request_id, key[0], Ask(LAKH // 100, 1200, 3)), TODAY, "t")
        return ("booked", 0), b""
    if kind == "reverse":
        if number not in reversed_ids:
            reversed_ids[number] = a_payment(database, key, pick)
        reversing = ReversePayment(request_id, reversed_ids[number], ReversalReason.BOUNCED)
        undone = reverse_payment(database, reversing, TODAY, "t")
        message: Any = write_reversed_payment(undone, TODAY.today)
        return ("reversed", undone.payment.payment_id), message.SerializeToString(
            deterministic=True
        )
    amount, day = pick.randint(1_000, 200_000), START.today + timedelta(days=pick.randint(0, 54))
    purpose, effect = PaymentPurpose.INSTALLMENTS, None
    if kind == "prepay":
        purpose, effect = PaymentPurpose.PART_PREPAYMENT, pick.choice(list(PrepaymentEffect))
    elif kind == "foreclose":
        # With the amount of the first attempt a repeat is the same request.
        purpose, day = PaymentPurpose.FORECLOSURE, TODAY.today
        amount = (
            totals.setdefault(number, 0)
            or foreclosure_quote(database, *key, day, TODAY).total_paise
        )
        totals[number] = amount
    command = RecordPayment(request_id, *key, amount, day, purpose, effect)
    recorded = record_payment(database, command, TODAY, "t")
    message = write_recorded_payment(recorded, TODAY.today)
    return ("recorded", recorded.payment.payment_id), message.SerializeToString(deterministic=True)


def a_payment(database: Database, key: Key, pick: random.Random) -> int:
    """A payment of the loan; 1 if it has none."""
    with database.autocommit() as connection:
        history = payments.history(connection, *key)
    assert history is not None
    return pick.choice([each.payment_id for each in history.payments] or [1])


totals: dict[int, int] = {}
"""The amount of each foreclosure, by the number of the call."""
reversed_ids: dict[int, int] = {}
"""The payment of each reversal, by the number of the call: a repeat is the same request."""


@pytest.mark.slow
def test_every_acknowledged_payment_and_reversal_counts_once(
    database: Database, database_url: str
) -> None:
    customer_id = a_good_customer(database, START)
    booked = create_loan(
        database, CreateLoan(UUID(int=0, version=4), customer_id, Ask(LAKH, 1200, 24)), START, "t"
    )
    assert booked.loan_id is not None
    key = customer_id, booked.loan_id
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as processes:
        work = [processes.submit(calls, database_url, key, 1 + n) for n in range(PROCESSES)]
        answers = [each for part in work for each in part.result(timeout=300)]

    with database.autocommit() as connection:
        history = payments.history(connection, *key)
        kinds = connection.execute(
            text(
                """SELECT kind, count(*), count(DISTINCT payload ->> 'payment_id') FROM events
                WHERE customer_id = :id AND kind IN ('payment_recorded', 'payment_reversed')
                GROUP BY kind"""
            ),
            {"id": customer_id},
        ).all()
        found = connection.execute(
            text("SELECT event_seq FROM events WHERE customer_id = :id ORDER BY 1"),
            {"id": customer_id},
        )
        seqs = list(found.scalars())
    assert seqs == list(range(1, len(seqs) + 1))
    assert history is not None
    recorded = sorted(payment_id for kind, payment_id in answers if kind == "recorded")
    reversals = sorted(payment_id for kind, payment_id in answers if kind == "reversed")
    assert sorted(each.payment_id for each in history.payments) == recorded
    assert sorted(each.payment_id for each in history.payments if each.reversal) == reversals
    assert len(reversals) > PROCESSES
    numbers = [each.payment_number for each in history.payments]
    assert numbers == list(range(1, len(recorded) + 1))
    assert {(row[0], row[1], row[2]) for row in kinds} == {
        ("payment_recorded", len(recorded), len(recorded)),
        ("payment_reversed", len(reversals), len(reversals)),
    }
    from_scratch(database, customer_id)
    assert reconcile(database, TODAY).discrepancies == 0
