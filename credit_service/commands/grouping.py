"""Group commit: concurrent calls of one command share their statements and their commit.

No call waits for a group to fill. A call that finds a free lane leads at once, with the calls that
wait, perhaps only itself. While all lanes are busy, calls wait; the first of them gets the next
lane and leads all of them, up to a limit.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Generic, TypeVar

from opentelemetry.trace import SpanKind

from credit_service.observability import metrics, tracing
from credit_service.storage.cancellation import (
    ScopeCancelledError,
    current_scope,
    shared_by,
)

Member = TypeVar("Member")
Result = TypeVar("Result")

_POLL_SECONDS = 0.05
"""Interval at which a waiting call checks its cancellation."""

_MAX_GROUP_SECONDS = 0.05
"""A group that runs for longer loses its lane if other calls wait.

A group takes some milliseconds. A lone call may wait for a locked row for seconds, and must not
hold up the calls about other customers.
"""

LOST_RACE = "lost_race"
"""The reason of GoAloneError for a call whose read is outdated: it lost a race."""


class GoAloneError(Exception):
    """A call cannot go with its group: it runs by itself, on its own thread."""

    def __init__(self, reason: str) -> None:
        """`reason` is the label of a metric: one of `metrics.GROUP_EXITS`."""
        super().__init__(reason)
        self.reason = reason


class _Entry(Generic[Member, Result]):
    """A call in the queue or in a group."""

    __slots__ = (
        "error",
        "is_queued",
        "leads",
        "led_since",
        "link",
        "member",
        "result",
        "scope",
        "signal",
    )

    def __init__(self, member: Member) -> None:
        self.member = member
        self.scope = current_scope.get()
        self.link = tracing.current_link()
        self.is_queued = False
        self.leads = False
        # In seconds of time.monotonic().
        self.led_since = 0.0
        self.signal: threading.Lock | None = None
        self.result: Result | None = None
        self.error: BaseException | None = None

    @property
    def is_cancelled(self) -> bool:
        return self.scope is not None and self.scope.is_cancelled

    def enqueued(self) -> None:
        """Prepare to wait. A lock costs less than an event, and each waits once."""
        self.is_queued = True
        self.signal = threading.Lock()
        self.signal.acquire()

    def wake(self) -> None:
        if self.signal is not None:
            self.signal.release()


class Grouping(Generic[Member, Result]):
    """Runs the calls of one command in groups. Thread-safe."""

    def __init__(
        self,
        name: str,
        run: Callable[[Sequence[Member]], Sequence[Result | BaseException]],
        *,
        lanes: int,
        largest: int,
        key: Callable[[Member], Hashable],
    ) -> None:
        """At most `lanes` groups run at once, each of at most `largest` members, without two of the
        same `key`. `name` is the label of the metrics.

        `run` gets the members, the leader's first, on the leader's thread, and returns for each its
        result or the exception that the call raises. An exception of `run` itself is raised by
        every call of the group. GoAloneError asks the call to run by itself. A call alone in its
        group runs in its own cancel scope; a group runs in one that ends with its last call.
        """
        self._run = run
        self._lanes = lanes
        self._largest = largest
        self._key = key
        self._lock = threading.Lock()
        self._queue: deque[_Entry[Member, Result]] = deque()
        # The leaders of the running groups that have a lane.
        self._leaders: set[_Entry[Member, Result]] = set()
        self._pause_reason = ""
        self._paused_until = 0.0
        self._sizes = metrics.group_sizes.labels(name)
        self._exits = {each: metrics.group_exits.labels(name, each) for each in metrics.GROUP_EXITS}

    @property
    def waiting(self) -> int:
        """Calls that wait for a lane."""
        return len(self._queue)

    def pause(self, reason: str, seconds: float) -> None:
        """Form no groups for that time: each call runs by itself at once, for this reason."""
        self._pause_reason = reason
        self._paused_until = time.monotonic() + seconds

    def submit(self, member: Member) -> Result:
        """Run the member in a group and return its result. Blocks until the group has ended.

        Raises:
            GoAloneError: the call must run by itself; its group changed nothing for it, unless its
                leader died.
            ScopeCancelledError: the call was cancelled before its group ended. If the group had
                started, it may have had its effect.
            Exception: the exception that `run` returned for the member, or raised.
        """
        if time.monotonic() < self._paused_until:
            raise self._exit(GoAloneError(self._pause_reason))
        entry: _Entry[Member, Result] = _Entry(member)
        with self._lock:
            if len(self._leaders) < self._lanes:
                self._give_lane(entry)
            else:
                entry.enqueued()
                self._queue.append(entry)
        if entry.leads or self._leads_after_wait(entry):
            self._lead(entry)
        error = entry.error
        if error is not None:
            raise self._exit(error) if isinstance(error, GoAloneError) else error
        return entry.result  # type: ignore[return-value]  # set where `error` is not

    def _exit(self, error: GoAloneError) -> GoAloneError:
        """Count a call that leaves the groups, and return its error."""
        self._exits[error.reason].inc()
        return error

    def _leads_after_wait(self, entry: _Entry[Member, Result]) -> bool:
        """Wait until the entry's group has ended, or the entry gets a lane: then return True."""
        signal = entry.signal
        assert signal is not None  # noqa: S101 - made before the entry was queued
        while not signal.acquire(timeout=_POLL_SECONDS):
            with self._lock:
                if entry.leads:
                    continue  # its signal follows
                if not entry.is_queued:
                    if entry.is_cancelled:
                        raise ScopeCancelledError
                elif entry.is_cancelled:
                    self._queue.remove(entry)
                    raise ScopeCancelledError
                elif self._queue[0] is entry and self._takes_lane():
                    self._queue.popleft()
                    self._give_lane(entry)
                    return True
        return entry.leads

    def _takes_lane(self) -> bool:
        """Whether there is a free lane, because a group has lost it."""
        until = time.monotonic() - _MAX_GROUP_SECONDS
        late = next((each for each in self._leaders if each.led_since <= until), None)
        if late is not None:
            self._leaders.remove(late)
        return len(self._leaders) < self._lanes

    def _give_lane(self, entry: _Entry[Member, Result]) -> None:
        entry.is_queued = False
        entry.leads = True
        entry.led_since = time.monotonic()
        self._leaders.add(entry)

    def _lead(self, entry: _Entry[Member, Result]) -> None:
        """Run a group, pass the lane on, and finish the group's calls."""
        if entry.is_cancelled:
            # Another call must not run in this one's scope and trace.
            self._pass_lane(entry)
            raise ScopeCancelledError
        with self._lock:
            group = self._take(entry)
        outcomes: Sequence[Result | BaseException] = ()
        try:
            outcomes = self._outcomes(group)
        finally:
            # Before the calls finish: the next group can read while they do.
            self._pass_lane(entry)
            for place, each in enumerate(group):
                # The leader died: by an exception that ends its thread. A call that runs by itself
                # finds the effect, if there is one, by its request id.
                outcome = outcomes[place] if outcomes else GoAloneError("leader_died")
                if isinstance(outcome, BaseException):
                    each.error = outcome
                else:
                    each.result = outcome
                if each is not entry:
                    each.wake()

    def _take(self, leader: _Entry[Member, Result]) -> list[_Entry[Member, Result]]:
        """Remove the leader's group from the queue."""
        group = [leader]
        if not self._queue:
            return group
        keys = {self._key(leader.member)}
        later: list[_Entry[Member, Result]] = []
        while self._queue and len(group) < self._largest:
            each = self._queue.popleft()
            key = self._key(each.member)
            if key in keys or each.is_cancelled:
                later.append(each)
                continue
            keys.add(key)
            each.is_queued = False
            group.append(each)
        self._queue.extendleft(reversed(later))
        return group

    def _outcomes(
        self, group: Sequence[_Entry[Member, Result]]
    ) -> Sequence[Result | BaseException]:
        self._sizes.observe(len(group))
        members = [each.member for each in group]
        try:
            if len(group) == 1:
                return self._run(members)
            with self._in_group_span(group), shared_by([each.scope for each in group]):
                outcomes = self._run(members)
        except Exception as error:  # noqa: BLE001 - every call raises it
            return [error] * len(group)
        if len(outcomes) != len(group):
            raise ValueError(f"{len(outcomes)} outcomes of {len(group)} calls")
        return outcomes

    def _in_group_span(
        self, group: Sequence[_Entry[Member, Result]]
    ) -> AbstractContextManager[None]:
        """Record the group's work as a span of the leader's call, linked to the other calls."""
        links = [each.link for each in group[1:] if each.link is not None]
        return tracing.in_child_span(
            "group", {"calls": len(group)}, nullcontext(), kind=SpanKind.INTERNAL, links=links
        )

    def _pass_lane(self, leader: _Entry[Member, Result]) -> None:
        """Give the leader's lane, unless the group has lost it, to the first waiting call."""
        with self._lock:
            if leader not in self._leaders:
                return
            self._leaders.remove(leader)
            if not self._queue:
                return
            first = self._queue.popleft()
            self._give_lane(first)
        first.wake()
