"""Authenticate callers by the client certificate of their connection (mutual TLS)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from credit_service.processes.address import MisconfiguredError
from credit_service.rpc.auth.errors import missing_credentials
from credit_service.rpc.auth.principal import (
    CERTIFICATE_PREFIX,
    SCOPES,
    Principal,
    is_principal_name,
)
from credit_service.rpc.auth.reloading import Reloaded, read_bounded


class CertificateScopes:
    """Scopes of client certificates, by the name in the certificate."""

    def __init__(self, path: Path) -> None:
        """`path` is a JSON object that maps names to lists of scopes.

        Raises:
            MisconfiguredError: the file cannot be read or is invalid.
        """
        try:
            self._scopes = Reloaded("client_scopes", lambda: [path], lambda: _read_scopes(path))
        except (OSError, ValueError) as error:
            raise MisconfiguredError(f"CREDIT_CLIENT_SCOPES cannot be used: {error}") from error

    def principal(self, peer: Mapping[str, Any]) -> Principal:
        """The owner of the connection's certificate, which TLS has verified.

        `peer` is grpc's auth context: lists of bytes by kind. Names are the certificate's URIs,
        then its DNS names; the common name counts only where it has neither. The principal is the
        first name with scopes, or the first name, without scopes.

        Raises:
            UnauthenticatedError: the connection has no certificate.
        """
        names = [
            name.decode("utf-8", "replace")
            for kind in ("peer_uri", "peer_dns")
            for name in peer.get(kind, ())
        ]
        if not names:
            names = [name.decode("utf-8", "replace") for name in peer.get("x509_common_name", ())]
        names = [name for name in names if is_principal_name(name)]
        if not names:
            raise missing_credentials()
        scopes = self._scopes.current()
        name = next((name for name in names if name in scopes), names[0])
        return Principal(CERTIFICATE_PREFIX + name, scopes.get(name, frozenset()))


def _read_scopes(path: Path) -> dict[str, frozenset[str]]:
    try:
        document = json.loads(read_bounded(path))
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply") from None
    if not isinstance(document, dict):
        raise ValueError(f"{path} is not an object of names and scopes")  # noqa: TRY004 - content
    scopes = {}
    for name, granted in document.items():
        scoped = isinstance(granted, list) and all(isinstance(each, str) for each in granted)
        if not scoped or not SCOPES.issuperset(granted):
            raise ValueError(f"{path}: {name!r} must have a list of {', '.join(sorted(SCOPES))}")
        scopes[name] = frozenset(granted)
    return scopes
