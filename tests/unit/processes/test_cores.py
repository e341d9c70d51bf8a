"""The cores of serving processes, and how many processes a server starts by default."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from credit_service.processes import cores, sizing
from credit_service.processes.cores import Placement, Usage
from credit_service.processes.sizing import MEMORY_BYTES_EACH, size
from credit_service.settings import Settings

_MEBIBYTE = 1024**2
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux binds a process to cores")


def _write(root: Path, files: Mapping[str, str]) -> Path:
    """Write files with these paths and contents below `root`, and return it."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


# The limits of control groups.


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        (
            # The limit of a group above applies too.
            {
                "proc/self/cgroup": "0::/pods/one\n",
                "sys/fs/cgroup/pods/cpu.max": "50000 100000\n",
                "sys/fs/cgroup/pods/one/cpu.max": "400000 100000\n",
            },
            0.5,
        ),
        (
            # The path on the host, seen from inside a container.
            {
                "proc/self/cgroup": "0::/docker/5f\n",
                "sys/fs/cgroup/cpu.max": "200000 100000\n",
            },
            2.0,
        ),
        (
            {
                "proc/self/cgroup": "5:memory:/\n4:cpu,cpuacct:/docker/5f\n0::/\n",
                "sys/fs/cgroup/cpu/docker/5f/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu/docker/5f/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            3.0,
        ),
        ({}, None),
    ],
)
def test_the_cpu_quota_is_that_of_the_control_groups(
    tmp_path: Path, files: Mapping[str, str], quota: float | None
) -> None:
    assert cores.cpu_quota(_write(tmp_path, files)) == quota


def test_the_memory_limit_is_that_of_the_control_groups(tmp_path: Path) -> None:
    assert cores.memory_limit_bytes(tmp_path) is None
    second = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "1073741824\n"}
    assert cores.memory_limit_bytes(_write(tmp_path, second)) == 1024 * _MEBIBYTE
    first = {
        "proc/self/cgroup": "4:memory:/\n0::/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "536870912\n",
    }
    assert cores.memory_limit_bytes(_write(tmp_path, first)) == 512 * _MEBIBYTE


# The number of processes.


def _limits(root: Path, *, quota: str = "max", memory: str = "max") -> Path:
    return _write(
        root,
        {
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/cpu.max": f"{quota} 100000\n",
            "sys/fs/cgroup/memory.max": f"{memory}\n",
        },
    )


@pytest.mark.parametrize(
    ("quota", "memory", "connections", "count", "limit"),
    [
        ("max", "max", None, 16, "cores: 16"),
        ("max", "max", 1_000, 16, "cores: 16"),
        # Half of PostgreSQL's default, for pools of 12 connections and one readiness check each.
        ("max", "max", 100, 3, "connections that the database allows: 100"),
        ("max", "max", 10, 1, "connections that the database allows: 10"),
        ("450000", "max", 1_000, 4, "CPU quota: 4.5 cores"),
        ("50000", "max", 1_000, 1, "CPU quota: 0.5 cores"),
        ("max", str(5 * MEMORY_BYTES_EACH), 1_000, 5, "memory limit: 1280 MiB"),
        ("max", str(_MEBIBYTE), 1_000, 1, "memory limit: 1 MiB"),
    ],
)
def test_the_number_of_processes_follows_the_smallest_limit(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    quota: str,
    memory: str,
    connections: int | None,
    count: int,
    limit: str,
) -> None:
    monkeypatch.setattr(cores, "usable", lambda: list(range(16)))
    root = _limits(tmp_path, quota=quota, memory=memory)
    found = size(Settings(processes=None), connections, root)
    assert (found.count, found.limit) == (count, limit)


def test_the_number_of_processes_has_a_maximum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "usable", lambda: list(range(128)))
    assert size(Settings(processes=None), None, _limits(tmp_path)).count == 64


def test_the_setting_is_not_limited(tmp_path: Path) -> None:
    root = _limits(tmp_path, quota="100000", memory="1")
    assert size(Settings(processes=9), 1, root) == sizing.Sizing(9, "CREDIT_PROCESSES")


# The order of cores.


def test_processes_take_one_of_each_pair_of_hyperthreads_first(tmp_path: Path) -> None:
    name = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    pairs = {0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3"}
    root = _write(tmp_path, {name.format(core): f"{pair}\n" for core, pair in pairs.items()})
    assert cores.spread([0, 1, 2, 3], 0, root) == [0, 2, 1, 3]
    assert cores.spread([3, 2, 1, 0], 1, root) == [1, 2, 3, 0]
    # Without the files, or of a core that it may not use.
    assert cores.spread([0, 1, 2, 3], 2, tmp_path / "none") == [2, 3, 0, 1]
    assert cores.spread([0, 1], 7, tmp_path / "none") == [0, 1]


# Usage.


def test_the_usage_is_that_of_cores_and_processes(tmp_path: Path) -> None:
    root = _write(
        tmp_path,
        {
            "proc/stat": "cpu  9 9 9 9 9 9 9 9 9 9\n"
            "cpu0 10 1 5 100 20 2 3 4 7 7\n"
            "cpu12 1 1 1 1 1 1 1 1 0 0\n"
            "intr 1 2 3\n",
            # The name of a program may contain anything.
            "proc/77/stat": "77 (a ) b) S 1 77 77 0 -1 4194560 11 12 13 14 150 25 0 0 20 0 1 0\n",
        },
    )
    found = cores.read_usage([77, 78], root)
    assert found == Usage({0: 25, 12: 6}, {0: 145, 12: 8}, {77: 175})


_BUSY = {0: 1.0, 1: 0.1, 2: 0.05, 3: 1.0}


@pytest.mark.parametrize(
    ("own", "busy", "taken", "better"),
    [
        # Another process takes half of the core.
        (0.5, _BUSY, {0}, [1, 2]),
        # Cores of other processes of the group are no choice.
        (0.5, _BUSY, {0, 2}, [1]),
        # The process has the core to itself.
        (0.95, _BUSY, {0}, []),
        # The core still has time.
        (0.2, {**_BUSY, 0: 0.6}, {0}, []),
        # No core has clearly more.
        (0.5, {0: 1.0, 1: 0.4, 2: 0.9, 3: 1.0}, {0}, []),
        # The core does not belong to the service any more.
        (0.5, {1: 1.0, 2: 0.5}, {0, 1}, [2]),
    ],
)
def test_a_core_is_better_if_a_move_clearly_gains_time(
    own: float, busy: Mapping[int, float], taken: set[int], better: Sequence[int]
) -> None:
    assert cores.better_cores(0, own, busy, taken) == better


# Placement.


class _Machine:
    """A machine with four cores, on which time passes between two checks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.usable = [0, 1, 2, 3]
        self.moves: list[tuple[int, int]] = []
        self.reads = 0
        self._ticks = dict.fromkeys(range(4), 0)
        self._own: dict[int, int] = {}
        monkeypatch.setattr(cores, "usable", lambda: self.usable)
        monkeypatch.setattr(cores, "spread", lambda found, _first: list(found))
        monkeypatch.setattr(cores, "read_usage", self._read)
        monkeypatch.setattr(cores, "_move", self._move)
        monkeypatch.setattr("credit_service.processes.cores.time.monotonic", lambda: self.now)
        monkeypatch.setattr("credit_service.processes.cores.random.random", lambda: 0.0)

    def _read(self, pids: Sequence[int]) -> Usage:
        self.reads += 1
        total = dict.fromkeys(range(4), round(self.now * 100))
        return Usage(dict(self._ticks), total, {pid: self._own.get(pid, 0) for pid in pids})

    def _move(self, pid: int, core: int) -> bool:
        self.moves.append((pid, core))
        return True

    def run(self, busy: Mapping[int, float], own: Mapping[int, float]) -> None:
        """Let the interval between two checks pass with this usage."""
        self.now += cores.CHECK_SECONDS
        for core, used in busy.items():
            self._ticks[core] += round(used * cores.CHECK_SECONDS * 100)
        for pid, used in own.items():
            self._own[pid] = self._own.get(pid, 0) + round(used * cores.CHECK_SECONDS * 100)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> _Machine:
    return _Machine(monkeypatch)


@LINUX
def test_each_process_gets_a_core_of_its_own(machine: _Machine) -> None:
    assert [Placement(3).core_of(number) for number in range(3)] == [0, 1, 2]
    # More processes than cores, and one core only.
    assert Placement(5).core_of(0) is None
    machine.usable = [2]
    assert Placement(1).core_of(0) is None


@LINUX
def test_a_process_leaves_a_crowded_core(machine: _Machine) -> None:
    placement = Placement(2)
    assert placement.relieve([70, 71]) == {}
    machine.run({0: 1.0, 1: 1.0, 2: 0.3, 3: 0.1}, {70: 0.5, 71: 1.0})
    assert placement.relieve([70, 71]) == {0: 3}
    assert placement.core_of(0) == 3
    assert machine.moves == [(70, 3)]
    # Not before the next check.
    assert placement.relieve([70, 71]) == {}
    assert machine.reads == 2


@LINUX
def test_processes_stay_where_a_move_gains_nothing(machine: _Machine) -> None:
    placement = Placement(2)
    placement.relieve([70, 71])
    machine.run({0: 1.0, 1: 1.0, 2: 0.9, 3: 0.9}, {70: 0.5, 71: 1.0})
    assert placement.relieve([70, 71]) == {}
    # One that has just started, and one that is dead.
    machine.run({0: 1.0, 1: 1.0}, {70: 0.5})
    assert placement.relieve([72, None]) == {}
    assert machine.moves == []


@LINUX
def test_an_unreadable_usage_moves_nothing(
    machine: _Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_pids: Sequence[int]) -> Usage:
        raise ValueError("not a number")

    monkeypatch.setattr(cores, "read_usage", fail)
    assert Placement(1).relieve([70]) == {}


@LINUX
def test_two_groups_do_not_move_together(
    machine: _Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("credit_service.processes.cores.random.random", lambda: 0.5)
    placement = Placement(1)
    placement.relieve([70])
    machine.run({0: 1.0}, {70: 0.5})
    assert placement.relieve([70]) == {}


@LINUX
def test_a_process_leaves_a_core_that_is_taken_from_the_service(machine: _Machine) -> None:
    placement = Placement(1)
    placement.relieve([70])
    machine.usable = [2, 3]
    machine.run({2: 0.2}, {70: 0.5})
    assert placement.relieve([70]) == {0: 3}


# A real process.

_PROGRAM = """
import json, os, subprocess, sys, threading
from credit_service.processes import cores

def affinity():
    program = "import os; print(sorted(os.sched_getaffinity(0)))"
    return json.loads(subprocess.check_output([sys.executable, "-c", program]))

def started():
    with cores.unbound():
        found.append(affinity())
    found.append(sorted(os.sched_getaffinity(0)))

# Modules may start threads when they are imported.
early = threading.Thread(target=threading.Event().wait, args=(30,), daemon=True)
early.start()
found = [cores.usable()]
cores.keep_to(int(sys.argv[1]))
found += [affinity(), cores.usable()]
thread = threading.Thread(target=started)
thread.start()
thread.join()
found.append(sorted(os.sched_getaffinity(early.native_id)))
print(json.dumps(found))
"""


@LINUX
def test_a_process_keeps_to_a_core_and_starts_others_on_all() -> None:
    every = sorted(os.sched_getaffinity(0))
    core = every[-1]
    output = subprocess.check_output([sys.executable, "-c", _PROGRAM, str(core)], timeout=60)
    assert json.loads(output) == [every, [core], every, every, [core], [core]]


@LINUX
def test_every_thread_of_a_process_is_moved() -> None:
    program = (
        "import sys, threading\n"
        "threads = [threading.Thread(target=sys.stdin.read, daemon=True) for _ in range(3)]\n"
        "for each in threads: each.start()\n"
        "print('started', flush=True)\n"
        "threading.Event().wait(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        core = max(os.sched_getaffinity(0))
        assert cores._move(process.pid, core)
        threads = [int(each.name) for each in Path(f"/proc/{process.pid}/task").iterdir()]
        assert len(threads) == 4
        assert all(os.sched_getaffinity(each) == {core} for each in threads)
        process.kill()
    assert not cores._move(process.pid, core)
