"""`python -m tests.load [PART …]`: put a real stack under load and print the findings.

Exit status: 0 if all checks pass, otherwise 1.
"""

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial

from benchmarks import bed
from benchmarks.bed import Bed
from tests.load import (
    cancelled,
    freshness,
    hostile,
    outage,
    overload,
    recompute,
    rolling,
    slow_cache,
)
from tests.load.attacks import ATTACKS
from tests.load.report import Report

PARTS: dict[str, Callable[[Bed], Report]] = {
    "overload": overload.run,
    "cancelled": cancelled.run,
    "outage": outage.run,
    "rolling": rolling.run,
    "freshness": freshness.run,
    "slow-cache": slow_cache.run,
    "recompute": recompute.run,
    "hostile": hostile.run,
}
ONE_ATTACK = {f"hostile:{name}": partial(hostile.run, only=name) for name in ATTACKS}
"""Single attacks of `hostile`."""


def main() -> int:
    """Run the parts of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.load", description=__doc__)
    parser.add_argument("part", nargs="*", help=f"of {', '.join(PARTS)}; none: all of them")
    names: list[str] = parser.parse_args().part or list(PARTS)
    parts = PARTS | ONE_ATTACK
    unknown = [each for each in names if each not in parts]
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)}; choose from {', '.join(parts)}")
    missed: list[str] = []
    for name in names:
        # Each on separate servers, because some are stopped.
        with bed.started() as test_bed:
            report = parts[name](test_bed)
        report.note(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
        missed += report.missed
    print("\n".join(["", *missed, "all checks passed" if not missed else "some checks FAILED"]))  # noqa: T201
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
