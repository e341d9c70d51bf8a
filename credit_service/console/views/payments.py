"""Payments of a loan: reversals, part prepayments and foreclosures."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

import grpc
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from credit_service.client import display
from credit_service.console import fields, formats
from credit_service.console.formats import Typed
from credit_service.console.page import (
    EXAMPLE_REQUEST_ID,
    Page,
    Problem,
    form_for_retry,
    is_request_id,
    new_request_id,
)
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import loan_pb2
from credit_service_client.errors import ServiceError

PREPAYMENT = ("amount", "paid_on", "effect")
EFFECTS: Mapping[str, loan_pb2.PrepaymentEffect.ValueType] = {
    "tenure": loan_pb2.PREPAYMENT_EFFECT_REDUCE_TENURE,
    "installment": loan_pb2.PREPAYMENT_EFFECT_REDUCE_INSTALLMENT,
}
REASONS: Mapping[str, str] = {
    "BOUNCED": "It was returned unpaid, such as a bounced mandate or cheque.",
    "DUPLICATE": "It was recorded twice.",
    "WRONG_LOAN": "It belongs to another loan.",
    "ENTRY_ERROR": "Its amount, day or purpose was recorded wrongly.",
}


def _home(page: Page) -> str:
    """Return the address of the loan."""
    return f"/qa/customers/{page.path_id('customer_id')}/loans/{page.path_id('loan_id')}"


def _raise_unless_shown(error: ServiceError) -> None:
    if error.code is grpc.StatusCode.UNAUTHENTICATED:
        raise error


# Reversals.


def reversal(page: Page) -> Response:
    """The form to reverse a payment, which is also the confirmation."""
    return _reversal(page, page.typed_before() or {"request_id": new_request_id()}, {}, None)


def reverse(page: Page) -> Response:
    """Reverse the payment, and return to the loan."""
    reason = page.form.get("reason", "")
    if reason not in REASONS:
        return _reversal(page, page.form, {"reason": "Choose a reason."}, None)
    request = _reverse_request(page, page.request_id(), reason)
    try:
        reversed_payment = page.service.reverse_payment(request)
    except ServiceError as error:
        _raise_unless_shown(error)
        return _reversal(page, form_for_retry(page.form, error), {}, Problem(error))
    amount = display.inr(reversed_payment.payment.amount)
    notice = f"Payment {request.payment_id} of {amount} is reversed."
    if reversed_payment.loan.state == loan_pb2.LOAN_STATE_ACTIVE:
        notice += f" {display.inr(reversed_payment.loan.outstanding)} is outstanding."
    return page.redirect(_home(page), notice)


def _reverse_request(page: Page, request_id: str, reason: str) -> pb.ReversePaymentRequest:
    return pb.ReversePaymentRequest(
        request_id=request_id,
        payment_id=page.path_id("payment_id"),
        reason=loan_pb2.PaymentReversalReason.Value(f"PAYMENT_REVERSAL_REASON_{reason}"),
    )


def _reversal(
    page: Page, values: Mapping[str, str], problems: dict[str, str], problem: Problem | None
) -> Response:
    payment_id = page.path_id("payment_id")
    payments = page.service.all_payments(page.path_id("customer_id"), page.path_id("loan_id"))
    payment = next((each for each in payments if each.payment_id == payment_id), None)
    if payment is None:
        raise HTTPException(HTTPStatus.NOT_FOUND, f"This loan has no payment {payment_id}.")
    return page.render(
        "payment_reversal.html",
        _status(problems, problem),
        payment=payment,
        home=_home(page),
        reasons=REASONS,
        values=values,
        problems=problems,
        problem=problem,
        planned=page.planned(_reverse_request(page, EXAMPLE_REQUEST_ID, "BOUNCED")),
    )


def _status(problems: Mapping[str, str], problem: Problem | None) -> int:
    if problem is not None:
        return problem.http_status
    return HTTPStatus.BAD_REQUEST if problems else HTTPStatus.OK


# Part prepayments.


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is left of a loan: without the prepayment, or after it with one of the effects."""

    name: str
    installments: int
    installment: Any
    last_day: Any
    interest: Any
    chosen: bool = False


def prepayment(page: Page) -> Response:
    """Step one: the amount, the day and the effect."""
    return _prepayment(page, _terms(page.query), {}, None)


def _terms(values: Mapping[str, str]) -> dict[str, str]:
    terms = {name: values.get(name, "").strip() for name in PREPAYMENT}
    return {**terms, "effect": terms["effect"] if terms["effect"] in EFFECTS else "tenure"}


def _prepayment(
    page: Page, values: Mapping[str, str], problems: dict[str, str], problem: Problem | None
) -> Response:
    loan = page.service.loan(page.path_id("loan_id"), page.path_id("customer_id")).loan
    example = _prepay_request(page, EXAMPLE_REQUEST_ID, formats.money_of(2_000_000), None, "tenure")
    example.validate_only = True
    return page.render(
        "prepay.html",
        _status(problems, problem),
        loan=loan,
        home=_home(page),
        values=values,
        problems=problems,
        problem=problem,
        planned=page.planned(example),
    )


def _prepay_request(
    page: Page, request_id: str, amount: Any, paid_on: Any, effect: str
) -> pb.RecordPaymentRequest:
    return pb.RecordPaymentRequest(
        request_id=request_id,
        customer_id=page.path_id("customer_id"),
        loan_id=page.path_id("loan_id"),
        amount=amount,
        paid_on=paid_on,
        purpose=loan_pb2.PAYMENT_PURPOSE_PART_PREPAYMENT,
        prepayment_effect=EFFECTS[effect],
    )


def preview(page: Page) -> Response:
    """Step two: the new schedule, beside that of the other effect, and the button to prepay.

    The address contains the request id, so that a reload or the back button keeps it: repeated
    confirmations record one payment.
    """
    source = page.typed_before() or page.query
    values, request_id = _terms(source), source.get("request_id", "")
    if not is_request_id(request_id):
        address = urlencode({**values, "request_id": new_request_id()})
        return RedirectResponse(f"{_home(page)}/prepay/review?{address}", 303)
    return _preview(page, values, request_id, None)


def _preview(
    page: Page, values: Mapping[str, str], request_id: str, problem: Problem | None
) -> Response:
    typed = Typed(values)
    amount, paid_on = typed.money("amount"), typed.day("paid_on")
    if typed.problems:
        return _prepayment(page, values, fields.beside(PREPAYMENT, (), typed.problems), problem)
    customer_id, loan_id = page.path_id("customer_id"), page.path_id("loan_id")
    request = _prepay_request(page, request_id, amount, paid_on, values["effect"])
    checked: dict[str, pb.RecordPaymentResponse] = {}
    try:
        for effect in EFFECTS:
            trial = _prepay_request(page, request_id, amount, paid_on, effect)
            trial.validate_only = True
            checked[effect] = page.service.pay(trial)
    except ServiceError as error:
        _raise_unless_shown(error)
        problems = fields.beside(PREPAYMENT, error.violations, {})
        return _prepayment(page, values, problems, Problem(error))
    found = page.service.loan(loan_id, customer_id)
    chosen = checked[values["effect"]]
    outcomes = [
        _without(found.loan, page.service.schedule(customer_id, loan_id)),
        *(
            _after(effect, response, chosen=response is chosen)
            for effect, response in checked.items()
        ),
    ]
    return page.render(
        "prepay_review.html",
        _status({}, problem),
        loan=found.loan,
        customer=found.customer,
        home=_home(page),
        values=values,
        request_id=request_id,
        outcomes=outcomes,
        response=chosen,
        problem=problem,
        planned=page.planned(request),
        back_href=f"{_home(page)}/prepay?" + urlencode(values),
    )


def _without(loan: Any, schedule: Any) -> Outcome:
    left = [
        each for each in schedule.installments if each.state != loan_pb2.INSTALLMENT_STATE_SETTLED
    ]
    interest = formats.money_of(sum(display.paise(each.interest) for each in left))
    return Outcome("Without it", len(left), loan.monthly_installment, loan.end_date, interest)


_NAMES = {"tenure": "Reduce the tenure", "installment": "Reduce the installment"}


def _after(effect: str, response: pb.RecordPaymentResponse, *, chosen: bool) -> Outcome:
    return Outcome(
        _NAMES[effect],
        len(response.schedule),
        response.loan.monthly_installment,
        response.loan.end_date,
        response.totals.interest,
        chosen,
    )


def prepay(page: Page) -> Response:
    """Record the part prepayment, and return to the loan."""
    values, request_id = _terms(page.form), page.request_id()
    typed = Typed(values)
    amount, paid_on = typed.money("amount"), typed.day("paid_on")
    if typed.problems:
        return _preview(page, values, request_id, None)
    request = _prepay_request(page, request_id, amount, paid_on, values["effect"])
    try:
        recorded = page.service.pay(request)
    except ServiceError as error:
        _raise_unless_shown(error)
        request_id = form_for_retry(page.form, error)["request_id"]
        return _preview(page, values, request_id, Problem(error))
    notice = (
        f"{display.inr(recorded.payment.amount)} repaid principal. "
        f"{len(recorded.schedule)} installments are left."
    )
    return page.redirect(_home(page), notice)


# Foreclosures.


def quote(page: Page) -> Response:
    """What closes the loan on a day, and the button to pay it."""
    values = page.typed_before() or {
        "paid_on": page.query.get("paid_on", ""),
        "request_id": new_request_id(),
    }
    return _quote(page, values, None)


def _quote(page: Page, values: Mapping[str, str], problem: Problem | None) -> Response:
    customer_id, loan_id = page.path_id("customer_id"), page.path_id("loan_id")
    typed = Typed(values)
    day = typed.day("paid_on")
    problems = fields.beside(("paid_on",), (), typed.problems)
    found = None
    if not problems:
        request = pb.GetForeclosureQuoteRequest(
            customer_id=customer_id, loan_id=loan_id, paid_on=day
        )
        try:
            found = page.service.foreclosure_quote(request)
        except ServiceError as error:
            _raise_unless_shown(error)
            problems = fields.beside(("paid_on",), error.violations, {})
            problem = problem or Problem(error)
    today = datetime.now(page.console.zone).date().isoformat()
    return page.render(
        "foreclosure.html",
        _status(problems, problem),
        loan=page.service.loan(loan_id, customer_id).loan,
        home=_home(page),
        quote=found,
        payable=found is not None and formats.iso(found.paid_on) <= today,
        values=values,
        problems=problems,
        problem=problem,
        planned=None if found is None else page.planned(_foreclose_request(page, found)),
    )


def _foreclose_request(page: Page, found: Any) -> pb.RecordPaymentRequest:
    return pb.RecordPaymentRequest(
        request_id=EXAMPLE_REQUEST_ID,
        customer_id=page.path_id("customer_id"),
        loan_id=page.path_id("loan_id"),
        amount=found.total,
        paid_on=found.paid_on,
        purpose=loan_pb2.PAYMENT_PURPOSE_FORECLOSURE,
    )


def foreclose(page: Page) -> Response:
    """Pay the quote that was shown, and return to the loan."""
    typed = Typed(page.form)
    amount, paid_on = typed.money("amount"), typed.day("paid_on")
    if typed.problems:
        return _quote(page, page.form, None)
    request = pb.RecordPaymentRequest(
        request_id=page.request_id(),
        customer_id=page.path_id("customer_id"),
        loan_id=page.path_id("loan_id"),
        amount=amount,
        paid_on=paid_on,
        purpose=loan_pb2.PAYMENT_PURPOSE_FORECLOSURE,
    )
    try:
        recorded = page.service.pay(request)
    except ServiceError as error:
        _raise_unless_shown(error)
        return _quote(page, form_for_retry(page.form, error), Problem(error))
    notice = f"{display.inr(recorded.payment.amount)} recorded. The loan is closed."
    return page.redirect(_home(page), notice)
