"""`python -m tests.faults`: run a campaign and say what was found; exits 1 when anything was."""

import argparse
import random
import sys

from tests.faults.campaign import Campaign, Plan


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seconds", type=float, default=90.0, help="how long the load lasts")
    parser.add_argument("--callers", type=int, default=40, help="closed-loop callers")
    parser.add_argument("--pause", type=float, default=3.0, help="seconds between two faults")
    parser.add_argument("--seed", type=int, default=None, help="of the faults and the load")
    given = parser.parse_args()
    seed = random.randrange(2**32) if given.seed is None else given.seed  # noqa: S311
    print(f"seed {seed}")  # noqa: T201 - a command line
    plan = Plan(given.seconds, given.callers, given.pause, seed)
    report = Campaign(plan).run()
    print(report)  # noqa: T201
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
