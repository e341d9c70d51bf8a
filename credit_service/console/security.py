"""Sessions, CSRF tokens, drafts and security headers of the console.

The cookie contains a signed session id. Scripts cannot read it, and requests from other sites do
not carry it. The bearer token of a signed-in user stays in this process's memory under that id,
until sign-out or the end of the session. A form is accepted only with its session's CSRF token, and
only from a page of this origin.
"""

import hmac
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

from google.protobuf.timestamp_pb2 import Timestamp
from itsdangerous import BadSignature, URLSafeTimedSerializer
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from credit_service.client.token_claims import claim, claims
from credit_service_client.channel import is_loopback

SESSION_COOKIE = "credit_console"
FLASH_COOKIE = "credit_console_flash"
DRAFT_COOKIE = "credit_console_draft"
COOKIE_PATH = "/qa"
SESSION_SECONDS = 12 * 3600
FLASH_SECONDS = 60
DRAFT_SECONDS = 1800
MAX_DRAFTS = 200
MAX_DRAFT_CHARACTERS = 32_768
MAX_SESSIONS = 2_000
"""Maximum signed-in sessions. One more ends the oldest."""
MAX_TOKEN_CHARACTERS = 3_000
"""Maximum length of a bearer token: this process keeps one per session."""
_YEAR_9999 = 253_402_300_799
_MAX_FLASH_CHARACTERS = 3_500

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # Not no-referrer: browsers would then hide the origin of a form, which is checked.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
"""Headers of every response."""


@dataclass(frozen=True, slots=True)
class Session:
    """A browser's session. `token` is the user's bearer token, or ''."""

    session_id: str
    token: str = ""

    @property
    def subject(self) -> str:
        """The token's subject, or '' without a readable token.

        Not verified here: the service verified the token at sign-in.
        """
        return claim(self.token, "sub")

    @property
    def scopes(self) -> frozenset[str] | None:
        """The token's scopes, or None without a readable token."""
        return frozenset(claim(self.token, "scope").split()) if claims(self.token) else None

    @property
    def expires(self) -> Timestamp | None:
        """The end of the token's validity, or None without a readable one."""
        end = claims(self.token).get("exp")
        if isinstance(end, bool) or not isinstance(end, int | float) or not 0 < end < _YEAR_9999:
            return None
        return Timestamp(seconds=int(end))

    @property
    def is_expired(self) -> bool:
        """Whether the token is no longer valid by this machine's clock."""
        return self.expires is not None and self.expires.seconds <= time.time()


class Drafts:
    """Forms that could not be sent because the user had to sign in first.

    They stay in memory, so that typed values enter no address and no cookie. Their number, size and
    age are bounded. A draft is shown only to the token subject who typed it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[float, str, str, dict[str, str]]] = {}

    def keep(self, path: str, form: Mapping[str, str], subject: str) -> str:
        """Keep a form for the page at `path`. Return its id, or '' if the form is too large."""
        values = {name: value for name, value in form.items() if name != "csrf_token"}
        if sum(len(name) + len(value) for name, value in values.items()) > MAX_DRAFT_CHARACTERS:
            return ""
        draft_id = secrets.token_urlsafe(18)
        with self._lock:
            self._expire()
            while len(self._kept) >= MAX_DRAFTS:
                del self._kept[next(iter(self._kept))]
            self._kept[draft_id] = (time.monotonic(), path, subject, values)
        return draft_id

    def read(self, draft_id: str, path: str, subject: str) -> dict[str, str]:
        """Return the values of that page's form, or {} if there are none."""
        with self._lock:
            self._expire()
            found = self._kept.get(draft_id)
        if found is None:
            return {}
        _, kept_path, owner, values = found
        return dict(values) if kept_path == path and owner in ("", subject) else {}

    def forget(self, draft_id: str) -> None:
        """Delete a draft that was shown."""
        with self._lock:
            self._kept.pop(draft_id, None)

    def _expire(self) -> None:
        oldest = time.monotonic() - DRAFT_SECONDS
        for draft_id in [each for each, kept in self._kept.items() if kept[0] < oldest]:
            del self._kept[draft_id]


class Sessions:
    """Reads and writes the cookies, and creates and checks CSRF tokens."""

    def __init__(self, secret: str | None) -> None:
        """Without a secret, a random one is used, and cookies are valid until this process ends."""
        key = secret or secrets.token_urlsafe(32)
        self._key = key.encode()
        self._serializer = URLSafeTimedSerializer(key, salt="credit-service console session 2")
        self._flash = URLSafeTimedSerializer(key, salt="credit-service console flash 1")
        self._lock = threading.Lock()
        # Sign-in time and token by session id, oldest first.
        self._signed_in: dict[str, tuple[float, str]] = {}

    def read(self, request: Request) -> Session | None:
        """Return the browser's session, or None without one or after its end."""
        found = _loaded(self._serializer, request.cookies.get(SESSION_COOKIE), SESSION_SECONDS)
        match found:
            case {"id": str(session_id), "signed_in": False}:
                return Session(session_id)
            case {"id": str(session_id), "signed_in": True}:
                with self._lock:
                    self._expire()
                    signed_in = self._signed_in.get(session_id)
                return Session(session_id, signed_in[1]) if signed_in else None
        return None

    def begin(self, token: str = "") -> Session:
        """Return a session with a new id. With a token it is signed in, and is kept until `end`,
        for SESSION_SECONDS at most."""
        session = Session(secrets.token_urlsafe(18), token)
        if token:
            with self._lock:
                self._expire()
                while len(self._signed_in) >= MAX_SESSIONS:
                    del self._signed_in[next(iter(self._signed_in))]
                self._signed_in[session.session_id] = (time.monotonic(), token)
        return session

    def end(self, session: Session) -> None:
        """Sign the user out. Copies of the cookie become invalid."""
        with self._lock:
            self._signed_in.pop(session.session_id, None)

    def _expire(self) -> None:
        oldest = time.monotonic() - SESSION_SECONDS
        while self._signed_in:
            session_id, (signed_in_at, _) = next(iter(self._signed_in.items()))
            if signed_in_at >= oldest:
                return
            del self._signed_in[session_id]

    def write(self, response: Response, session: Session, *, secure: bool) -> None:
        """Set the session cookie."""
        value = self._serializer.dumps({"id": session.session_id, "signed_in": bool(session.token)})
        self._set(response, SESSION_COOKIE, str(value), SESSION_SECONDS, secure=secure)

    def csrf_token(self, session: Session) -> str:
        """Return the CSRF token of this session's forms."""
        return hmac.new(self._key, f"form {session.session_id}".encode(), sha256).hexdigest()

    def is_csrf_token(self, session: Session | None, token: str) -> bool:
        """Return whether the CSRF token belongs to this session."""
        return session is not None and hmac.compare_digest(
            self.csrf_token(session).encode(), token.encode()
        )

    def write_flash(self, response: Response, document: dict[str, Any], *, secure: bool) -> None:
        """Pass a document to the next page, once. Omit what is too long for a cookie."""
        value = str(self._flash.dumps(document))
        if len(value) > _MAX_FLASH_CHARACTERS:
            value = str(self._flash.dumps({**document, "calls": []}))
        if len(value) <= _MAX_FLASH_CHARACTERS:
            self._set(response, FLASH_COOKIE, value, FLASH_SECONDS, secure=secure)

    def read_flash(self, request: Request) -> dict[str, Any]:
        """Return the document of the previous page, or {} for none."""
        found = _loaded(self._flash, request.cookies.get(FLASH_COOKIE), FLASH_SECONDS)
        return found if isinstance(found, dict) else {}

    def write_draft_id(self, response: Response, draft_id: str, *, secure: bool) -> None:
        """Set the cookie with the id of the browser's draft."""
        self._set(response, DRAFT_COOKIE, draft_id, DRAFT_SECONDS, secure=secure)

    @staticmethod
    def draft_id(request: Request) -> str:
        """Return the id of the browser's draft, or ''."""
        return request.cookies.get(DRAFT_COOKIE, "")

    @staticmethod
    def clear_draft(response: Response) -> None:
        """Delete the draft cookie, after the draft was shown or the user signed out."""
        response.delete_cookie(DRAFT_COOKIE, path=COOKIE_PATH, httponly=True, samesite="strict")

    @staticmethod
    def clear_flash(response: Response) -> None:
        """Delete the document of the previous page, after it was shown."""
        response.delete_cookie(FLASH_COOKIE, path=COOKIE_PATH, httponly=True, samesite="strict")

    @staticmethod
    def _set(response: Response, name: str, value: str, age_seconds: int, *, secure: bool) -> None:
        response.set_cookie(
            name,
            value,
            max_age=age_seconds,
            path=COOKIE_PATH,
            secure=secure,
            httponly=True,
            samesite="strict",
        )


def _loaded(serializer: URLSafeTimedSerializer, value: str | None, age_seconds: int) -> Any:
    if not value:
        return None
    try:
        return serializer.loads(value, max_age=age_seconds)
    except BadSignature:
        return None


def is_cross_origin(request: Request) -> bool:
    """Return whether a page of another origin sent this request, according to its headers."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return True
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != request.headers.get("host", "")


def is_own_page(path: str) -> bool:
    """Return whether a path is a page of this console, to which sign-in may redirect."""
    return path.startswith("/qa/") and "\\" not in path and path.isprintable()


class Guard:
    """ASGI middleware that accepts only known host names, and adds HEADERS to every response.

    The check of the Host header prevents DNS rebinding: a foreign page that reaches a console on
    loopback by a name that resolves to it.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        """`hosts`: accepted names besides loopback, in lower case, without ports; '*' for any."""
        self._app = app
        self._hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        if not self._is_own_name(Headers(scope=scope).get("host", "")):
            rejection = PlainTextResponse(
                "The console does not accept this host name. To allow it, add it to "
                "CREDIT_CONSOLE_HOSTS.\n",
                status_code=421,
            )
            await rejection(scope, receive, send_guarded)
            return
        await self._app(scope, receive, send_guarded)

    def _is_own_name(self, host_header: str) -> bool:
        try:
            host = (urlsplit(f"//{host_header}").hostname or "").lower()
        except ValueError:
            return False
        return "*" in self._hosts or host in self._hosts or is_loopback(host)
