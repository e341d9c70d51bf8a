"""The credit position, computed from all loans and step by step."""

from dataclasses import replace
from datetime import date, timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from credit_service.domain.calendar import add_months
from credit_service.domain.installments import installment_paise
from credit_service.domain.loans import Loan, LoanState, LoanTerms, book
from credit_service.domain.payments import apply_payment, outstanding_paise
from credit_service.domain.positions import (
    CreditPosition,
    Hold,
    is_valid_on,
    position_from_loans,
    with_booking,
    with_hold,
    with_loan,
    with_payment,
)
from tests.unit.domain.strategies import due_count, loans_with_payments, portfolios, terms

YEAR_END = date(2025, 1, 1)


def position(loans: list[Loan], day: date) -> CreditPosition:
    return position_from_loans(101, 7, 5_000_000, 180_000_000, loans, day)


def loan(start: date, tenure: int = 12, principal: int = 10_000_000) -> Loan:
    asked = LoanTerms(principal, 1200, tenure)
    return book(asked, installment_paise(asked), 1, 101, start, 1)


def imported(start: date, tenure: int, on_time: int, closed_on: date | None) -> Loan:
    settled = tenure if closed_on else on_time
    return replace(
        loan(start, tenure),
        imported=True,
        decision_id=None,
        emis_paid_on_time=on_time,
        installments_settled=settled,
        settled_at_import=settled,
        closed_on=closed_on,
    )


def test_a_position_without_loans_is_zero() -> None:
    found = position([], date(2024, 5, 5))
    assert found == CreditPosition(
        101, 7, 5_000_000, 180_000_000, 0, 0, 0, 0, 0, 0, 0, date(2024, 5, 5), YEAR_END
    )


def test_a_position_has_all_figures() -> None:
    day = date(2024, 5, 5)
    active = imported(date(2023, 12, 10), 12, 4, None)
    old = imported(date(2020, 1, 1), 12, 9, date(2021, 1, 1))
    found = position([active, old], day)
    assert found == CreditPosition(
        customer_id=101,
        version=7,
        monthly_income_paise=5_000_000,
        approved_limit_paise=180_000_000,
        current_debt_paise=10_000_000,
        current_installments_paise=888_488,
        loan_count=2,
        total_principal_paise=20_000_000,
        emis_on_time=13,
        emis_due=4 + 12,
        current_year_loans=1,
        as_of=day,
        valid_until=date(2024, 5, 10),
    )


@pytest.mark.parametrize(
    ("start", "closed_on", "counts"),
    [
        (date(2023, 6, 1), None, True),
        (date(2024, 12, 31), None, True),
        (date(2025, 1, 1), None, False),
        (date(2023, 6, 1), date(2024, 1, 1), True),
        (date(2023, 6, 1), date(2023, 12, 31), False),
        (date(2024, 2, 1), date(2024, 3, 1), True),
    ],
)
def test_loans_active_in_the_current_year_count(
    start: date, closed_on: date | None, counts: bool
) -> None:
    found = position([imported(start, 12, 0, closed_on)], date(2024, 5, 5))
    assert found.current_year_loans == int(counts)


def test_a_loan_closed_at_the_end_of_the_year_drops_out_on_1_january() -> None:
    closed = imported(date(2023, 6, 1), 12, 12, date(2024, 6, 1))
    before = position([closed], date(2024, 12, 31))
    assert (before.current_year_loans, before.valid_until) == (1, YEAR_END)
    assert not is_valid_on(before, YEAR_END)
    assert position([closed], YEAR_END).current_year_loans == 0


def test_a_position_is_valid_until_the_next_due_date_of_an_active_loan() -> None:
    lines = [loan(date(2024, 1, 31)), loan(date(2024, 2, 5))]
    assert position(lines, date(2024, 4, 5)).valid_until == date(2024, 4, 30)
    assert position(lines, date(2024, 4, 30)).valid_until == date(2024, 5, 5)
    # The last due date has passed: only the end of the year is left.
    assert position([loan(date(2023, 1, 15))], date(2024, 2, 1)).valid_until == YEAR_END


def test_a_loan_repaid_early_after_late_installments_still_falls_due() -> None:
    """Closed in May with 1 of 12 late: d stays at the 11 on time until the 12th due date."""
    start = date(2023, 12, 10)
    first = apply_payment(loan(start), 888_488, date(2024, 1, 11), date(2024, 5, 5), 0).loan_after
    rest = outstanding_paise(first)
    closed = apply_payment(first, rest, date(2024, 2, 1), date(2024, 5, 5), 0).loan_after
    assert closed.state is LoanState.CLOSED
    assert closed.emis_paid_on_time == 11
    found = position([closed], date(2024, 5, 5))
    assert (found.emis_on_time, found.emis_due) == (11, 11)
    assert found.valid_until == date(2024, 12, 10)
    later = position([closed], date(2024, 12, 10))
    assert (later.emis_on_time, later.emis_due) == (11, 12)
    assert later.valid_until == YEAR_END


DAYS = st.dates(date(2010, 1, 1), date(2040, 12, 31))


@given(st.data(), DAYS)
def test_the_figures_are_those_of_domain_md(data: st.DataObject, day: date) -> None:
    loans = data.draw(portfolios(day))
    found = position(loans, day)
    active = [each for each in loans if each.state is LoanState.ACTIVE]
    assert found.current_debt_paise == sum(each.principal_paise for each in active)
    assert found.current_installments_paise == sum(each.installment_paise for each in active)
    assert found.loan_count == len(loans)
    assert found.total_principal_paise == sum(each.principal_paise for each in loans)
    assert found.emis_on_time == sum(each.emis_paid_on_time for each in loans)
    assert found.emis_due == sum(due_count(each, day) for each in loans)
    assert found.emis_on_time <= found.emis_due
    year = [date(day.year, 1, 1) + timedelta(days=n) for n in range(365)]
    # Opened in this year, or opened before and open on at least one day of it.
    assert found.current_year_loans == sum(
        any(
            each.start_date.year == day.year
            or (each.start_date <= at and (each.closed_on is None or at <= each.closed_on))
            for at in year
        )
        for each in loans
    )


@given(st.data(), DAYS)
def test_a_position_is_valid_exactly_until_valid_until(data: st.DataObject, day: date) -> None:
    loans = data.draw(portfolios(day))
    found = position(loans, day)
    assert is_valid_on(found, day)
    assert not is_valid_on(found, day - timedelta(days=1))
    assert not is_valid_on(found, found.valid_until)
    assert day < found.valid_until <= date(day.year + 1, 1, 1)
    inside = data.draw(st.dates(day, found.valid_until - timedelta(days=1)))
    last = found.valid_until - timedelta(days=1)
    for at in (inside, last):
        assert replace(position(loans, at), as_of=day) == found
    # The horizon is no earlier than necessary: a due date of an ACTIVE loan, the new year, or a
    # change.
    due_dates = {
        add_months(each.start_date, k)
        for each in loans
        if each.state is LoanState.ACTIVE
        for k in range(1, each.tenure_months + 1)
    }
    after = position(loans, found.valid_until)
    assert (
        found.valid_until in due_dates
        or found.valid_until == date(day.year + 1, 1, 1)
        or after.emis_due != found.emis_due
    )


@given(st.data(), DAYS, terms)
def test_booking_equals_a_computation_from_all_loans(
    data: st.DataObject, day: date, asked: LoanTerms
) -> None:
    loans = data.draw(portfolios(day))
    before = position(loans, day)
    at = data.draw(st.dates(day, before.valid_until - timedelta(days=1)))
    installment = installment_paise(asked)
    booked = book(asked, installment, 2, 101, at, 2)
    scratch = replace(position([*loans, booked], at), version=before.version + 1)
    assert with_booking(before, asked, installment, at) == scratch


@given(st.data(), DAYS)
def test_a_payment_equals_a_computation_from_all_loans(data: st.DataObject, day: date) -> None:
    paid = replace(data.draw(loans_with_payments(day)), loan_id=2)
    outstanding = outstanding_paise(paid)
    assume(outstanding > 0)
    others = data.draw(portfolios(day))
    stored = position([*others, paid], day)
    at = data.draw(st.dates(day, stored.valid_until - timedelta(days=1)))
    amount = data.draw(st.one_of(st.integers(1, outstanding), st.just(outstanding)))
    paid_on = data.draw(st.dates(paid.last_paid_on or paid.start_date, at))
    after = apply_payment(paid, amount, paid_on, at, 0).loan_after
    scratch = replace(position([*others, after], at), version=stored.version + 1)
    moved = with_payment(stored, paid, after, at)
    if moved is None:
        # The other loans must be read only if the loan that changes first is closed.
        assert after.closed_on is not None
        assert stored.valid_until == position([paid], at).valid_until
    else:
        assert moved == scratch
    assert with_loan(position(others, at), after, at) == scratch


def test_a_partial_payment_never_reads_other_loans() -> None:
    day = date(2024, 5, 5)
    first, later = loan(date(2024, 1, 31)), loan(date(2024, 2, 15))
    after = apply_payment(first, 100, day, day, 0).loan_after
    assert with_payment(position([first, later], day), first, after, day) is not None
    closed = apply_payment(first, outstanding_paise(first), day, day, 0).loan_after
    # The other one, due on the 15th, changes first.
    assert with_payment(position([first, later], day), first, closed, day) is not None
    assert with_payment(position([first], day), first, closed, day) is None


def test_a_payment_needs_a_position_that_is_valid() -> None:
    before = loan(date(2024, 1, 31))
    stored = position([before], date(2024, 5, 5))
    with pytest.raises(ValueError, match="is valid from 2024-05-05 until 2024-05-31"):
        with_payment(stored, before, before, date(2024, 5, 31))
    with pytest.raises(ValueError, match="is valid from"):
        with_loan(stored, before, date(2024, 5, 31))


def test_booking_needs_a_position_that_is_valid() -> None:
    before = position([], date(2024, 5, 5))
    with pytest.raises(ValueError, match="is valid from 2024-05-05 until 2025-01-01"):
        with_booking(before, LoanTerms(100, 0, 1), 100, YEAR_END)


def hold(last_day: date, principal: int = 5_000_000, installment: int = 444_244) -> Hold:
    return Hold(1, principal, installment, last_day)


def test_holds_count_up_to_their_last_day() -> None:
    day = date(2024, 5, 5)
    holds = [hold(date(2024, 5, 4)), hold(day), hold(date(2024, 5, 9), 1_000_000, 90_000)]
    found = position_from_loans(101, 7, 5_000_000, 180_000_000, [], day, holds)
    assert (found.held_principal_paise, found.held_installments_paise) == (6_000_000, 534_244)
    assert found.valid_until == date(2024, 5, 6)
    assert not is_valid_on(found, date(2024, 5, 6))
    later = position_from_loans(101, 7, 5_000_000, 180_000_000, [], date(2024, 5, 6), holds)
    assert (later.held_principal_paise, later.valid_until) == (1_000_000, date(2024, 5, 10))


@given(st.data(), DAYS, st.lists(st.integers(0, 30), max_size=3), st.integers(0, 30))
def test_a_hold_equals_a_full_computation(
    data: st.DataObject, day: date, earlier: list[int], ahead: int
) -> None:
    loans = data.draw(portfolios(day))
    holds = [hold(day + timedelta(days=each)) for each in earlier]
    new = hold(day + timedelta(days=ahead))
    before = position_from_loans(101, 7, 5_000_000, 180_000_000, loans, day, holds)
    after = position_from_loans(101, 8, 5_000_000, 180_000_000, loans, day, [*holds, new])
    assert with_hold(before, new, day) == after
    # Loans come and go beside it.
    for each in loans:
        assert with_loan(after, each, day).held_principal_paise == after.held_principal_paise
    booked = with_booking(after, LoanTerms(1_000_000, 1200, 12), 88_849, day)
    assert booked.held_installments_paise == after.held_installments_paise
    assert booked.valid_until <= new.valid_until
