"""Look up payments, and quote what closes a loan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from credit_service.clock import Moment
from credit_service.domain.errors import OUT_OF_RANGE, FieldViolation, InvalidFieldsError
from credit_service.domain.foreclosure import ForeclosureQuote, quote, require_foreclosable
from credit_service.domain.loans import unknown_loan
from credit_service.domain.payments import PaymentPurpose
from credit_service.storage import decisions, loans, payments, scorecards
from credit_service.storage.database import Database
from credit_service.storage.payments import StoredPayment

MAX_QUOTE_DAYS = 30
"""Most days ahead of a quote."""


@dataclass(frozen=True, slots=True)
class PaymentPage:
    """Payments in the order of recording; `prepaid_paise` has the principal that each prepayment
    repaid ahead of the schedule, by payment number."""

    payments: Sequence[StoredPayment]
    prepaid_paise: Mapping[int, int]


def list_payments(
    database: Database, customer_id: int, loan_id: int, after: int | None, limit: int
) -> PaymentPage:
    """Return the loan's payments with numbers above `after`, in the order of recording.

    Raises:
        NotFoundError: LOAN_NOT_FOUND.
    """
    with database.autocommit() as connection:
        found = payments.page(connection, customer_id, loan_id, after or 0, limit)
        if not found and loans.find(connection, customer_id, loan_id) is None:
            raise unknown_loan(customer_id, loan_id)
        if all(each.purpose is PaymentPurpose.INSTALLMENTS for each in found):
            return PaymentPage(found, {})
        history = payments.history(connection, customer_id, loan_id)
    applied = () if history is None else history.account().applied
    prepaid = {each.fact.payment_number: each.prepaid_principal_paise for each in applied}
    return PaymentPage(found, prepaid)


def foreclosure_quote(
    database: Database, customer_id: int, loan_id: int, paid_on: date | None, moment: Moment
) -> ForeclosureQuote:
    """Return what closes the loan on a day, by default today.

    Raises:
        InvalidFieldsError: the day is more than 30 days ahead.
        NotFoundError: LOAN_NOT_FOUND.
        PreconditionFailedError: LOAN_CLOSED, PAYMENT_BEFORE_LOAN_START, FORECLOSURE_BEFORE_PAYMENT.
    """
    day = paid_on or moment.today
    last_day = moment.today + timedelta(days=MAX_QUOTE_DAYS)
    if day > last_day:
        message = f"paid_on must be at most {last_day}, found {day}."
        raise InvalidFieldsError([FieldViolation("paid_on", OUT_OF_RANGE, message)])
    with database.autocommit() as connection:
        history = payments.history(connection, customer_id, loan_id)
        if history is None:
            raise unknown_loan(customer_id, loan_id)
        active = scorecards.active(connection, moment.today)
        scorecard = decisions.scorecard_of_loan(connection, history.loan, active)
    account = history.account()
    require_foreclosable(account.loan, day)
    return quote(account, day, scorecard.prepayment_charge_bps)
