"""A customer's credit: position, score, and the decision on a loan request."""

import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date

from credit_service.cache.positions import PositionCache
from credit_service.clock import Moment
from credit_service.domain.eligibility import Ask, Decision, decide
from credit_service.domain.errors import NotFoundError, RetryLaterError
from credit_service.domain.policy_facts import PolicyFacts
from credit_service.domain.positions import CreditPosition, is_valid_on
from credit_service.domain.scorecard import Scorecard
from credit_service.domain.scoring import CreditScore, score
from credit_service.storage import cluster, customers, policy_facts, scorecards
from credit_service.storage import positions as stored_positions
from credit_service.storage.database import Database, LostRaceError

_ACTIVE_VERSION_SECONDS = 1.0
_FACTS_AT_ONCE = 200
"""Customers whose loans are in memory at a time."""


@dataclass(frozen=True, slots=True)
class CreditSnapshot:
    """A customer's position on a day, and the active scorecard; with the facts of its policy where
    they were needed."""

    position: CreditPosition
    scorecard: Scorecard
    facts: PolicyFacts | None = None


@dataclass(frozen=True, slots=True)
class CreditSnapshots:
    """The positions of many customers on a day by customer id, and the active scorecard, which is
    None where all customers are unknown; with the facts of its policy where they were needed.

    `conflicts` has the customers whose position and facts could not be read at one version.
    """

    positions: Mapping[int, CreditPosition]
    scorecard: Scorecard | None
    day: date
    facts: Mapping[int, PolicyFacts] = field(default_factory=dict)
    conflicts: Mapping[int, RetryLaterError] = field(default_factory=dict)

    def decide(self, customer_id: int, ask: Ask) -> Decision:
        """Return what CreateLoan would decide on the ask now.

        Raises:
            NotFoundError: CUSTOMER_NOT_FOUND.
            RetryLaterError: concurrent calls kept changing the customer.
        """
        if customer_id in self.conflicts:
            raise self.conflicts[customer_id]
        position = self.positions.get(customer_id)
        if position is None or self.scorecard is None:
            raise unknown_customer(customer_id)
        facts = self.facts.get(customer_id)
        return decide(position, ask, self.scorecard, self.day, facts=facts)


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

    def snapshots(self, customer_ids: Collection[int], moment: Moment) -> CreditSnapshots:
        """Return the positions of these customers today, all with the same scorecard, with facts
        where it needs them; unknown customers are left out. Never writes to PostgreSQL.

        Entries of the cache are read together. One statement reads the rest, and another one the
        loans of those whose stored position is outdated. Facts take a statement for each
        _FACTS_AT_ONCE customers.
        """
        found, scorecard = self._cached(customer_ids, moment)
        missing = set(customer_ids) - found.keys()
        if missing:
            read, active = self._read_missing(missing, moment)
            # It may have become the active one just now. Positions depend on no scorecard.
            scorecard = active or scorecard
            found |= {each.customer_id: each for each in read}
        snapshots = CreditSnapshots(found, scorecard, moment.today)
        if scorecard is None or not scorecard.needs_facts:
            return snapshots
        return self._all_with_facts(found, scorecard, moment)

    def shared_snapshots(
        self, customer_ids: Collection[int], moment: Moment
    ) -> Iterator[dict[int, CreditSnapshot]]:
        """Yield what `snapshot` returns, by customer: first from the cache, then from PostgreSQL.

        Left out are unknown customers, and on a cluster, where one statement would ask every node,
        all that are not in the cache.
        """
        found, scorecard = self._cached(customer_ids, moment)
        if scorecard is not None:
            yield {key: CreditSnapshot(each, scorecard) for key, each in found.items()}
        missing = set(customer_ids) - found.keys()
        if missing and not self._is_distributed():
            read, active = self._read_missing(missing, moment)
            if active is not None:
                yield {each.customer_id: CreditSnapshot(each, active) for each in read}

    def _is_distributed(self) -> bool:
        with self._database.autocommit() as connection:
            return cluster.is_distributed(connection)

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

    def _read_missing(
        self, customer_ids: Collection[int], moment: Moment
    ) -> tuple[list[CreditPosition], Scorecard | None]:
        """Do the same as `_read_many`, and queue the cache's missing entries."""
        started_at = time.monotonic()
        read, active = self._read_many(customer_ids, moment)
        if self._cache is not None and active is not None:
            for each in read:
                self._cache.fill(each, active.version, moment, read_at=started_at)
        return read, active

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
        return self.decide(self.snapshot(customer_id, moment), ask, moment)

    def decide(
        self, found: CreditSnapshot, ask: Ask, moment: Moment
    ) -> tuple[CreditSnapshot, Decision]:
        """Return what CreateLoan would decide now, from a snapshot of the customer; with the
        snapshot that it decides from, which may be newer and has the facts of the policy.

        Raises:
            RetryLaterError: concurrent calls kept changing the customer.
        """
        if found.scorecard.needs_facts:
            found = self._with_facts(found, moment)
        return found, decide(found.position, ask, found.scorecard, moment.today, facts=found.facts)

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
                read = policy_facts.read_versioned(
                    connection, customer_id, moment.today, moment.zone
                )
            if read.version != snapshot.position.version:
                raise LostRaceError("version")
            return replace(snapshot, facts=read.facts)

        return self._database.retry(attempt)

    def _all_with_facts(
        self, found: Mapping[int, CreditPosition], scorecard: Scorecard, moment: Moment
    ) -> CreditSnapshots:
        """Return the snapshots of these positions with the facts of the same versions."""
        positions = dict(found)
        facts: dict[int, PolicyFacts] = {}
        conflicts: dict[int, RetryLaterError] = {}
        ids = list(found)
        for start in range(0, len(ids), _FACTS_AT_ONCE):
            some = ids[start : start + _FACTS_AT_ONCE]
            with self._database.autocommit() as connection:
                read = policy_facts.read_many_versioned(connection, some, moment.today, moment.zone)
            for each in some:
                if each in read and read[each].version == positions[each].version:
                    facts[each] = read[each].facts
                    continue
                try:
                    again = self._with_facts(CreditSnapshot(positions[each], scorecard), moment)
                except RetryLaterError as error:
                    conflicts[each] = error
                    continue
                positions[each] = again.position
                if again.facts is not None:
                    facts[each] = again.facts
        return CreditSnapshots(positions, scorecard, moment.today, facts, conflicts)


def unknown_customer(customer_id: int) -> NotFoundError:
    """CUSTOMER_NOT_FOUND: there is no customer with that id."""
    return NotFoundError("CUSTOMER_NOT_FOUND", "customer", str(customer_id))
