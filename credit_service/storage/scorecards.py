"""Scorecards: stored documents that never change, one of them active, and their history.

The state ACTIVE names the active scorecard, unless a scheduled activation's day has come: then that
one decides, at once and in every process, and a worker makes the states follow. Servers of release
0.1.0 know the states only.
"""

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from credit_service.clock import Moment
from credit_service.domain.errors import NotFoundError
from credit_service.domain.scorecard import Scorecard, parse_scorecard
from credit_service.domain.scorecard_json import write_scorecard
from credit_service.storage import event_stream
from credit_service.storage.statements import Statement

_DUE = """(SELECT version FROM scorecard_schedule WHERE effective_on <= :today
        ORDER BY effective_on DESC LIMIT 1)"""

ACTIVE_VERSION = f"coalesce({_DUE}, s.version) AS scorecard_version"
"""The column with the version that decides on the day :today, for a statement with ACTIVE_JOIN."""

ACTIVE_JOIN = "LEFT JOIN scorecards s ON s.state = 'ACTIVE'"

_DOCUMENT = text("SELECT document::text FROM scorecards WHERE version = :version")
_IN_FORCE = f"coalesce({_DUE}, (SELECT version FROM scorecards WHERE state = 'ACTIVE'))"
_ACTIVE = Statement(f"SELECT {_IN_FORCE}")
_SEED = text(
    """INSERT INTO scorecards (version, document, state, added_at, activated_at)
    SELECT :version, CAST(:document AS json), 'ACTIVE', now(), now()
    WHERE NOT EXISTS (SELECT FROM scorecards WHERE state = 'ACTIVE')
    ON CONFLICT DO NOTHING"""
)
_SEED_INACTIVE = text(
    """INSERT INTO scorecards (version, document, state, added_at)
    VALUES (:version, CAST(:document AS json), 'INACTIVE', now())
    ON CONFLICT (version) DO NOTHING"""
)

_parsed: dict[str, Scorecard] = {}
_parsing = threading.Lock()


def known(version: str) -> Scorecard | None:
    """Return the scorecard of that version if this process has read it before; else None."""
    return _parsed.get(version)


def get(connection: Connection, version: str) -> Scorecard:
    """Return the scorecard of that version, read once per process: a document never changes.

    Raises:
        LookupError: no scorecard has that version.
    """
    scorecard = _parsed.get(version)
    if scorecard is not None:
        return scorecard
    document = connection.execute(_DOCUMENT, {"version": version}).scalar_one_or_none()
    if document is None:
        raise LookupError(f"no scorecard {version}")
    with _parsing:
        return _parsed.setdefault(version, parse_scorecard(json.loads(document)))


def active_version(connection: Connection, day: date) -> str:
    """Return the version of the scorecard that decides on that day."""
    row = _ACTIVE.row(connection, {"today": day})
    assert row is not None  # noqa: S101 - a row without a table
    version: str = row[0]
    return version


def active(connection: Connection, day: date) -> Scorecard:
    """Return the scorecard that decides on that day."""
    return get(connection, active_version(connection, day))


def seed(connection: Connection, scorecard: Scorecard) -> None:
    """Make this scorecard the active one if there is none."""
    connection.execute(
        _SEED, {"version": scorecard.version, "document": write_scorecard(scorecard)}
    )


def seed_inactive(connection: Connection, document: Mapping[str, Any]) -> None:
    """Store the scorecard of a valid document, not active, unless one with its version is
    stored."""
    values = {"version": document["version"], "document": json.dumps(document, sort_keys=True)}
    connection.execute(_SEED_INACTIVE, values)


# --- Changes --------------------------------------------------------------------------------------

_LOCK_KEY = 0x6372656469740003
_LOCK = Statement("SELECT pg_advisory_xact_lock(:key)")
_ADD = text(
    """INSERT INTO scorecards (version, document, state, added_at)
    VALUES (:version, CAST(:document AS json), 'INACTIVE', :now)
    ON CONFLICT (version) DO NOTHING RETURNING version"""
)
_LEAVE = text("UPDATE scorecards SET state = 'INACTIVE' WHERE state = :state")
_ENTER = text("UPDATE scorecards SET state = :state, activated_at = :now WHERE version = :version")
_RETIRE = text("UPDATE scorecards SET state = 'RETIRED' WHERE version = :version")
_SHADOW = text("SELECT version FROM scorecards WHERE state = 'SHADOW'")


def lock(connection: Connection) -> None:
    """Let no other transaction change states, schedule or history until this one ends."""
    _LOCK.run(connection, {"key": _LOCK_KEY})


def add(connection: Connection, scorecard: Scorecard, moment: Moment) -> bool:
    """Store a scorecard as INACTIVE; return False if its version is stored already."""
    values = {
        "version": scorecard.version,
        "document": write_scorecard(scorecard),
        "now": moment.now,
    }
    return connection.execute(_ADD, values).one_or_none() is not None


def set_state(connection: Connection, version: str, state: str, moment: Moment) -> None:
    """Make the stored scorecard the ACTIVE or the SHADOW one instead of the current one."""
    connection.execute(_LEAVE, {"state": state})
    connection.execute(_ENTER, {"version": version, "state": state, "now": moment.now})


def end_shadow(connection: Connection) -> None:
    """Make the shadow scorecard, if any, inactive."""
    connection.execute(_LEAVE, {"state": "SHADOW"})


def retire(connection: Connection, version: str) -> None:
    """Make the stored scorecard RETIRED."""
    connection.execute(_RETIRE, {"version": version})


def shadow(connection: Connection) -> Scorecard | None:
    """Return the shadow scorecard; None if there is none."""
    version = connection.execute(_SHADOW).scalar_one_or_none()
    return None if version is None else get(connection, version)


# --- Schedule -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scheduled:
    """An activation for a day."""

    effective_on: date
    version: str
    principal: str


_SCHEDULE = text(
    """INSERT INTO scorecard_schedule (effective_on, version, principal)
    VALUES (:effective_on, :version, :principal)
    ON CONFLICT (effective_on) DO UPDATE SET version = EXCLUDED.version,
        principal = EXCLUDED.principal"""
)
_UNSCHEDULE = text("DELETE FROM scorecard_schedule WHERE effective_on = :effective_on")
_SCHEDULED = Statement(
    """SELECT effective_on, version, principal FROM scorecard_schedule
    WHERE effective_on <= :day ORDER BY effective_on"""
)


def schedule(connection: Connection, scheduled: Scheduled) -> None:
    """Store an activation for a day, in place of one for the same day."""
    connection.execute(
        _SCHEDULE,
        {
            "effective_on": scheduled.effective_on,
            "version": scheduled.version,
            "principal": scheduled.principal,
        },
    )


def unschedule(connection: Connection, day: date) -> None:
    """Delete the activation for that day, if any."""
    connection.execute(_UNSCHEDULE, {"effective_on": day})


def scheduled_until(connection: Connection, day: date) -> list[Scheduled]:
    """Return the scheduled activations up to that day, in order of their days."""
    return [Scheduled(*row) for row in _SCHEDULED.rows(connection, {"day": day})]


# --- History --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ScorecardChange:
    """An entry of the history. `number` is 0 before it is stored."""

    kind: str
    version: str
    changed_at: datetime
    principal: str
    previous_version: str | None = None
    effective_on: date | None = None
    number: int = 0


UNCHANGED = "UNCHANGED"
"""The kind of an entry for a request that changed nothing. The history leaves it out."""

_NEXT = text("SELECT coalesce(max(change_number), 0) + 1 FROM scorecard_changes")
_RECORD = text(
    """INSERT INTO scorecard_changes (change_number, request_id, fingerprint, kind, version,
        previous_version, effective_on, changed_at, principal)
    VALUES (:number, :request_id, :fingerprint, :kind, :version, :previous_version, :effective_on,
        :changed_at, :principal)"""
)
_REQUEST = text("SELECT fingerprint FROM scorecard_changes WHERE request_id = :request_id")
_HISTORY = text(
    """SELECT kind, version, changed_at, principal, previous_version, effective_on, change_number
    FROM scorecard_changes WHERE version = :version AND kind <> 'UNCHANGED'
    ORDER BY change_number DESC LIMIT :limit"""
)


def record(
    connection: Connection,
    change: ScorecardChange,
    moment: Moment,
    request: tuple[UUID, bytes] | None,
) -> None:
    """Store a change and its scorecard_changed event. The transaction must hold the lock.

    `request` is the id and fingerprint of the request that made it. A request that changed nothing
    is stored as UNCHANGED, without an event, so that its repeat changes nothing either.
    """
    request_id, fingerprint = request or (None, None)
    values: dict[str, Any] = {
        "number": connection.execute(_NEXT).scalar_one(),
        "kind": change.kind,
        "version": change.version,
        "previous_version": change.previous_version,
        "effective_on": change.effective_on,
        "changed_at": change.changed_at,
        "principal": change.principal,
    }
    connection.execute(_RECORD, values | {"request_id": request_id, "fingerprint": fingerprint})
    if change.kind == UNCHANGED:
        return
    payload = {
        **values,
        "changed_at": change.changed_at.isoformat(),
        "effective_on": change.effective_on and change.effective_on.isoformat(),
    }
    event_stream.append_for_no_customer(connection, "scorecard_changed", payload, moment)


def fingerprint_of(connection: Connection, request_id: UUID) -> bytes | None:
    """Return the fingerprint of the request that had this id; None if none had."""
    found = connection.execute(_REQUEST, {"request_id": request_id}).scalar_one_or_none()
    return None if found is None else bytes(found)


def history(connection: Connection, version: str, limit: int) -> list[ScorecardChange]:
    """Return the changes of a scorecard, latest first, at most `limit`."""
    rows = connection.execute(_HISTORY, {"version": version, "limit": limit})
    return [ScorecardChange(*row) for row in rows]


# --- Reading --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StoredScorecard:
    """A stored scorecard. `state` and `scheduled_on` are those of the day of the read."""

    version: str
    state: str
    document: str
    added_at: datetime
    activated_at: datetime | None
    scheduled_on: date | None
    added_by: str | None
    activated_by: str | None


def _columns(document: str) -> str:
    return f"""s.version,
    CASE WHEN s.version = {_IN_FORCE} THEN 'ACTIVE'
        WHEN s.state = 'ACTIVE' THEN 'INACTIVE' ELSE s.state END,
    {document}, s.added_at, s.activated_at,
    (SELECT min(effective_on) FROM scorecard_schedule p
        WHERE p.version = s.version AND p.effective_on > :today),
    (SELECT principal FROM scorecard_changes h
        WHERE h.version = s.version AND h.kind = 'CREATED' ORDER BY change_number LIMIT 1),
    (SELECT principal FROM scorecard_changes h
        WHERE h.version = s.version AND h.kind IN ('ACTIVATED', 'TRIAL_STARTED')
        ORDER BY change_number DESC LIMIT 1)"""


_FIND = text(f"SELECT {_columns('s.document::text')} FROM scorecards s WHERE s.version = :version")
_PAGE = text(
    f"""SELECT {_columns("''")} FROM scorecards s
    WHERE CAST(:added_at AS timestamptz) IS NULL
        OR (s.added_at, s.version) > (CAST(:added_at AS timestamptz), CAST(:version AS text))
    ORDER BY s.added_at, s.version LIMIT :limit"""
)


def not_found(version: str) -> NotFoundError:
    """SCORECARD_NOT_FOUND."""
    return NotFoundError(
        "SCORECARD_NOT_FOUND", "scorecard", version, metadata={"scorecard_version": version}
    )


def find(connection: Connection, version: str, day: date) -> StoredScorecard | None:
    """Return the scorecard of that version, as of that day."""
    row = connection.execute(_FIND, {"version": version, "today": day}).one_or_none()
    return None if row is None else StoredScorecard(*row)


def page(
    connection: Connection, day: date, after: tuple[datetime, str] | None, limit: int
) -> list[StoredScorecard]:
    """Return stored scorecards without documents, oldest first, at most `limit`, after the one
    stored at that time with that version."""
    added_at, version = after or (None, None)
    values = {"today": day, "added_at": added_at, "version": version, "limit": limit}
    return [StoredScorecard(*row) for row in connection.execute(_PAGE, values)]
