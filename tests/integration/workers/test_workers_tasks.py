"""The task outbox, statement by statement: the states of a task and their transitions."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime

import pytest
from sqlalchemy import Connection, text

from credit_service.clock import Moment
from credit_service.storage import tasks
from credit_service.storage.database import Database
from credit_service.storage.tasks import MAX_ATTEMPTS, Run, Task

NOON = Moment(datetime(2026, 6, 10, 6, 30, tzinfo=UTC), date(2026, 6, 10))


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    """A connection on which every statement commits."""
    with database.autocommit() as opened:
        yield opened


def enqueue(connection: Connection, *subjects: str, actor: str = "act") -> None:
    tasks.enqueue_all(connection, actor, subjects, NOON)


def claim(connection: Connection, limit: int = 100, window: int = 1000) -> list[Task]:
    return tasks.claim(connection, ["act"], limit=limit, window=window, timeout_seconds=60)


def begin(connection: Connection, task_id: int) -> Run | None:
    runs = tasks.begin(connection, [task_id], lease_seconds=60)
    return runs[0] if runs else None


def begun(connection: Connection, subject: str = "1") -> Run:
    """A run of a task for this subject, enqueued and claimed."""
    enqueue(connection, subject)
    run = begin(connection, claim(connection)[0].task_id)
    assert run is not None
    return run


def let_time_pass(connection: Connection) -> None:
    connection.execute(text("UPDATE tasks SET due_at = now() - interval '1 second'"))


def rows(connection: Connection) -> list[tuple[str, str, int]]:
    found = connection.execute(
        text("SELECT subject, state, attempts FROM tasks ORDER BY subject, state")
    )
    return [(row.subject, row.state, row.attempts) for row in found]


def seconds_until_due(connection: Connection) -> float:
    return float(
        connection.execute(
            text("SELECT extract(epoch FROM due_at - now()) FROM tasks")
        ).scalar_one()
    )


def test_life_of_a_task(connection: Connection) -> None:
    enqueue(connection, "7")
    assert tasks.waiting(connection, ["act", "other"]) == {"act"}
    (task,) = claim(connection)
    assert (task.actor, task.subject) == ("act", "7")
    assert claim(connection) == []
    run = begin(connection, task.task_id)
    assert run == Run(task.task_id, "act", "7", attempt=1)
    assert rows(connection) == [("7", "RUNNING", 1)]
    assert tasks.finish(connection, [run]) == {run.task_id}
    assert rows(connection) == []
    # A message delivered twice.
    assert begin(connection, task.task_id) is None


def test_nothing_is_enqueued_when_the_transaction_fails(database: Database) -> None:
    def fail() -> None:
        with database.transaction() as connection:
            enqueue(connection, "1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with database.autocommit() as connection:
        assert rows(connection) == []


def test_a_task_is_absorbed_by_an_equal_one_that_has_not_begun(connection: Connection) -> None:
    enqueue(connection, "1", "1", "2")
    enqueue(connection, "1")
    enqueue(connection, "1", actor="another")
    assert [state for _, state, _ in rows(connection)] == ["PENDING"] * 3
    claim(connection)
    # A sent task may have started, and then has not read the facts of this one.
    enqueue(connection, "1")
    assert [row[:2] for row in rows(connection) if row[0] == "1"] == [
        ("1", "PENDING"),
        ("1", "PENDING"),
        ("1", "SENT"),
    ]


def test_a_task_waits_for_the_transaction_that_it_absorbed(database: Database) -> None:
    """Otherwise it could finish without the facts of the transaction that it absorbed."""
    with database.autocommit() as outside:
        enqueue(outside, "1")
        with database.transaction() as booking:
            enqueue(booking, "1")
            assert claim(outside) == []
        assert [task.subject for task in claim(outside)] == ["1"]


def test_a_task_enqueued_during_a_claim_is_separate(database: Database) -> None:
    with database.autocommit() as outside:
        enqueue(outside, "1")
        with database.transaction() as relay:
            assert len(claim(relay)) == 1
            booking = threading.Thread(target=_enqueue_in_transaction, args=(database,))
            booking.start()
            booking.join(0.3)
            assert booking.is_alive()
        booking.join(5)
        assert rows(outside) == [("1", "PENDING", 0), ("1", "SENT", 0)]


def _enqueue_in_transaction(database: Database) -> None:
    with database.transaction() as connection:
        enqueue(connection, "1")


def test_two_relays_never_claim_the_same(database: Database) -> None:
    with database.autocommit() as outside:
        enqueue(outside, *map(str, range(10)))
    with database.transaction() as one, database.transaction() as other:
        first, second = claim(one, limit=6), claim(other, limit=6)
    assert len(first) == 6
    assert len(second) == 4
    assert not {task.task_id for task in first} & {task.task_id for task in second}


def test_sent_tasks_that_have_not_started_are_bounded(connection: Connection) -> None:
    enqueue(connection, *map(str, range(10)))
    sent = claim(connection, window=4)
    assert len(sent) == 4
    assert claim(connection, window=4) == []
    begin(connection, sent[0].task_id)
    assert len(claim(connection, window=4)) == 1


def test_tasks_that_could_not_be_sent_are_sent_later(connection: Connection) -> None:
    enqueue(connection, "1", "2")
    sent = claim(connection)
    # A task enqueued meanwhile replaces it.
    enqueue(connection, "2")
    tasks.unsend(connection, sent)
    assert rows(connection) == [("1", "PENDING", 0), ("2", "PENDING", 0)]


def test_only_one_run_at_a_time_holds_a_task(connection: Connection) -> None:
    run = begun(connection)
    assert begin(connection, run.task_id) is None
    let_time_pass(connection)
    later = begin(connection, run.task_id)
    assert later is not None
    assert later.attempt == 2
    # The first run resumes after a hang.
    assert tasks.finish(connection, [run]) == set()
    assert not tasks.fail(connection, run, "late")
    tasks.release(connection, run)
    assert rows(connection) == [("1", "RUNNING", 2)]
    assert tasks.extend(connection, [run, later], lease_seconds=60) == {later.task_id}
    assert tasks.finish(connection, [run, later]) == {later.task_id}


def test_the_attempt_counts_although_the_work_rolls_back(database: Database) -> None:
    with database.autocommit() as outside:
        run = begun(outside)
        with pytest.raises(ZeroDivisionError), database.transaction():
            raise ZeroDivisionError
        assert rows(outside) == [("1", "RUNNING", run.attempt)]


def test_extended_work_is_not_swept(connection: Connection) -> None:
    run = begun(connection)
    let_time_pass(connection)
    assert tasks.extend(connection, [run], lease_seconds=60) == {run.task_id}
    assert tasks.sweep(connection, 10).resent == 0
    assert rows(connection) == [("1", "RUNNING", 1)]


def test_failures_back_off_and_end_parked(connection: Connection) -> None:
    enqueue(connection, "1")
    pauses = []
    for attempt in range(1, MAX_ATTEMPTS + 1):
        (task,) = claim(connection)
        run = begin(connection, task.task_id)
        assert run is not None
        assert run.attempt == attempt
        parked = tasks.fail(connection, run, f"trouble {attempt}")
        assert parked == (attempt == MAX_ATTEMPTS)
        assert claim(connection) == []
        assert begin(connection, task.task_id) is None
        if not parked:
            pauses.append(seconds_until_due(connection))
            let_time_pass(connection)
    assert pauses == pytest.approx([2, 8, 32, 128], abs=1.5)
    (parked_task,) = tasks.list_parked(connection, limit=10)
    assert (parked_task.subject, parked_task.attempts) == ("1", MAX_ATTEMPTS)
    assert parked_task.last_error == "trouble 5"
    assert tasks.sweep(connection, 10) == tasks.SweepResult(0, [])


def test_a_parked_task_can_be_retried(connection: Connection) -> None:
    run = begun(connection)
    connection.execute(text("UPDATE tasks SET attempts = 5"))
    assert tasks.fail(connection, Run(run.task_id, "act", "1", attempt=5), "no luck")
    assert not tasks.unpark(connection, run.task_id + 1)
    assert tasks.unpark(connection, run.task_id)
    assert rows(connection) == [("1", "PENDING", 0)]
    assert tasks.list_parked(connection, limit=10) == []


def test_only_a_parked_task_can_be_discarded(connection: Connection) -> None:
    run = begun(connection)
    assert not tasks.discard(connection, run.task_id)
    connection.execute(text("UPDATE tasks SET attempts = 5"))
    assert tasks.fail(connection, Run(run.task_id, "act", "1", attempt=5), "no luck")
    assert tasks.discard(connection, run.task_id)
    assert rows(connection) == []


def test_a_parked_task_does_not_block_new_tasks(connection: Connection) -> None:
    for _ in range(2):
        begun(connection)
        connection.execute(text("UPDATE tasks SET attempts = 6 WHERE state = 'RUNNING'"))
        connection.execute(text("UPDATE tasks SET due_at = now() WHERE state = 'RUNNING'"))
        tasks.sweep(connection, 10)
    # One parked row per subject is enough.
    assert rows(connection) == [("1", "PARKED", 6)]
    enqueue(connection, "1")
    assert len(claim(connection)) == 1


def test_a_failed_attempt_is_counted_in_the_task_that_takes_over(connection: Connection) -> None:
    run = begun(connection)
    enqueue(connection, "1")
    tasks.fail(connection, run, "trouble")
    assert rows(connection) == [("1", "PENDING", 1)]
    assert len(claim(connection)) == 1


def test_the_sweeper_resends_timed_out_tasks(connection: Connection) -> None:
    enqueue(connection, "sent", "begun", "fresh")
    by_subject = {task.subject: task.task_id for task in claim(connection)}
    begin(connection, by_subject["begun"])
    assert tasks.sweep(connection, 10).resent == 0
    let_time_pass(connection)
    begin(connection, by_subject["fresh"])
    assert tasks.sweep(connection, 10) == tasks.SweepResult(resent=2, parked=[])
    assert rows(connection) == [
        ("begun", "PENDING", 1),
        ("fresh", "RUNNING", 1),
        ("sent", "PENDING", 0),
    ]
    assert {task.subject for task in claim(connection)} == {"begun", "sent"}


def test_work_that_kills_its_worker_every_time_is_given_up_and_parked(
    connection: Connection,
) -> None:
    enqueue(connection, "1")
    for attempt in range(1, MAX_ATTEMPTS + 2):
        (task,) = claim(connection)
        run = begin(connection, task.task_id)
        assert run is not None
        assert (run.attempt, run.is_exhausted) == (attempt, attempt > MAX_ATTEMPTS)
        let_time_pass(connection)
        swept = tasks.sweep(connection, 10)
        assert swept.resent == (attempt <= MAX_ATTEMPTS)
    # The run of `give_up` ended without a report, too.
    assert [parked.subject for parked in swept.parked] == ["1"]
    (parked_task,) = tasks.list_parked(connection, limit=10)
    assert "attempt 5 ended without a report" in str(parked_task.last_error)


def test_giving_up_keeps_the_last_error(connection: Connection) -> None:
    run = begun(connection)
    connection.execute(text("UPDATE tasks SET attempts = 6, last_error = 'killed'"))
    assert tasks.fail(connection, Run(run.task_id, "act", "1", attempt=6), None)
    assert tasks.list_parked(connection, limit=1)[0].last_error == "killed"


def test_the_sweeper_merges_equal_tasks(connection: Connection) -> None:
    begun(connection)
    enqueue(connection, "1")
    claim(connection)
    enqueue(connection, "1")
    let_time_pass(connection)
    tasks.sweep(connection, 10)
    assert rows(connection) == [("1", "PENDING", 1)]


def test_a_sweep_is_bounded(connection: Connection) -> None:
    enqueue(connection, *map(str, range(5)))
    claim(connection)
    let_time_pass(connection)
    assert [tasks.sweep(connection, 2).resent for _ in range(4)] == [2, 2, 1, 0]


def test_sweepers_skip_tasks_locked_by_another_one(database: Database) -> None:
    with database.autocommit() as outside:
        enqueue(outside, "1")
        claim(outside)
        let_time_pass(outside)
    with _locked_rows(database), database.autocommit() as connection:
        assert tasks.sweep(connection, 10).resent == 0


@contextmanager
def _locked_rows(database: Database) -> Iterator[None]:
    with database.transaction() as connection:
        connection.execute(text("SELECT FROM tasks FOR UPDATE"))
        yield


def test_a_released_task_does_not_count_the_attempt(connection: Connection) -> None:
    run = begun(connection)
    tasks.release(connection, run)
    assert rows(connection) == [("1", "PENDING", 0)]
    assert len(claim(connection)) == 1


def test_everything_sent_can_be_recalled(connection: Connection) -> None:
    enqueue(connection, "1", "2")
    first, _ = claim(connection)
    begin(connection, first.task_id)
    assert tasks.recall_sent(connection) == 1
    assert tasks.sweep(connection, 10).resent == 1
    assert rows(connection) == [("1", "RUNNING", 1), ("2", "PENDING", 0)]


def test_backlog(connection: Connection) -> None:
    enqueue(connection, "1", "2")
    claim(connection, limit=1)
    let_time_pass(connection)
    assert [(line.actor, line.state, line.count) for line in tasks.backlog(connection)] == [
        ("act", "PENDING", 1),
        ("act", "SENT", 1),
    ]
    assert all(line.oldest_seconds >= 1 for line in tasks.backlog(connection))
