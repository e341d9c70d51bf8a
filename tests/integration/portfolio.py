"""Customers and loans for tests of the use cases."""

import itertools
from datetime import UTC, date, datetime, time
from uuid import uuid4

from sqlalchemy import text

from credit_service.clock import Moment
from credit_service.commands.recompute_scores import lagging, recompute_batch
from credit_service.commands.register_customer import RegisterCustomer, register_customer
from credit_service.domain.calendar import add_months
from credit_service.domain.customers import NewCustomer
from credit_service.domain.positions import CreditPosition
from credit_service.storage import positions
from credit_service.storage.database import Database
from credit_service.storage.tables import customers

LAKH = 10_000_000
"""In paise."""

_phone_numbers = itertools.count(9_000_000_000)
_loan_ids = itertools.count(900_000)


def on(day: date) -> Moment:
    """Noon UTC of a day, which is the same day in India."""
    return Moment(datetime.combine(day, time(6, 30), UTC), day)


def a_customer(database: Database, moment: Moment, monthly_income_paise: int = LAKH) -> int:
    """Register a customer without loans; returns the id."""
    customer = NewCustomer("Asha", "Rao", 30, monthly_income_paise, f"+91{next(_phone_numbers)}")
    command = RegisterCustomer(uuid4(), customer)
    return register_customer(database, command, moment, "tests").customer.customer_id


def an_older_customer(database: Database, moment: Moment) -> int:
    """Register a customer with id 7, in the range of imports, as early releases issued; returns the
    id."""
    issued, customer_id = a_customer(database, moment), 7
    others = ", ".join(name for name in customers.c.keys() if name != "customer_id")  # noqa: SIM118 - columns, not a dict
    values = {"issued": issued, "customer_id": customer_id}
    with database.transaction() as connection:
        for statement in (
            f"""INSERT INTO customers (customer_id, {others})
            SELECT :customer_id, {others} FROM customers WHERE customer_id = :issued""",  # noqa: S608 - names of ours
            "DELETE FROM customers WHERE customer_id = :issued",
            "UPDATE phone_numbers SET customer_id = :customer_id WHERE customer_id = :issued",
        ):
            connection.execute(text(statement), values)
    return customer_id


def a_repaid_loan(
    database: Database, customer_id: int, start: date, moment: Moment, principal_paise: int = LAKH
) -> None:
    """Import a closed loan over twelve months with every installment paid on time."""
    end = add_months(start, 12)
    with database.transaction() as connection:
        connection.execute(
            text(
                """INSERT INTO loans (customer_id, loan_id, principal_paise, annual_rate_bps,
                    tenure_months, installment_paise, start_date, end_date, imported,
                    settled_at_import, emis_paid_on_time, installments_settled, closed_on)
                VALUES (:customer_id, :loan_id, :principal, 1000, 12, :installment, :start, :end,
                    true, 12, 12, 12, :end)"""
            ),
            {
                "customer_id": customer_id,
                "loan_id": next(_loan_ids),
                "principal": principal_paise,
                "installment": principal_paise // 11,
                "start": start,
                "end": end,
            },
        )
        positions.refresh(connection, [customer_id], moment.today)


def a_good_customer(database: Database, moment: Moment, monthly_income_paise: int = LAKH) -> int:
    """A customer who gets affordable loans at the requested rate."""
    customer_id = a_customer(database, moment, monthly_income_paise)
    for years in (3, 4, 5):
        start = date(moment.today.year - years, 1, 15)
        a_repaid_loan(database, customer_id, start, moment, 5 * LAKH)
    return customer_id


def recompute_lagging(database: Database, moment: Moment) -> list[CreditPosition]:
    """Recompute outdated scores as a worker does, for at most one batch of customers."""
    return recompute_batch(database, moment, lagging(database, moment, after=0))
