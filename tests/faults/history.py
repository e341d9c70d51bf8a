"""The calls and their responses, with which the account compares the stored data."""

import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc

from credit_service.v1 import credit_service_pb2 as pb
from tests.faults.portfolio import SentRow

TRY_AGAIN = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
"""The statuses after which callers try again."""
CALL_SECONDS = 5.0
"""Deadline of a call."""
_MOST_FINDINGS = 1_000
"""Most findings of each kind: one kind must not hide another."""
_OLD_SHARE = 0.4
_RECENT_SHARE = 0.8
_DECIDING = ("CreateLoan", "CreateLoanOffer")
_OFFERING = ("CreateLoanOffer", "ReviewDecision")
_LATEST_INGESTIONS = 20
_CANCEL_SHARE = 0.3
_REVERT_SHARE = 0.3


@dataclass
class Asked:
    """A write with a request id, all its responses, whether the rules rejected it, and whether one
    of its calls ended without a response. Times of time.monotonic()."""

    method: str
    request: Any
    asked_at: float
    answers: list[bytes] = field(default_factory=list)
    answered_at: float | None = None
    is_refused: bool = False
    was_lost: bool = False


@dataclass
class Undo:
    """A request to cancel or to revert an ingestion, and whether it was acknowledged or rejected by
    the rules."""

    method: str
    request_id: UUID
    asked_at: float = field(default_factory=time.monotonic)
    is_done: bool = False
    is_refused: bool = False

    @property
    def is_open(self) -> bool:
        """Whether it has neither a response nor a rejection."""
        return not (self.is_done or self.is_refused)


@dataclass
class Sent:
    """An ingestion: its rows, each with whether it is valid, and the reported end."""

    ingestion_id: UUID
    path: Path
    rows: list[SentRow]
    uploaded: bool
    # Sent concurrently by two clients with the same id.
    twice: bool
    acknowledged_at: float | None = None
    cancel: Undo | None = None
    revert: Undo | None = None

    @property
    def acknowledged(self) -> bool:
        """Whether its end was acknowledged, or for an upload that the file is stored."""
        return self.acknowledged_at is not None

    @property
    def undos(self) -> list[Undo]:
        """The requests to cancel and to revert it."""
        return [each for each in (self.cancel, self.revert) if each is not None]

    def good(self, until: int | None = None) -> int:
        """The number of valid rows, of all or of the first ones."""
        return sum(row.is_valid for row in self.rows[:until])


@dataclass(frozen=True, slots=True)
class Ended:
    """A call that its caller waited for; times of time.monotonic()."""

    method: str
    status: str
    began_at: float
    ended_at: float

    @property
    def is_write(self) -> bool:
        """Whether it shows that writes are possible."""
        return self.method == "CreateLoan" and self.status == "OK"


@dataclass(frozen=True, slots=True)
class Promotion:
    """A failover; times of time.monotonic(). `recovered_at`: a write that began after the promotion
    was acknowledged; None: none was in time."""

    how: str
    failed_at: float
    promoted_at: float
    recovered_at: float | None


@dataclass(frozen=True, slots=True)
class Finding:
    """A violation. `kind` names the broken guarantee."""

    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


class History:
    """The history of a campaign. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.calls: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.asked: dict[str, Asked] = {}
        self.sent: list[Sent] = []
        self.events: list[tuple[int, int]] = []
        self.findings: list[Finding] = []
        self._found: Counter[str] = Counter()
        self.ended: list[Ended] = []
        self.promotions: list[Promotion] = []
        self._booked: list[tuple[int, int]] = []
        self._old: list[tuple[int, int]] = []
        # Of loans with payments: the start, and the day of the last payment.
        self._paid_days: dict[tuple[int, int], tuple[date, date]] = {}
        self._offered: list[tuple[int, int]] = []
        self._paid: list[int] = []
        self._referred: list[int] = []

    def find(self, kind: str, text: str) -> None:
        """Record a violation."""
        with self._lock:
            self._found[kind] += 1
            if self._found[kind] <= _MOST_FINDINGS:
                self.findings.append(Finding(kind, text))

    def count(self, counter: Counter[str], name: str) -> None:
        """Increment a counter."""
        with self._lock:
            counter[name] += 1

    def ends(self, method: str, status: str, began_at: float) -> None:
        """Record the end of a call that its caller did not cancel."""
        with self._lock:
            self.ended.append(Ended(method, status, began_at, time.monotonic()))

    def first_write(self, since: float) -> float | None:
        """When the first write that began at that time or later was acknowledged; None if none
        was."""
        with self._lock:
            ended = list(self.ended)
        found = [each.ended_at for each in ended if each.is_write and each.began_at >= since]
        return min(found, default=None)

    def asks(self, method: str, request: Any) -> Asked:
        """Record a write before it is sent."""
        with self._lock:
            asked = Asked(method, request, time.monotonic())
            return self.asked.setdefault(request.request_id, asked)

    def answered(self, asked: Asked, answer: Any) -> None:
        """Record a response."""
        with self._lock:
            asked.answers.append(answer.SerializeToString(deterministic=True))
            asked.answered_at = asked.answered_at or time.monotonic()
            known = answer.DESCRIPTOR.fields_by_name
            if "loan" in known and "payment" not in known and answer.HasField("loan"):
                self._booked.append((answer.loan.customer_id, answer.loan.loan_id))
            if asked.method in _OFFERING and answer.HasField("offer"):
                self._offered.append((answer.offer.offer_id, answer.offer.loan_amount.units))
            if asked.method in _DECIDING and answer.HasField("referral"):
                self._referred.append(answer.decision_id)
            if isinstance(answer, pb.RecordPaymentResponse):
                self._paid.append(answer.payment.payment_id)
                key = (answer.loan.customer_id, answer.loan.loan_id)
                start, paid_on = _day(answer.loan.start_date), _day(answer.payment.paid_on)
                _, last = self._paid_days.get(key, (start, paid_on))
                self._paid_days[key] = start, max(last, paid_on)

    def booked_long_ago(self) -> None:
        """Note that all loans so far were booked before the load begins."""
        with self._lock:
            self._old = list(self._booked)

    def refused(self, request: Any) -> None:
        """Record a rejection by the rules, which has no effect and is not stored."""
        with self._lock:
            asked = self.asked.get(request.request_id)
            # A call that only validates is not recorded.
            if asked is not None:
                asked.is_refused = True

    def lost(self, request: Any) -> None:
        """Record a call that ended without a response; the server may still be running it."""
        with self._lock:
            asked = self.asked.get(getattr(request, "request_id", ""))
            if asked is not None:
                asked.was_lost = True

    def reopen_refused(self) -> None:
        """Let requests be repeated that were rejected while another call of theirs, which was lost,
        may still have been running."""
        with self._lock:
            for asked in self.asked.values():
                if asked.is_refused and asked.was_lost:
                    asked.is_refused = False

    def sends(self, sent: Sent) -> None:
        """Record the start of an ingestion."""
        with self._lock:
            self.sent.append(sent)

    def recent(self, pick: random.Random) -> Asked | None:
        """One of the latest writes."""
        with self._lock:
            latest = list(self.asked.values())[-200:] if self.asked else []
        return pick.choice(latest) if latest else None

    def loan(self, pick: random.Random) -> tuple[int, int] | None:
        """A booked (customer, loan), often one from before the load, else preferably a recent
        one."""
        with self._lock:
            if self._old and pick.random() < _OLD_SHARE:
                return pick.choice(self._old)
            return pick.choice(self._booked[-2000:]) if self._booked else None

    def day_before_a_payment(self, pick: random.Random) -> tuple[tuple[int, int], date] | None:
        """A (customer, loan), and a day from its start to the day before its last payment."""
        with self._lock:
            found = [
                (key, start, last) for key, (start, last) in self._paid_days.items() if start < last
            ]
        if not found:
            return None
        key, start, last = pick.choice(found)
        return key, start + timedelta(days=pick.randrange((last - start).days))

    def offer(self, pick: random.Random) -> tuple[int, int] | None:
        """(offer, amount in rupees) of an offer that was made, preferably a recent one."""
        with self._lock:
            return pick.choice(self._offered[-200:]) if self._offered else None

    def referral(self, pick: random.Random) -> int | None:
        """The id of a referred decision, mostly a recent one."""
        with self._lock:
            if not self._referred:
                return None
            return pick.choice(self._referred[-20 if pick.random() < _RECENT_SHARE else 0 :])

    def payment(self, pick: random.Random) -> int | None:
        """The id of a recorded payment, preferably a recent one."""
        with self._lock:
            return pick.choice(self._paid[-200:]) if self._paid else None

    def unanswered(self) -> list[Asked]:
        """Writes without a response or rejection so far."""
        with self._lock:
            return [
                asked for asked in self.asked.values() if not asked.answers and not asked.is_refused
            ]

    def unfinished(self) -> list[Sent]:
        """Ingestions without an acknowledgement so far."""
        with self._lock:
            return [sent for sent in self.sent if not sent.acknowledged]

    def undo(self, pick: random.Random, request_id: UUID) -> tuple[Sent, Undo] | None:
        """One of the latest ingestions, and its request to cancel it or to revert it: a new one,
        or one that it has already."""
        with self._lock:
            if not self.sent:
                return None
            sent = pick.choice(self.sent[-_LATEST_INGESTIONS:])
            if sent.cancel is None and sent.revert is None:
                # An upload is acknowledged before a worker reads it.
                if not sent.acknowledged or (sent.uploaded and pick.random() < _CANCEL_SHARE):
                    sent.cancel = Undo("CancelIngestion", request_id)
                    return sent, sent.cancel
                sent.revert = Undo("RevertIngestion", request_id)
            elif sent.revert is None and pick.random() < _REVERT_SHARE:
                sent.revert = Undo("RevertIngestion", request_id)
            return sent, pick.choice(sent.undos)

    def open_undos(self) -> list[tuple[Sent, Undo]]:
        """Requests to cancel and to revert ingestions without a response or rejection so far."""
        with self._lock:
            return [(sent, undo) for sent in self.sent for undo in sent.undos if undo.is_open]


def _day(message: Any) -> date:
    return date(message.year, message.month, message.day)
