"""`python -m tests.faults.controls`: remove each guard in turn; the campaign must fail.

With all guards it must pass, and without a guard one of three campaigns, with one seed after the
other, must fail for the reason that the guard exists.
Exits with 1 otherwise.
"""

import argparse
import random
import sys
from collections import Counter
from collections.abc import Mapping

from tests.faults import campaign
from tests.faults.plan import Counts, Plan

NONE = "none"
"""The campaign with all guards."""

EXPECTED: Mapping[str, str] = {
    NONE: "",
    "version-guard": "decision",
    "group-guard": "decision",
    "reversal-guard": "position",
    "backdated-replay": "position",
    "prepayment-replay": "payment",
    "foreclosure-replay": "payment",
    "class-events": "class",
    "one-review": "referral",
    "revert-guard": "revert",
    "request-key": "effect",
    "outbox": "event",
    "offset-check": "rows",
    "cache-compare": "cache",
    "sequencer-lock": "event",
    "held-credit": "limit",
    "synchronous-standby": "loans",
    "writable-server": "recovery",
    "read-only-drop": "recovery",
}
"""The expected kind of finding for each removed guard."""

_ATTEMPTS = 3
"""Campaigns to find a removed guard. One may have no two calls that meet, on a busy machine."""
_COUNTS = Counts(kills={"server": 1, "worker": 1}, crashes=1, flushes=1)
_FEW = Counts(kills={"server": 1, "worker": 1})
_OTHERS: Mapping[str, Counts] = {
    # With more deaths there are few payments of each kind and reverts.
    "backdated-replay": _FEW,
    "prepayment-replay": _FEW,
    "foreclosure-replay": _FEW,
    "revert-guard": _FEW,
    # The next day the scorecard with a policy becomes active.
    "one-review": Counts(kills={"worker": 1}, clock_steps=1),
    "synchronous-standby": Counts(failovers=("stall",)),
    "writable-server": Counts(failovers=("kill",)),
    "read-only-drop": Counts(failovers=("fence",)),
}
"""The guards whose campaigns have other faults, with these."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.controls", description=__doc__)
    parser.add_argument("--only", choices=list(EXPECTED), help="run one control")
    parser.add_argument("--seconds", type=float, default=30.0, help="duration of each load")
    parser.add_argument("--seed", type=int, help="seed of the faults and the load")
    given = parser.parse_args()
    campaign.exit_cleanly_on_signals()
    seed = random.randrange(2**32) if given.seed is None else given.seed  # noqa: S311 - no secret
    print(f"seed {seed}")  # noqa: T201 - a command line
    missed = 0
    for guard, expected in EXPECTED.items():
        if given.only not in (None, guard):
            continue
        counts = _OTHERS.get(guard, _COUNTS)
        # With all guards everything must end, also on a busy machine.
        drain_seconds = 120.0 if guard == NONE else 30.0
        for attempt in range(1 if guard == NONE else _ATTEMPTS):
            plan = Plan(given.seconds, 24, seed + attempt, counts, drain_seconds)
            report = campaign.run(plan, "" if guard == NONE else guard)
            kinds = Counter(finding.kind for finding in report.findings)
            right = expected in kinds if expected else not kinds
            if right:
                break
        missed += not right
        example = next((each for each in report.findings if each.kind == expected), "")
        if not right:
            print(report)  # noqa: T201
        print(  # noqa: T201
            f"{guard:18} {'as expected' if right else 'NOT as expected':16} seed {plan.seed},"
            f" {sum(report.calls.values())} calls, found {dict(kinds) or 'nothing'}"
            f"{f'; {example}' if example else ''}",
            flush=True,
        )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
