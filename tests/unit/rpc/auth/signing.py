"""Keys, tokens and call contexts for tests of authentication."""

import base64
import json
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from joserfc import jws
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from credit_service.clock import Clock, Moment
from credit_service.rpc.auth import reloading
from credit_service.rpc.auth.gatekeeper import Gatekeeper
from credit_service.rpc.auth.principal import Principal
from credit_service.rpc.auth.tokens import TokenVerifier
from credit_service.rpc.errors import UnauthenticatedError
from credit_service.settings import Settings

ISSUER = "https://id.example"
AUDIENCE = "credit-service"
NOW = 1_800_000_000
READ = "/credit_service.v1.CreditService/GetCustomer"
WRITE = "/credit_service.v1.CreditService/CreateLoan"

MAKERS: dict[str, Callable[[], "Key"]] = {
    "ES256": lambda: ECKey.generate_key("P-256"),
    "ES384": lambda: ECKey.generate_key("P-384"),
    "ES512": lambda: ECKey.generate_key("P-521"),
    "EdDSA": lambda: OKPKey.generate_key("Ed25519"),
    "Ed25519": lambda: OKPKey.generate_key("Ed25519"),
}
RSA = RSAKey.generate_key(2048)
Key = RSAKey | ECKey | OKPKey


class SteppedClock(Clock):
    """A clock that a test sets."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: float = NOW

    def moment(self) -> Moment:
        now = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)
        return Moment(now, now.date())


def new_key(algorithm: str) -> Key:
    make = MAKERS.get(algorithm)
    return RSA if make is None else make()


def public(key: Key, kid: str, **parameters: object) -> dict[str, Any]:
    return {**key.as_dict(private=False), "kid": kid, **parameters}


def write_keys(path: Path, *keys: Mapping[str, Any]) -> None:
    """Replace the file in one step, as a careful operator does."""
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps({"keys": list(keys)}))
    os.replace(beside, path)  # noqa: PTH105 - as the shell's mv


def claims(**changes: object) -> dict[str, Any]:
    found = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "teller-7",
        "scope": "credit.read",
        "exp": NOW + 600,
        **changes,
    }
    return {name: value for name, value in found.items() if value is not None}


def signed(
    key: Key | OctKey,
    content: object,
    *,
    algorithm: str = "ES256",
    kid: str | None = "k1",
    **header: object,
) -> str:
    """A token, made without the checks of a library."""
    protected = {"alg": algorithm, "typ": "JWT", **header}
    if kid is not None:
        protected["kid"] = kid
    head = base64.urlsafe_b64encode(json.dumps(protected).encode()).rstrip(b"=")
    body = base64.urlsafe_b64encode(
        content if isinstance(content, bytes) else json.dumps(content).encode()
    ).rstrip(b"=")
    signer = jws.JWSRegistry.algorithms[algorithm]
    signature = base64.urlsafe_b64encode(signer.sign(head + b"." + body, key)).rstrip(b"=")
    return b".".join((head, body, signature)).decode()


class Fixture:
    """A verifier with one ES256 key, its file and its clock."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.path = folder / "keys.json"
        self.key = ECKey.generate_key("P-256")
        write_keys(self.path, public(self.key, "k1"))
        self.clock = SteppedClock()
        self.settings = Settings.model_validate(
            {"token_keys": self.path, "token_issuer": ISSUER, **settings}
        )
        self.verifier = TokenVerifier(self.settings, self.clock)
        files = self.verifier._keys
        self._seconds = files._next_check - reloading._CHECK_SECONDS
        files._clock = lambda: self._seconds

    def token(self, **changes: object) -> str:
        return signed(self.key, claims(**changes))

    def look_again(self) -> None:
        """Let a second pass, so that the next call checks the files."""
        self._seconds += 1.01

    def look_until_gone(self) -> None:
        """Let the time pass after which a missing file counts as gone."""
        for _ in range(3):
            self.look_again()
            self.verifier._keys.current()


def refused(verifier: TokenVerifier, token: str) -> str:
    """The reason of a token's rejection."""
    with pytest.raises(UnauthenticatedError) as caught:
        verifier.verify(token)
    assert caught.value.reason == "UNAUTHENTICATED"
    assert not token or token not in caught.value.message
    return caught.value.metadata["problem"]


class Context:
    """The parts of a call's context that the gatekeeper reads."""

    def __init__(
        self,
        *metadata: tuple[str, str | bytes],
        peer: Mapping[str, list[bytes]] | None = None,
    ) -> None:
        self._metadata = metadata
        self._peer = peer or {}

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return self._metadata

    def auth_context(self) -> Mapping[str, list[bytes]]:
        return self._peer


def admit(gatekeeper: Gatekeeper, method: str, context: Context) -> Principal:
    return gatekeeper.authorize(method, cast("grpc.ServicerContext", context))


def gate(fixture: Fixture, **arguments: Any) -> Gatekeeper:
    scopes = {READ: "credit.read", WRITE: "credit.write"}
    return Gatekeeper(scopes, fixture.verifier, None, **arguments)
