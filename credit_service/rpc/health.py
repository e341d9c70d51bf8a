"""The health service (grpc.health.v1), open to every caller; no caller can block it.

A check is answered from memory on grpc's own thread. A watch takes no thread: the server sends each
change without waiting for the watcher, so a watcher that does not read delays no other one.
"""

import threading

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2

from credit_service.rpc.calls.incoming import Incoming, Message

_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health(health.HealthServicer):
    """The service of grpcio-health-checking with `List`, and with watches that cannot block.

    Thread-safe.
    """

    def __init__(self, max_watches: int = 256, max_watches_per_address: int = 32) -> None:
        """The two limits bound the open watches."""
        super().__init__()
        self._max_watches = max_watches
        self._max_watches_per_address = max_watches_per_address
        self._watches: set[_Watch] = set()

    def set(self, service: str, status: int) -> None:
        """Set the status of a service and send it to the service's watchers."""
        with self._lock:
            super().set(service, status)
            # During a shutdown the base class keeps the old status.
            status = self._server_status[service]
            watches = [each for each in self._watches if each.service == service]
        for watch in watches:
            watch.offer(status)

    def List(  # noqa: N802 - the protocol's name
        self, request: health_pb2.HealthListRequest, context: grpc.ServicerContext
    ) -> health_pb2.HealthListResponse:
        """The health of every service."""
        del request, context
        with self._lock:
            known = dict(self._server_status)
        response = health_pb2.HealthListResponse()
        for service, status in known.items():
            response.statuses[service].status = status
        return response

    def watch(self, call: Incoming, data: bytes) -> None:
        """Serve a `Watch` with the bytes of its message. Never blocks."""
        try:
            service = health_pb2.HealthCheckRequest.FromString(data).service
        except DecodeError:
            call.serve(Message(data), _refuse_malformed)
            return
        address = call.context.peer().rpartition(":")[0]
        watch = _Watch(call, service, address)
        with self._lock:
            same = sum(each.address == address for each in self._watches)
            has_room = (
                len(self._watches) < self._max_watches and same < self._max_watches_per_address
            )
            if has_room:
                self._watches.add(watch)
            status = self._server_status.get(service, _UNKNOWN)
        if not has_room:
            call.serve(Message(data), _refuse_watch)
        elif call.context.add_callback(lambda: self._forget(watch)):
            watch.offer(status)
        else:
            self._forget(watch)

    @property
    def watches(self) -> int:
        """Open watches."""
        return len(self._watches)

    def _forget(self, watch: "_Watch") -> None:
        with self._lock:
            self._watches.discard(watch)


class _Watch:
    """One watcher. It gets the newest status; while it reads, intermediate ones are dropped."""

    def __init__(self, call: Incoming, service: str, address: str) -> None:
        self._call = call
        self.service = service
        self.address = address
        self._lock = threading.Lock()
        self._newest: int | None = None
        self._sent: int | None = None
        self._is_sending = False

    def offer(self, status: int) -> None:
        """Send the status, now or after the previous one has left."""
        with self._lock:
            self._newest = status
            if self._is_sending or status == self._sent:
                return
            self._is_sending, self._sent = True, status
        self._send(status)

    def _send(self, status: int) -> None:
        response = health_pb2.HealthCheckResponse()
        response.status = status
        data = response.SerializeToString()
        if not self._call.send(data, self._on_sent):
            with self._lock:
                self._is_sending = False

    def _on_sent(self) -> None:
        with self._lock:
            self._is_sending = False
            newest = self._newest
            if newest is None or newest == self._sent:
                return
            self._is_sending, self._sent = True, newest
        self._send(newest)


def _refuse_malformed(_requests: Message, context: grpc.ServicerContext) -> None:
    context.abort(
        grpc.StatusCode.INVALID_ARGUMENT, "The bytes sent are not a valid HealthCheckRequest."
    )


def _refuse_watch(_requests: Message, context: grpc.ServicerContext) -> None:
    context.abort(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "The server has too many health watches open; retry later, or call Check.",
    )
