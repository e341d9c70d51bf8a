"""Put a scorecard in charge, or on trial beside the one in charge."""

import structlog

from credit_service.clock import Moment
from credit_service.domain.decisions import LaterReleaseError, decode_outcome, replay
from credit_service.domain.errors import AlreadyExistsError
from credit_service.domain.scorecard import Scorecard
from credit_service.storage import decisions, scorecards, tasks
from credit_service.storage.database import Database

_log = structlog.get_logger(__name__)


def activate_scorecard(database: Database, scorecard: Scorecard, moment: Moment) -> None:
    """From the commit on, every decision is by this scorecard; the workers recompute all scores.

    Raises:
        AlreadyExistsError: SCORECARD_VERSION_TAKEN, another document has this version.
    """
    with database.transaction() as connection:
        if not scorecards.add(connection, scorecard, moment):
            raise _taken(scorecard)
        scorecards.set_state(connection, scorecard.version, "ACTIVE", moment)
        tasks.enqueue(connection, "recompute_scores", "all", moment)


def try_scorecard(database: Database, scorecard: Scorecard | None, moment: Moment) -> None:
    """Let this scorecard decide beside the active one without effect; None ends the trial.

    Raises:
        AlreadyExistsError: SCORECARD_VERSION_TAKEN, another document has this version.
    """
    with database.transaction() as connection:
        if scorecard is None:
            scorecards.retire_shadow(connection)
            return
        if not scorecards.add(connection, scorecard, moment):
            raise _taken(scorecard)
        scorecards.set_state(connection, scorecard.version, "SHADOW", moment)


def decide_in_shadow(database: Database, decision_id: int) -> None:
    """Store what the scorecard on trial would have decided; nothing when none is on trial."""
    with database.transaction() as connection:
        scorecard = scorecards.shadow(connection)
        decision = decisions.find(connection, decision_id)
        if scorecard is None or decision is None:
            return
        try:
            outcome = replay(decision.inputs_json, scorecard)
        except LaterReleaseError as error:
            # A worker of the release before, beside one that decides already.
            _log.warning("shadow_decision_skipped", decision_id=decision_id, reason=str(error))
            return
        decisions.store_shadow(
            connection,
            decision,
            scorecard.version,
            outcome,
            approved=decode_outcome(outcome).approved,
        )


def _taken(scorecard: Scorecard) -> AlreadyExistsError:
    return AlreadyExistsError(
        "SCORECARD_VERSION_TAKEN",
        "scorecard",
        scorecard.version,
        f"Another document is stored as scorecard {scorecard.version}, and a stored one never "
        "changes; give the new one a version of its own.",
    )
