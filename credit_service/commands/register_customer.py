"""Register a customer with the approved limit for the income."""

import json
from dataclasses import dataclass
from datetime import date
from uuid import UUID

from sqlalchemy import Connection

from credit_service.clock import Moment
from credit_service.commands.idempotency import fingerprint, used_before
from credit_service.domain.customers import Customer, NewCustomer, approved_limit_paise
from credit_service.domain.delinquency import Arrears
from credit_service.domain.errors import AlreadyExistsError
from credit_service.domain.positions import position_from_loans
from credit_service.storage import customers, requests
from credit_service.storage.customers import CustomerView
from credit_service.storage.database import Database, LostRaceError, lost_race_on

_METHOD = "RegisterCustomer"
_FIRST_VERSION = 1
_RACE_CONSTRAINTS = frozenset(
    {
        # An import inserted a customer with the id drawn for this one.
        "customers_pkey",
        # The next attempt finds the number's customer: perhaps that of a concurrent duplicate.
        "phone_numbers_pkey",
    }
)


@dataclass(frozen=True, slots=True)
class RegisterCustomer:
    """A customer to register; the request id makes retries safe."""

    request_id: UUID
    customer: NewCustomer


def register_customer(
    database: Database, command: RegisterCustomer, moment: Moment, principal: str
) -> CustomerView:
    """Store the customer with the limit by the rule: 36 incomes, rounded to the nearest lakh.

    Raises:
        AlreadyExistsError: PHONE_NUMBER_TAKEN.
        RequestIdReusedError: the id was used for other content.
    """
    return database.retry(lambda _attempt: _attempt_once(database, command, moment, principal))


def _attempt_once(
    database: Database, command: RegisterCustomer, moment: Moment, principal: str
) -> CustomerView:
    content = fingerprint(command)
    phone_number = command.customer.phone_number
    with database.autocommit() as connection:
        # The phone number leads to the first request: its customer has the number, or had it.
        holder = customers.holder(connection, phone_number)
        former = customers.former_holders(connection, phone_number)
        for customer_id in former if holder is None else [holder, *former]:
            record = requests.find(connection, customer_id, command.request_id)
            if used_before(connection, record, command.request_id, _METHOD, content) is not None:
                return _as_registered(connection, customer_id, command, moment)
        if holder is None:
            customer_id = _register(connection, _values(command, content, moment, principal))
            return _as_registered(connection, customer_id, command, moment)
        if customers.find(connection, holder) is None:
            # On a cluster, the number's node commits before the customer's node.
            raise LostRaceError("phone_numbers_pkey")
        raise phone_number_taken(phone_number)


def phone_number_taken(phone_number: str) -> AlreadyExistsError:
    """PHONE_NUMBER_TAKEN."""
    return AlreadyExistsError(
        "PHONE_NUMBER_TAKEN",
        "customer",
        phone_number,
        "A customer with this phone number is already registered.",
        {"field": "phone_number"},
    )


def _register(connection: Connection, values: dict[str, object]) -> int:
    with lost_race_on(_RACE_CONSTRAINTS):
        return customers.register(connection, values)


def _values(
    command: RegisterCustomer, content: bytes, moment: Moment, principal: str
) -> dict[str, object]:
    customer = command.customer
    limit = approved_limit_paise(customer.monthly_income_paise)
    event = {
        "monthly_income_paise": customer.monthly_income_paise,
        "approved_limit_paise": limit,
    }
    return {
        "first_name": customer.first_name,
        "last_name": customer.last_name,
        "age": customer.age,
        "monthly_income_paise": customer.monthly_income_paise,
        "phone_number": customer.phone_number,
        "approved_limit_paise": limit,
        "today": moment.today,
        "valid_until": date(moment.today.year + 1, 1, 1),
        "payload": json.dumps(event),
        "request_id": command.request_id,
        "fingerprint": content,
        "now": moment.now,
        "principal": principal,
    }


def _as_registered(
    connection: Connection, customer_id: int, command: RegisterCustomer, moment: Moment
) -> CustomerView:
    """Return the customer as in the first response, without later changes."""
    view = customers.find(connection, customer_id)
    if view is None:
        raise LookupError("a registered customer has no row")
    new = command.customer
    income, limit = new.monthly_income_paise, approved_limit_paise(new.monthly_income_paise)
    customer = Customer(
        customer_id,
        new.first_name,
        new.last_name,
        new.age,
        income,
        new.phone_number,
        limit,
        _FIRST_VERSION,
        view.customer.created_at,
    )
    position = position_from_loans(
        customer_id, _FIRST_VERSION, income, limit, (), moment.today, arrears=Arrears()
    )
    return CustomerView(customer, position)
