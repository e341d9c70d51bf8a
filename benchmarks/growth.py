"""The results for size: the same calls with a few hundred and with a million customers."""

from contextlib import ExitStack

from benchmarks import bed, calls
from benchmarks.bed import Bed
from benchmarks.load import Order
from benchmarks.measuring import MILLISECONDS, Goal, Plan, Result, Turn, by_turns

_METHODS = ("CheckEligibility", "CreateLoan")
_LOANS_EACH = 3
_FULL_SIZES = (300, 10_000, 100_000, 1_000_000)
_QUICK_SIZES = (300, 30_000)
_BODIES = 20_000
# Few enough that the median is the latency of a call, not of a queue.
_CALLERS = 4


class Growth:
    """Measurements on one database per size, created on first use."""

    def __init__(self, test_bed: Bed, plan: Plan) -> None:
        self._bed = test_bed
        self._plan = plan

    def measure(self) -> list[Result]:
        """Median latencies at every size, alternating; the first size is the yardstick."""
        sizes = _QUICK_SIZES if self._plan.quick else _FULL_SIZES
        with ExitStack() as running:
            works: list[_Work] = []
            for size in sizes:
                url = self._bed.database(f"growth_{size}")
                bed.fill(url, 1, size, _LOANS_EACH)
                # A cache would serve most calls instead of the tables.
                server = running.enter_context(bed.server(url, None, self._bed.serving))
                works += [
                    _Work(self._bed, server, url, method, size, self._plan.seconds)
                    for method in _METHODS
                ]
            turns = by_turns(self._plan.rounds, works)
        results = []
        for number, method in enumerate(_METHODS):
            own = turns[number::2]
            for size, of_size in zip(sizes[1:], own[1:], strict=True):
                last = size == sizes[-1]
                results.append(
                    Result(
                        f"growth-{method}-{size}",
                        f"{method} p50 with {size:,} customers, {size * _LOANS_EACH:,} loans",
                        f"with {sizes[0]:,} customers",
                        MILLISECONDS,
                        Goal("≤", 1.3) if last else None,
                        of_size,
                        own[0],
                    )
                )
        return results


class _Work:
    def __init__(
        self, test_bed: Bed, server: bed.Server, url: str, method: str, size: int, seconds: float
    ) -> None:
        self._bed = test_bed
        self._server = server
        self._url = url
        self._method = method
        self._size = size
        self._seconds = seconds

    def __call__(self) -> Turn:
        booking = self._method == "CreateLoan"
        make = calls.create_body if booking else calls.check_body
        bodies = [make(each) for each in calls.picked(self._size, _BODIES)]
        if booking:
            bed.settle(self._url)
        order = Order(
            self._server.port,
            calls.SERVICE + self._method,
            bodies,
            self._seconds,
            callers=_CALLERS,
            channels=2,
            once=booking,
        )
        turn = calls.loaded(self._bed, self._server, [order], None, self._bed.loading)
        assert turn.p50_ms is not None
        return Turn(turn.p50_ms, turn.busy, turn.p50_ms, turn.p99_ms)
