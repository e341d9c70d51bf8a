"""Stored scorecards, their history, and how two of them differ."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from credit_service.clock import Moment
from credit_service.domain.scorecard import Scorecard
from credit_service.domain.scorecard_json import Difference, differences
from credit_service.storage import scorecards
from credit_service.storage.database import Database
from credit_service.storage.scorecards import ScorecardChange, StoredScorecard

MAX_CHANGES = 100
"""Entries of a scorecard's history that are read, from the latest."""


def get_scorecard(
    database: Database, version: str | None, moment: Moment
) -> tuple[StoredScorecard, list[ScorecardChange]]:
    """Return a scorecard, by default the active one, and its history, latest first.

    Raises:
        NotFoundError: SCORECARD_NOT_FOUND.
    """
    with database.autocommit() as connection:
        version = version or scorecards.active_version(connection, moment.today)
        found = scorecards.find(connection, version, moment.today)
        if found is None:
            raise scorecards.not_found(version)
        return found, scorecards.history(connection, version, MAX_CHANGES)


def list_scorecards(
    database: Database, moment: Moment, after: tuple[datetime, str] | None, limit: int
) -> list[StoredScorecard]:
    """Return scorecards without documents, oldest first, at most `limit`, after the one stored at
    that time with that version."""
    with database.autocommit() as connection:
        return scorecards.page(connection, moment.today, after, limit)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two versions, and the fields in which they differ."""

    before_version: str
    after_version: str
    differences: list[Difference]


def compare_scorecards(
    database: Database, before: str | None, after: str | Scorecard, moment: Moment
) -> Comparison:
    """Compare a stored scorecard, by default the active one, with another one.

    Raises:
        NotFoundError: SCORECARD_NOT_FOUND.
    """
    with database.autocommit() as connection:
        first = _read(connection, before or scorecards.active_version(connection, moment.today))
        second = _read(connection, after) if isinstance(after, str) else after
    return Comparison(first.version, second.version, differences(first, second))


def find_scorecard(database: Database, version: str) -> Scorecard:
    """Return a stored scorecard.

    Raises:
        NotFoundError: SCORECARD_NOT_FOUND.
    """
    with database.autocommit() as connection:
        return _read(connection, version)


def _read(connection: Connection, version: str) -> Scorecard:
    try:
        return scorecards.get(connection, version)
    except LookupError:
        raise scorecards.not_found(version) from None
