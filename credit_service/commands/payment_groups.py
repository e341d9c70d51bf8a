"""RecordPayment in groups: one read and one write for payments of several customers.

What a payment needs besides the two statements, it does by itself: a repeat, a payment before
another one of its loan, a customer whose other loans must be read, a lost race.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import date

from sqlalchemy import Connection

from credit_service import failpoints
from credit_service.cache.positions import PositionCache
from credit_service.commands import loan_changes
from credit_service.commands.group_work import LANES, LARGEST, run_together
from credit_service.commands.grouping import LOST_RACE, GoAloneError, Grouping
from credit_service.commands.record_payment import (
    Effects,
    PaymentCall,
    PaymentGroups,
    Recorded,
    answer,
    in_order,
    record_alone,
    unknown_customer,
)
from credit_service.domain.scorecard import Scorecard
from credit_service.storage import grouped_payments, scorecards
from credit_service.storage.database import Database
from credit_service.storage.grouped_payments import Asked
from credit_service.storage.payment_writes import PaymentRead, PaymentWrite


def payment_groups(
    database: Database,
    cache: PositionCache | None,
    *,
    lanes: int = LANES,
    largest: int = LARGEST,
) -> PaymentGroups:
    """Return the groups of a process's payments, for `record_payment`."""
    return _Payments(database, cache, lanes, largest).groups


class _Payments:
    def __init__(
        self, database: Database, cache: PositionCache | None, lanes: int, largest: int
    ) -> None:
        self._database = database
        self._cache = cache
        self.groups: PaymentGroups = Grouping(
            "payment",
            self._run,
            lanes=lanes,
            largest=largest,
            key=lambda call: call.customer_id,
        )

    def _run(self, calls: Sequence[PaymentCall]) -> Sequence[Recorded | BaseException]:
        """Record the payments together; a call without others runs as if there were no groups."""
        if len(calls) == 1:
            return [record_alone(self._database, calls[0], lock=False)]
        started_at = time.monotonic()
        outcomes = run_together(self._database, self.groups, calls, self._recorded)
        return self._reported(outcomes, started_at)

    def _recorded(
        self, connection: Connection, calls: Sequence[PaymentCall]
    ) -> list[Recorded | BaseException]:
        """Return the outcome of each call, after the write."""
        day = calls[0].request.moment.today
        asked = [
            Asked(command.customer_id, command.loan_id, command.request_id)
            for command, _request in calls
        ]
        reads = grouped_payments.read(connection, asked, day)
        # Of one instant and day, so of one scorecard.
        first = next(iter(reads.values()), None)
        if first is None:
            return [unknown_customer(each) for each in calls]
        scorecard = scorecards.get(connection, first.scorecard_version)
        # Unless the payment is stored.
        outcomes: list[Recorded | BaseException] = [GoAloneError(LOST_RACE)] * len(calls)
        writes: dict[int, tuple[PaymentWrite, Effects]] = {}
        for place, call in enumerate(calls):
            try:
                writes[place] = _computed(call, reads.get(call.customer_id), scorecard, day)
            except Exception as error:  # noqa: BLE001 - its own call raises it
                outcomes[place] = error
        if not writes:
            return outcomes
        for _ in writes:
            failpoints.reach("record_payment.before_write")
        stored = grouped_payments.write(connection, [write for write, _ in writes.values()], day)
        for place, (write, effects) in writes.items():
            call = calls[place]
            payment = stored.get(call.customer_id)
            if payment is not None:
                response = answer(call.command, payment, effects)
                outcomes[place] = Recorded(response, write.effects)
        return outcomes

    def _reported(
        self, outcomes: Sequence[Recorded | BaseException], started_at: float
    ) -> list[Recorded | BaseException]:
        """Report the new payments, and return the outcomes without what is reported."""
        written = [
            each.written
            for each in outcomes
            if isinstance(each, Recorded) and each.written is not None
        ]
        for _ in written:
            failpoints.reach("record_payment.after_commit")
        loan_changes.report(written, self._cache, read_at=started_at)
        return [
            replace(each, written=None) if isinstance(each, Recorded) else each for each in outcomes
        ]


def _computed(
    call: PaymentCall, read: PaymentRead | None, scorecard: Scorecard, day: date
) -> tuple[PaymentWrite, Effects]:
    """Return what to write for a call of a group.

    Raises:
        GoAloneError: it needs more than the read and the write of the group.
        NotFoundError, PreconditionFailedError: as a call alone.
    """
    if call.request.moment.today != day:
        raise GoAloneError("day")
    if read is None:
        raise unknown_customer(call)
    if read.request is not None:
        raise GoAloneError("repeat")
    computed = in_order(call, read, scorecard)
    if computed is None:
        raise GoAloneError("outdated")
    return computed
