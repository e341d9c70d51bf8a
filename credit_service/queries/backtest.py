"""Backtest: another scorecard's decisions on stored inputs, and its scores of today's portfolio."""

from collections import Counter
from dataclasses import dataclass, field

from credit_service.clock import Moment
from credit_service.domain.decisions import LaterReleaseError, decode_outcome, replay
from credit_service.domain.positions import is_valid_on
from credit_service.domain.scorecard import Scorecard
from credit_service.domain.scoring import score
from credit_service.queries.decisions import get_decision
from credit_service.storage import customers, decisions, scorecards
from credit_service.storage.database import Database

_BATCH = 1_000
_MOST_FLIPS_NAMED = 1_000


@dataclass(frozen=True, slots=True)
class Replay:
    """A stored outcome, and the one recomputed from the stored inputs."""

    decision_id: int
    scorecard_version: str
    stored_outcome: str
    computed_outcome: str

    @property
    def is_identical(self) -> bool:
        """Whether the two are equal byte for byte."""
        return self.stored_outcome == self.computed_outcome


def replay_decision(database: Database, decision_id: int) -> Replay:
    """Recompute a stored decision with the scorecard that made it.

    Raises:
        NotFoundError: DECISION_NOT_FOUND.
        LaterReleaseError: a later release decided, from inputs unknown to this one.
    """
    decision = get_decision(database, decision_id)
    with database.autocommit() as connection:
        scorecard = scorecards.get(connection, decision.scorecard_version)
    computed = replay(decision.inputs_json, scorecard)
    return Replay(decision_id, scorecard.version, decision.outcome_json, computed)


@dataclass(frozen=True, slots=True)
class Flip:
    """A decision that the other scorecard would have reversed."""

    decision_id: int
    customer_id: int
    approved_before: bool
    approved_after: bool


@dataclass(slots=True)
class Side:
    """The results of one scorecard."""

    scorecard_version: str
    approved: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    scores: Counter[int] = field(default_factory=Counter)


@dataclass(slots=True)
class Backtest:
    """Stored decisions and today's portfolio under two scorecards.

    `before` counts the stored decisions, by the scorecard that was active then, and scores the
    portfolio with the one that is active now.
    """

    before: Side
    after: Side
    decisions: int = 0
    # Left out: made by a later release from inputs unknown to this one.
    later_release: int = 0
    customers: int = 0
    scores_changed: int = 0
    flips: list[Flip] = field(default_factory=list)
    flip_count: int = 0


def backtest(database: Database, scorecard: Scorecard, moment: Moment) -> Backtest:
    """Replay all stored decisions and score all customers with another scorecard."""
    with database.autocommit() as connection:
        active = scorecards.active(connection, moment.today)
    report = Backtest(Side(active.version), Side(scorecard.version))
    _replay_decisions(database, scorecard, report)
    _score_portfolio(database, active, scorecard, moment, report)
    return report


def _replay_decisions(database: Database, scorecard: Scorecard, report: Backtest) -> None:
    after = 0
    while True:
        with database.autocommit() as connection:
            batch = decisions.batch_after(connection, after, _BATCH)
        if not batch:
            return
        after = batch[-1].decision_id
        for decision in batch:
            before = decode_outcome(decision.outcome_json)
            try:
                then = decode_outcome(replay(decision.inputs_json, scorecard))
            except LaterReleaseError:
                report.later_release += 1
                continue
            report.decisions += 1
            for side, outcome in ((report.before, before), (report.after, then)):
                side.approved += outcome.approved
                side.reasons.update(str(reason.code) for reason in outcome.reasons)
            if before.approved == then.approved:
                continue
            report.flip_count += 1
            if len(report.flips) < _MOST_FLIPS_NAMED:
                flip = Flip(
                    decision.decision_id, decision.customer_id, before.approved, then.approved
                )
                report.flips.append(flip)


def _score_portfolio(
    database: Database,
    active: Scorecard,
    scorecard: Scorecard,
    moment: Moment,
    report: Backtest,
) -> None:
    after = 0
    while True:
        with database.autocommit() as connection:
            batch = customers.positions_after(connection, after, _BATCH)
            if not batch:
                return
            after = batch[-1].customer_id
            for stored in batch:
                position = stored
                if not is_valid_on(stored, moment.today):
                    position = customers.position_on(connection, stored, moment.today)
                before, then = score(position, active), score(position, scorecard)
                report.customers += 1
                report.before.scores[before.score] += 1
                report.after.scores[then.score] += 1
                report.scores_changed += before.score != then.score
