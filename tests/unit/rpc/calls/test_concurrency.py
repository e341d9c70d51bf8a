"""Calls at work of each principal, without a server."""

from functools import partial

from credit_service.rpc.calls.concurrency import CallShares


def test_writes_leave_places_to_reads_of_their_principal() -> None:
    shares = CallShares(max_at_work=8, max_held=16)
    resumed: list[str] = []
    writes = [shares.hold("p", writes=True) for _ in range(13)]
    assert [each is not None for each in writes] == [True] * 12 + [False]
    held = [each for each in writes if each is not None]
    entered = [shares.enter(each, partial(resumed.append, "write")) for each in held]
    assert entered == [True] * 6 + [False] * 6
    reads = [each for _ in range(4) if (each := shares.hold("p", writes=False)) is not None]
    assert shares.hold("p", writes=False) is None
    entered = [shares.enter(each, partial(resumed.append, "read")) for each in reads]
    assert entered == [True] * 2 + [False] * 2
    # A write's place goes to the next write, which came before the reads; a read's to a read.
    shares.end(held[0])
    assert resumed == ["write"]
    shares.leave(reads[0])
    assert resumed == ["write", "read"]
