"""Offers against the real database: they hold credit until they end, and end once."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest
from sqlalchemy import exc, text

from credit_service.cache.positions import PositionCache
from credit_service.clock import Moment
from credit_service.commands.create_loan import (
    CreateLoan,
    CreateLoanOffer,
    create_loan,
    create_loan_offer,
)
from credit_service.commands.offers import (
    AcceptLoanOffer,
    WithdrawLoanOffer,
    accept_loan_offer,
    expire_offers,
    withdraw_loan_offer,
)
from credit_service.commands.reconcile import reconcile
from credit_service.commands.record_payment import RecordPayment, record_payment
from credit_service.commands.scorecards import ActivateScorecard, activate_scorecard
from credit_service.domain.charges import Charge, ChargePayee
from credit_service.domain.decisions import decode_inputs, replay
from credit_service.domain.errors import (
    InvalidFieldsError,
    NotFoundError,
    PreconditionFailedError,
    RequestIdReusedError,
    RetryLaterError,
)
from credit_service.domain.loans import Ask
from credit_service.domain.offers import LoanOffer, OfferState
from credit_service.domain.positions import CreditPosition, is_valid_on
from credit_service.domain.scorecard import STANDARD
from credit_service.queries.credit import CreditQueries
from credit_service.queries.customers import get_customer, list_customers
from credit_service.queries.loans import list_loans
from credit_service.storage import bookings, customers, offers, positions
from credit_service.storage.customer_search import PageStart
from credit_service.storage.database import Database
from credit_service.storage.decisions import StoredDecision
from credit_service.storage.statements import Statement
from tests.integration.policies import activated
from tests.integration.portfolio import LAKH, a_customer, a_good_customer, on, recompute_lagging

TODAY = on(date(2026, 6, 10))
LIMIT = 36 * LAKH
"""In paise: that of a customer with an income of ₹1,00,000."""


def after(days: int) -> Moment:
    return on(TODAY.today + timedelta(days=days))


def ask(lakhs: int, months: int = 240) -> Ask:
    return Ask(lakhs * LAKH, 1200, months)


def offered(
    database: Database,
    customer_id: int,
    lakhs: int = 10,
    key: UUID | None = None,
    moment: Moment = TODAY,
    **chosen: Any,
) -> tuple[StoredDecision, LoanOffer | None]:
    command = CreateLoanOffer(key or uuid4(), customer_id, ask(lakhs), **chosen)
    return create_loan_offer(database, command, moment, "tests")


def an_offer(database: Database, customer_id: int, lakhs: int = 10, **chosen: Any) -> LoanOffer:
    decision, offer = offered(database, customer_id, lakhs, **chosen)
    assert decision.approved
    assert offer is not None
    return offer


def booked(database: Database, customer_id: int, lakhs: int, moment: Moment = TODAY) -> bool:
    """Whether a loan is approved."""
    command = CreateLoan(uuid4(), customer_id, ask(lakhs))
    return create_loan(database, command, moment, "tests").approved


def accept(
    database: Database, offer: LoanOffer, moment: Moment = TODAY, **chosen: Any
) -> LoanOffer:
    command = AcceptLoanOffer(uuid4(), offer.offer_id, **chosen)
    return accept_loan_offer(database, command, moment, "tests")


def withdraw(database: Database, offer: LoanOffer, moment: Moment = TODAY) -> LoanOffer:
    command = WithdrawLoanOffer(uuid4(), offer.offer_id, "changed plans")
    return withdraw_loan_offer(database, command, moment, "tests")


def position(database: Database, customer_id: int) -> CreditPosition:
    """The stored position; asserts that it matches the loans and holds."""
    with database.autocommit() as connection:
        facts = customers.position_facts(connection, customer_id)
    assert facts.stored == facts.on(facts.stored.as_of)
    return facts.stored


def held(database: Database, customer_id: int) -> int:
    """The held principal in lakhs."""
    return position(database, customer_id).held_principal_paise // LAKH


def events(database: Database, customer_id: int) -> list[str]:
    """The kinds of the customer's events without those of scores, in order."""
    with database.autocommit() as connection:
        rows = connection.execute(
            text(
                """SELECT kind, event_seq FROM events
                WHERE customer_id = :id AND kind <> 'score_changed' ORDER BY event_seq"""
            ),
            {"id": customer_id},
        ).all()
    return [row.kind for row in rows]


def reason_of(call: Callable[[], object]) -> str:
    with pytest.raises(PreconditionFailedError) as caught:
        call()
    return caught.value.reason


@pytest.fixture
def customer_id(database: Database) -> int:
    """A customer with a limit of 36 lakh and an income share of ₹50,000 a month."""
    return a_good_customer(database, TODAY)


def test_an_offer_holds_credit_instead_of_booking(database: Database, customer_id: int) -> None:
    decision, offer = offered(database, customer_id, 10)
    assert decision.approved
    assert offer is not None
    assert (decision.loan_id, decision.offer_id) == (None, offer.offer_id)
    assert offer.last_day == TODAY.today + timedelta(days=3)
    found = position(database, customer_id)
    assert found.held_principal_paise == 10 * LAKH
    assert found.held_installments_paise == offer.installment_paise == 11_010_86
    assert found.current_debt_paise == 0
    assert len(list_loans(database, customer_id, None, None, 10)) == 3
    assert events(database, customer_id) == ["customer_registered", "loan_offer_created"]
    assert replay(decision.inputs_json, STANDARD) == decision.outcome_json
    assert "held" not in decision.inputs_json


def test_a_decline_holds_nothing(database: Database) -> None:
    customer_id = a_customer(database, TODAY)
    decision, offer = offered(database, customer_id)
    assert (decision.approved, decision.offer_id, offer) == (False, None, None)
    assert held(database, customer_id) == 0
    assert events(database, customer_id)[-1] == "loan_declined"


def test_held_credit_counts_in_every_decision(database: Database, customer_id: int) -> None:
    an_offer(database, customer_id, 30)
    command = CreateLoan(uuid4(), customer_id, ask(7))
    loan = create_loan(database, command, TODAY, "tests")
    _, checked = CreditQueries(database).check_eligibility(customer_id, ask(7), TODAY)
    second, _ = offered(database, customer_id, 7)
    assert [loan.approved, checked.approved, second.approved] == [False, False, False]
    inputs = decode_inputs(loan.inputs_json)
    assert inputs.position.held_principal_paise == 30 * LAKH
    assert replay(loan.inputs_json, STANDARD) == loan.outcome_json
    (reason,) = [each for each in checked.reasons if each.code == "APPROVED_LIMIT_EXCEEDED"]
    assert "held credit of ₹30,00,000" in reason.message
    assert reason.found == "3700000.00"
    assert booked(database, customer_id, 6)
    assert held(database, customer_id) == 30


def test_held_installments_count_against_the_income_share(database: Database) -> None:
    customer_id = a_good_customer(database, TODAY)
    long = CreateLoanOffer(uuid4(), customer_id, ask(4, months=12))
    create_loan_offer(database, long, TODAY, "tests")
    short = CreateLoan(uuid4(), customer_id, ask(2, months=12))
    decision = create_loan(database, short, TODAY, "tests")
    assert [each.code for each in decision.outcome.reasons] == ["EMI_BURDEN_TOO_HIGH"]
    assert "held installments of ₹35,539.52" in decision.outcome.reasons[0].message


def test_an_acceptance_books_the_loan_from_the_hold(database: Database, customer_id: int) -> None:
    offer = an_offer(database, customer_id, 36)
    ended = accept(database, offer, after(3))
    assert (ended.state, ended.accepted_paise) == (OfferState.ACCEPTED, 36 * LAKH)
    found = position(database, customer_id)
    assert (found.held_principal_paise, found.current_debt_paise) == (0, 36 * LAKH)
    loan = ended.loan()
    assert loan in list_loans(database, customer_id, None, None, 10)
    assert loan.decision_id == offer.decision_id
    assert loan.start_date == after(3).today
    assert events(database, customer_id)[-2:] == ["loan_created", "loan_offer_ended"]


def test_a_smaller_acceptance_releases_the_rest(database: Database, customer_id: int) -> None:
    offer = an_offer(database, customer_id, 36)
    ended = accept(database, offer, amount_paise=10 * LAKH)
    assert ended.loan().principal_paise == 10 * LAKH
    found = position(database, customer_id)
    assert (found.held_principal_paise, found.current_debt_paise) == (0, 10 * LAKH)
    assert found.current_installments_paise == ended.loan().installment_paise
    assert booked(database, customer_id, 26)


def test_more_than_the_hold_is_refused(database: Database, customer_id: int) -> None:
    offer = an_offer(database, customer_id, 10)
    assert (
        reason_of(lambda: accept(database, offer, amount_paise=10 * LAKH + 1))
        == "OFFER_AMOUNT_EXCEEDED"
    )
    assert held(database, customer_id) == 10


def test_the_minimum_of_the_scorecard_that_approved_an_offer_holds(
    database: Database, customer_id: int
) -> None:
    activated(database, replace(STANDARD, version="large-1", min_principal_paise=LAKH), TODAY)
    offer = an_offer(database, customer_id, 10)
    activate_scorecard(database, ActivateScorecard(uuid4(), "standard-1", None), TODAY, "tests")
    with pytest.raises(PreconditionFailedError, match="the least that is lent") as caught:
        accept(database, offer, amount_paise=LAKH - 1)
    assert caught.value.reason == "OFFER_AMOUNT_TOO_SMALL"
    assert held(database, customer_id) == 10
    assert accept(database, offer, amount_paise=LAKH).accepted_paise == LAKH


def test_a_withdrawal_releases_the_hold(database: Database, customer_id: int) -> None:
    offer = an_offer(database, customer_id, 36)
    assert not booked(database, customer_id, 1)
    ended = withdraw(database, offer)
    assert (ended.state, ended.reason) == (OfferState.WITHDRAWN, "changed plans")
    assert held(database, customer_id) == 0
    assert booked(database, customer_id, 36)
    assert events(database, customer_id)[-2:] == ["loan_offer_ended", "loan_created"]


def test_an_offer_is_released_once(database: Database, customer_id: int) -> None:
    """A second end must not release what another offer holds."""
    first, second = (an_offer(database, customer_id, 10) for _ in range(2))
    withdraw(database, first)
    assert reason_of(lambda: withdraw(database, first)) == "OFFER_ENDED"
    assert reason_of(lambda: accept(database, first)) == "OFFER_ENDED"
    assert held(database, customer_id) == 10
    accept(database, second)
    assert reason_of(lambda: accept(database, second)) == "OFFER_ENDED"
    assert reason_of(lambda: withdraw(database, second)) == "OFFER_ENDED"
    assert position(database, customer_id).current_debt_paise == 10 * LAKH
    assert events(database, customer_id).count("loan_offer_ended") == 2


def test_an_offer_past_its_last_day_counts_nowhere_without_any_job(
    database: Database, customer_id: int, redis_url: str
) -> None:
    """No worker runs, and the cache has the customer's position with the hold."""
    cache = PositionCache(redis_url, timeout_seconds=5.0)
    command = CreateLoanOffer(uuid4(), customer_id, ask(36))
    _, offer = create_loan_offer(database, command, TODAY, "tests", cache=cache)
    assert offer is not None
    last, expired = after(3), after(4)
    queries = CreditQueries(database, cache)
    queries.snapshot(customer_id, TODAY)
    entry = cache.get(customer_id, last.today)
    assert entry is not None
    assert entry.position.held_principal_paise == 36 * LAKH
    for moment, free in ((TODAY, 0), (last, 0), (expired, 36 * LAKH)):
        _, checked = queries.check_eligibility(customer_id, ask(36), moment)
        assert checked.approved == bool(free)
        by_id = get_customer(database, customer_id=customer_id, day=moment.today)
        listed = list_customers(database, "", PageStart(), 10, moment.today).customers
        (listed_view,) = [each for each in listed if each.customer.customer_id == customer_id]
        for view in (by_id, listed_view):
            assert LIMIT - view.position.held_principal_paise == free
        assert booked(database, customer_id, 36, moment) == bool(free)
    assert reason_of(lambda: accept(database, offer, expired)) == "OFFER_EXPIRED"
    assert reason_of(lambda: withdraw(database, offer, expired)) == "OFFER_EXPIRED"
    assert position(database, customer_id).current_debt_paise == 36 * LAKH
    cache.close()


def test_a_server_whose_clock_is_late_does_not_accept_an_expired_offer(
    database: Database, customer_id: int
) -> None:
    """Its call began before midnight; meanwhile the credit was lent again."""
    offer = an_offer(database, customer_id, 36)
    assert booked(database, customer_id, 36, after(4))
    assert reason_of(lambda: accept(database, offer, after(3))) == "OFFER_EXPIRED"
    assert position(database, customer_id).current_debt_paise == 36 * LAKH


def test_expiry_is_stored_once(database: Database, customer_id: int) -> None:
    early = an_offer(database, customer_id, 10)
    late = an_offer(database, customer_id, 5, last_day=after(30).today)
    assert expire_offers(database, after(3), 10) == []
    (moved,) = expire_offers(database, after(4), 10)
    assert moved == position(database, customer_id)
    assert held(database, customer_id) == 5
    assert expire_offers(database, after(4), 10) == []
    with database.autocommit() as connection:
        stored = offers.get(connection, customer_id, early.offer_id)
        assert stored.state is OfferState.EXPIRED
        assert offers.get(connection, customer_id, late.offer_id).state is OfferState.OPEN
    assert events(database, customer_id).count("loan_offer_ended") == 1


def test_offers_are_listed_by_their_state_today(database: Database, customer_id: int) -> None:
    made = [an_offer(database, customer_id, 1) for _ in range(4)]
    accept(database, made[0])
    withdraw(database, made[1])
    expire_offers(database, after(9), 1)

    def listed(day: date, *states: OfferState) -> list[int]:
        with database.autocommit() as connection:
            found = offers.page(connection, customer_id, states, 10**6, 10, day)
        return [each.offer_id - made[0].offer_id for each in found]

    assert listed(after(3).today, *OfferState) == [3, 2, 1, 0]
    assert listed(after(3).today, OfferState.OPEN) == [3]
    assert listed(after(3).today, OfferState.EXPIRED) == [2]
    assert listed(after(4).today, OfferState.OPEN) == []
    assert listed(after(4).today, OfferState.EXPIRED, OfferState.ACCEPTED) == [3, 2, 0]


def test_every_write_is_idempotent(database: Database, customer_id: int) -> None:
    key = uuid4()
    charges = (Charge("fee", ChargePayee.LENDER, 100_00, 18_00),)
    first = offered(database, customer_id, 36, key, charges=charges)
    assert offered(database, customer_id, 36, key, charges=charges) == first
    offer = first[1]
    assert offer is not None
    assert offer.charges == charges
    with pytest.raises(RequestIdReusedError):
        offered(database, customer_id, 36, key)
    acceptance = AcceptLoanOffer(uuid4(), offer.offer_id, 2 * LAKH)
    ended = accept_loan_offer(database, acceptance, TODAY, "tests")
    # Also after the loan has changed, and after the offer's last day.
    loan = ended.loan()
    payment = RecordPayment(uuid4(), customer_id, loan.loan_id, 100_00, None)
    record_payment(database, payment, TODAY, "tests")
    again = accept_loan_offer(database, acceptance, after(9), "tests")
    assert again == ended
    assert again.loan() == loan
    assert offered(database, customer_id, 36, key, moment=after(9), charges=charges) == first
    other = an_offer(database, customer_id, 1)
    withdrawal = WithdrawLoanOffer(uuid4(), other.offer_id, "x")
    gone = withdraw_loan_offer(database, withdrawal, TODAY, "tests")
    assert withdraw_loan_offer(database, withdrawal, after(9), "tests") == gone
    reused = WithdrawLoanOffer(acceptance.request_id, other.offer_id)
    with pytest.raises(RequestIdReusedError):
        withdraw_loan_offer(database, reused, TODAY, "tests")
    assert held(database, customer_id) == 0


def test_bad_offers_are_refused(database: Database, customer_id: int) -> None:
    with pytest.raises(InvalidFieldsError, match="valid_until"):
        offered(database, customer_id, last_day=after(31).today)
    with pytest.raises(InvalidFieldsError, match="charges"):
        offered(database, customer_id, 1, charges=(Charge("fee", ChargePayee.LENDER, LAKH),))
    with pytest.raises(NotFoundError, match="CUSTOMER_NOT_FOUND"):
        offered(database, 4711)
    for command in (AcceptLoanOffer, WithdrawLoanOffer):
        call: Any = accept_loan_offer if command is AcceptLoanOffer else withdraw_loan_offer
        with pytest.raises(NotFoundError, match="OFFER_NOT_FOUND"):
            call(database, command(uuid4(), 4711), TODAY, "tests")
    assert held(database, customer_id) == 0


def test_a_disbursement_in_the_past_books_from_that_day(
    database: Database, customer_id: int
) -> None:
    """With a due date that has come."""
    moment = on(date(2026, 1, 31))
    offer = an_offer(database, customer_id, 1, moment=moment, last_day=date(2026, 3, 2))
    accept(database, offer, on(date(2026, 3, 1)), disbursed_on=date(2026, 1, 31))
    found = position(database, customer_id)
    assert found.emis_due == 36 + 1
    assert found.valid_until == date(2026, 3, 31)


def test_positions_keep_holds_through_payments_imports_and_refreshes(
    database: Database, customer_id: int
) -> None:
    assert booked(database, customer_id, 1)
    loan = list_loans(database, customer_id, None, None, 10)[-1]
    an_offer(database, customer_id, 5, last_day=after(30).today)
    an_offer(database, customer_id, 2, last_day=after(2).today)

    def paid(paise: int, moment: Moment) -> None:
        payment = RecordPayment(uuid4(), customer_id, loan.loan_id, paise, None)
        record_payment(database, payment, moment, "tests")

    paid(100_00, TODAY)
    assert held(database, customer_id) == 7
    # The stored position is outdated: the payment computes it.
    paid(100_00, after(3))
    assert held(database, customer_id) == 5
    assert booked(database, customer_id, 1, after(4))
    with database.transaction() as connection:
        positions.refresh(connection, [customer_id], after(5).today)
    assert held(database, customer_id) == 5
    recompute_lagging(database, after(31))
    assert held(database, customer_id) == 0


def test_imported_loans_keep_holds_and_drop_expired_ones(
    database: Database, customer_id: int
) -> None:
    an_offer(database, customer_id, 5)

    def imported(moment: Moment) -> None:
        with database.transaction() as connection:
            customers.lock(connection, customer_id)
            loan_id = connection.execute(text("SELECT max(loan_id) + 1 FROM loans")).scalar_one()
            connection.execute(
                text(
                    """INSERT INTO loans SELECT (jsonb_populate_record(l,
                        jsonb_build_object('loan_id', CAST(:loan_id AS bigint)))).*
                    FROM loans l WHERE customer_id = :customer_id ORDER BY loan_id LIMIT 1"""
                ),
                {"customer_id": customer_id, "loan_id": loan_id},
            )
            closed = {
                "customer_id": customer_id,
                "loan_count": 1,
                "total_principal_paise": 5 * LAKH,
                "current_debt_paise": 0,
                "current_installments_paise": 0,
                "emis_on_time": 12,
                "emis_due": 12,
                "current_year_loans": 0,
                "next_change_day": (date(2027, 1, 1) - date(1970, 1, 1)).days,
                "oldest_unpaid_day": positions.NO_DAY,
            }
            sums = {name: np.array([value]) for name, value in closed.items()}
            positions.add_loans(connection, positions.LoanSums(**sums), moment.today)

    imported(TODAY)
    assert held(database, customer_id) == 5
    imported(after(4))
    assert held(database, customer_id) == 0
    assert position(database, customer_id).loan_count == 5


def test_an_offer_outlives_a_lower_limit(database: Database, customer_id: int) -> None:
    """An import lowered it: the offer was approved before, but no other loan is."""
    offer = an_offer(database, customer_id, 20)
    with database.transaction() as connection:
        connection.execute(
            text(
                """UPDATE customers SET approved_limit_paise = 100, version = version + 1
                WHERE customer_id = :id"""
            ),
            {"id": customer_id},
        )
    assert not booked(database, customer_id, 1)
    assert accept(database, offer).loan().principal_paise == 20 * LAKH
    assert position(database, customer_id).current_debt_paise == 20 * LAKH


def test_the_reconciliation_finds_a_wrong_hold(database: Database, customer_id: int) -> None:
    an_offer(database, customer_id, 5)
    assert reconcile(database, TODAY).discrepancies == 0
    with database.transaction() as connection:
        connection.execute(
            text("UPDATE customers SET held_principal_paise = 1 WHERE customer_id = :id"),
            {"id": customer_id},
        )
    assert reconcile(database, TODAY).discrepancies == 1
    assert held(database, customer_id) == 5


def test_a_hold_past_the_limit_is_refused_by_the_database(
    database: Database, customer_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If every other guard fails: neither an offer nor a loan passes the limit with the holds."""
    an_offer(database, customer_id, 30)
    blind = customers.position

    def without_holds(row: Any) -> CreditPosition:
        return replace(blind(row), held_principal_paise=0, held_installments_paise=0)

    monkeypatch.setattr(customers, "position", without_holds)
    # The writes set the held credit as computed; here they keep what is stored.
    for name in ("WRITE_APPROVED", "WRITE_OFFER"):
        kept = getattr(bookings, name).text
        for column in ("held_principal_paise", "held_installments_paise", "held_valid_until"):
            kept = kept.replace(f"{column} = :{column}", f"{column} = {column}")
        if name == "WRITE_OFFER":
            kept = kept.replace(
                "current_debt_paise + held_principal_paise AS used",
                "current_debt_paise + held_principal_paise + 70000000 AS used",
            )
        monkeypatch.setattr(bookings, name, Statement(kept))
    with pytest.raises(exc.IntegrityError, match="booked_within_limit"):
        booked(database, customer_id, 7)
    with pytest.raises(exc.IntegrityError, match="held_within_limit"):
        offered(database, customer_id, 7)


def test_the_database_ends_an_offer_once_and_keeps_its_terms(
    database: Database, customer_id: int
) -> None:
    offer = an_offer(database, customer_id)
    for statement in (
        "UPDATE loan_offers SET principal_paise = 1",
        "UPDATE loan_offers SET last_day = last_day + 1",
        "UPDATE loan_offers SET charges = '[1]'",
    ):
        with (
            pytest.raises(exc.IntegrityError, match="never change"),
            database.transaction() as connection,
        ):
            connection.execute(text(statement))
    withdraw(database, offer)
    for statement in (
        "UPDATE loan_offers SET state = 'OPEN', ended_at = NULL, reason = NULL",
        "UPDATE loan_offers SET reason = 'other'",
        "DELETE FROM loan_offers",
    ):
        with (
            pytest.raises(exc.IntegrityError, match="never change"),
            database.transaction() as connection,
        ):
            connection.execute(text(statement))


# --- The previous release beside this one ---------------------------------------------------------

_OLD_BOOKING = """
    INSERT INTO loans (customer_id, loan_id, principal_paise, annual_rate_bps, tenure_months,
        installment_paise, start_date, end_date, imported, decision_id, debt_at_booking_paise,
        limit_at_booking_paise)
    VALUES (:customer_id, nextval('loan_ids'), :principal, 1200, 12, 100, :day,
        CAST(:day AS date) + interval '1 year', false, 1, :principal, :limit)"""


def old_booking(database: Database, customer_id: int, lakhs: int, day: date) -> None:
    """What a server of the previous release writes: it knows no held credit."""
    with database.transaction() as connection:
        connection.execute(
            text(_OLD_BOOKING),
            {
                "customer_id": customer_id,
                "principal": lakhs * LAKH,
                "limit": LIMIT,
                "day": day,
            },
        )


@pytest.mark.one_server("servers of the previous release know no cluster")
def test_a_server_of_the_previous_release_books_beside_the_holds(
    database: Database, customer_id: int
) -> None:
    offer = an_offer(database, customer_id, 30)
    # It takes this as a lost race.
    with pytest.raises(RetryLaterError):
        database.retry(lambda _number: old_booking(database, customer_id, 7, TODAY.today))
    old_booking(database, customer_id, 6, TODAY.today)
    old_booking(database, customer_id, 7, after(4).today)
    withdraw(database, offer)
    old_booking(database, customer_id, 36, TODAY.today)


def test_a_day_moved_by_the_previous_release_counts_no_expired_hold(
    database: Database, customer_id: int
) -> None:
    """It refreshes positions from the loans alone, and leaves the columns of holds as they are."""
    an_offer(database, customer_id, 36)
    later = after(4)
    with database.transaction() as connection:
        connection.execute(
            text(
                """UPDATE customers SET version = version + 1, position_as_of = :day,
                    position_valid_until = '2027-01-01' WHERE customer_id = :id"""
            ),
            {"id": customer_id, "day": later.today},
        )
    stored = get_customer(database, customer_id=customer_id).position
    assert not is_valid_on(stored, later.today)
    _, checked = CreditQueries(database).check_eligibility(customer_id, ask(36), later)
    assert checked.approved
    assert reconcile(database, later).discrepancies == 0
    assert booked(database, customer_id, 36, later)
    position(database, customer_id)
