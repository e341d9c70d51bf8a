"""The form that changes facts of a customer."""

from collections.abc import Mapping

import grpc
from starlette.responses import Response

from credit_service.console import fields, formats
from credit_service.console.formats import Typed
from credit_service.console.page import (
    EXAMPLE_REQUEST_ID,
    Page,
    Problem,
    form_for_retry,
    new_request_id,
)
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1.customer_pb2 import Customer
from credit_service_client.errors import ServiceError

FIELDS = ("first_name", "last_name", "age", "monthly_income", "phone_number", "approved_limit")
BY_RULE = "limit_by_rule"


def form(page: Page) -> Response:
    """The form, with the stored facts."""
    customer = page.service.customer(page.path_id("customer_id"))
    values = page.typed_before() or {"request_id": new_request_id(), **_shown(customer)}
    return _form(page, customer, values, {}, None)


def change(page: Page) -> Response:
    """Change the facts that the user edited, or show the form again with the problem beside each
    field."""
    customer_id = page.path_id("customer_id")
    typed = Typed(page.form)
    request = _request(page, typed, customer_id, page.request_id())
    home = f"/qa/customers/{customer_id}"
    if not request.update_mask.paths:
        return page.redirect(home, "No field was edited; nothing was changed.")
    try:
        # Also if a field cannot be parsed: see `customers.register`.
        customer = page.service.update_customer(request)
    except ServiceError as error:
        if error.code is grpc.StatusCode.UNAUTHENTICATED:
            raise
        violations = [*error.violations]
        if error.reason == "PHONE_NUMBER_TAKEN":
            violations.append(("phone_number", error.message))
        problems = fields.beside(FIELDS, violations, typed.problems)
        stored = page.service.customer(customer_id)
        return _form(page, stored, form_for_retry(page.form, error), problems, Problem(error))
    count = len(request.update_mask.paths)
    notice = f"{count} field{'' if count == 1 else 's'} of customer {customer.customer_id} changed."
    return page.redirect(home, notice)


def _shown(customer: Customer) -> dict[str, str]:
    """Return the values of the fields. `was_…` have them too: what differs was edited, so that a
    concurrent change of another field is not undone."""
    values = {
        "first_name": customer.first_name,
        "last_name": customer.last_name,
        "age": str(customer.age),
        "monthly_income": formats.plain_amount(customer.monthly_income),
        "phone_number": customer.phone_number,
        "approved_limit": formats.plain_amount(customer.approved_limit),
        BY_RULE: "" if customer.approved_limit_set else "yes",
    }
    return values | {f"was_{name}": value for name, value in values.items()}


def _request(
    page: Page, typed: Typed, customer_id: int, request_id: str
) -> pb.UpdateCustomerRequest:
    """Return the change of the edited fields."""
    edited = {name for name in (*FIELDS, BY_RULE) if typed.text(name) != typed.text(f"was_{name}")}
    customer = Customer(customer_id=customer_id)
    paths = [name for name in FIELDS[:-1] if name in edited]
    if "first_name" in edited:
        customer.first_name = page.form.get("first_name", "")
    if "last_name" in edited:
        customer.last_name = page.form.get("last_name", "")
    if "age" in edited:
        customer.age = typed.whole("age", formats.MAX_INT32)
    if "monthly_income" in edited and (income := typed.money("monthly_income")) is not None:
        customer.monthly_income.CopyFrom(income)
    if "phone_number" in edited:
        customer.phone_number = typed.text("phone_number")
    if typed.flag(BY_RULE):
        # Without a value, the limit follows the income.
        paths += ["approved_limit"] if BY_RULE in edited else []
    elif edited & {"approved_limit", BY_RULE}:
        paths.append("approved_limit")
        limit = typed.money("approved_limit")
        # An amount that cannot be parsed must not return the limit to the rule.
        customer.approved_limit.CopyFrom(formats.money_of(-1) if limit is None else limit)
    request = pb.UpdateCustomerRequest(request_id=request_id, customer=customer)
    request.update_mask.paths.extend(paths)
    return request


def _form(
    page: Page,
    customer: Customer,
    values: Mapping[str, str],
    problems: dict[str, str],
    problem: Problem | None,
) -> Response:
    status = 200
    if problems or problem is not None:
        status = problem.http_status if problem is not None else 400
    example = pb.UpdateCustomerRequest(
        request_id=EXAMPLE_REQUEST_ID,
        customer=Customer(customer_id=customer.customer_id, monthly_income=customer.monthly_income),
    )
    example.update_mask.paths.append("monthly_income")
    return page.render(
        "customer_edit.html",
        status,
        customer=customer,
        values=values,
        originals=[f"was_{name}" for name in (*FIELDS, BY_RULE)],
        problems=problems,
        problem=problem,
        planned=page.planned(example),
    )
