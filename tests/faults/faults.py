"""Injects the planned faults at their times."""

import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import date, datetime
from zoneinfo import ZoneInfo

import psutil
import psycopg
import redis

from credit_service.clock import Clock
from tests.faults import portfolio
from tests.faults.history import History, Promotion
from tests.faults.plan import Fault
from tests.faults.stack import Part, Stack

_DELAY_SECONDS = 2.0
_BEFORE_MIDNIGHT_SECONDS = 2
_CRASH_SECONDS = 20.0
_RECOVERY_SECONDS = 45.0
_INDIA = ZoneInfo("Asia/Kolkata")


class Inflictor:
    """Injects the faults of one campaign, each in a separate thread."""

    def __init__(self, stack: Stack, past: History) -> None:
        self._stack = stack
        self._history = past
        self._link_locks = {name: threading.Lock() for name in stack.proxy.ports}
        self._disk = threading.Lock()
        self._ways: dict[str, Callable[[Fault], bool]] = {
            "kill": self._kill,
            "stop": self._suspend,
            "link": self._trouble_link,
            "crash": self._crash,
            "hold": self._hold,
            "flush": self._flush,
            "full redis": self._fill_redis,
            "full disk": self._fill_disk,
            "clock": self._step_clock,
            "failover": self._fail_over,
        }

    def inflict(self, faults: list[Fault], seconds: float) -> None:
        """Inject all faults at their times; returns after the last one and after `seconds`."""
        began = time.monotonic()
        threads = []
        for fault in faults:
            time.sleep(max(0.0, began + fault.at_seconds - time.monotonic()))
            thread = threading.Thread(target=self._one, args=(fault,), daemon=True)
            thread.start()
            threads.append(thread)
        time.sleep(max(0.0, began + seconds - time.monotonic()))
        for thread in threads:
            thread.join()

    def _one(self, fault: Fault) -> None:
        try:
            happened = self._ways[fault.kind](fault)
        except (psutil.NoSuchProcess, redis.RedisError, psycopg.OperationalError):
            # The target was down at that moment.
            happened = False
        name = f"{fault.kind} {fault.target}".strip() if fault.kind != "link" else fault.how
        if fault.kind == "failover":
            name = f"failover {fault.how}"
        self._history.count(self._history.faults, name if happened else "missed")

    def _kill(self, fault: Fault) -> bool:
        pids = self._stack.databases.pids
        match fault.target:
            case "server" | "worker" | "relay":
                self._part(fault).kill()
            case "redis":
                psutil.Process(pids["Valkey"]).kill()
            case _:
                # Like `pg_ctl stop -m immediate`: no clean shutdown, recovery at the next start.
                psutil.Process(pids["PostgreSQL"]).send_signal(signal.SIGQUIT)
        return True

    def _suspend(self, fault: Fault) -> bool:
        if fault.target == "redis":
            process = psutil.Process(self._stack.databases.pids["Valkey"])
            process.suspend()
            time.sleep(fault.lasts_seconds)
            process.resume()
        else:
            self._part(fault).suspended(fault.lasts_seconds)
        return True

    def _part(self, fault: Fault) -> Part:
        """One of the target's processes, chosen by the fault's time."""
        stack = self._stack
        parts = {"server": stack.servers, "worker": stack.workers, "relay": stack.relays}
        alike = parts[fault.target]
        return alike[int(fault.at_seconds * 10) % len(alike)]

    def _trouble_link(self, fault: Fault) -> bool:
        proxy, link = self._stack.proxy, fault.target
        with self._link_locks[link]:
            if fault.how == "reset":
                proxy.order(link, reset=True)
            elif fault.how == "delay":
                proxy.order(link, delay_seconds=_DELAY_SECONDS)
                time.sleep(fault.lasts_seconds)
                proxy.order(link, delay_seconds=0.0)
            else:
                proxy.order(link, cut=fault.how.removeprefix("cut "))
                time.sleep(fault.lasts_seconds)
                proxy.order(link, cut="")
        return True

    def _crash(self, fault: Fault) -> bool:
        """Arm a failpoint, and wait until a process has exited there."""
        order = self._stack.failpoints / fault.target
        order.write_text("crash", encoding="ascii")
        until = time.monotonic() + _CRASH_SECONDS
        while order.exists():
            if time.monotonic() > until:
                order.unlink(missing_ok=True)
                return False
            time.sleep(0.05)
        return True

    def _hold(self, fault: Fault) -> bool:
        """Hold a transaction open on a hot customer."""
        with psycopg.connect(self._stack.databases.database_url) as connection:
            connection.execute(
                "SELECT FROM customers WHERE customer_id = %s FOR UPDATE", (portfolio.HOT[0],)
            )
            time.sleep(fault.lasts_seconds)
            connection.rollback()
        return True

    def _flush(self, _fault: Fault) -> bool:
        self._in_redis(lambda client: client.flushall())
        return True

    def _fill_redis(self, fault: Fault) -> bool:
        """Leave Redis without memory and without eviction."""
        before: dict[str, str] = {}

        def fill(client: "redis.Redis") -> None:
            found = client.config_get("maxmemory", "maxmemory-policy")
            before.update({str(name): str(value) for name, value in found.items()})
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", "1")

        def restore(client: "redis.Redis") -> None:
            for name, value in before.items():
                client.config_set(name, value)

        self._in_redis(fill)
        try:
            time.sleep(fault.lasts_seconds)
        finally:
            # A restart has already restored the memory.
            with suppress(redis.RedisError):
                self._in_redis(restore)
        return True

    def _in_redis(self, work: "Callable[[redis.Redis], object]") -> None:
        with redis.Redis.from_url(
            self._stack.databases.redis_url, decode_responses=True, socket_timeout=10.0
        ) as client:
            work(client)

    def _fill_disk(self, fault: Fault) -> bool:
        """Leave servers and workers without disk space for uploads."""
        with self._disk:
            orders = [self._stack.failpoints / f"upload.{part}" for part in ("spool", "restore")]
            for order in orders:
                order.write_text("full", encoding="ascii")
            time.sleep(fault.lasts_seconds)
            for order in orders:
                order.unlink()
        return True

    def _fail_over(self, fault: Fault) -> bool:
        """Let the primary fail, promote its standby, and wait for a write before the former primary
        becomes the new standby. Then end the sessions: new ones must not end up there."""
        pair, past = self._stack.pair, self._history
        with pair.changing():
            failed_at = time.monotonic()
            pair.fail(fault.how)
            pair.promote()
            promoted_at = time.monotonic()
            recovered_at = self._await_write(promoted_at, f"the promotion after {fault.how}")
            past.promotions.append(Promotion(fault.how, failed_at, promoted_at, recovered_at))
            pair.rebuild()
            pair.end_sessions()
            self._await_write(time.monotonic(), "the end of all sessions")
        return True

    def _await_write(self, since: float, event: str) -> float | None:
        """Wait for a write that began after an event; return when it was acknowledged."""
        while (found := self._history.first_write(since)) is None:
            if time.monotonic() > since + _RECOVERY_SECONDS:
                self._history.find(
                    "recovery", f"no write succeeded within {_RECOVERY_SECONDS:g} s of {event}"
                )
                break
            time.sleep(0.05)
        return found

    def _step_clock(self, fault: Fault) -> bool:
        """Set the service's clock to just before midnight, which then passes."""
        moment = Clock(offset_file=self._stack.clock_file).moment()
        today = moment.today
        first_of_next = date(today.year + today.month // 12, today.month % 12 + 1, 1)
        turn = {
            "midnight": date.fromordinal(today.toordinal() + 1),
            "month end": first_of_next,
            "year end": date(today.year + 1, 1, 1),
        }[fault.target]
        midnight = datetime(turn.year, turn.month, turn.day, tzinfo=_INDIA)
        offset = (midnight - datetime.now(_INDIA)).total_seconds() - _BEFORE_MIDNIGHT_SECONDS
        self._stack.set_clock(int(offset))
        return True
