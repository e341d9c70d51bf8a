"""A customer's position and score as of an earlier day, from facts alone."""

from datetime import date

from credit_service.clock import Moment
from credit_service.domain.as_of import CreditAsOf, credit_as_of
from credit_service.domain.scoring import CreditScore, score
from credit_service.queries.credit import unknown_customer
from credit_service.queries.customers import unknown_phone_number
from credit_service.storage import customers, histories, scorecards
from credit_service.storage.database import Database


def credit_of(database: Database, customer_id: int, day: date, moment: Moment) -> CreditAsOf:
    """Return the customer's credit at the end of `day`, today or earlier.

    Raises:
        NotFoundError: CUSTOMER_NOT_FOUND.
        RetryLaterError: concurrent calls kept changing the customer.
    """

    def attempt(_: int) -> CreditAsOf:
        with database.autocommit() as connection:
            found = histories.read(connection, customer_id, moment.zone)
        if found is None:
            raise unknown_customer(customer_id)
        return credit_as_of(found, day)

    return database.retry(attempt)


def credit_by_phone(database: Database, phone_number: str, day: date, moment: Moment) -> CreditAsOf:
    """Return like `credit_of` the credit of the customer who has the phone number today."""
    with database.autocommit() as connection:
        view = customers.find_by_phone(connection, phone_number)
    if view is None:
        raise unknown_phone_number()
    return credit_of(database, view.customer.customer_id, day, moment)


def score_of(
    database: Database, customer_id: int, day: date, moment: Moment
) -> tuple[CreditScore, CreditAsOf]:
    """Return the score at the end of `day` under the scorecard that is active today, and what it
    was computed from. Raises like `credit_of`."""
    credit = credit_of(database, customer_id, day, moment)
    with database.autocommit() as connection:
        scorecard = scorecards.active(connection, moment.today)
    return score(credit.position, scorecard, credit.facts), credit
