"""The arrears of a customer after a write about a loan's payments."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date

from sqlalchemy import Connection

from credit_service.domain.delinquency import (
    Arrears,
    ClassChange,
    Settlement,
    class_changes,
    first_unpaid_due,
    with_payment,
)
from credit_service.domain.loans import Loan
from credit_service.domain.positions import CreditPosition
from credit_service.storage import arrears
from credit_service.storage.payments import PaymentRead


def after_payment(
    connection: Connection, read: PaymentRead, after: Loan, settled: Settlement | None, day: date
) -> Arrears:
    """Return the arrears after a payment of `after.last_paid_on`, on or after the loan's others,
    which settled installments or none.

    Reads the customer's loans and payments only if the stored arrears are unknown, or an earlier
    day decides whether the customer stays NPA.
    """
    known, paid_on = read.position.arrears, after.last_paid_on
    if known is not None and read.loan is not None and paid_on is not None:
        is_first = first_unpaid_due(read.loan) == known.oldest_unpaid_due
        others = read.others_unpaid_due if is_first else known.oldest_unpaid_due
        unpaid = [others, first_unpaid_due(after)]
        oldest = min((each for each in unpaid if each is not None), default=None)
        found = with_payment(known, oldest, paid_on, day)
        if found is not None:
            return found
    # A concurrent write changes the customer's version, so that the guarded write fails.
    return arrears.with_loan(connection, after, day, added=settled)


def after_replay(
    connection: Connection, after: Loan, settlements: Sequence[Settlement], day: date
) -> Arrears:
    """Return the arrears after a loan was computed from all its payments again."""
    return arrears.with_loan(connection, after, day, settlements=settlements)


def moved(
    read: PaymentRead, position_after: CreditPosition, after: Arrears, day: date
) -> tuple[CreditPosition, list[ClassChange]]:
    """Return the position with these arrears, and the changes of class to announce."""
    changes = class_changes(read.announced_class, read.position.arrears, after, day)
    return replace(position_after, arrears=after), changes
