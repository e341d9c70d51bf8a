"""The task outbox: what must be done, by which actor, and after how many attempts.

A task is a row written in the transaction that makes it necessary. Its life cycle:

    PENDING ─ claim ─► SENT ─ begin ─► RUNNING ─ finish ─► gone
       ▲                 │                │ │
       └──── sweep ──────┴── sweep, fail ─┘ └─ fail ─► PARKED after MAX_ATTEMPTS, for an operator

Every step is one statement, so a process may die between any two. A task that was sent and not
started, or started and not finished, times out at `due_at` and is sent again: work runs at least
once. The attempt count is raised before the work starts, so work that kills its worker is counted
too. All times are the database's: the service's clock may be set to another day for tests.

A task whose last attempt ended silently, because it kills its worker, starts once more to give up:
the actor reports the failure to the work's users, and the task is parked. The sweeper parks it only
if that run ends silently too.

A row of `tasks` holds an actor's name and one subject, an id. A pending task absorbs a second one
for the same work. The absorbing row stays locked until the second transaction ends, and a locked
row is not claimed: otherwise the work could finish without the facts of that transaction.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from credit_service.clock import Moment
from credit_service.observability import tracing
from credit_service.storage.statements import Statement

MAX_ATTEMPTS = 5
"""Attempts after which a task that never succeeded is parked."""

MAX_ERROR_CHARACTERS = 2_000

_RETRY_SECONDS = (2.0, 8.0, 32.0, 128.0)


def retry_seconds(attempt: int) -> float:
    """Return the pause after failed attempt 1, 2, …; all attempts span about three minutes."""
    return _RETRY_SECONDS[min(attempt, len(_RETRY_SECONDS)) - 1]


@dataclass(frozen=True, slots=True)
class Task:
    """A task claimed for sending."""

    task_id: int
    actor: str
    subject: str


@dataclass(frozen=True, slots=True)
class Run:
    """One attempt at a task, from 1. Only its holder works on the task until the lease ends."""

    task_id: int
    actor: str
    subject: str
    attempt: int
    # Of the work that enqueued it.
    traceparent: str | None = None

    @property
    def is_last(self) -> bool:
        """Whether no attempt follows this one."""
        return self.attempt >= MAX_ATTEMPTS

    @property
    def is_exhausted(self) -> bool:
        """Whether this run only gives up: the last attempt came before it."""
        return self.attempt > MAX_ATTEMPTS


@dataclass(frozen=True, slots=True)
class ParkedTask:
    """A task that is not retried until an operator unparks it."""

    task_id: int
    actor: str
    subject: str
    attempts: int
    created_at: datetime
    parked_at: datetime
    last_error: str | None


@dataclass(frozen=True, slots=True)
class Backlog:
    """How many tasks of an actor are in a state, and how long the oldest has been due."""

    actor: str
    state: str
    count: int
    oldest_seconds: float


# Sets the rows that `gone` deletes back to PENDING. A task enqueued meanwhile absorbs them with
# their attempt counts, so that no count restarts. In order of the unique key, like every statement
# that locks several of its rows.
_TO_PENDING = """
    INSERT INTO tasks (task_id, actor, subject, attempts, due_at, created_at, last_error,
        traceparent)
    SELECT DISTINCT ON (actor, subject) task_id, actor, subject, {attempts}, {due_at}, created_at,
        {last_error}, traceparent
    FROM gone ORDER BY actor, subject, attempts DESC, task_id
    ON CONFLICT (actor, subject) WHERE state = 'PENDING' DO UPDATE SET
        attempts = GREATEST(tasks.attempts, EXCLUDED.attempts),
        last_error = COALESCE(EXCLUDED.last_error, tasks.last_error),
        traceparent = COALESCE(EXCLUDED.traceparent, tasks.traceparent)
"""


def _to_pending(
    gone: str, *, attempts: str = "attempts", due_at: str = "now()", last_error: str = "last_error"
) -> str:
    back = _TO_PENDING.format(attempts=attempts, due_at=due_at, last_error=last_error)
    return f"WITH gone AS (DELETE FROM tasks WHERE {gone} RETURNING *) {back}"


_ENQUEUE = text(
    """
    INSERT INTO tasks (actor, subject, due_at, created_at, traceparent)
    SELECT :actor, subject, now(), :now, traceparent
    FROM unnest(CAST(:subjects AS text[]), CAST(:traceparents AS text[]))
        AS enqueued (subject, traceparent)
    ORDER BY subject
    ON CONFLICT (actor, subject) WHERE state = 'PENDING' DO UPDATE SET
        traceparent = COALESCE(tasks.traceparent, EXCLUDED.traceparent)
    """
)


def enqueue(connection: Connection, actor: str, subject: str, moment: Moment) -> None:
    """Enqueue a task at the commit; an equal pending task absorbs it."""
    enqueue_all(connection, actor, [subject], moment)


def enqueue_all(
    connection: Connection, actor: str, subjects: Sequence[str], moment: Moment
) -> None:
    """Enqueue a task of the actor for each subject, in the current trace."""
    enqueue_for(connection, actor, dict.fromkeys(subjects, tracing.traceparent()), moment)


def enqueue_for(
    connection: Connection, actor: str, subjects: Mapping[str, str | None], moment: Moment
) -> None:
    """Enqueue a task of the actor for each subject, in the trace of its traceparent."""
    if subjects:
        connection.execute(
            _ENQUEUE,
            {
                "actor": actor,
                "subjects": list(subjects),
                "traceparents": list(subjects.values()),
                "now": moment.now,
            },
        )


_WAITING = Statement(
    """
    SELECT actor FROM unnest(CAST(:actors AS text[])) AS actor WHERE EXISTS (
        SELECT FROM tasks
        WHERE tasks.actor = actor.actor AND state = 'PENDING' AND due_at <= now()
    )
    """
)


def waiting(connection: Connection, actors: Sequence[str]) -> set[str]:
    """Return those of these actors that have tasks to send now."""
    return {row[0] for row in _WAITING.rows(connection, {"actors": list(actors)})}


_CLAIM = text(
    """
    WITH chosen AS (
        SELECT task_id FROM tasks
        WHERE state = 'PENDING' AND due_at <= now() AND actor = ANY(:actors)
        ORDER BY due_at
        LIMIT (
            SELECT GREATEST(0, LEAST(:limit, :window - count(*))) FROM (
                SELECT FROM tasks WHERE state = 'SENT' AND actor = ANY(:actors) LIMIT :window
            ) AS sent
        )
        FOR UPDATE SKIP LOCKED
    )
    UPDATE tasks SET state = 'SENT', due_at = now() + make_interval(secs => :timeout_seconds)
    FROM chosen WHERE tasks.task_id = chosen.task_id
    RETURNING tasks.task_id, actor, subject
    """
)


def claim(
    connection: Connection,
    actors: Sequence[str],
    *,
    limit: int,
    window: int,
    timeout_seconds: float,
) -> list[Task]:
    """Mark at most `limit` tasks of these actors as sent, the longest due first; return them.

    At most about `window` tasks are sent and not started at a time: the rest waits here, not in the
    broker. The relay sends them after the commit. If it cannot, `unsend` returns them; if it dies,
    the sweeper does after `timeout_seconds`.
    """
    rows = connection.execute(
        _CLAIM,
        {
            "actors": list(actors),
            "limit": limit,
            "window": window,
            "timeout_seconds": timeout_seconds,
        },
    )
    return sorted((Task(*row) for row in rows), key=lambda task: task.task_id)


_UNSEND = text(_to_pending("task_id = ANY(:task_ids) AND state = 'SENT'"))


def unsend(connection: Connection, tasks: Sequence[Task]) -> None:
    """Return claimed tasks that could not be sent."""
    connection.execute(_UNSEND, {"task_ids": [task.task_id for task in tasks]})


_RECALL = text("UPDATE tasks SET due_at = now() WHERE state = 'SENT' AND due_at > now()")


def recall_sent(connection: Connection) -> int:
    """Let the sweeper resend every task that was sent and not started; return how many.

    For when the broker lost its messages.
    """
    return connection.execute(_RECALL).rowcount


_BEGIN = text(
    """
    WITH due AS (
        SELECT task_id FROM tasks
        WHERE task_id = ANY(:task_ids) AND attempts <= :max_attempts
            AND (state = 'SENT' OR state IN ('PENDING', 'RUNNING') AND due_at <= now())
        ORDER BY actor, subject, task_id FOR UPDATE
    )
    UPDATE tasks SET state = 'RUNNING', attempts = attempts + 1,
        due_at = now() + make_interval(secs => :lease_seconds)
    FROM due WHERE tasks.task_id = due.task_id
    RETURNING tasks.task_id, actor, subject, attempts, traceparent
    """
)


def begin(connection: Connection, task_ids: Sequence[int], *, lease_seconds: float) -> list[Run]:
    """Start one attempt at each of these tasks that is due, for `lease_seconds` unless extended;
    return the runs.

    Call it in a separate transaction that commits before the work starts. It leaves out tasks that
    are done, parked, waiting for their next attempt, or held by another run.
    """
    rows = connection.execute(
        _BEGIN,
        {
            "task_ids": list(task_ids),
            "lease_seconds": lease_seconds,
            "max_attempts": MAX_ATTEMPTS,
        },
    )
    return sorted((Run(*row) for row in rows), key=lambda run: run.task_id)


_RUNS_HELD = """unnest(CAST(:task_ids AS bigint[]), CAST(:attempts AS smallint[]))
        AS run (id, attempt)
    WHERE task_id = run.id AND attempts = run.attempt AND state = 'RUNNING'
    RETURNING task_id"""
_EXTEND = text(
    f"""
    UPDATE tasks SET due_at = now() + make_interval(secs => :lease_seconds)
    FROM {_RUNS_HELD}
    """
)
_FINISH = text(f"DELETE FROM tasks USING {_RUNS_HELD}")


def extend(connection: Connection, runs: Sequence[Run], *, lease_seconds: float) -> set[int]:
    """Extend these runs' leases to `lease_seconds` from now; return the ids of the tasks still
    held."""
    rows = connection.execute(_EXTEND, _ids(runs) | {"lease_seconds": lease_seconds})
    return set(rows.scalars())


def finish(connection: Connection, runs: Sequence[Run]) -> set[int]:
    """Delete the tasks of finished runs; return the ids of those still held. The work of the others
    will run again."""
    return set(connection.execute(_FINISH, _ids(runs)).scalars())


def _ids(runs: Sequence[Run]) -> dict[str, object]:
    return {
        "task_ids": [run.task_id for run in runs],
        "attempts": [run.attempt for run in runs],
    }


_HELD = "task_id = :task_id AND attempts = :attempt AND state = 'RUNNING'"
_RETRY = text(
    _to_pending(
        _HELD,
        due_at="now() + make_interval(secs => :retry_seconds)",
        last_error="COALESCE(CAST(:error AS text), last_error)",
    )
)
# One parked row is enough for a subject that keeps failing.
_PARK = """
    WITH parked AS (
        UPDATE tasks SET state = 'PARKED', due_at = now(), last_error = {last_error}
        WHERE {which} RETURNING task_id, actor, subject
    ), older AS (
        DELETE FROM tasks USING parked
        WHERE tasks.state = 'PARKED' AND tasks.actor = parked.actor
            AND tasks.subject = parked.subject AND tasks.task_id <> parked.task_id
    )
    SELECT task_id, actor, subject FROM parked
"""
_PARK_FAILED = text(
    _PARK.format(which=_HELD, last_error="COALESCE(CAST(:error AS text), last_error)")
)


def fail(connection: Connection, run: Run, error: str | None) -> bool:
    """Record a failed attempt: the task waits for the next one, or is parked after the last.

    Returns whether it was parked. Does nothing if the run no longer holds the task. With None as
    `error` the previous attempt's error stays.
    """
    held = {
        "task_id": run.task_id,
        "attempt": run.attempt,
        "error": None if error is None else error[:MAX_ERROR_CHARACTERS],
    }
    if run.is_last:
        return bool(connection.execute(_PARK_FAILED, held).all())
    connection.execute(_RETRY, held | {"retry_seconds": retry_seconds(run.attempt)})
    return False


_RELEASE = text(_to_pending(_HELD, attempts="attempts - 1"))


def release(connection: Connection, run: Run) -> None:
    """Return the task unfinished, without counting the attempt: its worker shuts down."""
    connection.execute(_RELEASE, {"task_id": run.task_id, "attempt": run.attempt})


_GONE_SILENT = """task_id IN (
    SELECT task_id FROM tasks
    WHERE state IN ('SENT', 'RUNNING') AND due_at <= now() AND {attempts}
    ORDER BY due_at LIMIT :limit FOR UPDATE SKIP LOCKED
)"""
_SILENT = (
    "'attempt ' || attempts || ' ended without a report: its worker was killed, hung, or lost the"
    " database'"
)
_SWEEP = text(
    _to_pending(
        _GONE_SILENT.format(attempts="attempts <= :max_attempts"),
        last_error=f"CASE WHEN state = 'RUNNING' THEN {_SILENT} ELSE last_error END",
    )
)
_PARK_SILENT = text(
    _PARK.format(
        which=_GONE_SILENT.format(attempts="attempts > :max_attempts"), last_error="last_error"
    )
)


@dataclass(frozen=True, slots=True)
class SweepResult:
    """The number of tasks that a sweep resent, and those that it parked."""

    resent: int
    parked: list[Task]


def sweep(connection: Connection, limit: int) -> SweepResult:
    """Handle sent or started tasks that timed out: at most `limit` are resent, and at most as many
    parked, whose run to give up timed out too. Concurrent sweeps are safe.
    """
    bounds = {"limit": limit, "max_attempts": MAX_ATTEMPTS}
    parked = [Task(*row) for row in connection.execute(_PARK_SILENT, bounds)]
    return SweepResult(connection.execute(_SWEEP, bounds).rowcount, parked)


_PARKED = text(
    """
    SELECT task_id, actor, subject, attempts, created_at, due_at, last_error FROM tasks
    WHERE state = 'PARKED' AND task_id > :after AND :actor IN (actor, '')
        AND :task_id IN (task_id, 0)
    ORDER BY task_id LIMIT :limit
    """
)


def list_parked(
    connection: Connection, *, actor: str = "", task_id: int = 0, after: int = 0, limit: int
) -> list[ParkedTask]:
    """Return parked tasks with ids above `after`, in order; of the actor and with the id, if they
    are given."""
    values = {"actor": actor, "task_id": task_id, "after": after, "limit": limit}
    rows = connection.execute(_PARKED, values)
    return [ParkedTask(*row) for row in rows]


_LOCK = text("SELECT actor, subject, state FROM tasks WHERE task_id = :task_id FOR UPDATE")


def locked(connection: Connection, task_id: int) -> tuple[Task, str] | None:
    """Lock a task; return it with its state, or None if there is no such task."""
    row = connection.execute(_LOCK, {"task_id": task_id}).one_or_none()
    return None if row is None else (Task(task_id, row.actor, row.subject), row.state)


_UNPARK = text(_to_pending("task_id = :task_id AND state = 'PARKED'", attempts="0"))


def unpark(connection: Connection, task_id: int) -> bool:
    """Retry a parked task from attempt 1. Returns False if no such task is parked."""
    return connection.execute(_UNPARK, {"task_id": task_id}).rowcount == 1


_DISCARD = text("DELETE FROM tasks WHERE task_id = :task_id AND state = 'PARKED'")


def discard(connection: Connection, task_id: int) -> bool:
    """Delete a parked task. Returns False if no such task is parked."""
    return connection.execute(_DISCARD, {"task_id": task_id}).rowcount == 1


_BACKLOG = text(
    """
    SELECT actor, state, count(*),
        GREATEST(0, extract(epoch FROM now() - min(due_at)))::double precision
    FROM tasks GROUP BY actor, state ORDER BY actor, state
    """
)


def backlog(connection: Connection) -> list[Backlog]:
    """Return the number of tasks by actor and state."""
    return [Backlog(*row) for row in connection.execute(_BACKLOG)]
