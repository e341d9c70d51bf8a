"""The cores that the service may use, and the core of each serving process.

Python runs one thread of a process at a time. If the threads of a process run on several cores,
they pass the interpreter's lock from core to core, and the process loses up to half of its speed
(docs/decisions/0014). So each serving process runs on one core at a time. Its supervisor moves it
if other processes use that core while another core is idle, because the kernel cannot.
"""

import os
import random
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

CHECK_SECONDS = 2.0
"""Interval between two checks of whether a core is crowded."""

_FULL = 0.9
"""Use of a core, as a fraction of its time, from which a process on it may wait."""
_GAIN = 0.25
"""Fraction of a core's time that a move must gain."""

_ROOT = Path("/")
_CGROUPS = "sys/fs/cgroup"


def usable() -> list[int]:
    """The cores that this process may use, in ascending order."""
    if sys.platform != "linux":
        return list(range(os.cpu_count() or 1))
    return sorted(_own_cores or os.sched_getaffinity(0))


def cpu_quota(root: Path = _ROOT) -> float | None:
    """The number of cores whose time the control groups of this process allow; None without a
    limit. `root` is the folder with `proc` and `sys`."""
    limits = []
    for group in _control_groups("cpu", root):
        with suppress(OSError, ValueError):
            quota, period = (group / "cpu.max").read_text().split()
            limits.append(int(quota) / int(period))
        with suppress(OSError, ValueError):
            microseconds = int((group / "cpu.cfs_quota_us").read_text())
            if microseconds > 0:
                limits.append(microseconds / int((group / "cpu.cfs_period_us").read_text()))
    return min(limits, default=None)


def memory_limit_bytes(root: Path = _ROOT) -> int | None:
    """The memory that the control groups of this process allow; None without a limit."""
    limits = []
    for group in _control_groups("memory", root):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with suppress(OSError, ValueError):
                limits.append(int((group / name).read_text()))
    return min(limits, default=None)


def _control_groups(controller: str, root: Path) -> Iterator[Path]:
    """The folders of this process's control groups, of both versions, each up to the root group.

    A container may see its own group as the root group, or the path of its group on the host.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            tops = [root / _CGROUPS, root / _CGROUPS / "unified"]
        elif controller in controllers.split(","):
            tops = [root / _CGROUPS / controller, root / _CGROUPS / controllers]
        else:
            continue
        for top in tops:
            group = top / path.lstrip("/")
            yield group
            yield from (each for each in group.parents if each.is_relative_to(top))


# One core for each process.


_own_cores: frozenset[int] = frozenset()
"""The cores that this process could use before `keep_to`; empty if it was not called."""


def keep_to(core: int) -> None:
    """Run this process, with all its threads, on one core.

    Raises OSError if the process may not use the core.
    """
    global _own_cores  # noqa: PLW0603 - as the affinity, it belongs to the process
    if sys.platform == "linux":
        before = frozenset(os.sched_getaffinity(0))
        _bind(os.getpid(), core)
        _own_cores = before


@contextmanager
def unbound() -> Iterator[None]:
    """Let processes that this thread starts inside run on all cores, although this process keeps to
    one. Not for the main thread."""
    if sys.platform != "linux" or not _own_cores:
        yield
        return
    with suppress(OSError):
        os.sched_setaffinity(0, _own_cores)
    try:
        yield
    finally:
        # The main thread's, because the supervisor may have moved the process meanwhile.
        with suppress(OSError):
            os.sched_setaffinity(0, os.sched_getaffinity(os.getpid()))


def spread(cores: Iterable[int], first: int, root: Path = _ROOT) -> list[int]:
    """The cores in the order in which processes take them: from `first` on, and one of each pair of
    hyperthreads before the others."""
    ascending = sorted(cores)
    rotated = [each for each in ascending if each >= first] + [
        each for each in ascending if each < first
    ]
    seen: set[str] = set()
    chosen: list[int] = []
    rest: list[int] = []
    for core in rotated:
        folder = root / f"sys/devices/system/cpu/cpu{core}/topology"
        try:
            siblings = (folder / "thread_siblings_list").read_text()
        except OSError:
            siblings = f"{core}"
        (rest if siblings in seen else chosen).append(core)
        seen.add(siblings)
    return chosen + rest


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU time so far, in ticks: of each core in use, of each core in all, and of each process."""

    busy: Mapping[int, int]
    total: Mapping[int, int]
    own: Mapping[int, int]


def read_usage(pids: Iterable[int], root: Path = _ROOT) -> Usage:
    """The usage of the machine's cores and of these processes. Raises OSError."""
    busy, total, own = {}, {}, {}
    for line in (root / "proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name != "cpu":
            # user nice system idle iowait irq softirq steal; guests are part of user.
            ticks = [int(each) for each in fields[:8]]
            core = int(name.removeprefix("cpu"))
            total[core] = sum(ticks)
            busy[core] = total[core] - sum(ticks[3:5])
    for pid in pids:
        # A process may end at any moment.
        with suppress(OSError):
            fields = _stat(root / f"proc/{pid}/stat")
            own[pid] = int(fields[11]) + int(fields[12])
    return Usage(busy, total, own)


def _stat(path: Path) -> list[str]:
    """The fields of a `stat` file from the third on: the second, a name, may contain spaces."""
    return path.read_text().rpartition(")")[2].split()


def better_cores(
    core: int, own: float, busy: Mapping[int, float], taken: Collection[int]
) -> list[int]:
    """The cores on which a process would clearly get more time than on its own.

    `own` is the fraction of the core's time that the process used, `busy` the used fraction of each
    core that it may use, `taken` the cores of other processes of the group.
    """
    if core not in busy:
        return [each for each in busy if each not in taken]
    others = busy[core] - own
    if busy[core] < _FULL:
        return []
    return [
        each
        for each, used in busy.items()
        if each != core and each not in taken and others - used >= _GAIN
    ]


class Placement:
    """The core of each process of a group, by the process's number."""

    def __init__(self, count: int) -> None:
        """Choose `count` cores, beginning with the one that this process runs on.

        The kernel has started this process on an idle core, so that two groups that start on one
        machine, in containers that do not see each other, rarely choose the same. Chooses none if
        there are more processes than cores, one core only, or a system that cannot bind a process.
        """
        cores = usable()
        self.cores: list[int] = []
        """The core of each process; empty if each may run on all."""
        if sys.platform == "linux" and len(cores) > 1 and count <= len(cores):
            with suppress(OSError):
                here = int(_stat(Path("/proc/thread-self/stat"))[36])
                self.cores = spread(cores, here)[:count]
        self._before: Usage | None = None
        self._next_check_at = 0.0

    def core_of(self, number: int) -> int | None:
        """The core of a process; None if it may run on all."""
        return self.cores[number] if self.cores else None

    def relieve(self, pids: Sequence[int | None]) -> dict[int, int]:
        """Move processes off crowded cores. Returns the new cores by the processes' numbers.

        `pids` are those of the running processes, by number. Does nothing more often than every
        CHECK_SECONDS. Of the crowded processes it moves each with a chance of one half: otherwise
        two groups with one core would move together, again and again.
        """
        now = time.monotonic()
        if not self.cores or now < self._next_check_at:
            return {}
        self._next_check_at = now + CHECK_SECONDS
        moved: dict[int, int] = {}
        try:
            usage = read_usage(pid for pid in pids if pid is not None)
        except (OSError, ValueError, IndexError):
            # The supervisor must continue to restart processes where /proc is not Linux's own.
            return moved
        before, self._before = self._before, usage
        if before is None:
            return moved
        cores = usable()
        elapsed = {each: usage.total[each] - before.total.get(each, 0) for each in usage.total}
        busy = {
            each: (usage.busy[each] - before.busy.get(each, 0)) / elapsed[each]
            for each in cores
            if elapsed.get(each, 0) > 0
        }
        for number, pid in enumerate(pids):
            if pid is None or pid not in usage.own or pid not in before.own:
                continue
            core = self.cores[number]
            own = (usage.own[pid] - before.own[pid]) / max(1, elapsed.get(core, 1))
            better = better_cores(core, own, busy, self.cores)
            if better and random.random() < 0.5:  # noqa: S311 - no secret
                target = min(better, key=lambda each: (busy[each], random.random()))  # noqa: S311
                if _move(pid, target):
                    self.cores[number] = moved[number] = target
        return moved


def _move(pid: int, core: int) -> bool:
    """Move a process to a core; False if it has ended, or may not use the core."""
    try:
        _bind(pid, core)
    except OSError:
        return False
    return True


def _bind(pid: int, core: int) -> None:
    """Bind every thread of a process to a core. Raises OSError."""
    if sys.platform == "linux":
        # Twice: a thread may start another one meanwhile.
        for _ in range(2):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                with suppress(ProcessLookupError):
                    os.sched_setaffinity(int(thread.name), {core})
