"""Referrals in the real database: reviewed once, by another principal, until their last day."""

from collections.abc import Callable
from datetime import date, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import exc, text

from credit_service.clock import Clock, Moment
from credit_service.commands.create_loan import (
    CreateLoan,
    CreateLoanOffer,
    create_loan,
    create_loan_offer,
)
from credit_service.commands.review_decision import (
    Review,
    ReviewDecision,
    expire_referrals,
    review_decision,
)
from credit_service.domain.charges import Charge, ChargePayee
from credit_service.domain.decisions import decode_inputs, replay
from credit_service.domain.eligibility import Ask, Outcome
from credit_service.domain.errors import (
    NotFoundError,
    PreconditionFailedError,
    RequestIdReusedError,
)
from credit_service.domain.referrals import ReferralKind, ReferralState, SelfReviewError, Verdict
from credit_service.domain.scorecard import STANDARD_DOCUMENT, parse_scorecard
from credit_service.queries.decisions import get_decision, list_decisions
from credit_service.storage import customers, event_stream, referrals, scorecards
from credit_service.storage.database import Database
from credit_service.storage.decisions import StoredDecision
from credit_service.storage.referrals import ReviewWrite
from tests.integration.credit.test_create_loan import from_scratch, in_parallel
from tests.integration.portfolio import LAKH, a_customer, a_good_customer, on
from workers.actors import Timetable

DAY = date(2026, 6, 10)
LAST = date(2026, 6, 17)
TODAY = on(DAY)
REASON = "No proof of income."
_SET_LIMIT = """UPDATE customers SET version = version + 1, arrears_version = arrears_version + 1,
    approved_limit_paise = :paise"""


# A loan of the one who is 1 to 30 days late is referred; one that is large is declined.
_DOCUMENT = {
    **STANDARD_DOCUMENT,
    "version": "referring-1",
    "rules": [
        {
            "code": "LATE",
            "condition": "days_past_due > 0",
            "outcome": "REFER",
            "message": "A loan is past due.",
        },
        {
            "code": "LONG",
            "condition": "tenure_months > 60",
            "outcome": "REFER",
            "message": "The tenure is long.",
        },
        {
            "code": "VERY_LATE",
            "condition": "days_past_due > 30",
            "outcome": "DECLINE",
            "message": "A loan is more than 30 days past due.",
        },
    ],
}


def activate_referring(database: Database) -> None:
    """Make the scorecard with rules that refer active."""
    activate(database, _DOCUMENT)


@pytest.fixture(autouse=True)
def _referring_scorecard(database: Database) -> None:
    activate_referring(database)


def activate(database: Database, document: dict[str, Any]) -> None:
    scorecard = parse_scorecard(document)
    with database.transaction() as connection:
        scorecards.add(connection, scorecard, TODAY)
        scorecards.set_state(connection, scorecard.version, "ACTIVE", TODAY)


def a_late_customer(database: Database, start: date = date(2026, 5, 1)) -> int:
    """A good customer with a loan whose first installment falls due a month after `start`, and is
    not paid."""
    customer_id = a_good_customer(database, on(start))
    command = CreateLoan(uuid4(), customer_id, Ask(LAKH, 1200, 12))
    assert create_loan(database, command, on(start), "maker").approved
    return customer_id


def ask(
    database: Database, customer_id: int, months: int = 12, by: str = "maker"
) -> StoredDecision:
    command = CreateLoan(uuid4(), customer_id, Ask(LAKH, 1200, months))
    return create_loan(database, command, TODAY, by)


def a_referred_decision(database: Database, requested_by: str = "maker") -> int:
    decision = ask(database, a_late_customer(database), by=requested_by)
    assert decision.outcome.outcome is Outcome.REFERRED
    assert decision.referral is not None
    assert decision.referral.last_day == LAST
    return decision.decision_id


def review(
    database: Database,
    decision_id: int,
    verdict: Verdict = Verdict.DECLINE,
    by: str = "checker",
    day: date = DAY,
    key: UUID | None = None,
) -> Review:
    command = ReviewDecision(key or uuid4(), decision_id, verdict, REASON)
    return review_decision(database, command, on(day), by)


def events_of(database: Database, customer_id: int) -> list[tuple[str, dict[str, Any]]]:
    """(kind, payload) of the customer's events after the registration and the first loan."""
    with database.autocommit() as connection:
        rows = connection.execute(
            text(
                """SELECT kind, payload FROM events WHERE customer_id = :id AND event_seq > 2
                ORDER BY event_seq"""
            ),
            {"id": customer_id},
        )
        return [(row.kind, row.payload) for row in rows]


def kinds_of(database: Database, customer_id: int) -> list[str]:
    return [kind for kind, _ in events_of(database, customer_id)]


def listed(database: Database, state: ReferralState, day: date = DAY) -> list[int]:
    found = list_decisions(database, None, None, 100, state=state, day=day)
    return [each.decision_id for each in found]


def test_a_referred_decision_books_nothing_and_waits_for_a_reviewer(database: Database) -> None:
    customer_id = a_late_customer(database)
    decision = ask(database, customer_id)
    assert (decision.approved, decision.loan_id) == (False, None)
    referral = get_decision(database, decision.decision_id).referral
    assert referral == decision.referral
    assert referral is not None
    assert (referral.kind, referral.requested_by) == (ReferralKind.LOAN, "maker")
    assert referral.last_day == LAST
    assert listed(database, ReferralState.PENDING) == [decision.decision_id]
    ((kind, payload),) = events_of(database, customer_id)
    assert kind == "decision_referred"
    assert payload == {
        "decision_id": decision.decision_id,
        "kind": "LOAN",
        "ask": {"principal_paise": LAKH, "annual_rate_bps": 1200, "tenure_months": 12},
        "rule_codes": ["LATE"],
        "last_day": "2026-06-17",
    }
    from_scratch(database, customer_id)


def test_an_approval_books_the_loan_without_the_rule(database: Database) -> None:
    decision_id = a_referred_decision(database)
    done = review(database, decision_id, Verdict.APPROVE)
    made = done.decision
    assert made.decision_id != decision_id
    assert made.approved
    assert made.principal == "checker"
    assert made.reviewed_decision_id == decision_id
    assert decode_inputs(made.inputs_json).waived == {"LATE"}
    assert replay(made.inputs_json, parse_scorecard(_DOCUMENT)) == made.outcome_json
    assert done.referral.stored_state is ReferralState.APPROVED
    assert done.referral.result_decision_id == made.decision_id
    assert get_decision(database, made.decision_id) == made
    assert get_decision(database, decision_id).referral == done.referral
    assert kinds_of(database, made.customer_id) == [
        "decision_referred",
        "loan_created",
        "decision_reviewed",
    ]
    payload = {
        "decision_id": decision_id,
        "verdict": "APPROVE",
        "result_decision_id": made.decision_id,
    }
    assert events_of(database, made.customer_id)[-1][1] == payload
    from_scratch(database, made.customer_id)


def test_an_approval_is_idempotent(database: Database) -> None:
    decision_id, key = a_referred_decision(database), uuid4()
    first = review(database, decision_id, Verdict.APPROVE, key=key)
    again = review(database, decision_id, Verdict.APPROVE, key=key, day=date(2026, 9, 1))
    assert again == first
    assert len(events_of(database, first.referral.customer_id)) == 3


def test_other_rules_stay_in_force(database: Database) -> None:
    """The customer is more than 30 days late when the reviewer approves."""
    customer_id = a_late_customer(database)
    command = CreateLoan(uuid4(), customer_id, Ask(LAKH, 1200, 12))
    referred = create_loan(database, command, TODAY, "maker", referral_days=60)
    done = review(database, referred.decision_id, Verdict.APPROVE, day=date(2026, 7, 15))
    assert not done.decision.approved
    assert done.decision.outcome.outcome is Outcome.DECLINED
    assert done.decision.outcome.reasons[0].rule_code == "VERY_LATE"
    assert done.referral.stored_state is ReferralState.APPROVED
    assert kinds_of(database, done.decision.customer_id)[-2:] == [
        "loan_declined",
        "decision_reviewed",
    ]


def test_an_approval_decides_on_the_current_position(database: Database) -> None:
    """Another loan took the credit while the referral waited."""
    decision_id = a_referred_decision(database)
    customer_id = get_decision(database, decision_id).customer_id
    with database.transaction() as connection:
        connection.execute(
            text(_SET_LIMIT),
            {"paise": LAKH + 100},
        )
    made = review(database, decision_id, Verdict.APPROVE).decision
    assert not made.approved
    assert [each.code for each in made.outcome.reasons] == ["APPROVED_LIMIT_EXCEEDED"]
    from_scratch(database, customer_id)


def test_another_rule_refers_again_and_the_first_principal_stays_excluded(
    database: Database,
) -> None:
    decision_id = a_referred_decision(database)
    first = get_decision(database, decision_id)
    # While the referral waits, the scorecard gets a rule that refers every loan.
    every = {"code": "EVERY", "condition": "score >= 0", "outcome": "REFER", "message": "Check."}
    document = {**_DOCUMENT, "version": "referring-2", "rules": [*_DOCUMENT["rules"], every]}
    activate(database, document)
    again = review(database, decision_id, Verdict.APPROVE).decision
    assert again.outcome.outcome is Outcome.REFERRED
    assert again.referral is not None
    assert again.reviewed_decision_id == decision_id
    assert again.referral.requested_by == "maker"
    assert listed(database, ReferralState.PENDING) == [again.decision_id]
    events = events_of(database, again.customer_id)
    assert [kind for kind, _ in events] == ["decision_referred"] * 2 + ["decision_reviewed"]
    assert events[1][1]["rule_codes"] == ["EVERY"]
    with pytest.raises(SelfReviewError):
        review(database, again.decision_id, Verdict.APPROVE, by="maker")
    made = review(database, again.decision_id, Verdict.APPROVE, by="second").decision
    assert made.approved
    assert decode_inputs(made.inputs_json).waived == {"LATE", "EVERY"}
    assert made.customer_id == first.customer_id


def test_a_reviewer_declines(database: Database) -> None:
    decision_id = a_referred_decision(database)
    done = review(database, decision_id)
    assert done.decision.decision_id == decision_id
    assert done.referral.stored_state is ReferralState.DECLINED
    assert (done.referral.reviewer, done.referral.reason) == ("checker", REASON)
    assert done.referral.reviewed_at == TODAY.now
    assert get_decision(database, decision_id).referral == done.referral
    payload = {"decision_id": decision_id, "verdict": "DECLINE", "result_decision_id": None}
    assert events_of(database, done.referral.customer_id)[-1] == ("decision_reviewed", payload)


def test_a_review_is_idempotent(database: Database) -> None:
    decision_id, key = a_referred_decision(database), uuid4()
    first = review(database, decision_id, key=key)
    again = review(database, decision_id, key=key, day=date(2026, 8, 1))
    assert (again.referral, again.decision) == (first.referral, first.decision)
    assert kinds_of(database, first.referral.customer_id) == [
        "decision_referred",
        "decision_reviewed",
    ]
    with pytest.raises(RequestIdReusedError):
        review(database, decision_id, Verdict.APPROVE, key=key)


@pytest.mark.parametrize("verdict", list(Verdict))
def test_the_principal_of_the_request_cannot_review_it(
    database: Database, verdict: Verdict
) -> None:
    decision_id = a_referred_decision(database)
    with pytest.raises(SelfReviewError):
        review(database, decision_id, verdict, by="maker")
    assert listed(database, ReferralState.PENDING) == [decision_id]


def test_callers_of_a_server_without_authentication_review(database: Database) -> None:
    decision_id = a_referred_decision(database, "anonymous")
    assert review(database, decision_id, by="anonymous").referral.reviewer == "anonymous"


@pytest.mark.parametrize("verdict", list(Verdict))
def test_a_referral_expires_without_any_job(database: Database, verdict: Verdict) -> None:
    decision_id = a_referred_decision(database)
    late = LAST + timedelta(days=1)
    with pytest.raises(PreconditionFailedError) as error:
        review(database, decision_id, verdict, day=late)
    assert error.value.reason == "REFERRAL_EXPIRED"
    assert listed(database, ReferralState.PENDING, LAST) == [decision_id]
    assert listed(database, ReferralState.PENDING, late) == []
    assert listed(database, ReferralState.EXPIRED, LAST) == []
    assert listed(database, ReferralState.EXPIRED, late) == [decision_id]
    with database.autocommit() as connection:
        assert referrals.queue(connection, on(late)).pending == 0


def test_the_job_marks_expired_referrals(database: Database) -> None:
    first, second = a_referred_decision(database), a_referred_decision(database)
    review(database, second)
    assert expire_referrals(database, on(LAST)) == 0
    late = on(LAST + timedelta(days=1))
    assert expire_referrals(database, late) == 1
    assert expire_referrals(database, late) == 0
    found = get_decision(database, first).referral
    assert found is not None
    assert found.stored_state is ReferralState.EXPIRED
    # For good, on any clock.
    with pytest.raises(PreconditionFailedError) as error:
        review(database, first, day=DAY)
    assert error.value.reason in {"REFERRAL_EXPIRED", "REFERRAL_ALREADY_REVIEWED"}
    assert listed(database, ReferralState.DECLINED, late.today) == [second]


def test_the_queue_lists_the_latest_first_and_counts(database: Database) -> None:
    ids = [a_referred_decision(database) for _ in range(3)]
    assert listed(database, ReferralState.PENDING) == ids[::-1]
    of_one = get_decision(database, ids[0])
    found = list_decisions(
        database, of_one.customer_id, None, 10, state=ReferralState.PENDING, day=DAY
    )
    assert found == [of_one]
    rest = list_decisions(database, None, ids[2], 1, state=ReferralState.PENDING, day=DAY)
    assert [each.decision_id for each in rest] == [ids[1]]
    with database.autocommit() as connection:
        queue = referrals.queue(connection, on(DAY + timedelta(days=2)))
    assert (queue.pending, queue.oldest_age_seconds) == (3, 2 * 86_400)


@pytest.mark.parametrize("verdict", list(Verdict))
def test_decisions_that_are_not_referred_cannot_be_reviewed(
    database: Database, verdict: Verdict
) -> None:
    customer_id = a_customer(database, TODAY)
    command = CreateLoan(uuid4(), customer_id, Ask(LAKH, 1200, 12))
    decision_id = create_loan(database, command, TODAY, "maker").decision_id
    with pytest.raises(PreconditionFailedError) as error:
        review(database, decision_id, verdict)
    assert error.value.reason == "DECISION_NOT_REFERRED"
    with pytest.raises(NotFoundError):
        review(database, decision_id + 99, verdict)


def test_one_of_concurrent_reviews_wins(database: Database) -> None:
    decision_id = a_referred_decision(database)
    verdicts = iter([Verdict.APPROVE, Verdict.DECLINE] * 3)
    results = in_parallel(lambda: review(database, decision_id, next(verdicts)), 6)
    (won,) = [each for each in results if isinstance(each, Review)]
    reasons = [each.reason for each in results if isinstance(each, PreconditionFailedError)]
    assert reasons == ["REFERRAL_ALREADY_REVIEWED"] * 5
    approved = won.referral.stored_state is ReferralState.APPROVED
    customer_id = won.referral.customer_id
    assert kinds_of(database, customer_id) == [
        "decision_referred",
        *(["loan_created"] if approved else []),
        "decision_reviewed",
    ]
    from_scratch(database, customer_id)


def test_reviews_and_requests_of_a_customer_share_the_limit(database: Database) -> None:
    """Approvals of two referrals for which the limit has room only once."""
    customer_id = a_late_customer(database)
    ids = [ask(database, customer_id).decision_id for _ in range(2)]
    with database.transaction() as connection:
        connection.execute(
            text(_SET_LIMIT),
            {"paise": 2 * LAKH},
        )
    waiting = iter(ids)
    results = in_parallel(lambda: review(database, next(waiting), Verdict.APPROVE), 2)
    assert sorted(each.decision.approved for each in results) == [False, True]
    from_scratch(database, customer_id)


def change(statement: str) -> Callable[[Database], None]:
    def run(database: Database) -> None:
        with database.transaction() as connection:
            connection.execute(text(statement))

    return run


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE referrals SET reason = 'Another one.'",
        "UPDATE referrals SET reviewer = 'another'",
        "DELETE FROM referrals",
        "TRUNCATE referrals",
    ],
)
def test_a_review_cannot_be_changed(database: Database, statement: str) -> None:
    review(database, a_referred_decision(database))
    refusal = r"referrals(_\d+)? rows are facts and never change"
    with pytest.raises(exc.DatabaseError, match=refusal):
        change(statement)(database)


def test_a_pending_referral_keeps_its_facts(database: Database) -> None:
    a_referred_decision(database)
    with pytest.raises(exc.DatabaseError):
        change("UPDATE referrals SET last_day = last_day + 30")(database)


def a_referred_offer(database: Database, last_day: date | None = None) -> int:
    charges = (Charge("fee", ChargePayee.LENDER, 100_00, 18_00),)
    command = CreateLoanOffer(
        uuid4(), a_late_customer(database), Ask(LAKH, 1200, 12), charges, last_day
    )
    decision, offer = create_loan_offer(database, command, TODAY, "maker")
    assert offer is None
    assert decision.referral is not None
    assert decision.referral.kind is ReferralKind.OFFER
    return decision.decision_id


def test_an_approval_makes_the_offer_that_was_requested(database: Database) -> None:
    decision_id = a_referred_offer(database, date(2026, 6, 30))
    done = review(database, decision_id, Verdict.APPROVE, day=date(2026, 6, 12))
    offer = done.offer
    assert offer is not None
    assert done.decision.offer_id == offer.offer_id
    assert (done.decision.approved, done.decision.loan_id) == (True, None)
    assert (offer.created_on, offer.last_day) == (date(2026, 6, 12), date(2026, 6, 30))
    assert offer.charges == (Charge("fee", ChargePayee.LENDER, 100_00, 18_00),)
    with database.autocommit() as connection:
        facts = customers.position_facts(connection, offer.customer_id)
    assert facts.stored == facts.on(facts.stored.as_of)
    assert facts.stored.held_principal_paise == LAKH
    again = review(database, decision_id, Verdict.APPROVE, key=done.decision.request_id)
    assert again == done


def test_an_offer_whose_last_day_passed_before_the_review_gets_a_new_one(
    database: Database,
) -> None:
    decision_id = a_referred_offer(database, date(2026, 6, 11))
    offer = review(database, decision_id, Verdict.APPROVE, day=date(2026, 6, 12)).offer
    assert offer is not None
    assert offer.last_day == date(2026, 6, 15)


@pytest.mark.parametrize("state", [ReferralState.APPROVED, ReferralState.DECLINED])
def test_the_statements_change_only_a_pending_referral(
    database: Database, state: ReferralState
) -> None:
    """The last guard, without the checks before it."""
    decision_id = a_referred_decision(database)
    customer_id = get_decision(database, decision_id).customer_id
    result = decision_id if state is ReferralState.APPROVED else None
    write = ReviewWrite(customer_id, decision_id, state, "checker", REASON, result, "{}")

    def attempt(day: date) -> bool:
        with database.transaction() as connection:
            if state is ReferralState.APPROVED:
                return referrals.approve(connection, write, on(day))
            return referrals.decline(connection, write, uuid4(), b"x" * 32, on(day))

    assert not attempt(LAST + timedelta(days=1))
    assert attempt(LAST)
    assert not attempt(LAST)


def test_workers_mark_expired_referrals_and_try_referred_decisions(database: Database) -> None:
    decision_id = a_referred_decision(database)
    with database.transaction() as connection:
        published = event_stream.publish(connection, 100)
    (referred,) = [each for each in published if each.kind == "decision_referred"]
    assert referred.decision_id == decision_id

    class Later(Clock):
        def moment(self) -> Moment:
            return on(LAST + timedelta(days=1))

    Timetable(database, Later()).step()
    found = get_decision(database, decision_id).referral
    assert found is not None
    assert found.stored_state is ReferralState.EXPIRED
