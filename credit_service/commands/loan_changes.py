"""What a payment or a reversal changes: the customer's position and arrears, and the loan.

The functions that read use no lock: a concurrent write changes the customer's version, so that the
guarded write fails.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from uuid import UUID

from sqlalchemy import Connection

from credit_service.cache.positions import PositionCache
from credit_service.clock import Moment
from credit_service.domain.delinquency import (
    Arrears,
    Settlement,
    class_changes,
    first_unpaid_due,
    with_payment,
)
from credit_service.domain.loans import Loan
from credit_service.domain.positions import CreditPosition, is_valid_on, with_loan
from credit_service.domain.positions import with_payment as position_with_payment
from credit_service.observability import metrics
from credit_service.storage import arrears, positions
from credit_service.storage.payment_writes import LoanWrite, PaymentRead


@dataclass(frozen=True, slots=True)
class Request:
    """A request that changes a loan's payments: its id, the fingerprint of its content, who makes
    it and when, and the trace that its events belong to."""

    request_id: UUID
    content: bytes
    principal: str
    moment: Moment
    traceparent: str | None


def known_position_after(
    position: CreditPosition, before: Loan, after: Loan, day: date
) -> CreditPosition | None:
    """Return the position after a loan has changed; None where the customer's other loans must be
    read: the stored position is outdated, or the loan closed and its next due date was the
    position's first change."""
    if not is_valid_on(position, day):
        return None
    return position_with_payment(position, before, after, day)


def position_after(
    connection: Connection, position: CreditPosition, before: Loan, after: Loan, day: date
) -> CreditPosition:
    """Return the position after a loan has changed. Reads the customer's other loans only where it
    must."""
    known = known_position_after(position, before, after, day)
    if known is not None:
        return known
    others = positions.of_other_loans(connection, position, before.loan_id, day)
    return with_loan(others, after, day)


def known_arrears_after(read: PaymentRead, after: Loan, day: date) -> Arrears | None:
    """Return the arrears after a payment of `after.last_paid_on`, on or after the loan's others;
    None where the customer's loans and payments must be read: the stored arrears are unknown, or an
    earlier day decides whether the customer stays NPA."""
    known, paid_on = read.position.arrears, after.last_paid_on
    if known is None or read.loan is None or paid_on is None:
        return None
    is_first = first_unpaid_due(read.loan) == known.oldest_unpaid_due
    others = read.others_unpaid_due if is_first else known.oldest_unpaid_due
    unpaid = [others, first_unpaid_due(after)]
    oldest = min((each for each in unpaid if each is not None), default=None)
    return with_payment(known, oldest, paid_on, day)


def arrears_after(
    connection: Connection, read: PaymentRead, after: Loan, settled: Settlement | None, day: date
) -> Arrears:
    """Return the arrears after a payment of `after.last_paid_on`, on or after the loan's others,
    which settled installments or none. Reads the customer's loans and payments only where it
    must."""
    known = known_arrears_after(read, after, day)
    if known is not None:
        return known
    return arrears.with_loan(connection, after, day, added=settled)


def loan_write(
    request: Request,
    read: PaymentRead,
    loan_after: Loan,
    position_after: CreditPosition,
    arrears_after: Arrears,
    *,
    is_replayed: bool,
) -> LoanWrite:
    """Return what to write, with the changes of class to announce. `is_replayed` says whether the
    loan was computed from all its payments."""
    changes = class_changes(
        read.announced_class, read.position.arrears, arrears_after, request.moment.today
    )
    return LoanWrite(
        request_id=request.request_id,
        fingerprint=request.content,
        principal=request.principal,
        moment=request.moment,
        traceparent=request.traceparent,
        read_version=read.position.version,
        scorecard_version=read.scorecard_version,
        position_after=replace(position_after, arrears=arrears_after),
        loan_after=loan_after,
        announced_class=read.announced_class,
        class_changes=changes,
        is_replayed=is_replayed,
    )


def report(written: Sequence[LoanWrite], cache: PositionCache | None, *, read_at: float) -> None:
    """Count the changes of class in the metrics, and write the new positions to the cache, after
    the commit of writes of one day under one scorecard. The data was read after `read_at`, in
    seconds of time.monotonic()."""
    for each in written:
        metrics.count_class_changes(change.current.name for change in each.class_changes)
    if cache is not None and written:
        positions_after = [each.position_after for each in written]
        first = written[0]
        cache.put(positions_after, first.scorecard_version, first.moment, read_at=read_at)
