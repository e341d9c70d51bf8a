"""Verification of tokens, without a server."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import ECKey, OKPKey, RSAKey

from credit_service.rpc.auth import tokens
from credit_service.rpc.auth.principal import Principal
from credit_service.rpc.auth.tokens import ALGORITHMS, TokenVerifier
from credit_service.rpc.errors import UnauthenticatedError
from tests.unit.rpc.auth.signing import (
    AUDIENCE,
    ISSUER,
    NOW,
    RSA,
    Fixture,
    claims,
    new_key,
    public,
    refused,
    signed,
    write_keys,
)


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_every_allowed_algorithm_is_verified(tmp_path: Path, algorithm: str) -> None:
    fixture = Fixture(tmp_path, token_algorithms=algorithm + ",ES256")
    key = new_key(algorithm)
    write_keys(fixture.path, public(fixture.key, "other"), public(key, "k1"))
    fixture.look_again()
    token = signed(key, claims(), algorithm=algorithm)
    assert fixture.verifier.verify(token) == Principal("teller-7", frozenset({"credit.read"}))
    broken = signed(
        new_key(algorithm) if key is not RSA else RSAKey.generate_key(2048),
        claims(),
        algorithm=algorithm,
    )
    assert refused(fixture.verifier, broken) == "invalid"


@pytest.mark.parametrize(
    ("changes", "scopes"),
    [
        ({"scope": "credit.read credit.write"}, {"credit.read", "credit.write"}),
        ({"scope": ["ingest"]}, {"ingest"}),
        ({"scope": None, "scp": "admin"}, {"admin"}),
        ({"scope": None, "scp": ["admin", "other", 7]}, {"admin"}),
        ({"scope": "", "scp": "admin"}, set()),
        ({"scope": None}, set()),
        ({"scope": {"admin": True}}, set()),
        ({"scope": "CREDIT.READ openid credit.readx"}, set()),
    ],
)
def test_scopes_are_read_as_issuers_write_them(
    fixture: Fixture, changes: dict[str, object], scopes: set[str]
) -> None:
    assert fixture.verifier.verify(fixture.token(**changes)).scopes == scopes


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": ["another", AUDIENCE]},
        {"nbf": NOW - 5},
        {"iat": NOW - 5},
        {"exp": NOW + 600.5},
        {"exp": NOW - tokens.LEEWAY_SECONDS + 2},
        {"nbf": NOW + tokens.LEEWAY_SECONDS - 2},
        {"sub": "प्रिया"},
        {"sub": "x" * 128},
    ],
)
def test_a_token_is_valid(fixture: Fixture, changes: dict[str, object]) -> None:
    assert fixture.verifier.verify(fixture.token(**changes)).scopes == {"credit.read"}


@pytest.mark.parametrize("token_type", ["jwt", "JWT", "at+jwt", "application/at+jwt"])
def test_types_of_access_tokens_are_valid(fixture: Fixture, token_type: str) -> None:
    fixture.verifier.verify(signed(fixture.key, claims(), typ=token_type))


# Invalid tokens


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"exp": NOW - 31}, "expired"),
        ({"exp": None}, "invalid"),
        ({"exp": "tomorrow"}, "invalid"),
        ({"exp": True}, "invalid"),
        ({"exp": float("nan")}, "invalid"),
        ({"exp": float("inf")}, "invalid"),
        ({"exp": 10**400}, "invalid"),
        ({"exp": [NOW + 600]}, "invalid"),
        ({"nbf": NOW + 60}, "not_yet_valid"),
        ({"nbf": "now"}, "not_yet_valid"),
        ({"iat": NOW + 60}, "not_yet_valid"),
        ({"aud": "another"}, "wrong_audience"),
        ({"aud": None}, "wrong_audience"),
        ({"aud": []}, "wrong_audience"),
        ({"aud": [7]}, "wrong_audience"),
        ({"aud": {AUDIENCE: 1}}, "wrong_audience"),
        ({"aud": AUDIENCE.upper()}, "wrong_audience"),
        ({"iss": "https://id.example/"}, "wrong_issuer"),
        ({"iss": None}, "wrong_issuer"),
        ({"iss": [ISSUER]}, "wrong_issuer"),
        ({"sub": None}, "invalid"),
        ({"sub": ""}, "invalid"),
        ({"sub": 7}, "invalid"),
        ({"sub": "x" * 129}, "invalid"),
        ({"sub": "line\nbreak"}, "invalid"),
        ({"sub": " blank"}, "invalid"),
        ({"sub": "anonymous"}, "invalid"),
        ({"sub": "cert:billing"}, "invalid"),
    ],
)
def test_invalid_claims_are_rejected(
    fixture: Fixture, changes: dict[str, object], problem: str
) -> None:
    assert refused(fixture.verifier, fixture.token(**changes)) == problem


@pytest.mark.parametrize("content", [b"", b"[]", b"7", b"null", b"{", b"\xff", b"[" * 4000])
def test_claims_must_be_an_object(fixture: Fixture, content: bytes) -> None:
    assert refused(fixture.verifier, signed(fixture.key, content)) == "invalid"


def _with_shared_secret(fixture: Fixture) -> str:
    """The classic attack: the public key, which is known, used as a shared secret."""
    pem = fixture.key.as_pem(private=False)
    head = base64.urlsafe_b64encode(b'{"alg":"HS256","kid":"k1"}').rstrip(b"=")
    body = base64.urlsafe_b64encode(json.dumps(claims()).encode()).rstrip(b"=")
    mac = hmac.new(pem, head + b"." + body, hashlib.sha256).digest()
    return b".".join((head, body, base64.urlsafe_b64encode(mac).rstrip(b"="))).decode()


def _none(_: Fixture, algorithm: str = "none") -> str:
    head = base64.urlsafe_b64encode(json.dumps({"alg": algorithm, "kid": "k1"}).encode())
    body = base64.urlsafe_b64encode(json.dumps(claims()).encode())
    return f"{head.rstrip(b'=').decode()}.{body.rstrip(b'=').decode()}."


_attacker = ECKey.generate_key("P-256")
_attacker_rsa = RSAKey.generate_key(2048)

FORGERIES: dict[str, Callable[[Fixture], str]] = {
    "none": _none,
    "None": lambda f: _none(f, "None"),
    "shared secret": _with_shared_secret,
    "other key": lambda _: signed(_attacker, claims()),
    "other type of key": lambda _: signed(_attacker_rsa, claims(), algorithm="RS256"),
    "no kid": lambda f: signed(f.key, claims(), kid=None),
    "unknown kid": lambda f: signed(f.key, claims(), kid="k2"),
    "kid of another type": lambda f: signed(f.key, claims(), kid=["k1"]),  # type: ignore[arg-type]
    "kid that is a path": lambda _: signed(_attacker, claims(), kid="../../dev/null"),
    "own jwk": lambda _: signed(_attacker, claims(), jwk=public(_attacker, "k1")),
    "own jku": lambda _: signed(_attacker, claims(), jku="https://evil.example/keys"),
    "own x5u": lambda _: signed(_attacker, claims(), x5u="https://evil.example/cert"),
    "own x5c": lambda _: signed(_attacker, claims(), x5c=["MIIB"]),
    "critical extension": lambda f: signed(f.key, claims(), crit=["exp"]),
    "unencoded payload": lambda f: signed(f.key, claims(), b64=False),
    "logout token": lambda f: signed(f.key, claims(), typ="logout+jwt"),
    "type that is no text": lambda f: signed(f.key, claims(), typ=7),
    "algorithm in a list": lambda f: _header(f, {"alg": ["ES256"], "kid": "k1"}),
    "no algorithm": lambda f: _header(f, {"kid": "k1"}),
    "header that is a list": lambda f: _header(f, ["ES256"]),
    "header too deep": lambda f: _header(f, None, b"[" * 1200),
    "cut off": lambda f: f.token()[:-4],
    "signature in other letters": lambda f: f.token() + "=",
    "changed claims": lambda f: _changed(f.token()),
    "empty": lambda _: "",
    "dots": lambda _: "..",
    "five parts": lambda f: f.token() + ".a.b",
    "too long": lambda f: f.token(more="x" * 6 * 1024),
    "not ASCII": lambda f: f.token() + "é",
    "blanks": lambda f: f.token() + " ",
}


def _header(fixture: Fixture, header: object, raw: bytes = b"") -> str:
    head = base64.urlsafe_b64encode(raw or json.dumps(header).encode()).rstrip(b"=").decode()
    return head + fixture.token()[fixture.token().index(".") :]


def _changed(token: str) -> str:
    head, _, signature = token.split(".")
    body = base64.urlsafe_b64encode(json.dumps(claims(scope="admin")).encode()).rstrip(b"=")
    return f"{head}.{body.decode()}.{signature}"


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_token_is_rejected_without_the_cause(fixture: Fixture, forgery: str) -> None:
    assert refused(fixture.verifier, FORGERIES[forgery](fixture)) == "invalid"


def test_a_token_with_a_kid_is_not_verified_by_another_key(fixture: Fixture) -> None:
    other = ECKey.generate_key("P-256")
    write_keys(fixture.path, public(fixture.key, "k1"), public(other, "k2"))
    fixture.look_again()
    assert refused(fixture.verifier, signed(other, claims(), kid="k1")) == "invalid"
    fixture.verifier.verify(signed(other, claims(), kid="k2"))


def test_an_algorithm_that_is_not_allowed_is_rejected(tmp_path: Path) -> None:
    fixture = Fixture(tmp_path, token_algorithms="ES256,PS256")
    write_keys(fixture.path, public(RSA, "k1"), public(fixture.key, "k2"))
    fixture.look_again()
    assert refused(fixture.verifier, signed(RSA, claims(), algorithm="RS256")) == "invalid"
    fixture.verifier.verify(signed(RSA, claims(), algorithm="PS256"))


def test_a_key_with_an_algorithm_verifies_no_other(tmp_path: Path) -> None:
    fixture = Fixture(tmp_path)
    write_keys(fixture.path, public(RSA, "k1", alg="PS256"))
    fixture.look_again()
    assert refused(fixture.verifier, signed(RSA, claims(), algorithm="RS256")) == "invalid"


# Time and the cache


def test_a_token_is_verified_once_and_accepted_until_it_expires(
    fixture: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified = []
    original = TokenVerifier._verified

    def counted(self: TokenVerifier, *arguments: Any) -> Any:
        verified.append(1)
        return original(self, *arguments)

    monkeypatch.setattr(TokenVerifier, "_verified", counted)
    token = fixture.token(nbf=NOW)
    for _ in range(5):
        fixture.verifier.verify(token)
    assert len(verified) == 1
    fixture.clock.seconds = NOW + 629
    fixture.verifier.verify(token)
    fixture.clock.seconds = NOW + 630
    assert refused(fixture.verifier, token) == "expired"
    fixture.clock.seconds = NOW - 31
    assert refused(fixture.verifier, token) == "not_yet_valid"


def test_the_cache_is_bounded(fixture: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_CACHED_TOKENS", 3)
    for number in range(10):
        fixture.verifier.verify(fixture.token(jti=str(number)))
    assert len(fixture.verifier._cache.tokens) == 3


def test_a_key_is_used_only_with_its_own_algorithm(tmp_path: Path) -> None:
    """joserfc rejects most of these too; nothing here depends on that."""
    path = tmp_path / "keys.json"
    write_keys(
        path,
        public(RSA, "rsa"),
        public(RSA, "ps", alg="PS256"),
        public(ECKey.generate_key("P-384"), "ec"),
        public(OKPKey.generate_key("Ed25519"), "ed"),
    )
    keys = tokens.read_keys(path, ALGORITHMS)
    fits = {(kid, algorithm) for kid, key in keys.items() for algorithm in key.algorithms}
    assert fits == {
        *(("rsa", f"{family}{bits}") for family in ("RS", "PS") for bits in (256, 384, 512)),
        ("ps", "PS256"),
        ("ec", "ES384"),
        ("ed", "EdDSA"),
        ("ed", "Ed25519"),
    }
    for kid, key in keys.items():
        for algorithm in (*ALGORITHMS, "HS256", "none", "", None):
            header = {"kid": kid, "alg": algorithm}
            if algorithm in key.algorithms:
                assert tokens._key_for(header, keys) is key.key
            else:
                with pytest.raises(UnauthenticatedError):
                    tokens._key_for(header, keys)
