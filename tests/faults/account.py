"""The final account: compares responses with stored data, and stored data with itself."""

import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from typing import Any

from sqlalchemy import Connection, text

from credit_service.cache.positions import PositionCache
from credit_service.clock import Clock, Moment
from credit_service.domain.positions import CreditPosition
from credit_service.domain.scoring import score
from credit_service.storage import customers, scorecards
from credit_service.storage.database import Database
from credit_service.v1 import credit_service_pb2 as pb
from tests.faults import portfolio
from tests.faults.effects import effects
from tests.faults.history import History, Sent
from tests.faults.load import Load
from tests.faults.referrals import check_referrals
from tests.faults.replay import Replay
from tests.faults.stack import RELAYS, SERVERS, WORKERS, Stack

_LEFT = text(
    # Reconciliation is periodic, so its task does not count as unfinished work.
    """SELECT (SELECT count(*) FROM tasks WHERE actor <> 'reconcile')
        + (SELECT count(*) FROM events WHERE event_id IS NULL)
        + (SELECT count(*) FROM credit_scores WHERE valid_until <= :today)
        + (SELECT count(*) FROM loan_offers WHERE state = 'OPEN' AND last_day < :today)
        + (SELECT count(*) FROM referrals WHERE state = 'PENDING' AND last_day < :today)
        + (SELECT count(*) FROM bookmarks WHERE name = 'classes' AND position < :yesterday)
        + (SELECT count(*) FROM ingestions WHERE state IN ('QUEUED', 'RUNNING', 'REVERTING'))"""
)
_TASKS = text("SELECT actor, state, count(*), max(last_error) FROM tasks GROUP BY 1, 2")
_EVENT_KINDS = text(
    """SELECT
        (SELECT count(*) FROM events WHERE kind = 'loan_created')
            - (SELECT count(*) FROM loans WHERE NOT imported) AS loan_created,
        (SELECT count(*) FROM events WHERE kind = 'loan_declined')
            - (SELECT count(*) FROM decisions WHERE NOT approved AND NOT referred)
            AS loan_declined,
        (SELECT count(*) FROM events WHERE kind = 'decision_referred')
            - (SELECT count(*) FROM decisions WHERE referred) AS decision_referred,
        (SELECT count(*) FROM events WHERE kind = 'decision_reviewed')
            - (SELECT count(*) FROM referrals WHERE reviewed_at IS NOT NULL)
            AS decision_reviewed,
        (SELECT count(*) FROM events WHERE kind = 'loan_offer_created')
            - (SELECT count(*) FROM loan_offers) AS loan_offer_created,
        (SELECT count(*) FROM events WHERE kind = 'loan_offer_ended')
            - (SELECT count(*) FROM loan_offers WHERE state <> 'OPEN') AS loan_offer_ended,
        (SELECT count(*) FROM events WHERE kind = 'payment_recorded')
            - (SELECT count(*) FROM payments) AS payment_recorded,
        (SELECT count(*) FROM events WHERE kind = 'loan_closed')
            - (SELECT count(*) FROM payments WHERE closed_loan) AS loan_closed,
        (SELECT count(*) FROM events WHERE kind = 'payment_reversed')
            - (SELECT count(*) FROM payment_reversals) AS payment_reversed,
        (SELECT count(*) FROM events WHERE kind = 'score_changed')
            - (SELECT count(*) FROM score_history) AS score_changed,
        (SELECT count(*) FROM events WHERE kind IN ('customer_updated', 'loan_updated'))
            - (SELECT count(*) FROM (SELECT DISTINCT customer_id, event_seq FROM fact_changes) f)
            AS facts_changed"""
)
_ENDED_TWICE = text(
    """SELECT (SELECT count(*) FROM (
            SELECT payload ->> 'offer_id' FROM events WHERE kind = 'loan_offer_ended'
            GROUP BY 1 HAVING count(*) > 1) AS twice)
        + (SELECT count(*) FROM (
            SELECT offer_id FROM loans WHERE offer_id IS NOT NULL
            GROUP BY 1 HAVING count(*) > 1) AS twice)"""
)
_EVENT_GAPS = text(
    """SELECT count(*) FILTER (WHERE step <> 1), count(*) FILTER (WHERE advance < 1) FROM (
        SELECT event_seq - lag(event_seq, 1, 0::bigint) OVER w AS step,
            event_id - lag(event_id, 1, 0::bigint) OVER w AS advance
        FROM events WHERE customer_id > 0
        WINDOW w AS (PARTITION BY customer_id ORDER BY event_seq)
    ) AS e"""
)
_SESSIONS = text(
    """SELECT application_name, state, count(*),
        coalesce(max(extract(epoch FROM now() - state_change)), 0)::float
    FROM pg_stat_activity
    WHERE datname = current_database() AND application_name LIKE 'credit-service%'
    GROUP BY 1, 2"""
)
# The limits of the settings: the pool of each process.
_MOST_SESSIONS = {
    "credit-service": 12 * SERVERS,
    "credit-service-probe": SERVERS,
    # Actors, heartbeat and six spare connections; a relay has the six.
    "credit-service worker": 20 * WORKERS + 6 * RELAYS,
}


_NEW_INCOMES = text(
    """SELECT CAST(new_value AS bigint) FROM fact_changes
    WHERE fact = 'monthly_income_paise' AND ingestion_id IS NULL"""
)
_REPEATED_INCOMES = text(
    """SELECT count(*) FROM (SELECT new_value FROM fact_changes
    WHERE fact = 'monthly_income_paise' GROUP BY 1 HAVING count(*) > 1) AS repeated"""
)
_INGESTIONS = text(
    """SELECT i.ingestion_id, i.state, i.committed_offset, i.rows_read, i.inserted, i.rejected,
        i.rows_removed, i.rows_restored, i.rows_kept, i.created_at,
        ARRAY(SELECT l.loan_id FROM loans l WHERE l.ingestion_id = i.ingestion_id) AS loan_ids
    FROM ingestions i"""
)
_APPROVALS = text(
    """SELECT customer_id, array_agg(decided_at) FROM decisions
    WHERE approved AND customer_id = ANY(:customer_ids) GROUP BY customer_id"""
)


class Account:
    """Checks one campaign after its load, and adds errors to the history's findings."""

    def __init__(self, stack: Stack, load: Load, past: History, drain_seconds: float) -> None:
        self._stack = stack
        self._load = load
        self._history = past
        self._drain_seconds = drain_seconds
        self.checked: dict[str, int] = {}

    def check(self) -> None:
        """Run all checks, the last one after servers and workers are stopped."""
        database = Database(
            self._stack.sqlalchemy_url,
            pool_size=2,
            statement_timeout_seconds=60.0,
            application_name="account",
        )
        try:
            self._check_outbox(database)
            with database.transaction() as connection:
                self._check_loans_and_payments(connection)
                self._check_request_ids(connection)
                self._check_ingestions(connection)
                check_referrals(connection, self._find, self.checked)
                self._check_customers(connection)
                self._check_events(connection)
            with database.autocommit() as connection:
                self._check_sessions(connection)
                for failure in self._stack.stop_parts():
                    self._find("process", failure)
                self._check_end(connection)
        finally:
            database.dispose()
        self._check_log()

    def _find(self, kind: str, text_: str) -> None:
        self._history.find(kind, text_)

    @property
    def _moment(self) -> Moment:
        return Clock(offset_file=self._stack.clock_file).moment()

    def _check_outbox(self, database: Database) -> None:
        """Wait until all background work is done."""
        until = time.monotonic() + self._drain_seconds
        left = -1
        while time.monotonic() < until:
            with suppress(Exception), database.autocommit() as connection:
                today = self._moment.today
                days = {"today": today, "yesterday": today.toordinal() - 1}
                left = connection.execute(_LEFT, days).scalar_one()
                if not left:
                    return
            time.sleep(0.2)
        with database.autocommit() as connection:
            rows = [tuple(row) for row in connection.execute(_TASKS)]
        self._find("outbox", f"{left} tasks, events or ingestions are unfinished; tasks: {rows}")

    def _check_loans_and_payments(self, connection: Connection) -> None:
        """Check that exactly the acknowledged records are stored."""
        acknowledged: dict[str, set[Any]] = {
            name: set()
            for name in (
                "loans",
                "payments",
                "reversals",
                "offers",
                "withdrawn",
                "updates",
                "reviews",
            )
        }
        for asked in self._history.asked.values():
            for answer in asked.answers[:1]:
                for name, found in effects(asked.method, answer):
                    acknowledged[name].add(found)
        stored: dict[str, set[Any]] = {
            "loans": {
                (row[0], row[1])
                for row in connection.execute(
                    text("SELECT customer_id, loan_id FROM loans WHERE NOT imported")
                )
            },
            "payments": set(connection.execute(text("SELECT payment_id FROM payments")).scalars()),
            "reversals": set(
                connection.execute(
                    text(
                        """SELECT payment_id FROM payment_reversals
                        JOIN payments USING (customer_id, loan_id, payment_number)"""
                    )
                ).scalars()
            ),
            "offers": set(connection.execute(text("SELECT offer_id FROM loan_offers")).scalars()),
            "withdrawn": set(
                connection.execute(
                    text("SELECT offer_id FROM loan_offers WHERE state = 'WITHDRAWN'")
                ).scalars()
            ),
            # Each request gives another income.
            "updates": set(connection.execute(_NEW_INCOMES).scalars()),
            "reviews": set(
                connection.execute(
                    text("SELECT decision_id FROM referrals WHERE reviewed_at IS NOT NULL")
                ).scalars()
            ),
        }
        for name, ids in stored.items():
            self.checked[name] = len(ids)
            lost, surplus = acknowledged[name] - ids, ids - acknowledged[name]
            if lost or surplus:
                self._find(name, f"{len(lost)} lost, {len(surplus)} stored but not acknowledged")

    def _check_request_ids(self, connection: Connection) -> None:
        """Check that each request id has one effect and one response."""
        for request_id, asked in self._history.asked.items():
            different = list(dict.fromkeys(asked.answers))
            if len(different) > 1:
                self._find(
                    "reply", f"{asked.method} {request_id} got different responses: {different}"
                )
        twice = connection.execute(_ENDED_TWICE).scalar_one()
        if twice:
            self._find("effect", f"{twice} offers ended more than once")
        self.checked["repeats"] = sum(
            max(0, len(asked.answers) - 1) for asked in self._history.asked.values()
        )
        repeated = connection.execute(_REPEATED_INCOMES).scalar_one()
        if repeated:
            self._find("effect", f"{repeated} changes of customers were made more than once")
        for table in ("decisions", "payments"):
            duplicated = connection.execute(
                text(
                    f"""SELECT count(*) FROM (SELECT request_id FROM {table}
                    GROUP BY request_id HAVING count(*) > 1) AS duplicated"""  # noqa: S608 - two names of ours
                )
            ).scalar_one()
            if duplicated:
                self._find("effect", f"{duplicated} request ids have several {table}")
        recorded = set(
            connection.execute(text("SELECT CAST(request_id AS text) FROM requests")).scalars()
        )
        unrecorded = sum(
            asked.answers != [] and request_id not in recorded
            for request_id, asked in self._history.asked.items()
        )
        if unrecorded:
            self._find("effect", f"{unrecorded} requests with a response have no record")
        kept = sum(
            asked.answers == [] and asked.is_refused and request_id in recorded
            for request_id, asked in self._history.asked.items()
        )
        if kept:
            self._find("effect", f"{kept} requests with rejections only have a record")

    def _check_ingestions(self, connection: Connection) -> None:
        """Check that ingested plus rejected rows equal the sent ones, or the first of them for a
        cancelled ingestion, and that exactly the loans are stored that were not taken back."""
        rows = {row.ingestion_id: row for row in connection.execute(_INGESTIONS)}
        values = {"customer_ids": list(portfolio.INGESTED)}
        approvals: dict[int, list[datetime]] = {
            row[0]: row[1] for row in connection.execute(_APPROVALS, values)
        }
        states: Counter[str] = Counter()
        for sent in self._history.sent:
            row = rows.get(sent.ingestion_id)
            if row is None:
                if sent.acknowledged:
                    self._find("rows", f"{sent.ingestion_id} was acknowledged and is missing")
                continue
            states[row.state] += 1
            is_reverted = sent.revert is not None and sent.revert.is_done
            is_cancelled = sent.cancel is not None and sent.cancel.is_done
            ended = "CANCELLED" if is_cancelled else "SUCCEEDED"
            count = row.committed_offset if is_cancelled else len(sent.rows)
            good = sent.good(count)
            stored = len(row.loan_ids)
            found = (*row[1:6], row.rows_removed + row.rows_kept, stored, row.rows_restored)
            right = (
                "REVERTED" if is_reverted else ended,
                count,
                count,
                good,
                count - good,
                good if is_reverted else 0,
                row.rows_kept if is_reverted else good,
                0,
            )
            if found != right:
                self._find("rows", f"{sent.ingestion_id}: {found} should be {right}")
            if is_reverted:
                self._check_reverted(sent, row, count, approvals)
        self.checked |= {"ingestions": len(self._history.sent)}
        self.checked |= {f"ingestions {state}": count for state, count in states.items()}

    def _check_reverted(
        self, sent: Sent, row: Any, count: int, approvals: dict[int, list[datetime]]
    ) -> None:
        """Check that a revert kept the loans of customers with a loan approved after the ingestion
        and before the revert, and no loan of a customer without one."""
        left = set(row.loan_ids)
        borrowers = self._borrowers_between(sent)
        for each in sent.rows[:count]:
            is_left = each.loan_id in left
            if is_left and not any(
                at >= row.created_at for at in approvals.get(each.customer_id, ())
            ):
                self._find("revert", f"{sent.ingestion_id} kept {each} without a reason")
            if each.is_valid and each.customer_id in borrowers:
                self.checked["rows to keep"] = self.checked.get("rows to keep", 0) + 1
                if not is_left:
                    self._find("revert", f"{sent.ingestion_id} removed {each} after an approval")

    def _borrowers_between(self, sent: Sent) -> set[int]:
        """The customers with a loan that was asked for after the acknowledged end of an ingestion,
        and approved before its revert was asked for."""
        # An upload is acknowledged before its end.
        if sent.uploaded or sent.acknowledged_at is None or sent.revert is None:
            return set()
        return {
            customer_id
            for customer_id, asked_at, answered_at in self._ingested_approvals
            if sent.acknowledged_at < asked_at and answered_at < sent.revert.asked_at
        }

    @cached_property
    def _ingested_approvals(self) -> list[tuple[int, float, float]]:
        """(customer, asked at, answered at) of the approved loans of customers with ingestions."""
        return [
            (asked.request.customer_id, asked.asked_at, asked.answered_at)
            for asked in self._history.asked.values()
            if asked.method == "CreateLoan"
            and asked.request.customer_id in portfolio.BORROWING
            and asked.answered_at is not None
            and pb.CreateLoanResponse.FromString(asked.answers[0]).approved
        ]

    def _check_customers(self, connection: Connection) -> None:
        """Check derived data against a full recomputation, and each cache entry against the
        data."""
        scorecard = scorecards.active(connection, self._moment.today)
        replay = Replay(connection, scorecard, self._find)
        replay.run(portfolio.INGESTED)
        scores = {
            row[0]: (row[1], row[2])
            for row in connection.execute(
                text("SELECT customer_id, score, override FROM credit_scores")
            )
        }
        today = self._moment.today
        cache = PositionCache(self._stack.databases.redis_url, timeout_seconds=5.0)
        cached = 0
        for customer_id, life in replay.lives.items():
            stored = customers.position_facts(connection, customer_id).stored
            if replace(stored, arrears=None) != replay.position(life, stored.as_of):
                expected = replay.position(life, stored.as_of)
                self._find("position", f"{stored} should be {expected}")
            right_arrears = replay.days_and_class(life, today)
            if stored.arrears is not None and right_arrears != (
                stored.arrears.days_past_due(today),
                stored.arrears.asset_class(today),
            ):
                self._find("arrears", f"{stored} should be {right_arrears} on {today}")
            if left := replay.unannounced(life, today):
                self._find("class", f"customer {customer_id}: no event of {left}")
            fresh = replay.position(life, today)
            right = score(fresh, scorecard)
            if scores.get(customer_id) != (right.score, right.override):
                self._find(
                    "score", f"of {customer_id}: {scores.get(customer_id)} should be {right.score}"
                )
            if (life.last_score, life.last_override) != scores.get(customer_id):
                self._find("score", f"of {customer_id}: the history ends with {life.last_score}")
            entry = cache.get(customer_id, today)
            if entry is not None:
                cached += 1
                if _timeless(entry.position) != _timeless(fresh):
                    self._find("cache", f"{entry.position} should be {fresh}")
        cache.close()
        wrong = connection.execute(text("SELECT count(*) FROM discrepancies")).scalar_one()
        if wrong:
            self._find("position", f"the service itself found and corrected {wrong} customers")
        self.checked |= {
            "customers": len(replay.lives),
            "decisions": replay.decisions_checked,
            "reversed": replay.reversals_checked,
            "prepaid": replay.prepayments_checked,
            "backdated": replay.backdated_checked,
            "changed facts": replay.updates_checked,
            "classes": replay.classes_checked,
            "policy facts": replay.facts_checked,
            "scores": replay.scores_checked,
            "cached": cached,
        }

    def _check_events(self, connection: Connection) -> None:
        """Check that each fact has an event, ordered per customer, and received once by the
        watcher."""
        for kind, surplus in connection.execute(_EVENT_KINDS).mappings().one().items():
            if surplus:
                self._find("event", f"{surplus:+d} {kind} events compared with the stored facts")
        gaps, turns = connection.execute(_EVENT_GAPS).one()
        if gaps or turns:
            self._find("event", f"{gaps} are missing and {turns} out of order")
        # Unpublished ones are findings of the outbox.
        published = text("SELECT event_id, customer_id FROM events WHERE event_id IS NOT NULL")
        stored = {row[0]: row[1] for row in connection.execute(published)}
        last = max(stored, default=0)
        until = time.monotonic() + self._drain_seconds
        seen = self._history.events
        while (not seen or seen[-1][0] < last) and time.monotonic() < until:
            time.sleep(0.1)
        # A reconciliation that corrected data may have added more in the meantime.
        heard = [event for event in seen if event[0] <= last]
        if heard != sorted(stored.items()):
            missed = len(stored.items() - set(heard))
            self._find("event", f"the watcher missed {missed}, or saw some twice or out of order")
        if not self._load.watching:
            self._find("event", "the watcher ended")
        self.checked["events"] = len(stored)

    def _check_sessions(self, connection: Connection) -> None:
        """Check that no transaction is open and no process has more connections than its pool."""
        counts = dict.fromkeys(_MOST_SESSIONS, 0)
        for name, state, count, seconds in connection.execute(_SESSIONS):
            counts[name] = counts.get(name, 0) + count
            if (state or "").startswith("idle in transaction") and seconds > 5.0:
                self._find("session", f"{name}: a transaction was idle for {seconds:.0f} s")
        for name, count in counts.items():
            if count > _MOST_SESSIONS.get(name, 0):
                self._find("session", f"{name} has {count} connections")

    def _check_end(self, connection: Connection) -> None:
        """Check that stopped parts left nothing behind."""
        until = time.monotonic() + 10.0
        while (left := connection.execute(_SESSIONS).all()) and time.monotonic() < until:
            time.sleep(0.1)
        if left:
            self._find("session", f"left behind: {[tuple(row) for row in left]}")
        if strays := self._stack.strays():
            self._find("process", f"left behind: {strays}")

    def _check_log(self) -> None:
        """Check that no log reports a bug.

        On a busy machine a message with many tasks reaches the time limit of its actor. This is
        counted and is not a bug: the tasks are resent, and the outbox must become empty.
        """
        self.checked["time limits"] = 0
        for line in self._stack.log.splitlines():
            if "TimeLimitExceeded" in line:
                self.checked["time limits"] += 1
            elif "Traceback" in line or "discrepancy_found" in line:
                # The exception itself is at the end of a traceback.
                self._find("log", line if len(line) < 1_200 else f"{line[:200]} … {line[-1_000:]}")


def _timeless(position: CreditPosition) -> CreditPosition:
    """The figures of a position, without its arrears and the day on which it was computed."""
    return replace(position, version=0, as_of=position.valid_until, arrears=None)
