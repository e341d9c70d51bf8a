"""`score`, `check`, `loans`, `pay` and the other commands that show one response as a table."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from google.protobuf.message import Message
from google.type.date_pb2 import Date
from rich.text import Text

from credit_service.cli.amounts import read_money, read_rate
from credit_service.cli.common import ExitCode, Target, UsageError
from credit_service.cli.connection import (
    CALL_TIMEOUT_SECONDS,
    connected,
)
from credit_service.cli.output import (
    Listing,
    as_dict,
    decline_codes,
    instant,
    note,
    out,
    print_json,
)
from credit_service.client.display import enum_name, inr, unknown_fact, words
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import (
    decision_pb2,
    key_facts_pb2,
    loan_pb2,
    offer_pb2,
    referral_pb2,
    score_pb2,
)
from credit_service.v1.credit_service_pb2_grpc import CreditServiceStub
from credit_service.v1.customer_pb2 import Customer
from credit_service_client.errors import ServiceError, decoded_errors

_PAGE_SIZE = 1_000
_BAR_CELLS = 20


@contextmanager
def service_at(target: Target) -> Iterator[CreditServiceStub]:
    """The service's methods. Failed calls raise ServiceError."""
    with connected(target) as channel, decoded_errors():
        yield CreditServiceStub(channel)


# One customer.


def customer(
    target: Target,
    customer_id: int | None,
    phone: str | None,
    as_of: date | None,
    *,
    as_json: bool,
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
    if as_json:
        print_json(as_dict(response))
    else:
        _show_customer(response.customer)
    return ExitCode.GOOD


def _show_customer(found: Customer) -> None:
    _show_as_of(found)
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


def update_customer(target: Target, change: CustomerChange, *, as_json: bool) -> int:
    """Change facts of a customer, with a new request id unless one is given. Raises UsageError,
    ServiceError."""
    request_id = change.request_id or uuid4()
    request = _update_request(change, request_id)
    try:
        with service_at(target) as service:
            response = service.UpdateCustomer(request, timeout=CALL_TIMEOUT_SECONDS)
    except (ServiceError, KeyboardInterrupt) as error:
        if not isinstance(error, ServiceError) or error.unavailable:
            note(
                "It is unknown whether the customer was changed. To retry safely, repeat the "
                f"command with --request-id {request_id}: the change is made only once."
            )
        raise
    if as_json:
        print_json(as_dict(response))
    else:
        _show_customer(response.customer)
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


def customer_changes(target: Target, customer_id: int, limit: int, *, as_json: bool) -> int:
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
    return print_list(table, "changes", found, more=more, as_json=as_json)


def _show_as_of(found: Customer | score_pb2.CreditScore) -> None:
    """Show the day of an answer about an earlier day, and what is not known about it."""
    if not found.HasField("as_of"):
        return
    out.print(Text(f"As of {day_text(found.as_of.day)}, by what is known today", style="bold"))
    for each in found.as_of.unknown_facts:
        out.print(Text(f"  not known: {unknown_fact(each)}"), soft_wrap=True)


def score(target: Target, customer_id: int, as_of: date | None, *, as_json: bool) -> int:
    """Show a customer's score, component by component, today or as of an earlier day."""
    request = pb.GetCreditScoreRequest(customer_id=customer_id)
    if as_of is not None:
        request.as_of.CopyFrom(date_of(as_of))
    with service_at(target) as service:
        response = service.GetCreditScore(request, timeout=CALL_TIMEOUT_SECONDS)
    if as_json:
        print_json(as_dict(response))
    else:
        out.print(Text(f"Customer {customer_id}"))
        _show_score(response.credit_score)
    return ExitCode.GOOD


def _show_score(found: score_pb2.CreditScore) -> None:
    _show_as_of(found)
    out.print(Text.assemble(("score ", "bold"), (f"{found.score}", "bold"), " of 100"))
    if found.override:
        rule = enum_name(found.override, score_pb2.ScoreOverride)
        out.print(Text(f"  override: the rule {rule} sets the score; the components do not count"))
    table = Listing("component", ("points", "right"), ("max", "right"), "", "explanation")
    for each in found.components:
        name = enum_name(each.component, score_pb2.ScoreComponent)
        points, most = Decimal(each.points.value or "0"), Decimal(each.max_points.value or "0")
        filled = int(points * _BAR_CELLS / most) if most else 0
        bar = "█" * filled + "·" * (_BAR_CELLS - filled)
        table.add(name.lower().replace("_", " "), str(points), str(most), bar, each.explanation)
    table.print()
    out.print(
        Text(f"  scorecard {found.scorecard_version}, valid until {day_text(found.valid_until)}"),
        style="dim",
    )


# Eligibility.


@dataclass(frozen=True, slots=True)
class Ask:
    """Arguments of `check`. Charges are amounts with tax; None for none."""

    customer_id: int
    amount: str
    rate: str
    tenure_months: int
    lender_charges: str | None = None
    third_party_charges: str | None = None


def check(target: Target, ask: Ask, *, as_json: bool) -> int:
    """Show whether a loan would be approved. A decline also exits with GOOD."""
    tenure = ask.tenure_months
    request = pb.CheckEligibilityRequest(
        customer_id=ask.customer_id,
        loan_amount=read_money(ask.amount),
        interest_rate=read_rate(ask.rate),
        tenure_months=tenure,
        charges=_charges(ask),
    )
    with service_at(target) as service:
        response = service.CheckEligibility(request, timeout=CALL_TIMEOUT_SECONDS)
    if as_json:
        print_json(as_dict(response))
        return ExitCode.GOOD
    requested, corrected = response.interest_rate.value, response.corrected_interest_rate.value
    changed = "" if requested == corrected else f" (requested: {requested} %)"
    _print_outcome(response, f"would be {_outcome(response)}")
    out.print(
        Text(
            f"  {inr(request.loan_amount)} over {tenure} months at {corrected} % a year{changed}: "
            f"{_a_month(response)}"
        ),
        soft_wrap=True,
    )
    if response.HasField("cost_of_credit"):
        out.print(Text(f"  {_cost(response.cost_of_credit)}"), soft_wrap=True)
    _show_reasons(response)
    if response.HasField("counter_offer"):
        _show_counter_offer(response.counter_offer)
    _show_rules(response.rule_results)
    _show_score(response.credit_score)
    return ExitCode.GOOD


_CHARGES = (
    ("lender_charges", "lender charges", offer_pb2.CHARGE_PAYEE_LENDER),
    ("third_party_charges", "third party charges", offer_pb2.CHARGE_PAYEE_THIRD_PARTY),
)


def _charges(ask: Ask) -> list[offer_pb2.LoanCharge]:
    """Return the charges of an ask. Raises UsageError."""
    return [
        offer_pb2.LoanCharge(type=name, payee=payee, amount=read_money(amount))
        for field, name, payee in _CHARGES
        if (amount := getattr(ask, field)) is not None
    ]


def _cost(found: offer_pb2.CostOfCredit) -> str:
    return (
        f"APR {found.annual_percentage_rate.value} %, {inr(found.net_disbursed)} disbursed, "
        f"{inr(found.total_interest)} interest, {inr(found.total_payable)} to pay"
    )


def _a_month(
    message: Any, monthly: str = "monthly_installment", last: str = "last_installment"
) -> str:
    """Return the installment, and the last one if the service states it and it differs. `monthly`
    and `last` are field names of the message."""
    text = f"{inr(getattr(message, monthly))} a month"
    if message.HasField(last) and getattr(message, last) != getattr(message, monthly):
        text += f", the last {inr(getattr(message, last))}"
    return text


_OUTCOME_STYLES = {"approved": "bold green", "declined": "bold red", "referred": "bold yellow"}


def _outcome(message: Any) -> str:
    """Return approved, declined or referred."""
    if message.outcome == decision_pb2.DECISION_OUTCOME_REFERRED:
        return "referred"
    return "approved" if message.approved else "declined"


def _print_outcome(message: Any, sentence: str) -> None:
    out.print(Text(sentence, style=_OUTCOME_STYLES[_outcome(message)]))


def _review_facts(found: decision_pb2.Decision) -> list[tuple[str, str]]:
    """Return the review of a referred decision, and the decision that this one decides again."""
    facts = []
    if found.HasField("referral"):
        referral = found.referral
        state = enum_name(referral.state, referral_pb2.ReferralState).lower()
        if referral.HasField("reviewed_time"):
            result = referral.result_decision_id
            new = f", new decision {result}" if result else ""
            when = f"{instant(referral.reviewed_time)} {_by(referral.reviewer)}".strip()
            state += f" {when}{new}: {referral.reason}"
        else:
            state += f", last day {day_text(referral.last_day)}"
        facts.append(("referral", state))
    if found.reviewed_decision_id:
        facts.append(("reviewed", f"decision {found.reviewed_decision_id}"))
    return facts


def _show_rules(results: Sequence[decision_pb2.RuleResult]) -> None:
    """Show the rules of the policy as they were evaluated; nothing without rules."""
    if not results:
        return
    table = Listing("rule", "effect", "applied", "values", "condition")
    for each in results:
        values = ", ".join(f"{value.name} {value.value}" for value in each.values)
        effect = words(enum_name(each.outcome, decision_pb2.RuleOutcome))
        applied = each.error or ("yes" if each.applied else "no")
        table.add(each.code, effect, applied, values, each.condition)
    table.print()


def _show_reasons(answer: pb.CheckEligibilityResponse | decision_pb2.Decision) -> None:
    for reason in answer.reasons:
        code = enum_name(reason.code, decision_pb2.DeclineReasonCode)
        out.print(Text(f"  {code}: {reason.message}"), soft_wrap=True)


def _show_counter_offer(offer: decision_pb2.CounterOffer) -> None:
    if offer.HasField("max_loan_amount"):
        largest = _a_month(offer, "max_loan_amount_installment", "max_loan_amount_last_installment")
        out.print(
            Text(f"  counter-offer: {inr(offer.max_loan_amount)} over the same tenure, {largest}"),
            soft_wrap=True,
        )
    if offer.min_tenure_months:
        out.print(
            Text(
                f"  counter-offer: the same amount over {offer.min_tenure_months} months, "
                f"{_a_month(offer, 'min_tenure_installment', 'min_tenure_last_installment')}"
            ),
            soft_wrap=True,
        )


# Loans.


def loans(target: Target, customer_id: int, limit: int, *, as_json: bool) -> int:
    """List a customer's loans."""
    request = pb.ListLoansRequest(customer_id=customer_id)
    with service_at(target) as service:
        found, more = list_pages(service.ListLoans, request, "loans", limit)
    table = Listing(
        ("loan", "right"), ("amount", "right"), ("rate", "right"), ("installment", "right"),
        ("settled", "right"), ("outstanding", "right"), "state", "next due",
    )  # fmt: skip
    for each in found:
        table.add(
            str(each.loan_id),
            inr(each.loan_amount),
            f"{each.interest_rate.value} %",
            inr(each.monthly_installment),
            f"{each.installments_settled}/{each.tenure_months}",
            inr(each.outstanding),
            loan_state(each),
            day_text(each.next_due_date),
        )
    return print_list(table, "loans", found, more=more, as_json=as_json)


def overdue(
    target: Target, asset_class: str | None, days: int, limit: int, *, as_json: bool
) -> int:
    """List the overdue loans of all customers, most days past due first."""
    request = pb.ListDelinquentLoansRequest(min_days_past_due=days)
    if asset_class is not None:
        request.asset_class = decision_pb2.AssetClass.Value(f"ASSET_CLASS_{asset_class}")
    with service_at(target) as service:
        found, more = list_pages(service.ListDelinquentLoans, request, "loans", limit)
    table = Listing(
        ("customer", "right"), ("loan", "right"), "class", ("days past due", "right"),
        "unpaid since", ("installments", "right"), ("overdue", "right"),
    )  # fmt: skip
    for each in found:
        table.add(
            str(each.customer_id),
            str(each.loan_id),
            enum_name(each.asset_class, decision_pb2.AssetClass),
            str(each.days_past_due),
            day_text(each.oldest_due_date),
            str(each.overdue_installments),
            inr(each.overdue_amount),
        )
    return print_list(table, "loans", found, more=more, as_json=as_json)


def arrears(target: Target, customer_id: int, *, as_json: bool) -> int:
    """Show a customer's days past due, asset class and overdue loans."""
    request = pb.GetDelinquencyRequest(customer_id=customer_id)
    with service_at(target) as service:
        response = service.GetDelinquency(request, timeout=CALL_TIMEOUT_SECONDS)
    if as_json:
        print_json(as_dict(response))
        return ExitCode.GOOD
    found = response.delinquency
    print_facts(
        ("customer", str(found.customer_id)),
        ("class", enum_name(found.asset_class, decision_pb2.AssetClass)),
        ("since", day_text(found.asset_class_since) or "the start"),
        ("days past due", str(found.days_past_due)),
        ("overdue", inr(found.overdue_amount)),
        ("next change", day_text(found.next_change) or "none"),
    )
    for each in found.loans:
        known_from = day_text(each.arrears_known_from)
        known = f", arrears known from {known_from}" if known_from else ""
        out.print(
            Text(
                f"  loan {each.loan_id}: {each.days_past_due} days, {inr(each.overdue_amount)} in "
                f"{each.overdue_installments} installments since "
                f"{day_text(each.oldest_due_date)}{known}"
            ),
            soft_wrap=True,
        )
    return ExitCode.GOOD


def offers(target: Target, customer_id: int, limit: int, *, as_json: bool) -> int:
    """List a customer's offers, latest first."""
    request = pb.ListLoanOffersRequest(customer_id=customer_id)
    with service_at(target) as service:
        found, more = list_pages(service.ListLoanOffers, request, "offers", limit)
    table = Listing(
        ("offer", "right"), ("amount", "right"), ("rate", "right"), ("APR", "right"),
        ("installment", "right"), "state", "valid until", ("loan", "right"),
    )  # fmt: skip
    for each in found:
        table.add(
            str(each.offer_id),
            inr(each.loan_amount),
            f"{each.interest_rate.value} %",
            f"{each.cost_of_credit.annual_percentage_rate.value} %",
            inr(each.monthly_installment),
            enum_name(each.state, offer_pb2.LoanOfferState),
            day_text(each.valid_until),
            str(each.loan_id or ""),
        )
    return print_list(table, "offers", found, more=more, as_json=as_json)


def loan(target: Target, loan_id: int, customer_id: int | None, *, as_json: bool) -> int:
    """Show one loan with its customer."""
    request = pb.GetLoanRequest(loan_id=loan_id, customer_id=customer_id)
    with service_at(target) as service:
        response = service.GetLoan(request, timeout=CALL_TIMEOUT_SECONDS)
    if as_json:
        print_json(as_dict(response))
        return ExitCode.GOOD
    _show_loan(response.loan)
    out.print()
    _show_customer(response.customer)
    return ExitCode.GOOD


def _show_loan(found: loan_pb2.Loan) -> None:
    source = enum_name(found.source, loan_pb2.LoanSource).lower()
    by = f", by decision {found.decision_id}" if found.decision_id else ""
    print_facts(
        ("loan", f"{found.loan_id}  of customer {found.customer_id}, {source}{by}"),
        ("state", loan_state(found)),
        ("amount", f"{inr(found.loan_amount)} at {found.interest_rate.value} % a year"),
        ("installment", _a_month(found)),
        (
            "installments",
            (
                f"{found.installments_settled} of {found.tenure_months} settled, "
                f"{found.emis_paid_on_time} on time, {found.repayments_left} left"
            ),
        ),
        ("term", f"{day_text(found.start_date)} to {day_text(found.end_date)}"),
        ("outstanding", inr(found.outstanding)),
        *([("paid too much", inr(found.excess_paid))] if found.HasField("excess_paid") else []),
        ("next due", day_text(found.next_due_date) or "none"),
        *([("cost", _cost(found.cost_of_credit))] if found.HasField("cost_of_credit") else []),
        ("days past due", str(found.days_past_due)),
    )


def loan_state(found: loan_pb2.Loan) -> str:
    state = enum_name(found.state, loan_pb2.LoanState).lower()
    return f"{state} {day_text(found.closed_on)}".strip()


def key_facts(
    target: Target,
    offer_id: int | None,
    customer_id: int | None,
    loan_id: int | None,
    *,
    as_json: bool,
) -> int:
    """Show the key facts of an offer, or of a loan. Raises UsageError, ServiceError."""
    given = [each is not None for each in (offer_id, customer_id, loan_id)]
    if given not in ([True, False, False], [False, True, True]):
        raise UsageError("give either the id of an offer, or --customer and --loan")
    request = pb.GetKeyFactsStatementRequest(
        offer_id=offer_id or 0, customer_id=customer_id or 0, loan_id=loan_id or 0
    )
    with service_at(target) as service:
        response = service.GetKeyFactsStatement(request, timeout=CALL_TIMEOUT_SECONDS)
    if as_json:
        print_json(as_dict(response))
        return ExitCode.GOOD
    _show_key_facts(response.key_facts)
    return ExitCode.GOOD


def _show_key_facts(found: key_facts_pb2.KeyFacts) -> None:
    cost = found.cost_of_credit
    lender, others = inr(cost.lender_charges), inr(cost.third_party_charges)
    charges = f"{lender} of the lender, {others} of third parties"
    about = f"loan {found.loan_id}"
    if found.offer_id:
        about = f"offer {found.offer_id}, valid until {day_text(found.valid_until)}"
    print_facts(
        ("key facts", f"{about}, prepared on {day_text(found.prepared_on)}"),
        ("customer", f"{found.customer_id}  {found.customer_name}"),
        ("amount", f"{inr(found.loan_amount)} at {found.interest_rate.value} % a year, fixed"),
        ("installments", f"{found.tenure_months}, {_a_month(found)}"),
        ("term", f"{day_text(found.start_date)} to {day_text(found.installments[-1].due_date)}"),
        ("APR", f"{cost.annual_percentage_rate.value} %"),
        ("disbursed", inr(cost.net_disbursed)),
        ("charges", charges),
        ("interest", inr(cost.total_interest)),
        ("to pay", inr(cost.total_payable)),
        ("foreclosure", f"charge of {found.prepayment_charge.value} % of the principal repaid"),
    )  # fmt: skip
    for each in found.charges:
        payee = words(enum_name(each.payee, offer_pb2.ChargePayee)).lower()
        out.print(Text(f"  {each.type} ({payee}): {inr(each.amount)}, tax {inr(each.tax)}"))
    for charge in found.contingent_charges:
        out.print(Text(f"  {charge.type}: {charge.sentence}"), soft_wrap=True)
    table = Listing(
        ("no.", "right"), "due", ("payment", "right"), ("principal", "right"),
        ("interest", "right"), ("balance", "right"),
    )  # fmt: skip
    for line in found.installments:
        table.add(
            str(line.number),
            day_text(line.due_date),
            inr(line.payment),
            inr(line.principal),
            inr(line.interest),
            inr(line.balance),
        )
    table.print()


def schedule(target: Target, customer_id: int, loan_id: int, *, as_json: bool) -> int:
    """Show all installments of a loan."""
    request = pb.GetRepaymentScheduleRequest(customer_id=customer_id, loan_id=loan_id)
    with service_at(target) as service:
        response = service.GetRepaymentSchedule(request, timeout=CALL_TIMEOUT_SECONDS)
    if as_json:
        print_json(as_dict(response))
        return ExitCode.GOOD
    table = Listing(
        ("no.", "right"), "due", ("payment", "right"), ("principal", "right"),
        ("interest", "right"), ("balance", "right"), "state",
    )  # fmt: skip
    for each in response.installments:
        table.add(
            str(each.number),
            day_text(each.due_date),
            inr(each.payment),
            inr(each.principal),
            inr(each.interest),
            inr(each.balance),
            _installment_state(each),
        )
    totals = response.totals
    table.add(
        "", "total", inr(totals.payments), inr(totals.principal), inr(totals.interest), "", "",
    )  # fmt: skip
    table.print()
    payments = [inr(each.payment) for each in response.installments]
    if payments and payments[-1] != payments[0]:
        out.print(Text(f"The last installment is {payments[-1]}, the others are {payments[0]}."))
    out.print(Text(f"Outstanding: {inr(totals.outstanding)}"))
    return ExitCode.GOOD


def _installment_state(each: loan_pb2.Installment) -> str:
    name = enum_name(each.state, loan_pb2.InstallmentState)
    state = name.lower().replace("_", " ")
    if each.state == loan_pb2.INSTALLMENT_STATE_PARTLY_PAID:
        return f"{state}: {inr(each.paid_amount)}"
    return f"{state} {day_text(each.settled_on)}".strip()


@dataclass(frozen=True, slots=True)
class Payment:
    """Arguments of `pay`."""

    customer_id: int
    loan_id: int
    amount: str
    paid_on: date | None
    request_id: UUID | None


def pay(target: Target, payment: Payment, *, as_json: bool) -> int:
    """Record a payment, with a new request id unless one is given."""
    request_id = payment.request_id or uuid4()
    request = pb.RecordPaymentRequest(
        request_id=str(request_id),
        customer_id=payment.customer_id,
        loan_id=payment.loan_id,
        amount=read_money(payment.amount),
    )
    if payment.paid_on is not None:
        request.paid_on.CopyFrom(date_of(payment.paid_on))
    try:
        with service_at(target) as service:
            response = service.RecordPayment(request, timeout=CALL_TIMEOUT_SECONDS)
    except (ServiceError, KeyboardInterrupt) as error:
        if not isinstance(error, ServiceError) or error.unavailable:
            note(
                "It is unknown whether the payment was recorded. To retry safely, repeat the "
                f"command with --request-id {request_id}: the payment is recorded only once."
            )
        raise
    if as_json:
        print_json(as_dict(response))
        return ExitCode.GOOD
    stored = response.payment
    out.print(
        Text(
            f"Payment {stored.payment_id}: {inr(stored.amount)} paid on {day_text(stored.paid_on)}"
        )
    )
    numbers = ", ".join(str(each.number) for each in response.installments)
    out.print(Text(f"  settled installments: {numbers or 'none'}"))
    out.print(
        Text(f"  outstanding {inr(response.loan.outstanding)}, loan {loan_state(response.loan)}")
    )
    return ExitCode.GOOD


# Decisions.


def decisions(target: Target, customer_id: int | None, limit: int, *, as_json: bool) -> int:
    """List stored decisions, latest first."""
    request = pb.ListDecisionsRequest(customer_id=customer_id)
    with service_at(target) as service:
        found, more = list_pages(service.ListDecisions, request, "decisions", limit)
    table = Listing(
        ("decision", "right"), "time", ("customer", "right"), ("requested", "right"),
        ("months", "right"), ("rate", "right"), ("score", "right"), "outcome",
    )  # fmt: skip
    for each in found:
        reasons = ", ".join(decline_codes(reason.code for reason in each.reasons))
        table.add(
            str(each.decision_id),
            instant(each.decided_time),
            str(each.customer_id),
            inr(each.ask.loan_amount),
            str(each.ask.tenure_months),
            f"{each.corrected_interest_rate.value} %",
            str(each.credit_score.score),
            f"approved: loan {each.loan_id}" if each.approved else f"{_outcome(each)}: {reasons}",
        )
    return print_list(table, "decisions", found, more=more, as_json=as_json)


def decision(target: Target, decision_id: int, *, as_json: bool) -> int:
    """Show a stored decision with its inputs."""
    request = pb.GetDecisionRequest(decision_id=decision_id)
    with service_at(target) as service:
        response = service.GetDecision(request, timeout=CALL_TIMEOUT_SECONDS)
    if as_json:
        print_json(as_dict(response))
        return ExitCode.GOOD
    found = response.decision
    loan = f", loan {found.loan_id}" if found.approved else ""
    _print_outcome(found, f"Decision {decision_id}: {_outcome(found)}{loan}")
    _show_reasons(found)
    if found.HasField("counter_offer"):
        _show_counter_offer(found.counter_offer)
    ask, inputs = found.ask, found.inputs
    print_facts(
        ("customer", f"{found.customer_id} (version {inputs.customer_version})"),
        ("decided", f"{instant(found.decided_time)} {_by(found.principal)}"),
        (
            "requested",
            (
                f"{inr(ask.loan_amount)} at {ask.interest_rate.value} % "
                f"over {ask.tenure_months} months"
            ),
        ),
        (
            "evaluated at",
            f"{found.corrected_interest_rate.value} %, {_a_month(found)}",
        ),
        ("monthly income", inr(inputs.monthly_income)),
        ("approved limit", inr(inputs.approved_limit)),
        ("current debt", inr(inputs.current_debt)),
        ("installments", f"{inr(inputs.current_installments)} a month"),
        (
            "history",
            (
                f"{inputs.loan_count} loans, {inputs.emis_on_time} of {inputs.emis_due} "
                f"installments on time, {inputs.current_year_loans} loans this year"
            ),
        ),
        *_review_facts(found),
    )
    _show_rules(found.rule_results)
    _show_score(found.credit_score)
    return ExitCode.GOOD


# Helpers.


def list_pages(
    method: Callable[..., Any], request: Any, name: str, limit: int
) -> tuple[list[Any], bool]:
    """Return the first `limit` items of a list, read page by page, and whether there are more."""
    found: list[Any] = []
    while len(found) < limit:
        request.page_size = min(limit - len(found), _PAGE_SIZE)
        response = method(request, timeout=CALL_TIMEOUT_SECONDS)
        found += getattr(response, name)
        request.page_token = response.next_page_token
        if not request.page_token:
            break
    return found, bool(request.page_token)


def print_list(table: Listing, name: str, found: list[Any], *, more: bool, as_json: bool) -> int:
    if as_json:
        print_json({name: [as_dict(each) for each in found], "more": more})
    elif not found:
        note(f"There are no {name}.")
    else:
        table.print()
        if more:
            note(f"Showing the first {len(found)} {name}; use --limit to show more.")
    return ExitCode.GOOD


def print_facts(*facts: tuple[str, str]) -> None:
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        out.print(Text.assemble((f"{name:{width}}  ", "bold"), value), soft_wrap=True)


def _by(principal: str) -> str:
    """Return the principal with "by", or '' if the service does not authenticate callers."""
    return f"by {principal}" if principal else ""


def date_of(day: date) -> Date:
    return Date(year=day.year, month=day.month, day=day.day)


def day_text(day: Message) -> str:
    """Return a day as '2026-01-31', or '' if unset."""
    return (
        f"{day.year:04}-{day.month:02}-{day.day:02}" if isinstance(day, Date) and day.year else ""
    )
