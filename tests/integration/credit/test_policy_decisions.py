"""Decisions with a policy, against the real database: facts are read, stored and replayed."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from credit_service.commands.create_loan import CreateLoan, create_loan
from credit_service.commands.reconcile import reconcile
from credit_service.commands.record_payment import RecordPayment, record_payment
from credit_service.commands.scorecards import decide_in_shadow
from credit_service.domain.decisions import decode_inputs, encode_outcome, replay
from credit_service.domain.eligibility import Ask, Outcome
from credit_service.domain.policy import DebtBasis
from credit_service.domain.scorecard import STANDARD, prudent
from credit_service.queries.backtest import replay_decision
from credit_service.queries.credit import CreditQueries
from credit_service.queries.decisions import list_decisions
from credit_service.queries.loans import list_loans
from credit_service.storage import bookings, customers, policy_facts, scorecards
from credit_service.storage.database import Database
from credit_service.storage.decisions import StoredDecision
from credit_service.storage.statements import Statement
from tests.integration.policies import activated, tried
from tests.integration.portfolio import (
    LAKH,
    a_customer,
    a_good_customer,
    on,
    recompute_lagging,
)

TODAY = on(date(2026, 6, 10))
RUPEE = 100
PRUDENT = prudent()


def ask(rupees: int, months: int = 12, bps: int = 1200) -> Ask:
    return Ask(rupees * RUPEE, bps, months)


def book(
    database: Database, customer_id: int, asked: Ask, day: Any = TODAY, key: UUID | None = None
) -> StoredDecision:
    return create_loan(database, CreateLoan(key or uuid4(), customer_id, asked), day, "tests")


@pytest.fixture
def prudently(database: Database) -> Database:
    """A database whose active scorecard is the prudent one."""
    activated(database, PRUDENT, TODAY)
    return database


def loans_of(database: Database, customer_id: int) -> int:
    return len(list_loans(database, customer_id, None, None, 1000))


def test_a_new_database_has_the_prudent_scorecard_not_active(database: Database) -> None:
    with database.autocommit() as connection:
        states = connection.execute(text("SELECT version, state FROM scorecards")).all()
        assert scorecards.get(connection, "prudent-1") == PRUDENT
    assert {tuple(each) for each in states} == {
        ("standard-1", "ACTIVE"),
        ("prudent-1", "INACTIVE"),
    }


def test_a_customer_without_loans_borrows_a_little(prudently: Database) -> None:
    customer_id = a_customer(prudently, TODAY)
    assert not book(prudently, customer_id, ask(50_001)).approved
    booked = book(prudently, customer_id, ask(50_000))
    assert booked.approved
    assert booked.outcome.corrected_rate_bps == 1600
    assert decode_inputs(booked.inputs_json).facts is not None
    assert replay_decision(prudently, booked.decision_id).is_identical


def test_an_overdue_customer_is_referred_then_declined(prudently: Database) -> None:
    """An installment is due on 10 July: 1 to 30 days past due refer, 31 decline."""
    customer_id = a_good_customer(prudently, TODAY)
    assert book(prudently, customer_id, ask(1_00_000)).approved
    before = loans_of(prudently, customer_id)
    due = date(2026, 7, 10)
    outcomes = {}
    for days in (-1, 0, 29, 30):
        day = on(due + timedelta(days=days))
        stored = book(prudently, customer_id, ask(10_000), day)
        outcomes[days] = stored.outcome.outcome
        assert replay_decision(prudently, stored.decision_id).is_identical
        _, checked = CreditQueries(prudently).check_eligibility(customer_id, ask(10_000), day)
        if stored.loan_id is None:
            assert encode_outcome(checked) == stored.outcome_json
    assert outcomes == {
        -1: Outcome.APPROVED,
        0: Outcome.REFERRED,
        29: Outcome.REFERRED,
        30: Outcome.DECLINED,
    }
    assert loans_of(prudently, customer_id) == before + 1


def test_a_referral_is_stored_and_books_nothing(prudently: Database) -> None:
    customer_id = a_good_customer(prudently, TODAY)
    book(prudently, customer_id, ask(1_00_000))
    day, key = on(date(2026, 7, 12)), uuid4()
    position = stored_position(prudently, customer_id)
    referred = book(prudently, customer_id, ask(10_000), day, key)
    assert (referred.approved, referred.loan_id) == (False, None)
    assert [reason.rule_code for reason in referred.outcome.reasons] == ["OVERDUE_UP_TO_30_DAYS"]
    assert stored_position(prudently, customer_id) == position
    # A repeat returns the stored decision.
    again = book(prudently, customer_id, ask(10_000), on(date(2026, 9, 1)), key)
    assert again == referred
    declined = book(prudently, customer_id, ask(90_00_000), on(date(2026, 9, 1)))
    for outcome, expected in (
        (None, 3),
        (Outcome.APPROVED, 1),
        (Outcome.DECLINED, 1),
        (Outcome.REFERRED, 1),
    ):
        for of in (customer_id, None):
            found = list_decisions(prudently, of, None, 10, outcome)
            assert len(found) == expected
            assert all(outcome in (None, each.outcome.outcome) for each in found)
    assert list_decisions(prudently, None, declined.decision_id, 10, Outcome.DECLINED) == []


def stored_position(database: Database, customer_id: int) -> Any:
    with database.autocommit() as connection:
        return customers.find_position(connection, customer_id, TODAY.today)


def test_the_limit_counts_what_is_not_repaid(prudently: Database) -> None:
    """By the original principal the second loan would exceed the limit, and the database has a
    guard against that."""
    customer_id = a_good_customer(prudently, TODAY, LAKH)
    position, _ = stored_position(prudently, customer_id)
    limit = position.approved_limit_paise
    first = book(prudently, customer_id, Ask(limit, 0, 120))
    assert first.approved
    assert first.loan_id is not None
    assert not book(prudently, customer_id, ask(1)).approved
    later = on(date(2026, 7, 1))
    paid = RecordPayment(uuid4(), customer_id, first.loan_id, limit // 2, None)
    record_payment(prudently, paid, later, "tests")
    assert not book(prudently, customer_id, Ask(limit // 2 + RUPEE, 0, 480), later).approved
    assert book(prudently, customer_id, Ask(limit // 2 - limit % 2, 0, 480), later).approved


def test_scores_count_emis_when_they_are_due(prudently: Database) -> None:
    """Repaid five days after booking: no installment is due yet."""
    customer_id = a_customer(prudently, TODAY)
    booked = book(prudently, customer_id, ask(50_000))
    assert booked.loan_id is not None
    paid_on = on(date(2026, 6, 15))
    amount = 50_000 * RUPEE
    record_payment(
        prudently, RecordPayment(uuid4(), customer_id, booked.loan_id, amount, None), paid_on, "t"
    )
    queries = CreditQueries(prudently)
    _, now = queries.credit_score(customer_id, paid_on)
    assert (now.components[0].found, now.components[0].full_at) == (0, 0)
    _, later = queries.credit_score(customer_id, on(date(2026, 8, 10)))
    assert (later.components[0].found, later.components[0].full_at) == (2, 2)
    recompute_lagging(prudently, paid_on)
    with prudently.autocommit() as connection:
        stored = connection.execute(
            text("SELECT score, scorecard_version FROM credit_scores WHERE customer_id = :id"),
            {"id": customer_id},
        ).one()
    assert tuple(stored) == (now.score, "prudent-1")
    assert reconcile(prudently, paid_on).discrepancies == 0


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The statements of hot paths that are executed meanwhile."""
    executed: list[str] = []
    execute = Statement._executed

    def counting(statement: Statement, *args: Any) -> Any:
        executed.append(str(statement))
        return execute(statement, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Statement, "_executed", counting)
        yield executed


@pytest.mark.one_server("compares the statements of one server")
def test_facts_are_read_only_for_a_scorecard_that_needs_them(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    customer_id = a_good_customer(database, TODAY)
    facts, read = str(policy_facts.READ), str(bookings.READ)
    with counted(monkeypatch) as executed:
        plain = book(database, customer_id, ask(1_000))
    assert executed == [read, str(bookings.WRITE_APPROVED)]
    assert '"facts"' not in plain.inputs_json
    with counted(monkeypatch) as executed:
        CreditQueries(database).check_eligibility(customer_id, ask(1_000), TODAY)
        CreditQueries(database).credit_score(customer_id, TODAY)
    assert facts not in executed

    other = replace(STANDARD, version="strict-1", income_share_bps=2_000)
    tried(database, other, TODAY)
    with counted(monkeypatch) as executed:
        book(database, customer_id, ask(1_000))
    assert executed == [read, str(bookings.WRITE_APPROVED)]

    tried(database, PRUDENT, TODAY)
    with counted(monkeypatch) as executed:
        decided = book(database, customer_id, ask(1_000))
    assert executed == [read, facts, str(bookings.WRITE_APPROVED)]
    assert decode_inputs(decided.inputs_json).facts is not None
    # They change nothing under the active scorecard.
    assert replay(decided.inputs_json, STANDARD) == decided.outcome_json


def test_a_trial_with_a_policy_decides_from_the_stored_facts(database: Database) -> None:
    customer_id = a_good_customer(database, TODAY)
    before = book(database, customer_id, ask(1_00_000))
    tried(database, PRUDENT, TODAY)
    overdue = book(database, customer_id, ask(1_000), on(date(2026, 8, 20)))
    assert overdue.approved
    for decision in (before, overdue):
        decide_in_shadow(database, decision.decision_id)
    with database.autocommit() as connection:
        rows = connection.execute(
            text("SELECT decision_id, approved, outcome::text FROM shadow_decisions")
        ).all()
    # The decision from before the trial has no facts.
    ((decision_id, approved, outcome),) = rows
    assert (decision_id, approved) == (overdue.decision_id, False)
    assert '"OVERDUE_MORE_THAN_30_DAYS"' in outcome


def test_position_and_facts_are_of_one_version(
    prudently: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A payment between the read of the position and that of the facts: both are read again."""
    customer_id = a_good_customer(prudently, TODAY)
    booked = book(prudently, customer_id, ask(1_00_000))
    assert booked.loan_id is not None
    day = on(date(2026, 7, 12))
    payment = RecordPayment(uuid4(), customer_id, booked.loan_id, 900_000, None)
    read = policy_facts.read_versioned
    payments: list[RecordPayment] = []

    def paying(*args: Any) -> Any:
        if payments:
            record_payment(prudently, replace(payments.pop(), request_id=uuid4()), day, "tests")
        return read(*args)

    monkeypatch.setattr(policy_facts, "read_versioned", paying)
    payments = [payment, payment]
    snapshot, checked = CreditQueries(prudently).check_eligibility(customer_id, ask(1_000), day)
    assert checked.approved
    with prudently.autocommit() as connection:
        assert snapshot.position.version == read(connection, customer_id, day.today).version

    payments = [payment]
    decided = book(prudently, customer_id, ask(1_000), day)
    assert decided.approved
    with prudently.autocommit() as connection:
        version = read(connection, customer_id, day.today).version
    assert decided.customer_version == version - 1


def test_concurrent_loans_never_exceed_the_limit_of_what_is_not_repaid(
    prudently: Database,
) -> None:
    """Of twelve loans of a third of the limit each, three are booked."""
    customer_id = a_good_customer(prudently, TODAY)
    position, _ = stored_position(prudently, customer_id)
    third = Ask(position.approved_limit_paise // 3, 0, 480)
    with ThreadPoolExecutor(6) as threads:
        booked = list(threads.map(lambda _: book(prudently, customer_id, third), range(12)))
    assert sum(each.approved for each in booked) == 3
    with prudently.autocommit() as connection:
        facts = policy_facts.read(connection, customer_id, TODAY.today)
    assert facts.principal_outstanding_paise <= position.approved_limit_paise
    assert {each.outcome.reasons[0].code for each in booked if not each.approved} == {
        "APPROVED_LIMIT_EXCEEDED"
    }


def test_a_debt_basis_alone_needs_facts_too(database: Database) -> None:
    basis = replace(STANDARD, version="basis-1", debt_basis=DebtBasis.PRINCIPAL_OUTSTANDING)
    activated(database, basis, TODAY)
    customer_id = a_good_customer(database, TODAY)
    stored = book(database, customer_id, ask(1_000))
    assert stored.approved
    assert stored.outcome.rules == ()
    assert replay_decision(database, stored.decision_id).is_identical


def test_decisions_on_many_customers_are_those_on_each(prudently: Database) -> None:
    ids = [a_good_customer(prudently, TODAY), a_good_customer(prudently, TODAY)]
    book(prudently, ids[0], ask(1_00_000))
    ids.append(a_customer(prudently, TODAY))
    day = on(date(2026, 7, 20))
    queries = CreditQueries(prudently)
    snapshots = queries.snapshots(ids, day)
    together = [encode_outcome(snapshots.decide(each, ask(1_000))) for each in ids]
    singly = [encode_outcome(queries.check_eligibility(each, ask(1_000), day)[1]) for each in ids]
    assert together == singly
    assert [('"REFERRED"' in each) for each in together] == [True, False, False]
