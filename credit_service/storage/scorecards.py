"""Scorecards: stored documents that never change, one of them active."""

import json
import threading
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from credit_service.clock import Moment
from credit_service.domain.scorecard import Scorecard, parse_scorecard, scorecard_document

_DOCUMENT = text("SELECT document::text FROM scorecards WHERE version = :version")
_ACTIVE = text("SELECT version FROM scorecards WHERE state = 'ACTIVE'")
_SEED = text(
    """INSERT INTO scorecards (version, document, state, added_at, activated_at)
    SELECT :version, CAST(:document AS json), 'ACTIVE', now(), now()
    WHERE NOT EXISTS (SELECT FROM scorecards WHERE state = 'ACTIVE')
    ON CONFLICT DO NOTHING"""
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


def active(connection: Connection) -> Scorecard:
    """Return the active scorecard."""
    return get(connection, connection.execute(_ACTIVE).scalar_one())


def seed(connection: Connection, scorecard: Scorecard) -> None:
    """Make this scorecard the active one if there is none."""
    document = json.dumps(scorecard_document(scorecard), sort_keys=True)
    connection.execute(_SEED, {"version": scorecard.version, "document": document})


_ADD = text(
    """INSERT INTO scorecards (version, document, state, added_at)
    VALUES (:version, CAST(:document AS json), 'INACTIVE', :now)
    ON CONFLICT (version) DO NOTHING"""
)
_RETIRE = text("UPDATE scorecards SET state = 'INACTIVE' WHERE state = :state")
_SET_STATE = text(
    "UPDATE scorecards SET state = :state, activated_at = :now WHERE version = :version"
)
_SHADOW = text("SELECT version FROM scorecards WHERE state = 'SHADOW'")
_LIST = text(
    "SELECT version, state, added_at, activated_at FROM scorecards ORDER BY added_at, version"
)


def add(connection: Connection, scorecard: Scorecard, moment: Moment) -> bool:
    """Store the scorecard; return False if a different document has its version."""
    document = json.dumps(scorecard_document(scorecard), sort_keys=True)
    connection.execute(
        _ADD, {"version": scorecard.version, "document": document, "now": moment.now}
    )
    stored = connection.execute(_DOCUMENT, {"version": scorecard.version}).scalar_one()
    return parse_scorecard(json.loads(stored)) == scorecard


def set_state(connection: Connection, version: str, state: str, moment: Moment) -> None:
    """Make the stored scorecard the ACTIVE or the SHADOW one instead of the current one."""
    connection.execute(_RETIRE, {"state": state})
    connection.execute(_SET_STATE, {"version": version, "state": state, "now": moment.now})


def retire_shadow(connection: Connection) -> None:
    """Make the shadow scorecard, if any, inactive."""
    connection.execute(_RETIRE, {"state": "SHADOW"})


def shadow(connection: Connection) -> Scorecard | None:
    """Return the shadow scorecard; None if there is none."""
    version = connection.execute(_SHADOW).scalar_one_or_none()
    return None if version is None else get(connection, version)


@dataclass(frozen=True, slots=True)
class ScorecardLine:
    """An entry in the list of stored scorecards."""

    version: str
    state: str
    added_at: datetime
    activated_at: datetime | None


def list_all(connection: Connection) -> list[ScorecardLine]:
    """Return all stored scorecards, the oldest first."""
    return [ScorecardLine(*row) for row in connection.execute(_LIST)]
