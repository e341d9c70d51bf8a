"""Commands about one customer."""

# ruff: noqa: PLC0415 - a command imports its implementation when it runs

from typing import Annotated

from cyclopts import Parameter

from credit_service.cli.commands.root import HERE, TEXT, bounded
from credit_service.cli.common import AsOf, CustomerId, Format, Limit, RequestId, Target


def customer(
    customer_id: Annotated[int | None, Parameter(help="Id of the customer.")] = None,
    /,
    *,
    phone: Annotated[
        str | None, Parameter(help="Phone number in any usual format, instead of an id.")
    ] = None,
    as_of: AsOf = None,
    target: Target = HERE,
    form: Format = TEXT,
) -> int:
    """Show a customer with limit, debt and available credit."""
    from credit_service.cli import customers

    return customers.customer(target, customer_id, phone, as_of, form)


def customers(
    query: Annotated[
        str, Parameter(help="Start of a name or of a phone number. Default: all customers.")
    ] = "",
    /,
    *,
    limit: Limit = 50,
    target: Target = HERE,
    form: Format = TEXT,
) -> int:
    """List customers, or search them by name or phone number."""
    from credit_service.cli import customers

    return customers.customers(target, query, bounded(limit), form)


def register_customer(
    *,
    first_name: Annotated[str, Parameter(help="First name.")],
    last_name: Annotated[str, Parameter(help="Last name.")],
    age: Annotated[int, Parameter(help="Age in years.")],
    income: Annotated[str, Parameter(help="Monthly income in rupees, such as 80000.")],
    phone: Annotated[str, Parameter(help="Phone number in any usual format.")],
    request_id: RequestId = None,
    target: Target = HERE,
    form: Format = TEXT,
) -> int:
    """Register a new customer, whose approved limit follows the income."""
    from credit_service.cli import customers

    new = customers.NewCustomer(first_name, last_name, age, income, phone, request_id)
    return customers.register_customer(target, new, form)


def update_customer(
    customer_id: CustomerId,
    /,
    *,
    first_name: Annotated[str | None, Parameter(help="New first name.")] = None,
    last_name: Annotated[str | None, Parameter(help="New last name.")] = None,
    age: Annotated[int | None, Parameter(help="New age in years.")] = None,
    income: Annotated[str | None, Parameter(help="New monthly income in rupees.")] = None,
    phone: Annotated[str | None, Parameter(help="New phone number.")] = None,
    limit: Annotated[
        str | None,
        Parameter(
            help="New approved limit in rupees, which stays when the income changes; or `rule`, "
            "the limit that follows the income."
        ),
    ] = None,
    request_id: RequestId = None,
    target: Target = HERE,
    form: Format = TEXT,
) -> int:
    """Change facts of a customer: those that are given."""
    from credit_service.cli import customers

    change = customers.CustomerChange(
        customer_id, first_name, last_name, age, income, phone, limit, request_id
    )
    return customers.update_customer(target, change, form)


def changes(
    customer_id: CustomerId, /, *, limit: Limit = 50, target: Target = HERE, form: Format = TEXT
) -> int:
    """List the changes of a customer's facts and loans, latest first."""
    from credit_service.cli import customers

    return customers.customer_changes(target, customer_id, bounded(limit), form)


def score(
    customer_id: CustomerId,
    /,
    *,
    as_of: AsOf = None,
    target: Target = HERE,
    form: Format = TEXT,
) -> int:
    """Show a customer's credit score, component by component."""
    from credit_service.cli import scores

    return scores.score(target, customer_id, as_of, form)
