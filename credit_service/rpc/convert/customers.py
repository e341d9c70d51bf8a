"""Convert customers, and the requests that register and change them."""

from datetime import date
from typing import Any

from credit_service.commands.register_customer import RegisterCustomer
from credit_service.commands.update_customer import UpdateCustomer
from credit_service.domain.customers import (
    CustomerChange,
    validate_customer_change,
    validate_new_customer,
)
from credit_service.domain.delinquency import AssetClass
from credit_service.domain.errors import OUT_OF_RANGE, REQUIRED, InvalidFieldsError
from credit_service.rpc.convert.fields import (
    Violations,
    fill_date,
    fill_money,
    fill_time,
    quoted,
    read_id,
    read_money,
    read_request_id,
)
from credit_service.storage.customers import CustomerView
from credit_service.v1 import credit_service_pb2, customer_pb2, decision_pb2


def read_register_customer(request: credit_service_pb2.RegisterCustomerRequest) -> RegisterCustomer:
    """The command of a RegisterCustomer request. Raises InvalidFieldsError."""
    violations = Violations()
    request_id = read_request_id(request, violations)
    income = read_money(request, "monthly_income", violations)
    try:
        customer = validate_new_customer(
            first_name=request.first_name,
            last_name=request.last_name,
            age=request.age,
            monthly_income_paise=1 if income is None else income,
            phone_number=request.phone_number,
        )
    except InvalidFieldsError as error:
        violations.merge(error)
        violations.raise_if_any()
        raise
    violations.raise_if_any()
    return RegisterCustomer(request_id, customer)


CHANGEABLE_FIELDS = (
    "first_name",
    "last_name",
    "age",
    "monthly_income",
    "phone_number",
    "approved_limit",
)
"""The fields of Customer that UpdateCustomer changes."""


def read_update_customer(request: credit_service_pb2.UpdateCustomerRequest) -> UpdateCustomer:
    """The command of an UpdateCustomer request. Raises InvalidFieldsError."""
    violations = Violations()
    request_id = read_request_id(request, violations)
    customer_id = read_id(request.customer.customer_id, "customer.customer_id", violations)
    change = _read_customer_change(request, violations)
    violations.raise_if_any()
    return UpdateCustomer(request_id, customer_id, change)


def _read_customer_change(
    request: credit_service_pb2.UpdateCustomerRequest, violations: Violations
) -> CustomerChange:
    customer = request.customer
    paths = set(request.update_mask.paths)
    expected = ", ".join(CHANGEABLE_FIELDS)
    if not paths:
        violations.add("update_mask", REQUIRED, f"is required: at least one of {expected}.")
    for path in sorted(paths.difference(CHANGEABLE_FIELDS))[:_MAX_PATHS_NAMED]:
        violations.add(
            "update_mask", OUT_OF_RANGE, f"must list only {expected}, found {quoted(path)}."
        )
    given: dict[str, Any] = {
        name: getattr(customer, name)
        for name in ("first_name", "last_name", "age", "phone_number")
        if name in paths
    }
    if "monthly_income" in paths:
        income = read_money(customer, "monthly_income", violations, "customer.monthly_income")
        given["monthly_income_paise"] = income
    if "approved_limit" in paths and customer.HasField("approved_limit"):
        limit = read_money(customer, "approved_limit", violations, "customer.approved_limit")
        given["approved_limit_paise"] = limit
    elif "approved_limit" in paths:
        given["limit_by_rule"] = True
    try:
        return validate_customer_change(**given, prefix="customer.")
    except InvalidFieldsError as error:
        violations.merge(error)
        return CustomerChange()


_MAX_PATHS_NAMED = 10


ASSET_CLASSES = {
    each: decision_pb2.AssetClass.Value(f"ASSET_CLASS_{each.name}") for each in AssetClass
}
"""The number of each class in the contract."""


def asset_class(name: str) -> Any:
    """The AssetClass of that name."""
    return ASSET_CLASSES[AssetClass[name]]


def write_customer(view: CustomerView, today: date) -> customer_pb2.Customer:
    """A customer with the current position."""
    message = customer_pb2.Customer()
    fill_customer(message, view, today)
    return message


def fill_customer(message: customer_pb2.Customer, view: CustomerView, today: date) -> None:
    """Fill an empty message with a customer and the current position."""
    customer, position = view.customer, view.position
    used = position.current_debt_paise + position.held_principal_paise
    message.customer_id = customer.customer_id
    message.first_name = customer.first_name
    message.last_name = customer.last_name
    message.age = customer.age
    fill_money(message.monthly_income, customer.monthly_income_paise)
    message.phone_number = customer.phone_number
    fill_money(message.approved_limit, customer.approved_limit_paise)
    fill_money(message.current_debt, position.current_debt_paise)
    fill_money(message.current_installments, position.current_installments_paise)
    fill_money(message.available_credit, max(0, customer.approved_limit_paise - used))
    fill_money(message.held_credit, position.held_principal_paise)
    fill_money(message.held_installments, position.held_installments_paise)
    message.version = customer.version
    fill_time(message.created_time, customer.created_at)
    message.approved_limit_set = customer.has_set_limit
    if position.arrears is not None:
        message.days_past_due = position.arrears.days_past_due(today)
        message.asset_class = ASSET_CLASSES[position.arrears.asset_class(today)]
    if view.class_since is not None:
        fill_date(message.asset_class_since, view.class_since)
