"""A worker process: relay loops, lease heartbeat and actor threads."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

import dramatiq
import structlog
from dramatiq.worker import Worker

from credit_service.cache.positions import PositionCache
from credit_service.ingestion import uploads
from credit_service.observability import metrics
from credit_service.postgresql_url import shown_hosts
from credit_service.processes.termination import Termination
from credit_service.settings import Settings
from credit_service.storage import schema
from credit_service.storage.database import Database
from credit_service.storage.retention import TABLES
from credit_service.storage.tasks import Task
from workers.actors import ACTORS, Timetable, follow
from workers.backlog import READ_SECONDS, BacklogReader
from workers.broker import CarrierBroker, make_broker
from workers.relay import SWEEP_SECONDS, Channel, Loop, Publisher, Sender, Sweeper
from workers.retention import POLL_SECONDS, ExpiredRows, retention_of
from workers.runner import Actor, Queue, Resources, Runner

# Interval after which an idle thread checks whether it should stop.
_IDLE_THREAD_MS = 250
_STATEMENT_TIMEOUT_SECONDS = 120.0
# A batch of a thousand entries takes longer than the timeout of a call allows.
_CACHE_TIMEOUT_SECONDS = 2.0
_TIMETABLE_SECONDS = 1.0
_SCHEMA_SECONDS = 1.0

log = structlog.get_logger(__name__)


class WorkerProcess:
    """The relay, the actors, or both, in one process."""

    def __init__(
        self,
        settings: Settings,
        *,
        relay: bool = True,
        act: bool = True,
        actors: Sequence[Actor] = ACTORS,
        timetable: bool = True,
    ) -> None:
        """Does not connect yet. With `timetable` the relay enqueues the tasks that time requires.

        Raises ValueError if no database or Redis is configured.
        """
        self._grace_seconds = settings.shutdown_grace_seconds
        self._database_hosts = shown_hosts(settings.require_database_url())
        redis_url = settings.require_redis_url()
        threads = {
            queue: max(1, int(settings.worker_threads * queue.share))
            for queue in dict.fromkeys(actor.queue for actor in actors)
        }
        database = Database(
            settings.require_database_url(),
            # The most that actors, heartbeat and loops use at once, and two spare ones.
            pool_size=(
                sum(count * queue.connections for queue, count in threads.items()) + 1 if act else 0
            )
            + 7,
            statement_timeout_seconds=_STATEMENT_TIMEOUT_SECONDS,
            lock_timeout_seconds=settings.lock_timeout_seconds,
            idle_in_transaction_timeout_seconds=settings.idle_in_transaction_timeout_seconds,
            application_name="credit-service worker",
            pooler=settings.database_pooler,
        )
        self._resources = Resources(
            database,
            PositionCache(redis_url, timeout_seconds=_CACHE_TIMEOUT_SECONDS),
            settings.clock,
            threading.Event(),
            settings.ingestion_batch_rows,
        )
        self._runner = Runner(self._resources, lease_seconds=settings.task_timeout_seconds)
        self._pools = [
            _Pool(queue, count, [a for a in actors if a.queue == queue], redis_url, self._runner)
            for queue, count in threads.items()
        ]
        self._act = act
        names = [actor.name for actor in actors]
        metrics.show_actors(names)
        metrics.show_deleted_tables(TABLES)
        self._backlog = BacklogReader(database, settings.clock, names, kept=retention_of(settings))
        self._remove_readings = metrics.server_readings.add(self._read)
        self._loops = self._make_loops(settings, timetable=timetable) if relay else []

    def _make_loops(self, settings: Settings, *, timetable: bool) -> list[Loop]:
        database, clock = self._resources.database, self._resources.clock
        sender = Sender(
            database,
            [pool.channel for pool in self._pools],
            timeout_seconds=settings.task_timeout_seconds,
        )
        broker = self._pools[0].broker
        interval_seconds = settings.relay_interval_seconds
        send = Loop("send", sender.step, interval_seconds)
        publisher = Publisher(database, clock, follow)
        sweeper = Sweeper(database, broker.lost_everything)
        loops = [
            send,
            Loop("publish", publisher.step, interval_seconds, wakes=send),
            Loop("sweep", sweeper.step, SWEEP_SECONDS, wakes=send),
            Loop("backlog", self._backlog.step, READ_SECONDS),
        ]
        if timetable:
            steps = Timetable(
                database, clock, stream_silence_seconds=settings.stream_abandoned_seconds
            )
            loops.append(Loop("timetable", steps.step, _TIMETABLE_SECONDS))
            expired = ExpiredRows(database, retention_of(settings), self._resources.stopping)
            loops.append(Loop("retention", expired.step, POLL_SECONDS))
        return loops

    def wait_for_schema(self, termination: Termination) -> bool:
        """Wait until the database has the schema of this release. Return False if a signal asked
        this process to stop before.

        With an older schema every attempt of a task fails, and the task is parked.
        """
        found = ""
        while not termination.requested:
            try:
                schema.require(self._resources.database)
            except Exception as error:  # noqa: BLE001 - such as a password: logged, and tried again
                if str(error) != found:
                    found = str(error)
                    log.warning("worker_waits", reason=found)
                termination.wait(timeout_seconds=_SCHEMA_SECONDS)
            else:
                return True
        return False

    def start(self) -> None:
        """Start every thread. The database and Redis may still be unreachable."""
        if self._act:
            self._runner.start()
            for pool in self._pools:
                pool.start()
        for loop in self._loops:
            loop.start()
        log.info(
            "worker_started",
            relay=bool(self._loops),
            actors=self._act,
            database=self._database_hosts,
            redis_mode=self._resources.cache.mode,
        )

    def _read(self) -> list[metrics.Reading]:
        """The state of the process, for the metrics."""
        in_use, pool_size = self._resources.database.pool_use()
        return [
            ("credit_database_pool_in_use", (), in_use),
            ("credit_database_pool_size", (), pool_size),
            ("credit_cache_available", (), float(self._resources.cache.available)),
            ("credit_redis_mode", (self._resources.cache.mode,), 1),
        ]

    def stop(self) -> bool:
        """Stop sending, let running attempts end, and release the tasks of those that do not.

        Takes about the configured grace at most. Returns False if threads still work: the process
        should then exit at once.
        """
        until = time.monotonic() + self._grace_seconds
        self._resources.stopping.set()
        for loop in self._loops:
            loop.stop()
        for loop in self._loops:
            loop.join(max(0.1, until - time.monotonic()))
        left = 0
        if self._act:
            _run_in_parallel([partial(pool.stop, until) for pool in self._pools])
            left = len(self._runner.stop())
        self._backlog.close()
        self._remove_readings()
        self._resources.cache.close()
        self._resources.database.dispose()
        log.info("worker_stopped", attempts_given_back=left)
        return left == 0


class _Pool:
    """The threads of one queue, with their own broker: Dramatiq has one pool per broker."""

    def __init__(
        self, queue: Queue, threads: int, actors: Sequence[Actor], redis_url: str, runner: Runner
    ) -> None:
        self._threads = threads
        self._prefetch = queue.prefetch
        self.broker: CarrierBroker = make_broker(
            redis_url,
            poll_seconds=queue.poll_seconds,
            time_limit_seconds=max(actor.time_limit_seconds for actor in actors),
        )
        declared = {actor.name: _declared(actor, self.broker, runner) for actor in actors}

        def send(bundle: Sequence[Task]) -> None:
            declared[bundle[0].actor].send([task.task_id for task in bundle])

        self.channel = Channel(tuple(declared), queue.window, send, queue.bundle)
        self._worker: Worker | None = None

    def start(self) -> None:
        self.broker.emit_after("process_boot")
        self._worker = Worker(
            self.broker, worker_timeout=_IDLE_THREAD_MS, worker_threads=self._threads
        )
        self._worker.queue_prefetch = self._threads * self._prefetch
        self._worker.start()

    def stop(self, until: float) -> None:
        """Stop taking messages and wait for running ones until time.monotonic() is `until`."""
        if self._worker is not None:
            self._worker.stop(timeout=max(100, int((until - time.monotonic()) * 1000)))
        self.broker.close()


def _declared(
    actor: Actor, broker: CarrierBroker, runner: Runner
) -> "dramatiq.Actor[[list[int]], None]":
    def attempt(task_ids: list[int]) -> None:
        runner.run(actor, task_ids)

    return dramatiq.Actor(
        attempt,
        broker=broker,
        actor_name=actor.name,
        queue_name=actor.queue.name,
        priority=0,
        options={"time_limit": actor.time_limit_seconds * 1000},
    )


def _run_in_parallel(calls: Sequence[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=call, daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def run(process: WorkerProcess) -> None:
    """Run until SIGTERM or SIGINT, then stop in order. A second signal kills the process."""
    termination = Termination(second_kills=True)
    if not process.wait_for_schema(termination):
        return
    process.start()
    # Without it, the first file would wait for pandas to be imported.
    threading.Thread(target=uploads.prepare, name="prepare", daemon=True).start()
    termination.wait()
    if not process.stop():
        # Running threads would make the interpreter's shutdown wait or crash.
        os._exit(0)
