"""The key facts statement of an offer or of a booked loan: what was agreed."""

from dataclasses import dataclass, replace
from datetime import date

from credit_service.domain.cost_of_credit import agreed_terms
from credit_service.domain.errors import PreconditionFailedError
from credit_service.domain.installments import installment_paise
from credit_service.domain.loans import Loan, book
from credit_service.domain.offers import LoanOffer
from credit_service.domain.schedules import Schedule, schedule
from credit_service.domain.scorecard import Scorecard


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """A statement of `prepared_on`. `agreed` is the loan as agreed, before any payment; its id is 0
    for an offer that is not accepted. `scorecard` decided on it. `offer` is None for a loan."""

    prepared_on: date
    customer_name: str
    agreed: Loan
    schedule: Schedule
    scorecard: Scorecard
    offer: LoanOffer | None = None


def key_facts_of_offer(
    offer: LoanOffer, customer_name: str, scorecard: Scorecard, today: date
) -> KeyFacts:
    """The statement of an offer, about all of it.

    The due dates are those of a loan that starts today, at the latest on the offer's last day; of
    an accepted offer those of its loan.
    """
    start = offer.disbursed_on or min(today, offer.last_day)
    agreed = book(
        offer.terms,
        offer.installment_paise,
        loan_id=offer.loan_id or 0,
        customer_id=offer.customer_id,
        day=start,
        decision_id=offer.decision_id,
        charges=offer.charges,
    )
    return replace(_statement(agreed, customer_name, scorecard, today), offer=offer)


def key_facts_of_loan(
    loan: Loan, customer_name: str, scorecard: Scorecard, today: date
) -> KeyFacts:
    """The statement of a booked loan as agreed: payments and prepayments do not change it.

    Raises PreconditionFailedError: KEY_FACTS_UNKNOWN for an imported loan.
    """
    decision_id = require_known(loan)
    terms = agreed_terms(loan)
    agreed = book(
        terms,
        installment_paise(terms),
        loan_id=loan.loan_id,
        customer_id=loan.customer_id,
        day=loan.start_date,
        decision_id=decision_id,
        charges=loan.charges,
    )
    return _statement(agreed, customer_name, scorecard, today)


def require_known(loan: Loan) -> int:
    """The id of the decision that booked the loan.

    Raises PreconditionFailedError: KEY_FACTS_UNKNOWN for an imported loan.
    """
    if loan.decision_id is None:
        raise PreconditionFailedError(
            "KEY_FACTS_UNKNOWN",
            f"Loan {loan.loan_id} of customer {loan.customer_id} was imported: its charges are not "
            "known, so that there is no key facts statement.",
            subject=f"loans/{loan.customer_id}/{loan.loan_id}",
            metadata={"customer_id": str(loan.customer_id), "loan_id": str(loan.loan_id)},
        )
    return loan.decision_id


def _statement(agreed: Loan, customer_name: str, scorecard: Scorecard, today: date) -> KeyFacts:
    return KeyFacts(today, customer_name, agreed, schedule(agreed), scorecard)
