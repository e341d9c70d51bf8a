"""Payments that share their statements: each is stored, answered and rejected as if it were
alone."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import make_url, text

from credit_service import failpoints
from credit_service.cache.positions import PositionCache
from credit_service.commands.create_loan import CreateLoan, create_loan
from credit_service.commands.group_work import LANES, LARGEST
from credit_service.commands.grouping import LOST_RACE, GoAloneError
from credit_service.commands.loan_changes import Request
from credit_service.commands.payment_groups import _Payments, payment_groups
from credit_service.commands.reconcile import reconcile
from credit_service.commands.record_payment import (
    PaymentCall,
    Recorded,
    RecordPayment,
    record_alone,
    record_payment,
)
from credit_service.domain.errors import NotFoundError, PreconditionFailedError
from credit_service.domain.loans import Ask, Loan
from credit_service.domain.payments import outstanding_paise
from credit_service.domain.positions import CreditPosition
from credit_service.domain.schedules import schedule
from credit_service.observability import metrics
from credit_service.queries.customers import get_customer
from credit_service.storage import grouped_payments
from credit_service.storage.database import Database
from credit_service.storage.tables import metadata
from tests import conftest
from tests.integration.credit.test_create_loan import from_scratch, in_parallel
from tests.integration.portfolio import LAKH, a_good_customer, on

pytestmark = pytest.mark.one_server("payments do not share statements on a cluster")

TODAY = on(date(2026, 5, 10))
LONG_AGO = on(date(2026, 1, 31))
MONTHS = 3

Outcome = Recorded | BaseException


def a_loan(database: Database, day: date = TODAY.today, customer_id: int | None = None) -> Loan:
    """A loan over three months, by default of a new customer."""
    customer_id = customer_id or a_good_customer(database, on(day))
    command = CreateLoan(uuid4(), customer_id, Ask(LAKH // 10, 1200, MONTHS))
    loan = create_loan(database, command, on(day), "tests").loan_as_booked()
    assert loan is not None
    return loan


def installment(loan: Loan) -> int:
    return schedule(loan).installments[0].payment_paise


def a_call(loan: Loan, amount_paise: int, paid_on: date | None = None) -> PaymentCall:
    """A call with a trace and a time of its own."""
    command = RecordPayment(uuid4(), loan.customer_id, loan.loan_id, amount_paise, paid_on)
    trace = f"00-{loan.customer_id:032x}-{loan.loan_id:016x}-01"
    moment = replace(TODAY, now=TODAY.now + timedelta(microseconds=loan.loan_id))
    request = Request(command.request_id, bytes(range(32)), "t\t\"'\\", moment, trace)
    return PaymentCall(command, request)


def together(database: Database, *calls: PaymentCall) -> Sequence[Outcome]:
    """The outcomes of one group."""
    return _Payments(database, None, LANES, LARGEST)._run(calls)


def alone(database: Database, call: PaymentCall) -> Outcome:
    """The outcome of a call that is not in a group."""
    try:
        return record_alone(database, call, lock=False)
    except (NotFoundError, PreconditionFailedError) as error:
        return error


def went_alone(outcome: Outcome, reason: str) -> bool:
    """Whether the call must run by itself, for this reason."""
    return isinstance(outcome, GoAloneError) and outcome.reason == reason


def payments_of(database: Database, *loans: Loan) -> list[int]:
    """The number of payments of each loan."""
    counted = text("SELECT count(*) FROM payments WHERE customer_id = :customer AND loan_id = :id")
    with database.autocommit() as connection:
        return [
            connection.execute(counted, {"customer": each.customer_id, "id": each.loan_id}).scalar()
            or 0
            for each in loans
        ]


@contextmanager
def copied(database: Database, database_url: str, servers: tuple[str, str]) -> Iterator[Database]:
    """A copy of the database."""
    database.dispose()
    name = make_url(database_url).database
    assert name is not None
    with conftest._scratch_database(servers[0], f"{name}_copy", name) as url:
        copy = Database(conftest._sqlalchemy(url))
        yield copy
        copy.dispose()


def rows(database: Database) -> list[tuple[str, str]]:
    """Every row of every table, as text. Ids of payments are left out: their order between
    customers is not fixed."""
    found = []
    with database.autocommit() as connection:
        for table in metadata.tables:
            stored = connection.execute(text(f"SELECT row_to_json(t)::text FROM {table} t"))  # noqa: S608 - names of ours
            found += [(table, re.sub(r'"payment_id":\s*\d+', "", str(row[0]))) for row in stored]
    return sorted(found)


def seen(outcome: Outcome) -> Any:
    """What the caller gets, without the payment's id."""
    if not isinstance(outcome, Recorded):
        return type(outcome), str(outcome)
    answer = outcome.answer
    return replace(answer, payment=replace(answer.payment, payment_id=0))


def class_changes() -> float:
    """How many changes of class were counted."""
    return sum(
        sample.value
        for metric in metrics.asset_class_changes.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
    )


def test_a_group_stores_and_answers_what_single_calls_do(
    database: Database, database_url: str, servers: tuple[str, str]
) -> None:
    plain, in_part, refused, unknown = (a_loan(database) for _ in range(4))
    # Closed while another loan of the customer falls due first.
    first = a_loan(database, date(2026, 5, 5))
    closing = a_loan(database, customer_id=first.customer_id)
    # In arrears since February, with the classes announced, and a position of today.
    late = a_loan(database, LONG_AGO.today)
    record_payment(
        database, RecordPayment(uuid4(), late.customer_id, late.loan_id, 100, None), TODAY, "tests"
    )
    # The same, but no class is announced.
    unannounced = a_loan(database, LONG_AGO.today)
    a_loan(database, customer_id=unannounced.customer_id)
    calls = [
        a_call(plain, installment(plain)),
        a_call(in_part, 1),
        a_call(refused, outstanding_paise(refused) + 1),
        a_call(closing, outstanding_paise(closing)),
        a_call(replace(unknown, loan_id=4711), 100),
        a_call(late, installment(late)),
        a_call(unannounced, 100),
        a_call(replace(unknown, customer_id=4711), 100),
    ]
    with copied(database, database_url, servers) as copy:
        single = [alone(database, each) for each in calls]
        changes = class_changes()
        grouped = together(copy, *calls)
        # Of `late` to SMA_1, and of `unannounced` up to SMA_2.
        assert class_changes() - changes == 4
        assert [seen(each) for each in grouped] == [seen(each) for each in single]
        assert rows(copy) == rows(database)
        reasons = [each.reason for each in grouped if isinstance(each, PreconditionFailedError)]
        assert reasons == ["PAYMENT_EXCEEDS_OUTSTANDING"]
        # And so do their repeats.
        repeated = together(copy, *calls)
        assert [str(each) for each in repeated if isinstance(each, GoAloneError)] == ["repeat"] * 5
        assert rows(copy) == rows(database)


def test_a_change_of_class_in_a_group_counts_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    late, other = a_loan(database, LONG_AGO.today), a_loan(database)
    key = late.customer_id, late.loan_id
    record_payment(database, RecordPayment(uuid4(), *key, 100, None), TODAY, "tests")
    groups = payment_groups(database, None)
    monkeypatch.setattr(
        groups, "submit", lambda call: together(database, call, a_call(other, 100))[0]
    )
    before = class_changes()
    command = RecordPayment(uuid4(), *key, installment(late), None)
    record_payment(database, command, TODAY, "tests", groups=groups)
    assert class_changes() - before == 1


def test_a_group_writes_all_positions_to_the_cache_at_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    loans = [a_loan(database) for _ in range(3)]
    cache = PositionCache("redis://127.0.0.1:1")
    written: list[Sequence[CreditPosition]] = []
    monkeypatch.setattr(cache, "put", lambda positions, *_, **__: written.append(positions))
    calls = [a_call(loans[0], 100), a_call(loans[1], 1 << 60), a_call(loans[2], 100)]
    _Payments(database, cache, LANES, LARGEST)._run(calls)
    stored = [
        get_customer(database, customer_id=each.customer_id).position
        for each in (loans[0], loans[2])
    ]
    assert written == [stored]


def test_a_payment_that_needs_more_than_the_shared_read_goes_alone(database: Database) -> None:
    loan, backdated = a_loan(database), a_loan(database, date(2026, 5, 1))
    paid = RecordPayment(uuid4(), backdated.customer_id, backdated.loan_id, 100, None)
    record_payment(database, paid, TODAY, "tests")
    # Its next due date was the position's first change: the other loans must be read.
    closing = a_loan(database)
    outdated = a_loan(database, LONG_AGO.today)
    outcomes = together(
        database,
        a_call(loan, 100),
        a_call(backdated, 100, date(2026, 5, 2)),
        a_call(closing, outstanding_paise(closing)),
        a_call(outdated, 100),
    )
    assert all(went_alone(each, "outdated") for each in outcomes[1:])
    assert payments_of(database, loan, backdated, closing, outdated) == [1, 1, 0, 0]


@contextmanager
def before_the_write(
    monkeypatch: pytest.MonkeyPatch, rival: Callable[[], object]
) -> Iterator[None]:
    """Run the rival between the read and the write of a group."""
    write = grouped_payments.write

    def after_rival(*arguments: Any) -> Any:
        rival()
        return write(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(grouped_payments, "write", after_rival)
        yield


def test_a_customer_who_changes_between_read_and_write_leaves_the_group(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    loan, other = a_loan(database), a_loan(database)
    rest = outstanding_paise(loan)
    with before_the_write(monkeypatch, lambda: alone(database, a_call(loan, rest - 100))):
        lost, stored = together(database, a_call(loan, rest - 100), a_call(other, 100))
    assert went_alone(lost, LOST_RACE)
    assert isinstance(stored, Recorded)
    assert payments_of(database, loan, other) == [1, 1]
    from_scratch(database, loan.customer_id)
    assert reconcile(database, TODAY).discrepancies == 0


def test_a_customer_whose_class_is_announced_between_read_and_write_leaves_the_group(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker announces classes without a new version of the customer."""
    loan, other = a_loan(database), a_loan(database)
    announce = text("UPDATE customers SET announced_class = 1 WHERE customer_id = :id")

    def announced() -> None:
        with database.transaction() as connection:
            connection.execute(announce, {"id": loan.customer_id})

    with before_the_write(monkeypatch, announced):
        lost, stored = together(database, a_call(loan, 100), a_call(other, 100))
    assert went_alone(lost, LOST_RACE)
    assert isinstance(stored, Recorded)


def test_a_decline_between_read_and_write_takes_its_place_in_the_events(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    loan = a_loan(database)

    def decline() -> None:
        command = CreateLoan(uuid4(), loan.customer_id, Ask(10_000 * LAKH, 1200, 12))
        assert not create_loan(database, command, TODAY, "tests").approved

    with before_the_write(monkeypatch, decline):
        outcomes = together(database, a_call(loan, 100), a_call(a_loan(database), 100))
    assert all(isinstance(each, Recorded) for each in outcomes)
    with database.autocommit() as connection:
        kinds = connection.execute(
            text("SELECT kind FROM events WHERE customer_id = :id ORDER BY event_seq"),
            {"id": loan.customer_id},
        ).scalars()
        assert list(kinds)[-2:] == ["loan_declined", "payment_recorded"]


def test_a_locked_customer_delays_no_others(database: Database) -> None:
    loans = [a_loan(database) for _ in range(3)]
    # Longer than the test may take: a group that waits fails.
    with database.transaction() as connection:
        connection.execute(
            text("SELECT FROM customers WHERE customer_id = :id FOR NO KEY UPDATE"),
            {"id": loans[1].customer_id},
        )
        outcomes = together(database, *[a_call(each, 100) for each in loans])
        assert went_alone(outcomes[1], LOST_RACE)
        assert payments_of(database, *loans) == [1, 0, 1]


def test_one_violated_key_stores_nothing_and_sends_each_call_alone(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    loan, other = a_loan(database), a_loan(database)
    call = a_call(loan, 100)

    def use_id() -> None:
        # Not as the service does it: the customer's version stays.
        with database.autocommit() as connection:
            connection.execute(
                text(
                    """INSERT INTO requests (request_id, method, fingerprint, customer_id,
                        created_at, principal) VALUES (:id, 'CreateLoan', '', :customer_id, now(),
                        't')"""
                ),
                {"id": call.command.request_id, "customer_id": loan.customer_id},
            )

    with before_the_write(monkeypatch, use_id):
        outcomes = together(database, call, a_call(other, 100))
    assert all(went_alone(each, "failed") for each in outcomes)
    assert payments_of(database, loan, other) == [0, 0]


def test_groups_of_two_processes_never_wait_for_each_other(
    database: Database, database_url: str
) -> None:
    loans = [a_loan(database) for _ in range(6)]
    processes = [Database(database_url), Database(database_url)]
    orders = [loans, loans[::-1]]
    recorded = 0
    for _ in range(20):
        pairs = list(zip(processes, orders, strict=True))

        def run(left: list[Any] = pairs) -> Sequence[Outcome]:
            process, order = left.pop()
            return together(process, *[a_call(each, 1) for each in order])

        for outcomes in in_parallel(run, 2):
            for each in outcomes:
                assert isinstance(each, Recorded) or went_alone(each, LOST_RACE), each
                recorded += isinstance(each, Recorded)
    for each in processes:
        each.dispose()
    assert sum(payments_of(database, *loans)) == recorded
    assert reconcile(database, TODAY).discrepancies == 0


def groups() -> tuple[float, float]:
    """How many groups there were, and how many calls in them."""
    samples = {
        sample.name: sample.value
        for metric in metrics.group_sizes.collect()
        for sample in metric.samples
        if sample.labels.get("command") == "payment"
    }
    return samples.get("credit_group_calls_count", 0), samples.get("credit_group_calls_sum", 0)


def test_concurrent_calls_share_groups_and_each_counts_once(database: Database) -> None:
    loans = [a_loan(database) for _ in range(10)]
    # A third of the calls pay the same loan, and each call is repeated.
    calls = [
        RecordPayment(uuid4(), loan.customer_id, loan.loan_id, 1 + number, None)
        for number in range(96)
        for loan in [loans[0] if number % 3 == 0 else loans[1 + number % 9]]
    ]
    left = [*calls, *calls]
    shared, before = payment_groups(database, None), groups()

    def pay_all() -> list[tuple[Any, int]]:
        paid = []
        while left:
            command = left.pop()
            payment = record_payment(database, command, TODAY, "tests", groups=shared).payment
            paid.append((command.request_id, payment.payment_id))
        return paid

    answers = [each for answered in in_parallel(pay_all, 32) for each in answered]
    assert len(answers) == 2 * len(calls)
    assert len(set(answers)) == len(calls)
    assert len({payment_id for _, payment_id in answers}) == len(calls)
    count, members = (after - earlier for after, earlier in zip(groups(), before, strict=True))
    assert 0 < count < members
    with database.autocommit() as connection:
        for loan in loans:
            amounts = [each.amount_paise for each in calls if each.loan_id == loan.loan_id]
            stored = connection.execute(
                text("SELECT paid_paise FROM loans WHERE customer_id = :c AND loan_id = :l"),
                {"c": loan.customer_id, "l": loan.loan_id},
            ).scalar()
            assert stored == sum(amounts)
            seqs = connection.execute(
                text("SELECT event_seq FROM events WHERE customer_id = :c ORDER BY 1"),
                {"c": loan.customer_id},
            ).scalars()
            assert list(seqs) == list(range(1, len(amounts) + 3))
    assert payments_of(database, *loans) == [
        sum(each.loan_id == loan.loan_id for each in calls) for loan in loans
    ]
    assert reconcile(database, TODAY).discrepancies == 0


class DeathError(BaseException):
    """Simulates the end of the process: no code in the service catches it."""


@pytest.mark.parametrize(
    ("at", "stored"), [("record_payment.before_write", 0), ("record_payment.after_commit", 1)]
)
def test_a_process_that_dies_in_a_group_leaves_all_of_it_or_nothing(
    database: Database, at: str, stored: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    loans = [a_loan(database) for _ in range(3)]
    calls = [a_call(each, 100) for each in loans]
    reached: list[str] = []

    def reach(point: str) -> None:
        reached.append(point)
        # Each call reaches it, and the last one dies.
        if reached.count(at) == len(calls):
            raise DeathError

    with monkeypatch.context() as patched:
        patched.setattr(failpoints, "reach", reach)
        with pytest.raises(DeathError):
            together(database, *calls)
    assert payments_of(database, *loans) == [stored] * 3
    # The callers retry, as after any lost response.
    for each in calls:
        assert isinstance(alone(database, each), Recorded)
    assert payments_of(database, *loans) == [1, 1, 1]
    assert reconcile(database, TODAY).discrepancies == 0
