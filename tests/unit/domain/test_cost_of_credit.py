"""The cost of credit, with RBI's published figures."""

from decimal import Decimal, localcontext
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credit_service.domain.asks import is_repayable
from credit_service.domain.charges import Charge, ChargePayee, charges_paise
from credit_service.domain.cost_of_credit import apr_bps, cost_of_credit
from credit_service.domain.installments import installment_paise, last_installment_paise
from credit_service.domain.loans import LoanTerms
from tests.unit.domain.strategies import terms

RBI = LoanTerms(20_000_00, 1500, 24)
RBI_CHARGES = (
    Charge("processing fee", ChargePayee.LENDER, 160_00),
    Charge("insurance", ChargePayee.THIRD_PARTY, 240_00),
)


def test_rbi_illustration() -> None:
    """Circular of 15 April 2024, annex B: APR 17.07 %, not the compounded 18.47 %."""
    assert installment_paise(RBI) == 969_73
    found = cost_of_credit(RBI, RBI_CHARGES)
    assert found.apr_bps == 1707
    assert found.net_disbursed_paise == 19_600_00
    assert (found.lender_charges_paise, found.third_party_charges_paise) == (160_00, 240_00)
    assert found.total_payable_paise == 20_000_00 + found.total_interest_paise
    # The last installment balances: 24 times 969.73 are 23,273.52.
    assert abs(found.total_payable_paise - 23_273_52) < 24


def test_an_installment_of_whole_rupees_gives_another_rate() -> None:
    assert apr_bps(19_600_00, 970_00, 970_00, 24) == 1710


def test_without_charges_the_rate_is_that_of_the_loan() -> None:
    assert cost_of_credit(RBI).apr_bps == 1500
    assert cost_of_credit(LoanTerms(12_00_000_00, 0, 12)).apr_bps == 0


def test_tax_counts_as_a_charge() -> None:
    taxed = (Charge("fee", ChargePayee.LENDER, 200_00, 36_00),)
    assert charges_paise(taxed) == 236_00
    assert cost_of_credit(RBI, taxed).net_disbursed_paise == 19_764_00


@pytest.mark.parametrize("charged", [20_000_00, 20_000_01])
def test_charges_leave_something_to_disburse(charged: int) -> None:
    with pytest.raises(ValueError, match="nothing is disbursed"):
        cost_of_credit(RBI, (Charge("fee", ChargePayee.LENDER, charged),))


def present_value(installment: int, last: int, months: int, bps: Fraction) -> Decimal:
    """The installments discounted at a yearly rate, in 60 digits."""
    with localcontext() as context:
        context.prec = 60
        factor = Decimal(120_000 * bps.denominator) / (120_000 * bps.denominator + bps.numerator)
        value = Decimal(0)
        for number in range(1, months + 1):
            value += (last if number == months else installment) * factor**number
        return value


@given(terms.filter(is_repayable), st.integers(0, 99))
def test_the_rate_is_rounded_half_up(chosen: LoanTerms, percent: int) -> None:
    """Half a basis point below the rate, the installments are worth at least what is disbursed; at
    half a basis point above it, less."""
    net = max(1, chosen.principal_paise * (100 - percent) // 100)
    found = cost_of_credit(chosen)
    installment = installment_paise(chosen)
    last = found.total_payable_paise - installment * (chosen.tenure_months - 1)
    rate = apr_bps(net, installment, last, chosen.tenure_months)
    slack = Decimal(10) ** -20
    half = Fraction(1, 2)
    if rate > 0:
        assert present_value(installment, last, chosen.tenure_months, rate - half) > net - slack
    assert present_value(installment, last, chosen.tenure_months, rate + half) < net + slack


@given(terms.filter(is_repayable))
def test_the_test_without_large_numbers_gives_the_same_rate(chosen: LoanTerms) -> None:
    installment = installment_paise(chosen)
    last = last_installment_paise(chosen, installment)
    rate = apr_bps(chosen.principal_paise, installment, last, chosen.tenure_months)
    assert cost_of_credit(chosen).apr_bps == rate


@pytest.mark.parametrize("months", [1, 2, 12, 24, 240, 480])
@pytest.mark.parametrize("rate", [0, 1, 1500, 10_000])
def test_the_least_principal_of_that_test_has_the_rate_of_the_loan(months: int, rate: int) -> None:
    least = LoanTerms(months * (120_002 + rate) + 1, rate, months)
    if is_repayable(least):
        installment = installment_paise(least)
        last = last_installment_paise(least, installment)
        assert apr_bps(least.principal_paise, installment, last, months) == rate


def test_roundings_change_the_rate_of_a_small_loan() -> None:
    """₹10 over 12 months at 15 %."""
    assert cost_of_credit(LoanTerms(10_00, 1500, 12)).apr_bps != 1500
