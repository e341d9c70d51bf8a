"""A server and a worker on a Redis that fails over: no call fails and no task is lost."""

import threading
import uuid
from collections.abc import Callable
from typing import Any

import grpc
from pydantic import SecretStr

from credit_service.clock import Clock
from credit_service.observability import metrics
from credit_service.queries.credit import CreditQueries
from credit_service.rpc.server import CreditServer, open_database
from credit_service.settings import Settings
from credit_service.storage.database import Database
from tests.integration import lending
from tests.integration.conftest import Edge
from tests.integration.database.test_database_read_only import health
from tests.integration.database.test_pooler import left, unpublished
from tests.integration.rpc.test_rpc_server import SERVING
from tests.redis_servers import wait_until
from workers.process import WorkerProcess

_CUSTOMERS = 6
_RUPEES = 1_000
_TASK_TIMEOUT_SECONDS = 2.0


class _Callers:
    """Books loans in threads, one customer each, until stopped; compares cache and database."""

    def __init__(self, edge: Edge, database: Database) -> None:
        self.bookings = 0
        self.problems: list[object] = []
        self._edge = edge
        # With the server's own cache: another process may use an old position for a moment.
        self._queries = CreditQueries(database, edge.server._cache), CreditQueries(database)
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(number,)) for number in range(_CUSTOMERS)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, number: int) -> None:
        try:
            self._book(number)
        except BaseException as problem:  # noqa: BLE001 - raised by the test
            self.problems.append(problem)

    def _book(self, number: int) -> None:
        credit = self._edge.credit
        customer_id = lending.register(credit, f"+91{9_700_000_000 + number}")
        lending.import_loans(self._edge, customer_id, 3)
        while not self._stopping.is_set():
            credit.CreateLoan(lending.ask(customer_id, str(uuid.uuid4()), rupees=_RUPEES))
            moment = Clock().moment()
            for _ in range(2):
                found, right = (each.snapshot(customer_id, moment) for each in self._queries)
                if found.position != right.position:
                    self.problems.append((found, right))
            self.bookings += 1
            self._stopping.wait(0.02)

    def wait_for_bookings(self, count: int) -> None:
        """Wait until so many more bookings have been made."""
        target = self.bookings + count
        wait_until(lambda: self.bookings >= target or bool(self.problems))

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()


def check_service(database_url: str, redis_url: str, fail_over: Callable[[], Any]) -> None:
    """Call the service before, during and after the failover; its worker finishes all tasks."""
    settings = Settings(
        database_url=SecretStr(database_url),
        redis_url=SecretStr(redis_url),
        listen="127.0.0.1:0",
        task_timeout_seconds=_TASK_TIMEOUT_SECONDS,
        # A busy machine takes its time.
        default_deadline_seconds=60.0,
    )
    database = open_database(settings)
    server, worker = CreditServer(settings, database), WorkerProcess(settings)
    server.start()
    worker.start()
    try:
        with grpc.insecure_channel(str(server.address)) as channel:
            edge = Edge.of(server, channel)
            wait_until(lambda: health(edge) == SERVING)
            callers = _Callers(edge, database)
            try:
                callers.wait_for_bookings(4 * _CUSTOMERS)
                fail_over()
                callers.wait_for_bookings(4 * _CUSTOMERS)
                hits = _hits()
                wait_until(lambda: _hits() > hits + _CUSTOMERS or bool(callers.problems))
            finally:
                callers.stop()
            assert not callers.problems, callers.problems
            wait_until(lambda: unpublished(database) == 0 and not left(database))
    finally:
        assert worker.stop()
        server.stop(grace_seconds=2)
        database.dispose()


def _hits() -> float:
    hits: float = metrics.cache_reads.labels("hit")._value.get()
    return hits
