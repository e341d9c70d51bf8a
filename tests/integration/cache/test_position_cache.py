"""The cache on a real Valkey: newer entries win, failures are misses, stale entries are unused."""

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from uuid import uuid4

import pytest
import redis

from credit_service.cache import positions as cache_module
from credit_service.cache.positions import PositionCache
from credit_service.commands.create_loan import CreateLoan, create_loan
from credit_service.domain.delinquency import Arrears
from credit_service.domain.eligibility import Ask
from credit_service.domain.positions import CreditPosition
from credit_service.queries.credit import CreditQueries
from credit_service.storage.database import Database
from tests.integration.portfolio import LAKH, a_good_customer, on

TODAY = on(date(2026, 6, 10))
POSITION = CreditPosition(
    7, 5, LAKH, 36 * LAKH, LAKH, 100, 2, 2 * LAKH, 3, 4, 1, TODAY.today, date(2026, 7, 1)
)


@pytest.fixture
def cache(redis_url: str) -> Iterator[PositionCache]:
    opened = PositionCache(redis_url, timeout_seconds=1.0)
    yield opened
    opened.close()


def put(cache: PositionCache, position: CreditPosition, *, only_over_old: bool = False) -> None:
    cache.put(
        [position],
        "standard-1",
        TODAY,
        read_at=time.monotonic(),
        only_over_old=only_over_old,
    )


def held(cache: PositionCache, day: date = TODAY.today) -> CreditPosition | None:
    cached = cache.get(POSITION.customer_id, day)
    return None if cached is None else cached.position


def test_an_entry_is_read_as_it_was_written(cache: PositionCache) -> None:
    assert held(cache) is None
    put(cache, POSITION)
    assert held(cache) == POSITION


def test_an_entry_has_the_held_credit(cache: PositionCache) -> None:
    holding = replace(POSITION, held_principal_paise=LAKH, held_installments_paise=888_488)
    put(cache, holding)
    assert held(cache) == holding


def test_an_entry_has_the_arrears(cache: PositionCache) -> None:
    for known in (Arrears(), Arrears(TODAY.today), Arrears(TODAY.today, date(2026, 5, 1)), None):
        put(cache, replace(POSITION, version=POSITION.version + 1, arrears=known))
        found = held(cache)
        assert found is not None
        assert found.arrears == known


def test_an_entry_of_the_previous_release_is_a_miss(cache: PositionCache, redis_url: str) -> None:
    """It has neither held credit nor arrears, and must not read as having none."""
    put(cache, POSITION)
    key = f"credit:position:{POSITION.customer_id}"
    with redis.Redis.from_url(redis_url) as client:
        fields = json.loads(client.get(key))
        assert fields[-6:-1] == [0, 0, False, None, None]
        for added in (5, 3):
            client.set(key, json.dumps([*fields[: -1 - added], fields[-1]]))
            assert held(cache) is None


def test_an_older_version_is_rejected(cache: PositionCache) -> None:
    put(cache, POSITION)
    put(cache, replace(POSITION, version=4, current_debt_paise=0))
    assert held(cache) == POSITION
    newer = replace(POSITION, version=10, current_debt_paise=0)
    put(cache, newer)
    assert held(cache) == newer


def test_without_the_comparison_an_older_version_would_win(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = cache_module._COMPARE_AND_SET
    guard = "version > tonumber(ARGV[1])"
    assert guard in script
    monkeypatch.setattr(cache_module, "_COMPARE_AND_SET", script.replace(guard, "false"))
    unguarded = PositionCache(redis_url, timeout_seconds=1.0)
    put(unguarded, POSITION)
    put(unguarded, replace(POSITION, version=4))
    found = held(unguarded)
    assert found is not None
    assert found.version == 4
    unguarded.close()


def test_an_entry_is_a_miss_outside_its_validity(cache: PositionCache) -> None:
    put(cache, POSITION)
    assert held(cache, date(2026, 6, 30)) == POSITION
    assert held(cache, date(2026, 7, 1)) is None
    assert held(cache, date(2026, 6, 9)) is None


def test_many_entries_are_read_by_the_same_rules(cache: PositionCache, redis_url: str) -> None:
    other = replace(POSITION, customer_id=8)
    put(cache, POSITION)
    put(cache, other)
    ids = [7, 8, 9]

    def held_on(day: date) -> set[int]:
        return set(cache.get_many(ids, day))

    assert {each.position for each in cache.get_many(ids, TODAY.today).values()} == {
        POSITION,
        other,
    }
    assert held_on(date(2026, 6, 30)) == {7, 8}
    assert held_on(date(2026, 7, 1)) == held_on(date(2026, 6, 9)) == set()
    client = redis.Redis.from_url(redis_url)
    entry = client.get("credit:position:8")
    assert isinstance(entry, bytes)
    # As a replica that was promoted may have it.
    client.set("credit:position:8", re.sub(rb'"[0-9a-f]+"\]$', b'"another"]', entry))
    client.set("credit:position:9", b"[1]")
    client.close()
    assert held_on(TODAY.today) == {7}


def test_an_entry_expires_after_a_day_or_at_its_horizon(
    cache: PositionCache, redis_url: str
) -> None:
    client = redis.Redis.from_url(redis_url)
    put(cache, POSITION)
    assert 86_390 <= client.ttl("credit:position:7") <= 86_400
    tomorrow = replace(POSITION, version=6, valid_until=date(2026, 6, 11))
    put(cache, tomorrow)
    # It is noon in India, and the entry expires at midnight.
    assert 43_190 <= client.ttl("credit:position:7") <= 43_200
    client.close()


def test_only_over_old_adds_no_entry_and_drop_removes_it(cache: PositionCache) -> None:
    put(cache, POSITION, only_over_old=True)
    assert held(cache) is None
    put(cache, POSITION)
    newer = replace(POSITION, version=6)
    put(cache, newer, only_over_old=True)
    assert held(cache) == newer
    cache.drop([POSITION.customer_id])
    assert held(cache) is None


def settle(cache: PositionCache) -> None:
    """Let half a second pass for the failed writes."""
    for each in cache._suspects._by_customer.values():
        each.settled_at = each.remove_at = time.monotonic()
    cache._suspects._next_removal_at = 0.0


def fail_to_put(
    cache: PositionCache, position: CreditPosition, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as failing:
        failing.setattr(cache, "_attempt", lambda _call: False)
        put(cache, position)


def test_an_older_write_that_arrives_after_a_failed_one_is_not_read(
    cache: PositionCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A position that another thread read before the failed write, and wrote after it."""
    put(cache, POSITION)
    fail_to_put(cache, replace(POSITION, version=6), monkeypatch)
    assert held(cache) is None
    put(cache, POSITION)
    assert held(cache) is None
    assert cache.get_many([POSITION.customer_id], TODAY.today) == {}
    # Half a second after the failed write, when no older one can arrive any more, it is removed.
    settle(cache)
    assert held(cache) is None
    assert POSITION.customer_id not in cache._suspects
    put(cache, replace(POSITION, version=6))
    assert held(cache) == replace(POSITION, version=6)


def test_a_newer_entry_than_the_failed_write_stays(
    cache: PositionCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it, a write of the older position would find nothing to compare with."""
    newest = replace(POSITION, version=7)
    fail_to_put(cache, replace(POSITION, version=6), monkeypatch)
    put(cache, newest)
    assert held(cache) is None
    settle(cache)
    assert held(cache) == newest
    put(cache, replace(POSITION, version=6))
    assert held(cache) == newest


def test_the_newest_failed_write_decides_what_is_too_old(
    cache: PositionCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_to_put(cache, replace(POSITION, version=7), monkeypatch)
    fail_to_put(cache, replace(POSITION, version=6), monkeypatch)
    put(cache, replace(POSITION, version=6))
    settle(cache)
    assert held(cache) is None


def test_an_entry_that_could_not_be_dropped_is_removed_whatever_its_version(
    cache: PositionCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(cache, POSITION)
    with monkeypatch.context() as failing:
        failing.setattr(cache, "_attempt", lambda _call: False)
        cache.drop([POSITION.customer_id])
    settle(cache)
    assert held(cache) is None


def test_a_failed_removal_is_repeated(
    cache: PositionCache, monkeypatch: pytest.MonkeyPatch, redis_url: str
) -> None:
    put(cache, POSITION)
    fail_to_put(cache, replace(POSITION, version=6), monkeypatch)
    with monkeypatch.context() as failing:
        failing.setattr(cache, "_attempt", lambda _call: False)
        assert held(cache) is None
    with redis.Redis.from_url(redis_url) as client:
        assert client.exists("credit:position:7")
        assert held(cache) is None
        assert not client.exists("credit:position:7")


def test_a_write_that_fails_during_a_removal_stays_suspected(
    cache: PositionCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_to_put(cache, replace(POSITION, version=6), monkeypatch)
    settle(cache)
    due = cache._suspects.take_due()
    assert list(due) == [POSITION.customer_id]
    assert cache._suspects.take_due() == {}
    put(cache, POSITION)
    # Read as a miss until the removal has ended.
    assert held(cache) is None
    cache._suspects.add([(POSITION.customer_id, 7)])
    cache._suspects.give_back(due, time.monotonic())
    assert POSITION.customer_id in cache._suspects
    assert held(cache) is None


def test_a_position_read_too_long_ago_removes_an_older_entry(cache: PositionCache) -> None:
    put(cache, POSITION)
    late = replace(POSITION, version=6)
    cache.put([late], "x", TODAY, read_at=time.monotonic() - 1)
    assert held(cache) is None
    # An older write may still be on its way.
    put(cache, POSITION)
    assert held(cache) is None
    settle(cache)
    assert held(cache) is None
    put(cache, late)
    assert held(cache) == late
    cache.put([POSITION], "x", TODAY, read_at=time.monotonic() - 1)
    settle(cache)
    assert held(cache) == late


@pytest.mark.parametrize("value", [b"", b"{}", b"[1]", b"[1,2,3]", b"\xff", b"null", b'["x"]'])
def test_an_entry_of_another_format_is_a_miss(
    cache: PositionCache, redis_url: str, value: bytes
) -> None:
    client = redis.Redis.from_url(redis_url)
    client.set("credit:position:7", value)
    client.close()
    assert held(cache) is None


class SlowRedis:
    """A port that accepts connections and sends nothing, later a proxy of Redis."""

    def __init__(self, redis_url: str) -> None:
        self.answers = threading.Event()
        self._target = redis.Redis.from_url(redis_url).connection_pool.connection_kwargs
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        self.answers.wait()
        with client, self._connected() as server:
            back = threading.Thread(target=_pump, args=(server, client), daemon=True)
            back.start()
            _pump(client, server)

    def _connected(self) -> socket.socket:
        if "path" not in self._target:
            return socket.create_connection((self._target["host"], self._target["port"]))
        server = socket.socket(socket.AF_UNIX)
        server.connect(self._target["path"])
        return server

    def close(self) -> None:
        self.answers.set()
        self._listener.close()


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return


def test_an_unresponsive_redis_costs_few_timeouts(
    database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = SlowRedis(redis_url)
    cache = PositionCache(f"redis://127.0.0.1:{slow.port}", timeout_seconds=0.03)
    queries = CreditQueries(database, cache)
    customer_id = a_good_customer(database, TODAY)
    direct = PositionCache(redis_url, timeout_seconds=1.0)
    asked = Ask(LAKH, 1200, 24)
    # This entry becomes stale by a write while Redis is unresponsive.
    put(direct, queries.snapshot(customer_id, TODAY).position)
    decision = create_loan(database, CreateLoan(uuid4(), customer_id, asked), TODAY, "tests")
    assert decision.approved
    fresh = CreditQueries(database).snapshot(customer_id, TODAY)
    cache.put([fresh.position], "standard-1", TODAY, read_at=time.monotonic())

    attempts = []
    attempt = cache._attempt

    def counted(call: Callable[[], object]) -> bool:
        attempts.append(call)
        return attempt(call)

    with monkeypatch.context() as counting:
        counting.setattr(cache, "_attempt", counted)
        for _ in range(20):
            assert queries.snapshot(customer_id, TODAY) == fresh
    # Probes after growing pauses, of which a busy machine sees more than one.
    assert len(attempts) <= 10

    slow.answers.set()
    deadline = time.monotonic() + 10
    while held_by(direct, customer_id) != fresh.position:
        assert time.monotonic() < deadline, "the cache did not recover"
        # The stale entry is still in Redis and must not be used.
        assert queries.snapshot(customer_id, TODAY) == fresh
        time.sleep(0.05)
    cache.close()
    direct.close()
    slow.close()


def held_by(cache: PositionCache, customer_id: int) -> CreditPosition | None:
    cached = cache.get(customer_id, TODAY.today)
    return None if cached is None else cached.position


def test_checks_include_a_booking_at_once(database: Database, cache: PositionCache) -> None:
    queries = CreditQueries(database, cache)
    customer_id = a_good_customer(database, TODAY)
    asked = Ask(LAKH, 1200, 24)
    queries.check_eligibility(customer_id, asked, TODAY)
    for _ in range(3):
        create_loan(database, CreateLoan(uuid4(), customer_id, asked), TODAY, "tests", cache=cache)
        snapshot, _ = queries.check_eligibility(customer_id, asked, TODAY)
        assert snapshot == CreditQueries(database).snapshot(customer_id, TODAY)
