"""Bring stored scores to what the facts, the day and the active scorecard say.

One path for one customer after an event and for a hundred thousand after an ingestion: lock,
refresh what the day changed, compute, store. Doing it twice changes nothing the second time.
"""

from collections.abc import Sequence

from sqlalchemy import Connection

from credit_service.clock import Moment
from credit_service.domain.positions import CreditPosition, is_valid_on
from credit_service.domain.scorecard import Scorecard
from credit_service.domain.scoring import score
from credit_service.storage import positions, scorecards, scores, tasks
from credit_service.storage.database import Database
from credit_service.storage.scores import NewScore, Scored

BATCH = 2_000
"""Customers that one transaction recomputes: long enough to be quick, short enough not to hold up
a booking for more than a moment."""


def recompute_scores(
    connection: Connection,
    customer_ids: Sequence[int],
    moment: Moment,
    *,
    skip_locked: bool = False,
) -> list[CreditPosition]:
    """Compute the scores of these customers and store those that are not stored so already.

    A score that moved gets a line in the history and a score_changed event. Returns the customers'
    positions as they stand today, for the cache; the caller commits first. With `skip_locked`
    those that others have locked are left as they are, and out of the answer.
    """
    scorecard = scorecards.active(connection)
    found = scores.lock(connection, customer_ids, skip_locked=skip_locked)
    expired = [
        each.position.customer_id for each in found if not is_valid_on(each.position, moment.today)
    ]
    if expired:
        positions.refresh(connection, expired, moment.today)
        found = scores.lock(connection, [each.position.customer_id for each in found])
    outdated = frozenset(expired)
    computed = [
        _computed(each, scorecard, moment, by_day=each.position.customer_id in outdated)
        for each in found
    ]
    scores.store(connection, computed, scorecard.version, moment)
    return [each.position for each in found]


def _computed(scored: Scored, scorecard: Scorecard, moment: Moment, *, by_day: bool) -> NewScore:
    new, stored = score(scored.position, scorecard), scored.stored
    unchanged = (
        stored is not None
        and stored.score == new.score
        and stored.override == new.override
        and stored.scorecard_version == scorecard.version
    )
    cause_event_id = 0
    if stored is not None and stored.scorecard_version != scorecard.version:
        cause = f"scorecard:{scorecard.version}"
    elif by_day:
        cause = f"day:{moment.today.isoformat()}"
    elif scored.event_seq:
        cause, cause_event_id = f"event:{scored.event_seq}", scored.event_id or 0
    else:
        cause = "import"
    return NewScore(
        score=new,
        customer_id=scored.position.customer_id,
        previous_score=None if stored is None else stored.score,
        event_seq=None if unchanged else scored.event_seq + 1,
        cause=cause,
        cause_event_id=cause_event_id,
    )


def lagging(database: Database, moment: Moment, after: int) -> list[int]:
    """One batch of the customers whose stored score is not today's, in order from id `after` up."""
    with database.autocommit() as connection:
        return scores.lagging(
            connection,
            after=after,
            today=moment.today,
            scorecard_version=scorecards.active(connection).version,
            limit=BATCH,
        )


def recompute_batch(
    database: Database, moment: Moment, customer_ids: Sequence[int]
) -> list[CreditPosition]:
    """Recompute the scores of many customers, who wait for nobody.

    For each of those that others have locked a task of its own is left. Returns the positions of
    the rest.
    """
    with database.transaction() as connection:
        found = recompute_scores(connection, customer_ids, moment, skip_locked=True)
        busy = set(customer_ids) - {each.customer_id for each in found}
        tasks.enqueue_all(
            connection, "recompute_score", [str(each) for each in sorted(busy)], moment
        )
        return found


def recompute_past_horizon(database: Database, moment: Moment) -> list[CreditPosition]:
    """One batch of the customers whose score a due date or a new year has outdated.

    Empty when there are no more but those that others have locked.
    """
    with database.transaction() as connection:
        customer_ids = scores.past_horizon(connection, today=moment.today, limit=BATCH)
        return recompute_scores(connection, customer_ids, moment, skip_locked=True)
