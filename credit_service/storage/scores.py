"""Stored scores, their history, and the search for outdated ones."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import numpy as np
from sqlalchemy import Connection, text

from credit_service.clock import Moment
from credit_service.domain.decisions import score_document
from credit_service.domain.positions import CreditPosition
from credit_service.domain.scoring import CreditScore
from credit_service.observability import tracing
from credit_service.storage import cluster, customers
from credit_service.storage.arrays import Bigints, Dates, Integers, driver_cursor

_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()


@dataclass(frozen=True, slots=True)
class StoredScore:
    """A customer's last computed score."""

    customer_id: int
    score: int
    override: str | None
    customer_version: int
    scorecard_version: str
    computed_at: datetime
    valid_until: date


@dataclass(frozen=True, slots=True)
class Scored:
    """A locked customer: position, number of the newest event, and the stored score if any."""

    position: CreditPosition
    event_seq: int
    # That event's id in the stream; None before it is published, and without an event.
    event_id: int | None
    stored: StoredScore | None


_LOCKED = f"""SELECT {customers.POSITION_COLUMNS}, c.event_seq, e.event_id, s.customer_id, s.score,
        s.override,
        s.customer_version, s.scorecard_version, s.computed_at, s.valid_until
    FROM customers c LEFT JOIN credit_scores s ON s.customer_id = c.customer_id
        LEFT JOIN events e ON e.customer_id = c.customer_id AND e.event_seq = c.event_seq
    WHERE c.customer_id = ANY(%(customer_ids)s)
    ORDER BY c.customer_id"""
_LOCK_ALL = """SELECT customer_id FROM customers WHERE customer_id = ANY(%(customer_ids)s)
    ORDER BY customer_id FOR NO KEY UPDATE"""
_LOCK_FREE = f"{_LOCK_ALL} SKIP LOCKED"
_STORED_AT = customers.POSITION_COLUMN_COUNT + 2


def lock(
    connection: Connection, customer_ids: Sequence[int], *, skip_locked: bool = False
) -> list[Scored]:
    """Lock these customers in order of id until the transaction ends; return them with their stored
    scores.

    Ignores unknown ids, and with `skip_locked` customers that other transactions have locked: a
    caller that locks many must not block all of them while it waits for one.
    """
    # Two statements, as for one customer: see `customers.lock`.
    statement = _LOCK_FREE if skip_locked else _LOCK_ALL
    cursor = driver_cursor(connection)
    locked = [
        row[0]
        for group in cluster.lockable(connection, np.array(customer_ids, np.int64))
        for row in cursor.execute(statement, {"customer_ids": Bigints(group)}, binary=True)
    ]
    found = {"customer_ids": Bigints(np.array(locked, np.int64))}
    rows = cursor.execute(_LOCKED, found, binary=True).fetchall()
    return [
        Scored(
            customers.position(row),
            row[customers.POSITION_COLUMN_COUNT],
            row[customers.POSITION_COLUMN_COUNT + 1],
            None if row[_STORED_AT] is None else StoredScore(*row[_STORED_AT:]),
        )
        for row in rows
    ]


_LAGGING = text(
    """SELECT c.customer_id
    FROM customers c LEFT JOIN credit_scores s ON s.customer_id = c.customer_id
    WHERE c.customer_id > :after AND (
        s.customer_id IS NULL
        OR s.customer_version <> c.version
        OR s.scorecard_version <> :scorecard_version
        OR s.valid_until <= :today
        OR c.position_as_of > :today
    )
    ORDER BY c.customer_id LIMIT :limit"""
)
_DUE = text(
    """SELECT customer_id FROM credit_scores WHERE valid_until <= :today
    ORDER BY valid_until, customer_id LIMIT :limit"""
)


def lagging(
    connection: Connection, *, after: int, today: date, scorecard_version: str, limit: int
) -> list[int]:
    """Return customers with ids above `after`, in order, whose stored score is not today's.

    It belongs to another version of the customer or scorecard, has expired, or is missing.
    """
    rows = connection.execute(
        _LAGGING,
        {
            "after": after,
            "today": today,
            "scorecard_version": scorecard_version,
            "limit": limit,
        },
    )
    return list(rows.scalars())


def past_horizon(connection: Connection, *, today: date, limit: int) -> list[int]:
    """Return customers whose stored score has expired today, the longest expired first."""
    return list(connection.execute(_DUE, {"today": today, "limit": limit}).scalars())


@dataclass(frozen=True, slots=True)
class NewScore:
    """A computed score to store; `event_seq` is that of its score_changed event, None for an
    unchanged score."""

    score: CreditScore
    customer_id: int
    previous_score: int | None
    event_seq: int | None
    # What changed it: 'event:12' (the customer's event with that number), 'day:2027-01-01',
    # 'scorecard:standard-2'.
    cause: str
    # The id of the causing event if it is published; 0 otherwise.
    cause_event_id: int


_UPSERT = """
    INSERT INTO credit_scores (customer_id, score, override, customer_version, scorecard_version,
        computed_at, valid_until)
    SELECT customer_id, score, override, version, %(scorecard_version)s, %(now)s, valid_until
    FROM unnest(%(customer_ids)s, %(scores)s, string_to_array(%(overrides)s, chr(10), ''),
        %(versions)s, %(valid_untils)s)
        AS computed (customer_id, score, override, version, valid_until)
    ON CONFLICT (customer_id) DO UPDATE SET score = EXCLUDED.score, override = EXCLUDED.override,
        customer_version = EXCLUDED.customer_version,
        scorecard_version = EXCLUDED.scorecard_version, computed_at = EXCLUDED.computed_at,
        valid_until = EXCLUDED.valid_until
    """
_CHANGED = """
    WITH changed AS (
        SELECT * FROM unnest(%(customer_ids)s, %(event_seqs)s, %(versions)s, %(scores)s,
            %(previous)s, string_to_array(%(overrides)s, chr(10), ''),
            string_to_array(%(causes)s, chr(10)), string_to_array(%(payloads)s, chr(10)))
            AS c (customer_id, event_seq, version, score, previous, override, cause, payload)
    ), c AS (
        UPDATE customers SET event_seq = changed.event_seq
        FROM changed WHERE customers.customer_id = changed.customer_id
    ), e AS (
        INSERT INTO events (customer_id, event_seq, kind, customer_version, occurred_at, payload,
            traceparent)
        SELECT customer_id, event_seq, 'score_changed', version, %(now)s, payload::json,
            %(traceparent)s::text
        FROM changed
    )
    INSERT INTO score_history (customer_id, event_seq, score, previous_score, override,
        customer_version, scorecard_version, computed_at, computed_on, cause)
    SELECT customer_id, event_seq, score, nullif(previous, %(no_score)s), override, version,
        %(scorecard_version)s, %(now)s, %(today)s, cause
    FROM changed
    """
_NO_SCORE = -1


def store(
    connection: Connection, computed: Sequence[NewScore], scorecard_version: str, moment: Moment
) -> None:
    """Store scores of locked customers; for changed ones also history and event."""
    if not computed:
        return
    cursor = driver_cursor(connection)
    when = {"scorecard_version": scorecard_version, "now": moment.now, "today": moment.today}
    valid_untils = [each.score.valid_until.toordinal() - _EPOCH_ORDINAL for each in computed]
    cursor.execute(
        _UPSERT, when | _columns(computed) | {"valid_untils": Dates(np.array(valid_untils))}
    )
    changed = [each for each in computed if each.event_seq is not None]
    if changed:
        previous = [
            _NO_SCORE if each.previous_score is None else each.previous_score for each in changed
        ]
        cursor.execute(
            _CHANGED,
            when
            | _columns(changed)
            | {
                "event_seqs": Bigints(np.array([each.event_seq for each in changed])),
                "previous": Integers(np.array(previous)),
                "no_score": _NO_SCORE,
                "causes": "\n".join(each.cause for each in changed),
                "payloads": "\n".join(_payload(each) for each in changed),
                "traceparent": tracing.traceparent(),
            },
        )


def _columns(computed: Sequence[NewScore]) -> dict[str, Any]:
    """Return arrays, and texts as lines of one text: in an array the driver would escape every
    quote of JSON, and search every other text for quotes."""
    return {
        "customer_ids": Bigints(np.array([each.customer_id for each in computed])),
        "scores": Integers(np.array([each.score.score for each in computed])),
        "overrides": "\n".join(each.score.override or "" for each in computed),
        "versions": Bigints(np.array([each.score.customer_version for each in computed])),
    }


def _payload(new: NewScore) -> str:
    """Return the payload of score_changed."""
    return json.dumps(
        {
            "score": score_document(new.score),
            "previous_score": new.previous_score,
            "cause": new.cause,
            "cause_event_id": new.cause_event_id,
        }
    )
