"""A cache write that arrives after its sender has timed out."""

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import redis

from credit_service.cache import positions
from credit_service.cache.positions import PositionCache
from tests.faults.proxy import Proxy
from tests.integration.cache.test_position_cache import POSITION, TODAY, held, put, settle
from tests.system.up import environment

LINK = "server-redis"


@pytest.fixture
def network(redis_url: str) -> Iterator[Proxy]:
    proxy = Proxy(environment())
    options = redis.Redis.from_url(redis_url).connection_pool.connection_kwargs
    target = [options["path"]] if "path" in options else [options["host"], options["port"]]
    proxy.order(LINK, targets=[target])
    yield proxy
    proxy.stop()


@pytest.fixture
def far(network: Proxy) -> Iterator[PositionCache]:
    """A cache behind a slow network, with an open connection."""
    url = f"redis://127.0.0.1:{network.ports[LINK]}"
    opened = PositionCache(url, timeout_seconds=0.5)
    # On a busy machine the first writes may time out.
    until = time.monotonic() + 30.0
    while held(opened) is None and time.monotonic() < until:
        put(opened, replace(POSITION, version=3))
        time.sleep(0.02)
    assert held(opened) is not None
    yield opened
    opened.close()


@pytest.fixture
def near(redis_url: str) -> Iterator[PositionCache]:
    opened = PositionCache(redis_url, timeout_seconds=1.0)
    yield opened
    opened.close()


def test_a_late_write_adds_no_entry_after_a_newer_one_was_flushed(
    network: Proxy, far: PositionCache, near: PositionCache
) -> None:
    network.order(LINK, cut="there")
    time.sleep(0.1)
    put(far, replace(POSITION, version=4))
    assert not far.available
    # Meanwhile a newer entry was written and flushed: nothing is left to compare with.
    put(near, POSITION)
    near.drop([POSITION.customer_id])
    network.order(LINK, cut="")
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        assert held(near) is None
        time.sleep(0.02)


def test_a_late_write_removes_an_old_entry(
    network: Proxy, far: PositionCache, near: PositionCache
) -> None:
    assert held(near) is not None
    network.order(LINK, cut="there")
    time.sleep(0.1)
    put(far, POSITION)
    network.order(LINK, cut="")
    until = time.monotonic() + 5.0
    while held(near) is not None and time.monotonic() < until:
        time.sleep(0.02)
    assert held(near) is None


def test_after_a_late_write_no_older_entry_is_read(
    near: PositionCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis answers in time, but received the write late: an older write may still arrive."""
    put(near, replace(POSITION, version=4))
    with monkeypatch.context() as late:
        late.setattr(positions, "_MAX_AGE_SECONDS", -60.0)
        near._write([positions._Found(POSITION, "standard-1", TODAY, time.monotonic())])
    put(near, replace(POSITION, version=4))
    assert held(near) is None
    settle(near)
    assert held(near) is None


def test_a_late_write_leaves_a_newer_entry(
    near: PositionCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(near, POSITION)
    with monkeypatch.context() as late:
        late.setattr(positions, "_MAX_AGE_SECONDS", -60.0)
        near._write(
            [positions._Found(replace(POSITION, version=4), "standard-1", TODAY, time.monotonic())]
        )
    assert held(near) == POSITION


def test_a_late_write_only_over_an_old_entry_succeeds(near: PositionCache) -> None:
    put(near, replace(POSITION, version=4))
    near.put(
        [POSITION],
        "standard-1",
        TODAY,
        read_at=time.monotonic() - 60.0,
        only_over_old=True,
    )
    assert held(near) == POSITION
