"""Clients of Redis."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import redis

from credit_service.cache.clients import make_pool
from credit_service.redis_url import RedisUrl


class FakeSentinel:
    """A Sentinel that answers two threads at the same time, or none."""

    def __init__(self, both: threading.Barrier | None) -> None:
        self._both = both

    def sentinel_masters(self) -> Any:
        if self._both is None:
            raise redis.ConnectionError
        self._both.wait(10)
        state = {"is_master": True, "is_sdown": False, "is_odown": False}
        return {"credit": {**state, "num-other-sentinels": 2, "ip": "127.0.0.1", "port": 1}}


def test_threads_that_ask_at_once_lose_no_sentinel() -> None:
    url = RedisUrl.parse("redis+sentinel://one,two,three/credit")
    pool: Any = make_pool(url, timeout_seconds=1, connect_timeout_seconds=1)
    sentinels = pool.sentinel_manager
    fakes = [FakeSentinel(None), FakeSentinel(None), FakeSentinel(threading.Barrier(2))]
    sentinels.sentinels = list(fakes)
    with ThreadPoolExecutor(2) as threads:
        asked = [threads.submit(sentinels.discover_master, "credit") for _ in range(2)]
        assert [each.result() for each in asked] == [("127.0.0.1", 1)] * 2
    assert sentinels.sentinels[0] is fakes[2]
    assert set(sentinels.sentinels) == set(fakes)
