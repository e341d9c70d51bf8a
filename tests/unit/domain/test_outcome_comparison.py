"""Comparisons name examples in bounded memory."""

from credit_service.domain.outcome_comparison import (
    MAX_SCORES_NAMED,
    ScoreComparison,
    ScoreDifference,
)


def test_the_largest_differences_of_scores_are_named() -> None:
    found = ScoreComparison()
    for customer_id in range(1, 1_001):
        found.add(customer_id, 50, 50 + customer_id % 3 - 1)
    found.add(2_001, 90, 10)
    found.add(2_002, 0, 80)
    assert (found.customers, found.changed) == (1_002, 668)
    assert (found.before[50], found.after[10], sum(found.after.values())) == (1_000, 1, 1_002)
    assert len(found.largest) == MAX_SCORES_NAMED
    assert found.largest[:4] == [
        ScoreDifference(2_001, 90, 10),
        ScoreDifference(2_002, 0, 80),
        ScoreDifference(2, 50, 51),
        ScoreDifference(3, 50, 49),
    ]
