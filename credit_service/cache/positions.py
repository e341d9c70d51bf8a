"""The cache of credit positions, keyed by customer.

An entry has the customer's version, the horizon until which it is valid, the active scorecard's
version, and the id of the master that accepted it. A compare-and-set rejects an older version, and
any write later than half a second after the database was read, however long the write took to
arrive. A reader uses an entry only for a day on which the position is valid. It ignores an entry of
another master: a replica that was promoted may lack the newest entries and have older ones instead.
If Redis is slow or unreachable, that costs one short timeout, then nothing until the circuit
breaker probes again. Entries that could not be written or removed meanwhile, or not in time, are
removed before the first read after Redis is back, and once more half a second after the failed
write, when no older write can arrive any more; in between, they are not read. An entry that is not
older than the failed write stays: without it, an older write that is still on its way would have
nothing to compare with.

After a miss, the position from the database is written a few milliseconds later, in one batch with
those of other misses.
"""

import hashlib
import json
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from itertools import islice, repeat
from typing import TypeVar

import redis
import structlog

from credit_service import failpoints
from credit_service.cache.link import Command, RedisLink, make_masters
from credit_service.cache.suspects import Suspect, Suspects
from credit_service.clock import Moment
from credit_service.domain.delinquency import Arrears
from credit_service.domain.positions import CreditPosition, is_valid_on
from credit_service.observability import metrics
from credit_service.redis_url import RedisUrl

_PREFIX = "credit:position:"
_MAX_TTL_SECONDS = 24 * 60 * 60
_BATCH = 1_000
_MAX_SUSPECTS_BY_KEY = 10_000
_MAX_AGE_SECONDS = 0.5
_NEVER_MS = 2**53
_MIN_PAUSE_SECONDS = 0.2
_MAX_PAUSE_SECONDS = 2.0
_GATHER_SECONDS = 0.005
_MAX_QUEUED = 10_000
_DECODED_ENTRIES = 4_096
# Of an entry, between the scorecard's version and the days. A server of the previous release writes
# neither held credit nor arrears: its entries have the days in other places, and must not read as
# having none.
_FIGURES = 9

# KEYS[1]: the entry. ARGV: version, value, time to live in milliseconds, '1' to write only over an
# existing entry, and the deadline of the write in milliseconds of Redis' clock. After the deadline
# a newer entry may have come and gone, so the script removes an older entry instead of writing.
# Returns Redis' clock, and 1 if the write was too late.
_COMPARE_AND_SET = """
local clock = redis.call('TIME')
local current = redis.call('GET', KEYS[1])
if current then
    local version = tonumber(string.match(current, '^%[(%d+),'))
    if version and version > tonumber(ARGV[1]) then return {clock[1], clock[2], 0} end
end
if clock[1] * 1000 + clock[2] / 1000 > tonumber(ARGV[5]) then
    redis.call('UNLINK', KEYS[1])
    return {clock[1], clock[2], 1}
end
if current or ARGV[4] == '0' then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return {clock[1], clock[2], 0}
"""

# KEYS[1]: the entry, removed unless its version is at least ARGV[1].
_REMOVE_OLDER = """
local current = redis.call('GET', KEYS[1])
local version = current and tonumber(string.match(current, '^%[(%d+),'))
if version and version >= tonumber(ARGV[1]) then return 0 end
return redis.call('UNLINK', KEYS[1])
"""

_HIT, _MISS, _UNREAD = (metrics.cache_reads.labels(each) for each in ("hit", "miss", "failure"))
_WRITTEN, _UNWRITTEN = (metrics.cache_writes.labels(each) for each in ("done", "failure"))

_Item = TypeVar("_Item")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CachedPosition:
    """A position and the version of the scorecard that was active when it was written."""

    position: CreditPosition
    scorecard_version: str
    # The id of the data to which it was written: see RedisLink.master.
    master: str


@dataclass(frozen=True, slots=True)
class _Found:
    """A position from the database, to be written soon. `read_at` as in `put`."""

    position: CreditPosition
    scorecard_version: str
    moment: Moment
    read_at: float

    @property
    def key(self) -> str:
        return _key(self.position.customer_id)


class PositionCache:
    """The cache. Safe to share between threads. No method raises an error of Redis."""

    def __init__(self, url: str, *, timeout_seconds: float = 0.03):
        """`url` has one of the forms of credit_service.redis_url. Raises ValueError for another."""
        self._masters = make_masters(url, timeout_seconds)
        self.mode = RedisUrl.parse(url).mode
        self._script = _COMPARE_AND_SET
        self._script_digest = hashlib.sha1(
            _COMPARE_AND_SET.encode(), usedforsecurity=False
        ).hexdigest()
        self._breaker = _Breaker()
        self._suspects = Suspects(_MAX_AGE_SECONDS)
        self._found: queue.SimpleQueue[_Found | None] = queue.SimpleQueue()
        self._filler = threading.Thread(target=self._fill_in, name="cache-filler", daemon=True)
        self._filler.start()

    @property
    def available(self) -> bool:
        """Whether Redis answered the last request."""
        return self._breaker.closed

    def close(self) -> None:
        """Write the queued positions and close the connections."""
        self._found.put(None)
        self._filler.join()
        self._masters.close()

    def get(self, customer_id: int, today: date) -> CachedPosition | None:
        """The customer's entry if it is valid today; None is a miss, whatever the cause."""
        key = _key(customer_id)
        value: object = None
        master = ""

        def read() -> None:
            nonlocal value, master
            link = self._masters.of(key)
            value = link.execute([("GET", key)])[0]
            master = link.master

        usable = self._is_usable()
        # Before the read: an entry may be removed, and the suspicion end, during the read.
        if usable and customer_id in self._suspects:
            _MISS.inc()
            return None
        if not usable or not self._attempt(read):
            _UNREAD.inc()
            return None
        cached = _decode(customer_id, value) if isinstance(value, bytes) else None
        if cached is None or cached.master != master or not is_valid_on(cached.position, today):
            _MISS.inc()
            return None
        _HIT.inc()
        return cached

    def get_many(self, customer_ids: Collection[int], today: date) -> dict[int, CachedPosition]:
        """The entries of these customers that are valid today, by customer, read together. A
        customer without one is a miss, whatever the cause."""
        values: list[tuple[int, bytes | None, str]] = []

        def read() -> None:
            values.clear()
            for link, group in self._by_link(readable, _key).items():
                found = link.values([_key(each) for each in group])
                values.extend(zip(group, found, repeat(link.master)))

        usable = self._is_usable()
        # Before the read, as in `get`.
        readable = [each for each in customer_ids if each not in self._suspects]
        if not usable or not self._attempt(read):
            _UNREAD.inc(len(customer_ids))
            return {}
        entries: dict[int, CachedPosition] = {}
        for customer_id, value, master in values:
            cached = None if value is None else _decode(customer_id, value)
            if cached is None or cached.master != master:
                continue
            if is_valid_on(cached.position, today):
                entries[customer_id] = cached
        _HIT.inc(len(entries))
        _MISS.inc(len(customer_ids) - len(entries))
        return entries

    def put(
        self,
        positions: Sequence[CreditPosition],
        scorecard_version: str,
        moment: Moment,
        *,
        read_at: float,
        only_over_old: bool = False,
    ) -> None:
        """Write entries unless Redis has a newer version; with `only_over_old` add no new ones.

        `read_at` is the time.monotonic() before the database was read. If that was too long ago,
        an older entry is removed instead: a newer entry may have come and been flushed since.
        """
        if not only_over_old and time.monotonic() - read_at > _MAX_AGE_SECONDS:
            self.outdate((each.customer_id, each.version) for each in positions)
            return

        self._write(
            [_Found(each, scorecard_version, moment, read_at) for each in positions],
            only_over_old=only_over_old,
        )

    def outdate(self, versions: Iterable[tuple[int, int]]) -> None:
        """Remove entries of customers that are older than these versions, and read none for half a
        second, because an older write may still be on its way."""
        self._suspects.add(versions)
        self._is_usable()

    def fill(
        self,
        position: CreditPosition,
        scorecard_version: str,
        moment: Moment,
        *,
        read_at: float,
    ) -> None:
        """Queue a missing entry, to be written within some milliseconds. Dropped if the queue is
        full: no caller depends on it. `read_at` as in `put`."""
        if self._found.qsize() < _MAX_QUEUED:
            self._found.put(_Found(position, scorecard_version, moment, read_at))

    def _fill_in(self) -> None:
        """Write the queued positions in batches until `close`."""
        ended = False
        while not ended and (first := self._found.get()) is not None:
            time.sleep(_GATHER_SECONDS)
            batch = [first]
            while len(batch) < _BATCH and not self._found.empty():
                found = self._found.get()
                if found is None:
                    ended = True
                    break
                batch.append(found)
            oldest = time.monotonic() - _MAX_AGE_SECONDS
            self._write([each for each in batch if each.read_at >= oldest])

    def _write(self, entries: Sequence[_Found], *, only_over_old: bool = False) -> None:
        failpoints.reach("cache.before_write")

        def write() -> None:
            for start in range(0, len(entries), _BATCH):
                some = entries[start : start + _BATCH]
                for link, group in self._by_link(some, lambda each: each.key).items():
                    # Most are absent, and a read costs a tenth of an attempt to write.
                    present = _present(link, group) if only_over_old else group
                    if present:
                        self._evaluate(link, present, only_over_old=only_over_old)

        versions = [(each.position.customer_id, each.position.version) for each in entries]
        self._write_or_suspect(versions, write)

    def _by_link(
        self, items: Iterable[_Item], key: Callable[[_Item], str]
    ) -> dict[RedisLink, list[_Item]]:
        """Return the items by the master of their keys."""
        groups: dict[RedisLink, list[_Item]] = {}
        for each in items:
            groups.setdefault(self._masters.of(key(each)), []).append(each)
        return groups

    def _evaluate(self, link: RedisLink, entries: Sequence[_Found], *, only_over_old: bool) -> None:
        # If the connection breaks and the next one leads to another master, readers ignore the
        # entries.
        master = link.connect()
        epoch = link.epoch
        if epoch is None or epoch[0] != master:
            epoch = _note_clock(link, master, link.execute([("TIME",)])[0])
        commands = [
            self._command(each, master, epoch[1], only_over_old=only_over_old) for each in entries
        ]
        try:
            answers = link.execute(commands)
        except redis.exceptions.NoScriptError:
            # Redis has restarted. Writing the earlier ones again is harmless.
            answers = link.execute([("SCRIPT LOAD", self._script), *commands])[1:]
        if link.master == master:
            _note_clock(link, master, answers[-1])
        late = [each.position for each, answer in zip(entries, answers, strict=True) if answer[2]]
        self._suspects.add((each.customer_id, each.version) for each in late)

    def _command(
        self, entry: _Found, master: str, epoch_ms: float, *, only_over_old: bool
    ) -> Command:
        position = entry.position
        # Over an older entry, a newer one is correct even after the deadline.
        end_ms = epoch_ms + (entry.read_at + _MAX_AGE_SECONDS) * 1000
        return (
            *("EVALSHA", self._script_digest, 1, entry.key),
            position.version,
            _encode(position, entry.scorecard_version, master),
            _milliseconds_to_live(position, entry.moment),
            "1" if only_over_old else "0",
            _NEVER_MS if only_over_old else int(end_ms),
        )

    def drop(self, customer_ids: Iterable[int]) -> None:
        """Remove entries."""
        ids = list(customer_ids)

        def remove() -> None:
            for start in range(0, len(ids), _BATCH):
                keys = [_key(each) for each in ids[start : start + _BATCH]]
                for link, group in self._by_link(keys, str).items():
                    link.remove(group)

        self._write_or_suspect([(each, None) for each in ids], remove)

    def _write_or_suspect(
        self, customers: Sequence[tuple[int, int | None]], write: Callable[[], None]
    ) -> None:
        """Write, or remember that the entries of these customers may be too old: see
        Suspects.add."""
        if not customers:
            return
        if self._is_usable() and self._attempt(write):
            _WRITTEN.inc(len(customers))
            return
        _UNWRITTEN.inc(len(customers))
        self._suspects.add(customers)

    def _is_usable(self) -> bool:
        """Whether Redis may be used. Removes the entries of suspects first where that is due."""
        if not self._breaker.allows():
            return False
        due = self._suspects.take_due()
        if not due:
            return True
        began_at = time.monotonic()
        removed = False
        try:
            removed = self._attempt(lambda: self._remove_older(due))
        finally:
            self._suspects.give_back(due, began_at if removed else None)
        return removed

    def _remove_older(self, suspects: Mapping[int, Suspect]) -> None:
        versions = {_key(customer_id): each.version for customer_id, each in suspects.items()}
        keys = iter(versions)
        if len(versions) > _MAX_SUSPECTS_BY_KEY:
            # Most have no entry.
            existing = self._masters.scan(f"{_PREFIX}*", _BATCH)
            keys = (key for key in existing if key in versions)
        while batch := list(islice(keys, _BATCH)):
            for link, group in self._by_link(batch, str).items():
                link.execute([("EVAL", _REMOVE_OLDER, 1, key, versions[key]) for key in group])

    def _attempt(self, call: Callable[[], object]) -> bool:
        """Run the call and return whether Redis answered it."""
        try:
            try:
                call()
            except redis.RedisError as error:
                if not self._masters.has_moved(error):
                    raise
                call()
        except (redis.RedisError, OSError) as error:
            if self._breaker.note_failure():
                log.warning("cache_unavailable", error=type(error).__name__, mode=self.mode)
            return False
        if self._breaker.note_success():
            log.info("cache_available", mode=self.mode)
        return True


class _Breaker:
    """A circuit breaker: after a failure it allows one probe at a time, after growing pauses."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pause_seconds = 0.0
        self._closed_until = 0.0

    @property
    def closed(self) -> bool:
        return not self._pause_seconds

    def allows(self) -> bool:
        if not self._pause_seconds:
            return True
        with self._lock:
            if time.monotonic() < self._closed_until:
                return False
            # This caller probes; the others skip Redis until the probe's result.
            self._closed_until = time.monotonic() + self._pause_seconds
            return True

    def note_failure(self) -> bool:
        """Note a failure and return whether it is the first."""
        with self._lock:
            first = not self._pause_seconds
            longer = max(_MIN_PAUSE_SECONDS, self._pause_seconds * 2)
            self._pause_seconds = min(longer, _MAX_PAUSE_SECONDS)
            self._closed_until = time.monotonic() + self._pause_seconds
            return first

    def note_success(self) -> bool:
        """Note a success and return whether failures preceded it."""
        if not self._pause_seconds:
            return False
        with self._lock:
            recovered = bool(self._pause_seconds)
            self._pause_seconds = 0.0
            return recovered


def _key(customer_id: int) -> str:
    return f"{_PREFIX}{customer_id}"


def _milliseconds_to_live(position: CreditPosition, moment: Moment) -> int:
    seconds = min(_MAX_TTL_SECONDS, moment.seconds_until(position.valid_until))
    return max(1, int(seconds * 1000))


def _present(link: RedisLink, entries: Sequence[_Found]) -> list[_Found]:
    values = link.values([each.key for each in entries])
    return [each for each, value in zip(entries, values, strict=True) if value is not None]


def _note_clock(link: RedisLink, master: str, answer: Sequence[bytes]) -> tuple[str, float]:
    """Note the master's clock as if read just now, so that no deadline is too late."""
    now_ms = time.monotonic() * 1000
    link.epoch = epoch = master, int(answer[0]) * 1000 + int(answer[1]) / 1000 - now_ms
    return epoch


def _encode(position: CreditPosition, scorecard_version: str, master: str) -> str:
    """A JSON list that starts with the version, where the script reads it."""
    arrears = position.arrears or Arrears()
    return json.dumps(
        [
            position.version,
            scorecard_version,
            position.monthly_income_paise,
            position.approved_limit_paise,
            position.current_debt_paise,
            position.current_installments_paise,
            position.loan_count,
            position.total_principal_paise,
            position.emis_on_time,
            position.emis_due,
            position.current_year_loans,
            position.as_of.isoformat(),
            position.valid_until.isoformat(),
            position.held_principal_paise,
            position.held_installments_paise,
            position.arrears is not None,
            *map(_text, (arrears.oldest_unpaid_due, arrears.npa_since)),
            master,
        ],
        separators=(",", ":"),
    )


def _text(day: date | None) -> str | None:
    return None if day is None else day.isoformat()


def _day(text: str | None) -> date | None:
    return None if text is None else date.fromisoformat(text)


@lru_cache(maxsize=_DECODED_ENTRIES)
def _decode(customer_id: int, value: bytes) -> CachedPosition | None:
    """The entry; None if it has another format, for instance of an earlier release.

    Memoized by the stored bytes: repeated reads of the same customer decode once.
    """
    try:
        fields = json.loads(value)
        if not isinstance(fields, list):
            return None
        version, scorecard_version, *figures, as_of, valid_until, held, installments = fields[:-4]
        known, oldest_unpaid_due, npa_since, master = fields[-4:]
        if len(figures) != _FIGURES:
            return None
        figures += [*map(date.fromisoformat, (as_of, valid_until)), held, installments]
        arrears = Arrears(_day(oldest_unpaid_due), _day(npa_since))
        figures.append(arrears if known else None)
        position = CreditPosition(customer_id, version, *figures)
    except (ValueError, TypeError):
        return None
    return CachedPosition(position, scorecard_version, master)
