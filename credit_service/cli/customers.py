"""`customer`, `customers`, `register-customer`, `update-customer` and `changes`."""

from dataclasses import dataclass
from datetime import date
from uuid import UUID, uuid4

from credit_service.cli.amounts import read_money
from credit_service.cli.common import ExitCode, Format, Target, UsageError
from credit_service.cli.connection import CALL_TIMEOUT_SECONDS
from credit_service.cli.output import Listing, instant, money, print_data
from credit_service.cli.scores import show_as_of
from credit_service.cli.service import (
    date_of,
    day_text,
    list_pages,
    print_facts,
    print_list,
    repeatable,
    service_at,
)
from credit_service.client.display import enum_name, inr, words
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import decision_pb2
from credit_service.v1.customer_pb2 import Customer


def customer(
    target: Target,
    customer_id: int | None,
    phone: str | None,
    as_of: date | None,
    form: Format,
) -> int:
    """Show a customer by id or by phone number, today or as of an earlier day. Raises UsageError,
    ServiceError."""
    if (customer_id is None) == (phone is None):
        raise UsageError("give either a customer id or --phone")
    request = pb.GetCustomerRequest()
    if customer_id is not None:
        request.customer_id = customer_id
    elif phone is not None:
        request.phone_number = phone
    if as_of is not None:
        request.as_of.CopyFrom(date_of(as_of))
    with service_at(target) as service:
        response = service.GetCustomer(request, timeout=CALL_TIMEOUT_SECONDS)
    if not print_data(form, response):
        show_customer(response.customer)
    return ExitCode.GOOD


def show_customer(found: Customer) -> None:
    show_as_of(found)
    print_facts(
        ("customer", f"{found.customer_id}  {found.first_name} {found.last_name}"),
        ("age", str(found.age) if found.age else "unknown"),
        ("phone", found.phone_number),
        ("monthly income", inr(found.monthly_income)),
        (
            "approved limit",
            f"{inr(found.approved_limit)}, "
            + ("set" if found.approved_limit_set else "by the income"),
        ),
        ("current debt", inr(found.current_debt)),
        ("installments", f"{inr(found.current_installments)} a month"),
        ("held by offers", f"{inr(found.held_credit)}, {inr(found.held_installments)} a month"),
        ("available", inr(found.available_credit)),
        ("arrears", _arrears(found)),
    )


def _arrears(found: Customer) -> str:
    asset_class = enum_name(found.asset_class, decision_pb2.AssetClass)
    since = day_text(found.asset_class_since)
    return f"{found.days_past_due} days past due, {asset_class}" + (since and f" since {since}")


@dataclass(frozen=True, slots=True)
class NewCustomer:
    """Arguments of `register-customer`."""

    first_name: str
    last_name: str
    age: int
    income: str
    phone: str
    request_id: UUID | None


def register_customer(target: Target, new: NewCustomer, form: Format) -> int:
    """Store a new customer, with a new request id unless one is given. Raises UsageError,
    ServiceError."""
    request_id = new.request_id or uuid4()
    request = pb.RegisterCustomerRequest(
        request_id=str(request_id),
        first_name=new.first_name,
        last_name=new.last_name,
        age=new.age,
        monthly_income=read_money(new.income),
        phone_number=new.phone,
    )
    with repeatable(request_id, "the customer was registered"), service_at(target) as service:
        response = service.RegisterCustomer(request, timeout=CALL_TIMEOUT_SECONDS)
    if not print_data(form, response):
        show_customer(response.customer)
    return ExitCode.GOOD


_BY_RULE = "rule"
"""The limit that follows the income."""


@dataclass(frozen=True, slots=True)
class CustomerChange:
    """Arguments of `update-customer`; None leaves a fact as it is."""

    customer_id: int
    first_name: str | None
    last_name: str | None
    age: int | None
    income: str | None
    phone: str | None
    limit: str | None
    request_id: UUID | None


def update_customer(target: Target, change: CustomerChange, form: Format) -> int:
    """Change facts of a customer, with a new request id unless one is given. Raises UsageError,
    ServiceError."""
    request_id = change.request_id or uuid4()
    request = _update_request(change, request_id)
    with repeatable(request_id, "the customer was changed"), service_at(target) as service:
        response = service.UpdateCustomer(request, timeout=CALL_TIMEOUT_SECONDS)
    if not print_data(form, response):
        show_customer(response.customer)
    return ExitCode.GOOD


def _update_request(change: CustomerChange, request_id: UUID) -> pb.UpdateCustomerRequest:
    customer = Customer(customer_id=change.customer_id)
    paths = []
    if change.first_name is not None:
        customer.first_name = change.first_name
        paths.append("first_name")
    if change.last_name is not None:
        customer.last_name = change.last_name
        paths.append("last_name")
    if change.age is not None:
        customer.age = change.age
        paths.append("age")
    if change.income is not None:
        customer.monthly_income.CopyFrom(read_money(change.income))
        paths.append("monthly_income")
    if change.phone is not None:
        customer.phone_number = change.phone
        paths.append("phone_number")
    if change.limit is not None:
        if change.limit != _BY_RULE:
            customer.approved_limit.CopyFrom(read_money(change.limit))
        paths.append("approved_limit")
    if not paths:
        raise UsageError(
            "give at least one of --first-name, --last-name, --age, --income, --phone, --limit"
        )
    request = pb.UpdateCustomerRequest(request_id=str(request_id), customer=customer)
    request.update_mask.paths.extend(paths)
    return request


def customers(target: Target, query: str, limit: int, form: Format) -> int:
    """List customers whose name or phone number begins with `query`; all if it is empty."""
    request = pb.ListCustomersRequest(query=query)
    with service_at(target) as service:
        found, more = list_pages(service.ListCustomers, request, "customers", limit)
    table = Listing(
        ("customer", "right"), "first name", "last name", ("age", "right"), "phone",
        ("income", "right"), ("limit", "right"), ("debt", "right"), ("available", "right"), "class",
    )  # fmt: skip
    for each in found:
        table.add(
            str(each.customer_id),
            each.first_name,
            each.last_name,
            str(each.age or ""),
            each.phone_number,
            money(each.monthly_income),
            money(each.approved_limit),
            money(each.current_debt),
            money(each.available_credit),
            enum_name(each.asset_class, decision_pb2.AssetClass),
        )
    return print_list(table, "customers", found, form, more=more)


def customer_changes(target: Target, customer_id: int, limit: int, form: Format) -> int:
    """List the changes of a customer's facts, latest first."""
    request = pb.ListCustomerChangesRequest(customer_id=customer_id)
    with service_at(target) as service:
        found, more = list_pages(service.ListCustomerChanges, request, "changes", limit)
    table = Listing("time", "by", ("loan", "right"), "fact", "old value", "new value")
    for each in found:
        by = (
            f"ingestion {each.ingestion_id}" if each.ingestion_id else each.principal or "anonymous"
        )
        for fact in each.facts:
            table.add(
                instant(each.time),
                by,
                str(each.loan_id or ""),
                words(fact.field),
                fact.previous,
                fact.current,
            )
    return print_list(table, "changes", found, form, more=more)
