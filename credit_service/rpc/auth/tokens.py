"""Verify bearer tokens (JWTs) against the configured keys.

Only what a configured key has signed is trusted. Headers that say where to find a key (jku, jwk,
x5u, x5c) are ignored.
"""

import hashlib
import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
from joserfc import jws
from joserfc.errors import ClaimError, ExpiredTokenError, JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.jwt import JWTClaimsRegistry

from credit_service.clock import Clock
from credit_service.domain.principals import ANONYMOUS as ANONYMOUS_NAME
from credit_service.processes.address import MisconfiguredError
from credit_service.rpc.auth.errors import invalid_token, unauthenticated
from credit_service.rpc.auth.principal import (
    CERTIFICATE_PREFIX,
    SCOPES,
    Principal,
    is_principal_name,
)
from credit_service.rpc.auth.reloading import Reloaded, json_files, read_bounded
from credit_service.settings import Settings

ALGORITHMS = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
    | {"ES256", "ES384", "ES512", "EdDSA", "Ed25519"}
)
"""Algorithms that settings may allow: public-key signatures; neither none nor a shared secret."""

LEEWAY_SECONDS = 30
"""Tolerated difference between the clocks of issuer and server."""

MAX_TOKEN_BYTES = 6 * 1024
MAX_KEYS = 100
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192

_CACHED_TOKENS = 4096
_MAX_TIME = 253_402_300_799  # seconds since 1970: the end of the year 9999
_TOKEN_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
_EC_ALGORITHMS = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
_PRIVATE_PARTS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})

_log = structlog.get_logger(__name__)

_Key = RSAKey | ECKey | OKPKey
_KEY_TYPES: dict[str, type[RSAKey] | type[ECKey] | type[OKPKey]] = {
    "RSA": RSAKey,
    "EC": ECKey,
    "OKP": OKPKey,
}


@dataclass(frozen=True, slots=True)
class _VerificationKey:
    key: _Key
    algorithms: frozenset[str]


VerificationKeys = Mapping[str, _VerificationKey]
"""Keys by their id (kid)."""


@dataclass(frozen=True, slots=True)
class _Verified:
    """A valid token's principal, and its validity in seconds since 1970."""

    principal: Principal
    not_before: float
    expires: float


@dataclass(frozen=True, slots=True)
class _Cache:
    """Tokens verified by a set of keys, by their SHA-256, the oldest first."""

    keys: VerificationKeys
    tokens: dict[bytes, _Verified] = field(default_factory=dict)


class TokenVerifier:
    """Verifies bearer tokens against the keys of a file or folder. Thread-safe."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        """Read the keys.

        Raises:
            MisconfiguredError: the keys cannot be read or used, or a setting is missing.
        """
        if settings.token_keys is None or not settings.token_issuer:
            raise MisconfiguredError(
                "Tokens need CREDIT_TOKEN_KEYS, the keys that verify them, and "
                "CREDIT_TOKEN_ISSUER, their issuer: set both"
            )
        path, algorithms = settings.token_keys, _allowed_algorithms(settings.token_algorithms)
        try:
            self._keys = Reloaded(
                "token_keys", lambda: json_files(path), lambda: _keys_in_force(path, algorithms)
            )
        except (OSError, ValueError) as error:
            raise MisconfiguredError(f"CREDIT_TOKEN_KEYS cannot be used: {error}") from error
        if not self._keys.current():
            raise MisconfiguredError(f"CREDIT_TOKEN_KEYS: {path} has no key; add one")
        self._issuer = settings.token_issuer
        self._audience = settings.token_audience
        self._clock = clock
        self._registry = _Registry(algorithms=algorithms, strict_check_header=False)
        self._cache = _Cache(self._keys.current())
        self._storing = threading.Lock()

    @property
    def key_count(self) -> int:
        """Number of keys now."""
        return len(self._keys.current())

    def verify(self, token: str) -> Principal:
        """The principal of the token. Raises UnauthenticatedError for an invalid token."""
        if len(token) > MAX_TOKEN_BYTES or not token.isascii():
            raise invalid_token("too long, or not ASCII")
        now, keys, cache, digest = self._looked_up(token)
        verified = cache.tokens.get(digest)
        if verified is None or not verified.not_before <= now < verified.expires:
            verified = self._verified(token, keys, now)
            self._store(cache, digest, verified)
        return verified.principal

    def cached_principal(self, token: str) -> Principal | None:
        """The principal of a token that was verified before and is still valid; else None."""
        if len(token) > MAX_TOKEN_BYTES or not token.isascii():
            return None
        now, _, cache, digest = self._looked_up(token)
        verified = cache.tokens.get(digest)
        if verified is None or not verified.not_before <= now < verified.expires:
            return None
        return verified.principal

    def _looked_up(self, token: str) -> tuple[float, VerificationKeys, _Cache, bytes]:
        """The time, the keys, the cache of tokens verified by them, and the token's key in it."""
        keys = self._keys.current()
        cache = self._cache
        if cache.keys is not keys:
            # A key may be gone, so every token must be verified again.
            cache = self._cache = _Cache(keys)
        digest = hashlib.sha256(token.encode("ascii")).digest()
        return self._clock.moment().now.timestamp(), keys, cache, digest

    def _store(self, cache: _Cache, digest: bytes, verified: _Verified) -> None:
        with self._storing:
            while len(cache.tokens) >= _CACHED_TOKENS:
                del cache.tokens[next(iter(cache.tokens))]
            cache.tokens[digest] = verified

    def _verified(self, token: str, keys: VerificationKeys, now: float) -> _Verified:
        try:
            found = jws.extract_compact(token.encode("ascii"), registry=self._registry)
            key = _key_for(found.protected, keys)
            if not jws.validate_compact(found, key, registry=self._registry):
                raise invalid_token("the signature is invalid")
            if found.payload is None:
                raise invalid_token("the token has no claims")
            claims = json.loads(found.payload)
        except (JoseError, ValueError, TypeError, RecursionError) as error:
            raise invalid_token(f"{type(error).__name__}: {error}") from None
        if not isinstance(claims, dict):
            raise invalid_token("the claims are not an object")
        # From here on the token provably comes from the issuer: its owner may learn what is wrong.
        self._check_claims(claims, now)
        return _Verified(
            Principal(_subject(claims), _scopes_of(claims)),
            not_before=float(claims.get("nbf", 0)) - LEEWAY_SECONDS,
            expires=float(claims["exp"]) + LEEWAY_SECONDS,
        )

    def _check_claims(self, claims: dict[str, Any], now: float) -> None:
        registry = JWTClaimsRegistry(
            now=int(now),
            leeway=LEEWAY_SECONDS,
            iss={"essential": True, "value": self._issuer},
            aud={"essential": True, "value": self._audience},
            exp={"essential": True},
            sub={"essential": True},
        )
        try:
            registry.validate(claims)
        except ExpiredTokenError:
            raise unauthenticated("expired", "The token has expired; get a new one.") from None
        except ClaimError as error:
            problem, message = _CLAIM_PROBLEMS.get(error.claim, _OTHER_CLAIM_PROBLEM)
            raise unauthenticated(problem, message, str(error)) from None
        if not all(abs(claims.get(name, 0)) <= _MAX_TIME for name in ("exp", "nbf")):
            raise unauthenticated(*_OTHER_CLAIM_PROBLEM, "a time after the year 9999")


_CLAIM_PROBLEMS = {
    "aud": (
        "wrong_audience",
        "The token was issued for another audience; get one for this service.",
    ),
    "iss": (
        "wrong_issuer",
        "This server does not trust the token's issuer; get a token from its own issuer.",
    ),
    "nbf": ("not_yet_valid", "The token is not valid yet; retry later or check the clocks."),
    "iat": ("not_yet_valid", "The token is not valid yet; retry later or check the clocks."),
}
_OTHER_CLAIM_PROBLEM = ("invalid", "Invalid token; get a new one.")


class _Registry(jws.JWSRegistry):
    """joserfc's registry with our limits, and no warning of EdDSA, which RFC 9864 only renames."""

    max_header_length = 2048
    max_payload_length = MAX_TOKEN_BYTES
    max_signature_length = 1400  # RSA of 8192 bits

    def get_alg(self, name: str) -> Any:
        if self.allowed is None or name not in self.allowed:
            raise ValueError("the algorithm is not allowed")
        return self.algorithms[name]


def _allowed_algorithms(text: str) -> frozenset[str]:
    names = frozenset(name.strip() for name in text.split(",") if name.strip())
    if not names or not names <= ALGORITHMS:
        raise MisconfiguredError(
            f"CREDIT_TOKEN_ALGORITHMS is {text!r}; use a comma-separated list of "
            f"{', '.join(sorted(ALGORITHMS))}"
        )
    return names


def _keys_in_force(path: Path, allowed: frozenset[str]) -> VerificationKeys:
    """The keys of `read_keys`; logs an error where there are none."""
    keys = read_keys(path, allowed)
    if not keys:
        _log.error("token_keys_gone", path=str(path), consequence="all tokens are refused")
    return keys


def read_keys(path: Path, allowed: frozenset[str]) -> VerificationKeys:
    """The keys of a JWKS file, or of all *.json files of a folder.

    Keys for other purposes, which issuers publish too, are ignored. A missing or empty file has no
    keys: removing a file revokes its keys.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file is not a set of public keys, or two keys have the same id.
    """
    keys: dict[str, _VerificationKey] = {}
    for file in json_files(path):
        try:
            for kid, key in _keys_of(_content_of(file), allowed):
                _require(kid not in keys or _same(key, keys[kid]), f"two keys have the id {kid!r}")
                keys[kid] = key
        except (JoseError, ValueError, TypeError, KeyError, RecursionError) as error:
            # The text of another error could repeat part of a private key put here by mistake.
            problem = error if isinstance(error, _KeyFileError) else type(error).__name__
            raise ValueError(f"{file} is not a set of keys (JWKS): {problem}") from None
    if len(keys) > MAX_KEYS:
        raise ValueError(f"{path} has more than {MAX_KEYS} keys")
    return keys


def _content_of(file: Path) -> bytes:
    """The file's content; empty where the file does not exist."""
    try:
        return read_bounded(file)
    except FileNotFoundError:
        return b""


class _KeyFileError(ValueError):
    """What is wrong with a key, in a message that repeats no part of it."""


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise _KeyFileError(problem)


def _same(one: _VerificationKey, other: _VerificationKey) -> bool:
    return one.key.thumbprint() == other.key.thumbprint()


def _keys_of(data: bytes, allowed: frozenset[str]) -> Iterator[tuple[str, _VerificationKey]]:
    if not data.strip():
        return
    for entry in json.loads(data)["keys"]:
        _require(isinstance(entry, dict), "a key is not an object")
        kid = entry.get("kid")
        _require(isinstance(kid, str) and kid != "", "a key has no id (kid)")
        _require(
            not _PRIVATE_PARTS & entry.keys(), f"{kid!r} is a private key; give public keys only"
        )
        if entry.get("kty") not in _KEY_TYPES or entry.get("use", "sig") != "sig":
            continue
        if "verify" not in entry.get("key_ops", ["verify"]):
            continue
        key = _KEY_TYPES[entry["kty"]].import_key(entry)
        algorithms = _algorithms_of(key, kid) & allowed
        if "alg" in entry:
            algorithms &= {entry["alg"]}
        if algorithms:
            yield kid, _VerificationKey(key, algorithms)


def _algorithms_of(key: _Key, kid: str) -> frozenset[str]:
    """The algorithms of a key of this type."""
    match key:
        case RSAKey():
            bits = key.public_key.key_size
            _require(
                MIN_RSA_BITS <= bits <= MAX_RSA_BITS,
                f"{kid!r} has {bits} bits; use {MIN_RSA_BITS} to {MAX_RSA_BITS}",
            )
            return frozenset(each for each in ALGORITHMS if each[:2] in ("RS", "PS"))
        case ECKey():
            return frozenset({_EC_ALGORITHMS.get(key.curve_name, "")})
        case OKPKey() if key.curve_name == "Ed25519":
            return frozenset({"EdDSA", "Ed25519"})
    return frozenset()


def _key_for(header: Mapping[str, Any], keys: VerificationKeys) -> _Key:
    """The configured key that the header names, if the key allows the header's algorithm."""
    if "crit" in header or "b64" in header:
        raise invalid_token("the token needs an extension")
    token_type = header.get("typ", "JWT")
    if not isinstance(token_type, str) or token_type.lower() not in _TOKEN_TYPES:
        raise invalid_token("the token is of another type")
    kid, algorithm = header.get("kid"), header.get("alg")
    found = keys.get(kid) if isinstance(kid, str) else None
    if found is None:
        raise invalid_token("no key has the token's kid")
    if algorithm not in found.algorithms:
        raise invalid_token("the key does not allow the algorithm")
    return found.key


def _subject(claims: Mapping[str, Any]) -> str:
    name = str(claims["sub"])
    if not is_principal_name(name) or name == ANONYMOUS_NAME or name.startswith(CERTIFICATE_PREFIX):
        raise unauthenticated(
            "invalid", _OTHER_CLAIM_PROBLEM[1], "sub is not a valid name of a principal"
        )
    return name


def _scopes_of(claims: Mapping[str, Any]) -> frozenset[str]:
    """The known scopes in `scope` (RFC 8693: words) or, where that is absent, `scp` (a list)."""
    granted = claims.get("scope", claims.get("scp", ""))
    if isinstance(granted, str):
        granted = granted.split()
    if not isinstance(granted, list):
        return frozenset()
    return SCOPES.intersection(each for each in granted if isinstance(each, str))


def bearer_token(metadata: Iterable[tuple[str, str | bytes]]) -> str | None:
    """The token of a call's metadata; None without an `authorization` key."""
    found: str | None = None
    for key, value in metadata:
        if key == "authorization":
            if found is not None or not isinstance(value, str):
                raise invalid_token("several tokens")
            found = value
    if found is None:
        return None
    scheme, _, token = found.partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise invalid_token("authorization is not 'Bearer', a space and a token")
    return token
