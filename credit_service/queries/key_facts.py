"""Look up key facts statements."""

from datetime import date

from sqlalchemy import Connection

from credit_service.domain.key_facts import (
    KeyFacts,
    key_facts_of_loan,
    key_facts_of_offer,
    require_known,
)
from credit_service.domain.loans import unknown_loan
from credit_service.domain.offers import unknown_offer
from credit_service.domain.scorecard import Scorecard
from credit_service.storage import customers, decisions, loans, offers, scorecards
from credit_service.storage.database import Database


def offer_statement(database: Database, offer_id: int, today: date) -> KeyFacts:
    """Return the statement of an offer.

    Raises:
        NotFoundError: OFFER_NOT_FOUND.
    """
    with database.autocommit() as connection:
        offer = offers.find(connection, offer_id)
        if offer is None:
            raise unknown_offer(offer_id)
        scorecard = _scorecard(connection, offer.customer_id, offer.decision_id)
        name = _name(connection, offer.customer_id)
    return key_facts_of_offer(offer, name, scorecard, today)


def loan_statement(database: Database, customer_id: int, loan_id: int, today: date) -> KeyFacts:
    """Return the statement of a booked loan.

    Raises:
        NotFoundError: LOAN_NOT_FOUND.
        PreconditionFailedError: KEY_FACTS_UNKNOWN.
    """
    with database.autocommit() as connection:
        loan = loans.find(connection, customer_id, loan_id)
        if loan is None:
            raise unknown_loan(customer_id, loan_id)
        scorecard = _scorecard(connection, customer_id, require_known(loan))
        name = _name(connection, customer_id)
    return key_facts_of_loan(loan, name, scorecard, today)


def _scorecard(connection: Connection, customer_id: int, decision_id: int) -> Scorecard:
    """Return the scorecard that made the decision."""
    version = decisions.scorecard_version(connection, customer_id, decision_id)
    return scorecards.get(connection, version)


def _name(connection: Connection, customer_id: int) -> str:
    """Return the name of an existing customer."""
    view = customers.find(connection, customer_id)
    if view is None:
        raise LookupError(f"there is no customer {customer_id}")
    return f"{view.customer.first_name} {view.customer.last_name}"
