"""Compare the outcomes of the same requests under two scorecards, in bounded memory."""

import json
from collections import Counter
from dataclasses import dataclass, field
from heapq import heappush, heappushpop
from typing import Any, Final, NamedTuple

from credit_service.domain.eligibility import Decision, Outcome

MAX_FLIPS_NAMED: Final = 100
MAX_EXAMPLES: Final = 5
"""Requests that are named for each reason."""
MAX_SCORES_NAMED: Final = 100
"""Customers that are named because their scores differ most."""


class ReasonKey(NamedTuple):
    """A reason: its code, and for a rule the rule's code."""

    code: str
    rule_code: str = ""


class RequestOutcome(NamedTuple):
    """What a scorecard decides on a request. A later release may have other outcomes."""

    outcome: str
    rate_bps: int
    reasons: tuple[ReasonKey, ...]


def outcome_of(decision: Decision) -> RequestOutcome:
    """The outcome of a decision."""
    return RequestOutcome(
        decision.outcome,
        decision.corrected_rate_bps,
        tuple(ReasonKey(each.code, each.rule_code) for each in decision.reasons),
    )


def outcome_of_document(text: str) -> RequestOutcome:
    """The outcome of a stored decision, from the text of `encode_outcome`. It reads only what is
    compared, in a third of the time of `decode_outcome`."""
    document: dict[str, Any] = json.loads(text)
    declined = Outcome.APPROVED if document["approved"] else Outcome.DECLINED
    return RequestOutcome(
        document.get("outcome", declined),
        document["corrected_rate_bps"],
        tuple(ReasonKey(each["code"], each.get("rule_code", "")) for each in document["reasons"]),
    )


class Flip(NamedTuple):
    """A request with another outcome. `decision_id` is 0 without a stored decision."""

    decision_id: int
    customer_id: int
    before: RequestOutcome
    after: RequestOutcome


class ScoreDifference(NamedTuple):
    """A customer with another score."""

    customer_id: int
    before: int
    after: int


@dataclass(slots=True)
class ScoreComparison:
    """The scores of customers under two scorecards: counts, and the largest differences. Its size
    does not grow with the number of customers."""

    customers: int = 0
    changed: int = 0
    before: Counter[int] = field(default_factory=Counter)
    after: Counter[int] = field(default_factory=Counter)
    # A heap of (size of the difference, -customer id, the difference), the smallest first.
    _largest: list[tuple[int, int, ScoreDifference]] = field(default_factory=list)

    def add(self, customer_id: int, before: int, after: int) -> None:
        """Count a customer."""
        self.customers += 1
        self.before[before] += 1
        self.after[after] += 1
        if before == after:
            return
        self.changed += 1
        difference = ScoreDifference(customer_id, before, after)
        entry = abs(after - before), -customer_id, difference
        if len(self._largest) < MAX_SCORES_NAMED:
            heappush(self._largest, entry)
        else:
            heappushpop(self._largest, entry)

    @property
    def largest(self) -> list[ScoreDifference]:
        """The largest differences, the largest first; of equal ones, that of the lower id."""
        return [each for _, _, each in sorted(self._largest, reverse=True)]


@dataclass(slots=True)
class OutcomeComparison:
    """Counts and examples. Its size does not grow with the number of requests."""

    compared: int = 0
    before: Counter[str] = field(default_factory=Counter)
    after: Counter[str] = field(default_factory=Counter)
    reasons_before: Counter[ReasonKey] = field(default_factory=Counter)
    reasons_after: Counter[ReasonKey] = field(default_factory=Counter)
    # Ids of decisions, or of customers without one.
    examples: dict[ReasonKey, list[int]] = field(default_factory=dict)
    rates_changed: int = 0
    flip_count: int = 0
    flips: list[Flip] = field(default_factory=list)

    def add(
        self, before: RequestOutcome, after: RequestOutcome, decision_id: int, customer_id: int
    ) -> None:
        """Count a request; `decision_id` is 0 without a stored decision."""
        self.compared += 1
        self.before[before.outcome] += 1
        self.after[after.outcome] += 1
        self.reasons_before.update(before.reasons)
        self.reasons_after.update(after.reasons)
        for reason in after.reasons:
            named = self.examples.setdefault(reason, [])
            if len(named) < MAX_EXAMPLES:
                named.append(decision_id or customer_id)
        if before.outcome != after.outcome:
            self.flip_count += 1
            if len(self.flips) < MAX_FLIPS_NAMED:
                self.flips.append(Flip(decision_id, customer_id, before, after))
        elif before.outcome == Outcome.APPROVED and before.rate_bps != after.rate_bps:
            self.rates_changed += 1
