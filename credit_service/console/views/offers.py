"""Loan offers: one offer, its acceptance and its withdrawal."""

from collections.abc import Mapping
from http import HTTPStatus

import grpc
from starlette.responses import Response

from credit_service.client import display
from credit_service.console import fields
from credit_service.console.formats import Typed
from credit_service.console.page import (
    EXAMPLE_REQUEST_ID,
    Page,
    Problem,
    form_for_retry,
    new_request_id,
)
from credit_service.v1 import credit_service_pb2 as pb
from credit_service_client.errors import ServiceError

ACCEPTANCE = ("loan_amount", "disbursed_on")
WITHDRAWAL = ("reason",)


def show(page: Page) -> Response:
    """One offer, and while it is open the forms to accept and to withdraw it."""
    return _show(page, page.typed_before() or {"request_id": new_request_id()}, {}, None)


def accept(page: Page) -> Response:
    """Book the loan of the offer, all or less of it."""
    offer_id = page.path_id("offer_id")
    typed = Typed(page.form)
    request = pb.AcceptLoanOfferRequest(
        request_id=page.request_id(),
        offer_id=offer_id,
        loan_amount=typed.money("loan_amount") if typed.text("loan_amount") else None,
        disbursed_on=typed.day("disbursed_on"),
    )
    if typed.problems:
        return _show(page, page.form, typed.problems, None)
    try:
        accepted = page.service.accept_offer(request)
    except ServiceError as error:
        return _failed(page, ACCEPTANCE, error)
    loan = accepted.loan
    notice = f"Loan {loan.loan_id} of {display.inr_short(loan.loan_amount)} is booked."
    return page.redirect(f"/qa/offers/{offer_id}", notice)


def withdraw(page: Page) -> Response:
    """End the offer and release its credit."""
    offer_id = page.path_id("offer_id")
    request = pb.WithdrawLoanOfferRequest(
        request_id=page.request_id(), offer_id=offer_id, reason=page.form.get("reason", "")
    )
    try:
        page.service.withdraw_offer(request)
    except ServiceError as error:
        return _failed(page, WITHDRAWAL, error)
    return page.redirect(f"/qa/offers/{offer_id}", f"Offer {offer_id} is withdrawn.")


def _failed(page: Page, names: tuple[str, ...], error: ServiceError) -> Response:
    if error.code is grpc.StatusCode.UNAUTHENTICATED:
        raise error
    problems = fields.beside(names, error.violations, {})
    return _show(page, form_for_retry(page.form, error), problems, Problem(error))


def _show(
    page: Page, values: Mapping[str, str], problems: dict[str, str], problem: Problem | None
) -> Response:
    offer_id = page.path_id("offer_id")
    offer = page.service.offer(offer_id)
    status: int = HTTPStatus.OK
    if problem is not None:
        status = problem.http_status
    elif problems:
        status = HTTPStatus.BAD_REQUEST
    return page.render(
        "offer.html",
        status,
        offer=offer,
        values=values,
        problems=problems,
        problem=problem,
        planned=page.planned(
            pb.AcceptLoanOfferRequest(request_id=EXAMPLE_REQUEST_ID, offer_id=offer_id)
        ),
    )
