"""Customers whose cache entry may be older than a position that could not be written.

Their entries are not read. They are removed as soon as Redis answers, and once more when no write
of an older position can arrive any more; only then are they read again.
"""

import math
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

_NO_VERSION = 2**53
"""Above every version: whatever entry there is, it may be too old."""


@dataclass(slots=True)
class Suspect:
    """A customer's entry that may be too old: any of a version below `version`."""

    version: int
    settled_at: float
    """The time.monotonic() after which no older write can arrive."""
    remove_at: float = 0.0
    """The time.monotonic() at which the entry must be removed next; infinite during a removal."""


class Suspects:
    """The suspects by customer id. Safe to share between threads."""

    def __init__(self, settling_seconds: float) -> None:
        """`settling_seconds` after a failed write, no write of an older position can arrive."""
        self._settling_seconds = settling_seconds
        self._lock = threading.Lock()
        self._by_customer: dict[int, Suspect] = {}
        self._next_removal_at = math.inf

    def __contains__(self, customer_id: int) -> bool:
        return customer_id in self._by_customer

    def add(self, customers: Iterable[tuple[int, int | None]]) -> None:
        """Add customers, each with the version that could not be written; None if the entry of any
        version may be too old."""
        settled_at = time.monotonic() + self._settling_seconds
        with self._lock:
            for customer_id, version in customers:
                before = self._by_customer.get(customer_id)
                right = _NO_VERSION if version is None else version
                if before is not None:
                    right = max(right, before.version)
                self._by_customer[customer_id] = Suspect(right, settled_at)
            if self._by_customer:
                self._next_removal_at = 0.0

    def take_due(self) -> dict[int, Suspect]:
        """Return those whose entries must be removed now, for `give_back`; only one thread at a
        time gets them."""
        now = time.monotonic()
        if now < self._next_removal_at:
            return {}
        with self._lock:
            due = {key: each for key, each in self._by_customer.items() if each.remove_at <= now}
            for each in due.values():
                each.remove_at = math.inf
            self._plan()
        return due

    def give_back(self, due: dict[int, Suspect], removed_at: float | None) -> None:
        """Note that their entries were removed after this time.monotonic(); None if they were not.

        Ends the suspicion of those whose older writes could not arrive any more at that time.
        """
        with self._lock:
            for customer_id, each in due.items():
                # Another write may have failed since.
                if self._by_customer.get(customer_id) is not each:
                    continue
                if removed_at is None:
                    each.remove_at = 0.0
                elif removed_at < each.settled_at:
                    each.remove_at = each.settled_at
                else:
                    del self._by_customer[customer_id]
            self._plan()

    def _plan(self) -> None:
        removals = (each.remove_at for each in self._by_customer.values())
        self._next_removal_at = min(removals, default=math.inf)
