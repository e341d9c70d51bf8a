"""Scores of 1,00,000 customers, recomputed after an ingestion."""

import time
from contextlib import ExitStack

import psycopg

from benchmarks import bed
from benchmarks.bed import Bed
from tests.load.report import Report

_CUSTOMERS = 100_000
_LIMIT_SECONDS = 30.0


def run(test_bed: Bed) -> Report:
    """Run this part on a separate database, with a regular worker."""
    report = Report("recompute")
    url = test_bed.database("recompute")
    bed.fill(url, 1, _CUSTOMERS, 3)
    with ExitStack() as running:
        connection = running.enter_context(psycopg.connect(url, autocommit=True))
        running.enter_context(bed.worker(url, test_bed.redis_url))
        time.sleep(3.0)
        began = time.monotonic()
        connection.execute(
            """INSERT INTO tasks (actor, subject, due_at, created_at)
            VALUES ('recompute_scores', 'all', now(), now())"""
        )
        while time.monotonic() < began + 10 * _LIMIT_SECONDS:
            if _count(connection, "tasks WHERE actor = 'recompute_scores'") == 0:
                break
            time.sleep(0.05)
        seconds = time.monotonic() - began
        scored = _count(connection, "credit_scores")
    report.expect(
        scored == _CUSTOMERS and seconds < _LIMIT_SECONDS,
        f"{scored:,} scores in {seconds:.1f} s, at most {_LIMIT_SECONDS:g} s",
    )
    return report


def _count(connection: psycopg.Connection, of: str) -> int:
    row = connection.execute(f"SELECT count(*) FROM {of}".encode()).fetchone()  # noqa: S608 - written above
    assert row is not None
    return int(row[0])
