"""Look up loan offers."""

from collections.abc import Sequence
from datetime import date

from credit_service.domain.errors import NotFoundError
from credit_service.domain.offers import LoanOffer, OfferState, unknown_offer
from credit_service.storage import customers, offers
from credit_service.storage.database import Database

_LAST_ID = 2**63 - 1


def get_loan_offer(database: Database, offer_id: int) -> LoanOffer:
    """Return the offer with that id.

    Raises:
        NotFoundError: OFFER_NOT_FOUND.
    """
    with database.autocommit() as connection:
        found = offers.find(connection, offer_id)
    if found is None:
        raise unknown_offer(offer_id)
    return found


def list_loan_offers(
    database: Database,
    customer_id: int,
    states: Sequence[OfferState],
    before: int | None,
    limit: int,
    today: date,
) -> list[LoanOffer]:
    """Return the customer's offers with ids below `before` whose state today is one of `states`,
    latest first.

    Raises:
        NotFoundError: CUSTOMER_NOT_FOUND.
    """
    with database.autocommit() as connection:
        found = offers.page(connection, customer_id, states, before or _LAST_ID, limit, today)
        if not found and customers.find(connection, customer_id) is None:
            raise NotFoundError("CUSTOMER_NOT_FOUND", "customer", str(customer_id))
    return found
