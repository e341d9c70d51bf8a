"""Who borrows, and on which day they pay: the same for the same seed."""

import random
from dataclasses import dataclass, field
from datetime import date, timedelta
from enum import Enum
from typing import Final


class Habit(Enum):
    """How a borrower pays."""

    PUNCTUAL = "PUNCTUAL"
    """On the due date or up to three days before."""
    LATE = "LATE"
    """Every other installment up to 25 days late."""
    TROUBLED = "TROUBLED"
    """As LATE, until payments stop for months; half of them then start again."""


_SHARES: Final = {Habit.PUNCTUAL: 80, Habit.LATE: 13, Habit.TROUBLED: 7}
_STOPS_AT_EACH_PAYMENT: Final = 0.25
_STARTS_AGAIN: Final = 0.5


@dataclass(slots=True)
class Borrower:
    """A customer with a habit. `chance` draws all that is random about them."""

    customer_id: int
    habit: Habit
    chance: random.Random = field(repr=False)

    @classmethod
    def of(cls, customer_id: int, seed: int) -> "Borrower":
        """Return the customer's borrower; always the same for a seed."""
        chance = random.Random(f"{seed}/{customer_id}")  # noqa: S311 - made-up people, no secret
        habit = chance.choices(list(_SHARES), list(_SHARES.values()))[0]
        return cls(customer_id, habit, chance)

    def pays_on(self, due: date) -> date | None:
        """Return the day on which the installment of `due` is paid, None for one never paid."""
        if self.habit is Habit.PUNCTUAL:
            return due - timedelta(days=self.chance.randint(0, 3))
        if self.habit is Habit.TROUBLED and self.chance.random() < _STOPS_AT_EACH_PAYMENT:
            if self.chance.random() < _STARTS_AGAIN:
                return due + timedelta(days=self.chance.randint(35, 200))
            return None
        return due + timedelta(days=self.chance.choice((0, 0, 0, 2, 5, 11, 25)))

    def happens(self, probability: float) -> bool:
        """Draw an event of that probability."""
        return self.chance.random() < probability

    def within(self, first: int, last: int) -> timedelta:
        """Draw a number of days."""
        return timedelta(days=self.chance.randint(first, last))
