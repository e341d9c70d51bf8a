"""The lists of the service, each with the method that it reads."""

from collections.abc import Iterator, Sequence
from typing import Any

from credit_service.client import event_text
from credit_service.console.listing import Filter, Filters, Listing
from credit_service.console.service import Service
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import (
    decision_pb2,
    delinquency_pb2,
    event_pb2,
    ingestion_pb2,
    loan_pb2,
    offer_pb2,
    referral_pb2,
    scorecard_pb2,
)
from credit_service.v1 import ingestion_service_pb2 as ingestion_pb
from credit_service.v1 import operations_service_pb2 as operations_pb
from credit_service.v1 import scorecard_service_pb2 as scorecard_pb
from credit_service.v1.customer_pb2 import Customer


def _numbers(filters: Filters, each: Filter) -> list[int]:
    """Return the numbers of a choice's values."""
    return [each.choices[text] for text in filters.values.get(each.name, ())]


def _number(filters: Filters, each: Filter) -> Any:
    return next(iter(_numbers(filters, each)), 0)


_CUSTOMER = Filter("customer_id", "Customer id", "whole")
_OF_CUSTOMER = Filter("customer_id", "Customer id", "whole", is_required=True)
_OUTCOME = Filter("outcome", "Outcome", "choice", decision_pb2.DecisionOutcome)
_REFERRAL = Filter("referral_state", "Referral", "choice", referral_pb2.ReferralState)
_WAITING = Filter("state", "State", "choice", referral_pb2.ReferralState, default="PENDING")
_CLASS = Filter("class", "Asset class", "choice", decision_pb2.AssetClass, omits=("STANDARD",))
_LOAN_STATE = Filter("state", "State", "choice", loan_pb2.LoanState)
_OFFER_STATES = Filter("states", "States", "choices", offer_pb2.LoanOfferState)
_EVENT_TYPES = Filter("event_types", "Types", "choices", event_pb2.CreditEventType)
_ROW_OUTCOMES = Filter("outcomes", "Outcomes", "choices", ingestion_pb2.RowOutcome)


def _customers(service: Service, found: Filters, size: int, token: str) -> Any:
    request = pb.ListCustomersRequest(query=found.text("query"), page_size=size, page_token=token)
    answer = service.customers(request)
    return answer.customers, answer.next_page_token


def _decisions(service: Service, found: Filters, size: int, token: str) -> Any:
    request = pb.ListDecisionsRequest(
        customer_id=found.optional_id("customer_id"),
        outcome=_number(found, _OUTCOME),
        referral_state=_number(found, _REFERRAL),
        page_size=size,
        page_token=token,
    )
    answer = service.decisions(request)
    return answer.decisions, answer.next_page_token


def _referrals(service: Service, found: Filters, size: int, token: str) -> Any:
    request = pb.ListDecisionsRequest(
        customer_id=found.optional_id("customer_id"),
        referral_state=_number(found, _WAITING),
        page_size=size,
        page_token=token,
    )
    answer = service.decisions(request)
    return answer.decisions, answer.next_page_token


def _overdue(service: Service, found: Filters, size: int, token: str) -> Any:
    request = pb.ListDelinquentLoansRequest(
        asset_class=_number(found, _CLASS),
        min_days_past_due=found.whole("days"),
        page_size=size,
        page_token=token,
    )
    answer = service.overdue_loans(request)
    return answer.loans, answer.next_page_token


def _ingestions(service: Service, _found: Filters, size: int, token: str) -> Any:
    request = ingestion_pb.ListIngestionsRequest(page_size=size, page_token=token)
    answer = service.ingestions(request)
    return answer.ingestions, answer.next_page_token


def _row_errors(service: Service, found: Filters, size: int, token: str) -> Any:
    request = ingestion_pb.ListRowErrorsRequest(
        ingestion_id=found.text("ingestion_id"), page_size=size, page_token=token
    )
    request.outcomes.extend(_numbers(found, _ROW_OUTCOMES))  # type: ignore[arg-type] # checked
    answer = service.row_errors(request)
    return answer.row_errors, answer.next_page_token


def _scorecards(service: Service, _found: Filters, size: int, token: str) -> Any:
    request = scorecard_pb.ListScorecardsRequest(page_size=size, page_token=token)
    answer = service.scorecards(request)
    return answer.scorecards, answer.next_page_token


def _parked_tasks(service: Service, found: Filters, size: int, token: str) -> Any:
    request = operations_pb.ListParkedTasksRequest(
        actor=found.text("actor"),
        task_id=found.whole("task_id"),
        page_size=size,
        page_token=token,
    )
    answer = service.parked_tasks(request)
    return answer.tasks, answer.next_page_token


def _loans(service: Service, found: Filters, size: int, token: str) -> Any:
    request = pb.ListLoansRequest(
        customer_id=found.whole("customer_id"),
        state=_number(found, _LOAN_STATE),
        page_size=size,
        page_token=token,
    )
    answer = service.loans(request)
    return answer.loans, answer.next_page_token


def _offers(service: Service, found: Filters, size: int, token: str) -> Any:
    request = pb.ListLoanOffersRequest(
        customer_id=found.whole("customer_id"), page_size=size, page_token=token
    )
    request.states.extend(_numbers(found, _OFFER_STATES))  # type: ignore[arg-type] # checked
    answer = service.offers(request)
    return answer.offers, answer.next_page_token


def _payments(service: Service, found: Filters, size: int, token: str) -> Any:
    request = pb.ListPaymentsRequest(
        customer_id=found.whole("customer_id"),
        loan_id=found.whole("loan_id"),
        page_size=size,
        page_token=token,
    )
    answer = service.payments(request)
    return answer.payments, answer.next_page_token


def _changes(service: Service, found: Filters, size: int, token: str) -> Any:
    request = pb.ListCustomerChangesRequest(
        customer_id=found.whole("customer_id"), page_size=size, page_token=token
    )
    answer = service.customer_changes(request)
    return list(_one_by_one(answer.changes)), answer.next_page_token


def _one_by_one(changes: Sequence[Any]) -> Iterator[Any]:
    """Yield a change for each of its facts, with that fact alone."""
    for each in changes:
        for fact in each.facts:
            single = type(each)()
            single.CopyFrom(each)
            del single.facts[:]
            single.facts.append(fact)
            yield single


def _events(service: Service, found: Filters, size: int, token: str) -> Any:
    after = int(token) if token.isascii() and token.isdigit() and len(token) < 19 else 0
    request = pb.WatchCreditEventsRequest(
        after_event_id=after or found.whole("after_event_id"),
        customer_id=found.optional_id("customer_id"),
    )
    request.event_types.extend(_numbers(found, _EVENT_TYPES))  # type: ignore[arg-type] # checked
    return service.events(request, size)


CUSTOMERS = Listing(
    "customers",
    "/qa/customers",
    "Customers",
    Customer.DESCRIPTOR,
    (
        *("customer_id", "first_name", "last_name", "age", "phone_number", "monthly_income"),
        *("approved_limit", "approved_limit_set", "current_debt", "current_installments"),
        *("held_credit", "held_installments", "available_credit", "days_past_due"),
        *("asset_class", "version", "created_time"),
    ),
    _customers,
    (Filter("query", "Start of a name or phone number"),),
)
_DECISION_COLUMNS = (
    *("decision_id", "customer_id", "outcome", "ask.loan_amount", "ask.interest_rate"),
    *("ask.tenure_months", "corrected_interest_rate", "monthly_installment", "reasons.code"),
    *("credit_score.score", "scorecard_version", "decided_time", "loan_id", "offer_id"),
    "principal",
)
_DECISION = decision_pb2.Decision.DESCRIPTOR
DECISIONS = Listing(
    "decisions",
    "/qa/decisions",
    "Decisions",
    _DECISION,
    _DECISION_COLUMNS,
    _decisions,
    (_CUSTOMER, _OUTCOME, _REFERRAL),
)
REFERRALS = Listing(
    "referrals",
    "/qa/referrals",
    "Referrals",
    _DECISION,
    (
        *_DECISION_COLUMNS,
        *("referral.state", "referral.kind", "referral.last_day", "referral.reviewer"),
        *("referral.reason", "referral.reviewed_time", "referral.result_decision_id"),
    ),
    _referrals,
    (_WAITING, _CUSTOMER),
)
OVERDUE = Listing(
    "overdue-loans",
    "/qa/overdue",
    "Overdue loans",
    delinquency_pb2.LoanDelinquency.DESCRIPTOR,
    (
        *("loan_id", "customer_id", "asset_class", "days_past_due", "oldest_due_date"),
        *("overdue_installments", "overdue_amount"),
    ),
    _overdue,
    (_CLASS, Filter("days", "Days past due, at least", "whole", default="1")),
)
INGESTIONS = Listing(
    "ingestions",
    "/qa/ingestions",
    "Ingestions",
    ingestion_pb2.Ingestion.DESCRIPTOR,
    (
        *("ingestion_id", "kind", "source", "filename", "on_existing", "validate_only", "state"),
        *("rows_read", "inserted", "updated", "unchanged", "skipped", "rejected", "principal"),
        *("created_time", "started_time", "finished_time", "error.code", "error.message"),
        *("rows_removed", "rows_restored", "rows_kept"),
    ),
    _ingestions,
)
SCORECARDS = Listing(
    "scorecards",
    "/qa/scorecards",
    "Scorecards",
    scorecard_pb2.Scorecard.DESCRIPTOR,
    (
        *("version", "state", "created_time", "created_by", "activated_time", "activated_by"),
        "scheduled_on",
    ),
    _scorecards,
)
LOANS = Listing(
    "loans",
    "/qa/loans",
    "Loans",
    loan_pb2.Loan.DESCRIPTOR,
    (
        *("loan_id", "customer_id", "state", "loan_amount", "interest_rate", "tenure_months"),
        *("monthly_installment", "last_installment", "repayments_left", "emis_paid_on_time"),
        *("outstanding", "principal_outstanding", "paid_amount", "next_due_date"),
        *("days_past_due", "start_date", "end_date", "closed_on", "source", "decision_id"),
    ),
    _loans,
    (_OF_CUSTOMER, _LOAN_STATE),
    {"loan_id": "/qa/customers/{0.customer_id}/loans/{0.loan_id}"},
    (
        *("loan_id", "state", "loan_amount", "interest_rate", "monthly_installment"),
        *("repayments_left", "outstanding", "days_past_due", "next_due_date", "end_date"),
    ),
    "The loans of a customer.",
)
OFFERS = Listing(
    "offers",
    "/qa/offers",
    "Offers",
    offer_pb2.LoanOffer.DESCRIPTOR,
    (
        *("offer_id", "customer_id", "state", "decision_id", "loan_amount", "interest_rate"),
        *("tenure_months", "monthly_installment", "last_installment", "held_credit"),
        *("created_on", "valid_until", "created_time"),
    ),
    _offers,
    (_OF_CUSTOMER, _OFFER_STATES),
    {"offer_id": "/qa/offers/{0.offer_id}", "decision_id": "/qa/decisions/{0.decision_id}"},
    (
        *("offer_id", "state", "loan_amount", "interest_rate", "tenure_months"),
        *("monthly_installment", "held_credit", "valid_until", "decision_id"),
    ),
    "The offers to a customer.",
)
PAYMENTS = Listing(
    "payments",
    "/qa/payments",
    "Payments",
    loan_pb2.Payment.DESCRIPTOR,
    (
        *("payment_id", "customer_id", "loan_id", "amount", "paid_on", "purpose"),
        *("prepayment_effect", "prepaid_principal", "prepayment_charge", "recorded_time"),
        *("principal", "request_id", "reversal.reason", "reversal.reversed_time"),
        "reversal.principal",
    ),
    _payments,
    (_OF_CUSTOMER, Filter("loan_id", "Loan id", "whole", is_required=True)),
    {"loan_id": "/qa/customers/{0.customer_id}/loans/{0.loan_id}"},
    (
        *("payment_id", "loan_id", "amount", "paid_on", "purpose", "recorded_time"),
        *("reversal.reason", "reversal.reversed_time"),
    ),
    "The payments of a loan, reversed ones included.",
)
CHANGES = Listing(
    "changes",
    "/qa/changes",
    "Changes",
    pb.CustomerChange.DESCRIPTOR,
    (
        *("time", "facts.field", "facts.previous", "facts.current", "loan_id", "ingestion_id"),
        "principal",
    ),
    _changes,
    (_OF_CUSTOMER,),
    {},
    (
        *("time", "facts.field", "facts.previous", "facts.current", "loan_id", "ingestion_id"),
        "principal",
    ),
    "What changed of a customer's stored facts.",
)
EVENTS = Listing(
    "events",
    "/qa/event-log",
    "Events",
    event_pb2.CreditEvent.DESCRIPTOR,
    ("event_id", "time", "customer_id", "customer_version", "event", "detail"),
    _events,
    (
        Filter("after_event_id", "After event", "whole", least=0),
        _CUSTOMER,
        _EVENT_TYPES,
    ),
    {"customer_id": "/qa/customers/{0.customer_id}"},
    ("event_id", "time", "customer_id", "customer_version", "event", "detail"),
    "The events that the service keeps, oldest first.",
    {
        "event": lambda event: event_text.describe(event).title,
        "detail": lambda event: event_text.describe(event).detail,
    },
)
ROW_ERRORS = Listing(
    "row-errors",
    "/qa/row-errors",
    "Row errors",
    ingestion_pb2.RowError.DESCRIPTOR,
    (
        *("row_number", "column", "column_header", "code", "found", "expected", "message"),
        "outcome",
    ),
    _row_errors,
    (Filter("ingestion_id", "Ingestion id", "uuid", is_required=True), _ROW_OUTCOMES),
    {},
    ("row_number", "column_header", "code", "found", "expected", "message", "outcome"),
    "Rows of an ingestion that were not stored, by default the rejected ones.",
)
PARKED_TASKS = Listing(
    "parked-tasks",
    "/qa/parked-tasks",
    "Parked tasks",
    operations_pb.ParkedTask.DESCRIPTOR,
    (
        *("task_id", "actor", "subject", "attempts", "created_time", "parked_time"),
        "last_error",
    ),
    _parked_tasks,
    (Filter("actor", "Actor"), Filter("task_id", "Task id", "whole")),
)

LISTINGS = (
    *(CUSTOMERS, LOANS, OFFERS, PAYMENTS, CHANGES, DECISIONS, REFERRALS, OVERDUE),
    *(INGESTIONS, ROW_ERRORS, SCORECARDS, EVENTS, PARKED_TASKS),
)
BY_NAME = {each.name: each for each in LISTINGS}
