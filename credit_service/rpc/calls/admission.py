"""Admit calls: authenticate the caller, check the scope, apply the principal's limits."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from structlog.contextvars import bind_contextvars

from credit_service.domain.principals import ANONYMOUS
from credit_service.observability import metrics
from credit_service.rpc.auth.gatekeeper import Gatekeeper
from credit_service.rpc.auth.principal import SCOPES, Principal
from credit_service.rpc.calls import bounds
from credit_service.rpc.calls.call import Call
from credit_service.rpc.calls.concurrency import ConcurrencyLimiter, Reservation
from credit_service.rpc.calls.dispatch import StartCall
from credit_service.rpc.calls.incoming import Incoming, Message, PendingMessages
from credit_service.rpc.calls.limits import RateLimiter, StreamCapacity, StreamLimiter
from credit_service.rpc.calls.methods import KINDS
from credit_service.rpc.calls.pool import ServingPool
from credit_service.rpc.calls.rejections import Rejections, too_many_calls


class Admission:
    """Checks calls twice: when their headers arrive, and before their work starts on a thread.

    Thread-safe.
    """

    def __init__(
        self,
        gatekeeper: Gatekeeper,
        concurrency: ConcurrencyLimiter,
        rates: RateLimiter,
        streams: StreamLimiter,
        rejections: Rejections,
    ) -> None:
        """The limits of principals apply where the gatekeeper requires credentials."""
        self._gatekeeper = gatekeeper
        self._concurrency = concurrency
        self._rates = rates
        self._streams_by_principal = streams
        self._rejections = rejections
        self.pending_messages = PendingMessages(
            bounds.MAX_PENDING, bounds.MESSAGE_SECONDS, metrics.calls_without_message.inc
        )

    # A call of one message, from its headers until it has a thread. All but `_authenticate` runs on
    # grpc's thread and must be brief.

    def enter(
        self, method: str, threads: ServingPool, start: StartCall, incoming: Incoming
    ) -> None:
        """Admit a call whose headers have arrived, and receive its message.

        `start` gets the call with its message, or with None where the caller sends none. A caller
        that is not known yet is authenticated on `threads`.
        """
        if not self._gatekeeper.requires_credentials:
            self._receive(start, incoming, None, None)
            return
        principal = self._gatekeeper.authorize_cached(method, incoming)
        if principal is None:
            threads.submit(self._authenticate, method, start, incoming)
        else:
            self._reserve(method, start, incoming, principal)

    def _authenticate(self, method: str, start: StartCall, incoming: Incoming) -> None:
        """Authenticate the caller on a thread, before the message is received."""
        try:
            principal = self._gatekeeper.authorize(method, incoming.context)
        except Exception as error:  # noqa: BLE001 - the call's behavior raises it
            incoming.serve(Message(None, error=error))
        else:
            self._reserve(method, start, incoming, principal)

    def _reserve(
        self, method: str, start: StartCall, incoming: Incoming, principal: Principal
    ) -> None:
        """Receive the call's message, or reject the call if its principal is at its limit."""
        reservation = self._concurrency.reserve(principal.name, writes=KINDS.get(method) == "write")
        if reservation is not None:
            self._receive(start, incoming, principal, reservation)
        else:
            status = too_many_calls(principal.name, self._concurrency.max_reserved)
            incoming.serve(Message(None), self._rejections.behavior(method, [status]))

    def _receive(
        self,
        start: StartCall,
        incoming: Incoming,
        principal: Principal | None,
        reservation: Reservation | None,
    ) -> None:
        self.pending_messages.add(incoming)
        if not incoming.receive(partial(self._on_message, start, principal, reservation)):
            self.pending_messages.remove(incoming)
            self._cancel(reservation)

    def _cancel(self, reservation: Reservation | None) -> None:
        if reservation is not None:
            self._concurrency.cancel(reservation)

    def _on_message(
        self,
        start: StartCall,
        principal: Principal | None,
        reservation: Reservation | None,
        incoming: Incoming,
        data: bytes | None,
    ) -> None:
        self.pending_messages.remove(incoming)
        if data is None and incoming.is_cancelled:
            self._cancel(reservation)
        else:
            start(incoming, Message(data, principal=principal), reservation)

    def admit(self, call: Call, requests: Iterator[bytes]) -> None:
        """Admit the call before any of its work is done, and note its principal and scopes.

        Raises:
            DeadlineExceededError: the deadline has passed, or the caller has gone.
            UnauthenticatedError, PermissionDeniedError: the caller may not call the method.
            QuotaExceededError: the principal is at one of its limits.
        """
        call.raise_if_cancelled()
        if self._gatekeeper.requires_credentials:
            call.is_caller_known = False
            principal = None
            if isinstance(requests, Message):
                if requests.error is not None:
                    raise requests.error
                principal = requests.principal
            if principal is None:
                principal = self._gatekeeper.authorize(call.method, call.context)
            call.principal, call.scopes = principal.name, principal.scopes
            call.is_caller_known = True
            if call.lifetime_seconds < bounds.NO_LIMIT_SECONDS:  # a stream
                call.check_credentials = partial(
                    self._gatekeeper.authorize, call.method, call.context
                )
            bind_contextvars(principal=call.principal)
            self._rates.take(call.principal)
        else:
            call.scopes = SCOPES

    def charge(self, call: Call, calls: float) -> None:
        """Count an admitted call as that many more, against its principal's calls per second."""
        if self._gatekeeper.requires_credentials:
            self._rates.charge(call.principal, calls)

    @contextmanager
    def stream_slot(
        self, call: Call, capacity: StreamCapacity, *, may_use_reserve: bool = False
    ) -> Iterator[None]:
        """Count an open stream, which holds a thread, against the limits.

        Only ingestions may use the reserve. Raises OverloadedError or QuotaExceededError:
        TOO_MANY_STREAMS.
        """
        with capacity.slot(may_use_reserve=may_use_reserve):
            if self._gatekeeper.requires_credentials and call.principal != ANONYMOUS:
                with self._streams_by_principal.slot(call.principal):
                    yield
            else:
                yield
