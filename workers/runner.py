"""One attempt at a task: start, work, finish or fail, and extend the lease in between.

Only this module connects an actor's work and the task's row: an actor is a function of its subject.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeVar

import structlog
from dramatiq.middleware.threading import Interrupt
from opentelemetry import context as trace_context
from opentelemetry.trace import Span, SpanKind
from sqlalchemy import Connection
from structlog.contextvars import bound_contextvars

from credit_service import failpoints
from credit_service.cache.positions import PositionCache
from credit_service.clock import Clock
from credit_service.domain.errors import CreditError
from credit_service.observability import metrics, tracing
from credit_service.observability.logs import masked_text
from credit_service.storage import tasks
from credit_service.storage.database import Database, LostRaceError
from credit_service.storage.tasks import Run

T = TypeVar("T")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue with its own threads, so that short work never waits behind long work."""

    name: str
    # Its fraction of the worker's threads; it has at least one.
    share: float
    # Maximum of tasks that are sent to it and not started.
    window: int
    # Messages per thread that a process holds, running ones included. With 1 no message waits in a
    # busy process while another is idle; more keep the threads busy if the work is short.
    prefetch: int = 1
    # Maximum interval between two polls of the empty queue.
    poll_seconds: float = 0.1
    # Maximum of tasks, all of one actor, in one message.
    bundle: int = 1
    # Maximum of database connections that one thread uses at once.
    connections: int = 1


class StoppingError(Exception):
    """The worker stops; the task is released at once and the attempt does not count."""


@dataclass(frozen=True, slots=True)
class Resources:
    """The resources of actors."""

    database: Database
    cache: PositionCache
    clock: Clock
    stopping: threading.Event
    ingestion_batch_rows: int

    def checkpoint(self) -> None:
        """Called by long work where it can stop. Raises StoppingError if the worker stops."""
        if self.stopping.is_set():
            raise StoppingError


Work = Callable[[Resources, str], None]
"""An actor's work on a subject. It must be idempotent and safe to run concurrently."""

WorkTogether = Callable[[Resources, Sequence[str]], None]
"""The same for several subjects at once, cheaper than one by one."""


def no_op(_resources: Resources, _subject: str) -> None:
    """Do nothing: no caller waits for the work."""


@dataclass(frozen=True, slots=True)
class Actor:
    """An actor by the name in its tasks, and the queue of its messages."""

    name: str
    queue: Queue
    work: Work
    time_limit_seconds: float
    # For first attempts from one message. If it fails, each is attempted alone.
    work_together: WorkTogether | None = None
    # Called once, after every attempt has failed.
    give_up: Work = no_op


@contextmanager
def _traced(run: Run) -> Iterator[Span | None]:
    """The run's span as the current one; None if the run belongs to no trace."""
    span = _start_span(run)
    if span is None:
        yield None
        return
    token = trace_context.attach(tracing.context_of(span))
    try:
        with bound_contextvars(**tracing.log_fields(tracing.traceparent_of(span))):
            yield span
    finally:
        trace_context.detach(token)


def _start_span(run: Run) -> Span | None:
    """Start the run's span, in the trace of the call that enqueued its task."""
    return tracing.start_span(run.actor, SpanKind.CONSUMER, run.traceparent, _span_attributes(run))


def _span_attributes(run: Run) -> tracing.Attributes:
    """The attributes of the run's span. No subject: it may be a person's id."""
    return {
        "messaging.system": "dramatiq",
        "messaging.operation.type": "process",
        "messaging.destination.name": run.actor,
        "credit.task_id": run.task_id,
        "credit.attempt": run.attempt,
    }


class Runner:
    """Runs attempts, and extends the leases of running ones from its own thread.

    It extends a lease while the process lives, at most for the actor's time limit: a killed,
    stopped or hung worker loses its tasks to another one after `lease_seconds` of silence.
    """

    def __init__(self, resources: Resources, *, lease_seconds: float) -> None:
        self._resources = resources
        self._lease_seconds = lease_seconds
        # The runs under way and the time.monotonic() after which they are held no longer.
        self._held: dict[Run, float] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._heartbeat = threading.Thread(target=self._beat, name="heart", daemon=True)

    def start(self) -> None:
        """Start to extend leases."""
        self._heartbeat.start()

    def stop(self) -> list[Run]:
        """Release the tasks of the runs that still run, and return those runs.

        Their threads may continue. That is harmless: runs of one task may always be concurrent.
        """
        self._stopped.set()
        self._heartbeat.join()
        with self._lock:
            left = list(self._held)
            self._held.clear()
        for run in left:
            self._settle(run, StoppingError())
        return left

    def run(self, actor: Actor, task_ids: Sequence[int]) -> None:
        """Attempt those of these tasks, all of one actor, that are due.

        The results are in the tasks' rows; the sweeper finds tasks whose results are missing.
        """
        runs = self._with_retries(
            lambda connection: tasks.begin(connection, task_ids, lease_seconds=self._lease_seconds)
        )
        if not runs:
            return
        with self._lock:
            self._held |= dict.fromkeys(runs, time.monotonic() + actor.time_limit_seconds)
        # A task that failed before is attempted alone: it must not fail the others too.
        first = [run for run in runs if run.attempt == 1]
        done: set[Run] = set()
        if actor.work_together is not None and len(first) > 1:
            done = self._run_together(actor, actor.work_together, first)
        for run in runs:
            if run not in done:
                self._run_alone(actor, run)

    def _run_together(self, actor: Actor, work: WorkTogether, runs: Sequence[Run]) -> set[Run]:
        """Attempt these runs together and return those that need no attempt of their own."""
        with ExitStack() as spans, bound_contextvars(actor=actor.name, task_count=len(runs)):
            for span in filter(None, map(_start_span, runs)):
                spans.callback(span.end)
            began = time.monotonic()
            try:
                work(self._resources, [run.subject for run in runs])
            except StoppingError:
                return set()
            except (Exception, Interrupt) as error:  # noqa: BLE001 - recorded by the attempts alone
                log.warning(
                    "tasks_tried_alone", error=masked_text(f"{type(error).__name__}: {error}")
                )
                return set()
            seconds = (time.monotonic() - began) / len(runs)
            failpoints.reach("task.before_finish")
            with self._lock:
                mine = [run for run in runs if self._held.pop(run, None) is not None]
            finished = self._with_retries(lambda connection: tasks.finish(connection, mine))
            if finished is not None and len(finished) < len(mine):
                log.warning("task_finished_late", count=len(mine) - len(finished))
            for _ in mine:
                metrics.task_seconds.labels(actor.name).observe(seconds)
            metrics.tasks_ended.labels(actor.name, "done").inc(len(mine))
        return set(runs)

    def _run_alone(self, actor: Actor, run: Run) -> None:
        with (
            bound_contextvars(
                actor=run.actor, subject=run.subject, task_id=run.task_id, attempt=run.attempt
            ),
            _traced(run) as span,
        ):
            began = time.monotonic()
            failure = None if run.is_exhausted else self._attempted(actor.work, run)
            metrics.task_seconds.labels(run.actor).observe(time.monotonic() - began)
            stopping = isinstance(failure, StoppingError)
            if run.is_exhausted or (run.is_last and failure is not None and not stopping):
                # Before the task is parked: dying here leaves it to be given up again.
                failure = self._attempted(actor.give_up, run) or failure
            with self._lock:
                mine = self._held.pop(run, None) is not None
            if mine:
                self._settle(run, failure)
            if span is not None:
                failed = failure is not None and not stopping
                tracing.end_span(span, error=type(failure).__name__ if failed else "")

    def _attempted(self, work: Work, run: Run) -> BaseException | None:
        """Run the work and return the exception that it raised."""
        try:
            work(self._resources, run.subject)
        except (Exception, Interrupt) as error:  # noqa: BLE001 - recorded in the task's row
            return error
        return None

    def _settle(self, run: Run, failure: BaseException | None) -> None:
        """Store the result of the run in the task's row."""
        outcome = "failed"
        if failure is None and not run.is_exhausted:
            outcome = "done"
            failpoints.reach("task.before_finish")
            if self._with_retries(lambda connection: tasks.finish(connection, [run])) == set():
                log.warning("task_finished_late")
        elif isinstance(failure, StoppingError):
            outcome = "given_back"
            self._with_retries(lambda connection: tasks.release(connection, run))
            log.info("task_given_back")
        else:
            error = masked_text(f"{type(failure).__name__}: {failure}") if failure else None
            parked = self._with_retries(lambda connection: tasks.fail(connection, run, error))
            # A domain error's message suffices; other errors need the traceback.
            trace = None if isinstance(failure, CreditError) else failure
            if parked:
                outcome = "parked"
                log.error("task_parked", error=error, exc_info=trace)
            else:
                log.warning("task_failed", error=error, exc_info=trace)
        metrics.tasks_ended.labels(run.actor, outcome).inc()

    def _with_retries(self, statement: Callable[[Connection], T]) -> T | None:
        """The statement's result. Retries while the database is unreachable, until a lease would
        have expired or the worker stops; then None, and the sweeper handles the tasks."""
        until = time.monotonic() + self._lease_seconds
        pause_seconds = 0.05
        while True:
            try:
                with self._resources.database.autocommit() as connection:
                    return statement(connection)
            except (CreditError, LostRaceError) as error:
                stopping = self._resources.stopping.wait(pause_seconds)
                if stopping or time.monotonic() > until:
                    log.warning("task_left_to_sweeper", error=str(error))
                    return None
                pause_seconds = min(pause_seconds * 2, 2.0)

    def _beat(self) -> None:
        while not self._stopped.wait(self._lease_seconds / 3):
            now = time.monotonic()
            with self._lock:
                runs = [run for run, until in self._held.items() if now < until]
            if not runs:
                continue
            try:
                with self._resources.database.autocommit() as connection:
                    held = tasks.extend(connection, runs, lease_seconds=self._lease_seconds)
            except (CreditError, LostRaceError) as error:
                log.warning("leases_not_extended", error=str(error))
                continue
            for run in runs:
                if run.task_id not in held and run in self._held:
                    log.warning("lease_lost", task_id=run.task_id, attempt=run.attempt)
