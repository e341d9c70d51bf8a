"""Attacks by clients without credentials and by one careless principal, each at a bounded rate,
from a separate process and a separate address.

The process uses only otherwise idle CPU time, as if it ran on another machine. So the regular
client is slowed down by the service's work, not by the attacker's.
"""

import multiprocessing
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from typing import Any

import grpc
import psycopg
from grpc_reflection.v1alpha import reflection_pb2

from benchmarks.calls import SERVICE, batch_body
from credit_service.rpc.calls.connections import raise_descriptor_limit
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1.credit_service_pb2_grpc import CreditServiceStub
from tests.frames import Connection, authorized
from tests.load.callers import booking, ended

_ADDRESS = "127.0.0.2"
_START_SECONDS = 60.0
_MOST_SECONDS = 60.0
_HEAD_START_SECONDS = 1.0
_IDLE = 1_100
_OPENING_SECONDS = 2.5
_MESSAGE_PREFIX = b"\0" + (4 * 1024 * 1024 - 64).to_bytes(4, "big")
"""Announces a message of almost 4 MiB."""

_CHECK = "/grpc.health.v1.Health/Check"
_WATCH = "/grpc.health.v1.Health/Watch"
_READ = f"{SERVICE}GetCustomer"
_EVENTS = f"{SERVICE}WatchCreditEvents"
_REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
# Names that no customer has.
_UNKNOWN_NAMES = tuple(f"{first}{second}" for first in "bcdfghjk" for second in "qvwxyz")


@dataclass(frozen=True, slots=True)
class Scene:
    """The attackers' targets and credentials."""

    target: str
    """host:port of the server, or of the load balancer in front."""
    url: str
    """postgresql://… of the database, for holding a row lock."""
    token: str
    """The careless principal's token."""
    locked_customer: int


@dataclass(slots=True)
class _Attack:
    """A running attack."""

    scene: Scene
    stopped: Event
    done: Counter[str] = field(default_factory=Counter)
    ends_at: float = field(default_factory=lambda: time.monotonic() + _MOST_SECONDS)

    def ticks(self, per_second: float) -> Iterator[int]:
        """Yield numbers from 0 at a rate until the attack ends."""
        began, number = time.monotonic(), 0
        while not self.wait(began + number / per_second - time.monotonic()):
            yield number
            number += 1

    def wait(self, seconds: float) -> bool:
        """Wait; returns whether the attack has ended."""
        return self.stopped.wait(max(0.0, seconds)) or time.monotonic() >= self.ends_at

    def connect(self, **options: int) -> Connection:
        """A connection from the attackers' address. Raises OSError if it is rejected."""
        return Connection(self.scene.target, source=_ADDRESS, **options)


@contextmanager
def _reconnecting(attack: _Attack) -> Iterator[Callable[[Callable[[Connection], object]], bool]]:
    """Runs an action on a connection, which it reopens if the server closed it."""
    current: list[Connection] = []

    def on_one(act: Callable[[Connection], object]) -> bool:
        try:
            if not current:
                current.append(attack.connect())
            act(current[0])
            current[0].drain()
        except OSError:
            while current:
                current.pop().close()
            return False
        return True

    yield on_one
    for each in current:
        each.close()


def _incomplete_health_checks(attack: _Attack) -> None:
    """100 health checks per second without a message, and 12 unread watches."""
    watching: list[Connection] = []
    with suppress(OSError):
        watching.append(attack.connect(window_bytes=0))
        for _ in range(12):
            watching[0].send(watching[0].begin(_WATCH), b"")
            attack.done["watches"] += 1
    with _reconnecting(attack) as on_one:
        for _ in attack.ticks(100):
            attack.done["checks"] += on_one(lambda each: each.begin(_CHECK))
    for each in watching:
        each.close()


def _incomplete_calls(attack: _Attack) -> None:
    """20 reads per second without a message, with a valid token."""
    metadata = authorized(attack.scene.token)
    with _reconnecting(attack) as on_one:
        for _ in attack.ticks(20):
            attack.done["calls"] += on_one(lambda each: each.begin(_READ, metadata))


def _slow_calls(attack: _Attack) -> None:
    """20 reads per second that are cancelled immediately, and 40 with one byte per second.

    The 40 slow reads restart every four seconds.
    """
    metadata = authorized(attack.scene.token)
    slow: list[int] = []

    def act(each: Connection) -> None:
        turn = attack.done["cancelled calls"]
        if turn % 80 == 0 or not slow:
            slow[:] = [each.begin(_READ, metadata) for _ in range(40)]
            attack.done["slow calls"] += 40
        if turn % 20 == 0:
            for stream in slow:
                each.send_raw(stream, b"\0")
        each.reset(each.begin(_READ, metadata))
        attack.done["cancelled calls"] += 1

    with _reconnecting(attack) as on_one:
        for _ in attack.ticks(20):
            if not on_one(act):
                slow.clear()


def _endless_calls(attack: _Attack) -> None:
    """12 reads per second that announce 4 MiB: 20 KiB at once, then one byte per second.

    So they pass a load balancer that waits for a part of the message.
    """
    metadata = authorized(attack.scene.token)
    begun: list[int] = []

    def act(each: Connection) -> None:
        begun.append(each.begin(_READ, metadata))
        each.send_raw(begun[-1], _MESSAGE_PREFIX)
        for _ in range(2):
            each.send_raw(begun[-1], bytes(10 * 1024))
        for stream in begun[-60:-1:12]:
            each.send_raw(stream, b"\0")
        attack.done["calls"] += 1

    with _reconnecting(attack) as on_one:
        for _ in attack.ticks(12):
            if not on_one(act):
                begun.clear()


def _streams(attack: _Attack) -> None:
    """All streams available without credentials and to the careless principal, open and unread."""
    request = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
    metadata = authorized(attack.scene.token)
    held: list[Connection] = []
    for _ in attack.ticks(2):
        with suppress(OSError):
            held.append(attack.connect())
            for _ in range(4):
                held[-1].send(held[-1].begin(_REFLECTION), request, end=False)
                attack.done["reflections"] += 1
        with suppress(OSError):
            held.append(attack.connect(window_bytes=0))
            for _ in range(4):
                held[-1].send(held[-1].begin(_EVENTS, metadata), b"")
                attack.done["watches of events"] += 1
    for each in held:
        each.close()


def _callers(
    attack: _Attack, count: int, call: Callable[[CreditServiceStub, int], object], name: str
) -> None:
    """`count` callers on separate connections. Each calls at most once per second."""

    def caller(number: int) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(attack.scene.target, options) as channel:
            stub = CreditServiceStub(channel)
            for turn in attack.ticks(1):
                try:
                    call(stub, count * turn + number)
                    attack.done[name] += 1
                except grpc.RpcError as error:
                    attack.done[f"{name} ended as {ended(error)}"] += 1

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _searches(attack: _Attack) -> None:
    """Sixty concurrent searches, every second, for names that no customer has."""
    metadata: Any = authorized(attack.scene.token)

    def search(stub: CreditServiceStub, number: int) -> None:
        name = _UNKNOWN_NAMES[number % len(_UNKNOWN_NAMES)]
        stub.ListCustomers(
            pb.ListCustomersRequest(query=name, page_size=1000), timeout=5, metadata=metadata
        )

    _callers(attack, 60, search, "searches")


def _batches(attack: _Attack) -> None:
    """Forty callers that send a batch of 1,000 checks each second, all at once."""
    metadata: Any = authorized(attack.scene.token)
    request = pb.BatchCheckEligibilityRequest.FromString(batch_body(range(1, 1_001)))

    def check(stub: CreditServiceStub, _number: int) -> None:
        stub.BatchCheckEligibility(request, timeout=5, metadata=metadata)

    _callers(attack, 40, check, "batches")


def _bookers(attack: _Attack) -> None:
    """Twenty callers that book for one customer, whose row another transaction locks."""
    metadata: Any = authorized(attack.scene.token)
    customer_id = attack.scene.locked_customer

    def book(stub: CreditServiceStub, _number: int) -> None:
        stub.CreateLoan(booking(customer_id), timeout=5, metadata=metadata)

    with psycopg.connect(attack.scene.url) as holder:
        holder.execute("SELECT FROM customers WHERE customer_id = %s FOR UPDATE", [customer_id])
        _callers(attack, 20, book, "bookings")


def _idle_connections(attack: _Attack) -> None:
    """1,100 idle connections, opened at 500 per second; closed ones are reopened at 100 per
    second."""
    held: list[Connection] = []
    for _ in attack.ticks(500):
        with suppress(OSError):
            held.append(attack.connect())
        attack.done["connections"] += 1
        if attack.done["connections"] == _IDLE:
            break
    for number in attack.ticks(100):
        place = number % max(1, len(held))
        if not held or held[place].is_closed:
            with suppress(OSError):
                each = attack.connect()
                attack.done["connections"] += 1
                for closed in held[place : place + 1]:
                    closed.close()
                held[place : place + 1] = [each]
    for each in held:
        each.close()


ATTACKS: dict[str, Callable[[_Attack], None]] = {
    "half-health-checks": _incomplete_health_checks,
    "half-calls": _incomplete_calls,
    "slow-calls": _slow_calls,
    "endless-calls": _endless_calls,
    "streams": _streams,
    "searches": _searches,
    "batches": _batches,
    "bookers": _bookers,
    "idle-connections": _idle_connections,
}


@contextmanager
def under_attack(scene: Scene, names: Sequence[str]) -> Iterator[Counter[str]]:
    """Run these attacks concurrently during the context; counts their actions at the end.

    Raises: RuntimeError: the attackers did not start, or did not end cleanly.
    """
    spawned = multiprocessing.get_context("spawn")
    begun, stopped, found = spawned.Event(), spawned.Event(), spawned.SimpleQueue()
    process = spawned.Process(
        target=_run, args=(scene, tuple(names), begun, stopped, found), daemon=True
    )
    process.start()
    done: Counter[str] = Counter()
    try:
        if not begun.wait(_START_SECONDS):
            raise RuntimeError("the attackers did not start")
        opens = "idle-connections" in names
        time.sleep(_OPENING_SECONDS if opens else _HEAD_START_SECONDS)
        yield done
    finally:
        stopped.set()
        process.join(_MOST_SECONDS)
        process.kill()
    if process.exitcode != 0 or found.empty():
        raise RuntimeError(f"the attackers exited with {process.exitcode}")
    done.update(found.get())


def _run(scene: Scene, names: Sequence[str], begun: Event, stopped: Event, found: Any) -> None:
    """The attackers' process."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    raise_descriptor_limit()
    attacks = [_Attack(scene, stopped) for _ in names]
    with ThreadPoolExecutor(len(names)) as threads:
        ends = [
            threads.submit(ATTACKS[name], each) for name, each in zip(names, attacks, strict=True)
        ]
        begun.set()
    for end in ends:
        end.result()
    found.put(sum((each.done for each in attacks), Counter()))
