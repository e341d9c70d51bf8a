"""Who calls, whether they may, and how much of the server they take."""

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
from credit_service.rpc.calls.concurrency import CallShares, Held
from credit_service.rpc.calls.dispatch import BeginCall
from credit_service.rpc.calls.incoming import Incoming, Message, Waiting
from credit_service.rpc.calls.limits import RateLimiter, StreamLimiter, StreamRoom
from credit_service.rpc.calls.methods import KINDS
from credit_service.rpc.calls.pool import ServingPool
from credit_service.rpc.calls.rejections import (
    Rejections,
    prepared_too_many_calls,
    too_many_calls,
)
from credit_service.rpc.errors import QuotaExceededError


class Admission:
    """Lets calls in, twice: when their headers arrive, and before their work begins on a thread.

    Safe to share between threads.
    """

    def __init__(
        self,
        gatekeeper: Gatekeeper,
        shares: CallShares,
        rates: RateLimiter,
        streams: StreamLimiter,
        rejections: Rejections,
    ) -> None:
        """What one principal may take is limited where the gatekeeper asks for credentials."""
        self._gatekeeper = gatekeeper
        self._shares = shares
        self._rates = rates
        self._streams_by_principal = streams
        self._rejections = rejections
        self.awaiting = Waiting(
            bounds.MAX_AWAITED, bounds.MESSAGE_SECONDS, metrics.calls_without_message.inc
        )

    # A call of one message, from its headers until it has a thread. All but `_identify` runs on
    # grpc's thread and must be brief.

    def enter(
        self, method: str, threads: ServingPool, begin: BeginCall, incoming: Incoming
    ) -> None:
        """Let a call in whose headers have arrived. `begin` is given it with its message, or with
        None where none will come."""
        if not self._gatekeeper.asks:
            self._await(begin, incoming, None, None)
            return
        principal = self._gatekeeper.recognize(method, incoming)
        if principal is None:
            threads.submit(self._identify, method, begin, incoming)
            return
        held = self._shares.hold(principal.name, writes=KINDS.get(method) == "write")
        if held is not None:
            self._await(begin, incoming, principal, held)
        else:
            refusal = prepared_too_many_calls(principal.name, self._shares.max_held)
            incoming.serve(Message(None), self._rejections.behavior(method, [refusal]))

    def _identify(self, method: str, begin: BeginCall, incoming: Incoming) -> None:
        """Find out who calls, on a thread, before the message is awaited."""
        try:
            principal = self._gatekeeper.admit(method, incoming.context)
        except Exception as error:  # noqa: BLE001 - the call's behavior raises it
            incoming.serve(Message(None, error=error))
            return
        held = self._shares.hold(principal.name, writes=KINDS.get(method) == "write")
        if held is not None:
            self._await(begin, incoming, principal, held)
        else:
            refusal = too_many_calls(principal.name, self._shares.max_held)
            incoming.serve(Message(None, error=refusal))

    def _await(
        self,
        begin: BeginCall,
        incoming: Incoming,
        principal: Principal | None,
        held: Held | None,
    ) -> None:
        self.awaiting.add(incoming)
        if not incoming.receive(partial(self._arrived, begin, principal, held)):
            self.awaiting.remove(incoming)
            self._release(held)

    def _release(self, held: Held | None) -> None:
        if held is not None:
            self._shares.release(held)

    def _arrived(
        self,
        begin: BeginCall,
        principal: Principal | None,
        held: Held | None,
        incoming: Incoming,
        data: bytes | None,
    ) -> None:
        self.awaiting.remove(incoming)
        if data is None and incoming.gone:
            self._release(held)
        else:
            begin(incoming, Message(data, principal=principal), held)

    def admit(self, call: Call, requests: Iterator[bytes]) -> None:
        """Whether a call may begin: the one gate, passed before any work is done."""
        call.ensure_wanted()
        if self._gatekeeper.asks:
            call.is_caller_known = False
            principal = None
            if isinstance(requests, Message):
                if isinstance(requests.error, QuotaExceededError):
                    call.principal, call.is_caller_known = requests.error.subject, True
                if requests.error is not None:
                    raise requests.error
                principal = requests.principal
            if principal is None:
                principal = self._gatekeeper.admit(call.method, call.context)
            call.principal, call.scopes = principal.name, principal.scopes
            call.is_caller_known = True
            if call.lifetime_seconds < bounds.NO_LIMIT_SECONDS:  # a stream
                call.check_credentials = partial(self._gatekeeper.admit, call.method, call.context)
            bind_contextvars(principal=call.principal)
            self._rates.take(call.principal)
        else:
            call.scopes = SCOPES

    @contextmanager
    def stream_slot(self, call: Call, room: StreamRoom, *, kept: bool = False) -> Iterator[None]:
        """Room for a stream, which holds a thread while it is open. `kept` lets it take the room
        that is kept for ingestions."""
        with room.slot(kept=kept):
            if self._gatekeeper.asks and call.principal != ANONYMOUS:
                with self._streams_by_principal.slot(call.principal):
                    yield
            else:
                yield
