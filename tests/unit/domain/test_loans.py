"""Installments, schedules, and the start of a loan."""

from datetime import date
from decimal import ROUND_HALF_UP, Decimal, localcontext
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from credit_service.domain.asks import (
    is_repayable,
    least_principal_paise,
    longest_repayable_tenure,
    validate_ask,
)
from credit_service.domain.calendar import add_months
from credit_service.domain.errors import InvalidFieldsError
from credit_service.domain.installments import (
    effective_monthly_rate,
    installment_paise,
    largest_principal_paise,
    last_installment_paise,
)
from credit_service.domain.loans import Ask, Loan, LoanState, LoanTerms, book, imported_settled
from credit_service.domain.money import divide_half_up
from credit_service.domain.schedules import Schedule, repayment_plan, schedule
from tests.unit.domain.strategies import (
    booked_loans,
    days,
    imported_loans,
    principals,
    rates,
    tenures,
    terms,
)

DAY = date(2024, 1, 31)


def booked(principal_rupees: int, bps: int, tenure: int) -> Loan:
    asked = LoanTerms(principal_rupees * 100, bps, tenure)
    return book(asked, installment_paise(asked), 7001, 101, DAY, 9)


def with_installment(loan: Loan, installment: int) -> Loan:
    fields = {name: getattr(loan, name) for name in Loan.__slots__}
    return Loan(**{**fields, "installment_paise": installment, "imported": True})


# Published instalments: docs/rules.md.
@pytest.mark.parametrize(
    ("principal_rupees", "bps", "tenure", "emi"),
    [
        (100_000, 1200, 12, 888_488),
        (100_000, 999, 36, 322_625),
        (500_000, 1000, 60, 1_062_352),
        (100_000, 0, 3, 3_333_333),
        (100_000, 1200, 1, 10_100_000),
    ],
)
def test_installments_equal_published_values(
    principal_rupees: int, bps: int, tenure: int, emi: int
) -> None:
    assert installment_paise(LoanTerms(principal_rupees * 100, bps, tenure)) == emi


def fraction_installment(asked: LoanTerms) -> Fraction:
    """The annuity summed term by term: P / Σ (1 + r)^-k."""
    growth = 1 + Fraction(asked.annual_rate_bps, 120_000)
    discounts = Fraction(0)
    discount = Fraction(1)
    for _ in range(asked.tenure_months):
        discount /= growth
        discounts += discount
    return asked.principal_paise / discounts


@given(st.builds(LoanTerms, principals, rates, st.integers(1, 60)))
@settings(max_examples=60)
def test_installment_equals_the_annuity_sum(asked: LoanTerms) -> None:
    exact = fraction_installment(asked)
    assert installment_paise(asked) == divide_half_up(exact.numerator, exact.denominator)


@given(terms)
def test_installment_equals_a_decimal_of_high_precision(asked: LoanTerms) -> None:
    with localcontext(prec=100):
        if asked.annual_rate_bps == 0:
            value = Decimal(asked.principal_paise) / asked.tenure_months
        else:
            rate = Decimal(asked.annual_rate_bps) / 120_000
            growth = (1 + rate) ** asked.tenure_months
            value = asked.principal_paise * rate * growth / (growth - 1)
        tie_distance = abs(value - value.to_integral_value(ROUND_HALF_UP)) - Decimal("0.5")
        # A decimal cannot distinguish a tie from values near it; the integers can.
        assume(abs(tie_distance) > Decimal("1e-60"))
        assert installment_paise(asked) == int(value.to_integral_value(ROUND_HALF_UP))


def test_a_tie_is_rounded_up_where_a_decimal_would_round_down() -> None:
    # 1 month at 1 % a month: 50 paise come to 50.5 exactly; 3 months without interest: 1.5.
    assert installment_paise(LoanTerms(50, 1200, 1)) == 51
    assert installment_paise(LoanTerms(3, 0, 2)) == 2


@given(terms)
def test_installment_grows_with_principal_and_rate_and_falls_with_tenure(asked: LoanTerms) -> None:
    emi = installment_paise(asked)
    principal, bps, tenure = asked.principal_paise, asked.annual_rate_bps, asked.tenure_months
    assert installment_paise(LoanTerms(principal + 1, bps, tenure)) >= emi
    assert installment_paise(LoanTerms(principal, bps + 1, tenure)) >= emi
    assert installment_paise(LoanTerms(principal, bps, tenure + 1)) <= emi
    assert emi * tenure >= principal - tenure


@given(st.integers(0, 10**10), rates, tenures)
def test_the_largest_principal_is_exact(emi: int, bps: int, tenure: int) -> None:
    principal = largest_principal_paise(emi, bps, tenure)
    assert principal >= 0
    assert installment_paise(LoanTerms(principal, bps, tenure)) <= emi
    assert installment_paise(LoanTerms(principal + 1, bps, tenure)) > emi


@given(st.integers(-(10**10), -1), rates, tenures)
def test_no_principal_has_a_negative_installment(emi: int, bps: int, tenure: int) -> None:
    assert largest_principal_paise(emi, bps, tenure) < 0


def test_a_schedule_equals_the_published_one() -> None:
    table = schedule(booked(100_000, 1200, 12))
    assert table.total_interest_paise == 661_853
    assert table.total_payment_paise == 10_661_853
    first, last = table.installments[0], table.installments[-1]
    assert (first.interest_paise, first.principal_paise) == (100_000, 788_488)
    assert (last.payment_paise, last.balance_paise) == (888_485, 0)
    assert [each.payment_paise for each in table.installments[:-1]] == [888_488] * 11
    assert [each.due_date for each in table.installments[:3]] == [
        date(2024, 2, 29),
        date(2024, 3, 31),
        date(2024, 4, 30),
    ]


def test_a_schedule_without_interest_splits_the_principal() -> None:
    table = schedule(booked(100_000, 0, 3))
    assert [each.payment_paise for each in table.installments] == [3_333_333, 3_333_333, 3_333_334]
    assert table.total_interest_paise == 0


def check_laws(loan: Loan, table: Schedule) -> None:
    lines = table.installments
    assert [each.number for each in lines] == list(range(1, loan.tenure_months + 1))
    assert lines[-1].due_date == loan.end_date
    assert lines[-1].balance_paise == 0
    balance = loan.principal_paise
    for each in lines:
        assert each.payment_paise == each.principal_paise + each.interest_paise
        assert min(each.principal_paise, each.interest_paise, each.balance_paise) >= 0
        balance -= each.principal_paise
        assert each.balance_paise == balance
        assert each.due_date == add_months(loan.start_date, each.number)
    for before, after in pairwise(lines):
        assert after.interest_paise <= before.interest_paise
    assert sum(each.payment_paise for each in lines) == table.total_payment_paise
    assert sum(each.principal_paise for each in lines) == loan.principal_paise
    assert table.total_principal_paise == loan.principal_paise
    assert sum(each.interest_paise for each in lines) == table.total_interest_paise
    # Full installments, one that ends the debt, then nothing.
    payments = [each.payment_paise for each in lines]
    full = 0
    while full < len(payments) - 1 and payments[full] == loan.installment_paise:
        full += 1
    assert all(payment == 0 for payment in payments[full + 1 :])
    plan = repayment_plan(loan)
    assert [plan.payment_paise(k) for k in range(1, loan.tenure_months + 1)] == payments
    assert plan.total_paise == table.total_payment_paise
    for count in {0, 1, full, full + 1, loan.tenure_months}:
        if count <= loan.tenure_months:
            assert plan.first_paise(count) == sum(payments[:count])


@given(booked_loans())
def test_laws_of_a_booked_loans_schedule(loan: Loan) -> None:
    table = schedule(loan)
    check_laws(loan, table)
    interest = [each.interest_paise for each in table.installments]
    balances = [loan.principal_paise, *(each.balance_paise for each in table.installments)]
    assert interest == [
        divide_half_up(balance * loan.annual_rate_bps, 120_000) for balance in balances[:-1]
    ]


@given(imported_loans(date(2024, 5, 5)))
def test_laws_of_an_imported_loans_schedule(loan: Loan) -> None:
    check_laws(loan, schedule(loan))


@given(st.integers(100_000, 10**11), st.integers(0, 3600), st.integers(1, 120))
def test_all_but_the_last_installment_are_equal(principal: int, bps: int, tenure: int) -> None:
    asked = LoanTerms(principal, bps, tenure)
    loan = book(asked, installment_paise(asked), 1, 1, DAY, 1)
    payments = [each.payment_paise for each in schedule(loan).installments]
    assert payments[:-1] == [loan.installment_paise] * (tenure - 1)
    assert payments[-1] > 0


@pytest.mark.parametrize("principal", [1, 2, 49, 50, 149, 9_999, 100_000_000_000])
@pytest.mark.parametrize("bps", [0, 1, 1200, 1254, 10_000])
@pytest.mark.parametrize("tenure", [1, 2, 479, 480])
def test_schedules_of_extreme_loans_obey_the_laws(principal: int, bps: int, tenure: int) -> None:
    asked = LoanTerms(principal, bps, tenure)
    loan = book(asked, installment_paise(asked), 1, 1, date(2024, 2, 29), 1)
    check_laws(loan, schedule(loan))


def annuity_value(rate: Fraction, installment: int, tenure: int) -> Fraction:
    if rate == 0:
        return Fraction(installment * tenure)
    return installment * (1 - (1 + rate) ** -tenure) / rate


@given(st.integers(1, 10**11), st.integers(1, 60), st.data())
@settings(max_examples=80)
def test_the_effective_rate_is_the_root(principal: int, tenure: int, data: st.DataObject) -> None:
    least = -(-principal // tenure)
    installment = data.draw(
        st.one_of(
            st.integers(least, least + 2),
            st.integers(least, 2 * least + 10),
            st.integers(least, 10 * principal + 10),
        )
    )
    numerator, denominator = effective_monthly_rate(principal, installment, tenure)
    above = Fraction(numerator + 1, denominator)
    below = Fraction(max(numerator - 1, 0), denominator)
    assert annuity_value(above, installment, tenure) < principal
    assert annuity_value(below, installment, tenure) >= principal


@given(st.integers(1, 10**11), st.integers(0, 10**11), st.integers(1, 480))
def test_the_effective_rate_is_never_negative(p: int, installment: int, tenure: int) -> None:
    numerator, denominator = effective_monthly_rate(p, installment, tenure)
    assert numerator >= 0
    assert denominator > 0
    assert numerator * p <= installment * denominator + p
    if installment * tenure <= p:
        assert numerator == 0


@pytest.mark.parametrize(
    ("principal", "installment", "tenure"),
    [
        (1, 10**11, 480),
        (10**11, 10**11, 480),
        (10**11, 1, 480),
        (10**11, -(-(10**11) // 480), 480),
        (10**11, 208_333_334, 480),
        (1, 1, 1),
        (1, 1, 480),
        (10**11, 10**11 + 1, 1),
        (3, 2, 2),
    ],
)
def test_schedules_at_extreme_rates_obey_the_laws(
    principal: int, installment: int, tenure: int
) -> None:
    base = book(LoanTerms(principal, 1200, tenure), installment, 1, 1, DAY, 1)
    check_laws(base, schedule(base))


def test_the_effective_rate_of_the_formulas_installment_is_the_nominal_one() -> None:
    # 12 % a year over 1 month is exactly 1 % a month.
    assert effective_monthly_rate(10_000_000, 10_100_000, 1) == (10**18, 10**20)


def test_an_imported_installment_determines_the_split() -> None:
    formula = booked(100_000, 1200, 12)
    source = with_installment(formula, 900_000)
    table = schedule(source)
    assert [each.payment_paise for each in table.installments[:-1]] == [900_000] * 11
    assert abs(table.installments[-1].payment_paise - 900_000) < 12
    assert table.total_interest_paise > schedule(formula).total_interest_paise


def test_the_last_installment_repays_the_rest_if_imported_ones_are_too_small() -> None:
    loan = with_installment(booked(1_000, 1200, 4), 20_000)
    table = schedule(loan)
    assert [each.payment_paise for each in table.installments] == [20_000, 20_000, 20_000, 40_000]
    assert table.total_interest_paise == 0


def test_all_fields_of_an_ask_are_checked_at_once() -> None:
    assert validate_ask(principal_paise=1, annual_rate_bps=0, tenure_months=1) == Ask(1, 0, 1)
    with pytest.raises(InvalidFieldsError) as caught:
        validate_ask(principal_paise=0, annual_rate_bps=10_001, tenure_months=481)
    assert [each.field for each in caught.value.violations] == [
        "loan_amount",
        "interest_rate",
        "tenure_months",
    ]


@pytest.mark.parametrize(
    ("principal", "bps", "tenure"),
    [(100_000_000_001, 0, 1), (-1, 0, 1), (1, -1, 1), (1, 0, 0), (1, 0, -3)],
)
def test_an_ask_out_of_range(principal: int, bps: int, tenure: int) -> None:
    with pytest.raises(InvalidFieldsError):
        validate_ask(principal_paise=principal, annual_rate_bps=bps, tenure_months=tenure)


def rounding_slack(bps: int, tenure: int) -> Fraction:
    """A paisa a month with its interest at the end: s of `least_principal_paise`."""
    growth = 1 + Fraction(bps, 120_000)
    return sum((growth**k for k in range(tenure)), Fraction(0))


@given(rates, tenures)
@settings(max_examples=60, deadline=None)
def test_the_minimum_principal_has_an_installment_of_s(bps: int, tenure: int) -> None:
    least = least_principal_paise(bps, tenure)
    slack = rounding_slack(bps, tenure)
    value = slack * slack / (1 + Fraction(bps, 120_000)) ** tenure
    assert least - 1 < value <= least
    assert least <= least_principal_paise(bps, tenure + 1)


@given(rates, tenures, st.integers(0, 3) | st.integers(0, 10**6) | st.integers(0, 10**11))
@settings(max_examples=300, deadline=None)
def test_a_repayable_loan_has_one_nearly_equal_installment_per_month(
    bps: int, tenure: int, more: int
) -> None:
    asked = LoanTerms(least_principal_paise(bps, tenure) + more, bps, tenure)
    assert is_repayable(asked)
    installment = installment_paise(asked)
    last = last_installment_paise(asked, installment)
    assert 0 < last <= 2 * installment
    assert abs(last - installment) <= rounding_slack(bps, tenure)
    first_interest = divide_half_up(asked.principal_paise * bps, 120_000)
    assert installment >= first_interest + 1
    payments = [each.payment_paise for each in schedule(booked_on(asked)).installments]
    assert payments == [installment] * (tenure - 1) + [last]


def booked_on(asked: LoanTerms) -> Loan:
    return book(asked, installment_paise(asked), 1, 1, DAY, 1)


@given(terms)
@settings(deadline=None)
def test_the_last_installment_is_the_schedules(asked: LoanTerms) -> None:
    last = last_installment_paise(asked, installment_paise(asked))
    assert last == schedule(booked_on(asked)).installments[-1].payment_paise
    assert last == repayment_plan(booked_on(asked)).last_paise


@given(terms, st.integers(-2, 2))
@settings(deadline=None)
def test_the_last_installment_equals_a_month_by_month_computation(
    asked: LoanTerms, more: int
) -> None:
    """Also for an installment other than the formula's, and where it repays early."""
    installment = max(installment_paise(asked) + more, 0)
    balance = asked.principal_paise
    for _ in range(asked.tenure_months - 1):
        balance += divide_half_up(balance * asked.annual_rate_bps, 120_000) - installment
        if balance <= 0:
            break
    left = max(balance, 0)
    last = left + divide_half_up(left * asked.annual_rate_bps, 120_000)
    assert last_installment_paise(asked, installment) == last


@given(terms)
@settings(deadline=None)
def test_only_a_principal_below_the_minimum_is_not_repayable(asked: LoanTerms) -> None:
    least = least_principal_paise(asked.annual_rate_bps, asked.tenure_months)
    assert is_repayable(asked) == (asked.principal_paise >= least)
    longest = longest_repayable_tenure(asked.principal_paise, asked.annual_rate_bps)
    assert is_repayable(LoanTerms(asked.principal_paise, asked.annual_rate_bps, longest))
    assert is_repayable(asked) == (asked.tenure_months <= longest)


@pytest.mark.parametrize(
    ("principal_rupees", "bps", "tenure", "last"),
    [
        (100_000, 1200, 12, 888_485),
        (100_000, 0, 3, 3_333_334),
        (500_000, 1000, 60, 1_062_370),
        (100_000, 999, 36, 322_625),
        (100_000, 1200, 1, 10_100_000),
    ],
)
def test_last_installments_equal_published_values(
    principal_rupees: int, bps: int, tenure: int, last: int
) -> None:
    asked = LoanTerms(principal_rupees * 100, bps, tenure)
    assert last_installment_paise(asked, installment_paise(asked)) == last


@pytest.mark.parametrize(
    ("principal", "bps", "tenure", "longest", "least"),
    [
        # The installment rounds to nothing.
        (49, 1200, 480, 7, "₹11,665.62"),
        # 1 paisa a month, all of it interest.
        (100, 1200, 480, 10, "₹11,665.62"),
        # 3,000.00 a month, all of it interest, and 1,03,000.00 at the end.
        (10_000_000, 3600, 480, 308, "₹1,61,29,642.84"),
        # Repaid by 75 installments of 2 paise; the other 25 are 0.
        (150, 0, 100, 12, "₹100.00"),
    ],
)
def test_an_ask_that_whole_paise_do_not_repay_is_rejected_with_the_bounds(
    principal: int, bps: int, tenure: int, longest: int, least: str
) -> None:
    with pytest.raises(InvalidFieldsError) as caught:
        validate_ask(principal_paise=principal, annual_rate_bps=bps, tenure_months=tenure)
    assert [each.field for each in caught.value.violations] == ["loan_amount", "tenure_months"]
    assert f"at least {least} over {tenure} months" in caught.value.message
    assert f"at most {longest} for" in caught.value.message
    validate_ask(principal_paise=principal, annual_rate_bps=bps, tenure_months=longest)
    with pytest.raises(InvalidFieldsError):
        validate_ask(principal_paise=principal, annual_rate_bps=bps, tenure_months=longest + 1)


def test_only_the_tenure_is_named_where_no_amount_works() -> None:
    with pytest.raises(InvalidFieldsError) as caught:
        validate_ask(principal_paise=10**11, annual_rate_bps=10_000, tenure_months=480)
    assert [each.field for each in caught.value.violations] == ["tenure_months"]


def test_a_booked_loan_starts_with_nothing_settled() -> None:
    loan = booked(100_000, 1200, 12)
    assert (loan.customer_id, loan.loan_id, loan.decision_id) == (101, 7001, 9)
    assert loan.start_date == DAY
    assert loan.end_date == date(2025, 1, 31)
    assert loan.state is LoanState.ACTIVE
    assert loan.repayments_left == 12
    assert not loan.imported


@pytest.mark.parametrize(
    ("on_time", "start", "tenure", "expected"),
    [
        # 5 due by then.
        (3, date(2023, 12, 5), 12, (5, None)),
        # Paid ahead.
        (7, date(2023, 12, 5), 12, (7, None)),
        # Ended long ago.
        (2, date(2020, 1, 1), 12, (12, date(2021, 1, 1))),
        # The last one falls due on that day.
        (0, date(2023, 5, 5), 12, (12, date(2024, 5, 5))),
        # Repaid ahead in full.
        (12, date(2024, 1, 1), 12, (12, date(2024, 5, 5))),
        # None due yet.
        (0, date(2024, 5, 1), 12, (0, None)),
    ],
)
def test_an_import_has_no_arrears(
    on_time: int, start: date, tenure: int, expected: tuple[int, date | None]
) -> None:
    assert imported_settled(on_time, start, tenure, date(2024, 5, 5)) == expected


@given(st.integers(0, 480), days, tenures, days)
def test_import_closes_exactly_when_all_is_settled(
    on_time: int, start: date, tenure: int, day: date
) -> None:
    settled, closed_on = imported_settled(on_time, start, tenure, day)
    assert 0 <= settled <= tenure
    assert (closed_on is not None) == (settled == tenure)
    if closed_on is not None:
        assert closed_on == min(add_months(start, tenure), day)
