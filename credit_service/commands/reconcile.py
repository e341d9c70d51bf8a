"""Compare stored values with the facts, in rolling samples.

A difference is a defect of the service. The command corrects it at once, stores it in
`discrepancies`, and logs it.
"""

from dataclasses import asdict, dataclass
from datetime import date
from zoneinfo import ZoneInfo

import structlog
from sqlalchemy import Connection

from credit_service.clock import Moment
from credit_service.commands.recompute_scores import recompute_scores
from credit_service.domain.delinquency import Arrears
from credit_service.domain.loans import Loan
from credit_service.domain.policy_facts import LoanCounts, loan_counts, policy_facts
from credit_service.domain.positions import (
    CreditPosition,
    Hold,
    is_valid_on,
    position_from_loans,
)
from credit_service.domain.scorecard import Scorecard
from credit_service.domain.scoring import score
from credit_service.observability import metrics
from credit_service.storage import arrears, loans, positions, reconciliation, scorecards, scores
from credit_service.storage import policy_facts as stored_facts
from credit_service.storage.database import Database
from credit_service.storage.scores import Scored

SAMPLE = 500
"""Customers that one transaction compares."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Reconciled:
    """The result of a sample; `corrected` are the customers' positions after correction."""

    compared: int
    discrepancies: int
    corrected: list[CreditPosition]


def reconcile(database: Database, moment: Moment, sample: int = SAMPLE) -> Reconciled:
    """Compare the next customers with values computed from their facts, and correct them.

    Loans are compared with a replay of their payments. Skips customers that other transactions have
    locked, until the next round.
    """
    corrected: list[CreditPosition] = []
    with database.transaction() as connection:
        customer_ids = reconciliation.next_sample(connection, sample)
        # Before the lock, because a replay of all payments takes long.
        suspects = list(reconciliation.wrong_loans(connection, customer_ids))
        # Locked before the loans are read, so that no payment commits in between.
        found = scores.lock(connection, customer_ids, skip_locked=True)
        wrong_loans = _correct_loans(connection, suspects, found)
        loans_of = reconciliation.loans_of(connection, customer_ids)
        holds = reconciliation.open_holds(connection, customer_ids)
        scorecard = scorecards.active(connection, moment.today)
        computed = arrears.compute(connection, customer_ids, moment.today)
        counted = stored_facts.stored(connection, customer_ids)
        wrong = []
        for each in found:
            customer_id = each.position.customer_id
            differences = wrong_loans.get(customer_id, {}) | _differences(
                each, loans_of[customer_id], holds[customer_id], scorecard, moment.zone
            )
            known = each.position.arrears
            if known not in (None, computed[customer_id]):
                differences["arrears"] = (known, computed[customer_id])
            if customer_id in counted:
                differences |= _wrong_counts(*counted[customer_id], loans_of[customer_id])
            if differences:
                wrong.append(customer_id)
                _report(connection, customer_id, differences, moment)
        if wrong:
            positions.refresh(connection, wrong, moment.today)
            arrears.fill(connection, wrong, moment.today)
            corrected = recompute_scores(connection, wrong, moment)
    metrics.reconciled_customers.inc(len(found))
    metrics.discrepancies.inc(len(wrong))
    return Reconciled(len(found), len(wrong), corrected)


_Differences = dict[str, tuple[object, object]]
"""What differs: stored and computed, by name."""


def _correct_loans(
    connection: Connection, suspects: list[int], locked: list[Scored]
) -> dict[int, _Differences]:
    """Store what the payments of these customers say about their loans, if they are locked. Return
    the differences by customer."""
    ids = {each.position.customer_id for each in locked} & set(suspects)
    found: dict[int, _Differences] = {}
    if ids:
        for customer_id, wrong in reconciliation.wrong_loans(connection, sorted(ids)).items():
            for stored, computed in wrong:
                loans.correct(connection, computed)
                difference = (asdict(stored), asdict(computed))
                found.setdefault(customer_id, {})[f"loan {stored.loan_id}"] = difference
    return found


def _differences(
    stored: Scored,
    of_customer: list[Loan],
    holds: list[Hold],
    scorecard: Scorecard,
    zone: ZoneInfo,
) -> _Differences:
    """Return the differences of the position and the score. Empty if everything matches."""
    position = stored.position
    # As of the stored day: an outdated day is no defect.
    computed = position_from_loans(
        position.customer_id,
        position.version,
        position.monthly_income_paise,
        position.approved_limit_paise,
        of_customer,
        position.as_of,
        holds,
        position.arrears,
    )
    differences: _Differences = {}
    # A server of the previous release moves the day past the end of a hold, which it does not know.
    # Such a position is valid on no day, and is computed from the facts where it is needed.
    if position != computed and is_valid_on(position, position.as_of):
        differences["position"] = (asdict(position), asdict(computed))
    line = stored.stored
    if (
        line is not None
        and line.customer_version == position.version
        and line.scorecard_version == scorecard.version
    ):
        facts = None
        if scorecard.score_needs_facts:
            # A score uses only the facts about loans: neither arrears nor age.
            day = line.computed_at.astimezone(zone).date()
            facts = policy_facts(of_customer, Arrears(), 0, day, day)
        right_score = score(computed, scorecard, facts)
        if (line.score, line.override) != (right_score.score, right_score.override):
            differences["score"] = (line.score, right_score.score)
    return differences


def _wrong_counts(day: date, counts: LoanCounts, of_customer: list[Loan]) -> _Differences:
    """Return the difference of the stored counts of `day`. Empty if they match."""
    right = loan_counts(of_customer, day)
    return {} if counts == right else {"counts": (asdict(counts), asdict(right))}


def _report(
    connection: Connection,
    customer_id: int,
    differences: _Differences,
    moment: Moment,
) -> None:
    reconciliation.record_discrepancy(
        connection,
        customer_id,
        {name: stored for name, (stored, _) in differences.items()},
        {name: computed for name, (_, computed) in differences.items()},
        moment,
    )
    log.error("discrepancy_found", customer_id=customer_id, differs=sorted(differences))
