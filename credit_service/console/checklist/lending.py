"""Checks of loan creation and payments."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import grpc

from credit_service.client import display
from credit_service.console import formats
from credit_service.console.checklist.bench import LAKH_PAISE, Bench, Flow, Item, require, verdict
from credit_service.rupees import RUPEE_PAISE, format_inr
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import loan_pb2


def _approved_is_booked(bench: Bench) -> str:
    loan = bench.booked()
    stored = bench.service.loan(loan.loan_id)
    summary = (
        f"loan {stored.loan.loan_id} {display.enum_name(stored.loan.state, loan_pb2.LoanState)}, "
        f"current debt {display.inr(stored.customer.current_debt)}"
    )
    require(
        stored.loan == loan
        and stored.loan.state == loan_pb2.LOAN_STATE_ACTIVE
        and display.paise(stored.customer.current_debt) == LAKH_PAISE,
        summary,
    )
    return summary


def _booked_once(bench: Bench) -> str:
    customer_id = bench.with_history(10, 12, 100_000).customer_id
    request_id = str(uuid4())
    with ThreadPoolExecutor(2) as both:
        futures = [
            both.submit(bench.apply, customer_id, 100_000, "12", 12, request_id) for _ in range(2)
        ]
    answers = [each.result() for each in futures]
    answers.append(bench.apply(customer_id, 100_000, "12", 12, request_id))
    loans = len(bench.loans(customer_id))
    ids = sorted({each.loan.loan_id for each in answers})
    summary = f"three responses with loan {', '.join(map(str, ids))}; {loans - 10} booked"
    require(len(ids) == 1 and loans == 11, summary)
    return summary


def _decline_is_stored(bench: Bench) -> str:
    customer_id = bench.customer().customer_id
    created = bench.apply(customer_id, 100_000, "12", 12)
    stored = bench.service.decision(created.decision_id)
    summary = f"decision {stored.decision_id}: {verdict(stored)}"
    require(
        not created.approved
        and not stored.approved
        and stored.reasons == created.reasons
        and not bench.loans(customer_id),
        summary,
    )
    return summary


def _no_two_on_one_headroom(bench: Bench) -> str:
    customer = bench.with_history(10, 12, 100_000, income_rupees=100_000)
    limit_rupees = display.paise(customer.approved_limit) // RUPEE_PAISE
    amount = limit_rupees * 2 // 3
    with ThreadPoolExecutor(4) as at_once:
        futures = [
            at_once.submit(bench.apply, customer.customer_id, amount, "12", 480) for _ in range(4)
        ]
    approved = sum(each.result().approved for each in futures)
    after = bench.service.customer(customer.customer_id)
    summary = (
        f"{approved} of 4 approved, debt {display.inr(after.current_debt)} "
        f"of {display.inr(after.approved_limit)}"
    )
    within = display.paise(after.current_debt) <= display.paise(after.approved_limit)
    require(approved == 1 and within, summary)
    return summary


def _schedule_adds_up(bench: Bench) -> str:
    loan = bench.booked()
    schedule = bench.service.schedule(loan.customer_id, loan.loan_id)
    lines = schedule.installments
    principal = sum(display.paise(each.principal) for each in lines)
    interest = sum(display.paise(each.interest) for each in lines)
    last = display.paise(lines[-1].payment)
    summary = (
        f"{len(lines)} installments, principal {format_inr(principal)}, "
        f"interest {format_inr(interest)}, last {format_inr(last)}, "
        f"balance {display.inr(lines[-1].balance)}"
    )
    require(
        (len(lines), principal, interest, last, display.paise(lines[-1].balance))
        == (12, LAKH_PAISE, 661_853, 888_485, 0),
        summary,
    )
    return summary


def _payment_settles(bench: Bench) -> str:
    loan = bench.booked()
    recorded = bench.service.pay(_payment(loan, display.paise(loan.monthly_installment)))
    after = bench.service.loan(loan.loan_id, loan.customer_id).loan
    summary = (
        f"{len(recorded.installments)} installment settled, {after.repayments_left} left, "
        f"{display.inr(after.outstanding)} outstanding"
    )
    outstanding = display.paise(loan.outstanding) - display.paise(loan.monthly_installment)
    require(
        len(recorded.installments) == 1
        and after.repayments_left == 11
        and display.paise(after.outstanding) == outstanding,
        summary,
    )
    return summary


def _payment_too_large(bench: Bench) -> str:
    loan = bench.booked()
    error = bench.rejected(
        lambda: bench.service.pay(_payment(loan, display.paise(loan.outstanding) + 1)),
        grpc.StatusCode.FAILED_PRECONDITION,
        "PAYMENT_EXCEEDS_OUTSTANDING",
    )
    return f"{error.code.name} ({error.reason})"


def _payment(loan: Any, amount_paise: int) -> pb.RecordPaymentRequest:
    return pb.RecordPaymentRequest(
        request_id=str(uuid4()),
        customer_id=loan.customer_id,
        loan_id=loan.loan_id,
        amount=formats.money_of(amount_paise),
    )


FLOW = Flow(
    "loans",
    "Loan creation",
    (
        Item(
            "approved-booked",
            "An approved loan is booked",
            "the loan ACTIVE, current debt ₹1,00,000.00",
            _approved_is_booked,
            has_figures=True,
        ),
        Item(
            "booked-once",
            "Two concurrent calls and a repeat with one request id book one loan",
            "one loan id in all three responses, 1 booked",
            _booked_once,
            has_figures=True,
        ),
        Item(
            "decline-stored",
            "A decline is stored with its reasons",
            "a decision, declined: NO_CREDIT_HISTORY, and no loan",
            _decline_is_stored,
            has_figures=True,
        ),
        Item(
            "one-headroom",
            "Four concurrent applications, with credit for only one",
            "1 of 4 approved, debt within the limit",
            _no_two_on_one_headroom,
            has_figures=True,
        ),
        Item(
            "schedule-adds-up",
            "The schedule adds up to the paisa",
            "12 installments, principal ₹1,00,000.00, interest ₹6,618.53, last ₹8,884.85, "
            "balance ₹0.00",
            _schedule_adds_up,
            has_figures=True,
        ),
        Item(
            "payment-settles",
            "A payment of one installment settles one",
            "1 installment settled, 11 left, outstanding less by the payment",
            _payment_settles,
            has_figures=True,
        ),
        Item(
            "payment-too-large",
            "A payment above the outstanding amount is rejected",
            "FAILED_PRECONDITION (PAYMENT_EXCEEDS_OUTSTANDING)",
            _payment_too_large,
            has_figures=True,
        ),
    ),
)
