"""Look customers up."""

from credit_service.domain.errors import NotFoundError
from credit_service.storage import customers
from credit_service.storage.customers import CustomersPage, CustomerView, PageStart
from credit_service.storage.database import Database


def get_customer(
    database: Database, *, customer_id: int | None = None, phone_number: str | None = None
) -> CustomerView:
    """The customer of that id or of that phone number in E.164; exactly one of the two is given.

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
    if view is None:
        if customer_id is not None:
            raise NotFoundError("CUSTOMER_NOT_FOUND", "customer", str(customer_id))
        # The number itself is not repeated.
        message = "There is no customer with this phone number."
        found_by = {"lookup": "phone_number"}
        raise NotFoundError("CUSTOMER_NOT_FOUND", "customer", "", message, found_by)
    return view


def list_customers(database: Database, query: str, start: PageStart, limit: int) -> CustomersPage:
    """A page of at most `limit` customers whose name or phone number begins so, all for an empty
    query: see `storage.customers.search`."""
    with database.autocommit() as connection:
        return customers.search(connection, query, start, limit)
