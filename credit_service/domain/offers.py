"""Loan offers: approved terms that hold credit until they are accepted, are withdrawn or expire."""

from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from enum import StrEnum

from credit_service.domain.asks import least_principal_paise
from credit_service.domain.charges import Charge, charges_paise
from credit_service.domain.errors import (
    OUT_OF_RANGE,
    FieldViolation,
    InvalidFieldsError,
    NotFoundError,
    PreconditionFailedError,
)
from credit_service.domain.installments import installment_paise
from credit_service.domain.loans import Loan, LoanTerms, book
from credit_service.domain.positions import Hold
from credit_service.rupees import format_inr, format_rupees

DEFAULT_DAYS = 3
"""Days from the creation of an offer to its last day."""
MAX_DAYS = 30


class OfferState(StrEnum):
    """OPEN, then one of the others, once."""

    OPEN = "OPEN"
    ACCEPTED = "ACCEPTED"
    WITHDRAWN = "WITHDRAWN"
    EXPIRED = "EXPIRED"


@dataclass(frozen=True, slots=True)
class LoanOffer:
    """An offer. `state` is the stored one: see `state_on`.

    `loan_id`, `accepted_paise` and `disbursed_on` are those of the accepted loan, `reason` that of
    a withdrawal, None otherwise. `principal` is the caller who made the offer.
    """

    customer_id: int
    offer_id: int
    decision_id: int
    principal_paise: int
    annual_rate_bps: int
    tenure_months: int
    installment_paise: int
    charges: tuple[Charge, ...]
    created_at: datetime
    created_on: date
    last_day: date
    principal: str
    state: OfferState = OfferState.OPEN
    ended_at: datetime | None = None
    loan_id: int | None = None
    accepted_paise: int | None = None
    disbursed_on: date | None = None
    reason: str | None = None

    @property
    def terms(self) -> LoanTerms:
        """The terms of the whole offer."""
        return LoanTerms(self.principal_paise, self.annual_rate_bps, self.tenure_months)

    @property
    def hold(self) -> Hold:
        """The credit that it holds while it is open."""
        return Hold(self.offer_id, self.principal_paise, self.installment_paise, self.last_day)

    def state_on(self, day: date) -> OfferState:
        """The state on a day: an offer expires after its last day, whether or not that is stored
        yet."""
        is_over = self.state is OfferState.OPEN and day > self.last_day
        return OfferState.EXPIRED if is_over else self.state

    def as_created(self) -> "LoanOffer":
        """The offer before it ended."""
        return replace(
            self,
            state=OfferState.OPEN,
            ended_at=None,
            loan_id=None,
            accepted_paise=None,
            disbursed_on=None,
            reason=None,
        )

    def loan(self) -> Loan:
        """The loan of an accepted offer, as booked. Raises ValueError for another offer."""
        if self.loan_id is None or self.accepted_paise is None or self.disbursed_on is None:
            raise ValueError(f"offer {self.offer_id} is {self.state}, not accepted")
        terms = replace(self.terms, principal_paise=self.accepted_paise)
        return book(
            terms,
            installment_paise(terms),
            loan_id=self.loan_id,
            customer_id=self.customer_id,
            day=self.disbursed_on,
            decision_id=self.decision_id,
            charges=self.charges,
        )


def unknown_offer(offer_id: int) -> NotFoundError:
    """OFFER_NOT_FOUND."""
    return NotFoundError("OFFER_NOT_FOUND", "offer", str(offer_id))


def last_day_of(chosen: date | None, today: date) -> date:
    """The last day of an offer made today. Raises InvalidFieldsError naming valid_until."""
    latest = today + timedelta(days=MAX_DAYS)
    last_day = today + timedelta(days=DEFAULT_DAYS) if chosen is None else chosen
    if not today <= last_day <= latest:
        message = f"valid_until must be {today} to {latest}, found {last_day}."
        raise InvalidFieldsError([FieldViolation("valid_until", OUT_OF_RANGE, message)])
    return last_day


def accepted(
    offer: LoanOffer,
    amount_paise: int | None,
    disbursed_on: date | None,
    *,
    today: date,
    known_day: date,
    loan_id: int,
    now: datetime,
    least_paise: int = 0,
) -> LoanOffer:
    """The offer accepted today, in all or with a smaller amount; `disbursed_on` defaults to today.

    `least_paise` is the minimum principal of the scorecard that approved the offer. `known_day` is
    the latest day on which a decision about the customer may have been made: from the day after the
    offer's last day on, its credit may be lent already.

    Raises:
        PreconditionFailedError: OFFER_ENDED, OFFER_EXPIRED, OFFER_AMOUNT_EXCEEDED,
            OFFER_AMOUNT_TOO_SMALL, DISBURSEMENT_IN_FUTURE or DISBURSEMENT_BEFORE_OFFER, checked in
            this order.
    """
    require_open(offer, max(today, known_day))
    amount = offer.principal_paise if amount_paise is None else amount_paise
    start = disbursed_on or today
    _require_amount(offer, amount, least_paise)
    _require_start(offer, start, today)
    return replace(
        offer,
        state=OfferState.ACCEPTED,
        ended_at=now,
        loan_id=loan_id,
        accepted_paise=amount,
        disbursed_on=start,
    )


def _require_amount(offer: LoanOffer, amount: int, least_lent: int) -> None:
    """Raise OFFER_AMOUNT_EXCEEDED or OFFER_AMOUNT_TOO_SMALL; the amounts are in paise."""
    if amount > offer.principal_paise:
        raise _rejection(
            offer,
            "OFFER_AMOUNT_EXCEEDED",
            f"The amount of {format_inr(amount)} is more than the offer's "
            f"{format_inr(offer.principal_paise)}.",
            amount=format_rupees(amount),
            offered=format_rupees(offer.principal_paise),
        )
    least = max(
        least_principal_paise(offer.annual_rate_bps, offer.tenure_months),
        charges_paise(offer.charges) + 1,
    )
    why = "exceeds the charges and that equal installments of whole paise repay"
    if least_lent > least:
        least, why = least_lent, "is lent"
    # The whole offer was approved.
    if amount < min(least, offer.principal_paise):
        raise _rejection(
            offer,
            "OFFER_AMOUNT_TOO_SMALL",
            f"The amount of {format_inr(amount)} is less than {format_inr(least)}, the least that "
            f"{why}.",
            amount=format_rupees(amount),
            least=format_rupees(least),
        )


def _require_start(offer: LoanOffer, start: date, today: date) -> None:
    """Raise DISBURSEMENT_IN_FUTURE or DISBURSEMENT_BEFORE_OFFER."""
    if start > today:
        raise _rejection(
            offer,
            "DISBURSEMENT_IN_FUTURE",
            f"The disbursement is dated {start}, after today, {today}.",
            disbursed_on=start,
            today=today,
        )
    if start < offer.created_on:
        raise _rejection(
            offer,
            "DISBURSEMENT_BEFORE_OFFER",
            f"The disbursement is dated {start}, before the offer of {offer.created_on}.",
            disbursed_on=start,
            created_on=offer.created_on,
        )


def withdrawn(offer: LoanOffer, reason: str, *, today: date, now: datetime) -> LoanOffer:
    """The offer withdrawn today. Raises PreconditionFailedError: OFFER_ENDED, OFFER_EXPIRED."""
    require_open(offer, today)
    return replace(offer, state=OfferState.WITHDRAWN, ended_at=now, reason=reason)


def expired(offer: LoanOffer, *, now: datetime) -> LoanOffer:
    """The offer after its last day, once that is stored."""
    return replace(offer, state=OfferState.EXPIRED, ended_at=now)


def require_open(offer: LoanOffer, day: date) -> None:
    """Raise PreconditionFailedError, OFFER_ENDED or OFFER_EXPIRED, when the offer is not open."""
    state = offer.state_on(day)
    if state is OfferState.EXPIRED:
        raise _rejection(
            offer,
            "OFFER_EXPIRED",
            f"The offer was valid until {offer.last_day}; make a new one.",
            valid_until=offer.last_day,
        )
    if state is not OfferState.OPEN:
        raise _rejection(
            offer,
            "OFFER_ENDED",
            f"The offer was {state.lower()} before.",
            state=state,
        )


def _rejection(
    offer: LoanOffer, reason: str, message: str, **figures: str | date
) -> PreconditionFailedError:
    return PreconditionFailedError(
        reason,
        message,
        subject=f"offers/{offer.offer_id}",
        metadata={
            "offer_id": str(offer.offer_id),
            **{name: str(value) for name, value in figures.items()},
        },
    )
