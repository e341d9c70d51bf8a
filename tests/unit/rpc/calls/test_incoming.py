"""Calls cancelled while their message is pending, without a server."""

from typing import Any, cast

from credit_service.rpc.calls.incoming import Incoming, PendingMessages


class Standin:
    """A call whose headers arrived at that second."""

    def __init__(self, arrived_at: float) -> None:
        self.arrived_at = arrived_at
        self.cancelled = 0

    def cancel(self) -> None:
        self.cancelled += 1


def pending_messages(limit: int, calls: list[Any]) -> tuple[PendingMessages, list[None]]:
    """Pending messages of these calls, and a list that grows with each cancellation."""
    cancellations: list[None] = []
    pending = PendingMessages(limit, 5.0, lambda: cancellations.append(None))
    for each in calls:
        pending.add(cast("Incoming", each))
    return pending, cancellations


def test_the_oldest_call_is_cancelled_for_the_newest() -> None:
    calls = [Standin(second) for second in range(5)]
    pending, cancellations = pending_messages(3, calls)
    assert [each.cancelled for each in calls] == [1, 1, 0, 0, 0]
    assert (len(pending), len(cancellations)) == (3, 2)


def test_a_call_frees_its_place_once_its_message_arrives() -> None:
    calls = [Standin(second) for second in range(3)]
    pending, cancellations = pending_messages(3, calls)
    pending.remove(cast("Incoming", calls[1]))
    newest = Standin(3)
    pending.add(cast("Incoming", newest))
    assert [each.cancelled for each in (*calls, newest)] == [0, 0, 0, 0]
    assert (len(pending), cancellations) == (3, [])


def test_calls_that_wait_too_long_are_cancelled() -> None:
    calls = [Standin(second) for second in (10, 11, 12)]
    pending, cancellations = pending_messages(10, calls)
    pending.expire(14.9)
    assert not cancellations
    pending.expire(16.0)
    assert [each.cancelled for each in calls] == [1, 1, 0]
    assert (len(pending), len(cancellations)) == (1, 2)
