"""The live feed: one stream of events from the service for all browsers of one user.

A stream occupies one of the server's few threads. So for each token in use, one thread here follows
WatchCreditEvents and passes the events to every open page. A page that is too slow is disconnected;
its browser reconnects and gets the latest events.
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256

import grpc
import structlog

from credit_service.console.event_lines import EventLine, describe
from credit_service.console.service import Service
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import event_pb2
from credit_service_client.errors import ServiceError

MAX_FEEDS = 4
MAX_LISTENERS = 48
KEPT_EVENTS = 40
_QUEUE_LENGTH = 200
_PING_SECONDS = 15.0
_PROBE_TIMEOUT_SECONDS = 0.5
_FIRST_PAUSE_SECONDS = 0.5
_MAX_PAUSE_SECONDS = 5.0
_SEARCH_EVENTS = 2_048
_EXPIRED = "EVENTS_EXPIRED"

_log = structlog.get_logger(__name__)


class FeedFullError(Exception):
    """The feed is at capacity: too many pages or users are listening."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """The service responds again."""


Item = EventLine | ServiceError | Recovered
"""What a listener receives: an event, the failure of the stream, or its recovery."""


class Feeds:
    """The feeds of all users. Used from one event loop."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self._feeds: dict[bytes, _Feed] = {}
        self._listeners = 0
        self._closed = False

    async def listen(self, token: str) -> AsyncGenerator[Item | None, None]:
        """Yield the latest events, oldest first, then each new one; None every _PING_SECONDS.

        Ends if the service rejects the stream permanently, if the listener is too slow, and when
        the console stops. Raises FeedFullError.
        """
        key = sha256(token.encode()).digest()
        feed = self._feeds.get(key)
        if self._closed or self._listeners >= MAX_LISTENERS:
            raise FeedFullError
        if feed is None or feed.ended:
            if feed is None and len(self._feeds) >= MAX_FEEDS:
                raise FeedFullError
            feed = self._feeds[key] = _Feed(self._channel, token, asyncio.get_running_loop())
        queue = feed.join()
        self._listeners += 1
        try:
            while True:
                try:
                    item = await asyncio.wait_for(queue.get(), _PING_SECONDS)
                except TimeoutError:
                    yield None
                    continue
                if isinstance(item, _End):
                    return
                yield item
        finally:
            self._listeners -= 1
            if feed.leave(queue) and self._feeds.get(key) is feed:
                del self._feeds[key]

    def close(self) -> None:
        """End all feeds and disconnect their listeners."""
        self._closed = True
        for feed in self._feeds.values():
            feed.close()


class _End:
    """The last item of a listener's queue."""


_Queue = asyncio.Queue[Item | _End]


class _Feed:
    """One user's stream and its listeners. Its thread communicates only with the event loop."""

    def __init__(self, channel: grpc.Channel, token: str, loop: asyncio.AbstractEventLoop) -> None:
        self._channel = channel
        self._token = token
        self._loop = loop
        self._latest: deque[EventLine] = deque(maxlen=KEPT_EVENTS)
        self._failure: ServiceError | None = None
        self._queues: set[_Queue] = set()
        self._stopping = threading.Event()
        self._cancel: Callable[[], object] = lambda: None
        self._is_interrupted = False
        self.ended = False
        threading.Thread(target=self._follow, name="event-feed", daemon=True).start()

    def join(self) -> _Queue:
        queue: _Queue = asyncio.Queue(_QUEUE_LENGTH)
        for line in self._latest:
            queue.put_nowait(line)
        if self._failure is not None:
            queue.put_nowait(self._failure)
        self._queues.add(queue)
        return queue

    def leave(self, queue: _Queue) -> bool:
        """Remove a listener. Return whether it was the last one, which ends the feed."""
        self._queues.discard(queue)
        if not self._queues:
            self.close()
        return not self._queues

    def close(self) -> None:
        self.ended = True
        self._stopping.set()
        self._cancel()
        self._dismiss_all()

    # On the loop.

    def _deliver(self, item: Item) -> None:
        if isinstance(item, EventLine):
            self._latest.append(item)
        self._failure = item if isinstance(item, ServiceError) else None
        for queue in list(self._queues):
            try:
                queue.put_nowait(item)
            except asyncio.QueueFull:
                self._queues.discard(queue)
                self._dismiss(queue)

    def _finish(self) -> None:
        self.ended = True
        self._dismiss_all()

    def _dismiss_all(self) -> None:
        for queue in list(self._queues):
            self._dismiss(queue)

    @staticmethod
    def _dismiss(queue: _Queue) -> None:
        while queue.full():
            queue.get_nowait()
        queue.put_nowait(_End())

    # On the thread.

    def _follow(self) -> None:
        after: int | None = None
        pause_seconds = _FIRST_PAUSE_SECONDS
        try:
            while not self._stopping.is_set():
                try:
                    if after is None:
                        after = self._start()
                    for event_id in self._forward_after(after):
                        after, pause_seconds = event_id, _FIRST_PAUSE_SECONDS
                except ServiceError as error:
                    if self._stopping.is_set():
                        return
                    if error.reason == _EXPIRED:
                        after = int(error.metadata["oldest_event_id"]) - 1
                        continue
                    self._is_interrupted = True
                    self._post(error)
                    if not error.unavailable:
                        return
                    self._stopping.wait(pause_seconds)
                    pause_seconds = min(2 * pause_seconds, _MAX_PAUSE_SECONDS)
        except Exception:  # noqa: BLE001 - a thread must not end without a log entry
            _log.exception("event_feed_failed")
        finally:
            self._on_loop(self._finish)

    def _forward_after(self, after: int) -> Iterator[int]:
        """Forward the events after an id, but only the latest of past ones. Yield each one's id."""
        request = pb.WatchCreditEventsRequest(after_event_id=after)
        service = Service(self._channel, self._token)
        behind: deque[event_pb2.CreditEvent] | None = deque(maxlen=KEPT_EVENTS)
        with contextlib.closing(service.watch(request, None, self._on_opened)) as stream:
            for response in stream:
                if self._is_interrupted:
                    self._is_interrupted = False
                    self._post(Recovered())
                found = [response.event] if response.WhichOneof("message") == "event" else []
                if behind is not None:
                    # Until the first heartbeat, at which the stream has caught up.
                    behind.extend(found)
                    if found:
                        continue
                    found, behind = list(behind), None
                for event in found:
                    self._post(describe(event))
                    yield event.event_id

    def _on_opened(self, cancel: Callable[[], object]) -> None:
        self._cancel = cancel
        if self._stopping.is_set():
            cancel()

    def _start(self) -> int:
        """Return an id at most _SEARCH_EVENTS below that of the newest event, or 0.

        Uses binary search, because a stream can only start after an id: one that starts below the
        newest id begins with an event, any other begins with a heartbeat.
        """
        low, high = 0, _SEARCH_EVENTS
        while self._is_below_newest(high):
            low, high = high, high * 8
        while high - low > _SEARCH_EVENTS:
            middle = (low + high) // 2
            if self._is_below_newest(middle):
                low = middle
            else:
                high = middle
        return low

    def _is_below_newest(self, event_id: int) -> bool:
        request = pb.WatchCreditEventsRequest(after_event_id=event_id)
        service = Service(self._channel, self._token)
        try:
            with contextlib.closing(service.watch(request, _PROBE_TIMEOUT_SECONDS)) as stream:
                return next(stream).WhichOneof("message") == "event"
        except StopIteration:
            return False
        except ServiceError as error:
            # The first heartbeat can take longer than this timeout.
            if error.code is grpc.StatusCode.DEADLINE_EXCEEDED:
                return False
            if error.reason == _EXPIRED:
                return True
            raise

    def _post(self, item: Item) -> None:
        self._on_loop(lambda: self._deliver(item))

    def _on_loop(self, action: Callable[[], None]) -> None:
        # The loop can end before this thread.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(action)
