"""`python -m tests.fuzz`: send mutants to a real stack; exits with 1 if there are findings.

python -m tests.fuzz                                   all mutants, about four minutes
python -m tests.fuzz --seed 7 --only fields:1959       one mutant of an earlier run
python -m tests.fuzz --only files                      one kind
"""

import argparse
import random
import sys

from tests.fuzz.campaign import MUTANTS, campaign


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=None, help="seed of all mutants")
    parser.add_argument(
        "--only", action="append", default=[], help="KIND, KIND:NUMBER or KIND:FIRST-LAST"
    )
    given = parser.parse_args()
    seed = random.randrange(2**32) if given.seed is None else given.seed  # noqa: S311
    print(f"seed {seed}", flush=True)  # noqa: T201 - a command line
    with campaign(seed) as running:
        for each in given.only or MUTANTS:
            kind, _, numbers = each.partition(":")
            first, _, last = numbers.partition("-")
            end = int(last or first) + 1 if numbers else MUTANTS[kind]
            running.run(kind, range(int(first or 0), end))
        running.close()
    print(running.report)  # noqa: T201
    return 1 if running.report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
