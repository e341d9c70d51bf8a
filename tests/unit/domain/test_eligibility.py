"""Decisions and counter-offers."""

from dataclasses import replace
from datetime import date

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from credit_service.domain.asks import least_principal_paise
from credit_service.domain.counter_offers import CounterOffer
from credit_service.domain.eligibility import Ask, Decision, decide
from credit_service.domain.installments import installment_paise
from credit_service.domain.loans import MAX_PRINCIPAL_PAISE, MAX_TENURE_MONTHS, LoanTerms, book
from credit_service.domain.positions import CreditPosition
from credit_service.domain.reasons import Reason, ReasonCode
from credit_service.domain.schedules import schedule
from credit_service.domain.scorecard import (
    STANDARD,
    STANDARD_DOCUMENT,
    Component,
    Scorecard,
    parse_scorecard,
)
from credit_service.domain.scoring import score
from tests.unit.domain.strategies import asks, free_positions, positions

DAY = date(2024, 5, 5)
RUPEE = 100

# Income ₹1,00,000, limit ₹36,00,000, good credit (score 84), ₹5,00,000 owed, ₹16,000 a month.
GOOD = CreditPosition(
    customer_id=101,
    version=7,
    monthly_income_paise=10_000_000,
    approved_limit_paise=360_000_000,
    current_debt_paise=50_000_000,
    current_installments_paise=1_600_000,
    loan_count=6,
    total_principal_paise=90_000_000,
    emis_on_time=48,
    emis_due=50,
    current_year_loans=3,
    as_of=DAY,
    valid_until=date(2024, 6, 1),
)
# 7.00 + 0.50 + 2.00 + 6.67 = 16; 35 + 1.25 + 2 + 0 = 38.
LOW = replace(
    GOOD,
    emis_on_time=10,
    loan_count=1,
    total_principal_paise=2_000_000,
    current_debt_paise=0,
    current_installments_paise=0,
    current_year_loans=1,
)
MIDDLE = replace(
    LOW, emis_on_time=12, emis_due=12, total_principal_paise=5_000_000, current_year_loans=0
)
# 0 + 0.50 + 2.00 + 6.67 = 9.
BAD = replace(LOW, emis_on_time=0)


def ask(rupees: int, bps: int, tenure: int) -> Ask:
    return Ask(rupees * RUPEE, bps, tenure)


def answer(position: CreditPosition, asked: Ask) -> Decision:
    return decide(position, asked, STANDARD, position.as_of)


def codes(decision: Decision) -> list[str]:
    return [each.code for each in decision.reasons]


def test_a_good_score_keeps_the_requested_rate() -> None:
    decision = answer(GOOD, ask(100_000, 999, 36))
    assert decision.approved
    assert decision.score.score == 88
    assert (decision.requested_rate_bps, decision.corrected_rate_bps) == (999, 999)
    assert decision.installment_paise == 322_625
    assert decision.reasons == ()
    assert decision.counter_offer is None


@pytest.mark.parametrize(
    ("position", "score_found", "requested", "corrected"),
    [
        (LOW, 16, 1000, 1600),
        (LOW, 16, 1599, 1600),
        (LOW, 16, 1601, 1601),
        (MIDDLE, 38, 1000, 1200),
        (MIDDLE, 38, 1200, 1200),
        (MIDDLE, 38, 1254, 1254),
        (GOOD, 88, 0, 0),
    ],
)
def test_rates_are_corrected_to_the_slab(
    position: CreditPosition, score_found: int, requested: int, corrected: int
) -> None:
    decision = answer(position, ask(100_000, requested, 12))
    assert decision.approved
    assert decision.score.score == score_found
    assert decision.requested_rate_bps == requested
    assert decision.corrected_rate_bps == corrected
    assert decision.installment_paise == installment_paise(LoanTerms(10_000_000, corrected, 12))


# count and activity give whole points, repayment the rest: scores at the edges of the slabs.
@pytest.mark.parametrize(
    ("on_time", "expected_score", "corrected"),
    [(6, 10, None), (7, 11, 1600), (26, 30, 1600), (27, 31, 1200)],
)
def test_each_slab_ends_at_its_bounds(
    on_time: int, expected_score: int, corrected: int | None
) -> None:
    # 35 installments due make each of them worth a point; 2 loans are worth 4.
    position = replace(
        GOOD,
        emis_on_time=on_time,
        emis_due=35,
        loan_count=2,
        total_principal_paise=2,
        current_debt_paise=0,
        current_year_loans=0,
    )
    decision = answer(position, ask(1_000, 100, 12))
    assert decision.score.score == expected_score
    assert decision.approved == (corrected is not None)
    assert decision.corrected_rate_bps == (corrected or 100)


@pytest.mark.parametrize(("on_time", "expected_score", "corrected"), [(28, 50, 1200), (29, 51, 0)])
def test_the_best_slab_starts_at_its_bound(
    on_time: int, expected_score: int, corrected: int
) -> None:
    position = replace(
        GOOD,
        emis_on_time=on_time,
        emis_due=35,
        loan_count=11,
        total_principal_paise=8_000_000,
        current_debt_paise=0,
        current_year_loans=0,
    )
    decision = answer(position, ask(1_000, 0, 12))
    assert (decision.score.score, decision.corrected_rate_bps) == (expected_score, corrected)


def test_a_low_score_declines_and_names_the_largest_losses() -> None:
    decision = answer(BAD, ask(100_000, 1254, 12))
    assert not decision.approved
    assert decision.reasons == (
        Reason(
            ReasonCode.CREDIT_SCORE_TOO_LOW,
            "The credit score of 9 is below 11; what cost most: repayment history (0 of 35 points) "
            "and loan volume (0.5 of 25 points).",
            "9",
            "11",
            (Component.REPAYMENT_HISTORY, Component.LOAN_VOLUME),
        ),
    )
    assert decision.corrected_rate_bps == 1254
    assert decision.installment_paise == installment_paise(LoanTerms(10_000_000, 1254, 12))
    assert decision.counter_offer is None


def test_no_history_declines() -> None:
    empty = replace(
        GOOD,
        loan_count=0,
        total_principal_paise=0,
        current_debt_paise=0,
        current_installments_paise=0,
        emis_on_time=0,
        emis_due=0,
        current_year_loans=0,
    )
    decision = answer(empty, ask(100_000, 1200, 12))
    assert decision.reasons == (
        Reason(ReasonCode.NO_CREDIT_HISTORY, "There is no loan on record to judge by.", "0", "1"),
    )


def test_debt_above_the_limit_declines_instead_of_the_score() -> None:
    deep = replace(GOOD, approved_limit_paise=40_000_000)
    decision = answer(deep, ask(100_000, 1200, 12))
    assert codes(decision) == [
        ReasonCode.DEBT_EXCEEDS_APPROVED_LIMIT,
        ReasonCode.APPROVED_LIMIT_EXCEEDED,
    ]
    assert (decision.reasons[0].found, decision.reasons[0].threshold) == ("500000.00", "400000.00")
    # Stored bytes contain the text, so it must not change.
    assert decision.reasons[0].message == (
        "The current debt of ₹5,00,000.00 is already more than the approved limit of ₹4,00,000.00."
    )
    assert (decision.reasons[1].found, decision.reasons[1].threshold) == ("600000.00", "400000.00")
    assert decision.counter_offer is None


def test_all_reasons_are_listed_by_weight() -> None:
    decision = answer(BAD, ask(100_000_000, 1200, 12))
    assert codes(decision) == [
        ReasonCode.CREDIT_SCORE_TOO_LOW,
        ReasonCode.EMI_BURDEN_TOO_HIGH,
        ReasonCode.APPROVED_LIMIT_EXCEEDED,
    ]


def test_the_burden_may_reach_half_of_the_income_but_not_exceed_it() -> None:
    # 12 installments of ₹34,000 without interest on top of ₹16,000.
    fits = answer(GOOD, Ask(12 * 3_400_000, 0, 12))
    assert fits.approved
    decision = answer(GOOD, Ask(12 * 3_400_000 + 6, 0, 12))
    assert decision.reasons == (
        Reason(
            ReasonCode.EMI_BURDEN_TOO_HIGH,
            "Current installments of ₹16,000.00 and the new one of ₹34,000.01 come to ₹50,000.01 "
            "a month, more than 50 % of the monthly income of ₹1,00,000.00.",
            "50000.01",
            "50000.00",
        ),
    )
    assert decision.counter_offer == CounterOffer(
        12 * 3_400_000, 3_400_000, 13, 3_138_462, 3_400_000, 3_138_462
    )


def test_held_installments_count_and_are_named() -> None:
    # As above, with ₹4,000 of the headroom held.
    holding = replace(GOOD, held_installments_paise=400_000, held_principal_paise=100)
    assert answer(holding, Ask(12 * 3_000_000, 0, 12)).approved
    (reason,) = answer(holding, Ask(12 * 3_000_000 + 6, 0, 12)).reasons
    assert reason.message.startswith(
        "Current installments of ₹16,000.00, held installments of ₹4,000.00 and the new one of "
        "₹30,000.01 come to ₹50,000.01 a month"
    )
    assert (reason.found, reason.threshold) == ("50000.01", "50000.00")


def test_held_credit_counts_and_is_named() -> None:
    wealthy = replace(GOOD, monthly_income_paise=1_000_000_000, held_principal_paise=100_000_000)
    assert answer(wealthy, Ask(210_000_000, 1200, 60)).approved
    decision = answer(wealthy, Ask(210_000_001, 1200, 60))
    (reason,) = decision.reasons
    assert reason.message.startswith(
        "The current debt of ₹5,00,000.00, held credit of ₹10,00,000.00 and the loan of "
        "₹21,00,000.01 come to ₹36,00,000.01"
    )
    assert (reason.found, reason.threshold) == ("3600000.01", "3600000.00")
    assert decision.counter_offer is not None
    assert decision.counter_offer.max_principal_paise == 210_000_000


def test_the_score_does_not_count_held_credit() -> None:
    """Not even an amount with which the debt would exceed the limit."""
    holding = replace(GOOD, held_principal_paise=GOOD.approved_limit_paise)
    assert answer(holding, Ask(100, 0, 1)).score == answer(GOOD, Ask(100, 0, 1)).score


def test_half_of_an_odd_income_is_not_rounded_up() -> None:
    position = replace(GOOD, monthly_income_paise=10_000_001)
    assert answer(position, Ask(12 * 3_400_000, 0, 12)).approved
    assert not answer(position, Ask(12 * 3_400_001, 0, 12)).approved


def test_the_debt_may_reach_the_limit_but_not_exceed_it() -> None:
    wealthy = replace(GOOD, monthly_income_paise=1_000_000_000)
    assert answer(wealthy, Ask(310_000_000, 1200, 60)).approved
    decision = answer(wealthy, Ask(310_000_001, 1200, 60))
    assert decision.reasons == (
        Reason(
            ReasonCode.APPROVED_LIMIT_EXCEEDED,
            "The current debt of ₹5,00,000.00 and the loan of ₹31,00,000.01 come to "
            "₹36,00,000.01, more than the approved limit of ₹36,00,000.00.",
            "3600000.01",
            "3600000.00",
        ),
    )
    offer = decision.counter_offer
    assert offer is not None
    assert offer.max_principal_paise == 310_000_000
    assert offer.min_tenure_months is None
    assert offer.min_tenure_installment_paise is None


def test_a_counter_offer_is_at_the_corrected_rate() -> None:
    decision = answer(LOW, ask(3_000_000, 500, 36))
    assert codes(decision) == [ReasonCode.EMI_BURDEN_TOO_HIGH]
    assert decision.corrected_rate_bps == 1600
    offer = decision.counter_offer
    assert offer is not None
    assert offer.max_principal_paise is not None
    assert offer.max_principal_installment_paise == installment_paise(
        LoanTerms(offer.max_principal_paise, 1600, 36)
    )
    assert offer.min_tenure_months is not None
    assert offer.min_tenure_installment_paise == installment_paise(
        LoanTerms(300_000_000, 1600, offer.min_tenure_months)
    )


def test_no_counter_offer_where_none_would_be_approved() -> None:
    spent = replace(GOOD, current_installments_paise=5_000_001)
    decision = answer(spent, ask(100_000, 1200, 12))
    assert codes(decision) == [ReasonCode.EMI_BURDEN_TOO_HIGH]
    assert decision.counter_offer is None
    # Interest alone exceeds the limit: no tenure works, a smaller loan does.
    tight = replace(GOOD, current_installments_paise=4_950_000)
    offer = answer(tight, ask(1_000_000, 1200, 480)).counter_offer
    assert offer is not None
    assert offer.min_tenure_months is None
    assert offer.max_principal_paise is not None


def test_a_limit_below_one_rupee_gives_no_counter_offer() -> None:
    wealthy = replace(GOOD, monthly_income_paise=1_000_000_000, current_debt_paise=359_999_901)
    assert answer(wealthy, ask(1, 1200, 1)).counter_offer is None
    one_left = replace(wealthy, current_debt_paise=359_999_900)
    offer = answer(one_left, ask(2, 1200, 1)).counter_offer
    assert offer is not None
    assert offer.max_principal_paise == RUPEE
    # Whole paise do not repay a rupee over 12 months.
    assert answer(one_left, ask(2, 1200, 12)).counter_offer is None


def test_the_burden_is_that_of_the_largest_installment() -> None:
    """33,333.33 twice, then 33,333.34."""
    asked = Ask(10_000_000, 0, 3)
    position = replace(GOOD, monthly_income_paise=2 * (1_600_000 + 3_333_334))
    decision = answer(position, asked)
    assert decision.approved
    assert (decision.installment_paise, decision.last_installment_paise) == (3_333_333, 3_333_334)
    poorer = replace(GOOD, monthly_income_paise=2 * (1_600_000 + 3_333_333))
    decision = answer(poorer, asked)
    assert decision.reasons == (
        Reason(
            ReasonCode.EMI_BURDEN_TOO_HIGH,
            "Current installments of ₹16,000.00 and the new loan's last one of ₹33,333.34 come to "
            "₹49,333.34 a month, more than 50 % of the monthly income of ₹98,666.66.",
            "49333.34",
            "49333.33",
        ),
    )
    # 99,999.00 / 3 is whole; 1,00,000.00 over 4 months has four equal ones.
    assert decision.counter_offer == CounterOffer(
        9_999_900, 3_333_300, 4, 2_500_000, 3_333_300, 2_500_000
    )


def test_a_rate_that_is_corrected_may_make_the_loan_too_small_for_its_tenure() -> None:
    asked = Ask(230_400, 0, 480)
    assert answer(GOOD, asked).approved
    decision = answer(MIDDLE, asked)
    assert decision.corrected_rate_bps == 1200
    assert decision.reasons == (
        Reason(
            ReasonCode.LOAN_AMOUNT_TOO_SMALL,
            "The loan of ₹2,304.00 is less than ₹11,665.62, the least that equal installments of "
            "whole paise repay over 480 months at 12 % a year.",
            "2304.00",
            "11665.62",
        ),
    )
    offer = decision.counter_offer
    assert offer is not None
    assert offer.max_principal_paise is not None
    assert offer.max_principal_paise > asked.principal_paise
    assert offer.min_tenure_months == 1


def least_of(rupees: int) -> Scorecard:
    document = {**STANDARD_DOCUMENT, "version": "least-1", "min_principal_paise": rupees * RUPEE}
    return parse_scorecard(document)


def test_a_loan_below_the_scorecards_minimum_is_declined() -> None:
    scorecard = least_of(1_000)
    assert decide(GOOD, Ask(100_000, 1200, 12), scorecard, DAY).approved
    decision = decide(GOOD, Ask(99_999, 1200, 12), scorecard, DAY)
    assert decision.reasons == (
        Reason(
            ReasonCode.LOAN_AMOUNT_TOO_SMALL,
            "The loan of ₹999.99 is less than ₹1,000.00, the least that is lent.",
            "999.99",
            "1000.00",
        ),
    )
    offer = decision.counter_offer
    assert offer is not None
    assert offer.min_tenure_months is None
    assert offer.max_principal_paise is not None
    assert decide(GOOD, Ask(offer.max_principal_paise, 1200, 12), scorecard, DAY).approved


def test_no_counter_offer_is_below_the_scorecards_minimum() -> None:
    little = replace(GOOD, current_debt_paise=360_000_000 - 99_900)
    asked = Ask(200_000, 1200, 12)
    offer = answer(little, asked).counter_offer
    assert offer is not None
    assert offer.max_principal_paise == 99_900
    assert decide(little, asked, least_of(1_000), DAY).counter_offer is None


def test_an_outdated_position_is_rejected() -> None:
    with pytest.raises(ValueError, match="not on 2024-06-01"):
        decide(GOOD, ask(1_000, 1200, 12), STANDARD, date(2024, 6, 1))
    with pytest.raises(ValueError, match="not on 2024-05-04"):
        decide(GOOD, ask(1_000, 1200, 12), STANDARD, date(2024, 5, 4))


def test_a_scorecard_that_declines_no_score_leaves_the_other_rules() -> None:
    document = {
        **STANDARD_DOCUMENT,
        "version": "open",
        "rate_slabs": [{"min_score": 0, "max_score": 100, "min_rate_bps": 2000}],
    }
    decision = decide(BAD, ask(100_000, 1200, 12), parse_scorecard(document), DAY)
    assert decision.approved
    assert decision.corrected_rate_bps == 2000


any_position = st.one_of(free_positions(), positions())
small_asks = st.builds(
    Ask, st.integers(1, 10**9), st.integers(0, 4000), st.integers(1, MAX_TENURE_MONTHS)
)
any_ask = st.one_of(asks, small_asks)


@given(any_position, any_ask)
@settings(max_examples=300)
def test_an_approval_follows_the_rules(position: CreditPosition, asked: Ask) -> None:
    decision = answer(position, asked)
    result = score(position, STANDARD)
    floor = next(
        rate
        for least, rate in ((51, 0), (31, 1200), (11, 1600), (0, None))
        if result.score >= least
    )
    rate = max(asked.annual_rate_bps, floor or 0)
    terms = LoanTerms(asked.principal_paise, rate, asked.tenure_months)
    installment = installment_paise(terms)
    payments = [
        each.payment_paise for each in schedule(book(terms, installment, 1, 1, DAY, 1)).installments
    ]
    installments = position.current_installments_paise + position.held_installments_paise
    affordable = 2 * (installments + max(installment, payments[-1])) <= (
        position.monthly_income_paise
    )
    large_enough = asked.principal_paise >= least_principal_paise(rate, asked.tenure_months)
    used = position.current_debt_paise + position.held_principal_paise
    within_limit = used + asked.principal_paise <= position.approved_limit_paise
    assert decision.score == result
    assert decision.corrected_rate_bps == rate
    assert decision.installment_paise == installment
    assert decision.last_installment_paise == payments[-1]
    assert decision.approved == (floor is not None and affordable and within_limit and large_enough)
    assert (decision.reasons == ()) == decision.approved
    found = codes(decision)
    assert found == [code for code in ReasonCode if code in found]
    assert len(found) <= 4
    assert (ReasonCode.EMI_BURDEN_TOO_HIGH in found) == (not affordable)
    assert (ReasonCode.APPROVED_LIMIT_EXCEEDED in found) == (not within_limit)
    assert (ReasonCode.LOAN_AMOUNT_TOO_SMALL in found) == (not large_enough)
    by_rules = (
        ReasonCode.EMI_BURDEN_TOO_HIGH,
        ReasonCode.APPROVED_LIMIT_EXCEEDED,
        ReasonCode.LOAN_AMOUNT_TOO_SMALL,
    )
    by_score = [code for code in found if code not in by_rules]
    if floor is not None:
        assert by_score == []
    else:
        assert by_score == [result.override or ReasonCode.CREDIT_SCORE_TOO_LOW]
        assert decision.counter_offer is None


@given(any_position, any_ask, st.data())
def test_approval_is_monotone_in_the_amount_but_for_the_rounding(
    position: CreditPosition, asked: Ask, data: st.DataObject
) -> None:
    """A smaller amount is declined only because it is too small, or by its last installment."""
    decision = answer(position, asked)
    if decision.approved:
        least = least_principal_paise(decision.corrected_rate_bps, asked.tenure_months)
        less = data.draw(st.integers(least, asked.principal_paise))
        smaller = answer(position, replace(asked, principal_paise=less))
        assert smaller.installment_paise <= decision.installment_paise
        assert smaller.last_installment_paise is not None
        if not smaller.approved:
            assert codes(smaller) == [ReasonCode.EMI_BURDEN_TOO_HIGH]
            assert smaller.last_installment_paise > decision.installment_paise
    elif asked.principal_paise < MAX_PRINCIPAL_PAISE and _declined_for_its_size(position, decision):
        more = data.draw(st.integers(asked.principal_paise, MAX_PRINCIPAL_PAISE))
        assert not answer(position, replace(asked, principal_paise=more)).approved


def _declined_for_its_size(position: CreditPosition, decision: Decision) -> bool:
    """By the limit, the score, or the monthly installment itself."""
    burden = position.current_installments_paise + position.held_installments_paise
    burden += decision.installment_paise
    if 2 * burden > position.monthly_income_paise:
        return True
    rounding = {ReasonCode.LOAN_AMOUNT_TOO_SMALL, ReasonCode.EMI_BURDEN_TOO_HIGH}
    return bool(set(codes(decision)) - rounding)


@st.composite
def declined_by_rules(draw: st.DrawFn) -> tuple[CreditPosition, Ask]:
    """A fair or good score, and an ask that the burden or the limit declines."""
    position = replace(
        draw(st.sampled_from([GOOD, MIDDLE, LOW])),
        monthly_income_paise=draw(st.integers(1, 10**9)),
        approved_limit_paise=draw(st.integers(50_000_000, 10**11)),
        current_installments_paise=draw(st.integers(0, 10**7)),
    )
    asked = draw(any_ask)
    return position, asked


@given(declined_by_rules())
@settings(max_examples=400)
def test_a_counter_offer_is_exact(case: tuple[CreditPosition, Ask]) -> None:
    position, asked = case
    decision = answer(position, asked)
    assume(not decision.approved)

    def at(principal_paise: int, tenure_months: int) -> Decision:
        return answer(position, Ask(principal_paise, asked.annual_rate_bps, tenure_months))

    offer = decision.counter_offer
    principal = offer.max_principal_paise if offer else None
    tenure = offer.min_tenure_months if offer else None
    if principal is None:
        for rupees in (1, 2, 10, 1_000, 100_000, 10_000_000):
            assert not at(rupees * RUPEE, asked.tenure_months).approved
    else:
        assert offer is not None
        assert principal % RUPEE == 0
        assert principal >= RUPEE
        best = at(principal, asked.tenure_months)
        assert best.approved
        assert best.installment_paise == offer.max_principal_installment_paise
        assert best.last_installment_paise == offer.max_principal_last_installment_paise
        for more in (1, 2, 3, 10, 1_000, 100_000):
            assert not at(principal + more * RUPEE, asked.tenure_months).approved
    if tenure is None:
        for months in (1, 2, 12, asked.tenure_months, 360, MAX_TENURE_MONTHS):
            assert not at(asked.principal_paise, months).approved
    else:
        assert offer is not None
        assert 1 <= tenure <= MAX_TENURE_MONTHS
        best = at(asked.principal_paise, tenure)
        assert best.approved
        assert best.installment_paise == offer.min_tenure_installment_paise
        assert best.last_installment_paise == offer.min_tenure_last_installment_paise
        for months in {1, tenure // 2, tenure - 2, tenure - 1} & set(range(1, tenure)):
            assert not at(asked.principal_paise, months).approved
