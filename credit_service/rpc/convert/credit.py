"""Convert messages of CreditService."""

from collections.abc import Iterable
from datetime import date, datetime
from functools import lru_cache
from typing import Any

from credit_service.clock import Moment
from credit_service.commands.create_loan import CreateLoan
from credit_service.commands.register_customer import RegisterCustomer
from credit_service.commands.update_customer import UpdateCustomer
from credit_service.domain.asks import validate_ask
from credit_service.domain.charges import Charge
from credit_service.domain.counter_offers import CounterOffer
from credit_service.domain.customers import (
    CustomerChange,
    validate_customer_change,
    validate_new_customer,
)
from credit_service.domain.decisions import decode_inputs
from credit_service.domain.delinquency import AssetClass, arrears_known_from, days_past_due_of
from credit_service.domain.eligibility import Decision, Outcome
from credit_service.domain.errors import OUT_OF_RANGE, REQUIRED, InvalidFieldsError
from credit_service.domain.installments import last_installment_paise
from credit_service.domain.loans import MAX_PRINCIPAL_PAISE, Ask, Loan, LoanState, LoanTerms, book
from credit_service.domain.money import format_rate
from credit_service.domain.payments import (
    InstallmentProgress,
    InstallmentState,
    excess_paise,
    next_unsettled_due_date,
    paid_and_outstanding_paise,
)
from credit_service.domain.policy import RuleOutcome, RuleResult
from credit_service.domain.policy_facts import PolicyFacts
from credit_service.domain.reasons import Reason, ReasonCode
from credit_service.domain.schedules import (
    ScheduledInstallment,
    principal_outstanding_paise,
    repayment_plan,
)
from credit_service.domain.scorecard import Component
from credit_service.domain.scoring import CreditScore, Override, ScoreComponent
from credit_service.queries.loans import RepaymentSchedule
from credit_service.rpc.convert.charges import cost_message, read_charges, write_charges
from credit_service.rpc.convert.fields import (
    Violations,
    decimal_text,
    fill_date,
    fill_money,
    fill_time,
    quoted,
    read_id,
    read_money,
    read_rate_bps,
    read_request_id,
    write_date,
    write_hundredths,
    write_money,
    write_principal,
    write_time,
)
from credit_service.rpc.convert.referrals import write_new_referral, write_referral
from credit_service.rupees import format_inr
from credit_service.storage.customers import CustomerView
from credit_service.storage.decisions import StoredDecision
from credit_service.v1 import (
    credit_service_pb2,
    customer_pb2,
    decision_pb2,
    delinquency_pb2,
    loan_pb2,
    score_pb2,
)


def read_ask(request: Any, violations: Violations) -> Ask:
    """Read loan_amount, interest_rate and tenure_months of a request."""
    principal = read_money(request, "loan_amount", violations)
    rate = read_rate_bps(request, "interest_rate", violations)
    tenure_months: int = request.tenure_months
    try:
        return validate_ask(
            principal_paise=MAX_PRINCIPAL_PAISE if principal is None else principal,
            annual_rate_bps=0 if rate is None else rate,
            tenure_months=tenure_months,
        )
    except InvalidFieldsError as error:
        violations.merge(error)
        return Ask(1, 0, 1)


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


def read_create_loan(request: credit_service_pb2.CreateLoanRequest) -> CreateLoan:
    """The command of a CreateLoan request. Raises InvalidFieldsError."""
    violations = Violations()
    request_id = read_request_id(request, violations)
    customer_id = read_id(request.customer_id, "customer_id", violations)
    ask = read_ask(request, violations)
    charges = read_charges(request.charges, ask.principal_paise, violations)
    violations.raise_if_any()
    return CreateLoan(request_id, customer_id, ask, charges)


def read_check_eligibility(
    request: credit_service_pb2.CheckEligibilityRequest,
) -> tuple[int, Ask, tuple[Charge, ...]]:
    """The customer id, the ask and the charges of a CheckEligibility request. Raises
    InvalidFieldsError."""
    violations = Violations()
    customer_id = read_id(request.customer_id, "customer_id", violations)
    ask = read_ask(request, violations)
    charges = read_charges(request.charges, ask.principal_paise, violations)
    violations.raise_if_any()
    return customer_id, ask, charges


_CACHED_COMPONENTS = 4_096
_MAX_PATHS_NAMED = 10


_LOAN_STATES = {state: loan_pb2.LoanState.Value(f"LOAN_STATE_{state.name}") for state in LoanState}
_LOAN_STATE_FILTERS: dict[int, LoanState | None] = {
    loan_pb2.LOAN_STATE_UNSPECIFIED: None,
    **{number: state for state, number in _LOAN_STATES.items()},
}
_INSTALLMENT_STATES = {
    state: loan_pb2.InstallmentState.Value(f"INSTALLMENT_STATE_{state.name}")
    for state in InstallmentState
}
# By name. A stored decision of a later release may have other names: UNSPECIFIED on the wire.
_COMPONENTS: dict[str, Any] = {
    each: score_pb2.ScoreComponent.Value(f"SCORE_COMPONENT_{each.name}") for each in Component
}
_OVERRIDES: dict[str | None, Any] = {
    None: score_pb2.SCORE_OVERRIDE_UNSPECIFIED,
    **{each: score_pb2.ScoreOverride.Value(f"SCORE_OVERRIDE_{each.name}") for each in Override},
}
_REASON_CODES: dict[str, Any] = {
    each: decision_pb2.DeclineReasonCode.Value(f"DECLINE_REASON_CODE_{each.name}")
    for each in ReasonCode
}
_OUTCOMES = {
    each: decision_pb2.DecisionOutcome.Value(f"DECISION_OUTCOME_{each.name}") for each in Outcome
}
_OUTCOME_FILTERS: dict[int, Outcome | None] = {
    decision_pb2.DECISION_OUTCOME_UNSPECIFIED: None,
    **{number: outcome for outcome, number in _OUTCOMES.items()},
}
_RULE_OUTCOMES: dict[str, Any] = {
    each: decision_pb2.RuleOutcome.Value(f"RULE_OUTCOME_{each.name}") for each in RuleOutcome
}
ASSET_CLASSES = {
    each: decision_pb2.AssetClass.Value(f"ASSET_CLASS_{each.name}") for each in AssetClass
}
"""The number of each class in the contract."""


def asset_class(name: str) -> Any:
    """The AssetClass of that name."""
    return ASSET_CLASSES[AssetClass[name]]


def read_outcome(number: int, field: str, violations: Violations) -> Outcome | None:
    """The outcome to filter by; None for decisions with any outcome."""
    if number not in _OUTCOME_FILTERS:
        violations.add(field, OUT_OF_RANGE, f"must be a DecisionOutcome, found {number}.")
        return None
    return _OUTCOME_FILTERS[number]


def read_loan_state(number: int, field: str, violations: Violations) -> LoanState | None:
    """The state to filter by; None for loans of every state."""
    if number not in _LOAN_STATE_FILTERS:
        violations.add(field, OUT_OF_RANGE, f"must be a LoanState, found {number}.")
        return None
    return _LOAN_STATE_FILTERS[number]


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


@lru_cache(maxsize=_CACHED_COMPONENTS)
def _component(component: ScoreComponent) -> score_pb2.CreditScoreComponent:
    """A score component, cached because many customers share it. Never change the message."""
    return score_pb2.CreditScoreComponent(
        component=_COMPONENTS.get(component.component, score_pb2.SCORE_COMPONENT_UNSPECIFIED),
        points=write_hundredths(component.points_hundredths),
        max_points=write_hundredths(component.max_points_hundredths),
        explanation=component.explanation,
    )


def fill_score(message: score_pb2.CreditScore, score: CreditScore, computed_at: datetime) -> None:
    """Fill an empty message with a score and its components."""
    message.score = score.score
    message.override = _OVERRIDES.get(score.override, score_pb2.SCORE_OVERRIDE_UNSPECIFIED)
    message.scorecard_version = score.scorecard_version
    message.customer_version = score.customer_version
    for each in score.components:
        # `extend` serializes each message and parses it again.
        message.components.add().CopyFrom(_component(each))
    fill_time(message.computed_time, computed_at)
    fill_date(message.valid_until, score.valid_until)


def _reason(reason: Reason) -> decision_pb2.DeclineReason:
    message = decision_pb2.DeclineReason()
    _fill_reason(message, reason)
    return message


def _fill_reason(message: decision_pb2.DeclineReason, reason: Reason) -> None:
    message.code = reason_code(reason.code)
    message.message = reason.message
    message.found = reason.found
    message.threshold = reason.threshold
    for each in reason.components:
        if each in _COMPONENTS:
            message.components.append(_COMPONENTS[each])
    message.rule_code = reason.rule_code


def _rule_result(result: RuleResult) -> decision_pb2.RuleResult:
    message = decision_pb2.RuleResult()
    _fill_rule_result(message, result)
    return message


def _fill_rule_result(message: decision_pb2.RuleResult, result: RuleResult) -> None:
    message.code = result.code
    message.condition = result.condition
    for name, value in result.values:
        named = message.values.add()
        named.name = name
        named.value = value
    message.outcome = _RULE_OUTCOMES.get(result.outcome, decision_pb2.RULE_OUTCOME_UNSPECIFIED)
    message.applied = result.applied
    message.error = result.error


def _policy_facts(facts: PolicyFacts | None) -> decision_pb2.PolicyFacts | None:
    if facts is None:
        return None
    return decision_pb2.PolicyFacts(
        active_loans=facts.active_loans,
        principal_outstanding=write_money(facts.principal_outstanding_paise),
        emis_on_time_when_due=facts.emis_on_time_when_due,
        emis_fallen_due=facts.emis_fallen_due,
        days_past_due=facts.days_past_due,
        asset_class=ASSET_CLASSES[facts.asset_class],
        age=facts.age,
        months_as_customer=facts.months_as_customer,
    )


def reason_code(name: str) -> Any:
    """The DeclineReasonCode of that name; UNSPECIFIED for a name of a later release."""
    return _REASON_CODES.get(name, decision_pb2.DECLINE_REASON_CODE_UNSPECIFIED)


def _counter_offer(
    offer: CounterOffer | None, corrected_rate_bps: int
) -> decision_pb2.CounterOffer | None:
    if offer is None:
        return None
    message = decision_pb2.CounterOffer()
    _fill_counter_offer(message, offer, corrected_rate_bps)
    return message


def _fill_counter_offer(
    message: decision_pb2.CounterOffer, offer: CounterOffer, corrected_rate_bps: int
) -> None:
    message.corrected_interest_rate.value = decimal_text(corrected_rate_bps)
    if offer.max_principal_paise is not None:
        fill_money(message.max_loan_amount, offer.max_principal_paise)
    if offer.max_principal_installment_paise is not None:
        fill_money(message.max_loan_amount_installment, offer.max_principal_installment_paise)
    if offer.min_tenure_months is not None:
        message.min_tenure_months = offer.min_tenure_months
    if offer.min_tenure_installment_paise is not None:
        fill_money(message.min_tenure_installment, offer.min_tenure_installment_paise)
    if offer.max_principal_last_installment_paise is not None:
        fill_money(
            message.max_loan_amount_last_installment, offer.max_principal_last_installment_paise
        )
    if offer.min_tenure_last_installment_paise is not None:
        fill_money(message.min_tenure_last_installment, offer.min_tenure_last_installment_paise)


def _last_installment(ask: Ask, decision: Decision) -> int:
    """The last installment in paise; computed for decisions of releases that did not store it."""
    if decision.last_installment_paise is not None:
        return decision.last_installment_paise
    terms = LoanTerms(ask.principal_paise, decision.corrected_rate_bps, ask.tenure_months)
    return last_installment_paise(terms, decision.installment_paise)


def write_eligibility(
    customer_id: int,
    ask: Ask,
    charges: tuple[Charge, ...],
    decision: Decision,
    moment: Moment,
) -> credit_service_pb2.CheckEligibilityResponse:
    """The response of CheckEligibility."""
    response = credit_service_pb2.CheckEligibilityResponse()
    fill_eligibility(response, customer_id, ask, charges, decision, moment)
    return response


def fill_eligibility(
    response: credit_service_pb2.CheckEligibilityResponse,
    customer_id: int,
    ask: Ask,
    charges: tuple[Charge, ...],
    decision: Decision,
    moment: Moment,
) -> None:
    """Fill an empty response of CheckEligibility."""
    response.customer_id = customer_id
    response.approved = decision.approved
    response.tenure_months = ask.tenure_months
    fill_money(response.monthly_installment, decision.installment_paise)
    fill_money(response.last_installment, _last_installment(ask, decision))
    response.interest_rate.value = decimal_text(decision.requested_rate_bps)
    response.corrected_interest_rate.value = decimal_text(decision.corrected_rate_bps)
    fill_score(response.credit_score, decision.score, moment.now)
    response.outcome = _OUTCOMES[decision.outcome]
    for result in decision.rules:
        _fill_rule_result(response.rule_results.add(), result)
    for reason in decision.reasons:
        _fill_reason(response.reasons.add(), reason)
    if decision.counter_offer is not None:
        _fill_counter_offer(
            response.counter_offer, decision.counter_offer, decision.corrected_rate_bps
        )
    if charges:
        # Not for every check: it would take a batch of checks up to half as long again.
        _fill_cost(response, ask, charges, decision)


def _fill_cost(response: Any, ask: Ask, charges: tuple[Charge, ...], decision: Decision) -> None:
    """Fill cost_of_credit with the cost at the corrected rate, unless the loan is declined."""
    if decision.outcome is not Outcome.DECLINED:
        rate_bps = decision.corrected_rate_bps
        response.cost_of_credit.CopyFrom(
            cost_message(ask.principal_paise, rate_bps, ask.tenure_months, charges)
        )


def write_created_loan(
    stored: StoredDecision, ask: Ask, charges: tuple[Charge, ...]
) -> credit_service_pb2.CreateLoanResponse:
    """The response of CreateLoan, built from stored data: the same on every retry."""
    decision = stored.outcome
    response = credit_service_pb2.CreateLoanResponse(
        decision_id=stored.decision_id, approved=stored.approved
    )
    fill_outcome(response, stored, ask)
    if stored.loan_id is not None:
        # The loan as booked, without later payments: a retry gets the same response.
        loan = book(
            LoanTerms(ask.principal_paise, decision.corrected_rate_bps, ask.tenure_months),
            decision.installment_paise,
            loan_id=stored.loan_id,
            customer_id=stored.customer_id,
            day=stored.decided_on,
            decision_id=stored.decision_id,
            charges=charges,
        )
        fill_loan(response.loan, loan, stored.decided_on)
    _fill_cost(response, ask, charges, decision)
    if stored.referral is not None:
        response.referral.CopyFrom(write_new_referral(stored.referral))
    return response


def fill_outcome(response: Any, stored: StoredDecision, ask: Ask) -> None:
    """Fill what the responses of CreateLoan and CreateLoanOffer have in common."""
    decision = stored.outcome
    response.outcome = _OUTCOMES[decision.outcome]
    response.rule_results.extend(map(_rule_result, decision.rules))
    response.message = _outcome_sentence(decision, ask)
    response.interest_rate.value = decimal_text(decision.requested_rate_bps)
    response.corrected_interest_rate.value = decimal_text(decision.corrected_rate_bps)
    fill_money(response.monthly_installment, decision.installment_paise)
    fill_money(response.last_installment, _last_installment(ask, decision))
    response.reasons.extend(map(_reason, decision.reasons))
    if decision.counter_offer is not None:
        counter = _counter_offer(decision.counter_offer, decision.corrected_rate_bps)
        response.counter_offer.CopyFrom(counter)


def _outcome_sentence(decision: Decision, ask: Ask) -> str:
    if decision.referred:
        return "Referred to a person. " + " ".join(each.message for each in decision.reasons)
    if not decision.approved:
        return "Declined. " + " ".join(each.message for each in decision.reasons)
    corrected = (
        f", corrected from {format_rate(decision.requested_rate_bps)}"
        if decision.corrected_rate_bps != decision.requested_rate_bps
        else ""
    )
    months = "1 month" if ask.tenure_months == 1 else f"{ask.tenure_months} months"
    last_paise = _last_installment(ask, decision)
    last = ""
    if last_paise != decision.installment_paise:
        last = f", the last {format_inr(last_paise)}"
    return (
        f"Approved: {format_inr(ask.principal_paise)} over {months} at "
        f"{format_rate(decision.corrected_rate_bps)} a year{corrected}, "
        f"{format_inr(decision.installment_paise)} a month{last}."
    )


def write_loan(loan: Loan, today: date) -> loan_pb2.Loan:
    """A loan in its current state, with the days past due at the end of today."""
    message = loan_pb2.Loan()
    fill_loan(message, loan, today)
    return message


def fill_loan(message: loan_pb2.Loan, loan: Loan, today: date) -> None:
    """Fill an empty message with a loan in its current state, with the days past due at the end of
    today."""
    paid, outstanding = paid_and_outstanding_paise(loan)
    message.customer_id = loan.customer_id
    message.loan_id = loan.loan_id
    fill_money(message.loan_amount, loan.principal_paise)
    message.interest_rate.value = decimal_text(loan.annual_rate_bps)
    message.tenure_months = loan.tenure_months
    fill_money(message.monthly_installment, loan.installment_paise)
    message.emis_paid_on_time = loan.emis_paid_on_time
    message.installments_settled = loan.installments_settled
    message.repayments_left = loan.repayments_left
    message.state = _LOAN_STATES[loan.state]
    fill_date(message.start_date, loan.start_date)
    fill_date(message.end_date, loan.end_date)
    message.source = loan_pb2.LOAN_SOURCE_IMPORTED if loan.imported else loan_pb2.LOAN_SOURCE_BOOKED
    message.decision_id = loan.decision_id or 0
    fill_money(message.outstanding, outstanding)
    fill_money(message.paid_amount, paid)
    fill_money(message.last_installment, repayment_plan(loan).last_paise)
    fill_money(message.principal_outstanding, principal_outstanding_paise(loan))
    message.agreed_tenure_months = loan.agreed_tenure_months
    fill_money(message.agreed_monthly_installment, loan.agreed_installment_paise)
    if loan.closed_on is not None:
        fill_date(message.closed_on, loan.closed_on)
    due = next_unsettled_due_date(loan)
    if due is not None:
        fill_date(message.next_due_date, due)
    if loan.charges:
        message.charges.extend(write_charges(loan.charges))
    if not loan.imported:
        tenure = loan.agreed_tenure_months
        message.cost_of_credit.CopyFrom(
            cost_message(loan.principal_paise, loan.annual_rate_bps, tenure, loan.charges)
        )
    if outstanding == 0 and (excess := excess_paise(loan)):
        fill_money(message.excess_paid, excess)
    message.days_past_due = days_past_due_of(loan, today)
    fill_arrears_known_from(message, loan)


def fill_arrears_known_from(
    message: loan_pb2.Loan | delinquency_pb2.LoanDelinquency, loan: Loan
) -> None:
    """Fill the day from which arrears of an imported loan are known; nothing for another loan."""
    known_from = arrears_known_from(loan)
    if known_from is not None:
        fill_date(message.arrears_known_from, known_from)


def write_schedule(
    found: RepaymentSchedule,
) -> credit_service_pb2.GetRepaymentScheduleResponse:
    """The response of GetRepaymentSchedule."""
    prepaid = found.prepaid_principal_paise
    response = credit_service_pb2.GetRepaymentScheduleResponse(
        installments=[
            write_installment(line, progress, found.settled_on.get(line.number))
            for line, progress in zip(found.installments, found.progress, strict=True)
        ],
    )
    outstanding = paid_and_outstanding_paise(found.loan)[1]
    fill_totals(response.totals, found.installments, prepaid, outstanding)
    return response


def fill_totals(
    message: loan_pb2.ScheduleTotals,
    installments: Iterable[ScheduledInstallment],
    prepaid_principal_paise: int,
    outstanding_paise: int,
) -> None:
    """Fill an empty message with the totals of installments and of what was prepaid beside them."""
    principal, interest = prepaid_principal_paise, 0
    for line in installments:
        principal += line.principal_paise
        interest += line.interest_paise
    fill_money(message.payments, principal + interest)
    fill_money(message.principal, principal)
    fill_money(message.interest, interest)
    fill_money(message.outstanding, outstanding_paise)
    fill_money(message.prepaid_principal, prepaid_principal_paise)


def write_installment(
    line: ScheduledInstallment, progress: InstallmentProgress, settled_on: date | None
) -> loan_pb2.Installment:
    """An installment and its state.

    `settled_on` is the day of the payment that settled it; ignored unless it is settled.
    """
    if progress.state is not InstallmentState.SETTLED:
        settled_on = None
    return loan_pb2.Installment(
        number=line.number,
        due_date=write_date(line.due_date),
        payment=write_money(line.payment_paise),
        principal=write_money(line.principal_paise),
        interest=write_money(line.interest_paise),
        balance=write_money(line.balance_paise),
        state=_INSTALLMENT_STATES[progress.state],
        settled_on=None if settled_on is None else write_date(settled_on),
        paid_amount=write_money(progress.paid_paise),
    )


def write_decision(stored: StoredDecision, today: date) -> decision_pb2.Decision:
    """A stored decision with its inputs, and the state of its referral today."""
    inputs = decode_inputs(stored.inputs_json)
    position, ask, day = inputs.position, inputs.ask, inputs.day
    decision = stored.outcome
    message = decision_pb2.Decision(
        decision_id=stored.decision_id,
        customer_id=stored.customer_id,
        ask=decision_pb2.LoanAsk(
            loan_amount=write_money(ask.principal_paise),
            interest_rate=write_hundredths(ask.annual_rate_bps),
            tenure_months=ask.tenure_months,
        ),
        approved=stored.approved,
        corrected_interest_rate=write_hundredths(decision.corrected_rate_bps),
        monthly_installment=write_money(decision.installment_paise),
        last_installment=write_money(_last_installment(ask, decision)),
        reasons=[_reason(each) for each in decision.reasons],
        counter_offer=_counter_offer(decision.counter_offer, decision.corrected_rate_bps),
        inputs=decision_pb2.DecisionInputs(
            as_of=write_date(day),
            customer_version=position.version,
            monthly_income=write_money(position.monthly_income_paise),
            approved_limit=write_money(position.approved_limit_paise),
            current_debt=write_money(position.current_debt_paise),
            current_installments=write_money(position.current_installments_paise),
            loan_count=position.loan_count,
            total_principal=write_money(position.total_principal_paise),
            emis_on_time=position.emis_on_time,
            emis_due=position.emis_due,
            current_year_loans=position.current_year_loans,
            inputs_json=stored.inputs_json,
            policy_facts=_policy_facts(inputs.facts),
            held_principal=write_money(position.held_principal_paise),
            held_installments=write_money(position.held_installments_paise),
        ),
        scorecard_version=stored.scorecard_version,
        decided_time=write_time(stored.decided_at),
        decided_on=write_date(stored.decided_on),
        loan_id=stored.loan_id or 0,
        offer_id=stored.offer_id or 0,
        request_id="" if stored.request_id is None else str(stored.request_id),
        principal=write_principal(stored.principal),
        outcome=_OUTCOMES[decision.outcome],
        rule_results=[_rule_result(each) for each in decision.rules],
        reviewed_decision_id=stored.reviewed_decision_id,
    )
    if stored.referral is not None:
        message.referral.CopyFrom(write_referral(stored.referral, today))
    fill_score(message.credit_score, decision.score, stored.decided_at)
    return message
