"""Activate a scorecard, or run it as a shadow of the active one."""

import structlog

from credit_service.clock import Moment
from credit_service.domain.decisions import LaterReleaseError, decode_outcome, replay
from credit_service.domain.errors import AlreadyExistsError
from credit_service.domain.scorecard import Scorecard
from credit_service.storage import decisions, scorecards, tasks
from credit_service.storage.database import Database

_log = structlog.get_logger(__name__)


def activate_scorecard(database: Database, scorecard: Scorecard, moment: Moment) -> None:
    """Make this scorecard decide from the commit on; the workers recompute all scores.

    Raises:
        AlreadyExistsError: SCORECARD_VERSION_TAKEN, another document has this version.
    """
    with database.transaction() as connection:
        if not scorecards.add(connection, scorecard, moment):
            raise _taken(scorecard)
        scorecards.set_state(connection, scorecard.version, "ACTIVE", moment)
        tasks.enqueue(connection, "recompute_scores", "all", moment)


def try_scorecard(database: Database, scorecard: Scorecard | None, moment: Moment) -> None:
    """Make this the shadow scorecard, which decides in addition without effect; None ends it.

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
    """Store what the shadow scorecard would have decided; do nothing if there is none."""
    with database.transaction() as connection:
        scorecard = scorecards.shadow(connection)
        decision = decisions.find(connection, decision_id)
        if scorecard is None or decision is None:
            return
        try:
            outcome = replay(decision.inputs_json, scorecard)
        except LaterReleaseError as error:
            # A worker of the previous release, while a newer release already decides.
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
        f"Scorecard {scorecard.version} is stored with other content, which never changes; use a "
        "new version.",
    )
