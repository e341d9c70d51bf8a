"""Convert the day of an answer about an earlier day."""

from collections.abc import Iterable
from datetime import date
from typing import Any

from credit_service.domain.as_of import CreditAsOf, UnknownFact, require_past_or_today
from credit_service.domain.delinquency import delinquency
from credit_service.rpc.convert.customers import write_customer
from credit_service.rpc.convert.fields import Violations, fill_date, read_date
from credit_service.storage.customers import CustomerView
from credit_service.v1 import as_of_pb2, customer_pb2

_UNKNOWN_FACTS = {
    each: as_of_pb2.UnknownFact.Value(f"UNKNOWN_FACT_{each.name}") for each in UnknownFact
}


def read_as_of(request: Any, today: date, violations: Violations) -> date | None:
    """The day of `as_of`; None if the request has none. Raises InvalidFieldsError for a day after
    today or with any violation of the request."""
    day = read_date(request, "as_of", violations)
    violations.raise_if_any()
    if day is not None:
        require_past_or_today(day, today)
    return day


def fill_as_of(message: as_of_pb2.AsOf, credit: CreditAsOf) -> None:
    """Fill an empty message with the day and what is not known about it."""
    fill_date(message.day, credit.day)
    message.unknown_facts.extend(write_unknown_facts(credit.unknown))


def write_unknown_facts(unknown: Iterable[UnknownFact]) -> "list[as_of_pb2.UnknownFact.ValueType]":
    """The same facts in the contract."""
    return [_UNKNOWN_FACTS[each] for each in unknown]


def write_customer_as_of(credit: CreditAsOf) -> customer_pb2.Customer:
    """A customer with the position at the end of the day."""
    found = delinquency(credit.loans, credit.settlements, credit.day)
    view = CustomerView(credit.customer, credit.position, found.since)
    message = write_customer(view, credit.day)
    fill_as_of(message.as_of, credit)
    return message
