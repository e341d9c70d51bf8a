"""The campaign's plan is reproducible from its seed, complete, and within the duration."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

from credit_service.failpoints import POINTS
from tests.faults.controls import EXPECTED, NONE
from tests.faults.pair import HOWS
from tests.faults.plan import CRASHES, FAILOVERS, FAILOVERS_SHORT, FULL, SHORT, Plan
from tests.faults.sabotages import SABOTAGES


def plan(seed: int, *, full: bool = True) -> Plan:
    return Plan(600.0 if full else 60.0, 40, seed, FULL if full else SHORT)


def test_the_same_seed_gives_the_same_faults_at_the_same_times() -> None:
    assert plan(7).faults() == plan(7).faults()
    assert plan(7).faults() != plan(8).faults()


def test_a_full_campaign_has_every_documented_fault() -> None:
    faults = plan(1).faults()
    kinds = Counter(fault.kind for fault in faults)
    kills = Counter(fault.target for fault in faults if fault.kind == "kill")
    assert kills == {"server": 10, "worker": 10, "relay": 5, "redis": 10, "postgresql": 5}
    assert Counter(fault.target for fault in faults if fault.kind == "crash") == dict.fromkeys(
        CRASHES, 5
    )
    assert kinds["stop"] == 5
    assert kinds["link"] == 12
    assert kinds["flush"] == 2
    assert kinds["clock"] == 3
    assert kinds["hold"] == kinds["full redis"] == kinds["full disk"] == 1
    assert {fault.how for fault in faults if fault.kind == "link"} == {
        "reset",
        "delay",
        "cut there",
        "cut back",
    }


def test_a_short_campaign_has_every_kind() -> None:
    def kinds(faults: Plan) -> set[str]:
        return {each.kind for each in faults.faults()}

    assert kinds(plan(1, full=False)) == kinds(plan(1))


def test_all_faults_happen_during_the_load_in_order() -> None:
    for seed in range(50):
        times = [fault.at_seconds for fault in plan(seed, full=False).faults()]
        assert times == sorted(times)
        assert times[0] > 0
        assert times[-1] < 60.0


def test_a_campaign_of_failovers_has_each_kind_once_and_one_after_the_other() -> None:
    for counts in (FAILOVERS, FAILOVERS_SHORT):
        faults = Plan(240.0, 40, 1, counts).faults()
        failovers = [fault for fault in faults if fault.kind == "failover"]
        assert [fault.how for fault in failovers] == list(counts.failovers)
        assert failovers[-1].at_seconds < 240.0
        # The manager of the pair decides when PostgreSQL runs.
        assert not any(fault.target == "postgresql" for fault in faults)
    assert set(FAILOVERS.failovers) == set(HOWS)
    assert not any(fault.kind == "failover" for fault in plan(1).faults())


def test_crashes_happen_at_failpoints_and_every_guard_has_a_control() -> None:
    assert set(CRASHES) <= POINTS
    assert set(SABOTAGES) == set(EXPECTED) - {NONE}


_EACH_IN_A_CHILD = """
import os
from tests.faults.sabotages import SABOTAGES
for name, remove in SABOTAGES.items():
    child = os.fork()
    if not child:
        remove()
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        print(name)
"""


def test_every_sabotage_finds_the_guard_that_it_removes() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _EACH_IN_A_CHILD],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "", done.stderr
