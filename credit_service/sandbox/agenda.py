"""What is to happen on which day, and the day that the service believes it is."""

import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

from credit_service.clock import INDIA
from credit_service.domain.calendar import add_months
from credit_service.sandbox.borrowers import Borrower
from credit_service_client.client import CreditClient
from credit_service_client.errors import ServiceError

Task = Callable[[], None]


class SteppedClock:
    """Sets the time of a running service by its clock file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def set(self, day: date, hour: int) -> None:
        """Let it be that hour of the day in India; at most the present."""
        wanted = datetime.combine(day, time(hour), INDIA)
        self._write(min(timedelta(0), wanted - datetime.now(UTC)))

    def release(self) -> None:
        """Let it be the present."""
        self._write(timedelta(0))

    def _write(self, offset: timedelta) -> None:
        beside = self._path.with_name(f".{self._path.name}.new")
        beside.write_text(str(int(offset.total_seconds())), encoding="ascii")
        beside.replace(self._path)


class Agenda:
    """Tasks by day, of one customer each. Safe to add to from a task."""

    def __init__(self, first: date) -> None:
        self.today = first
        self._lock = threading.Lock()
        self._tasks: dict[date, list[tuple[int, Task]]] = defaultdict(list)

    def add(self, day: date, customer_id: int, task: Task) -> None:
        """Plan a task for a day: for tomorrow if that day is not ahead."""
        with self._lock:
            day = max(day, self.today + timedelta(days=1))
            self._tasks[day].append((customer_id, task))

    def run(self, pool: ThreadPoolExecutor) -> None:
        """Run the tasks of today, those of one customer one after the other."""
        with self._lock:
            tasks = self._tasks.pop(self.today, [])
        by_customer: dict[int, list[Task]] = defaultdict(list)
        for customer_id, task in tasks:
            by_customer[customer_id].append(task)
        for _ in pool.map(_in_order, by_customer.values()):
            pass


def _in_order(tasks: list[Task]) -> None:
    for task in tasks:
        task()


class World:
    """What the parts of the year share: the service, the agenda, the borrowers, the counts."""

    def __init__(self, client: CreditClient, agenda: Agenda, seed: int) -> None:
        self.client = client
        self.agenda = agenda
        self._seed = seed
        self._borrowers: dict[int, Borrower] = {}
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()
        """What was done; what the service rejected, by its reason."""

    def borrower(self, customer_id: int) -> Borrower:
        """Return the customer's borrower."""
        with self._lock:
            known = self._borrowers.get(customer_id)
            if known is None:
                known = self._borrowers[customer_id] = Borrower.of(customer_id, self._seed)
            return known

    def did(self, what: str) -> None:
        """Count something."""
        with self._lock:
            self.counts[what] += 1

    def rejected(self, error: ServiceError) -> None:
        """Count a rejection, as when a loan was closed the day before. Raises `error` if it has no
        reason: the service is unreachable, or wrong."""
        if not error.reason:
            raise error
        self.did(f"rejected: {error.reason}")


def due_installments(next_due: date, today: date) -> int:
    """Return the number of installments due by today, at least 1: the next one is paid ahead."""
    number = 1
    while add_months(next_due, number) <= today:
        number += 1
    return number
