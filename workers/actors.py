"""The actors, their queues, and the events and times that enqueue their tasks.

An actor is a function of one subject, an id. It may run twice, and concurrently with itself.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from uuid import UUID

from sqlalchemy import Connection

from credit_service.clock import Clock, Moment
from credit_service.commands.announce_classes import announce_classes, is_due
from credit_service.commands.offers import expire_offers
from credit_service.commands.recompute_scores import (
    lagging,
    recompute_batch,
    recompute_past_horizon,
    recompute_scores,
)
from credit_service.commands.reconcile import reconcile
from credit_service.commands.review_decision import expire_referrals
from credit_service.commands.scorecards import decide_in_shadow, follow_schedule
from credit_service.domain.positions import CreditPosition
from credit_service.ingestion import reverting
from credit_service.ingestion.streams import abandon_streams
from credit_service.ingestion.uploads import fail_upload, run_upload
from credit_service.storage import event_stream, offers, scorecards, scores, tasks
from credit_service.storage.database import Database
from credit_service.storage.event_stream import PublishedEvent
from workers.runner import Actor, Queue, Resources

RECONCILE_SECONDS = 10.0
"""Pause between two samples of the reconciliation."""

_PARALLEL_BATCHES = 2
"""Batches of customers that are recomputed in parallel."""

_EXPIRED_BATCH = 100
"""Offers that are marked as expired before their customers' cache entries are renewed."""

UPLOADS = Queue("uploads", share=0.5, window=16)
BATCHES = Queue("batches", share=0.25, window=16, connections=_PARALLEL_BATCHES + 1)
CUSTOMERS = Queue("customers", share=1.0, window=500, prefetch=4, poll_seconds=0.025, bundle=50)


def _ingest_upload(resources: Resources, subject: str) -> None:
    """Ingest an uploaded file from its last committed row. Subject: the ingestion's id."""
    run_upload(
        resources.database,
        UUID(subject),
        resources.clock,
        batch_rows=resources.ingestion_batch_rows,
        on_progress=resources.checkpoint,
        on_moved=resources.cache.drop,
    )


def _give_up_upload(resources: Resources, subject: str) -> None:
    """Mark the ingestion as failed, for the callers that watch it."""
    fail_upload(
        resources.database,
        UUID(subject),
        "ATTEMPTS_EXHAUSTED",
        f"{tasks.MAX_ATTEMPTS} attempts at ingesting the file failed.",
        resources.clock.moment(),
    )


def _revert_ingestion(resources: Resources, subject: str) -> None:
    """Take back the rows of an ingestion. Subject: the ingestion's id."""
    reverting.run_revert(
        resources.database,
        UUID(subject),
        resources.clock,
        on_progress=resources.checkpoint,
        on_moved=resources.cache.drop,
    )


def _give_up_revert(resources: Resources, subject: str) -> None:
    """Publish the rows taken back so far; the ingestion stays REVERTING."""
    reverting.announce_revert(resources.database, UUID(subject), resources.clock.moment())


def _recompute_score(resources: Resources, subject: str) -> None:
    """Recompute a customer's stored score. Subject: the customer's id."""
    _recompute(resources, [int(subject)], skip_locked=False)


def _recompute_together(resources: Resources, subjects: Sequence[str]) -> None:
    """Recompute several customers in one transaction, and locked ones afterwards, one by one."""
    customer_ids = [int(subject) for subject in subjects]
    done = _recompute(resources, customer_ids, skip_locked=True)
    for customer_id in customer_ids:
        if customer_id not in done:
            _recompute(resources, [customer_id], skip_locked=False)


def _recompute(resources: Resources, customer_ids: Sequence[int], *, skip_locked: bool) -> set[int]:
    """Recompute and cache; return the ids of the customers that were not skipped."""
    moment, started_at = resources.clock.moment(), time.monotonic()

    def attempt(_number: int) -> tuple[list[CreditPosition], str]:
        with resources.database.transaction() as connection:
            positions = recompute_scores(connection, customer_ids, moment, skip_locked=skip_locked)
            return positions, scorecards.active_version(connection, moment.today)

    positions, version = resources.database.retry(attempt)
    resources.cache.put(positions, version, moment, read_at=started_at)
    return {each.customer_id for each in positions}


def _recompute_scores(resources: Resources, _subject: str) -> None:
    """Recompute every outdated score. The subject is ignored.

    Two batches in parallel: PostgreSQL stores one while this process computes the other.
    """
    with ThreadPoolExecutor(_PARALLEL_BATCHES, thread_name_prefix="recompute") as executor:
        running: deque[Future[None]] = deque()
        last = 0
        while True:
            resources.checkpoint()
            moment = resources.clock.moment()

            def attempt(_number: int, moment: Moment = moment, last: int = last) -> list[int]:
                return lagging(resources.database, moment, last)

            customer_ids = resources.database.retry(attempt)
            if not customer_ids:
                break
            last = customer_ids[-1]
            if len(running) == _PARALLEL_BATCHES:
                running.popleft().result()
            in_context = copy_context().run
            running.append(
                executor.submit(in_context, _recompute_batch, resources, customer_ids, moment)
            )
        for each in running:
            each.result()


def _recompute_batch(resources: Resources, customer_ids: Sequence[int], moment: Moment) -> None:
    positions = resources.database.retry(
        lambda _number: recompute_batch(resources.database, moment, customer_ids)
    )
    _renew_cached(resources, positions, moment)


def _refresh_due_scores(resources: Resources, _subject: str) -> None:
    """Recompute the scores that a due date or a new year has outdated. Subject: the day."""
    while True:
        resources.checkpoint()
        moment = resources.clock.moment()

        def attempt(_number: int, moment: Moment = moment) -> list[CreditPosition]:
            return recompute_past_horizon(resources.database, moment)

        positions = resources.database.retry(attempt)
        if not positions:
            return
        _renew_cached(resources, positions, moment)


def _expire_offers(resources: Resources, _subject: str) -> None:
    """Mark the offers that are past their last day as EXPIRED. Subject: the day."""
    while True:
        resources.checkpoint()
        moment = resources.clock.moment()
        positions = expire_offers(resources.database, moment, _EXPIRED_BATCH)
        if not positions:
            return
        _renew_cached(resources, positions, moment)


def _announce_classes(resources: Resources, _subject: str) -> None:
    """Announce the classes of days that have ended. Subject: the day."""
    announce_classes(resources.database, resources.clock.moment(), resources.checkpoint)


def _reconcile(resources: Resources, _subject: str) -> None:
    """Compare the next sample of customers with a full recomputation. The subject is ignored."""
    moment = resources.clock.moment()
    found = resources.database.retry(lambda _number: reconcile(resources.database, moment))
    _renew_cached(resources, found.corrected, moment)


def _decide_in_shadow(resources: Resources, subject: str) -> None:
    """Store the decision of the shadow scorecard. Subject: the decision's id."""
    resources.database.retry(lambda _number: decide_in_shadow(resources.database, int(subject)))


def _renew_cached(
    resources: Resources, positions: Sequence[CreditPosition], moment: Moment
) -> None:
    """Replace the cache entries of these customers, and add none for the others."""
    if positions:
        started_at = time.monotonic()
        with resources.database.autocommit() as connection:
            version = scorecards.active_version(connection, moment.today)
        resources.cache.put(positions, version, moment, read_at=started_at, only_over_old=True)


ACTORS = (
    Actor(
        "ingest_upload",
        UPLOADS,
        _ingest_upload,
        time_limit_seconds=3600,
        give_up=_give_up_upload,
    ),
    Actor(
        reverting.ACTOR,
        BATCHES,
        _revert_ingestion,
        time_limit_seconds=3600,
        give_up=_give_up_revert,
    ),
    Actor("recompute_scores", BATCHES, _recompute_scores, time_limit_seconds=3600),
    Actor("refresh_due_scores", BATCHES, _refresh_due_scores, time_limit_seconds=3600),
    Actor("expire_offers", BATCHES, _expire_offers, time_limit_seconds=3600),
    Actor("announce_classes", BATCHES, _announce_classes, time_limit_seconds=3600),
    Actor("reconcile", BATCHES, _reconcile, time_limit_seconds=300),
    Actor(
        "recompute_score",
        CUSTOMERS,
        _recompute_score,
        work_together=_recompute_together,
        time_limit_seconds=60,
    ),
    Actor("decide_in_shadow", CUSTOMERS, _decide_in_shadow, time_limit_seconds=60),
)


# Tasks enqueued by events and by time.


def follow(connection: Connection, published: Sequence[PublishedEvent], moment: Moment) -> None:
    """Enqueue the tasks that these events require, in the transaction that publishes them."""
    moved = _first_traces(
        (event.customer_id, event.traceparent)
        for event in published
        if event.kind in event_stream.SCORE_CHANGING_KINDS and not event.of_ingestion
    )
    tasks.enqueue_for(connection, "recompute_score", moved, moment)
    ingested = _first_traces(
        ("all", event.traceparent) for event in published if event.kind == "rows_ingested"
    )
    tasks.enqueue_for(connection, "recompute_scores", ingested, moment)
    decided = _first_traces(
        (event.decision_id, event.traceparent)
        for event in published
        if event.decision_id is not None
    )
    if decided and scorecards.shadow(connection) is not None:
        tasks.enqueue_for(connection, "decide_in_shadow", decided, moment)


def _first_traces(subjects: Iterable[tuple[object, str | None]]) -> dict[str, str | None]:
    """Each subject with its first traceparent that is not None."""
    first: dict[str, str | None] = {}
    for subject, traceparent in subjects:
        first[str(subject)] = first.get(str(subject)) or traceparent
    return first


class Timetable:
    """Enqueues the tasks that time requires."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        stream_silence_seconds: float = 900.0,
    ) -> None:
        """A stream without rows for `stream_silence_seconds` is abandoned."""
        self._stream_silence_seconds = stream_silence_seconds
        self._database = database
        self._clock = clock
        self._monotonic = monotonic
        self._next_reconciliation = monotonic() + RECONCILE_SECONDS

    def step(self) -> bool:
        """Enqueue the refresh of outdated scores, the expiry of offers, the announcement of asset
        classes and the reconciliation, make scorecards follow their schedule, fail abandoned
        streams, and mark expired referrals."""
        moment = self._clock.moment()
        follow_schedule(self._database, moment)
        with self._database.autocommit() as connection:
            if scores.past_horizon(connection, today=moment.today, limit=1):
                tasks.enqueue(connection, "refresh_due_scores", str(moment.today), moment)
            if offers.expired(connection, moment.today, limit=1):
                tasks.enqueue(connection, "expire_offers", str(moment.today), moment)
            if is_due(connection, moment):
                tasks.enqueue(connection, "announce_classes", str(moment.today), moment)
            if self._monotonic() >= self._next_reconciliation:
                self._next_reconciliation = self._monotonic() + RECONCILE_SECONDS
                tasks.enqueue(connection, "reconcile", "sample", moment)
        abandon_streams(self._database, moment, self._stream_silence_seconds)
        expire_referrals(self._database, moment)
        return False
