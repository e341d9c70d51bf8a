"""Tokens, certificates and scopes, without a server."""

import base64
import errno
import hashlib
import hmac
import json
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from joserfc import jws
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey
from structlog.testing import capture_logs

from credit_service.clock import Clock, Moment
from credit_service.processes.address import MisconfiguredError
from credit_service.rpc.auth import errors, gatekeeper, principal, reloading, tokens
from credit_service.rpc.auth.certificates import CertificateScopes
from credit_service.rpc.auth.gatekeeper import Gatekeeper
from credit_service.rpc.auth.principal import Principal
from credit_service.rpc.auth.tokens import ALGORITHMS, TokenVerifier
from credit_service.rpc.errors import PermissionDeniedError, UnauthenticatedError
from credit_service.settings import Settings

ISSUER = "https://id.example"
AUDIENCE = "credit-service"
NOW = 1_800_000_000
READ = "/credit_service.v1.CreditService/GetCustomer"
WRITE = "/credit_service.v1.CreditService/CreateLoan"

_MAKERS: dict[str, Callable[[], "Key"]] = {
    "ES256": lambda: ECKey.generate_key("P-256"),
    "ES384": lambda: ECKey.generate_key("P-384"),
    "ES512": lambda: ECKey.generate_key("P-521"),
    "EdDSA": lambda: OKPKey.generate_key("Ed25519"),
    "Ed25519": lambda: OKPKey.generate_key("Ed25519"),
}
_RSA = RSAKey.generate_key(2048)
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
    make = _MAKERS.get(algorithm)
    return _RSA if make is None else make()


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


@pytest.fixture
def fixture(tmp_path: Path) -> Fixture:
    return Fixture(tmp_path)


def refused(verifier: TokenVerifier, token: str) -> str:
    """The problem with which a token is rejected."""
    with pytest.raises(UnauthenticatedError) as caught:
        verifier.verify(token)
    assert caught.value.reason == "UNAUTHENTICATED"
    assert not token or token not in caught.value.message
    return caught.value.metadata["problem"]


# Valid tokens


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_every_allowed_algorithm_is_verified(tmp_path: Path, algorithm: str) -> None:
    fixture = Fixture(tmp_path, token_algorithms=algorithm + ",ES256")
    key = new_key(algorithm)
    write_keys(fixture.path, public(fixture.key, "other"), public(key, "k1"))
    fixture.look_again()
    token = signed(key, claims(), algorithm=algorithm)
    assert fixture.verifier.verify(token) == Principal("teller-7", frozenset({"credit.read"}))
    broken = signed(
        new_key(algorithm) if key is not _RSA else RSAKey.generate_key(2048),
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
def test_invalid_claims(fixture: Fixture, changes: dict[str, object], problem: str) -> None:
    assert refused(fixture.verifier, fixture.token(**changes)) == problem


@pytest.mark.parametrize("content", [b"", b"[]", b"7", b"null", b"{", b"\xff", b"[" * 4000])
def test_claims_that_are_not_an_object(fixture: Fixture, content: bytes) -> None:
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


def test_a_token_of_its_own_kid_is_not_verified_by_another_key(fixture: Fixture) -> None:
    other = ECKey.generate_key("P-256")
    write_keys(fixture.path, public(fixture.key, "k1"), public(other, "k2"))
    fixture.look_again()
    assert refused(fixture.verifier, signed(other, claims(), kid="k1")) == "invalid"
    fixture.verifier.verify(signed(other, claims(), kid="k2"))


def test_an_algorithm_that_is_not_allowed_is_rejected(tmp_path: Path) -> None:
    fixture = Fixture(tmp_path, token_algorithms="ES256,PS256")
    write_keys(fixture.path, public(_RSA, "k1"), public(fixture.key, "k2"))
    fixture.look_again()
    assert refused(fixture.verifier, signed(_RSA, claims(), algorithm="RS256")) == "invalid"
    fixture.verifier.verify(signed(_RSA, claims(), algorithm="PS256"))


def test_a_key_that_names_its_algorithm_verifies_no_other(tmp_path: Path) -> None:
    fixture = Fixture(tmp_path)
    write_keys(fixture.path, public(_RSA, "k1", alg="PS256"))
    fixture.look_again()
    assert refused(fixture.verifier, signed(_RSA, claims(), algorithm="RS256")) == "invalid"


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


# Keys and their rotation


def test_keys_rotate_with_overlap(fixture: Fixture) -> None:
    old_token = fixture.token()
    new = ECKey.generate_key("P-256")
    new_token = signed(new, claims(), kid="k2")
    fixture.verifier.verify(old_token)
    assert refused(fixture.verifier, new_token) == "invalid"

    write_keys(fixture.path, public(fixture.key, "k1"), public(new, "k2"))
    assert refused(fixture.verifier, new_token) == "invalid"  # not checked yet
    fixture.look_again()
    fixture.verifier.verify(new_token)
    fixture.verifier.verify(old_token)

    write_keys(fixture.path, public(new, "k2"))
    fixture.look_again()
    fixture.verifier.verify(new_token)
    assert refused(fixture.verifier, old_token) == "invalid"  # although it was cached

    write_keys(fixture.path)
    fixture.look_again()
    assert refused(fixture.verifier, new_token) == "invalid"


def test_files_are_checked_once_a_second(fixture: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    looks = []

    def paths() -> list[Path]:
        looks.append(1)
        return [fixture.path]

    found = reloading.Reloaded("test", paths, fixture.path.read_text, clock=lambda: now[0])
    for tenth in range(35):
        now[0] = 100 + tenth / 10
        found.current()
    assert len(looks) == 4  # the first, and one in each of three seconds


def test_a_folder_of_key_sets_is_read_whole(tmp_path: Path) -> None:
    folder = tmp_path / "sets"
    folder.mkdir()
    one, two = ECKey.generate_key("P-256"), ECKey.generate_key("P-256")
    write_keys(folder / "a.json", public(one, "a"))
    fixture = Fixture(tmp_path, token_keys=folder)
    fixture.verifier.verify(signed(one, claims(), kid="a"))
    write_keys(folder / "b.json", public(two, "b"), public(one, "a"))
    (folder / ".hidden.json").write_text("{")
    (folder / "notes.txt").write_text("{")
    fixture.look_again()
    fixture.verifier.verify(signed(two, claims(), kid="b"))
    (folder / "b.json").unlink()
    fixture.look_until_gone()
    assert refused(fixture.verifier, signed(two, claims(), kid="b")) == "invalid"
    fixture.verifier.verify(signed(one, claims(), kid="a"))


@pytest.mark.parametrize("content", ["{", "[]", '{"keys": 7}', '{"keys": [7]}', "[" * 100_000])
def test_a_slip_while_rotating_locks_no_caller_out(fixture: Fixture, content: str) -> None:
    token = fixture.token()
    fixture.path.write_text(content)
    fixture.look_again()
    fixture.verifier.verify(token)
    fixture.verifier.verify(fixture.token(jti="1"))


@pytest.mark.parametrize("content", [None, "", " \n", '{"keys": []}'])
def test_keys_whose_file_is_gone_or_empty_are_revoked(
    fixture: Fixture, content: str | None
) -> None:
    token = fixture.token()
    fixture.verifier.verify(token)
    before = fixture.path.read_text()
    if content is None:
        fixture.path.unlink()
    else:
        fixture.path.write_text(content)
    with capture_logs() as logs:
        fixture.look_until_gone()
        assert refused(fixture.verifier, token) == "invalid"
    (gone,) = [each for each in logs if each["event"] == "token_keys_gone"]
    assert (gone["log_level"], gone["path"]) == ("error", str(fixture.path))
    assert fixture.verifier.cached_principal(token) is None
    assert fixture.verifier.key_count == 0
    fixture.path.write_text(before)
    fixture.look_again()
    fixture.verifier.verify(token)


def test_a_folder_without_its_files_or_gone_has_no_keys(tmp_path: Path) -> None:
    folder = tmp_path / "sets"
    folder.mkdir()
    one = ECKey.generate_key("P-256")
    token = signed(one, claims(), kid="a")
    for remove_folder in (False, True):
        folder.mkdir(exist_ok=True)
        write_keys(folder / "a.json", public(one, "a"))
        fixture = Fixture(tmp_path, token_keys=folder)
        fixture.verifier.verify(token)
        (folder / "a.json").unlink()
        if remove_folder:
            folder.rmdir()
        fixture.look_until_gone()
        assert refused(fixture.verifier, token) == "invalid"


@pytest.mark.parametrize("removed", [True, False])
@pytest.mark.parametrize("in_folder", [True, False])
def test_a_file_missing_while_it_is_replaced_is_not_gone(
    tmp_path: Path, removed: bool, in_folder: bool
) -> None:
    fixture = Fixture(tmp_path)
    if in_folder:
        fixture = Fixture(tmp_path, token_keys=tmp_path)
    token, before = fixture.token(), fixture.path.read_text()
    for _ in range(2):
        if removed:
            fixture.path.unlink()
        else:
            fixture.path.write_text("")
        for _ in range(2):
            fixture.look_again()
            fixture.verifier.verify(token)
        fixture.path.write_text(before)
        fixture.look_again()
        fixture.verifier.verify(token)


def test_a_file_removed_while_there_were_no_calls_is_gone(fixture: Fixture) -> None:
    fixture.path.unlink()
    fixture._seconds += 3600
    assert refused(fixture.verifier, fixture.token()) == "invalid"


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO])
def test_a_file_that_could_not_be_read_is_read_again(
    fixture: Fixture, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    token = fixture.token()

    def failing(_path: Path) -> bytes:
        raise OSError(number, os.strerror(number))

    for key in (ECKey.generate_key("P-256"), fixture.key):
        with monkeypatch.context() as patch, capture_logs() as logs:
            patch.setattr(tokens, "read_bounded", failing)
            write_keys(fixture.path, public(key, "k1"))
            for _ in range(3):
                fixture.look_again()
                fixture.verifier._keys.current()
        (error,) = logs
        assert (error["event"], error["log_level"]) == ("changed_files_not_used", "error")
        fixture.look_again()
        if key is fixture.key:
            fixture.verifier.verify(token)
        else:
            assert refused(fixture.verifier, token) == "invalid"


def test_a_folder_that_cannot_be_read_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixture = Fixture(tmp_path, token_keys=tmp_path)

    def failing(_path: Path) -> None:
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", failing)
        patch.setattr(os, "listdir", failing)
        fixture.look_until_gone()
        fixture.verifier.verify(fixture.token())


def weak_key() -> dict[str, Any]:
    """An RSA key of 1024 bits, of which joserfc would warn."""
    numbers = rsa.generate_private_key(65537, 1024).public_key().public_numbers()  # noqa: S505 - on purpose
    modulus = base64.urlsafe_b64encode(numbers.n.to_bytes(128, "big")).rstrip(b"=").decode()
    return {"kty": "RSA", "n": modulus, "e": "AQAB", "kid": "k"}


def bad_key_files() -> dict[str, tuple[dict[str, Any], ...]]:
    key, other = ECKey.generate_key("P-256"), ECKey.generate_key("P-256")
    return {
        "no key": (),
        "no kid": ({**public(key, ""), "kid": None},),
        "empty kid": (public(key, ""),),
        "private key": ({**key.as_dict(private=True), "kid": "k"},),
        "shared secret": ({"kty": "oct", "k": "c2VjcmV0", "kid": "k"},),
        "weak": (weak_key(),),
        "two of one id": (public(key, "k"), public(other, "k")),
        "broken": ({**public(key, "k"), "x": "AA"},),
        "too many": tuple(public(key, f"k{n}") for n in range(tokens.MAX_KEYS + 1)),
        "for encryption alone": (public(key, "k", use="enc"),),
        "for signing alone": (public(key, "k", key_ops=["sign"]),),
    }


@pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")
@pytest.mark.parametrize("case", bad_key_files())
def test_a_server_does_not_start_with_invalid_keys(tmp_path: Path, case: str) -> None:
    path = tmp_path / "keys.json"
    content = bad_key_files()[case]
    write_keys(path, *content)
    settings = Settings(token_keys=path, token_issuer=ISSUER)
    with pytest.raises(MisconfiguredError, match="CREDIT_TOKEN_KEYS") as caught:
        TokenVerifier(settings, SteppedClock())
    for secret in (each[part] for each in content for part in ("d", "k") if part in each):
        assert secret not in str(caught.value)


def test_keys_for_other_purposes_are_ignored(fixture: Fixture) -> None:
    """Issuers publish them in the same set."""
    write_keys(
        fixture.path,
        public(RSAKey.generate_key(2048), "enc", use="enc", alg="RSA-OAEP"),
        {"kty": "AKP", "kid": "pq", "alg": "ML-DSA-44", "pub": "AA"},
        public(fixture.key, "k1"),
    )
    fixture.look_again()
    assert list(fixture.verifier._keys.current()) == ["k1"]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"token_issuer": None}, "CREDIT_TOKEN_ISSUER"),
        ({"token_algorithms": "none"}, "CREDIT_TOKEN_ALGORITHMS"),
        ({"token_algorithms": "ES256,HS256"}, "CREDIT_TOKEN_ALGORITHMS"),
        ({"token_algorithms": ","}, "CREDIT_TOKEN_ALGORITHMS"),
        ({"token_keys": Path("/nowhere/keys.json")}, "CREDIT_TOKEN_KEYS"),
        ({"client_scopes": Path("/nowhere/scopes.json")}, "CREDIT_TLS_CLIENT_CA"),
        (
            {"client_scopes": Path("/nowhere"), "tls_client_ca": Path("/nowhere")},
            "CREDIT_CLIENT_SCOPES",
        ),
        ({"token_keys": None, "tls_client_ca": Path("/nowhere")}, "CREDIT_TLS_CLIENT_CA"),
    ],
)
def test_settings_that_contradict_each_other(
    fixture: Fixture, settings: dict[str, object], told: str
) -> None:
    changed = fixture.settings.model_copy(update=settings)
    with pytest.raises(MisconfiguredError, match=told):
        gatekeeper.gatekeeper(changed, (), (), fixture.clock)


# Scopes


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


def test_a_method_needs_its_own_scope(fixture: Fixture) -> None:
    gatekeeper = gate(fixture)
    context = Context(("authorization", f"Bearer {fixture.token()}"))
    assert admit(gatekeeper, READ, context).name == "teller-7"
    with pytest.raises(PermissionDeniedError) as caught:
        admit(gatekeeper, WRITE, context)
    assert caught.value.metadata == {"required_scope": "credit.write"}
    assert errors.challenge(caught.value) == (
        'Bearer error="insufficient_scope", scope="credit.write"'
    )


def test_a_method_without_a_scope_is_denied_to_all(fixture: Fixture) -> None:
    token = fixture.token(scope="credit.read credit.write ingest admin")
    with pytest.raises(PermissionDeniedError):
        admit(gate(fixture), "/other.Service/Method", Context(("authorization", f"Bearer {token}")))


def test_open_and_unscoped_methods(fixture: Fixture) -> None:
    gatekeeper = gate(fixture, open_methods=["/a/Open"], unscoped_methods=["/a/Any"])
    assert admit(gatekeeper, "/a/Open", Context()).name == "anonymous"
    with pytest.raises(UnauthenticatedError):
        admit(gatekeeper, "/a/Any", Context())
    token = fixture.token(scope=None)
    assert (
        admit(gatekeeper, "/a/Any", Context(("authorization", f"Bearer {token}"))).scopes == set()
    )


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        ((), "missing"),
        ((("x-authorization", "Bearer x"),), "missing"),
        ((("authorization", "Basic dXNlcjpwYXNz"),), "invalid"),
        ((("authorization", "Bearer"),), "invalid"),
        ((("authorization", "Bearer "),), "invalid"),
        ((("authorization", ""),), "invalid"),
        ((("authorization", b"Bearer x"),), "invalid"),
    ],
)
def test_metadata_without_a_token(
    fixture: Fixture, metadata: tuple[tuple[str, str | bytes], ...], problem: str
) -> None:
    with pytest.raises(UnauthenticatedError) as caught:
        admit(gate(fixture), READ, Context(*metadata))
    assert caught.value.metadata == {"problem": problem}
    expected = "Bearer" if problem == "missing" else 'Bearer error="invalid_token"'
    assert errors.challenge(caught.value) == expected


def test_two_tokens_are_rejected(fixture: Fixture) -> None:
    good = ("authorization", f"bearer {fixture.token()}")
    assert admit(gate(fixture), READ, Context(good)).name == "teller-7"
    with pytest.raises(UnauthenticatedError):
        admit(gate(fixture), READ, Context(good, good))


def test_without_configured_credentials_every_caller_is_anonymous() -> None:
    gatekeeper = Gatekeeper({}, None, None)
    assert not gatekeeper.requires_credentials
    assert admit(gatekeeper, "/any/Method", Context()) == principal.ANONYMOUS


def test_a_method_that_declares_no_scope_stops_the_start() -> None:
    file = FileDescriptorProto(name="t.proto", package="t", syntax="proto3")
    file.message_type.add(name="M")
    file.service.add(name="S").method.add(name="Get", input_type=".t.M", output_type=".t.M")
    pool = DescriptorPool()
    pool.Add(file)
    with pytest.raises(MisconfiguredError, match=r"t\.S\.Get"):
        gatekeeper.method_scopes([pool.FindServiceByName("t.S")])


# Certificates


@pytest.fixture
def certificates(tmp_path: Path) -> CertificateScopes:
    path = tmp_path / "scopes.json"
    path.write_text(
        json.dumps({"spiffe://x/billing": ["credit.read"], "teller.example": ["ingest"], "cn": []})
    )
    return CertificateScopes(path)


@pytest.mark.parametrize(
    ("peer", "name", "scopes"),
    [
        ({"peer_uri": [b"spiffe://x/billing"]}, "spiffe://x/billing", {"credit.read"}),
        ({"peer_dns": [b"other", b"teller.example"]}, "teller.example", {"ingest"}),
        ({"peer_dns": [b"other"], "x509_common_name": [b"teller.example"]}, "other", set()),
        ({"x509_common_name": [b"teller.example"]}, "teller.example", {"ingest"}),
        (
            {"peer_uri": [b"spiffe://x/billing"], "peer_dns": [b"teller.example"]},
            "spiffe://x/billing",
            {"credit.read"},
        ),
    ],
)
def test_a_certificate_has_the_scopes_of_its_name(
    certificates: CertificateScopes,
    peer: dict[str, list[bytes]],
    name: str,
    scopes: set[str],
) -> None:
    assert certificates.principal(peer) == Principal(f"cert:{name}", frozenset(scopes))


@pytest.mark.parametrize("peer", [{}, {"x509_common_name": [b""]}, {"x509_common_name": [b"a\nb"]}])
def test_a_connection_without_a_name(
    certificates: CertificateScopes, peer: dict[str, list[bytes]]
) -> None:
    with pytest.raises(UnauthenticatedError):
        certificates.principal(peer)


def test_a_certificate_does_not_replace_an_invalid_token(
    fixture: Fixture, certificates: CertificateScopes
) -> None:
    gatekeeper = Gatekeeper({READ: "credit.read"}, fixture.verifier, certificates)
    peer = {"peer_uri": [b"spiffe://x/billing"]}
    assert admit(gatekeeper, READ, Context(peer=peer)).name == "cert:spiffe://x/billing"
    token = ("authorization", f"Bearer {fixture.token()}")
    assert admit(gatekeeper, READ, Context(token, peer=peer)).name == "teller-7"
    with pytest.raises(UnauthenticatedError):
        admit(gatekeeper, READ, Context(("authorization", "Bearer x"), peer=peer))


@pytest.mark.parametrize("content", ["", "[]", '{"a": "admin"}', '{"a": ["root"]}', '{"a": [[]]}'])
def test_scopes_of_certificates_that_cannot_be_read(tmp_path: Path, content: str) -> None:
    path = tmp_path / "scopes.json"
    path.write_text(content)
    with pytest.raises(MisconfiguredError, match="CREDIT_CLIENT_SCOPES"):
        CertificateScopes(path)


# The log


def test_invalid_tokens_do_not_flood_the_log(
    fixture: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Any]] = []

    class Log:
        def info(self, event: str, **fields: Any) -> None:
            told.append({"event": event, **fields})

        warning = info

    monkeypatch.setattr(errors, "_log", Log())
    gatekeeper = gate(fixture)
    token = signed(_attacker, claims())
    for _ in range(200):
        with pytest.raises(UnauthenticatedError):
            admit(gatekeeper, READ, Context(("authorization", f"Bearer {token}")))
    assert 0 < len(told) <= 3 * (errors._MAX_LOGGED_PER_SECOND + 1)
    assert told[0]["detail"] == "the signature is invalid"
    assert all(token not in str(each) for each in told)


def test_a_key_is_not_even_tried_with_an_algorithm_that_is_not_its_own(tmp_path: Path) -> None:
    """joserfc rejects most of these too; nothing here depends on that."""
    path = tmp_path / "keys.json"
    write_keys(
        path,
        public(_RSA, "rsa"),
        public(_RSA, "ps", alg="PS256"),
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
