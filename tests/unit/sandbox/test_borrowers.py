"""Borrowers of the sandbox: the same for the same seed, and paying as their habit says."""

from collections import Counter
from datetime import date, timedelta

from credit_service.sandbox.borrowers import Borrower, Habit

DUE = date(2026, 5, 5)


def test_the_same_seed_gives_the_same_borrower() -> None:
    first, again = Borrower.of(7, 1), Borrower.of(7, 1)
    assert first.habit is again.habit
    assert [first.pays_on(DUE) for _ in range(20)] == [again.pays_on(DUE) for _ in range(20)]
    assert [Borrower.of(n, 1).habit for n in range(50)] != [
        Borrower.of(n, 2).habit for n in range(50)
    ]


def test_most_are_punctual_and_some_stop_for_good() -> None:
    borrowers = [Borrower.of(number, 1) for number in range(1_000)]
    habits = Counter(each.habit for each in borrowers)
    assert habits[Habit.PUNCTUAL] > 700
    assert min(habits[Habit.LATE], habits[Habit.TROUBLED]) > 30
    for borrower in borrowers:
        days = {borrower.pays_on(DUE) for _ in range(20)}
        if borrower.habit is Habit.PUNCTUAL:
            assert days <= {DUE - timedelta(days=ahead) for ahead in range(4)}
        else:
            assert all(day is None or day >= DUE for day in days)
            assert borrower.habit is Habit.TROUBLED or None not in days
    troubled = [each for each in borrowers if each.habit is Habit.TROUBLED]
    assert any(None in {each.pays_on(DUE) for _ in range(20)} for each in troubled)
