"""Stored scores follow facts, dates and scorecards; the reconciliation finds those that do not."""

import itertools
import random
from dataclasses import replace
from datetime import date, timedelta
from uuid import uuid4

import pytest
from sqlalchemy import text

from credit_service.commands.create_loan import CreateLoan, create_loan
from credit_service.commands.recompute_scores import recompute_past_horizon, recompute_scores
from credit_service.commands.reconcile import reconcile
from credit_service.commands.scorecards import decide_in_shadow
from credit_service.domain.calendar import add_months, installments_due_by
from credit_service.domain.eligibility import Ask
from credit_service.domain.errors import AlreadyExistsError
from credit_service.domain.policy import OnTimeCounts
from credit_service.domain.positions import position_from_loans
from credit_service.domain.scorecard import STANDARD
from credit_service.domain.scoring import score
from credit_service.queries.backtest import replay_decision
from credit_service.queries.credit import CreditQueries
from credit_service.storage import arrears, customers, event_stream, loans, positions
from credit_service.storage.database import Database
from tests.integration.imported import CustomerRow, LoanRow, ingest
from tests.integration.policies import activated, backtested, tried
from tests.integration.portfolio import (
    LAKH,
    a_customer,
    a_good_customer,
    on,
    recompute_lagging,
)

TODAY = on(date(2026, 6, 10))


def stored_scores(database: Database) -> dict[int, tuple[int, str, date]]:
    with database.autocommit() as connection:
        rows = connection.execute(
            text("SELECT customer_id, score, scorecard_version, valid_until FROM credit_scores")
        )
        return {row[0]: (row[1], row[2], row[3]) for row in rows}


def history(database: Database, customer_id: int) -> list[tuple[int | None, int, str]]:
    with database.autocommit() as connection:
        rows = connection.execute(
            text(
                """SELECT previous_score, score, cause FROM score_history
                WHERE customer_id = :id ORDER BY event_seq"""
            ),
            {"id": customer_id},
        )
        return [(row[0], row[1], row[2]) for row in rows]


def random_loans(database: Database, customer_id: int, seed: int) -> None:
    """Imported loans of every kind, around the ends of months and years."""
    pick = random.Random(seed)  # noqa: S311 - a repeatable choice
    with database.transaction() as connection:
        for loan_id in range(1, pick.randint(0, 6) + 1):
            tenure = pick.choice([1, 2, 3, 12, 60])
            start = date(2023, 12, 25) + timedelta(days=pick.randint(0, 900))
            settled = pick.randint(0, tenure)
            on_time = pick.randint(0, settled)
            closed = pick.choice([start, add_months(start, tenure)]) if settled == tenure else None
            connection.execute(
                text(
                    """INSERT INTO loans (customer_id, loan_id, principal_paise, annual_rate_bps,
                        tenure_months, installment_paise, start_date, end_date, imported,
                        settled_at_import, emis_paid_on_time, installments_settled, closed_on)
                    VALUES (:customer_id, :loan_id, :principal, 1000, :tenure, 100, :start, :end,
                        true, :settled, :on_time, :settled, :closed)"""
                ),
                {
                    "customer_id": customer_id,
                    "loan_id": loan_id,
                    "principal": pick.randint(1, 10) * LAKH,
                    "tenure": tenure,
                    "start": start,
                    "end": add_months(start, tenure),
                    "settled": settled,
                    "on_time": on_time,
                    "closed": closed,
                },
            )


def test_the_bulk_statement_equals_the_rules_for_each_customer(database: Database) -> None:
    ids = [a_customer(database, TODAY) for _ in range(60)]
    for customer_id in ids:
        random_loans(database, customer_id, seed=customer_id)
    days = [date(2024, 1, 31), date(2024, 2, 29), date(2025, 12, 31), date(2026, 1, 1)]
    for day in [*days, date(2026, 4, 30), date(2027, 3, 1)]:
        with database.transaction() as connection:
            positions.refresh(connection, ids, day)
            for customer_id in ids:
                stored, own, _ = customers.position_facts(connection, customer_id)
                assert stored == position_from_loans(
                    customer_id,
                    stored.version,
                    stored.monthly_income_paise,
                    stored.approved_limit_paise,
                    own,
                    day,
                    arrears=arrears.compute(connection, [customer_id], day)[customer_id],
                )


def test_a_score_is_stored_once_with_history_and_event(database: Database) -> None:
    customer_id = a_good_customer(database, TODAY)
    for _ in range(2):
        assert len(recompute_lagging(database, TODAY)) in (0, 1)
    assert recompute_lagging(database, TODAY) == []
    _, expected = CreditQueries(database).credit_score(customer_id, TODAY)
    assert stored_scores(database)[customer_id][0] == expected.score
    assert history(database, customer_id) == [(None, expected.score, "event:1")]


def test_a_booked_loan_changes_the_score_with_an_event(database: Database) -> None:
    customer_id = a_good_customer(database, TODAY)
    recompute_lagging(database, TODAY)
    create_loan(database, CreateLoan(uuid4(), customer_id, Ask(LAKH, 1200, 24)), TODAY, "tests")
    with database.transaction() as connection:
        recompute_scores(connection, [customer_id], TODAY)
    before, after = history(database, customer_id)
    assert (after[0], after[2]) == (before[1], "event:3")
    assert after[1] > before[1]


def test_due_dates_and_the_new_year_change_scores_without_a_call(database: Database) -> None:
    customer_id = a_good_customer(database, TODAY)
    create_loan(database, CreateLoan(uuid4(), customer_id, Ask(LAKH, 1200, 24)), TODAY, "tests")
    recompute_lagging(database, TODAY)
    seen = []
    day = TODAY.today
    # Several days are skipped, as if no worker ran.
    for days in (29, 1, 30, 1, 140, 5, 31):
        day += timedelta(days=days)
        while recompute_past_horizon(database, on(day)):
            pass
        with database.autocommit() as connection:
            stored, own, _ = customers.position_facts(connection, customer_id)
        fresh = position_from_loans(
            customer_id,
            stored.version,
            stored.monthly_income_paise,
            stored.approved_limit_paise,
            own,
            day,
        )
        value, _, valid_until = stored_scores(database)[customer_id]
        assert value == score(fresh, STANDARD).score
        assert valid_until > day
        seen.append(value)
    causes = [cause for _, _, cause in history(database, customer_id)]
    assert len(set(seen)) > 2
    assert f"day:{day}" == causes[-1] or causes[-1].startswith("day:2027-01")


def test_a_loan_repaid_ahead_changes_the_score_at_its_due_dates(database: Database) -> None:
    """Under WHEN_DUE. The position is valid beyond them."""
    when_due = replace(STANDARD, version="due-1", on_time_counts=OnTimeCounts.WHEN_DUE)
    activated(database, when_due, TODAY)
    ingest(database, [CustomerRow(1)], TODAY)
    late = LoanRow(1, 1, emis_paid_on_time=6, start=date(2024, 1, 31))
    ahead = LoanRow(1, 2, emis_paid_on_time=12, start=date(2026, 5, 20))
    ingest(database, [late, ahead], TODAY)
    recompute_lagging(database, TODAY)
    seen = [stored_scores(database)[1][0]]
    due_dates = [add_months(ahead.start, number) for number in range(1, 7)]
    for day, following in itertools.pairwise(due_dates):
        while recompute_past_horizon(database, on(day)):
            pass
        value, _, valid_until = stored_scores(database)[1]
        _, now = CreditQueries(database).credit_score(1, on(day))
        assert (value, valid_until) == (now.score, following)
        assert now.valid_until == following
        if value != seen[-1]:
            assert history(database, 1)[-1] == (seen[-1], value, f"day:{day}")
        seen.append(value)
    assert seen == sorted(seen)
    assert len(set(seen)) > 3
    assert reconcile(database, on(due_dates[-2])).discrepancies == 0


def test_an_imported_closed_loan_counts_for_its_year_only(database: Database) -> None:
    customer_id = a_good_customer(database, TODAY)
    assert installments_due_by(date(2021, 1, 15), 12, TODAY.today) == 12
    _, now = CreditQueries(database).credit_score(customer_id, TODAY)
    assert now.components[3].found == 0


OTHER = replace(STANDARD, version="strict-1", income_share_bps=2_000, count_cap=20)


def test_a_new_scorecard_changes_every_score_and_is_recorded(database: Database) -> None:
    customer_id = a_good_customer(database, TODAY)
    recompute_lagging(database, TODAY)
    activated(database, OTHER, TODAY)
    activated(database, OTHER, TODAY)
    recompute_lagging(database, TODAY)
    assert stored_scores(database)[customer_id][1] == "strict-1"
    assert history(database, customer_id)[-1][2] == "scorecard:strict-1"
    with pytest.raises(AlreadyExistsError, match="SCORECARD_VERSION_TAKEN"):
        activated(database, replace(OTHER, count_cap=30), TODAY)
    decision = create_loan(
        database, CreateLoan(uuid4(), customer_id, Ask(LAKH, 1200, 24)), TODAY, "tests"
    )
    assert decision.scorecard_version == "strict-1"
    assert replay_decision(database, decision.decision_id).is_identical


def test_a_shadow_scorecard_decides_without_effect(database: Database) -> None:
    customer_id = a_good_customer(database, TODAY)
    tried(database, OTHER, TODAY)
    asked = CreateLoan(uuid4(), customer_id, Ask(5 * LAKH, 1200, 24))
    decision = create_loan(database, asked, TODAY, "tests")
    assert (decision.approved, decision.scorecard_version) == (True, "standard-1")
    for _ in range(2):
        decide_in_shadow(database, decision.decision_id)
    with database.autocommit() as connection:
        rows = connection.execute(
            text("SELECT scorecard_version, approved FROM shadow_decisions")
        ).all()
    assert [tuple(row) for row in rows] == [("strict-1", False)]


def test_a_backtest_names_the_decisions_that_flip(database: Database) -> None:
    customer_id = a_good_customer(database, TODAY)
    decision = create_loan(
        database, CreateLoan(uuid4(), customer_id, Ask(5 * LAKH, 1200, 24)), TODAY, "tests"
    )
    report = backtested(database, OTHER, TODAY)
    found = report.decisions
    assert found is not None
    assert (found.compared, found.before, found.after) == (1, {"APPROVED": 1}, {"DECLINED": 1})
    assert [flip.decision_id for flip in found.flips] == [decision.decision_id]
    assert found.reasons_after == {("EMI_BURDEN_TOO_HIGH", ""): 1}
    assert report.scores.changed == 1
    same = backtested(database, STANDARD, TODAY)
    assert same.decisions is not None
    assert (same.decisions.flip_count, same.scores.changed) == (0, 0)


def test_the_reconciliation_finds_and_corrects_discrepancies(database: Database) -> None:
    ids = [a_good_customer(database, TODAY) for _ in range(5)]
    recompute_lagging(database, TODAY)
    assert reconcile(database, TODAY).discrepancies == 0
    with database.transaction() as connection:
        connection.execute(
            text("UPDATE customers SET emis_due = emis_due + 12 WHERE customer_id = :id"),
            {"id": ids[2]},
        )
        connection.execute(
            text("UPDATE credit_scores SET score = 7 WHERE customer_id = :id"), {"id": ids[4]}
        )
    assert reconcile(database, TODAY).discrepancies == 2
    assert reconcile(database, TODAY).discrepancies == 0
    assert len({stored_scores(database)[each][0] for each in ids}) == 1


def test_the_reconciliation_starts_over_after_the_last_customer(database: Database) -> None:
    for _ in range(5):
        a_customer(database, TODAY)
    assert [reconcile(database, TODAY, sample=2).compared for _ in range(4)] == [2, 2, 1, 2]


def test_events_are_numbered_without_gaps_in_each_customers_order(database: Database) -> None:
    first, second = a_customer(database, TODAY), a_customer(database, TODAY)
    for customer_id in (second, first, second):
        create_loan(database, CreateLoan(uuid4(), customer_id, Ask(LAKH, 1200, 24)), TODAY, "tests")
    with database.transaction() as connection:
        assert len(event_stream.publish(connection, limit=3)) == 3
    with database.transaction() as connection:
        assert len(event_stream.publish(connection, limit=30)) == 2
        assert event_stream.publish(connection, limit=30) == []
        events = event_stream.read(connection, after=0, until=100, limit=100)
    assert [event.event_id for event in events] == [1, 2, 3, 4, 5]
    for customer_id in (first, second):
        own = [event.event_seq for event in events if event.customer_id == customer_id]
        assert own == sorted(own)
    with database.autocommit() as connection:
        kinds = frozenset({"loan_declined"})
        own_declines = event_stream.read(
            connection, after=0, until=100, limit=100, customer_id=second, kinds=kinds
        )
    assert [event.kind for event in own_declines] == ["loan_declined"] * 2


def test_an_event_that_commits_late_is_not_skipped(database: Database) -> None:
    early, late = a_customer(database, TODAY), a_customer(database, TODAY)
    with database.transaction() as slow:
        # This transaction begins first and commits last.
        slow.execute(
            text(
                """INSERT INTO events (customer_id, event_seq, kind, customer_version,
                    occurred_at, payload) VALUES (:id, 2, 'loan_closed', 1, now(), '{}')"""
            ),
            {"id": early},
        )
        create_loan(database, CreateLoan(uuid4(), late, Ask(LAKH, 1200, 24)), TODAY, "tests")
        with database.transaction() as connection:
            seen = event_stream.publish(connection, limit=100)
        assert len(seen) == 3
    with database.transaction() as connection:
        (missing,) = event_stream.publish(connection, limit=100)
    assert (missing.event_id, missing.customer_id) == (4, early)
    with database.autocommit() as connection:
        assert len(loans.all_of(connection, early)) == 0
