"""The cache and the broker through real Sentinels, whose master is killed."""

import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from credit_service.cache import link
from credit_service.cache.positions import PositionCache
from credit_service.domain.positions import CreditPosition
from tests import redis_servers
from tests.integration.cache.test_position_cache import POSITION, TODAY, held, put
from tests.integration.database.test_pooler import doctor
from tests.redis_servers import Deployment, wait_until
from tests.system.redis_work import check_service
from workers.broker import make_broker

KEY = f"credit:position:{POSITION.customer_id}"


@pytest.fixture(params=["valkey", "redis"])
def deployment(request: pytest.FixtureRequest) -> Iterator[Deployment]:
    with redis_servers.sentinel(request.param) as running:
        yield running


@contextmanager
def cache_of(deployment: Deployment) -> Iterator[PositionCache]:
    with closing(PositionCache(deployment.url, timeout_seconds=1.0)) as cache:
        yield cache


def answers(cache: PositionCache) -> bool:
    """Whether Redis answers the cache."""
    held(cache)
    return cache.available


def position_of(cache: PositionCache, customer_id: int) -> CreditPosition | None:
    cached = cache.get(customer_id, TODAY.today)
    return None if cached is None else cached.position


def store(cache: PositionCache, position: CreditPosition) -> None:
    """Put the position until it is held: a write that takes half a second removes it instead."""

    def is_held() -> bool:
        put(cache, position)
        return position_of(cache, position.customer_id) == position

    wait_until(is_held)


def fail_over(deployment: Deployment) -> None:
    """Kill the master and wait until the replica has its place."""
    old = deployment.master()
    old.kill()
    (new,) = deployment.others(old)
    wait_until(lambda: new.client.info("replication")["role"] == "master")
    wait_until(lambda: deployment.master() is new)


def test_the_cache_continues_on_the_new_master(deployment: Deployment) -> None:
    with cache_of(deployment) as cache:
        store(cache, POSITION)
        assert cache.mode == "sentinel"
        fail_over(deployment)
        store(cache, replace(POSITION, version=6))
        assert cache.available


def test_entries_of_the_old_master_are_ignored(deployment: Deployment) -> None:
    """The replica may lack the newest ones."""
    with cache_of(deployment) as cache:
        store(cache, POSITION)
        (replica,) = deployment.others(deployment.master())
        wait_until(lambda: bool(replica.client.exists(KEY)))
        fail_over(deployment)
        with cache_of(deployment) as other:
            for each in (cache, other):
                wait_until(partial(answers, each))
                assert held(each) is None
                assert each.available
        assert replica.client.exists(KEY)


def test_a_late_answer_is_not_taken_for_the_next_one() -> None:
    other = replace(POSITION, customer_id=8, current_debt_paise=0)
    with (
        redis_servers.sentinel(down_after_milliseconds=60_000) as deployment,
        closing(PositionCache(deployment.url, timeout_seconds=0.2)) as cache,
    ):
        store(cache, POSITION)
        store(cache, other)
        assert held(cache) == POSITION
        master = deployment.master().process
        master.send_signal(signal.SIGSTOP)
        assert held(cache) is None
        master.send_signal(signal.SIGCONT)
        found: list[CreditPosition | None] = []

        def is_found() -> bool:
            found.append(position_of(cache, other.customer_id))
            return found[-1] is not None

        wait_until(is_found)
        assert found[-1] == other


def test_a_master_that_was_replaced_unnoticed_is_left_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A master that the Sentinels cannot reach does not close its connections."""
    monkeypatch.setattr(link, "_MAX_AGE_SECONDS", 0.5)
    with redis_servers.sentinel() as deployment, cache_of(deployment) as cache:
        store(cache, POSITION)
        old = deployment.master()
        (new,) = deployment.others(old)
        for each in deployment.sentinels:
            each.client.sentinel_remove(redis_servers.SERVICE)
            each.client.sentinel_monitor(redis_servers.SERVICE, "127.0.0.1", new.port, 2)
        new.client.replicaof("NO", "ONE")
        new.client.flushall()

        def is_written_there() -> bool:
            put(cache, POSITION)
            return bool(new.client.exists(KEY))

        wait_until(is_written_there)
        assert old.client.exists(KEY)


def test_a_service_continues(deployment: Deployment, database_url: str) -> None:
    check_service(database_url, deployment.url, lambda: fail_over(deployment))


def test_with_passwords_and_tls(tmp_path: Path) -> None:
    """Only Debian's Redis has TLS."""
    with redis_servers.sentinel("redis", redis_servers.secrets(tmp_path)) as deployment:
        with cache_of(deployment) as cache:
            store(cache, POSITION)
        broker = make_broker(deployment.url, poll_seconds=0.1, time_limit_seconds=60)
        assert broker.lost_everything()
        without = deployment.url.replace("sentinel_password=of-the-sentinels", "")
        with closing(PositionCache(without, timeout_seconds=1.0)) as refused:
            assert not answers(refused)


@pytest.mark.parametrize("name", ["valkey", "redis"])
def test_the_doctor_names_the_master(name: str, database_url: str) -> None:
    with redis_servers.sentinel(name) as deployment:
        finding = doctor(database_url, REDIS_URL=deployment.url)["Redis"]
        assert finding["ok"]
        assert str(finding["found"]).endswith(
            f"is reachable at 127.0.0.1:{deployment.master().port}, the Sentinels' master;"
            " connected replicas: 1"
        )
