"""Look up customers."""

from dataclasses import replace
from datetime import date

from sqlalchemy import Connection

from credit_service.domain.errors import NotFoundError
from credit_service.storage import arrears, customer_search, customers, fact_changes
from credit_service.storage.customer_search import CustomersPage, PageStart
from credit_service.storage.customers import CustomerView
from credit_service.storage.database import Database
from credit_service.storage.fact_changes import StoredChange

_AFTER_ALL = 2**63 - 1


def get_customer(
    database: Database,
    *,
    customer_id: int | None = None,
    phone_number: str | None = None,
    day: date | None = None,
) -> CustomerView:
    """Return the customer with that id or that phone number in E.164; pass exactly one of them.

    With `day`, held credit and arrears are those of the day, with the first day of the class,
    otherwise as stored.

    Raises:
        NotFoundError: CUSTOMER_NOT_FOUND.
    """
    with database.autocommit() as connection:
        if customer_id is not None:
            view = customers.find(connection, customer_id)
        elif phone_number is not None:
            view = customers.find_by_phone(connection, phone_number)
        else:
            raise ValueError("neither customer_id nor phone_number is given")
        if view is not None:
            return view if day is None else _of_day(connection, view, day)
    if customer_id is not None:
        raise NotFoundError("CUSTOMER_NOT_FOUND", "customer", str(customer_id))
    raise unknown_phone_number()


def _of_day(connection: Connection, view: CustomerView, day: date) -> CustomerView:
    (view,) = customers.with_current_figures(connection, [view], day)
    position = view.position
    if position.loan_count == 0 or position.arrears is None:
        return view
    since = arrears.class_since(connection, position.customer_id, position.arrears, day)
    return replace(view, class_since=since)


def unknown_phone_number() -> NotFoundError:
    """CUSTOMER_NOT_FOUND: no customer has the phone number. The message omits it, because it is
    personal data."""
    message = "There is no customer with this phone number."
    found_by = {"lookup": "phone_number"}
    return NotFoundError("CUSTOMER_NOT_FOUND", "customer", "", message, found_by)


def list_customers(
    database: Database, query: str, start: PageStart, limit: int, day: date
) -> CustomersPage:
    """Return a page of at most `limit` customers whose name or phone number starts with `query`:
    see `storage.customers.search`. Held credit and arrears are those of `day`."""
    with database.autocommit() as connection:
        page = customer_search.search(connection, query, start, limit)
        views = customers.with_current_figures(connection, page.customers, day)
    return page._replace(customers=views)


def list_customer_changes(
    database: Database, customer_id: int, before: int | None, limit: int
) -> list[StoredChange]:
    """Return the changes of a customer's facts and of their loans' facts, latest first, at most
    `limit`: those with event numbers below `before`, None for all.

    Raises:
        NotFoundError: CUSTOMER_NOT_FOUND.
    """
    with database.autocommit() as connection:
        found = fact_changes.page(
            connection, customer_id, _AFTER_ALL if before is None else before, limit
        )
        if not found and customers.find(connection, customer_id) is None:
            raise NotFoundError("CUSTOMER_NOT_FOUND", "customer", str(customer_id))
    return found
