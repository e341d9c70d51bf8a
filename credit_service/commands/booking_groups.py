"""CreateLoan and CreateLoanOffer in groups: one read and one write for several customers.

A call that needs further statements runs by itself: a repeat, a lost race, a position that is
outdated, facts for a policy.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import date

from sqlalchemy import Connection

from credit_service import failpoints
from credit_service.cache.positions import PositionCache
from credit_service.commands.create_loan import (
    BookingGroups,
    BookingRequest,
    CreateLoanOffer,
    Made,
    approval_of,
    book_alone,
    decided,
    needs_facts,
    unknown_customer,
)
from credit_service.commands.group_work import LANES, LARGEST, go_alone, run_together
from credit_service.commands.grouping import LOST_RACE, GoAloneError, Grouping
from credit_service.domain.positions import is_valid_on
from credit_service.domain.scorecard import Scorecard
from credit_service.storage import grouped_bookings, scorecards
from credit_service.storage.bookings import BookingRead, BookingWrite
from credit_service.storage.database import Database
from credit_service.storage.grouped_bookings import Asked, Decided


def booking_groups(
    database: Database,
    cache: PositionCache | None,
    *,
    lanes: int = LANES,
    largest: int = LARGEST,
) -> BookingGroups:
    """Return the groups of a process's bookings, for `create_loan` and `create_loan_offer`."""
    return _Bookings(database, cache, lanes, largest).groups


class _Bookings:
    def __init__(
        self, database: Database, cache: PositionCache | None, lanes: int, largest: int
    ) -> None:
        self._database = database
        self._cache = cache
        self.groups: BookingGroups = Grouping(
            "booking",
            self._run,
            lanes=lanes,
            largest=largest,
            key=lambda request: request.command.customer_id,
        )

    def _run(self, requests: Sequence[BookingRequest]) -> Sequence[Made | BaseException]:
        """Decide and write together; a call without others runs as if there were no groups."""
        if len(requests) == 1:
            return [book_alone(self._database, requests[0], lock=False)]
        started_at = time.monotonic()
        outcomes = run_together(self._database, self.groups, requests, self._booked)
        made = [each for each in outcomes if isinstance(each, Made)]
        for _ in made:
            failpoints.reach("create_loan.after_commit")
        positions = [each.position_after for each in made if each.position_after is not None]
        if self._cache is not None and positions:
            version, moment = made[0].stored.scorecard_version, requests[0].moment
            self._cache.put(positions, version, moment, read_at=started_at)
        return outcomes

    def _booked(
        self, connection: Connection, requests: Sequence[BookingRequest]
    ) -> list[Made | BaseException]:
        """Return the outcome of each call, after the write."""
        day = requests[0].moment.today
        reads = grouped_bookings.read(connection, [_asked(each) for each in requests], day)
        # Of one instant and day, so of one scorecard.
        first = next(iter(reads.values()), None)
        if first is None:
            return [unknown_customer(each.command.customer_id) for each in requests]
        scorecard = scorecards.get(connection, first.scorecard_version)
        if needs_facts(connection, first, scorecard):
            return go_alone(self.groups, requests, "facts")
        outcomes: list[Made | BaseException] = []
        writes: list[Decided] = []
        for request in requests:
            read = reads.get(request.command.customer_id)
            try:
                booking, made = _decided(request, read, scorecard, day)
            except Exception as error:  # noqa: BLE001 - its own call raises it
                outcomes.append(error)
                continue
            outcomes.append(replace(made, in_group=True))
            writes.append(Decided(booking, request.moment, request.traceparent))
        if not writes:
            return outcomes
        for _ in writes:
            failpoints.reach("create_loan.before_write")
        stored = grouped_bookings.write(connection, writes, day, scorecard.version)
        return [
            GoAloneError(LOST_RACE)
            if isinstance(each, Made) and each.stored.customer_id not in stored
            else each
            for each in outcomes
        ]


def _asked(request: BookingRequest) -> Asked:
    command = request.command
    return Asked(command.customer_id, command.request_id, isinstance(command, CreateLoanOffer))


def _decided(
    request: BookingRequest, read: BookingRead | None, scorecard: Scorecard, day: date
) -> tuple[BookingWrite, Made]:
    """Decide on a call of a group.

    Raises:
        GoAloneError: it needs more than the read and the write of the group.
        NotFoundError, InvalidFieldsError: as a call alone.
    """
    if request.moment.today != day:
        raise GoAloneError("day")
    if read is None:
        raise unknown_customer(request.command.customer_id)
    if read.request is not None:
        raise GoAloneError("repeat")
    if not is_valid_on(read.position, day):
        raise GoAloneError("outdated")
    return decided(request, read, scorecard, None, approval_of(request))
