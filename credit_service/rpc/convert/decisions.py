"""Convert asks, and the decisions on them: their outcome, reasons, rules and counter-offer."""

from datetime import date
from typing import Any

from credit_service.clock import Moment
from credit_service.commands.create_loan import CreateLoan
from credit_service.domain.asks import validate_ask
from credit_service.domain.charges import Charge
from credit_service.domain.counter_offers import CounterOffer
from credit_service.domain.decisions import decode_inputs
from credit_service.domain.eligibility import Decision, Outcome
from credit_service.domain.errors import OUT_OF_RANGE, InvalidFieldsError
from credit_service.domain.installments import last_installment_paise
from credit_service.domain.loans import MAX_PRINCIPAL_PAISE, Ask, LoanTerms, book
from credit_service.domain.money import format_rate
from credit_service.domain.policy import RuleOutcome, RuleResult
from credit_service.domain.policy_facts import PolicyFacts
from credit_service.domain.reasons import Reason, ReasonCode
from credit_service.rpc.convert.charges import cost_message, read_charges
from credit_service.rpc.convert.customers import ASSET_CLASSES
from credit_service.rpc.convert.fields import (
    Violations,
    decimal_text,
    fill_money,
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
from credit_service.rpc.convert.loans import fill_loan
from credit_service.rpc.convert.referrals import write_new_referral, write_referral
from credit_service.rpc.convert.scores import COMPONENTS, fill_score
from credit_service.rupees import format_inr
from credit_service.storage.decisions import StoredDecision
from credit_service.v1 import (
    credit_service_pb2,
    decision_pb2,
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


def read_outcome(number: int, field: str, violations: Violations) -> Outcome | None:
    """The outcome to filter by; None for decisions with any outcome."""
    if number not in _OUTCOME_FILTERS:
        violations.add(field, OUT_OF_RANGE, f"must be a DecisionOutcome, found {number}.")
        return None
    return _OUTCOME_FILTERS[number]


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
        if each in COMPONENTS:
            message.components.append(COMPONENTS[each])
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
