"""`python -m tests.faults`: run a campaign and print its findings; exits with 1 if there are
any."""

import argparse
import random
import sys

from tests.faults import campaign
from tests.faults.plan import FAILOVERS, FAILOVERS_SHORT, FULL, SHORT, Plan


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--short", action="store_true", help="about two minutes, all kinds once")
    parser.add_argument(
        "--failover", action="store_true", help="fail over to a standby, in place of other faults"
    )
    parser.add_argument("--seconds", type=float, help="duration of the load")
    parser.add_argument("--callers", type=int, default=40, help="closed-loop callers")
    parser.add_argument("--seed", type=int, help="seed of the faults and the load")
    parser.add_argument(
        "--plan", action="store_true", help="only print the planned faults and times"
    )
    given = parser.parse_args()
    campaign.exit_cleanly_on_signals()
    seed = random.randrange(2**32) if given.seed is None else given.seed  # noqa: S311 - no secret
    seconds, counts = (60.0, SHORT) if given.short else (600.0, FULL)
    if given.failover:
        seconds, counts = (60.0, FAILOVERS_SHORT) if given.short else (240.0, FAILOVERS)
    plan = Plan(given.seconds or seconds, callers=given.callers, seed=seed, counts=counts)
    print(f"seed {seed}")  # noqa: T201 - a command line
    if given.plan:
        for fault in plan.faults():
            print(f"{fault.at_seconds:7.1f} s  {fault}")  # noqa: T201
        return 0
    report = campaign.run(plan)
    print(report)  # noqa: T201
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
