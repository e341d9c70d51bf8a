"""A customer's credit: position, score, and the decision on a loan request."""

import time
from dataclasses import dataclass

from credit_service.cache.positions import PositionCache
from credit_service.clock import Moment
from credit_service.domain.eligibility import Ask, Decision, decide
from credit_service.domain.errors import NotFoundError
from credit_service.domain.positions import CreditPosition
from credit_service.domain.scorecard import Scorecard
from credit_service.domain.scoring import CreditScore, score
from credit_service.storage import customers, scorecards
from credit_service.storage.database import Database

_ACTIVE_VERSION_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class CreditSnapshot:
    """A customer's position on a day, and the active scorecard."""

    position: CreditPosition
    scorecard: Scorecard


class CreditQueries:
    """Reads credit from the cache if possible. Safe to share between threads.

    A cache entry is valid only while its scorecard is the active one, which PostgreSQL confirms
    once a second.
    """

    def __init__(self, database: Database, cache: PositionCache | None = None) -> None:
        self._database = database
        self._cache = cache
        self._active_version = ""
        self._known_until = 0.0

    def snapshot(self, customer_id: int, moment: Moment) -> CreditSnapshot:
        """Return the customer's position today and the active scorecard. Never writes to
        PostgreSQL.

        Raises:
            NotFoundError: CUSTOMER_NOT_FOUND.
        """
        cache = self._cache
        if cache is not None and self._knows_active_version():
            cached = cache.get(customer_id, moment.today)
            if cached is not None and cached.scorecard_version == self._active_version:
                scorecard = scorecards.known(cached.scorecard_version)
                if scorecard is not None:
                    return CreditSnapshot(cached.position, scorecard)
        started_at = time.monotonic()
        found = self._read(customer_id, moment)
        if cache is not None:
            cache.fill(found.position, found.scorecard.version, moment, read_at=started_at)
        return found

    def _read(self, customer_id: int, moment: Moment) -> CreditSnapshot:
        with self._database.autocommit() as connection:
            found = customers.find_position(connection, customer_id)
            if found is None:
                raise NotFoundError("CUSTOMER_NOT_FOUND", "customer", str(customer_id))
            position, scorecard_version = found
            self._active_version = scorecard_version
            self._known_until = time.monotonic() + _ACTIVE_VERSION_SECONDS
            return CreditSnapshot(
                customers.position_on(connection, position, moment.today),
                scorecards.get(connection, scorecard_version),
            )

    def _knows_active_version(self) -> bool:
        """Return whether the known active version is fresh; if not, the next read refreshes it."""
        return time.monotonic() < self._known_until

    def check_eligibility(
        self, customer_id: int, ask: Ask, moment: Moment
    ) -> tuple[CreditSnapshot, Decision]:
        """Return what CreateLoan would decide now. Raises like `snapshot`."""
        found = self.snapshot(customer_id, moment)
        return found, decide(found.position, ask, found.scorecard, moment.today)

    def credit_score(self, customer_id: int, moment: Moment) -> tuple[CreditSnapshot, CreditScore]:
        """Return the customer's score today. Raises like `snapshot`."""
        found = self.snapshot(customer_id, moment)
        return found, score(found.position, found.scorecard)
