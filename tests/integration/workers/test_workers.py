"""Worker processes on the real PostgreSQL and Valkey: no task is lost if one of them is killed."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
import redis
from pydantic import SecretStr
from sqlalchemy import text

from credit_service.cache.positions import PositionCache
from credit_service.clock import Clock
from credit_service.domain.errors import UnavailableError
from credit_service.ingestion.streams import begin_stream
from credit_service.processes.embedded import EmbeddedStack
from credit_service.queries.ingestions import get_ingestion
from credit_service.settings import Settings
from credit_service.storage import event_stream, migrate, tasks
from credit_service.storage.database import Database
from credit_service.storage.ingestions import Header
from credit_service.storage.tasks import MAX_ATTEMPTS
from tests.integration.workers.worker_under_test import ACTORS as ACTORS_UNDER_TEST
from tests.integration.workers.worker_under_test import make_tables, worker
from workers.actors import ACTORS, Timetable, follow
from workers.process import WorkerProcess
from workers.relay import Channel, Loop, Publisher, Sender, Sweeper
from workers.runner import (
    Actor,
    Queue,
    Resources,
    Runner,
    StoppingError,
    Work,
    no_op,
)

CLOCK = Clock()
LEASE_SECONDS = 2
GRACE_SECONDS = 2


class Lab:
    """A database with tasks, and the environment of its workers."""

    def __init__(self, database: Database, database_url: str, redis_url: str) -> None:
        self.database = database
        self.settings = Settings(
            database_url=SecretStr(database_url),
            redis_url=SecretStr(redis_url),
            task_timeout_seconds=LEASE_SECONDS,
            shutdown_grace_seconds=GRACE_SECONDS,
        )
        self.environment = {
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "CREDIT_TASK_TIMEOUT_SECONDS": str(LEASE_SECONDS),
            "CREDIT_SHUTDOWN_GRACE_SECONDS": str(GRACE_SECONDS),
        }
        make_tables(database)

    def enqueue(self, actor: str, *subjects: str) -> None:
        with self.database.transaction() as connection:
            tasks.enqueue_all(connection, actor, subjects, CLOCK.moment())

    def done(self) -> list[str]:
        """The subjects of finished work, in order, with repeats."""
        with self.database.autocommit() as connection:
            found = connection.execute(text("SELECT subject FROM work_done ORDER BY at"))
            return list(found.scalars())

    def rows(self) -> list[tuple[str, str, str, int]]:
        with self.database.autocommit() as connection:
            found = connection.execute(
                text("SELECT actor, subject, state, attempts FROM tasks ORDER BY actor, subject")
            )
            return [(row.actor, row.subject, row.state, row.attempts) for row in found]

    def open_gate(self) -> bool:
        """Let the gated work continue; return whether the update succeeded."""
        with self.database.autocommit() as connection:
            return connection.execute(text("UPDATE work_gate SET open = true")).rowcount == 1

    def running(self) -> set[str]:
        return {subject for _, subject, state, _ in self.rows() if state == "RUNNING"}

    def left(self) -> list[tuple[str, str, str, int]]:
        return [row for row in self.rows() if row[2] != "PARKED"]

    def wait_until_all_done(self, *, seconds: float = 60) -> None:
        try:
            wait_until(lambda: not self.left(), seconds)
        except AssertionError:
            left = self.left()
            raise AssertionError(f"{len(left)} tasks are left, such as {left[:5]}") from None


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while True:
        try:
            if holds():
                return
        except UnavailableError:
            # The killed database has not restarted yet.
            pass
        assert time.monotonic() < until, "the condition did not hold in time"
        time.sleep(0.02)


@pytest.fixture
def lab(database: Database, database_url: str, redis_url: str) -> Lab:
    return Lab(database, database_url, redis_url)


@contextmanager
def threads(lab: Lab, *, relay: bool = True, act: bool = True) -> Iterator[WorkerProcess]:
    """A worker in this process."""
    made = WorkerProcess(
        lab.settings, relay=relay, act=act, actors=ACTORS_UNDER_TEST, timetable=False
    )
    made.start()
    try:
        yield made
    finally:
        made.stop()


def test_committed_tasks_start_soon(lab: Lab) -> None:
    with threads(lab):
        lab.enqueue("quick", "warm")
        lab.wait_until_all_done()
        enqueued_at = {}
        for number in range(30):
            lab.enqueue("quick", str(number))
            enqueued_at[str(number)] = time.time()
            time.sleep(0.05)
        lab.wait_until_all_done()
    with lab.database.autocommit() as connection:
        found = connection.execute(
            text("SELECT subject, extract(epoch FROM at) FROM work_done WHERE subject <> 'warm'")
        ).all()
    latencies = sorted(float(at) - enqueued_at[subject] for subject, at in found)
    assert len(latencies) == 30
    # 0.04 s on an idle machine.
    assert latencies[15] < 1


def test_relays_and_actors_may_run_in_several_processes(lab: Lab) -> None:
    subjects = [str(number) for number in range(300)]
    with (
        threads(lab, act=False),
        threads(lab, act=False),
        threads(lab, relay=False),
        threads(lab, relay=False),
    ):
        lab.enqueue("quick", *subjects)
        lab.wait_until_all_done()
    assert sorted(lab.done()) == sorted(subjects)


@pytest.mark.slow
def test_a_worker_waits_for_the_migrations_of_its_release(lab: Lab) -> None:
    def waits() -> bool:
        with lab.database.autocommit() as connection:
            queries = connection.execute(
                text(
                    "SELECT query FROM pg_stat_activity WHERE datname = current_database()"
                    " AND application_name = 'credit-service worker'"
                )
            )
            return any("alembic_version" in query for query in queries.scalars())

    def set_revision(revision: str) -> str:
        with lab.database.autocommit() as connection:
            before = str(
                connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
            )
            connection.execute(
                text("UPDATE alembic_version SET version_num = :new"), {"new": revision}
            )
        return before

    newest = set_revision("0001")
    lab.enqueue("quick", "a")
    with worker(lab.environment) as stopped:
        wait_until(waits, seconds=30)
        stopped.terminate()
        assert stopped.wait(timeout=30) == 0
    assert lab.done() == []
    with worker(lab.environment):
        wait_until(waits, seconds=30)
        set_revision(newest)
        lab.wait_until_all_done()
    assert lab.done() == ["a"]


@pytest.mark.slow
def test_a_killed_worker_loses_nothing(lab: Lab) -> None:
    subjects = [str(number) for number in range(500)]
    with worker(lab.environment) as first:
        lab.enqueue("gated", "a", "b")
        lab.enqueue("quick", *subjects)
        wait_until(lambda: lab.running() >= {"a", "b"} and len(lab.done()) > 50)
        first.kill()
        first.wait()
        lab.open_gate()
    with threads(lab):
        lab.wait_until_all_done()
    assert set(lab.done()) == {*subjects, "a", "b"}
    # Tasks that the first worker had started may run twice, all others run once.
    assert len(lab.done()) < len(subjects) + 2 + 20


@pytest.mark.slow
def test_a_suspended_worker_loses_its_task_to_another(lab: Lab) -> None:
    with worker(lab.environment) as first:
        lab.enqueue("gated", "a")
        wait_until(lambda: lab.running() == {"a"})
        first.send_signal(signal.SIGSTOP)
        lab.open_gate()
        with threads(lab):
            wait_until(lambda: lab.done() == ["a"])
            lab.wait_until_all_done()
        first.send_signal(signal.SIGCONT)
        lab.enqueue("quick", "after")
        lab.wait_until_all_done()
        # It resumes too late to hold the task, and continues with other tasks.
        wait_until(lambda: set(lab.done()) == {"a", "after"})


@pytest.mark.slow
def test_long_work_keeps_its_lease(lab: Lab) -> None:
    with threads(lab), threads(lab):
        lab.enqueue("deaf", f"{1.75 * LEASE_SECONDS} s")
        lab.wait_until_all_done()
    assert len(lab.done()) == 1


def test_an_emptied_redis_is_noticed(lab: Lab) -> None:
    subjects = [str(number) for number in range(400)]
    client = redis.Redis.from_url(lab.settings.require_redis_url())
    with threads(lab, act=False):
        lab.enqueue("quick", *subjects)
        wait_until(lambda: {row[2] for row in lab.rows()} == {"SENT", "PENDING"})
        client.flushall()
        client.close()
        with threads(lab, relay=False):
            lab.wait_until_all_done()
    assert set(lab.done()) == set(subjects)


@pytest.mark.slow
def test_a_task_that_kills_its_worker_is_parked(lab: Lab) -> None:
    lab.enqueue("deadly", "poison")
    # The first attempt and, as if three more had failed the same way, the last.
    for attempt in (1, MAX_ATTEMPTS):
        with worker(lab.environment) as victim:
            assert victim.wait(60) == -signal.SIGKILL
        assert lab.rows() == [("deadly", "poison", "RUNNING", attempt)]
        with lab.database.autocommit() as connection:
            connection.execute(
                text("UPDATE tasks SET due_at = now(), attempts = greatest(attempts, :before)"),
                {"before": MAX_ATTEMPTS - 1},
            )
    with threads(lab):
        wait_until(lambda: lab.rows() == [("deadly", "poison", "PARKED", MAX_ATTEMPTS + 1)])
        # The worker survives.
        lab.enqueue("quick", "1")
        wait_until(lambda: lab.done() == ["gave up poison", "1"])


def test_stored_errors_have_no_phone_numbers(lab: Lab) -> None:
    with threads(lab):
        lab.enqueue("failing", "1")
        wait_until(lambda: lab.rows() == [("failing", "1", "PENDING", 1)])
    with lab.database.autocommit() as connection:
        error = connection.execute(text("SELECT last_error FROM tasks")).scalar_one()
    assert error == "ValueError: cannot reach +91**********65"


@pytest.mark.slow
def test_a_terminated_worker_releases_its_tasks(lab: Lab) -> None:
    with worker(lab.environment) as first:
        lab.enqueue("gated", "a")
        lab.enqueue("deaf", "20 b")
        wait_until(lambda: lab.running() == {"a", "20 b"})
        began = time.monotonic()
        first.terminate()
        assert first.wait(20) == 0
    # Only the work that ignores a stop used the grace period of 2 s; gated work stopped at once.
    assert 1.5 < time.monotonic() - began < 15
    assert lab.rows() == [("deaf", "20 b", "PENDING", 0), ("gated", "a", "PENDING", 0)]
    assert lab.done() == []


def test_stopping_waits_for_work_that_ends_in_time(lab: Lab) -> None:
    with threads(lab) as running:
        lab.enqueue("deaf", "1 a")
        wait_until(lambda: lab.running() == {"1 a"})
        assert running.stop()
    assert lab.done() == ["1 a"]
    assert lab.rows() == []


@pytest.fixture
def own_stack() -> Iterator[EmbeddedStack]:
    """Servers of this test only, which it kills."""
    with tempfile.TemporaryDirectory(prefix="credit-service-killed-") as folder:
        Path(folder).chmod(0o711)
        with EmbeddedStack(Path(folder), durable=False) as stack:
            yield stack


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["Valkey", "PostgreSQL"])
def test_a_killed_server_loses_nothing(own_stack: EmbeddedStack, victim: str) -> None:
    url = own_stack.database_url.replace("postgresql://", "postgresql+psycopg://", 1)
    migrate.upgrade(url)
    database = Database(url)
    lab = Lab(database, url, own_stack.redis_url)
    subjects = [str(number) for number in range(600)]
    with threads(lab):
        lab.enqueue("gated", "a")
        lab.enqueue("quick", *subjects)
        wait_until(lambda: "a" in lab.running() and len(lab.done()) > 50)
        os.kill(own_stack.pids[victim], signal.SIGKILL)
        wait_until(lambda: victim not in own_stack.pids)
        time.sleep(0.5)
        assert own_stack.revive() == [victim]
        wait_until(lab.open_gate)
        lab.wait_until_all_done()
    assert set(lab.done()) == {*subjects, "a"}
    database.dispose()


# Sender, runner, sweeper and timetable, each alone.


@pytest.fixture
def runner(database: Database, redis_url: str) -> Iterator[Runner]:
    cache = PositionCache(redis_url)
    resources = Resources(database, cache, CLOCK, threading.Event(), ingestion_batch_rows=1000)
    made = Runner(resources, lease_seconds=30)
    yield made
    cache.close()


def claimed(lab: Lab, actor: str = "any", subject: str = "1") -> int:
    lab.enqueue(actor, subject)
    with lab.database.autocommit() as connection:
        (task,) = tasks.claim(connection, [actor], limit=1, window=10, timeout_seconds=30)
    return task.task_id


def claimed_all(lab: Lab, actor: str, *subjects: str) -> list[int]:
    lab.enqueue(actor, *subjects)
    with lab.database.autocommit() as connection:
        found = tasks.claim(connection, [actor], limit=10, window=10, timeout_seconds=30)
    return [task.task_id for task in found]


def an_actor(work: Work, give_up: Work = no_op) -> Actor:
    return Actor("any", Queue("any", share=1, window=10), work, 10, give_up=give_up)


def test_a_message_delivered_twice_runs_once(lab: Lab, runner: Runner) -> None:
    seen: list[str] = []
    task_id = claimed(lab)
    for _ in range(2):
        runner.run(an_actor(lambda _, subject: seen.append(subject)), [task_id])
    assert seen == ["1"]
    assert lab.rows() == []


def test_the_attempt_is_committed_before_the_work_starts(lab: Lab, runner: Runner) -> None:
    seen: list[tuple[str, str, str, int]] = []
    runner.run(an_actor(lambda *_: seen.extend(lab.rows())), [claimed(lab)])
    assert seen == [("any", "1", "RUNNING", 1)]


def test_stopped_work_releases_its_task(lab: Lab, runner: Runner) -> None:
    def stop(*_: object) -> None:
        raise StoppingError

    runner.run(an_actor(stop), [claimed(lab)])
    assert lab.rows() == [("any", "1", "PENDING", 0)]


def test_give_up_runs_before_the_task_is_parked(lab: Lab, runner: Runner) -> None:
    given_up: list[tuple[str, str]] = []

    def fail(*_: object) -> None:
        raise ValueError("no luck")

    def give_up(_resources: Resources, subject: str) -> None:
        given_up.append((subject, lab.rows()[0][2]))

    for attempt in range(1, MAX_ATTEMPTS + 1):
        with lab.database.autocommit() as connection:
            connection.execute(text("UPDATE tasks SET due_at = now()"))
        runner.run(an_actor(fail, give_up), [claimed(lab)])
        assert len(given_up) == (attempt == MAX_ATTEMPTS)
    assert given_up == [("1", "RUNNING")]
    assert lab.rows() == [("any", "1", "PARKED", MAX_ATTEMPTS)]


def test_tasks_that_redis_rejects_are_pending_again(lab: Lab) -> None:
    sent: list[str] = []

    def send(bundle: Sequence[tasks.Task]) -> None:
        if len(sent) == 2:
            raise redis.ConnectionError("gone")
        sent.extend(task.subject for task in bundle)

    lab.enqueue("any", "1", "2", "3", "4")
    sender = Sender(lab.database, [Channel(("any",), 10, send)], timeout_seconds=30)
    with pytest.raises(redis.ConnectionError):
        sender.step()
    assert sent == ["1", "2"]
    assert [row[2] for row in lab.rows()] == ["SENT", "SENT", "PENDING", "PENDING"]


def test_a_message_has_tasks_of_one_actor(lab: Lab) -> None:
    sent: list[tuple[str, int]] = []

    def send(bundle: Sequence[tasks.Task]) -> None:
        (actor,) = {task.actor for task in bundle}
        sent.append((actor, len(bundle)))

    lab.enqueue("any", "1", "2", "3")
    lab.enqueue("other", "1", "2")
    channel = Channel(("any", "other"), 10, send, bundle=2)
    assert Sender(lab.database, [channel], timeout_seconds=30).step()
    assert sorted(sent) == [("any", 1), ("any", 2), ("other", 2)]


def test_first_attempts_run_together_and_after_a_failure_alone(lab: Lab, runner: Runner) -> None:
    seen: list[str | tuple[str, ...]] = []

    def alone(_resources: Resources, subject: str) -> None:
        seen.append(subject)
        if subject == "2":
            raise ValueError("no luck")

    def together(_resources: Resources, subjects: Sequence[str]) -> None:
        seen.append(tuple(subjects))
        if "2" in subjects:
            raise ValueError("no luck")

    actor = replace(an_actor(alone), work_together=together)
    runner.run(actor, claimed_all(lab, "any", "1", "3"))
    assert seen == [("1", "3")]
    assert lab.rows() == []
    seen.clear()
    task_ids = claimed_all(lab, "any", "1", "2", "3")
    runner.run(actor, task_ids)
    assert seen == [("1", "2", "3"), "1", "2", "3"]
    assert lab.rows() == [("any", "2", "PENDING", 1)]
    # The failed task runs alone the next time.
    seen.clear()
    with lab.database.autocommit() as connection:
        connection.execute(text("UPDATE tasks SET due_at = now()"))
    runner.run(actor, claimed_all(lab, "any", "1", "2", "3"))
    assert seen == [("1", "3"), "2"]


def test_tasks_lost_by_redis_are_resent_at_once(lab: Lab) -> None:
    claimed(lab)
    answers: Iterator[bool | None] = iter([None, True, False])

    def lost_everything() -> bool:
        answer = next(answers)
        if answer is None:
            raise redis.ConnectionError("gone")
        return answer

    sweeper = Sweeper(lab.database, lost_everything)
    assert not sweeper.step()
    assert sweeper.step()
    assert lab.rows() == [("any", "1", "PENDING", 0)]
    assert not sweeper.step()


def test_a_loop_survives_exceptions_and_does_not_spin() -> None:
    calls: list[float] = []

    def step() -> bool:
        calls.append(time.monotonic())
        raise UnavailableError("DATABASE_UNAVAILABLE", "gone", retry_after_seconds=1)

    loop = Loop("test", step, 0.05)
    loop.start()
    time.sleep(1)
    loop.stop()
    loop.join(5)
    assert 3 <= len(calls) <= 10


def test_published_events_enqueue_tasks(lab: Lab) -> None:
    with lab.database.transaction() as connection:
        event_stream.append_for_no_customer(connection, "rows_ingested", {}, CLOCK.moment())
        for seq, kind in ((1, "customer_registered"), (2, "loan_created"), (3, "score_changed")):
            connection.execute(
                text(
                    "INSERT INTO events (customer_id, event_seq, kind, customer_version,"
                    " occurred_at, payload) VALUES (101, :seq, :kind, 1, now(), '{}')"
                ),
                {"seq": seq, "kind": kind},
            )
    publisher = Publisher(lab.database, CLOCK, follow)
    assert publisher.step()
    assert not publisher.step()
    assert [row[:2] for row in lab.rows()] == [
        ("recompute_score", "101"),
        ("recompute_scores", "all"),
    ]
    with lab.database.autocommit() as connection:
        assert event_stream.last_event_id(connection) == 4


def test_the_timetable_enqueues_tasks(lab: Lab) -> None:
    now = [0.0]
    timetable = Timetable(lab.database, CLOCK, lambda: now[0])
    timetable.step()
    # No classes are announced yet: once for each day.
    announce = ("announce_classes", str(CLOCK.moment().today))
    assert [row[:2] for row in lab.rows()] == [announce]
    now[0] = 11.0
    timetable.step()
    timetable.step()
    assert [row[:2] for row in lab.rows()] == [announce, ("reconcile", "sample")]


def test_the_timetable_fails_an_abandoned_stream(lab: Lab) -> None:
    header = Header(uuid4(), "LOANS")
    begin_stream(lab.database, header, CLOCK.moment(), "tests")
    timetable = Timetable(lab.database, CLOCK, stream_silence_seconds=0.3)
    timetable.step()
    assert get_ingestion(lab.database, header.ingestion_id).state == "RUNNING"
    time.sleep(0.4)
    timetable.step()
    assert get_ingestion(lab.database, header.ingestion_id).error_code == "ABANDONED"


def test_actor_names_are_unique() -> None:
    assert len({actor.name for actor in ACTORS}) == len(ACTORS)


def test_a_misconfigured_worker_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "workers"],
        env={**os.environ, "CREDIT_WORKER_THREADS": "many"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    assert "worker_threads" in done.stderr or "WORKER_THREADS" in done.stderr
    assert "Traceback" not in done.stderr
