"""The cache and the broker on a real cluster of three masters."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import dramatiq
import pytest
from dramatiq.worker import Worker
from pydantic import SecretStr
from redis.crc import key_slot

from credit_service.cache import positions as cache_module
from credit_service.cache.positions import PositionCache
from credit_service.domain.positions import CreditPosition
from credit_service.storage.database import Database
from tests import redis_servers
from tests.integration.cache.test_position_cache import POSITION, TODAY, held, settle
from tests.integration.database.test_pooler import doctor
from tests.integration.workers.test_workers import Lab, threads
from tests.redis_servers import Deployment, Server, node_id, owner, wait_until
from tests.system.redis_work import check_service
from tests.system.test_redis_sentinel import store
from workers.broker import CarrierBroker, make_broker

KEY = f"credit:position:{POSITION.customer_id}"
POSITIONS = [replace(POSITION, customer_id=number) for number in range(1, 61)]


@pytest.fixture(scope="module", params=["valkey", "redis"])
def shared(request: pytest.FixtureRequest) -> Iterator[Deployment]:
    """A cluster whose nodes stay alive."""
    with redis_servers.cluster(request.param) as running:
        yield running


@pytest.fixture
def deployment(shared: Deployment) -> Deployment:
    for server in shared.servers[:3]:
        server.client.flushall()
    return shared


@pytest.fixture
def cache(deployment: Deployment) -> Iterator[PositionCache]:
    with closing(PositionCache(deployment.url, timeout_seconds=1.0)) as opened:
        yield opened


def put_all(
    cache: PositionCache, positions: Sequence[CreditPosition], *, only_over_old: bool = False
) -> None:
    cache.put(positions, "standard-1", TODAY, read_at=time.monotonic(), only_over_old=only_over_old)


def store_all(cache: PositionCache, positions: Sequence[CreditPosition]) -> None:
    """Put the positions until they are found: a write that takes half a second removes them."""

    def are_found() -> bool:
        put_all(cache, positions)
        return found(cache) == positions

    wait_until(are_found)


def found(cache: PositionCache) -> list[CreditPosition]:
    cached = [cache.get(each.customer_id, TODAY.today) for each in POSITIONS]
    return [each.position for each in cached if each is not None]


# The cache.


def test_entries_are_on_all_masters(deployment: Deployment, cache: PositionCache) -> None:
    put_all(cache, POSITIONS[:30], only_over_old=True)
    assert found(cache) == []
    store_all(cache, POSITIONS)
    assert all(server.client.dbsize() for server in deployment.servers[:3])
    newer = [replace(each, version=6) for each in POSITIONS]
    put_all(cache, newer, only_over_old=True)
    put_all(cache, POSITIONS)
    assert found(cache) == newer
    cache.drop([each.customer_id for each in POSITIONS])
    assert found(cache) == []
    assert cache.available
    assert cache.mode == "cluster"


def test_the_entries_of_many_suspects_are_removed_by_a_scan(
    cache: PositionCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "_MAX_SUSPECTS_BY_KEY", 10)
    store_all(cache, POSITIONS)
    suspects, others = POSITIONS[:20], POSITIONS[20:]
    cache._suspects.add((each.customer_id, each.version + 1) for each in suspects)
    assert found(cache) == others
    settle(cache)
    assert found(cache) == others
    assert not any(each.customer_id in cache._suspects for each in suspects)
    assert cache.available


def test_entries_are_found_while_their_slot_moves_and_afterwards(
    deployment: Deployment, cache: PositionCache
) -> None:
    store_all(cache, POSITIONS)
    source = owner(deployment.servers, KEY)
    target = next(each for each in deployment.servers[:3] if each is not source)
    slot, ids = key_slot(KEY.encode()), (node_id(source), node_id(target))
    target.client.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[0])
    source.client.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[1])
    newer = replace(POSITION, version=6)
    cache.drop([POSITION.customer_id])
    store(cache, newer)
    cache.drop([POSITION.customer_id])
    assert held(cache) is None
    store(cache, newer)
    for server in (target, source):
        server.client.execute_command("CLUSTER SETSLOT", slot, "NODE", ids[1])
    assert target.client.exists(KEY)
    # Another master accepted the entry.
    assert held(cache) is None
    assert cache.available
    store(cache, newer)
    assert cache.available


# The broker.


class Actor:
    """An actor that collects what it gets, with its broker."""

    def __init__(self, url: str) -> None:
        self.got: list[int] = []
        self._lock = threading.Lock()
        self.broker: CarrierBroker = make_broker(url, poll_seconds=0.02, time_limit_seconds=60)
        self._actor = dramatiq.Actor(
            self._receive,
            broker=self.broker,
            actor_name="collect",
            queue_name="collect",
            priority=0,
            options={},
        )
        self.send = self._actor.send

    def _receive(self, number: int) -> None:
        with self._lock:
            self.got.append(number)


def test_messages_arrive(deployment: Deployment) -> None:
    actor = Actor(deployment.url)
    assert actor.broker.lost_everything()
    assert not actor.broker.lost_everything()
    # Maintenance with every command.
    actor.broker.maintenance_chance = 1_000_000
    worker = Worker(actor.broker, worker_timeout=100, worker_threads=2)
    worker.start()
    try:
        for number in range(40):
            actor.send(number)
        wait_until(lambda: len(actor.got) == 40)
    finally:
        worker.stop()
        actor.broker.close()
    assert sorted(actor.got) == list(range(40))
    keys = [key for server in deployment.servers[:3] for key in server.client.keys("*tasks*")]
    assert keys
    assert {key_slot(key) for key in keys} == {key_slot(b"{credit:tasks}")}


def test_sent_tasks_follow_a_change_of_the_url(
    deployment: Deployment, database: Database, database_url: str, redis_url: str
) -> None:
    """Before their time is up: the relay finds the new Redis empty."""
    lab = Lab(database, database_url, redis_url)
    lab.settings = lab.settings.model_copy(update={"task_timeout_seconds": 3600.0})
    subjects = [str(number) for number in range(20)]
    with threads(lab, act=False):
        lab.enqueue("quick", *subjects)
        wait_until(lambda: {state for _, _, state, _ in lab.rows()} == {"SENT"})
    lab.settings = lab.settings.model_copy(update={"redis_url": SecretStr(deployment.url)})
    with threads(lab):
        lab.wait_until_all_done()
    assert sorted(lab.done()) == sorted(subjects)


def test_with_a_password_and_tls(tmp_path: Path) -> None:
    """Only Debian's Redis has TLS."""
    with redis_servers.cluster("redis", redis_servers.secrets(tmp_path)) as running:
        with closing(PositionCache(running.url, timeout_seconds=1.0)) as cache:
            store_all(cache, POSITIONS)
        assert make_broker(running.url, poll_seconds=0.1, time_limit_seconds=60).lost_everything()


def test_the_doctor_names_the_cluster(deployment: Deployment, database_url: str) -> None:
    finding = doctor(database_url, REDIS_URL=deployment.url)["Redis"]
    assert finding["ok"]
    assert str(finding["found"]).endswith("is reachable as a cluster of 3 masters")


def test_the_doctor_reports_a_cluster_that_is_down(database_url: str) -> None:
    with redis_servers.cluster() as running:
        first, *others = running.servers
        for each in others:
            each.kill()
        wait_until(lambda: first.client.cluster("INFO")["cluster_state"] == "fail")
        finding = doctor(database_url, REDIS_URL=running.url)["Redis"]
        assert not finding["ok"]
        assert finding["fix"]


# A failover.


def is_ok(server: Server) -> bool:
    return bool(server.client.cluster("INFO")["cluster_state"] == "ok")


@pytest.mark.parametrize("name", ["valkey", "redis"])
def test_a_service_continues(name: str, database_url: str) -> None:
    """The master with the tasks and a third of the entries is killed."""
    with redis_servers.cluster(name) as running:
        replica, old = running.servers[3], owner(running.servers, "{credit:tasks}")

        def fail_over() -> None:
            old.kill()
            wait_until(lambda: replica.client.info("replication")["role"] == "master")
            alive = running.others(old)
            wait_until(lambda: all(is_ok(each) for each in alive))

        check_service(database_url, running.url, fail_over)
