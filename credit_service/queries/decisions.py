"""Look up stored decisions."""

from datetime import date

from credit_service.domain.eligibility import Outcome
from credit_service.domain.errors import NotFoundError
from credit_service.domain.referrals import ReferralState
from credit_service.storage import customers, decisions
from credit_service.storage.database import Database
from credit_service.storage.decisions import StoredDecision

_LAST_ID = 2**63 - 1


def get_decision(database: Database, decision_id: int) -> StoredDecision:
    """Return the decision with that id.

    Raises:
        NotFoundError: DECISION_NOT_FOUND.
    """
    with database.autocommit() as connection:
        found = decisions.find(connection, decision_id)
    if found is None:
        raise NotFoundError("DECISION_NOT_FOUND", "decision", str(decision_id))
    return found


def list_decisions(
    database: Database,
    customer_id: int | None,
    before: int | None,
    limit: int,
    outcome: Outcome | None = None,
    *,
    state: ReferralState | None = None,
    day: date = date.min,
) -> list[StoredDecision]:
    """Return decisions with ids below `before`, newest first; without a customer those of all,
    without an outcome those with any. With `state`, only those whose referral is in that state on
    `day`.

    Raises:
        NotFoundError: CUSTOMER_NOT_FOUND.
    """
    with database.autocommit() as connection:
        found = decisions.page(
            connection, customer_id, before or _LAST_ID, limit, outcome, state=state, day=day
        )
        if (
            not found
            and customer_id is not None
            and customers.find(connection, customer_id) is None
        ):
            raise NotFoundError("CUSTOMER_NOT_FOUND", "customer", str(customer_id))
    return found
