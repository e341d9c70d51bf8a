"""Offers: their last day, their ends, and the credit that they hold."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from credit_service.domain.charges import Charge, ChargePayee, require_disbursement
from credit_service.domain.errors import InvalidFieldsError, PreconditionFailedError
from credit_service.domain.offers import (
    LoanOffer,
    OfferState,
    accepted,
    expired,
    last_day_of,
    withdrawn,
)

DAY = date(2026, 6, 10)
NOW = datetime(2026, 6, 10, 6, 30, tzinfo=UTC)
OFFER = LoanOffer(
    customer_id=101,
    offer_id=7,
    decision_id=42,
    principal_paise=1_00_000_00,
    annual_rate_bps=1200,
    tenure_months=12,
    installment_paise=8_884_88,
    charges=(),
    created_at=NOW,
    created_on=DAY,
    last_day=DAY + timedelta(days=3),
    principal="tests",
)


def accept(
    offer: LoanOffer = OFFER,
    amount: int | None = None,
    disbursed_on: date | None = None,
    today: date = DAY,
    known_day: date = DAY,
) -> LoanOffer:
    return accepted(
        offer, amount, disbursed_on, today=today, known_day=known_day, loan_id=9, now=NOW
    )


def rejected(**arguments: object) -> str:
    with pytest.raises(PreconditionFailedError) as caught:
        accept(**arguments)  # type: ignore[arg-type]  # by name
    assert caught.value.metadata["offer_id"] == "7"
    return caught.value.reason


def test_an_offer_is_valid_three_days_ahead_by_default_and_thirty_at_most() -> None:
    assert last_day_of(None, DAY) == date(2026, 6, 13)
    assert last_day_of(DAY, DAY) == DAY
    assert last_day_of(date(2026, 7, 10), DAY) == date(2026, 7, 10)
    for wrong in (date(2026, 6, 9), date(2026, 7, 11)):
        with pytest.raises(
            InvalidFieldsError, match="valid_until must be 2026-06-10 to 2026-07-10"
        ):
            last_day_of(wrong, DAY)


def test_charges_are_less_than_the_loan() -> None:
    require_disbursement(100, [Charge("fee", ChargePayee.LENDER, 80, 19)])
    with pytest.raises(InvalidFieldsError, match="charges must be less than"):
        require_disbursement(100, [Charge("fee", ChargePayee.LENDER, 80, 20)])


def test_an_open_offer_expires_after_its_last_day() -> None:
    assert OFFER.state_on(OFFER.last_day) is OfferState.OPEN
    assert OFFER.state_on(OFFER.last_day + timedelta(days=1)) is OfferState.EXPIRED
    ended = withdrawn(OFFER, "", today=DAY, now=NOW)
    assert ended.state_on(date(2027, 1, 1)) is OfferState.WITHDRAWN


def test_an_offer_is_accepted_in_all_or_in_part() -> None:
    whole = accept()
    assert (whole.state, whole.accepted_paise, whole.disbursed_on) == (
        OfferState.ACCEPTED,
        1_00_000_00,
        DAY,
    )
    loan = whole.loan()
    assert (loan.loan_id, loan.decision_id, loan.installment_paise) == (9, 42, 8_884_88)
    part = accept(amount=50_000_00).loan()
    assert (part.principal_paise, part.installment_paise) == (50_000_00, 4_442_44)
    assert whole.as_created() == OFFER


def test_only_an_accepted_offer_has_a_loan() -> None:
    with pytest.raises(ValueError, match="OPEN, not accepted"):
        OFFER.loan()


def test_more_than_the_offer_is_refused() -> None:
    assert rejected(amount=1_00_000_01) == "OFFER_AMOUNT_EXCEEDED"


def test_an_amount_covers_charges_and_is_repayable() -> None:
    charged = replace(OFFER, charges=(Charge("fee", ChargePayee.LENDER, 500_00),))
    assert rejected(offer=charged, amount=500_00) == "OFFER_AMOUNT_TOO_SMALL"
    assert accept(charged, 500_01).accepted_paise == 500_01
    assert rejected(amount=1) == "OFFER_AMOUNT_TOO_SMALL"


def test_the_disbursement_is_between_the_offer_and_today() -> None:
    today = DAY + timedelta(days=2)
    assert accept(disbursed_on=DAY, today=today).disbursed_on == DAY
    assert accept(today=today).disbursed_on == today
    assert rejected(disbursed_on=today + timedelta(days=1), today=today) == "DISBURSEMENT_IN_FUTURE"
    yesterday = DAY - timedelta(days=1)
    assert rejected(disbursed_on=yesterday, today=today) == "DISBURSEMENT_BEFORE_OFFER"


def test_an_offer_is_accepted_on_its_last_day_and_not_later() -> None:
    assert accept(today=OFFER.last_day).state is OfferState.ACCEPTED
    after = OFFER.last_day + timedelta(days=1)
    assert rejected(today=after) == "OFFER_EXPIRED"
    # A server whose clock is ahead may have lent its credit.
    assert rejected(today=OFFER.last_day, known_day=after) == "OFFER_EXPIRED"


@pytest.mark.parametrize(
    "ended",
    [accept(), withdrawn(OFFER, "changed plans", today=DAY, now=NOW)],
    ids=lambda offer: str(offer.state),
)
def test_an_offer_ends_once(ended: LoanOffer) -> None:
    assert rejected(offer=ended) == "OFFER_ENDED"
    with pytest.raises(PreconditionFailedError, match="OFFER_ENDED"):
        withdrawn(ended, "", today=DAY, now=NOW)


def test_an_expired_offer_has_ended() -> None:
    stored = expired(OFFER, now=NOW)
    assert rejected(offer=stored) == "OFFER_EXPIRED"
    with pytest.raises(PreconditionFailedError, match="OFFER_EXPIRED"):
        withdrawn(OFFER, "", today=OFFER.last_day + timedelta(days=1), now=NOW)
