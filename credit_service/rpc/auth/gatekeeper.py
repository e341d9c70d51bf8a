"""Authenticate callers and authorize them for methods.

A bearer token (a signed JWT) identifies the caller or, where the settings allow it, the client
certificate of the connection. The contract declares the scope of each method. Callers learn little
about why their credentials are invalid; the log has everything but the token.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Protocol

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from credit_service.clock import Clock
from credit_service.processes.address import MisconfiguredError
from credit_service.rpc.auth.certificates import CertificateScopes
from credit_service.rpc.auth.errors import RejectionLog, denied, missing_credentials
from credit_service.rpc.auth.principal import ANONYMOUS, SCOPES, Principal
from credit_service.rpc.auth.tokens import TokenVerifier, bearer_token
from credit_service.rpc.errors import UnauthenticatedError
from credit_service.settings import Settings
from credit_service.v1 import options_pb2


class Headers(Protocol):
    """A call before its message has arrived."""

    @property
    def metadata(self) -> Any:
        """The call's metadata: pairs of a key and a value."""

    @property
    def context(self) -> grpc.ServicerContext:
        """A context of the call, with the certificate of the connection."""


class Gatekeeper:
    """Authenticates and authorizes callers. Thread-safe."""

    def __init__(
        self,
        scopes: Mapping[str, str],
        tokens: "TokenVerifier | None",
        certificates: "CertificateScopes | None",
        *,
        open_methods: Collection[str] = (),
        unscoped_methods: Collection[str] = (),
    ) -> None:
        """`scopes` maps the path of each method to its scope. `open_methods` require no
        credentials, `unscoped_methods` any. All other methods are denied. With neither `tokens` nor
        `certificates` every caller is ANONYMOUS and has every scope."""
        self._scopes = dict(scopes)
        self._tokens = tokens
        self._certificates = certificates
        self._open = frozenset(open_methods)
        self._unscoped = frozenset(unscoped_methods)
        self._rejection_log = RejectionLog()

    @property
    def token_keys(self) -> int | None:
        """Number of keys that verify tokens now; None where the server accepts no tokens."""
        return None if self._tokens is None else self._tokens.key_count

    @property
    def requires_credentials(self) -> bool:
        """Whether the server requires credentials."""
        return self._tokens is not None or self._certificates is not None

    def authorize(self, method: str, context: grpc.ServicerContext) -> Principal:
        """The caller, authorized for the method of that path.

        Raises:
            UnauthenticatedError: missing or invalid credentials.
            PermissionDeniedError: the caller lacks the method's scope.
        """
        if not self.requires_credentials or method in self._open:
            return ANONYMOUS
        try:
            principal = self._authenticate(context)
        except UnauthenticatedError as error:
            self._rejection_log.add(method, error)
            raise
        scope = self._scopes.get(method)
        if scope in principal.scopes or (scope is None and method in self._unscoped):
            return principal
        denial = denied(scope)
        denial.principal = principal.name
        self._rejection_log.add(method, denial, principal.name)
        raise denial

    def authorize_cached(self, method: str, call: Headers) -> Principal | None:
        """The authorized caller, where that takes next to no time: its token was verified before,
        or TLS has verified its certificate. None where `authorize` must decide.
        """
        try:
            if self._tokens is not None:
                token = bearer_token(call.metadata)
                principal = None if token is None else self._tokens.cached_principal(token)
            elif self._certificates is not None:
                principal = self._certificates.principal(call.context.auth_context())
            else:
                return ANONYMOUS
        except UnauthenticatedError:
            return None
        if principal is None or self._scopes.get(method) not in principal.scopes:
            return None
        return principal

    def _authenticate(self, context: grpc.ServicerContext) -> Principal:
        if self._tokens is not None:
            token = bearer_token(context.invocation_metadata())
            if token is not None:
                return self._tokens.verify(token)
        if self._certificates is not None:
            return self._certificates.principal(context.auth_context())
        raise missing_credentials()


def gatekeeper(
    settings: Settings,
    services: Iterable[ServiceDescriptor],
    reflection_methods: Collection[str],
    clock: Clock,
) -> Gatekeeper:
    """The gatekeeper that the settings describe, for the methods of `services`.

    Raises:
        MisconfiguredError: a method declares no scope, or the settings contradict each other.
    """
    scopes = method_scopes(services)
    tokens = certificates = None
    if settings.token_keys is not None:
        tokens = TokenVerifier(settings, clock)
    if settings.client_scopes is not None:
        if settings.tls_client_ca is None:
            raise MisconfiguredError(
                "CREDIT_CLIENT_SCOPES grants scopes to client certificates: set "
                "CREDIT_TLS_CLIENT_CA too"
            )
        certificates = CertificateScopes(settings.client_scopes)
    if settings.tls_client_ca is not None and tokens is None and certificates is None:
        raise MisconfiguredError(
            "CREDIT_TLS_CLIENT_CA requires client certificates, but nothing grants their owners "
            "scopes: set CREDIT_CLIENT_SCOPES, CREDIT_TOKEN_KEYS, or both"
        )
    return Gatekeeper(
        scopes,
        tokens,
        certificates,
        open_methods=reflection_methods if settings.reflection == "open" else (),
        unscoped_methods=reflection_methods if settings.reflection == "authenticated" else (),
    )


def method_scopes(services: Iterable[ServiceDescriptor]) -> dict[str, str]:
    """The scope that each method declares, by its path '/package.Service/Method'.

    Raises:
        MisconfiguredError: a method declares no scope, or an unknown one.
    """
    scopes = {}
    for service in services:
        for method in service.methods:
            scope = method.GetOptions().Extensions[options_pb2.scope]
            if scope not in SCOPES:
                raise MisconfiguredError(
                    f"{method.full_name} declares the unknown scope {scope!r}; the contract has "
                    f"{', '.join(sorted(SCOPES))}"
                )
            scopes[f"/{service.full_name}/{method.name}"] = scope
    return scopes
