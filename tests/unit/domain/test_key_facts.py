"""The key facts statement says what was agreed."""

from dataclasses import replace
from datetime import UTC, date, datetime

import pytest

from credit_service.domain.charges import Charge, ChargePayee
from credit_service.domain.cost_of_credit import agreed_terms, cost_of_credit
from credit_service.domain.errors import PreconditionFailedError
from credit_service.domain.installments import installment_paise
from credit_service.domain.key_facts import key_facts_of_loan, key_facts_of_offer
from credit_service.domain.loan_replay import PaymentFact, replay
from credit_service.domain.loans import LoanTerms, book
from credit_service.domain.offers import LoanOffer, OfferState
from credit_service.domain.payments import PaymentPurpose, PrepaymentEffect
from credit_service.domain.scorecard import STANDARD

DAY = date(2026, 6, 10)
TERMS = LoanTerms(20_000_00, 1500, 24)
CHARGES = (
    Charge("processing fee", ChargePayee.LENDER, 160_00),
    Charge("insurance", ChargePayee.THIRD_PARTY, 240_00),
)
OFFER = LoanOffer(
    customer_id=7,
    offer_id=3,
    decision_id=11,
    principal_paise=TERMS.principal_paise,
    annual_rate_bps=TERMS.annual_rate_bps,
    tenure_months=TERMS.tenure_months,
    installment_paise=installment_paise(TERMS),
    charges=CHARGES,
    created_at=datetime(2026, 6, 10, tzinfo=UTC),
    created_on=DAY,
    last_day=date(2026, 6, 13),
    principal="tests",
)


def test_an_offer_is_described_as_if_it_started_today() -> None:
    found = key_facts_of_offer(OFFER, "Asha Rao", STANDARD, date(2026, 6, 12))
    cost = cost_of_credit(agreed_terms(found.agreed), found.agreed.charges)
    assert cost == cost_of_credit(TERMS, CHARGES)
    assert (found.agreed.start_date, found.agreed.loan_id) == (date(2026, 6, 12), 0)
    assert [line.due_date for line in found.schedule.installments][:2] == [
        date(2026, 7, 12),
        date(2026, 8, 12),
    ]
    assert found.schedule.total_payment_paise == cost.total_payable_paise
    assert found.schedule.installments[-1].balance_paise == 0
    assert (found.customer_name, found.offer) == ("Asha Rao", OFFER)


def test_after_its_last_day_an_offer_keeps_its_due_dates() -> None:
    found = key_facts_of_offer(OFFER, "Asha Rao", STANDARD, date(2026, 9, 1))
    assert found.agreed.start_date == OFFER.last_day


def test_an_accepted_offer_has_the_due_dates_of_its_loan_and_all_of_its_amount() -> None:
    accepted = replace(
        OFFER,
        state=OfferState.ACCEPTED,
        loan_id=99,
        accepted_paise=10_000_00,
        disbursed_on=date(2026, 6, 11),
    )
    found = key_facts_of_offer(accepted, "Asha Rao", STANDARD, date(2026, 9, 1))
    assert (found.agreed.start_date, found.agreed.loan_id) == (date(2026, 6, 11), 99)
    assert found.agreed.principal_paise == OFFER.principal_paise
    loan = accepted.loan()
    assert loan.charges == CHARGES
    of_loan = key_facts_of_loan(loan, "Asha Rao", STANDARD, date(2026, 9, 1))
    assert agreed_terms(of_loan.agreed) == replace(TERMS, principal_paise=10_000_00)
    assert of_loan.agreed.charges == CHARGES
    assert of_loan.offer is None


def test_payments_do_not_change_the_statement_of_a_loan() -> None:
    loan = book(TERMS, installment_paise(TERMS), 99, 7, DAY, 11, CHARGES)
    paid = replace(loan, installments_settled=24, paid_paise=1, closed_on=DAY, emis_paid_on_time=24)
    later = date(2027, 1, 1)
    assert key_facts_of_loan(paid, "A B", STANDARD, later) == key_facts_of_loan(
        loan, "A B", STANDARD, later
    )


def test_a_prepayment_changes_neither_statement_nor_cost() -> None:
    loan = book(TERMS, installment_paise(TERMS), 99, 7, DAY, 11, CHARGES)
    prepaid = PaymentFact(
        1, 5_000_00, DAY, PaymentPurpose.PART_PREPAYMENT, PrepaymentEffect.REDUCE_TENURE, 0
    )
    after = replay(loan, [prepaid]).loan
    assert after.tenure_months < loan.tenure_months
    assert after.charges == CHARGES
    assert agreed_terms(after) == TERMS
    later = date(2027, 1, 1)
    assert key_facts_of_loan(after, "A B", STANDARD, later) == key_facts_of_loan(
        loan, "A B", STANDARD, later
    )


def test_an_imported_loan_has_no_statement() -> None:
    loan = replace(book(TERMS, 970_00, 8, 7, DAY, 11), imported=True, decision_id=None)
    with pytest.raises(PreconditionFailedError) as caught:
        key_facts_of_loan(loan, "Asha Rao", STANDARD, DAY)
    assert caught.value.reason == "KEY_FACTS_UNKNOWN"
    assert caught.value.metadata == {"customer_id": "7", "loan_id": "8"}
