"""Update stored scores from the facts, the day and the active scorecard.

The same steps serve one customer after an event and a hundred thousand after an ingestion: lock,
refresh outdated positions, compute, store. Repeating them changes nothing.
"""

from collections.abc import Sequence
from datetime import date

from sqlalchemy import Connection

from credit_service.clock import Moment
from credit_service.domain.policy_facts import PolicyFacts
from credit_service.domain.positions import CreditPosition, is_valid_on
from credit_service.domain.scorecard import Scorecard
from credit_service.domain.scoring import score
from credit_service.storage import policy_facts, positions, scorecards, scores, tasks
from credit_service.storage.database import Database
from credit_service.storage.scores import NewScore, Scored

BATCH = 2_000
"""Customers per transaction: enough for throughput, few enough not to delay a booking much."""


def recompute_scores(
    connection: Connection,
    customer_ids: Sequence[int],
    moment: Moment,
    *,
    skip_locked: bool = False,
) -> list[CreditPosition]:
    """Compute the scores of these customers and store the changed ones.

    A changed score gets a row in the history and a score_changed event. What the scorecard's policy
    counts in the loans is stored with the positions, for later decisions. Returns the customers'
    positions today, for the cache; the caller commits first. With `skip_locked` it leaves out
    customers that other transactions have locked.
    """
    scorecard = scorecards.active(connection, moment.today)
    found = scores.lock(connection, customer_ids, skip_locked=skip_locked)
    expired = [
        each.position.customer_id for each in found if not is_valid_on(each.position, moment.today)
    ]
    if expired:
        positions.refresh(connection, expired, moment.today)
        found = scores.lock(connection, [each.position.customer_id for each in found])
    facts: dict[int, PolicyFacts] = {}
    if scorecard.score_needs_facts:
        ids = [each.position.customer_id for each in found]
        read = policy_facts.read_many_versioned(connection, ids, moment.today, moment.zone)
        policy_facts.store(connection, read, moment.today)
        facts = {customer_id: each.facts for customer_id, each in read.items()}
    outdated = frozenset(expired)
    computed = [
        _computed(
            each,
            scorecard,
            facts.get(each.position.customer_id),
            moment,
            by_day=each.position.customer_id in outdated or _has_expired(each, moment.today),
        )
        for each in found
    ]
    scores.store(connection, computed, scorecard.version, moment)
    return [each.position for each in found]


def _has_expired(scored: Scored, today: date) -> bool:
    """Whether the stored score of this position has expired: it can before the position does."""
    stored = scored.stored
    return (
        stored is not None
        and stored.customer_version == scored.position.version
        and stored.valid_until <= today
    )


def _computed(
    scored: Scored,
    scorecard: Scorecard,
    facts: PolicyFacts | None,
    moment: Moment,
    *,
    by_day: bool,
) -> NewScore:
    new, stored = score(scored.position, scorecard, facts), scored.stored
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
    """Return a batch of customers with ids above `after`, in order, whose stored score is not
    today's."""
    with database.autocommit() as connection:
        return scores.lagging(
            connection,
            after=after,
            today=moment.today,
            scorecard_version=scorecards.active_version(connection, moment.today),
            limit=BATCH,
        )


def recompute_batch(
    database: Database, moment: Moment, customer_ids: Sequence[int]
) -> list[CreditPosition]:
    """Recompute the scores of many customers without waiting for locks.

    Enqueues a task for each customer that another transaction has locked. Returns the positions of
    the others.
    """
    with database.transaction() as connection:
        found = recompute_scores(connection, customer_ids, moment, skip_locked=True)
        busy = set(customer_ids) - {each.customer_id for each in found}
        tasks.enqueue_all(
            connection, "recompute_score", [str(each) for each in sorted(busy)], moment
        )
        return found


def recompute_past_horizon(database: Database, moment: Moment) -> list[CreditPosition]:
    """Recompute a batch of scores that a due date or a new year has outdated.

    Returns an empty list if there are none except locked ones.
    """
    with database.transaction() as connection:
        customer_ids = scores.past_horizon(connection, today=moment.today, limit=BATCH)
        return recompute_scores(connection, customer_ids, moment, skip_locked=True)
