"""Store, activate, try and retire scorecards, and decide with the trial.

All changes of scorecards run one after the other. Each first makes the states follow the schedule,
then has its effect, an entry in the history and an event, in one transaction.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Protocol
from uuid import UUID

import structlog
from sqlalchemy import Connection

from credit_service.clock import Moment
from credit_service.commands.idempotency import fingerprint, request_id_reused
from credit_service.domain.decisions import (
    LaterReleaseError,
    MissingFactsError,
    decode_outcome,
    replay,
)
from credit_service.domain.errors import (
    AlreadyExistsError,
    PreconditionFailedError,
)
from credit_service.domain.scorecard_json import read_scorecard
from credit_service.storage import decisions, replication, scorecards, tasks
from credit_service.storage.database import Database
from credit_service.storage.scorecards import (
    UNCHANGED,
    Scheduled,
    ScorecardChange,
    StoredScorecard,
)

MAX_DAYS_AHEAD = 366
"""Days from today to the latest day of a scheduled activation."""

_log = structlog.get_logger(__name__)


class _Command(Protocol):
    """A change to make once per request id."""

    @property
    def request_id(self) -> UUID: ...


@dataclass(frozen=True, slots=True)
class CreateScorecard:
    """A scorecard to store, as `write_scorecard` writes it."""

    request_id: UUID
    document: str


@dataclass(frozen=True, slots=True)
class ActivateScorecard:
    """A scorecard to make active from a day on; None means from now on."""

    request_id: UUID
    version: str
    effective_on: date | None


@dataclass(frozen=True, slots=True)
class SetTrialScorecard:
    """A scorecard to make the trial; None ends the trial."""

    request_id: UUID
    version: str | None


@dataclass(frozen=True, slots=True)
class RetireScorecard:
    """A scorecard to retire."""

    request_id: UUID
    version: str


def create_scorecard(
    database: Database, command: CreateScorecard, moment: Moment, principal: str
) -> StoredScorecard:
    """Store the scorecard and return it. Changes nothing if it is stored already.

    Raises:
        AlreadyExistsError: SCORECARD_VERSION_TAKEN, another document has this version.
        RequestIdReusedError: the id was used for other content.
    """
    scorecard = read_scorecard(command.document)
    version = scorecard.version

    def change(connection: Connection) -> ScorecardChange:
        if scorecards.add(connection, scorecard, moment):
            return ScorecardChange("CREATED", version, moment.now, principal)
        stored = _require_stored(connection, version, moment)
        if read_scorecard(stored.document) != scorecard:
            raise AlreadyExistsError(
                "SCORECARD_VERSION_TAKEN",
                "scorecard",
                version,
                f"Scorecard {version} is stored with other content, which never changes; use "
                "another version.",
                {"scorecard_version": version},
            )
        return _unchanged(version, moment, principal)

    _change_once(database, command, moment, change)
    return _found(database, version, moment)


def activate_scorecard(
    database: Database, command: ActivateScorecard, moment: Moment, principal: str
) -> StoredScorecard:
    """Make the scorecard decide from the commit on, or from a coming day on; return it.

    When it becomes active, the workers recompute all scores. Changes nothing if it already decides
    from that day on.

    Raises:
        NotFoundError: SCORECARD_NOT_FOUND.
        PreconditionFailedError: SCORECARD_RETIRED, ACTIVATION_DAY_OUT_OF_RANGE.
        RequestIdReusedError: the id was used for other content.
    """
    version = command.version
    day = command.effective_on or moment.today

    def change(connection: Connection) -> ScorecardChange:
        _require_usable(connection, version, moment)
        _require_day(version, day, moment.today)
        if day == moment.today:
            made = _activate(connection, Scheduled(day, version, principal), moment)
            return made or _unchanged(version, moment, principal)
        replaced = scorecards.active_version(connection, day)
        if replaced == version:
            return _unchanged(version, moment, principal)
        scorecards.unschedule(connection, day)
        # Without an activation on that day, this one may decide anyway: the other was cancelled.
        if scorecards.active_version(connection, day) != version:
            scorecards.schedule(connection, Scheduled(day, version, principal))
        return ScorecardChange("SCHEDULED", version, moment.now, principal, replaced, day)

    _change_once(database, command, moment, change)
    return _found(database, version, moment)


def set_trial_scorecard(
    database: Database, command: SetTrialScorecard, moment: Moment, principal: str
) -> StoredScorecard | None:
    """Make the scorecard the trial, which also decides without effect; return the trial.

    None as the version ends the trial. Changes nothing if it is the trial already.

    Raises:
        NotFoundError: SCORECARD_NOT_FOUND.
        PreconditionFailedError: SCORECARD_RETIRED, SCORECARD_IN_USE.
        RequestIdReusedError: the id was used for other content.
    """
    version = command.version

    def change(connection: Connection) -> ScorecardChange:
        trial = scorecards.shadow(connection)
        former = None if trial is None else trial.version
        if version == former:
            named = version or scorecards.active_version(connection, moment.today)
            return _unchanged(named, moment, principal)
        if version is None:
            scorecards.end_shadow(connection)
            return ScorecardChange("TRIAL_ENDED", former or "", moment.now, principal)
        if _require_usable(connection, version, moment).state == "ACTIVE":
            raise _in_use(version, "ACTIVE", "it is the active one; try another one")
        scorecards.set_state(connection, version, "SHADOW", moment)
        return ScorecardChange("TRIAL_STARTED", version, moment.now, principal, former)

    _change_once(database, command, moment, change)
    with database.autocommit() as connection:
        trial = scorecards.shadow(connection)
        return None if trial is None else scorecards.find(connection, trial.version, moment.today)


def retire_scorecard(
    database: Database, command: RetireScorecard, moment: Moment, principal: str
) -> StoredScorecard:
    """Retire a scorecard that is not in use, for good; return it.

    Raises:
        NotFoundError: SCORECARD_NOT_FOUND.
        PreconditionFailedError: SCORECARD_IN_USE.
        RequestIdReusedError: the id was used for other content.
    """
    version = command.version

    def change(connection: Connection) -> ScorecardChange:
        stored = _require_stored(connection, version, moment)
        if stored.state == "RETIRED":
            return _unchanged(version, moment, principal)
        if stored.state == "ACTIVE":
            raise _in_use(version, "ACTIVE", "it is active; activate another one first")
        if stored.state == "SHADOW":
            raise _in_use(version, "TRIAL", "it is the trial; end the trial first")
        if stored.scheduled_on is not None:
            raise _in_use(
                version,
                "SCHEDULED",
                f"its activation is scheduled for {stored.scheduled_on}; schedule another one for "
                "that day first",
            )
        scorecards.retire(connection, version)
        return ScorecardChange("RETIRED", version, moment.now, principal)

    _change_once(database, command, moment, change)
    return _found(database, version, moment)


def follow_schedule(database: Database, moment: Moment) -> bool:
    """Make the states follow the schedule; return whether a scheduled scorecard became active.

    Decisions follow the schedule without it. It is for servers of release 0.1.0, for the history,
    and for the stored scores.
    """

    def attempt(_number: int) -> bool:
        with database.autocommit() as connection:
            if not scorecards.scheduled_until(connection, moment.today):
                return False
        with database.transaction() as connection:
            scorecards.lock(connection)
            return _follow_schedule(connection, moment)

    return database.retry(attempt)


def decide_in_shadow(database: Database, decision_id: int) -> None:
    """Store what the trial would have decided; do nothing if there is none."""
    with database.transaction() as connection:
        scorecard = scorecards.shadow(connection)
        decision = decisions.find(connection, decision_id)
        if scorecard is None or decision is None:
            return
        try:
            outcome = replay(decision.inputs_json, scorecard)
        except (LaterReleaseError, MissingFactsError) as error:
            # A worker of the previous release, while a newer release already decides; or a
            # decision from before the trial, without the facts that it needs.
            _log.warning("shadow_decision_skipped", decision_id=decision_id, reason=str(error))
            return
        decisions.store_shadow(
            connection,
            decision,
            scorecard.version,
            outcome,
            approved=decode_outcome(outcome).approved,
        )


def _change_once(
    database: Database,
    command: _Command,
    moment: Moment,
    change: Callable[[Connection], ScorecardChange],
) -> None:
    """Make the change and record it, unless the same request made it before."""
    content = fingerprint(command)

    def attempt(_number: int) -> None:
        with database.transaction() as connection:
            scorecards.lock(connection)
            _follow_schedule(connection, moment)
            used = scorecards.fingerprint_of(connection, command.request_id)
            if used is not None:
                if used != content:
                    raise request_id_reused(command.request_id)
                replication.confirm(connection)
                return
            made = change(connection)
            scorecards.record(connection, made, moment, (command.request_id, content))

    database.retry(attempt)


def _unchanged(version: str, moment: Moment, principal: str) -> ScorecardChange:
    """What a request that changes nothing stores under its id: after the change of another caller,
    its repeat would otherwise have an effect."""
    return ScorecardChange(UNCHANGED, version, moment.now, principal)


def _follow_schedule(connection: Connection, moment: Moment) -> bool:
    """Activate what was scheduled for a day up to today, and record it. Holds the lock."""
    due = scorecards.scheduled_until(connection, moment.today)
    for each in due:
        scorecards.unschedule(connection, each.effective_on)
    made = [_activate(connection, each, moment) for each in due]
    for change in made:
        if change is not None:
            scorecards.record(connection, change, moment, None)
    return any(made)


def _activate(
    connection: Connection, scheduled: Scheduled, moment: Moment
) -> ScorecardChange | None:
    """Make the scorecard ACTIVE; return the change, None if it is already."""
    former = scorecards.active_version(connection, moment.today)
    if former == scheduled.version:
        return None
    scorecards.set_state(connection, scheduled.version, "ACTIVE", moment)
    tasks.enqueue(connection, "recompute_scores", "all", moment)
    return ScorecardChange(
        "ACTIVATED",
        scheduled.version,
        moment.now,
        scheduled.principal,
        former,
        scheduled.effective_on,
    )


def _found(database: Database, version: str, moment: Moment) -> StoredScorecard:
    with database.autocommit() as connection:
        return _require_stored(connection, version, moment)


def _require_stored(connection: Connection, version: str, moment: Moment) -> StoredScorecard:
    stored = scorecards.find(connection, version, moment.today)
    if stored is None:
        raise scorecards.not_found(version)
    return stored


def _require_usable(connection: Connection, version: str, moment: Moment) -> StoredScorecard:
    stored = _require_stored(connection, version, moment)
    if stored.state == "RETIRED":
        raise PreconditionFailedError(
            "SCORECARD_RETIRED",
            f"Scorecard {version} was retired; create its document under another version.",
            subject=f"scorecards/{version}",
            metadata={"scorecard_version": version},
        )
    return stored


def _require_day(version: str, day: date, today: date) -> None:
    latest = today + timedelta(days=MAX_DAYS_AHEAD)
    if today <= day <= latest:
        return
    raise PreconditionFailedError(
        "ACTIVATION_DAY_OUT_OF_RANGE",
        f"A scorecard can be activated from today, {today}, to {latest}; found {day}.",
        subject=f"scorecards/{version}",
        metadata={
            "scorecard_version": version,
            "effective_on": day.isoformat(),
            "today": today.isoformat(),
        },
    )


def _in_use(version: str, state: str, why: str) -> PreconditionFailedError:
    return PreconditionFailedError(
        "SCORECARD_IN_USE",
        f"Scorecard {version} is in use: {why}.",
        subject=f"scorecards/{version}",
        metadata={"scorecard_version": version, "state": state},
    )
