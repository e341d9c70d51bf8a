"""Stored payments, facts that never change, and what a loan is by all of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, text

from credit_service.domain.calendar import add_months
from credit_service.domain.loan_replay import LoanAccount, PaymentFact, replay
from credit_service.domain.loans import Loan
from credit_service.domain.payments import PaymentPurpose, PrepaymentEffect, ReversalReason
from credit_service.domain.schedules import agreed_plan
from credit_service.storage import loans
from credit_service.storage.database import LostRaceError
from credit_service.storage.statements import Statement


@dataclass(frozen=True, slots=True)
class Reversal:
    """The reversal of a payment. `number` counts those of its loan, 1, 2, 3 … in order, and
    `last_payment_number` is that of the loan's last payment at that time."""

    number: int
    last_payment_number: int
    reason: ReversalReason
    request_id: UUID
    reversed_at: datetime
    principal: str


@dataclass(frozen=True, slots=True)
class StoredPayment:
    """A payment, what it settled when it was recorded, and its reversal."""

    customer_id: int
    loan_id: int
    payment_number: int
    payment_id: int
    request_id: UUID | None
    amount_paise: int
    paid_on: date
    recorded_at: datetime
    # Numbers of the installments that it settled; empty for a partial payment.
    settled_numbers: range
    on_time_count: int
    closed_loan: bool
    principal: str
    purpose: PaymentPurpose = PaymentPurpose.INSTALLMENTS
    effect: PrepaymentEffect | None = None
    # None if a server of release 0.1.0 recorded it.
    grace_days: int | None = None
    charge_paise: int = 0
    reversal: Reversal | None = None


COLUMNS = """p.customer_id, p.loan_id, p.payment_number, p.payment_id, p.request_id,
    p.amount_paise, p.paid_on, p.recorded_at, p.first_settled, p.settled_count, p.on_time_count,
    p.closed_loan, p.principal, p.purpose, p.effect, p.grace_days, p.charge_paise,
    v.reversal_number, v.last_payment_number, v.reason, v.request_id, v.reversed_at, v.principal"""
"""The columns that `_payment` reads, in its order, of `payments p` joined by WITH_REVERSALS."""

_NUMBER_AT = 2

WITH_REVERSALS = """LEFT JOIN payment_reversals v ON v.customer_id = p.customer_id
        AND v.loan_id = p.loan_id AND v.payment_number = p.payment_number"""


def _payment(row: Any) -> StoredPayment:
    first = row[8] or 0
    effect = None if row[14] is None else PrepaymentEffect(row[14])
    reversal = None
    if row[17] is not None:
        fields = (*row[17:19], ReversalReason(row[19]), *row[20:23])
        reversal = Reversal(*fields)
    settled, purpose = range(first, first + row[9]), PaymentPurpose(row[13])
    return StoredPayment(*(*row[:8], settled, *row[10:13], purpose, effect, *row[15:17], reversal))


@dataclass(frozen=True, slots=True)
class LoanHistory:
    """A loan and all payments recorded on it, in the order of recording, read at one instant.

    `loan` is `stored` with `on_time_at_import` set.
    """

    stored: Loan
    loan: Loan
    payments: tuple[StoredPayment, ...]

    @property
    def last_payment_number(self) -> int:
        """The number of the last payment; 0 without one."""
        return self.payments[-1].payment_number if self.payments else 0

    @property
    def last_reversal_number(self) -> int:
        """The number of the last reversal; 0 without one."""
        return max((each.reversal.number for each in self.payments if each.reversal), default=0)

    def raise_if_used(self, request_id: UUID) -> None:
        """Raise LostRaceError if a request with this id took effect on the loan, since its record
        was read."""
        for each in self.payments:
            if request_id in (each.request_id, each.reversal and each.reversal.request_id):
                raise LostRaceError("request_id")

    def payment(self, payment_number: int) -> StoredPayment:
        """Return the payment with that number, which must exist."""
        return next(each for each in self.payments if each.payment_number == payment_number)

    def facts(self) -> list[PaymentFact]:
        """Return the payments that count, as facts for a replay."""
        return [self._fact(each) for each in self.payments if each.reversal is None]

    def facts_without(self, payment_number: int) -> list[PaymentFact]:
        """Return the payments that count, without that one."""
        return [each for each in self.facts() if each.payment_number != payment_number]

    def account(self) -> LoanAccount:
        """Return the loan by its payments."""
        return replay(self.loan, self.facts())

    def after_payment(self, payment_number: int) -> LoanAccount:
        """Return the loan as it was right after that payment was recorded."""
        return self._at(payment_number, self._reversals_before(payment_number))

    def after_reversal(self, reversal: Reversal) -> LoanAccount:
        """Return the loan as it was right after that reversal."""
        return self._at(reversal.last_payment_number, reversal.number)

    def _reversals_before(self, payment_number: int) -> int:
        numbers = [
            each.reversal.number
            for each in self.payments
            if each.reversal is not None and each.reversal.last_payment_number < payment_number
        ]
        return max(numbers, default=0)

    def _at(self, last_payment_number: int, last_reversal_number: int) -> LoanAccount:
        counted = [
            self._fact(each)
            for each in self.payments
            if each.payment_number <= last_payment_number
            and (each.reversal is None or each.reversal.number > last_reversal_number)
        ]
        return replay(self.loan, counted)

    def _fact(self, payment: StoredPayment) -> PaymentFact:
        return PaymentFact(
            payment_number=payment.payment_number,
            amount_paise=payment.amount_paise,
            paid_on=payment.paid_on,
            purpose=payment.purpose,
            effect=payment.effect,
            grace_days=_grace_days(self.loan, payment),
            charge_paise=payment.charge_paise,
        )


def _grace_days(loan: Loan, payment: StoredPayment) -> int:
    """Return the grace days of a payment; for one of release 0.1.0, the fewest with which a replay
    counts as many of its installments on time as that release did."""
    if payment.grace_days is not None:
        return payment.grace_days
    plan = agreed_plan(loan)
    paid = [each for each in payment.settled_numbers if plan.payment_paise(each) > 0]
    # The later one is due, the less late it is: the last ones are on time.
    on_time = paid[len(paid) - payment.on_time_count :]
    late_by = [(payment.paid_on - add_months(loan.start_date, each)).days for each in on_time]
    return max([0, *late_by])


_HISTORY = Statement(
    f"""SELECT {loans.COLUMNS}, {COLUMNS}
    FROM loans l
    LEFT JOIN payments p ON p.customer_id = l.customer_id AND p.loan_id = l.loan_id
    {WITH_REVERSALS}
    WHERE l.customer_id = :customer_id AND l.loan_id = :loan_id
    ORDER BY p.payment_number"""
)


def history(connection: Connection, customer_id: int, loan_id: int) -> LoanHistory | None:
    """Return the loan with all its payments; None for an unknown loan."""
    rows = _HISTORY.rows(connection, {"customer_id": customer_id, "loan_id": loan_id})
    return history_from(rows) if rows else None


def history_from(rows: Sequence[Any]) -> LoanHistory:
    """Return the loan and its payments from rows that start with `loans.COLUMNS` and COLUMNS: one
    for each payment, in the order of recording, or a single one without a payment."""
    loan = stored = loans.loan(rows[0])
    found = [row[loans.COLUMN_COUNT :] for row in rows]
    made = tuple(_payment(row) for row in found if row[_NUMBER_AT] is not None)
    if loan.on_time_at_import is None:
        by_payments = sum(each.on_time_count for each in made)
        loan = replace(loan, on_time_at_import=loan.emis_paid_on_time - by_payments)
    return LoanHistory(stored, loan, made)


_BY_ID = Statement(
    "SELECT customer_id, loan_id, payment_number FROM payments WHERE payment_id = :payment_id"
)


class PaymentKey(NamedTuple):
    """The key of a payment."""

    customer_id: int
    loan_id: int
    payment_number: int


_PAGE = Statement(
    f"""SELECT {COLUMNS} FROM payments p {WITH_REVERSALS}
    WHERE p.customer_id = :customer_id AND p.loan_id = :loan_id AND p.payment_number > :after
    ORDER BY p.payment_number LIMIT :limit"""
)


def page(
    connection: Connection, customer_id: int, loan_id: int, after: int, limit: int
) -> list[StoredPayment]:
    """Return the loan's payments with numbers above `after`, in the order of recording, at most
    `limit`."""
    rows = _PAGE.rows(
        connection,
        {"customer_id": customer_id, "loan_id": loan_id, "after": after, "limit": limit},
    )
    return [_payment(row) for row in rows]


def find(connection: Connection, payment_id: int) -> PaymentKey | None:
    """Return the key of the payment with that id; ids are unique across customers."""
    row = _BY_ID.row(connection, {"payment_id": payment_id})
    return None if row is None else PaymentKey(*row)


_SETTLEMENTS = text(
    """
    SELECT paid_on, first_settled, settled_count FROM payments
    WHERE customer_id = :customer_id AND loan_id = :loan_id AND settled_count > 0
    """
)


def settlement_days(connection: Connection, customer_id: int, loan_id: int) -> dict[int, date]:
    """Return the day on which payments settled each installment, by its number."""
    rows = connection.execute(_SETTLEMENTS, {"customer_id": customer_id, "loan_id": loan_id})
    return {
        number: row.paid_on
        for row in rows
        for number in range(row.first_settled, row.first_settled + row.settled_count)
    }
