"""Checks of eligibility."""

from collections.abc import Callable

import grpc

from credit_service.client import display
from credit_service.console import formats
from credit_service.console.checklist.bench import Bench, Flow, Item, require, verdict
from credit_service.rupees import RUPEE_PAISE, group_digits
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import decision_pb2


def _no_history(bench: Bench) -> str:
    answer = bench.check(bench.customer().customer_id, 100_000, "12", 12)
    summary = f"score {answer.credit_score.score}, {verdict(answer)}"
    codes = [each.code for each in answer.reasons]
    require(
        not answer.approved
        and answer.credit_score.score == 0
        and codes[:1] == [decision_pb2.DECLINE_REASON_CODE_NO_CREDIT_HISTORY],
        summary,
    )
    return summary


def _scored(
    loans: int, on_time: int, principal_rupees: int, requested_rate: str, score: int, corrected: str
) -> Callable[[Bench], str]:
    """Return a check that expects this score for a history, and approval at this rate."""

    def check(bench: Bench) -> str:
        customer = bench.with_history(loans, on_time, principal_rupees)
        answer = bench.check(customer.customer_id, 100_000, requested_rate, 12)
        summary = f"score {answer.credit_score.score}, {verdict(answer)}"
        require(
            answer.approved
            and answer.credit_score.score == score
            and answer.corrected_interest_rate.value == corrected,
            summary,
        )
        return summary

    return check


def _published_installment(bench: Bench) -> str:
    customer = bench.with_history(10, 12, 100_000)
    answer = bench.check(customer.customer_id, 100_000, "12", 12)
    summary = f"{display.inr(answer.monthly_installment)} a month"
    require(display.paise(answer.monthly_installment) == 888_488, summary)
    return summary


def _score_too_low(bench: Bench) -> str:
    customer = bench.with_history(1, 0, 50_000)
    answer = bench.check(customer.customer_id, 100_000, "20", 12)
    summary = f"score {answer.credit_score.score}, {verdict(answer)}"
    codes = [each.code for each in answer.reasons]
    low = decision_pb2.DECLINE_REASON_CODE_CREDIT_SCORE_TOO_LOW
    require(not answer.approved and codes[:1] == [low], summary)
    require(not answer.HasField("counter_offer"), f"{summary}, with a counter-offer")
    return summary


def _counter_offer_is_exact(bench: Bench) -> str:
    customer_id = bench.with_history(10, 12, 100_000, income_rupees=30_000).customer_id
    answer = bench.check(customer_id, 500_000, "12", 12)
    burden = decision_pb2.DECLINE_REASON_CODE_EMI_BURDEN_TOO_HIGH
    require(burden in [each.code for each in answer.reasons], verdict(answer))
    offer = answer.counter_offer
    most = display.paise(offer.max_loan_amount) // RUPEE_PAISE
    fewest = offer.min_tenure_months
    tried = {
        f"₹{group_digits(most)}": bench.check(customer_id, most, "12", 12).approved,
        "one rupee more": bench.check(customer_id, most + 1, "12", 12).approved,
        f"{fewest} months": bench.check(customer_id, 500_000, "12", fewest).approved,
        "one month less": bench.check(customer_id, 500_000, "12", fewest - 1).approved,
    }
    summary = ", ".join(f"{ask} {'approved' if ok else 'declined'}" for ask, ok in tried.items())
    require(list(tried.values()) == [True, False, True, False], summary)
    return summary


def _limit_exceeded(bench: Bench) -> str:
    customer = bench.with_history(10, 12, 100_000, income_rupees=100_000)
    limit_rupees = display.paise(customer.approved_limit) // RUPEE_PAISE
    answer = bench.check(customer.customer_id, limit_rupees + 1, "12", 480)
    codes = [each.code for each in answer.reasons]
    limit = decision_pb2.DECLINE_REASON_CODE_APPROVED_LIMIT_EXCEEDED
    require(not answer.approved and codes == [limit], verdict(answer))
    reason = answer.reasons[0]
    return f"{verdict(answer)} (found {reason.found}, threshold {reason.threshold})"


def _unknown_customer(bench: Bench) -> str:
    error = bench.rejected(
        lambda: bench.check(formats.MAX_INT64, 100_000, "12", 12),
        grpc.StatusCode.NOT_FOUND,
        "CUSTOMER_NOT_FOUND",
    )
    return f"{error.code.name} ({error.reason})"


def _check_writes_nothing(bench: Bench) -> str:
    before = bench.with_history(10, 12, 100_000)
    before = bench.service.customer(before.customer_id)
    bench.check(before.customer_id, 100_000, "12", 12)
    after = bench.service.customer(before.customer_id)
    request = pb.ListDecisionsRequest(customer_id=before.customer_id)
    decisions = bench.service.decisions(request).decisions
    summary = f"version {before.version} → {after.version}, {len(decisions)} decisions"
    require(before.version == after.version and not decisions, summary)
    return summary


FLOW = Flow(
    "eligibility",
    "Eligibility",
    (
        Item(
            "no-history",
            "A customer without any loan is declined",
            "score 0, declined: NO_CREDIT_HISTORY",
            _no_history,
            has_figures=True,
        ),
        Item(
            "rate-stands",
            "A score above 50 keeps the requested rate",
            "score 80, approved, at 8 %",
            _scored(10, 12, 100_000, "8", 80, "8"),
            has_figures=True,
        ),
        Item(
            "rate-twelve",
            "A score of 31 to 50 corrects the rate to 12 %",
            "score 38, approved, at 12 %",
            _scored(1, 12, 50_000, "8", 38, "12"),
            has_figures=True,
        ),
        Item(
            "rate-sixteen",
            "A score of 11 to 30 corrects the rate to 16 %",
            "score 18, approved, at 16 %",
            _scored(1, 5, 50_000, "8", 18, "16"),
            has_figures=True,
        ),
        Item(
            "score-too-low",
            "A score of 10 or less: declined, with no counter-offer",
            "score 3, declined: CREDIT_SCORE_TOO_LOW",
            _score_too_low,
            has_figures=True,
        ),
        Item(
            "published-installment",
            "₹1,00,000 over 12 months at 12 % has the published installment",
            "₹8,884.88 a month",
            _published_installment,
            has_figures=True,
        ),
        Item(
            "counter-offer",
            "The counter-offer is exact",
            "the offers approved; one rupee more, or one month less, declined",
            _counter_offer_is_exact,
            has_figures=True,
        ),
        Item(
            "limit-exceeded",
            "One rupee above the limit: declined",
            "declined: APPROVED_LIMIT_EXCEEDED, with found and threshold",
            _limit_exceeded,
            has_figures=True,
        ),
        Item(
            "unknown-customer",
            "An unknown customer is not found",
            "NOT_FOUND (CUSTOMER_NOT_FOUND)",
            _unknown_customer,
        ),
        Item(
            "check-writes-nothing",
            "An eligibility check writes nothing",
            "the same version before and after, no decision",
            _check_writes_nothing,
        ),
    ),
)
