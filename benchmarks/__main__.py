"""`python -m benchmarks`: run all or selected groups of benchmarks, and print the table.

Exit status: 0 if every goal is reached, otherwise 1.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks import bed, report
from benchmarks.bed import Bed
from benchmarks.calls import Calls
from benchmarks.growth import Growth
from benchmarks.ingest import Ingestions
from benchmarks.measuring import Plan, Result
from benchmarks.scale import Relay, Scale

GROUPS = (
    "pipeline",
    "check-warm",
    "check-cold",
    "check-batch",
    "round-trips",
    "create",
    "reads",
    "ingest",
    "memory",
    "growth",
    "processes",
    "default",
)
SEPARATE = ("scale", "relay")
"""Groups that run only if they are named."""
_FULL = Plan(rounds=7, seconds=4.0, quick=False)
_QUICK = Plan(rounds=3, seconds=1.5, quick=True)


def main() -> int:
    """Run the benchmarks of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter and with smaller tables")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds of each workload")
    parser.add_argument("--seconds", type=float, metavar="S", help="length of a round")
    parser.add_argument("--only", metavar="NAME", action="append", help="run this group only")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all results to FILE")
    parser.add_argument("--list", action="store_true", help="only list the groups")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join((*GROUPS, *SEPARATE)))
        return 0
    names: list[str] = arguments.only or list(GROUPS)
    known = (*GROUPS, *SEPARATE)
    unknown = [each for each in names if each not in known]
    if unknown:
        parser.error(f"no such group: {', '.join(unknown)}; choose from {', '.join(known)}")
    plan = _QUICK if arguments.quick else _FULL
    plan = replace(
        plan,
        rounds=arguments.rounds or plan.rounds,
        seconds=arguments.seconds or plan.seconds,
    )
    results: list[Result] = []
    with bed.started() as test_bed:
        machine = test_bed.machine
        print(f"{machine}\n", flush=True)
        groups = _groups(test_bed, plan)
        for name in names:
            found = groups[name]()
            results += found
            print(report.details(found), flush=True)
            if arguments.json is not None:
                report.write_json(arguments.json, machine, results, quick=plan.quick)
    print(f"\n{report.table(results)}")
    return 0 if all(each.met is not False for each in results) else 1


def _groups(test_bed: Bed, plan: Plan) -> dict[str, Callable[[], list[Result]]]:
    """The benchmark functions of each group, in the order of GROUPS and SEPARATE."""
    given = test_bed, plan
    calls, ingestions, growth = Calls(*given), Ingestions(*given), Growth(*given)
    measures = (
        calls.pipeline,
        calls.check_warm,
        calls.check_cold,
        calls.check_batch,
        calls.round_trips,
        calls.create,
        calls.reads,
        ingestions.against_copy,
        ingestions.memory,
        growth.measure,
        calls.processes,
        calls.default,
        Scale(*given).measure,
        Relay(*given).measure,
    )
    return dict(zip((*GROUPS, *SEPARATE), measures, strict=True))


if __name__ == "__main__":
    sys.exit(main())
