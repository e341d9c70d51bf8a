"""What keeps the console's pages for the person they are meant for.

The cookie holds a session id and, once given, the person's bearer token: signed, out of reach of
scripts, never sent along from another site. A form is taken only with the token that its session's
pages carry, and only from a page of this origin.
"""

import hmac
import ipaddress
import secrets
from collections.abc import Sequence
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
COOKIE_PATH = "/qa"
SESSION_SECONDS = 12 * 3600
FLASH_SECONDS = 60
MAX_TOKEN_CHARACTERS = 3_000
"""Of a bearer token: with the rest of the cookie it stays below the 4,096 bytes browsers keep."""
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


class Sessions:
    """Reads and writes the cookies, and makes and checks the tokens of forms."""

    def __init__(self, secret: str | None) -> None:
        """Without a secret a new one is drawn, and cookies hold until this process ends."""
        key = secret or secrets.token_urlsafe(32)
        self._key = key.encode()
        self._serializer = URLSafeTimedSerializer(key, salt="credit-service console session 1")
        self._flash = URLSafeTimedSerializer(key, salt="credit-service console flash 1")

    def read(self, request: Request) -> Session | None:
        """The browser's session; None when it has none that holds."""
        found = _loaded(self._serializer, request.cookies.get(SESSION_COOKIE), SESSION_SECONDS)
        match found:
            case {"id": str(session_id), "token": str(token)}:
                return Session(session_id, token)
        return None

    @staticmethod
    def begin(token: str = "") -> Session:
        """A session with a new id."""
        return Session(secrets.token_urlsafe(18), token)

    def write(self, response: Response, session: Session, *, secure: bool) -> None:
        """Put the session into the browser."""
        value = self._serializer.dumps({"id": session.session_id, "token": session.token})
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

    @staticmethod
    def clear_flash(response: Response) -> None:
        """It was shown."""
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
                "This console does not answer to that host name. CREDIT_CONSOLE_HOSTS names those "
                "it answers to.\n",
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
