"""Backtests: another scorecard's decisions on stored inputs and on today's portfolio, and what a
trial decided."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from typing import NamedTuple

from sqlalchemy import Connection

from credit_service.clock import Moment
from credit_service.domain.decisions import LaterReleaseError, MissingFactsError, redecide, replay
from credit_service.domain.eligibility import Ask, decide
from credit_service.domain.errors import NotFoundError
from credit_service.domain.outcome_comparison import (
    OutcomeComparison,
    ScoreComparison,
    outcome_of,
    outcome_of_document,
)
from credit_service.domain.policy_facts import PolicyFacts
from credit_service.domain.positions import CreditPosition, is_valid_on
from credit_service.domain.scorecard import Scorecard
from credit_service.domain.scoring import score
from credit_service.queries.decisions import get_decision
from credit_service.storage import customers, decisions, policy_facts, positions, scorecards
from credit_service.storage.database import Database

MAX_TRIAL_DECISIONS = 5_000
"""Latest decisions of a trial that are compared with the real ones."""

_BATCH = 100
"""Rows that a statement of a backtest reads. The caller can stop it between two batches."""
_TRIAL_PAGE = 500
_LAST_ID = 2**63 - 1
# A thread that computes without a pause keeps the interpreter for 5 ms at a time, which calls on
# other threads wait for, several times each. Small batches matter for the same reason: their rows
# become objects without a pause. docs/performance.md has the figures.
_PAUSE_EVERY_ROWS = 5
_PAUSE_SECONDS = 0.0002


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


class Progress(NamedTuple):
    """Rows done, and rows when the backtest started."""

    decisions_done: int
    decisions_total: int
    customers_done: int
    customers_total: int


@dataclass(slots=True)
class Backtest:
    """The result. `decisions` compares each stored outcome with that of the tested scorecard, and
    `portfolio` the active scorecard with the tested one, if there was an ask."""

    active_version: str
    tested_version: str
    day: date
    decisions: OutcomeComparison | None = None
    # Left out: made by a later release from inputs unknown to this one.
    later_release: int = 0
    # Left out: the tested scorecard needs facts, and none are stored.
    without_facts: int = 0
    scores: ScoreComparison = field(default_factory=ScoreComparison)
    portfolio: OutcomeComparison | None = None


def backtest(
    database: Database,
    scorecard: Scorecard,
    moment: Moment,
    *,
    ask: Ask | None = None,
    skip_decisions: bool = False,
    skip_portfolio: bool = False,
) -> Iterator[Progress | Backtest]:
    """Yield the progress after each batch of rows, from 0 on, and finally the result.

    Needs memory for one batch. Holds a connection only while it reads one.
    """
    with database.autocommit() as connection:
        active = scorecards.active(connection, moment.today)
        totals = (
            0 if skip_decisions else decisions.count(connection),
            0 if skip_portfolio else customers.count(connection),
        )
    report = Backtest(active.version, scorecard.version, moment.today)
    yield Progress(0, totals[0], 0, totals[1])
    done = 0
    if not skip_decisions:
        for done in _replay_decisions(database, scorecard, report):
            yield Progress(done, totals[0], 0, totals[1])
    if not skip_portfolio:
        for _ in _score_portfolio(database, active, scorecard, moment, ask, report):
            yield Progress(done, totals[0], report.scores.customers, totals[1])
    yield report


def _replay_decisions(database: Database, scorecard: Scorecard, report: Backtest) -> Iterator[int]:
    """Yield the number of decisions done, after each batch."""
    report.decisions = comparison = OutcomeComparison()
    after = done = 0
    while True:
        with database.autocommit() as connection:
            batch = decisions.batch_after(connection, after, _BATCH)
        if not batch:
            return
        after = batch[-1].decision_id
        for number, decision in enumerate(batch):
            _give_way(number)
            try:
                then = outcome_of(redecide(decision.inputs_json, scorecard))
            except LaterReleaseError:
                report.later_release += 1
                continue
            except MissingFactsError:
                report.without_facts += 1
                continue
            before = outcome_of_document(decision.outcome_json)
            comparison.add(before, then, decision.decision_id, decision.customer_id)
        done += len(batch)
        yield done


def _score_portfolio(
    database: Database,
    active: Scorecard,
    scorecard: Scorecard,
    moment: Moment,
    ask: Ask | None,
    report: Backtest,
) -> Iterator[None]:
    """Yield after each batch of customers."""
    if ask is not None:
        report.portfolio = OutcomeComparison()
    after = 0
    while True:
        with database.autocommit() as connection:
            stored = customers.positions_after(connection, after, _BATCH)
            if not stored:
                return
            after = stored[-1].customer_id
            batch = _on_day(connection, stored, moment.today)
            facts: dict[int, PolicyFacts] = {}
            if active.needs_facts or scorecard.needs_facts:
                ids = [each.customer_id for each in batch]
                facts = policy_facts.read_many(connection, ids, moment.today, moment.zone)
        for number, position in enumerate(batch):
            _give_way(number)
            found = facts.get(position.customer_id)
            _compare(position, found, active, scorecard, moment.today, ask, report)
        yield


def _compare(
    position: CreditPosition,
    facts: PolicyFacts | None,
    active: Scorecard,
    scorecard: Scorecard,
    day: date,
    ask: Ask | None,
    report: Backtest,
) -> None:
    if ask is None or report.portfolio is None:
        before, then = score(position, active, facts), score(position, scorecard, facts)
    else:
        decided = decide(position, ask, active, day, facts=facts)
        again = decide(position, ask, scorecard, day, facts=facts)
        report.portfolio.add(outcome_of(decided), outcome_of(again), 0, position.customer_id)
        before, then = decided.score, again.score
    report.scores.add(position.customer_id, before.score, then.score)


def _on_day(
    connection: Connection, stored: list[CreditPosition], day: date
) -> list[CreditPosition]:
    """The positions on that day, in any order: those stored, and the outdated ones computed."""
    found = [each for each in stored if is_valid_on(each, day)]
    outdated = [each.customer_id for each in stored if not is_valid_on(each, day)]
    if outdated:
        found += positions.on_day(connection, outdated, day)
    return found


def _give_way(number: int) -> None:
    """Let calls on other threads run, every few rows."""
    if number % _PAUSE_EVERY_ROWS == 0:
        time.sleep(_PAUSE_SECONDS)


def trial_results(
    database: Database, version: str | None, moment: Moment
) -> tuple[str, OutcomeComparison]:
    """Return the version of a trial, by default the current one, and the real decisions compared
    with those of the trial: the latest, at most MAX_TRIAL_DECISIONS.

    Raises:
        NotFoundError: SCORECARD_NOT_FOUND, also without a version and a trial.
    """
    with database.autocommit() as connection:
        if version is None:
            trial = scorecards.shadow(connection)
            if trial is None:
                raise NotFoundError(
                    "SCORECARD_NOT_FOUND",
                    "scorecard",
                    "trial",
                    "No scorecard is the trial; name the version of a former one.",
                    {},
                )
            version = trial.version
        if scorecards.find(connection, version, moment.today) is None:
            raise scorecards.not_found(version)
    comparison, before = OutcomeComparison(), _LAST_ID
    while comparison.compared < MAX_TRIAL_DECISIONS:
        with database.autocommit() as connection:
            page = decisions.shadow_pairs(connection, version, before, _TRIAL_PAGE)
        for number, pair in enumerate(page):
            _give_way(number)
            comparison.add(
                outcome_of_document(pair.outcome_json),
                outcome_of_document(pair.shadow_outcome_json),
                pair.decision_id,
                pair.customer_id,
            )
        if len(page) < _TRIAL_PAGE:
            break
        before = page[-1].decision_id
    return version, comparison
