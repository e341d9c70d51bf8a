"""A worker process with test actors: `python -m tests.integration.workers.worker_under_test`.

The relay, runner and broker are real. Each actor inserts a row into the table `work_done`.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from sqlalchemy import text

from credit_service.observability.logs import configure_logging
from credit_service.settings import Settings
from credit_service.storage.database import Database
from workers.process import WorkerProcess, run
from workers.runner import Actor, Queue, Resources

QUICK = Queue("quick", share=1.0, window=200, prefetch=4, poll_seconds=0.025)
LONG = Queue("long", share=0.5, window=8)


def _note(resources: Resources, subject: str) -> None:
    with resources.database.autocommit() as connection:
        connection.execute(
            text("INSERT INTO work_done (subject) VALUES (:subject)"), {"subject": subject}
        )


def _gated(resources: Resources, subject: str) -> None:
    """Run until the gate opens; can be stopped at any time."""
    while not _gate_is_open(resources):
        time.sleep(0.02)
        resources.checkpoint()
    _note(resources, subject)


def _gate_is_open(resources: Resources) -> bool:
    with resources.database.autocommit() as connection:
        found = connection.execute(text("SELECT open FROM work_gate"))
        return bool(found.scalar_one())


def _deaf(resources: Resources, subject: str) -> None:
    """Run for the seconds at the start of the subject, and ignore requests to stop."""
    time.sleep(float(subject.split(maxsplit=1)[0]))
    _note(resources, subject)


def _deadly(_resources: Resources, _subject: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _give_up(resources: Resources, subject: str) -> None:
    _note(resources, f"gave up {subject}")


def _failing(_resources: Resources, _subject: str) -> None:
    raise ValueError("cannot reach +91 98765 98765")


ACTORS = (
    Actor("quick", QUICK, _note, time_limit_seconds=60),
    Actor("failing", QUICK, _failing, time_limit_seconds=60),
    Actor("gated", LONG, _gated, time_limit_seconds=60),
    Actor("deaf", LONG, _deaf, time_limit_seconds=60),
    Actor("deadly", LONG, _deadly, time_limit_seconds=60, give_up=_give_up),
)


def make_tables(database: Database) -> None:
    with database.autocommit() as connection:
        connection.execute(
            text("CREATE TABLE work_done (subject text, at timestamptz DEFAULT clock_timestamp())")
        )
        connection.execute(text("CREATE TABLE work_gate AS SELECT false AS open"))


@contextmanager
def worker(environment: Mapping[str, str], *options: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A worker process with these settings, killed at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.workers.worker_under_test", *options],
        env={**os.environ, **environment},
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def main() -> None:
    settings = Settings()
    configure_logging(settings, component="worker")
    run(
        WorkerProcess(
            settings,
            relay="--actors-only" not in sys.argv,
            act="--relay-only" not in sys.argv,
            actors=ACTORS,
            timetable=False,
        )
    )


if __name__ == "__main__":
    main()
