"""A customer's credit: position, score, and the decision on a loan request."""

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import date

from credit_service.cache.positions import PositionCache
from credit_service.clock import Moment
from credit_service.domain.eligibility import Ask, Decision, decide
from credit_service.domain.errors import NotFoundError
from credit_service.domain.policy_facts import PolicyFacts
from credit_service.domain.positions import CreditPosition, is_valid_on
from credit_service.domain.scorecard import Scorecard
from credit_service.domain.scoring import CreditScore, score
from credit_service.storage import customers, policy_facts, scorecards
from credit_service.storage import positions as stored_positions
from credit_service.storage.database import Database, LostRaceError

_ACTIVE_VERSION_SECONDS = 1.0


def unknown_customer(customer_id: int) -> NotFoundError:
    """CUSTOMER_NOT_FOUND: there is no customer with that id."""
    return NotFoundError("CUSTOMER_NOT_FOUND", "customer", str(customer_id))


@dataclass(frozen=True, slots=True)
class CreditSnapshot:
    """A customer's position on a day, and the active scorecard; with the facts of its policy where
    they were needed."""

    position: CreditPosition
    scorecard: Scorecard
    facts: PolicyFacts | None = None


class CreditQueries:
    """Reads credit from the cache if possible. Safe to share between threads.

    A cache entry is valid only while its scorecard is the active one, which PostgreSQL confirms
    once a second, and when the day changes.
    """

    def __init__(self, database: Database, cache: PositionCache | None = None) -> None:
        self._database = database
        self._cache = cache
        # Version, day and time together, so that no thread pairs one with another's.
        self._active: tuple[str, date | None, float] = "", None, 0.0

    def snapshot(self, customer_id: int, moment: Moment) -> CreditSnapshot:
        """Return the customer's position today and the active scorecard. Never writes to
        PostgreSQL.

        Raises:
            NotFoundError: CUSTOMER_NOT_FOUND.
        """
        cache = self._cache
        active_version = self._known_active_version(moment)
        if cache is not None and active_version:
            cached = cache.get(customer_id, moment.today)
            if cached is not None and cached.scorecard_version == active_version:
                scorecard = scorecards.known(cached.scorecard_version)
                if scorecard is not None:
                    return CreditSnapshot(cached.position, scorecard)
        started_at = time.monotonic()
        found = self._read(customer_id, moment)
        if cache is not None:
            cache.fill(found.position, found.scorecard.version, moment, read_at=started_at)
        return found

    def snapshots(self, customer_ids: Collection[int], moment: Moment) -> dict[int, CreditSnapshot]:
        """Return the snapshots of these customers by id, all with the same scorecard, with facts
        where it needs them; unknown customers are left out. Never writes to PostgreSQL.

        Entries of the cache are read together. One statement reads the rest, and another one the
        loans of those whose stored position is outdated. Facts take another one.
        """
        found, scorecard = self._cached(customer_ids, moment)
        missing = set(customer_ids) - found.keys()
        if missing:
            started_at = time.monotonic()
            read, active = self._read_many(missing, moment)
            if found and active is not None and active != scorecard:
                # Another scorecard became the active one.
                found = {}
                read, active = self._read_many(customer_ids, moment)
            if active is not None:
                scorecard = active
                self._fill_cache(read, active, moment, started_at)
            found |= {each.customer_id: each for each in read}
        if scorecard is None:
            return {}
        snapshots = {each: CreditSnapshot(position, scorecard) for each, position in found.items()}
        return self._all_with_facts(snapshots, moment) if scorecard.needs_facts else snapshots

    def _cached(
        self, customer_ids: Collection[int], moment: Moment
    ) -> tuple[dict[int, CreditPosition], Scorecard | None]:
        """Return positions from the cache under the active scorecard, which is None where it is not
        known."""
        scorecard = scorecards.known(self._known_active_version(moment))
        if self._cache is None or scorecard is None:
            return {}, None
        entries = self._cache.get_many(customer_ids, moment.today)
        return {
            customer_id: each.position
            for customer_id, each in entries.items()
            if each.scorecard_version == scorecard.version
        }, scorecard

    def _fill_cache(
        self,
        positions: Iterable[CreditPosition],
        scorecard: Scorecard,
        moment: Moment,
        read_at: float,
    ) -> None:
        if self._cache is not None:
            for each in positions:
                self._cache.fill(each, scorecard.version, moment, read_at=read_at)

    def _read_many(
        self, customer_ids: Collection[int], moment: Moment
    ) -> tuple[list[CreditPosition], Scorecard | None]:
        """Return the customers' positions today, and the active scorecard; None where all are
        unknown."""
        with self._database.autocommit() as connection:
            stored, version = customers.find_positions(connection, [*customer_ids], moment.today)
            if version is None:
                return [], None
            self._note_active_version(version, moment)
            valid = [each for each in stored if is_valid_on(each, moment.today)]
            outdated = [each.customer_id for each in stored if not is_valid_on(each, moment.today)]
            if outdated:
                valid += stored_positions.on_day(connection, outdated, moment.today)
            return valid, scorecards.get(connection, version)

    def _read(self, customer_id: int, moment: Moment) -> CreditSnapshot:
        with self._database.autocommit() as connection:
            found = customers.find_position(connection, customer_id, moment.today)
            if found is None:
                raise unknown_customer(customer_id)
            position, scorecard_version = found
            self._note_active_version(scorecard_version, moment)
            return CreditSnapshot(
                customers.position_on(connection, position, moment.today),
                scorecards.get(connection, scorecard_version),
            )

    def _note_active_version(self, version: str, moment: Moment) -> None:
        known_until = time.monotonic() + _ACTIVE_VERSION_SECONDS
        self._active = version, moment.today, known_until

    def _known_active_version(self, moment: Moment) -> str:
        """Return the version of the active scorecard if it is known; if not, '', and the next read
        refreshes it."""
        version, day, known_until = self._active
        return version if day == moment.today and time.monotonic() < known_until else ""

    def check_eligibility(
        self, customer_id: int, ask: Ask, moment: Moment
    ) -> tuple[CreditSnapshot, Decision]:
        """Return what CreateLoan would decide now. Raises like `snapshot`."""
        found = self.snapshot(customer_id, moment)
        if found.scorecard.needs_facts:
            found = self._with_facts(found, moment)
        return found, decide_on(found, ask, moment)

    def credit_score(self, customer_id: int, moment: Moment) -> tuple[CreditSnapshot, CreditScore]:
        """Return the customer's score today. Raises like `snapshot`."""
        found = self.snapshot(customer_id, moment)
        if found.scorecard.score_needs_facts:
            found = self._with_facts(found, moment)
        return found, score(found.position, found.scorecard, found.facts)

    def _with_facts(self, found: CreditSnapshot, moment: Moment) -> CreditSnapshot:
        """Return a snapshot with the facts of the same version of the customer.

        Raises:
            RetryLaterError: concurrent calls kept changing the customer.
        """
        customer_id = found.position.customer_id

        def attempt(number: int) -> CreditSnapshot:
            snapshot = found if number == 0 else self._read(customer_id, moment)
            with self._database.autocommit() as connection:
                version, facts = policy_facts.read_versioned(
                    connection, customer_id, moment.today, moment.zone
                )
            if version != snapshot.position.version:
                raise LostRaceError("version")
            return replace(snapshot, facts=facts)

        return self._database.retry(attempt)

    def _all_with_facts(
        self, found: dict[int, CreditSnapshot], moment: Moment
    ) -> dict[int, CreditSnapshot]:
        """Return the snapshots with the facts of the same versions. Raises like `_with_facts`."""
        with self._database.autocommit() as connection:
            facts = policy_facts.read_many_versioned(
                connection, found.keys(), moment.today, moment.zone
            )

        def with_facts(snapshot: CreditSnapshot) -> CreditSnapshot:
            each = facts.get(snapshot.position.customer_id)
            if each is None or each.version != snapshot.position.version:
                return self._with_facts(snapshot, moment)
            return replace(snapshot, facts=each.facts)

        return {customer_id: with_facts(snapshot) for customer_id, snapshot in found.items()}


def decide_on(snapshot: CreditSnapshot, ask: Ask, moment: Moment) -> Decision:
    """Return what CreateLoan would decide on the ask now. Raises ValueError if the scorecard needs
    facts and the snapshot has none."""
    return decide(snapshot.position, ask, snapshot.scorecard, moment.today, facts=snapshot.facts)
