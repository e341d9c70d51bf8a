"""Mutants of metadata and tokens: unusual headers, almost valid tokens, and raw HTTP/2."""

import base64
import json
import random
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import grpc
from joserfc import jws
from joserfc.jwk import ECKey

from tests.fuzz.contract import METHODS, path_of
from tests.fuzz.fields import FieldMutants, Mutant

ISSUER = "https://id.example"
KID = "k1"

Rng = random.Random
_METHODS = ("GetCreditScore", "ListCustomers", "CreateLoan", "IngestRows", "ListIngestions")
_SCOPES = "credit.read credit.write ingest admin"
_HUGE = 10**400


@dataclass(frozen=True)
class CredentialMutants:
    """Mutants by number, for a server that accepts tokens signed with `key`. Tokens are valid for
    an hour from `now`, in seconds since 1970."""

    fields: FieldMutants
    key: ECKey
    now: int

    def make(self, number: int) -> Mutant:
        """The mutant with a number. `refused` is true for mutants without valid credentials."""
        rng = random.Random(f"{self.fields.seed}/credentials/{number}")  # noqa: S311 - a repeatable choice
        base = self.fields.good(rng.choice(_METHODS), rng, f"credentials/{number}")
        what = rng.random()
        if what < 0.4:
            name, token = self._token(rng)
            refused = not _may_be_accepted(name)
            return _with(base, name, [("authorization", f"Bearer {token}")], refused=refused)
        good = self.token({})
        if what < 0.6:
            name, authorization = rng.choice(_authorizations(rng, good))
            return _with(base, name, authorization, refused=not name.startswith("good"))
        name, extra = rng.choice(_others(rng))
        metadata = [("authorization", f"Bearer {good}"), *extra]
        return _with(base, name, metadata, refused=False)

    def token(self, claims: Mapping[str, Any], **header: Any) -> str:
        """A valid token except for the given claims; None omits a claim."""
        content = {
            "iss": ISSUER,
            "aud": "credit-service",
            "sub": "teller-7",
            "scope": _SCOPES,
            "exp": self.now + 3600,
            **claims,
        }
        kept = {name: value for name, value in content.items() if value is not None}
        return self.signed(json.dumps(kept).encode(), **header)

    def signed(self, payload: bytes, **header: Any) -> str:
        """Any payload with a valid signature; additional header fields are not checked here."""
        head = {"alg": "ES256", "kid": KID, **header}
        token = jws.serialize_compact({"alg": "ES256", "kid": KID}, payload, self.key)
        if head == {"alg": "ES256", "kid": KID}:
            return token
        # Sign payloads that joserfc would reject.
        signing_input = f"{_encoded(head)}.{token.split('.')[1]}".encode()
        algorithm = jws.JWSRegistry.algorithms["ES256"]
        signature = algorithm.sign(signing_input, self.key)
        return (
            f"{signing_input.decode()}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"
        )

    def _token(self, rng: Rng) -> tuple[str, str]:
        """A token and a description of its mutation. Signatures are not deterministic."""
        good = self.token({})
        head, body, signature = good.split(".")

        def forged(**header: Any) -> str:
            other = ECKey.generate_key("P-256")
            own = {"jwk": {**other.as_dict(private=False), "kid": KID}} if "jwk" in header else {}
            words = {"alg": "ES256", "kid": KID, **header, **own}
            return replace(self, key=other).token({}, **words)

        made: dict[str, Callable[[], str]] = {
            "good": lambda: good,
            "other key": forged,
            "jwk": lambda: forged(jwk=None),
            "jku": lambda: forged(jku="https://evil.example/keys.json"),
            "x5u": lambda: forged(x5u="https://evil.example/x", x5c=["AAAA"]),
            "cut": lambda: good[: rng.randrange(len(good))],
            "signature changed": lambda: f"{head}.{body}.{_changed(rng, signature)}",
            "body changed": lambda: f"{head}.{_changed(rng, body)}.{signature}",
            "no signature": lambda: f"{head}.{body}.",
            "two parts": lambda: f"{head}.{body}",
            "four parts": lambda: f"{good}.{signature}",
            "only dots": lambda: "." * rng.choice([1, 2, 4, 5_000]),
            "noise": lambda: base64.urlsafe_b64encode(rng.randbytes(300)).decode(),
            "no JSON": lambda: self.signed(rng.choice([b"", b"{", b"\xff", b"nul", b"{}{}"])),
            "no object": lambda: self.signed(rng.choice([b"[]", b"1", b"null", b'"x"', b"NaN"])),
            "deep": lambda: self.signed(b"[" * 3_000),
            "claims twice": lambda: self.signed(b'{"exp":1,"exp":2,"sub":"a","sub":"b"}'),
            "zip": lambda: self.token({}, zip="DEF"),
            "crit": lambda: self.token({}, crit=["exp"]),
            "b64": lambda: self.token({}, b64=False, crit=["b64"]),
            "typ": lambda: self.token({}, typ=rng.choice(["JWE", "", 1, None, ["JWT"], "jwt+x"])),
        }
        for algorithm in _ALGORITHMS:
            made[f"alg {algorithm}"] = partial(_unsigned, algorithm, body)
        for kid in _KIDS:
            made[f"kid {str(kid)[:20]!r}"] = partial(self.token, {}, kid=kid)
        for name, odd in _ODD_CLAIMS.items():
            for value in odd:
                made[f"{name} {str(value)[:20]!r}"] = partial(self.token, {name: value})
        for seconds in (-self.now, -self.now - 1, -31, 10**6):
            made[f"nbf {seconds:+}"] = partial(self.token, {"nbf": self.now + seconds})
            made[f"exp {seconds:+}"] = partial(self.token, {"exp": self.now + seconds})
        name = rng.choice(sorted(made))
        return name, made[name]()


_ALGORITHMS = ("none", "None", "NONE", "HS256", "RS256", "es256", "", None, 1, ["ES256"])
_KIDS = ("", "../k1", "k1\x00", "' OR 1=1", 1, None, ["k1"], {"k1": 1}, "k" * 1_500, "K1")
_ODD_CLAIMS: Mapping[str, Sequence[Any]] = {
    "exp": ["9999999999", float("nan"), float("inf"), _HUGE, -_HUGE, None, True, [], {}, "", 1e308],
    "nbf": ["0", float("nan"), _HUGE, [], float("-inf"), {}],
    "iat": ["x", float("nan"), _HUGE, [], True],
    "sub": [
        None,
        "",
        " a",
        "a\n",
        "\x00",
        "\ud800",
        "x" * 129,
        "anonymous",
        "cert:x",
        "\u202ea",
        [],
    ],
    "iss": [None, "", [ISSUER], {ISSUER: 1}, "https://evil.example", 1],
    "aud": [None, "", [], ["other"], {"credit-service": 1}, 1],
    "scope": ["", [], {}, 1, "admin" * 300, "CREDIT.READ", ["credit.read", 1]],
}
_ACCEPTABLE = frozenset(
    {"good", "zip", "iat 'True'", "scope \"['credit.read', 1]\"", "sub '[]'", "exp +1000000"}
)
"""Mutated tokens that may be accepted, because the mutation is up to the issuer."""


def _may_be_accepted(name: str) -> bool:
    return name in _ACCEPTABLE or name.startswith("nbf -")


def _with(
    base: Mutant, what: str, metadata: Sequence[tuple[str, str | bytes]], *, refused: bool
) -> Mutant:
    return replace(base, what=what, metadata=tuple(metadata), refused=refused)


def _encoded(header: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(header).encode()).decode().rstrip("=")


def _unsigned(algorithm: object, body: str) -> str:
    return f"{_encoded({'alg': algorithm, 'kid': KID})}.{body}."


def _changed(rng: Rng, text: str) -> str:
    """Change one character, but not the last one, which may be equivalent."""
    place = rng.randrange(len(text) - 4)
    return text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :]


def _authorizations(rng: Rng, good: str) -> list[tuple[str, list[tuple[str, str | bytes]]]]:
    forms = {
        "good": f"Bearer {good}",
        "good, lower case": f"bearer {good}",
        "good, upper case": f"BEARER {good}",
        "no scheme": good,
        "another scheme": f"Basic {good}",
        "two spaces": f"Bearer  {good}",
        "scheme only": "Bearer",
        "scheme and space": "Bearer ",
        "a comma": f"Bearer {good}, Bearer {good}",
        "quoted": f'Bearer "{good}"',
        "a parameter": f'Bearer realm="x", token={good}',
        "a space inside": f"Bearer {good[:40]} {good[40:]}",
        "long": "Bearer " + "A" * rng.choice([6_145, 7_000]),
        "equals": f"Bearer {good}==",
        "tilde": f"Bearer ~{good}",
    }
    made: list[tuple[str, list[tuple[str, str | bytes]]]] = [
        (name, [("authorization", text)]) for name, text in forms.items()
    ]
    made += [
        ("none", []),
        ("twice", [("authorization", f"Bearer {good}"), ("authorization", f"Bearer {good}")]),
        ("good and invalid", [("authorization", f"Bearer {good}"), ("authorization", "x")]),
        ("as bytes", [("authorization-bin", f"Bearer {good}".encode())]),
    ]
    return made


def _others(rng: Rng) -> list[tuple[str, list[tuple[str, str | bytes]]]]:
    """Mutated metadata with valid credentials."""
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    traces = (
        *(trace, "", "00", trace.upper(), trace + "-x", "ff" + trace[2:], trace.replace("4", "g")),
        *("00-" + "0" * 32 + "-" + "0" * 16 + "-00", "-" * 55, trace * 50, "00-" + "f" * 4_000),
    )
    ids = ("", " ", "x" * 64, "x" * 65, "a b", "../../x", "%s%n", '{"a":1}', "<b>", "x" * 5_000)
    made: list[tuple[str, list[tuple[str, str | bytes]]]] = []
    for key, odd in (("traceparent", traces), ("x-request-id", ids)):
        made += [(f"{key} {each[:20]}", [(key, each)]) for each in odd]
    made += [
        ("x-request-id twice", [("x-request-id", "a"), ("x-request-id", "b")]),
        ("traceparent twice", [("traceparent", trace), ("traceparent", "x")]),
        ("tracestate", [("traceparent", trace), ("tracestate", "a=1," * rng.choice([1, 400]))]),
        ("bytes", [("x-bin", rng.randbytes(rng.choice([0, 1, 1_000])))]),
        ("status details", [("grpc-status-details-bin", b"\xff" * 50)]),
        ("many", [(f"k{number}", "v") for number in range(90)]),
        ("too much", [("x-large", "A" * 20_000)]),
        ("a user agent", [("user-agent", "x" * 500)]),
    ]
    return made


def oversized(mutant: Mutant) -> bool:
    """Whether the library may reject a mutant because of the size of its metadata."""
    return sum(32 + len(key) + len(value) for key, value in mutant.metadata) > 7_000


# --- Bare HTTP/2 ----------------------------------------------------------------------------------

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _GOAWAY = 0, 1, 3, 4, 7
_END_STREAM, _END_HEADERS = 1, 4
_ANSWER_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class BareMutants:
    """Calls that no grpc library sends: raw header fields in hand-written frames."""

    fields: FieldMutants
    token: str

    def make(self, number: int) -> tuple[str, bytes]:
        """A description of the mutation, and the bytes to send."""
        rng = random.Random(f"{self.fields.seed}/bare/{number}")  # noqa: S311 - a repeatable choice
        base = self.fields.good("GetCreditScore", rng, f"bare/{number}")
        headers = {
            ":method": b"POST",
            ":scheme": b"http",
            ":path": path_of(METHODS["GetCreditScore"]).encode(),
            ":authority": b"localhost",
            "te": b"trailers",
            "content-type": b"application/grpc",
            "authorization": f"Bearer {self.token}".encode(),
        }
        name, value = rng.choice(_ODD_HEADERS)
        headers[name] = value
        message = base.messages[0]
        framed = b"\x00" + struct.pack(">I", len(message)) + message
        odd_frame = rng.choice(
            [framed] * 6 + [b"", framed[:3], b"\x02" + framed[1:], b"\x01" + framed[1:]]
        )
        block = b"".join(_field(key.encode(), each) for key, each in headers.items())
        sent = [
            _PREFACE,
            _frame(_SETTINGS, 0, 0, b""),
            _frame(_HEADERS, _END_HEADERS, 1, block),
            _frame(_DATA, _END_STREAM, 1, odd_frame),
        ]
        return f"{name}: {value[:40]!r}, message {odd_frame[:8]!r}", b"".join(sent)


_ODD_HEADERS: Sequence[tuple[str, bytes]] = (
    *(("grpc-timeout", value) for value in (b"1n", b"0S", b"-1S", b"S", b"", b"999999999H", b"1X")),
    *(("grpc-timeout", value) for value in (b"1 S", b"\xff", b"1e3S", b"99999999999999999999S")),
    *(("grpc-encoding", value) for value in (b"gzip", b"no-such", b"", b"identity,gzip", b"\x00")),
    *((":path", value) for value in (b"/", b"", b"//", b"/x/y", b"/%00/\xff", b"/" + b"a" * 4_000)),
    *((":method", value) for value in (b"GET", b"PUT", b"")),
    *(("content-type", value) for value in (b"text/html", b"application/grpc+json", b"")),
    *(("authorization", value) for value in (b"Bearer \xff\xfe", b"Bearer \x00", b"\r\nx: y", b"")),
    *(("x-request-id", value) for value in (b"\x00", b"\xff" * 64, b"a\r\nb: c", b"\x1b[2J")),
    *(("traceparent", value) for value in (b"\x00", b"\xff" * 55, b"00-\r\n")),
    *(("te", value) for value in (b"", b"gzip")),
    *(("x-bin", value) for value in (b"!!!", b"\xff", b"AAA", b"=" * 100)),
)


def _length(number: int) -> bytes:
    """A length as an HPACK integer with a 7-bit prefix (RFC 7541, 5.1)."""
    if number < 127:
        return bytes([number])
    out, number = bytearray([127]), number - 127
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def _field(name: bytes, value: bytes) -> bytes:
    """A literal header field that is never indexed."""
    return b"\x10" + _length(len(name)) + name + _length(len(value)) + value


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    head = struct.pack(">I", len(payload))[1:] + bytes([kind, flags])
    return head + struct.pack(">I", stream) + payload


def send_bare(address: str, sent: bytes) -> list[str]:
    """The error in the server's reaction, which must be to end the call or the connection."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=_ANSWER_SECONDS) as connection:
        connection.sendall(sent)
        deadline = time.monotonic() + _ANSWER_SECONDS
        buffered = b""
        with suppress(ConnectionError):
            while time.monotonic() < deadline:
                try:
                    data = connection.recv(65_536)
                except TimeoutError:
                    break
                if not data:
                    return []
                buffered += data
                ended, buffered = _ended(buffered)
                if ended:
                    return []
            return ["not answered"]
    return []


def _ended(buffered: bytes) -> tuple[bool, bytes]:
    """Whether the frames end stream 1 or the connection, and the remaining bytes."""
    while len(buffered) >= 9:
        size = int.from_bytes(buffered[:3], "big")
        if len(buffered) < 9 + size:
            break
        kind, flags = buffered[3], buffered[4]
        if kind in (_RESET, _GOAWAY) or (kind in (_DATA, _HEADERS) and flags & _END_STREAM):
            return True, b""
        buffered = buffered[9 + size :]
    return False, buffered


def may_pass(code: grpc.StatusCode) -> bool:
    """Whether a status means that the server wrongly admitted the call."""
    return code not in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
