"""`check` shows whether a loan would be approved, and why."""

from credit_service.cli.asks import Ask
from credit_service.cli.common import ExitCode, Format, Target
from credit_service.cli.connection import CALL_TIMEOUT_SECONDS
from credit_service.cli.outcomes import (
    outcome_name,
    print_outcome,
    show_cost,
    show_counter_offer,
    show_reasons,
    show_rules,
    show_terms,
)
from credit_service.cli.output import print_data
from credit_service.cli.scores import show_score
from credit_service.cli.service import service_at
from credit_service.v1 import credit_service_pb2 as pb


def check(target: Target, ask: Ask, form: Format) -> int:
    """Show whether a loan would be approved. A decline also exits with GOOD."""
    request = pb.CheckEligibilityRequest(**ask.fields())
    with service_at(target) as service:
        response = service.CheckEligibility(request, timeout=CALL_TIMEOUT_SECONDS)
    if print_data(form, response):
        return ExitCode.GOOD
    print_outcome(response, f"would be {outcome_name(response)}")
    show_terms(request, response)
    if response.HasField("cost_of_credit"):
        show_cost(response.cost_of_credit)
    show_reasons(response)
    if response.HasField("counter_offer"):
        show_counter_offer(response.counter_offer)
    show_rules(response.rule_results)
    show_score(response.credit_score)
    return ExitCode.GOOD
