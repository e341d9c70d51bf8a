"""Running calls of each principal, without a server."""

from functools import partial

from credit_service.rpc.calls.concurrency import ConcurrencyLimiter


def test_writes_leave_slots_to_reads_of_their_principal() -> None:
    limiter = ConcurrencyLimiter(max_running=8, max_reserved=16)
    resumed: list[str] = []
    writes = [limiter.reserve("p", writes=True) for _ in range(13)]
    assert [each is not None for each in writes] == [True] * 12 + [False]
    reserved = [each for each in writes if each is not None]
    started = [limiter.acquire_slot(each, partial(resumed.append, "write")) for each in reserved]
    assert started == [True] * 6 + [False] * 6
    reads = [each for _ in range(4) if (each := limiter.reserve("p", writes=False)) is not None]
    assert limiter.reserve("p", writes=False) is None
    started = [limiter.acquire_slot(each, partial(resumed.append, "read")) for each in reads]
    assert started == [True] * 2 + [False] * 2
    # A write's slot goes to the next write, which queued before the reads; a read's to a read.
    limiter.finish(reserved[0])
    assert resumed == ["write"]
    limiter.release_slot(reads[0])
    assert resumed == ["write", "read"]
