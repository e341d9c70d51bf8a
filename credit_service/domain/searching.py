"""Search integers for the bound of a condition."""

from collections.abc import Callable


def passing_bound(passing: int, failing: int, passes: Callable[[int], bool]) -> int:
    """A number that passes, next to one that does not, by halving the range between the two.

    `passing` is known to pass and `failing` not to; either may be the larger one. If the condition
    changes once between them, the result is its exact bound.
    """
    while abs(failing - passing) > 1:
        middle = (passing + failing) // 2
        if passes(middle):
            passing = middle
        else:
            failing = middle
    return passing
