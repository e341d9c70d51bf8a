"""Which calls are cancelled while their message is awaited, without a server."""

from typing import Any, cast

from credit_service.rpc.calls.incoming import Incoming, PendingMessages


class Standin:
    """A call whose headers arrived at that second."""

    def __init__(self, arrived_at: float) -> None:
        self.arrived_at = arrived_at
        self.cancelled = 0

    def cancel(self) -> None:
        self.cancelled += 1


def waiting(limit: int, calls: list[Any]) -> tuple[PendingMessages, list[None]]:
    """What awaits the messages of these calls, and an entry for each that it cancels."""
    cancellations: list[None] = []
    awaited = PendingMessages(limit, 5.0, lambda: cancellations.append(None))
    for each in calls:
        awaited.add(cast("Incoming", each))
    return awaited, cancellations


def test_the_oldest_call_is_cancelled_for_the_newest() -> None:
    calls = [Standin(second) for second in range(5)]
    awaited, cancellations = waiting(3, calls)
    assert [each.cancelled for each in calls] == [1, 1, 0, 0, 0]
    assert (len(awaited), len(cancellations)) == (3, 2)


def test_a_call_whose_message_arrived_makes_room() -> None:
    calls = [Standin(second) for second in range(3)]
    awaited, cancellations = waiting(3, calls)
    awaited.remove(cast("Incoming", calls[1]))
    newest = Standin(3)
    awaited.add(cast("Incoming", newest))
    assert [each.cancelled for each in (*calls, newest)] == [0, 0, 0, 0]
    assert (len(awaited), cancellations) == (3, [])


def test_calls_are_cancelled_when_they_have_waited_for_too_long() -> None:
    calls = [Standin(second) for second in (10, 11, 12)]
    awaited, cancellations = waiting(10, calls)
    awaited.expire(14.9)
    assert not cancellations
    awaited.expire(16.0)
    assert [each.cancelled for each in calls] == [1, 1, 0]
    assert (len(awaited), len(cancellations)) == (1, 2)
