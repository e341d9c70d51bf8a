"""How many serving processes a server starts if CREDIT_PROCESSES is unset."""

from dataclasses import dataclass
from pathlib import Path

from credit_service.processes import cores
from credit_service.settings import MAX_PROCESSES, Settings

MEMORY_BYTES_EACH = 256 * 1024**2
"""Memory of a control group for each process, which uses about 170 MiB under load."""


@dataclass(frozen=True, slots=True)
class Sizing:
    """A number of processes, and what limits it."""

    count: int
    limit: str


def size(settings: Settings, connections: int | None, root: Path = Path("/")) -> Sizing:
    """The number of serving processes: that of the settings, or one for each core that this process
    may use, as far as the CPU quota, the memory limit and the database allow.

    `connections` is the number that the database allows this service, of which the processes use at
    most half: the others are for workers and for other servers. None: unlimited. `root` is the
    folder with `proc` and `sys`.
    """
    if settings.processes is not None:
        return Sizing(settings.processes, "CREDIT_PROCESSES")
    usable = len(cores.usable())
    limits = {f"cores: {usable}": usable, f"the most processes: {MAX_PROCESSES}": MAX_PROCESSES}
    if (quota := cores.cpu_quota(root)) is not None:
        limits[f"CPU quota: {quota:g} cores"] = int(quota)
    if (memory_bytes := cores.memory_limit_bytes(root)) is not None:
        mebibytes = memory_bytes // 1024**2
        limits[f"memory limit: {mebibytes} MiB"] = memory_bytes // MEMORY_BYTES_EACH
    if connections is not None:
        # The process's pool, and the connection of its readiness check.
        most = connections // 2 // (settings.pool_size + 1)
        limits[f"connections that the database allows: {connections}"] = most
    limit = min(limits, key=lambda each: limits[each])
    return Sizing(max(1, limits[limit]), limit)
