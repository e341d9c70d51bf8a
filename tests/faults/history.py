"""The calls and their responses, with which the account compares the stored data."""

import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from credit_service.v1 import credit_service_pb2 as pb

_MOST_FINDINGS = 1_000
"""Most findings of each kind: one kind must not hide another."""


@dataclass
class Asked:
    """A write with a request id, all its responses, and whether the rules rejected it."""

    method: str
    request: Any
    answers: list[bytes] = field(default_factory=list)
    is_refused: bool = False


@dataclass
class Sent:
    """An ingestion: number of sent rows, number of valid rows, and the reported end."""

    ingestion_id: UUID
    path: Path
    rows: int
    good: int
    uploaded: bool
    # Sent concurrently by two clients with the same id.
    twice: bool
    acknowledged: bool = False


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
        self._offered: list[tuple[int, int]] = []
        self._paid: list[int] = []

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
            return self.asked.setdefault(request.request_id, Asked(method, request))

    def answered(self, asked: Asked, answer: Any) -> None:
        """Record a response."""
        with self._lock:
            asked.answers.append(answer.SerializeToString(deterministic=True))
            if isinstance(answer, pb.CreateLoanResponse | pb.AcceptLoanOfferResponse):
                if answer.HasField("loan"):
                    self._booked.append((answer.loan.customer_id, answer.loan.loan_id))
            elif isinstance(answer, pb.CreateLoanOfferResponse) and answer.approved:
                self._offered.append((answer.offer.offer_id, answer.offer.loan_amount.units))
            elif isinstance(answer, pb.RecordPaymentResponse):
                self._paid.append(answer.payment.payment_id)

    def refused(self, request: Any) -> None:
        """Record a rejection by the rules, which has no effect and is not stored."""
        with self._lock:
            asked = self.asked.get(request.request_id)
            # A call that only validates is not recorded.
            if asked is not None:
                asked.is_refused = True

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
        """A booked (customer, loan), preferably a recent one."""
        with self._lock:
            return pick.choice(self._booked[-2000:]) if self._booked else None

    def offer(self, pick: random.Random) -> tuple[int, int] | None:
        """(offer, amount in rupees) of an offer that was made, preferably a recent one."""
        with self._lock:
            return pick.choice(self._offered[-200:]) if self._offered else None

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
