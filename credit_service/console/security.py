"""What keeps the console's pages for the person they are meant for.

The cookie holds a session id: signed, out of reach of scripts, never sent along from another site.
The bearer token of a person who signed in stays in this process's memory, under that id, until they
sign out or the session is too old. A form is accepted only with the token that its session's pages
carry, and only from a page of this origin.
"""

import base64
import binascii
import hmac
import ipaddress
import json
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

from itsdangerous import BadSignature, URLSafeTimedSerializer
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
"""Of people signed in. One more ends the oldest."""
MAX_TOKEN_CHARACTERS = 3_000
"""Of a bearer token: this process keeps one for each session."""
_MAX_FLASH_CHARACTERS = 3_500

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # Not no-referrer: that would make browsers hide the origin of a form, which is checked.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
"""Sent with every answer."""


@dataclass(frozen=True, slots=True)
class Session:
    """Who a browser is to the console. `token` is the person's bearer token, or empty."""

    session_id: str
    token: str = ""

    @property
    def subject(self) -> str:
        """Whom the token names; empty where there is no token, or none that can be read.

        Not verified here: the service verified it when the person signed in.
        """
        return _claim(self.token, "sub")

    @property
    def scopes(self) -> frozenset[str] | None:
        """What the token allows; None where there is no token, or none that can be read."""
        return frozenset(_claim(self.token, "scope").split()) if _claims(self.token) else None


def _claims(token: str) -> dict[str, Any]:
    try:
        payload = token.split(".")[1]
        found = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (IndexError, binascii.Error, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _claim(token: str, name: str) -> str:
    value = _claims(token).get(name, "")
    return value if isinstance(value, str) else ""


class Drafts:
    """Forms that could not be sent because the person had to sign in first.

    Kept in memory, so that nothing typed goes into an address or a cookie; bounded in number, size
    and time. A draft is for the person who typed it: of another token's subject it is not shown.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[float, str, str, dict[str, str]]] = {}

    def keep(self, path: str, form: Mapping[str, str], subject: str) -> str:
        """Keep a form for the page at `path`; its id, or '' for a form that is too large."""
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
        """What was typed into the form of that page; empty for nothing."""
        with self._lock:
            self._expire()
            found = self._kept.get(draft_id)
        if found is None:
            return {}
        _, kept_path, owner, values = found
        return dict(values) if kept_path == path and owner in ("", subject) else {}

    def forget(self, draft_id: str) -> None:
        """Drop a draft that was shown."""
        with self._lock:
            self._kept.pop(draft_id, None)

    def _expire(self) -> None:
        oldest = time.monotonic() - DRAFT_SECONDS
        for draft_id in [each for each, kept in self._kept.items() if kept[0] < oldest]:
            del self._kept[draft_id]


class Sessions:
    """Reads and writes the cookies, and makes and checks the tokens of forms."""

    def __init__(self, secret: str | None) -> None:
        """Without a secret a new one is drawn, and cookies hold until this process ends."""
        key = secret or secrets.token_urlsafe(32)
        self._key = key.encode()
        self._serializer = URLSafeTimedSerializer(key, salt="credit-service console session 2")
        self._flash = URLSafeTimedSerializer(key, salt="credit-service console flash 1")
        self._lock = threading.Lock()
        # Time of the sign-in and token by the id of the session, the oldest first.
        self._signed_in: dict[str, tuple[float, str]] = {}

    def read(self, request: Request) -> Session | None:
        """The browser's session; None when it has none, or one that has ended."""
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
        """A session with a new id. With a token it is that of a person who signed in, and is kept
        until `end`, for SESSION_SECONDS at most."""
        session = Session(secrets.token_urlsafe(18), token)
        if token:
            with self._lock:
                self._expire()
                while len(self._signed_in) >= MAX_SESSIONS:
                    del self._signed_in[next(iter(self._signed_in))]
                self._signed_in[session.session_id] = (time.monotonic(), token)
        return session

    def end(self, session: Session) -> None:
        """Sign the person out. Copies of the cookie are worth nothing from then on."""
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
        """Put the session into the browser."""
        value = self._serializer.dumps({"id": session.session_id, "signed_in": bool(session.token)})
        self._set(response, SESSION_COOKIE, str(value), SESSION_SECONDS, secure=secure)

    def csrf_token(self, session: Session) -> str:
        """The token that the forms of this session carry."""
        return hmac.new(self._key, f"form {session.session_id}".encode(), sha256).hexdigest()

    def is_csrf_token(self, session: Session | None, token: str) -> bool:
        """Whether a form of this session sent it."""
        return session is not None and hmac.compare_digest(
            self.csrf_token(session).encode(), token.encode()
        )

    def write_flash(self, response: Response, document: dict[str, Any], *, secure: bool) -> None:
        """Hand something to the next page, once. What is too long for a cookie is left out."""
        value = str(self._flash.dumps(document))
        if len(value) > _MAX_FLASH_CHARACTERS:
            value = str(self._flash.dumps({**document, "calls": []}))
        if len(value) <= _MAX_FLASH_CHARACTERS:
            self._set(response, FLASH_COOKIE, value, FLASH_SECONDS, secure=secure)

    def read_flash(self, request: Request) -> dict[str, Any]:
        """What the page before handed on; empty for nothing."""
        found = _loaded(self._flash, request.cookies.get(FLASH_COOKIE), FLASH_SECONDS)
        return found if isinstance(found, dict) else {}

    def write_draft_id(self, response: Response, draft_id: str, *, secure: bool) -> None:
        """Have the browser bring the id of its draft along."""
        self._set(response, DRAFT_COOKIE, draft_id, DRAFT_SECONDS, secure=secure)

    @staticmethod
    def draft_id(request: Request) -> str:
        """The id of the browser's draft; empty for none."""
        return request.cookies.get(DRAFT_COOKIE, "")

    @staticmethod
    def clear_draft(response: Response) -> None:
        """Drop the id of the draft: it was shown, or the person signed out."""
        response.delete_cookie(DRAFT_COOKIE, path=COOKIE_PATH, httponly=True, samesite="strict")

    @staticmethod
    def clear_flash(response: Response) -> None:
        """Drop what the page before handed on: it was shown."""
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


def is_from_elsewhere(request: Request) -> bool:
    """Whether a browser says that a page of another origin sent this request."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return True
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != request.headers.get("host", "")


def is_page_of_ours(path: str) -> bool:
    """Whether a path may be sent to after signing in: one of this console, and nowhere else."""
    return path.startswith("/qa/") and "\\" not in path and path.isprintable()


class Guard:
    """ASGI middleware: answers only under names of its own, and sends HEADERS with every answer.

    The check of the Host header keeps a page from elsewhere from reaching a console on loopback by
    a name that it points there (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        """`hosts` are the names besides loopback's, in lower case, without ports; '*' is any."""
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
            refusal = PlainTextResponse(
                "The console does not accept this host name. To allow it, add it to "
                "CREDIT_CONSOLE_HOSTS.\n",
                status_code=421,
            )
            await refusal(scope, receive, send_guarded)
            return
        await self._app(scope, receive, send_guarded)

    def _is_own_name(self, host_header: str) -> bool:
        try:
            host = (urlsplit(f"//{host_header}").hostname or "").lower()
        except ValueError:
            return False
        return "*" in self._hosts or host in self._hosts or is_loopback(host)


def is_loopback(host: str) -> bool:
    """Whether a host, by name or number, is this machine itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
