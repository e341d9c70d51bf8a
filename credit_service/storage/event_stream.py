"""Events: written with their facts, numbered afterwards for watchers.

A fact's transaction writes its event with the customer's next `event_seq` and no `event_id`. One
sequencer numbers committed events in the order it finds them. A sequence value drawn inside the
fact's transaction would not work: the lower number can commit later, and a watcher would miss it.

On a cluster, a committed transaction becomes visible on one node after another: a watcher could see
event 11 before event 10. There the coordinator keeps two bookmarks: the last number assigned, and
the last number up to which all events are visible, where watchers stop. The sequencer advances the
second one after it has counted the events, and assigns no numbers before.
"""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from credit_service.clock import Moment
from credit_service.observability import tracing
from credit_service.storage import cluster
from credit_service.storage.statements import Statement

_SEQUENCER_LOCK = 0x6372656469740002

SCORE_CHANGING_KINDS = frozenset(
    {
        "customer_registered",
        "loan_created",
        "payment_recorded",
        "loan_closed",
        "payment_reversed",
        "loan_offer_created",
        "loan_offer_ended",
        "customer_updated",
    }
)
"""Kinds of events after which the customer's score is recomputed, unless they are of an ingestion:
its end recomputes the scores of all its customers. Offers do not change a score, but the version of
the position to which it belongs."""


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event in the stream. `customer_id` is 0 for an event without a single customer."""

    event_id: int
    customer_id: int
    event_seq: int
    kind: str
    customer_version: int
    occurred_at: datetime
    payload: dict[str, Any]


_HAS_UNPUBLISHED = Statement("SELECT FROM events WHERE event_id IS NULL LIMIT 1")
_LOCK = text("SELECT pg_try_advisory_xact_lock(:key)")
_PUBLISHED = """events.event_id, events.customer_id, events.kind,
    CASE WHEN events.kind IN ('loan_declined', 'loan_offer_created', 'decision_referred')
            OR events.kind = 'loan_created' AND events.payload ->> 'offer_id' IS NULL
        THEN CAST(events.payload ->> 'decision_id' AS bigint) END AS decision_id,
    events.kind = 'customer_updated' AND events.payload ->> 'ingestion_id' <> '' AS of_ingestion,
    events.traceparent"""
# Within a customer by event_seq: events commit in that order, so none found is ahead of a gap.
# Between customers any order is correct.
_PUBLISH = text(
    f"""
    WITH waiting AS (
        SELECT customer_id, event_seq, row_number() OVER (ORDER BY customer_id, event_seq) AS place
        FROM (
            SELECT customer_id, event_seq FROM events WHERE event_id IS NULL
            ORDER BY customer_id, event_seq LIMIT :limit
        ) AS first_ones
    ), last AS (
        SELECT coalesce(max(event_id), 0) AS event_id FROM events
    ), published AS (
        UPDATE events SET event_id = last.event_id + waiting.place
        FROM waiting, last
        WHERE events.customer_id = waiting.customer_id
            AND events.event_seq = waiting.event_seq
        RETURNING {_PUBLISHED}
    )
    SELECT event_id, customer_id, kind, decision_id, of_ingestion, traceparent
    FROM published ORDER BY event_id
    """
)


@dataclass(frozen=True, slots=True)
class PublishedEvent:
    """An event that the relay numbered."""

    event_id: int
    customer_id: int
    kind: str
    # Of the event of a decision: loan_created (unless an offer was accepted), loan_declined,
    # loan_offer_created, decision_referred.
    decision_id: int | None
    # Whether an ingestion wrote this customer_updated.
    of_ingestion: bool
    # Of the work that it came from.
    traceparent: str | None


_ASSIGNED = "events_assigned"
_VISIBLE = "events_visible"
_BOOKMARKS = Statement(
    f"SELECT name, position FROM bookmarks WHERE name IN ('{_ASSIGNED}', '{_VISIBLE}')"
)
_SET_BOOKMARK = Statement(
    """INSERT INTO bookmarks (name, position) VALUES (:name, :position)
    ON CONFLICT (name) DO UPDATE SET position = EXCLUDED.position"""
)
_COUNT = Statement("SELECT count(*) FROM events WHERE event_id > :after AND event_id <= :until")
_FIRST_UNPUBLISHED = Statement(
    """SELECT customer_id, event_seq FROM events WHERE event_id IS NULL
    ORDER BY customer_id, event_seq LIMIT :limit"""
)
_ASSIGN = Statement(
    f"""UPDATE events SET event_id = n.event_id
    FROM unnest(CAST(:customer_ids AS bigint[]), CAST(:event_seqs AS bigint[]),
        CAST(:event_ids AS bigint[])) AS n (customer_id, event_seq, event_id)
    WHERE events.customer_id = n.customer_id AND events.event_seq = n.event_seq
    RETURNING {_PUBLISHED}"""
)


def has_unpublished(connection: Connection) -> bool:
    """Return whether there are events to publish; costs a fraction of `publish`."""
    if cluster.is_distributed(connection):
        assigned, visible = _bookmarks(connection)
        if visible < assigned:
            return True
    return bool(_HAS_UNPUBLISHED.rows(connection, {}))


def _bookmarks(connection: Connection) -> tuple[int, int]:
    """Return the last number assigned, and the last one up to which all events are visible."""
    found: dict[str, int] = dict(_BOOKMARKS.rows(connection, {}))
    return found.get(_ASSIGNED, 0), found.get(_VISIBLE, 0)


def publish(connection: Connection, limit: int) -> list[PublishedEvent]:
    """Number unpublished events, at most `limit`, and return them in order.

    Ids have no gaps. Empty if there are none or another sequencer holds the lock. The next id
    follows the highest stored one, so the newest event is never deleted.
    """
    if not connection.execute(_LOCK, {"key": _SEQUENCER_LOCK}).scalar_one():
        return []
    if cluster.is_distributed(connection):
        return _publish_on_cluster(connection, limit)
    rows = connection.execute(_PUBLISH, {"limit": limit})
    return [PublishedEvent(*row) for row in rows]


def _publish_on_cluster(connection: Connection, limit: int) -> list[PublishedEvent]:
    assigned, visible = _bookmarks(connection)
    if visible < assigned:
        found = _COUNT.rows(connection, {"after": visible, "until": assigned})
        if found[0][0] < assigned - visible:
            # A node has not committed yet. Until then its events look unpublished.
            return []
        _SET_BOOKMARK.run(connection, {"name": _VISIBLE, "position": assigned})
    waiting = _FIRST_UNPUBLISHED.rows(connection, {"limit": limit})
    if not waiting:
        return []
    last = assigned + len(waiting)
    values = {
        "customer_ids": [row[0] for row in waiting],
        "event_seqs": [row[1] for row in waiting],
        "event_ids": list(range(assigned + 1, last + 1)),
    }
    published = [PublishedEvent(*row) for row in _ASSIGN.rows(connection, values)]
    _SET_BOOKMARK.run(connection, {"name": _ASSIGNED, "position": last})
    return sorted(published, key=lambda event: event.event_id)


_COLUMNS = """event_id, customer_id, event_seq, kind, customer_version, occurred_at,
    payload::text"""
_AFTER = f"SELECT {_COLUMNS} FROM events WHERE event_id > :after AND event_id <= :until"
_ORDERED = " ORDER BY event_id LIMIT :limit"
_READS = {
    (of_customer, of_kinds): text(
        _AFTER
        + (" AND customer_id = :customer_id" if of_customer else "")
        + (" AND kind = ANY(:kinds)" if of_kinds else "")
        + _ORDERED
    )
    for of_customer in (False, True)
    for of_kinds in (False, True)
}
_LAST = Statement("SELECT max(event_id) FROM events")


def last_event_id(connection: Connection) -> int:
    """Return the id up to which watchers can read published events; 0 before the first."""
    if cluster.is_distributed(connection):
        return _bookmarks(connection)[1]
    row = _LAST.row(connection, {})
    return 0 if row is None or row[0] is None else int(row[0])


def read(
    connection: Connection,
    *,
    after: int,
    until: int,
    limit: int,
    customer_id: int | None = None,
    kinds: frozenset[str] = frozenset(),
) -> list[StoredEvent]:
    """Return published events with ids above `after`, up to `until`, in order, at most `limit`;
    without kinds, all kinds."""
    rows = connection.execute(
        _READS[customer_id is not None, bool(kinds)],
        {
            "after": after,
            "until": until,
            "limit": limit,
            "customer_id": customer_id,
            "kinds": sorted(kinds),
        },
    )
    return [
        StoredEvent(
            row.event_id,
            row.customer_id,
            row.event_seq,
            row.kind,
            row.customer_version,
            row.occurred_at,
            json.loads(row.payload),
        )
        for row in rows
    ]


# --- The oldest events ----------------------------------------------------------------------------

_EXPIRED = Statement("SELECT position FROM bookmarks WHERE name = 'events_expired'")
_MOVE_EXPIRED = text(
    """INSERT INTO bookmarks (name, position) VALUES ('events_expired', :until)
    ON CONFLICT (name) DO UPDATE SET position = :until"""
)
_OLDEST = text(
    """SELECT event_id, occurred_at < now() - :days * interval '1 day' FROM events
    WHERE event_id > :after ORDER BY event_id LIMIT :limit"""
)
_OLDEST_SECONDS = Statement(
    """SELECT extract(epoch FROM now() - occurred_at) FROM events
    WHERE event_id > :after AND event_id < (SELECT max(event_id) FROM events)
    ORDER BY event_id LIMIT 1"""
)
_DELETE = text("DELETE FROM events WHERE event_id > :after AND event_id <= :until")


def expired_until(connection: Connection) -> int:
    """Return the id of the newest event that was deleted at the end of its retention; 0 if none.

    Events with higher ids are stored. Read it after the events: if it is not above the id that
    the reader started after, the reader missed none.
    """
    row = _EXPIRED.row(connection, {})
    return 0 if row is None else int(row[0])


def oldest_seconds(connection: Connection) -> float | None:
    """Return the age of the oldest published event that can be deleted; None without one."""
    row = _OLDEST_SECONDS.row(connection, {"after": expired_until(connection)})
    return None if row is None else float(row[0])


def delete_expired(connection: Connection, days: float, limit: int) -> int:
    """Delete the oldest published events, at most `limit`, and return how many.

    They are those before the first one that occurred less than `days` ago by the database's clock,
    so that an event is kept as long as an earlier one. The newest published event is kept.
    """
    after = expired_until(connection)
    last = last_event_id(connection)
    until = after
    found = connection.execute(_OLDEST, {"after": after, "days": days, "limit": limit})
    for event_id, is_old in found:
        if not is_old or event_id >= last:
            break
        until = event_id
    if until == after:
        return 0
    connection.execute(_MOVE_EXPIRED, {"until": until})
    return connection.execute(_DELETE, {"after": after, "until": until}).rowcount


# --- Events without a customer --------------------------------------------------------------------

_APPEND_SYSTEM = text(
    """INSERT INTO events (customer_id, event_seq, kind, customer_version, occurred_at, payload,
        traceparent)
    VALUES (0, nextval('ingestion_event_seqs'), :kind, 0, :now, CAST(:payload AS json),
        :traceparent)"""
)


def append_for_no_customer(
    connection: Connection, kind: str, payload: dict[str, Any], moment: Moment
) -> None:
    """Write an event without a single customer, such as rows_ingested."""
    connection.execute(
        _APPEND_SYSTEM,
        {
            "kind": kind,
            "now": moment.now,
            "payload": json.dumps(payload),
            "traceparent": tracing.traceparent(),
        },
    )
