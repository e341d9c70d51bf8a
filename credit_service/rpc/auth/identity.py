"""Who calls, and what they may.

A caller is known by a bearer token (a signed JWT) or, where the settings say so, by the client
certificate of its connection. Each method names the scope it needs in the contract. Nothing is
believed that a configured key or authority has not signed: what a token says about where its key
may be found (jku, jwk, x5u, x5c) is never looked at.

Callers are told little about why their credentials do not hold; the log is told all but the token.
"""

import hashlib
import json
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import grpc
import structlog
from google.protobuf.descriptor import ServiceDescriptor
from joserfc import jws
from joserfc.errors import ClaimError, ExpiredTokenError, JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.jwt import JWTClaimsRegistry

from credit_service.clock import Clock
from credit_service.domain.errors import CreditError
from credit_service.domain.principals import ANONYMOUS as ANONYMOUS_NAME
from credit_service.processes.address import MisconfiguredError
from credit_service.rpc.auth.reloading import Reloaded, json_files, read_bounded
from credit_service.rpc.errors import PermissionDenied, Unauthenticated
from credit_service.settings import Settings
from credit_service.v1 import options_pb2

SCOPES = frozenset({"credit.read", "credit.write", "ingest", "ingest.update", "admin"})
"""Every scope of the contract."""

ALGORITHMS = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
    | {"ES256", "ES384", "ES512", "EdDSA", "Ed25519"}
)
"""Algorithms that settings may allow: public-key signatures; never none, nor a shared secret."""

LEEWAY_SECONDS = 30
"""How far the clocks of issuer and server may be apart."""

MAX_TOKEN_BYTES = 6 * 1024
MAX_KEYS = 100
MAX_NAME_CHARACTERS = 128
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192

CERTIFICATE_PREFIX = "cert:"
"""What a principal's name begins with who is known by a certificate."""

_CACHED_TOKENS = 4096
_MAX_TIME = 253_402_300_799  # seconds since 1970: the end of the year 9999
_TOKEN_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
_EC_ALGORITHMS = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
_PRIVATE_PARTS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_REFUSALS_LOGGED_PER_SECOND = 10

_log = structlog.get_logger(__name__)

_Key = RSAKey | ECKey | OKPKey
_KEY_TYPES: dict[str, type[RSAKey] | type[ECKey] | type[OKPKey]] = {
    "RSA": RSAKey,
    "EC": ECKey,
    "OKP": OKPKey,
}


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller: its name, as decisions and logs keep it, and its scopes."""

    name: str
    scopes: frozenset[str]


ANONYMOUS = Principal(ANONYMOUS_NAME, SCOPES)
"""Whoever calls a server that asks nobody for credentials."""


class Headers(Protocol):
    """What is known of a call before its message has arrived."""

    @property
    def metadata(self) -> Any:
        """Its metadata: pairs of a key and a value."""

    @property
    def context(self) -> grpc.ServicerContext:
        """A context of the call, which knows the certificate of the connection."""


class Gatekeeper:
    """Says who makes a call and whether it may. Safe to share between threads."""

    def __init__(
        self,
        scopes: Mapping[str, str],
        tokens: "TokenVerifier | None",
        certificates: "CertificateScopes | None",
        *,
        open_methods: Collection[str] = (),
        unscoped_methods: Collection[str] = (),
    ) -> None:
        """`scopes` is the scope of each method by its path. `open_methods` ask for no credentials,
        `unscoped_methods` for any. What is in none of the three is denied. With neither `tokens`
        nor `certificates` everybody is ANONYMOUS and may do all."""
        self._scopes = dict(scopes)
        self._tokens = tokens
        self._certificates = certificates
        self._open = frozenset(open_methods)
        self._unscoped = frozenset(unscoped_methods)
        self._refusals = _RefusalLog()

    @property
    def token_keys(self) -> int | None:
        """How many keys verify tokens now; None where tokens are of no use."""
        return None if self._tokens is None else self._tokens.key_count

    @property
    def asks(self) -> bool:
        """Whether callers are asked for credentials."""
        return self._tokens is not None or self._certificates is not None

    def admit(self, method: str, context: grpc.ServicerContext) -> Principal:
        """The caller, who may call the method of that path.

        Raises:
            Unauthenticated: no credentials, or none that hold.
            PermissionDenied: the caller's scopes do not cover the method.
        """
        if not self.asks or method in self._open:
            return ANONYMOUS
        try:
            principal = self._authenticate(context)
        except Unauthenticated as refusal:
            self._refusals.note(method, refusal)
            raise
        scope = self._scopes.get(method)
        if scope in principal.scopes or (scope is None and method in self._unscoped):
            return principal
        denial = _denied(scope)
        denial.principal = principal.name
        self._refusals.note(method, denial, principal.name)
        raise denial

    def recognize(self, method: str, call: Headers) -> Principal | None:
        """The caller, where that takes next to no time: its token was verified before, or its
        certificate by TLS, and it may call the method. None where `admit` must find out, or refuse.
        """
        try:
            if self._tokens is not None:
                token = _bearer_token(call.metadata)
                principal = None if token is None else self._tokens.verified_before(token)
            elif self._certificates is not None:
                principal = self._certificates.principal(call.context.auth_context())
            else:
                return ANONYMOUS
        except Unauthenticated:
            return None
        if principal is None or self._scopes.get(method) not in principal.scopes:
            return None
        return principal

    def _authenticate(self, context: grpc.ServicerContext) -> Principal:
        if self._tokens is not None:
            token = _bearer_token(context.invocation_metadata())
            if token is not None:
                return self._tokens.verify(token)
        if self._certificates is not None:
            return self._certificates.principal(context.auth_context())
        raise _missing()


def gatekeeper(
    settings: Settings,
    services: Iterable[ServiceDescriptor],
    reflection_methods: Collection[str],
    clock: Clock,
) -> Gatekeeper:
    """The gatekeeper that the settings describe, for the methods of `services`.

    Raises:
        MisconfiguredError: a method declares no scope, or the settings do not fit together.
    """
    scopes = method_scopes(services)
    tokens = certificates = None
    if settings.token_keys is not None:
        tokens = TokenVerifier(settings, clock)
    if settings.client_scopes is not None:
        if settings.tls_client_ca is None:
            raise MisconfiguredError(
                "CREDIT_CLIENT_SCOPES gives scopes to client certificates: set CREDIT_TLS_CLIENT_CA"
            )
        certificates = CertificateScopes(settings.client_scopes)
    if settings.tls_client_ca is not None and tokens is None and certificates is None:
        raise MisconfiguredError(
            "CREDIT_TLS_CLIENT_CA asks for certificates, and nothing says what their owners may "
            "do: set CREDIT_CLIENT_SCOPES, CREDIT_TOKEN_KEYS, or both"
        )
    return Gatekeeper(
        scopes,
        tokens,
        certificates,
        open_methods=reflection_methods if settings.reflection == "open" else (),
        unscoped_methods=reflection_methods if settings.reflection == "authenticated" else (),
    )


def method_scopes(services: Iterable[ServiceDescriptor]) -> dict[str, str]:
    """The scope that each method of the services declares, by its path '/package.Service/Method'.

    Raises:
        MisconfiguredError: a method declares none, or one that does not exist.
    """
    scopes = {}
    for service in services:
        for method in service.methods:
            scope = method.GetOptions().Extensions[options_pb2.scope]
            if scope not in SCOPES:
                raise MisconfiguredError(
                    f"{method.full_name} declares the scope {scope!r}, and the contract knows "
                    f"{', '.join(sorted(SCOPES))}"
                )
            scopes[f"/{service.full_name}/{method.name}"] = scope
    return scopes


# Tokens


@dataclass(frozen=True, slots=True)
class _VerificationKey:
    key: _Key
    algorithms: frozenset[str]


_Keys = Mapping[str, _VerificationKey]
"""Keys by their id (kid)."""


@dataclass(frozen=True, slots=True)
class _Verified:
    """A token that held, and the seconds since 1970 from and until which it does."""

    principal: Principal
    not_before: float
    expires: float


@dataclass(frozen=True, slots=True)
class _Cache:
    """Tokens that held under a set of keys, by their SHA-256, the oldest first."""

    keys: _Keys
    tokens: dict[bytes, _Verified] = field(default_factory=dict)


class TokenVerifier:
    """Verifies bearer tokens against the keys of a file or folder. Safe to share by threads."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        """Reads the keys.

        Raises:
            MisconfiguredError: they cannot be read or used, or a setting is missing.
        """
        if settings.token_keys is None or not settings.token_issuer:
            raise MisconfiguredError(
                "Tokens need CREDIT_TOKEN_KEYS, the keys that verify them, and "
                "CREDIT_TOKEN_ISSUER, who issues them"
            )
        path, algorithms = settings.token_keys, _allowed_algorithms(settings.token_algorithms)
        try:
            self._keys = Reloaded(
                "token_keys", lambda: json_files(path), lambda: _keys_in_force(path, algorithms)
            )
        except (OSError, ValueError) as error:
            raise MisconfiguredError(f"CREDIT_TOKEN_KEYS cannot be used: {error}") from error
        if not self._keys.current():
            raise MisconfiguredError(f"CREDIT_TOKEN_KEYS: there is no key in {path}")
        self._issuer = settings.token_issuer
        self._audience = settings.token_audience
        self._clock = clock
        self._registry = _Registry(algorithms=algorithms, strict_check_header=False)
        self._cache = _Cache(self._keys.current())
        self._storing = threading.Lock()

    @property
    def key_count(self) -> int:
        """How many keys there are now."""
        return len(self._keys.current())

    def verify(self, token: str) -> Principal:
        """Whose token it is. Raises Unauthenticated for one that does not hold now."""
        if len(token) > MAX_TOKEN_BYTES or not token.isascii():
            raise _invalid("too long, or not ASCII")
        now, keys, cache, digest = self._looked_up(token)
        verified = cache.tokens.get(digest)
        if verified is None or not verified.not_before <= now < verified.expires:
            verified = self._verified(token, keys, now)
            self._store(cache, digest, verified)
        return verified.principal

    def verified_before(self, token: str) -> Principal | None:
        """Whose token it is, where it was verified before and holds still; else None."""
        if len(token) > MAX_TOKEN_BYTES or not token.isascii():
            return None
        now, _, cache, digest = self._looked_up(token)
        verified = cache.tokens.get(digest)
        if verified is None or not verified.not_before <= now < verified.expires:
            return None
        return verified.principal

    def _looked_up(self, token: str) -> tuple[float, _Keys, _Cache, bytes]:
        """The time, the keys, the tokens that held under them, and where the token is in those."""
        keys = self._keys.current()
        cache = self._cache
        if cache.keys is not keys:
            # A key may have gone: what it signed must be looked at again.
            cache = self._cache = _Cache(keys)
        digest = hashlib.sha256(token.encode("ascii")).digest()
        return self._clock.moment().now.timestamp(), keys, cache, digest

    def _store(self, cache: _Cache, digest: bytes, verified: _Verified) -> None:
        with self._storing:
            while len(cache.tokens) >= _CACHED_TOKENS:
                del cache.tokens[next(iter(cache.tokens))]
            cache.tokens[digest] = verified

    def _verified(self, token: str, keys: _Keys, now: float) -> _Verified:
        try:
            found = jws.extract_compact(token.encode("ascii"), registry=self._registry)
            key = _key_for(found.protected, keys)
            if not jws.validate_compact(found, key, registry=self._registry):
                raise _invalid("the signature does not fit")
            if found.payload is None:
                raise _invalid("it has no claims")
            claims = json.loads(found.payload)
        except (JoseError, ValueError, TypeError, RecursionError) as error:
            raise _invalid(f"{type(error).__name__}: {error}") from None
        if not isinstance(claims, dict):
            raise _invalid("its claims are no object")
        # From here on the token is the issuer's own, and its owner may be told what is wrong.
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
            raise _unauthenticated("expired", "The token has expired; get a new one.") from None
        except ClaimError as error:
            problem, message = _CLAIM_PROBLEMS.get(error.claim, _OTHER_CLAIM_PROBLEM)
            raise _unauthenticated(problem, message, str(error)) from None
        if not all(abs(claims.get(name, 0)) <= _MAX_TIME for name in ("exp", "nbf")):
            raise _unauthenticated(*_OTHER_CLAIM_PROBLEM, "a time beyond all calendars")


_CLAIM_PROBLEMS = {
    "aud": ("wrong_audience", "The token was issued for another service."),
    "iss": ("wrong_issuer", "The token is of an issuer that this server does not know."),
    "nbf": ("not_yet_valid", "The token is not valid yet."),
    "iat": ("not_yet_valid", "The token is not valid yet."),
}
_OTHER_CLAIM_PROBLEM = ("invalid", "The token does not hold.")


class _Registry(jws.JWSRegistry):
    """joserfc's, with our limits. It does not warn of EdDSA, which RFC 9864 renames and no more."""

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
            f"CREDIT_TOKEN_ALGORITHMS may name {', '.join(sorted(ALGORITHMS))}, not {text!r}"
        )
    return names


def _keys_in_force(path: Path, allowed: frozenset[str]) -> _Keys:
    """As `read_keys`, and an error in the log where there are none."""
    keys = read_keys(path, allowed)
    if not keys:
        _log.error("token_keys_gone", path=str(path), consequence="all tokens are refused")
    return keys


def read_keys(path: Path, allowed: frozenset[str]) -> _Keys:
    """The keys of a JWKS file, or of all *.json files of a folder.

    Keys for other purposes, which issuers publish beside them, are passed over. A file that is
    missing or empty has no keys: to remove it is to revoke them.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file is no set of public keys, or two keys have the same id.
    """
    keys: dict[str, _VerificationKey] = {}
    for file in json_files(path):
        try:
            for kid, key in _keys_of(_content_of(file), allowed):
                _require(kid not in keys or _same(key, keys[kid]), f"another key is {kid!r} too")
                keys[kid] = key
        except (JoseError, ValueError, TypeError, KeyError, RecursionError) as error:
            # An error's own text could repeat a part of a private key that does not belong here.
            told = error if isinstance(error, _KeyFileError) else type(error).__name__
            raise ValueError(f"{file} is not a set of keys (JWKS): {told}") from None
    if len(keys) > MAX_KEYS:
        raise ValueError(f"{path} has more than {MAX_KEYS} keys")
    return keys


def _content_of(file: Path) -> bytes:
    """What is in the file; nothing where there is none."""
    try:
        return read_bounded(file)
    except FileNotFoundError:
        return b""


class _KeyFileError(ValueError):
    """What is wrong with a key, in words that repeat none of it."""


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise _KeyFileError(otherwise)


def _same(one: _VerificationKey, other: _VerificationKey) -> bool:
    return one.key.thumbprint() == other.key.thumbprint()


def _keys_of(data: bytes, allowed: frozenset[str]) -> Iterator[tuple[str, _VerificationKey]]:
    if not data.strip():
        return
    for entry in json.loads(data)["keys"]:
        _require(isinstance(entry, dict), "a key is no object")
        kid = entry.get("kid")
        _require(isinstance(kid, str) and kid != "", "a key has no id (kid)")
        _require(not _PRIVATE_PARTS & entry.keys(), f"{kid!r} is a secret, and a server needs none")
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
    """What a key of this type can have signed."""
    match key:
        case RSAKey():
            bits = key.public_key.key_size
            _require(
                MIN_RSA_BITS <= bits <= MAX_RSA_BITS,
                f"{kid!r} has {bits} bits, and may have {MIN_RSA_BITS} to {MAX_RSA_BITS}",
            )
            return frozenset(each for each in ALGORITHMS if each[:2] in ("RS", "PS"))
        case ECKey():
            return frozenset({_EC_ALGORITHMS.get(key.curve_name, "")})
        case OKPKey() if key.curve_name == "Ed25519":
            return frozenset({"EdDSA", "Ed25519"})
    return frozenset()


def _key_for(header: Mapping[str, Any], keys: _Keys) -> _Key:
    """The configured key that the header names, if it may have signed by the algorithm named."""
    if "crit" in header or "b64" in header:
        raise _invalid("it needs an extension")
    token_type = header.get("typ", "JWT")
    if not isinstance(token_type, str) or token_type.lower() not in _TOKEN_TYPES:
        raise _invalid("it is another kind of token")
    kid, algorithm = header.get("kid"), header.get("alg")
    found = keys.get(kid) if isinstance(kid, str) else None
    if found is None:
        raise _invalid("no key has its kid")
    if algorithm not in found.algorithms:
        raise _invalid("its key is not for its algorithm")
    return found.key


def _subject(claims: Mapping[str, Any]) -> str:
    name = str(claims["sub"])
    if not _is_name(name) or name == ANONYMOUS_NAME or name.startswith(CERTIFICATE_PREFIX):
        raise _unauthenticated("invalid", _OTHER_CLAIM_PROBLEM[1], "no name for a principal")
    return name


def _is_name(text: str) -> bool:
    return 0 < len(text) <= MAX_NAME_CHARACTERS and text.isprintable() and text == text.strip()


def _scopes_of(claims: Mapping[str, Any]) -> frozenset[str]:
    """The scopes of ours in `scope` (RFC 8693: words) or, where that is absent, `scp` (a list)."""
    granted = claims.get("scope", claims.get("scp", ""))
    if isinstance(granted, str):
        granted = granted.split()
    if not isinstance(granted, list):
        return frozenset()
    return SCOPES.intersection(each for each in granted if isinstance(each, str))


def _bearer_token(metadata: Iterable[tuple[str, str | bytes]]) -> str | None:
    """The token of a call's metadata; None without an `authorization`."""
    found: str | None = None
    for key, value in metadata:
        if key == "authorization":
            if found is not None or not isinstance(value, str):
                raise _invalid("several tokens")
            found = value
    if found is None:
        return None
    scheme, _, token = found.partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise _invalid("it is not 'Bearer', a blank and a token")
    return token


# Certificates


class CertificateScopes:
    """What the owner of a client certificate may do, by the name in the certificate."""

    def __init__(self, path: Path) -> None:
        """`path` is a JSON object of names and their lists of scopes.

        Raises:
            MisconfiguredError: it cannot be read or used.
        """
        try:
            self._scopes = Reloaded("client_scopes", lambda: [path], lambda: _read_scopes(path))
        except (OSError, ValueError) as error:
            raise MisconfiguredError(f"CREDIT_CLIENT_SCOPES cannot be used: {error}") from error

    def principal(self, peer: Mapping[str, Any]) -> Principal:
        """The owner of the connection's certificate, which TLS has verified.

        `peer` is grpc's auth context: lists of bytes by kind. Names are the certificate's URIs,
        then its DNS names; the common name counts only where it has neither. The first that has
        scopes is the principal; without any it may do nothing.

        Raises:
            Unauthenticated: the connection has no certificate.
        """
        names = [
            name.decode("utf-8", "replace")
            for kind in ("peer_uri", "peer_dns")
            for name in peer.get(kind, ())
        ]
        if not names:
            names = [name.decode("utf-8", "replace") for name in peer.get("x509_common_name", ())]
        names = [name for name in names if _is_name(name)]
        if not names:
            raise _missing()
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


# Refusals


class _Refused(Unauthenticated):
    """Unauthenticated, with what only the log is told."""

    def __init__(self, problem: str, message: str, detail: str) -> None:
        super().__init__("UNAUTHENTICATED", message, {"problem": problem})
        self.detail = detail


def _unauthenticated(problem: str, message: str, detail: str = "") -> Unauthenticated:
    return _Refused(problem, message, detail)


def _missing() -> Unauthenticated:
    return _unauthenticated("missing", "The call carries no credentials; this server needs some.")


def _invalid(detail: str) -> Unauthenticated:
    """The same for everything about a token that its issuer may not have said."""
    return _unauthenticated("invalid", "The credentials do not hold.", detail)


def _denied(scope: str | None) -> PermissionDenied:
    if scope is None:
        return PermissionDenied("PERMISSION_DENIED", "Nobody may call this method.")
    return PermissionDenied(
        "PERMISSION_DENIED",
        f"The credentials hold, and lack the scope {scope} that this method needs.",
        {"required_scope": scope},
    )


def hold_no_longer(
    refusal: Unauthenticated | PermissionDenied, **resume_at: object
) -> Unauthenticated | PermissionDenied:
    """What a stream ends with whose credentials are refused now; `resume_at` is where its caller
    continues, with others."""
    ended = " Open the stream again with credentials that hold."
    kind = PermissionDenied if isinstance(refusal, PermissionDenied) else Unauthenticated
    return kind(
        refusal.reason,
        refusal.message.removesuffix(ended) + ended,
        {**refusal.metadata, **{key: str(value) for key, value in resume_at.items()}},
    )


def challenge(refusal: Exception) -> str | None:
    """What `www-authenticate` says beside a refusal (RFC 6750); None for refusals of others."""
    match refusal:
        case Unauthenticated() if refusal.metadata.get("problem") == "missing":
            return "Bearer"
        case Unauthenticated():
            return 'Bearer error="invalid_token"'
        case PermissionDenied():
            scope = refusal.metadata.get("required_scope")
            return 'Bearer error="insufficient_scope"' + (f', scope="{scope}"' if scope else "")
    return None


class _RefusalLog:
    """Logs refusals, a few a second: whoever sends bad tokens must not fill the disk."""

    def __init__(self) -> None:
        self._second = 0
        self._logged = 0

    def note(self, method: str, refusal: CreditError, principal: str = "") -> None:
        # Counts may be a little off between threads, which is of no matter here.
        second = int(time.monotonic())
        if second != self._second:
            unsaid = self._logged - _REFUSALS_LOGGED_PER_SECOND
            if unsaid > 0:
                _log.warning("more_calls_refused", count=unsaid)
            self._second, self._logged = second, 0
        self._logged += 1
        if self._logged <= _REFUSALS_LOGGED_PER_SECOND:
            detail = refusal.detail[:200] if isinstance(refusal, _Refused) else ""
            _log.info(
                "call_refused",
                method=method,
                reason=refusal.reason,
                principal=principal,
                detail=detail,
                **refusal.metadata,
            )
