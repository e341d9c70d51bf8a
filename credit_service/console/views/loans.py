"""One loan: its state, schedule and payments."""

from collections.abc import Mapping
from typing import Any

import grpc
from starlette.responses import RedirectResponse, Response

from credit_service.client import display
from credit_service.console import fields, formats
from credit_service.console.formats import Typed
from credit_service.console.page import (
    EXAMPLE_REQUEST_ID,
    Page,
    Problem,
    form_for_retry,
    new_request_id,
)
from credit_service.rupees import format_rupees
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import loan_pb2
from credit_service_client.errors import ServiceError

FIELDS = ("amount", "paid_on")


def find(page: Page) -> Response:
    """Redirect to the loan of an id, or let the user choose if several customers have one."""
    loan_id = page.path_id("loan_id")
    try:
        found = page.service.loan(loan_id)
    except ServiceError as error:
        if error.reason != "LOAN_ID_AMBIGUOUS":
            raise
        customers = [each for each in error.metadata.get("customer_ids", "").split(",") if each]
        return page.render("ambiguous.html", 300, loan_id=loan_id, customer_ids=customers)
    return RedirectResponse(f"/qa/customers/{found.loan.customer_id}/loans/{loan_id}", 303)


def show(page: Page) -> Response:
    """One loan with its schedule."""
    return _show(page, page.typed_before() or {"request_id": new_request_id()}, {}, None)


def pay(page: Page) -> Response:
    """Record a payment, or show the form again with the problem beside each field."""
    typed = Typed(page.form)
    amount, paid_on = typed.money("amount"), typed.day("paid_on")
    if typed.problems:
        return _show(page, page.form, fields.beside(FIELDS, (), typed.problems), None)
    request = _payment(page, page.request_id(), amount, paid_on)
    try:
        recorded = page.service.pay(request)
    except ServiceError as error:
        if error.code is grpc.StatusCode.UNAUTHENTICATED:
            raise
        problems = fields.beside(FIELDS, error.violations, {})
        return _show(page, form_for_retry(page.form, error), problems, Problem(error))
    count = len(recorded.installments)
    settled = {0: "It covers part of an installment.", 1: "It settled one installment."}
    notice = f"{display.inr(recorded.payment.amount)} recorded. " + settled.get(
        count, f"It settled {count} installments."
    )
    if recorded.loan.state == loan_pb2.LOAN_STATE_CLOSED:
        notice += " The loan is closed."
    return page.redirect(page.request.url.path.removesuffix("/pay"), notice)


def _payment(page: Page, request_id: str, amount: Any, paid_on: Any) -> pb.RecordPaymentRequest:
    return pb.RecordPaymentRequest(
        request_id=request_id,
        customer_id=page.path_id("customer_id"),
        loan_id=page.path_id("loan_id"),
        amount=amount,
        paid_on=paid_on,
    )


def _show(
    page: Page, values: Mapping[str, str], problems: dict[str, str], problem: Problem | None
) -> Response:
    customer_id, loan_id = page.path_id("customer_id"), page.path_id("loan_id")
    found = page.service.loan(loan_id, customer_id)
    schedule = page.service.schedule(customer_id, loan_id)
    failed = bool(problems) or problem is not None
    next_installment = next(
        (
            each
            for each in schedule.installments
            if each.state != loan_pb2.INSTALLMENT_STATE_SETTLED
        ),
        None,
    )
    due = None
    if next_installment is not None:
        due = formats.money_of(
            display.paise(next_installment.payment) - display.paise(next_installment.paid_amount)
        )
    request = pb.ListPaymentsRequest(
        customer_id=customer_id, loan_id=loan_id, page_token=page.query.get("payments_token", "")
    )
    payments, payments_problem = page.attempt(lambda: page.service.payments(request))
    status = (problem.http_status if problem is not None else 400) if failed else 200
    return page.render(
        "loan.html",
        status,
        loan=found.loan,
        customer=found.customer,
        schedule=schedule,
        due=due,
        payments=payments,
        payments_problem=payments_problem,
        values=values,
        problems=problems,
        problem=problem,
        planned=page.planned(_payment(page, EXAMPLE_REQUEST_ID, due, None)),
    )


def schedule_csv(page: Page) -> Response:
    """The schedule as a CSV file."""
    customer_id, loan_id = page.path_id("customer_id"), page.path_id("loan_id")
    schedule = page.service.schedule(customer_id, loan_id)
    text = formats.csv_text(
        ("number", "due_date", "payment", "principal", "interest", "balance", "paid", "state"),
        (
            (
                each.number,
                formats.iso(each.due_date),
                format_rupees(display.paise(each.payment)),
                format_rupees(display.paise(each.principal)),
                format_rupees(display.paise(each.interest)),
                format_rupees(display.paise(each.balance)),
                format_rupees(display.paise(each.paid_amount)),
                display.enum_name(each.state, loan_pb2.InstallmentState),
            )
            for each in schedule.installments
        ),
    )
    return download(text.encode(), f"loan-{customer_id}-{loan_id}-schedule.csv", "text/csv")


def download(content: bytes, filename: str, content_type: str) -> Response:
    """Return a file to save. `filename` must be ASCII."""
    return Response(
        content,
        media_type=content_type,
        headers={"content-disposition": f'attachment; filename="{filename}"'},
    )
