"""Announce the asset classes that the passing of days changed, and store unknown arrears.

Readers do not wait for it: they compute days past due and class for the day from stored dates.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import date, timedelta

import structlog
from sqlalchemy import Connection

from credit_service.clock import Moment
from credit_service.observability import metrics
from credit_service.storage import arrears, customers
from credit_service.storage.arrears import OverdueKey
from credit_service.storage.database import Database

BATCH = 1_000
"""Customers per transaction."""

log = structlog.get_logger(__name__)


def is_due(connection: Connection, moment: Moment) -> bool:
    """Whether a day has ended whose classes are not announced."""
    until = arrears.announced_until(connection)
    return until is None or until < moment.today - timedelta(days=1)


def announce_classes(
    database: Database, moment: Moment, checkpoint: Callable[[], None] = lambda: None
) -> int:
    """Announce the classes at the end of each day before today that are not announced; return how
    many changes. Repeating it changes nothing.

    First it computes the arrears that are not known: those of customers who were stored before this
    release, or changed by a server of the previous one. Where they are older than the first
    announcement, no event reports them.

    Calls `checkpoint` between two transactions.
    """
    with database.autocommit() as connection:
        until = arrears.announced_until(connection)
    filled = _fill_unknown(database, moment, checkpoint, silently=until is None)
    yesterday = moment.today - timedelta(days=1)
    announced = 0
    for customer_ids in _candidates(database, until, yesterday):
        checkpoint()
        announced += _announce(database, customer_ids, moment)
    with database.autocommit() as connection:
        arrears.note_announced(connection, yesterday)
    if filled or announced:
        log.info("classes_announced", day=str(yesterday), changes=announced, filled=filled)
    return announced


def _fill_unknown(
    database: Database, moment: Moment, checkpoint: Callable[[], None], *, silently: bool
) -> int:
    filled = after = 0
    while True:
        checkpoint()
        with database.autocommit() as connection:
            customer_ids = arrears.unknown(connection, after, BATCH)
        if not customer_ids:
            return filled
        after = customer_ids[-1]
        with database.transaction() as connection:
            locked = customers.lock_many(connection, customer_ids)
            arrears.fill(connection, locked, moment.today)
            if silently:
                arrears.take_as_announced(connection, locked, moment.today)
            else:
                _count(arrears.announce(connection, locked, moment))
        filled += len(locked)


def _candidates(database: Database, until: date | None, yesterday: date) -> Iterator[Sequence[int]]:
    """Yield the customers whose class may have changed since the end of `until`, in batches."""
    if until is None:
        yield from _overdue(database, yesterday)
        return
    for day in (until + timedelta(days=1 + n) for n in range((yesterday - until).days)):
        for due in arrears.class_days(day):
            after = 0
            while True:
                with database.autocommit() as connection:
                    found = arrears.due_on(connection, due, after, BATCH)
                if not found:
                    break
                yield found
                after = found[-1]


def _overdue(database: Database, day: date) -> Iterator[Sequence[int]]:
    """Yield all customers in arrears at the end of `day`, some of them repeatedly."""
    after: OverdueKey | None = None
    while True:
        with database.autocommit() as connection:
            found = arrears.overdue(connection, day, after, BATCH)
        if not found:
            return
        yield sorted({customer_id for _, customer_id, _ in found})
        after = found[-1]


def _announce(database: Database, customer_ids: Sequence[int], moment: Moment) -> int:
    with database.autocommit() as connection:
        changed = arrears.to_announce(connection, customer_ids, moment.today)
    if not changed:
        return 0

    def attempt(_number: int) -> list[str]:
        with database.transaction() as connection:
            locked = customers.lock_many(connection, changed)
            return arrears.announce(connection, locked, moment)

    return _count(database.retry(attempt))


def _count(classes: Sequence[str]) -> int:
    metrics.count_class_changes(classes)
    return len(classes)
