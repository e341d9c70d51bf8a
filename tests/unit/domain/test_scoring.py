"""Credit scores."""

from dataclasses import replace
from datetime import date
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credit_service.domain.money import divide_half_up
from credit_service.domain.positions import CreditPosition
from credit_service.domain.scorecard import (
    STANDARD,
    STANDARD_DOCUMENT,
    Component,
    Scorecard,
    parse_scorecard,
)
from credit_service.domain.scoring import CreditScore, Override, score
from tests.unit.domain.strategies import free_positions

DAY = date(2024, 5, 5)


def position(on_time: int, due: int, volume_rupees: int, count: int, year: int) -> CreditPosition:
    return CreditPosition(
        customer_id=101,
        version=7,
        monthly_income_paise=5_000_000,
        approved_limit_paise=180_000_000,
        current_debt_paise=0,
        current_installments_paise=0,
        loan_count=count,
        total_principal_paise=volume_rupees * 100,
        emis_on_time=on_time,
        emis_due=due,
        current_year_loans=year,
        as_of=DAY,
        valid_until=date(2024, 6, 1),
    )


# Worked scores: docs/rules.md.
@pytest.mark.parametrize(
    ("found", "points", "expected"),
    [
        (position(12, 12, 50_000, 1, 0), (3500, 125, 200, 0), 38),
        (position(30, 36, 400_000, 3, 1), (2917, 1000, 600, 667), 52),
        (position(24, 24, 600_000, 4, 0), (3500, 1500, 800, 0), 58),
        (position(36, 36, 1_000_000, 10, 3), (3500, 2500, 2000, 2000), 100),
        (position(0, 0, 1, 1, 0), (0, 0, 200, 0), 2),
        (position(0, 10, 10_000_000, 40, 12), (0, 2500, 2000, 2000), 65),
    ],
)
def test_scores_equal_the_worked_examples(
    found: CreditPosition, points: tuple[int, ...], expected: int
) -> None:
    result = score(found, STANDARD)
    assert tuple(each.points_hundredths for each in result.components) == points
    assert result.score == expected
    assert result.override is None
    assert [each.component for each in result.components] == list(Component)
    assert [each.max_points_hundredths for each in result.components] == [3500, 2500, 2000, 2000]


def test_a_score_has_its_scorecard_its_version_and_its_validity() -> None:
    result = score(position(12, 12, 50_000, 1, 0), STANDARD)
    assert result.scorecard_version == "standard-1"
    assert result.customer_version == 7
    assert result.valid_until == date(2024, 6, 1)


def test_no_history_overrides() -> None:
    result = score(position(0, 0, 0, 0, 0), STANDARD)
    assert (result.score, result.override) == (0, Override.NO_CREDIT_HISTORY)


def test_debt_beyond_the_limit_overrides_and_the_components_stay() -> None:
    good = position(36, 36, 2_000_000, 10, 3)
    at_limit = replace(good, current_debt_paise=180_000_000)
    assert score(at_limit, STANDARD).score == 100
    beyond = score(replace(good, current_debt_paise=180_000_001), STANDARD)
    assert (beyond.score, beyond.override) == (0, Override.DEBT_EXCEEDS_APPROVED_LIMIT)
    assert beyond.components == score(at_limit, STANDARD).components


def test_halves_are_rounded_up() -> None:
    # 35 + 1.50 + 2 + 0: the component is exact, the sum a tie.
    assert score(position(1, 1, 60_000, 1, 0), STANDARD).score == 39
    # Volume of 2 rupees: 0.005 points is a tie of hundredths.
    assert score(position(0, 0, 200, 1, 0), STANDARD).components[1].points_hundredths == 1
    assert score(position(0, 0, 199, 1, 0), STANDARD).components[1].points_hundredths == 0


def oracle(found: CreditPosition, scorecard: Scorecard) -> int:
    """The score in fractions, by docs/rules.md."""
    if found.loan_count == 0 or found.current_debt_paise > found.approved_limit_paise:
        return 0
    history = Fraction(found.emis_on_time, found.emis_due) if found.emis_due else Fraction(0)
    volume = Fraction(found.total_principal_paise, scorecard.volume_cap_paise)
    shares = [
        (history, scorecard.repayment_weight),
        (volume, scorecard.volume_weight),
        (Fraction(found.loan_count, scorecard.count_cap), scorecard.count_weight),
        (Fraction(found.current_year_loans, scorecard.activity_cap), scorecard.activity_weight),
    ]
    total = 0
    for share, weight in shares:
        points = min(share, Fraction(1)) * weight * 100
        total += divide_half_up(points.numerator, points.denominator)
    return divide_half_up(total, 100)


@st.composite
def scorecards(draw: st.DrawFn) -> Scorecard:
    cuts = sorted(draw(st.lists(st.integers(0, 100), min_size=3, max_size=3)))
    weights = [high - low for low, high in zip([0, *cuts], [*cuts, 100], strict=True)]
    document = {
        **STANDARD_DOCUMENT,
        "version": "drawn",
        "components": {
            "REPAYMENT_HISTORY": {"weight": weights[0]},
            "LOAN_VOLUME": {"weight": weights[1], "full_at_paise": draw(st.integers(1, 10**10))},
            "LOAN_COUNT": {"weight": weights[2], "full_at_loans": draw(st.integers(1, 20))},
            "CURRENT_YEAR_ACTIVITY": {
                "weight": weights[3],
                "full_at_loans": draw(st.integers(1, 9)),
            },
        },
    }
    return parse_scorecard(document)


any_scorecard = st.one_of(st.just(STANDARD), scorecards())


@given(free_positions(), any_scorecard)
def test_scores_equal_the_oracle(found: CreditPosition, scorecard: Scorecard) -> None:
    result = score(found, scorecard)
    assert result.score == oracle(found, scorecard)
    assert 0 <= result.score <= 100
    for each in result.components:
        assert 0 <= each.points_hundredths <= each.max_points_hundredths


@given(free_positions(), any_scorecard)
def test_a_payment_on_time_never_lowers_the_score(
    found: CreditPosition, scorecard: Scorecard
) -> None:
    before = score(found, scorecard).score
    if found.emis_on_time < found.emis_due:
        caught_up = replace(found, emis_on_time=found.emis_on_time + 1)
        assert score(caught_up, scorecard).score >= before
    ahead = replace(found, emis_on_time=found.emis_on_time + 1, emis_due=found.emis_due + 1)
    assert score(ahead, scorecard).score >= before
    late = replace(found, emis_due=found.emis_due + 1)
    assert score(late, scorecard).score <= before


def explanations(result: CreditScore) -> list[str]:
    return [each.explanation for each in result.components]


def test_explanations_contain_the_figures() -> None:
    assert explanations(score(position(30, 36, 400_000, 3, 1), STANDARD)) == [
        "30 of 36 installments due so far were paid on time.",
        "₹4,00,000.00 borrowed in total; full points from ₹10,00,000.00.",
        "3 loans in total; full points from 10.",
        "1 loan opened or active in this calendar year; full points from 3.",
    ]
    assert explanations(score(position(0, 0, 0, 0, 0), STANDARD))[0] == (
        "No installment has fallen due yet."
    )
    assert explanations(score(position(1, 1, 1, 1, 0), STANDARD))[0] == (
        "1 of 1 installment due so far were paid on time."
    )
