"""Observes every write to the cache, and detects a return to an older version."""

import re
import threading
import time
from contextlib import suppress

import redis

from tests.faults.history import History

_SET = re.compile(r"SET credit:position:(\d+) \[(\d+),.* PX (\d+)")
_REMOVED = re.compile(r"credit:position:(\d+)")
_AWAY_SECONDS = 0.05


class CacheWatch:
    """Reads Redis' MONITOR output, which is in execution order, until closed."""

    def __init__(self, url: str, past: History) -> None:
        self._url = url
        self._history = past
        # The cached version of a customer, and the time.monotonic() of its expiry.
        self._versions: dict[int, tuple[int, float]] = {}
        self.writes = 0
        self._thread = threading.Thread(target=self._follow, name="cache-watch", daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        """Follow the commands until the process ends, reconnecting after each failure."""
        while True:
            with suppress(redis.RedisError, OSError), redis.Redis.from_url(self._url) as client:
                # Entries may be gone, and writes in the meantime are unknown.
                self._versions.clear()
                with client.monitor() as monitor:
                    for command in monitor.listen():
                        self._note(str(command["command"]))
            time.sleep(_AWAY_SECONDS)

    def _note(self, command: str) -> None:
        if written := _SET.match(command):
            self.writes += 1
            customer_id, version, milliseconds = map(int, written.groups())
            before, until = self._versions.get(customer_id, (0, 0.0))
            now = time.monotonic()
            if version < before and now < until:
                self._history.find(
                    "cache", f"customer {customer_id} returned from version {before} to {version}"
                )
            self._versions[customer_id] = version, now + milliseconds / 1000
        elif command.startswith(("UNLINK ", "DEL ")):
            for customer_id in _REMOVED.findall(command):
                self._versions.pop(int(customer_id), None)
        elif command.upper().startswith("FLUSH"):
            self._versions.clear()
