"""The verdict of the hostile campaign about calls that fail in a round."""

from collections import Counter
from collections.abc import Iterable

import pytest

from tests.load.hostile import _Campaign, _Round, _Seen
from tests.load.report import Report


def _found(failed: int, without: int = 0) -> _Round:
    ends = Counter({"CreateLoan": 100, "CreateLoan failed": failed})
    return _Round(0.005, _Seen([0.005] * 100, ends), Counter(), without)


class _Rounds(_Campaign):
    """A campaign with given rounds."""

    def __init__(self, rounds: Iterable[_Round]) -> None:
        self._report = Report("hostile")
        self._table: list[str] = []
        self._rounds = iter(rounds)

    def _round(self, *_: object) -> _Round:
        return next(self._rounds)

    def is_met(self) -> bool:
        self._attack("server alone", "bookers", ["bookers"], 0, "")
        assert next(self._rounds, None) is None
        return not self._report.missed


@pytest.mark.parametrize(
    ("rounds", "met"),
    [
        ([(0, 0)] * 3, True),
        ([(0, 0), (7, 0), (0, 0), (0, 0), (0, 0), (0, 0)], True),
        ([(0, 0), (7, 0), (0, 0), (0, 0), (0, 0), (1, 0)], False),
        # The machine has other work.
        ([(0, 0), (7, 5), (0, 0)], True),
    ],
)
def test_failed_calls_count_if_they_fail_again(rounds: list[tuple[int, int]], met: bool) -> None:
    assert _Rounds(_found(*each) for each in rounds).is_met() == met
