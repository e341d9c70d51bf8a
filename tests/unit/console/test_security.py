"""Sessions, CSRF tokens, and the origins of requests."""

import base64
import json
import secrets
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
from starlette.requests import Request
from starlette.responses import Response

from credit_service.console.security import (
    DRAFT_SECONDS,
    MAX_DRAFT_CHARACTERS,
    MAX_DRAFTS,
    MAX_SESSIONS,
    SESSION_COOKIE,
    SESSION_SECONDS,
    Drafts,
    Session,
    Sessions,
    is_cross_origin,
    is_own_page,
)
from credit_service_client.channel import is_loopback


def request_with(cookie: str = "", **headers: str) -> Request:
    values = {"host": "127.0.0.1:8080", **{k.replace("_", "-"): v for k, v in headers.items()}}
    if cookie:
        values["cookie"] = f"{SESSION_COOKIE}={cookie}"
    raw = [(name.encode(), value.encode()) for name, value in values.items()]
    return Request({"type": "http", "method": "GET", "path": "/qa/", "headers": raw})


def cookie_of(sessions: Sessions, session: Session, *, secure: bool = False) -> str:
    response = Response()
    sessions.write(response, session, secure=secure)
    return response.headers["set-cookie"]


def value_of(cookie: str) -> str:
    return cookie.partition("=")[2].partition(";")[0]


def test_a_session_is_read_from_its_cookie() -> None:
    sessions = Sessions("k" * 32)
    session = sessions.begin("a.token.here")
    assert sessions.read(request_with(value_of(cookie_of(sessions, session)))) == session


def test_scripts_and_other_sites_cannot_use_the_cookie() -> None:
    sessions = Sessions(None)
    plain = cookie_of(sessions, sessions.begin())
    assert "HttpOnly" in plain
    assert "SameSite=strict" in plain
    assert "Path=/qa" in plain
    assert "Secure" not in plain
    assert "Secure" in cookie_of(sessions, sessions.begin(), secure=True)


def test_a_changed_or_foreign_cookie_is_invalid() -> None:
    sessions, others = Sessions("k" * 32), Sessions("o" * 32)
    value = value_of(cookie_of(sessions, sessions.begin("token")))
    assert sessions.read(request_with("x" + value)) is None
    assert sessions.read(request_with(value[:-1])) is None
    assert others.read(request_with(value)) is None
    assert sessions.read(request_with()) is None


def test_an_old_cookie_is_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = Sessions("k" * 32)
    value = value_of(cookie_of(sessions, sessions.begin()))
    later = SimpleNamespace(time=lambda: time.time() + 13 * 3600)
    monkeypatch.setattr("itsdangerous.timed.time", later)
    assert sessions.read(request_with(value)) is None


def test_the_cookie_does_not_contain_the_token() -> None:
    sessions = Sessions("k" * 32)
    value = value_of(cookie_of(sessions, sessions.begin("a-secret-token")))
    assert "a-secret-token" not in str(sessions._serializer.loads(value))


def test_a_sign_in_of_another_process_is_invalid() -> None:
    value = value_of(cookie_of(Sessions("k" * 32), Sessions("k" * 32).begin("token")))
    assert Sessions("k" * 32).read(request_with(value)) is None


def test_an_ended_session_invalidates_copies_of_its_cookie() -> None:
    sessions = Sessions("k" * 32)
    mine, other = sessions.begin("token"), sessions.begin("token")
    copied, others = (value_of(cookie_of(sessions, each)) for each in (mine, other))
    sessions.end(mine)
    assert sessions.read(request_with(copied)) is None
    assert sessions.read(request_with(others)) == other


def test_sessions_are_bounded_and_the_oldest_ends() -> None:
    sessions = Sessions("k" * 32)
    first = value_of(cookie_of(sessions, sessions.begin("token")))
    others = [sessions.begin("token") for _ in range(MAX_SESSIONS - 1)]
    assert sessions.read(request_with(first)) is not None
    others.append(sessions.begin("token"))
    assert sessions.read(request_with(first)) is None
    for each in (others[0], others[-1]):
        assert sessions.read(request_with(value_of(cookie_of(sessions, each)))) == each


def test_a_token_is_deleted_when_its_session_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = Sessions("k" * 32)
    value = value_of(cookie_of(sessions, sessions.begin("token")))
    later = time.monotonic() + SESSION_SECONDS + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    # The cookie itself uses the wall clock, and is not too old.
    assert sessions.read(request_with(value)) is None
    assert not sessions._signed_in


def test_a_csrf_token_belongs_to_one_session() -> None:
    sessions = Sessions("k" * 32)
    mine, other = sessions.begin(), sessions.begin()
    token = sessions.csrf_token(mine)
    assert sessions.is_csrf_token(mine, token)
    assert not sessions.is_csrf_token(other, token)
    assert not sessions.is_csrf_token(None, token)
    assert not sessions.is_csrf_token(mine, "")
    assert not sessions.is_csrf_token(mine, "ü")
    assert not Sessions("o" * 32).is_csrf_token(mine, token)


def test_the_document_for_the_next_page_fits_a_cookie() -> None:
    sessions = Sessions(None)
    response = Response()
    calls = [{"request_json": secrets.token_hex(4000)}]
    sessions.write_flash(response, {"notice": "done", "calls": calls}, secure=False)
    value = response.headers["set-cookie"].partition("=")[2].partition(";")[0]
    flash = Request(
        {"type": "http", "headers": [(b"cookie", f"credit_console_flash={value}".encode())]}
    )
    assert sessions.read_flash(flash) == {"notice": "done", "calls": []}


@pytest.mark.parametrize(
    ("headers", "elsewhere"),
    [
        ({}, False),
        ({"origin": "http://127.0.0.1:8080"}, False),
        ({"origin": "http://127.0.0.1:9999"}, True),
        ({"origin": "http://evil.example"}, True),
        ({"origin": "null"}, True),
        ({"sec_fetch_site": "same-origin"}, False),
        ({"sec_fetch_site": "none"}, False),
        ({"sec_fetch_site": "cross-site"}, True),
        ({"sec_fetch_site": "same-site"}, True),
    ],
)
def test_forms_of_other_origins_are_detected(headers: dict[str, str], elsewhere: bool) -> None:
    assert is_cross_origin(request_with(**cast("Any", headers))) is elsewhere


@pytest.mark.parametrize(
    ("path", "ours"),
    [
        ("/qa/customers/1?x=y", True),
        ("//evil.example/qa/", False),
        ("https://evil.example/qa/", False),
        ("/qa/\\evil", False),
        ("/qa/\r\nset-cookie: x=y", False),
        ("/other", False),
        ("", False),
    ],
)
def test_sign_in_redirects_only_to_own_pages(path: str, ours: bool) -> None:
    assert is_own_page(path) is ours


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("10.0.0.1", False),
        ("localhost.evil.example", False),
        ("", False),
    ],
)
def test_loopback_is_detected_by_name_and_address(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_a_draft_belongs_to_its_page_and_user_and_is_bounded() -> None:
    drafts = Drafts()
    form = {"first_name": "Asha", "csrf_token": "x"}
    kept = drafts.keep("/qa/a", form, "asha@example")
    assert drafts.read(kept, "/qa/a", "asha@example") == {"first_name": "Asha"}
    assert drafts.read(kept, "/qa/b", "asha@example") == {}
    assert drafts.read(kept, "/qa/a", "other@example") == {}
    assert drafts.read(kept, "/qa/a", "") == {}
    assert drafts.read("", "/qa/a", "asha@example") == {}
    assert drafts.keep("/qa/a", {"x": "y" * MAX_DRAFT_CHARACTERS}, "") == ""
    for _ in range(MAX_DRAFTS):
        drafts.keep("/qa/a", form, "")
    assert drafts.read(kept, "/qa/a", "asha@example") == {}


def test_a_draft_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    drafts = Drafts()
    kept = drafts.keep("/qa/a", {"x": "y"}, "")
    later = time.monotonic() + DRAFT_SECONDS + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert drafts.read(kept, "/qa/a", "") == {}


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "a.W10.c", "a.eyJzdWIiOjd9.c"])
def test_an_unreadable_token_has_no_subject(token: str) -> None:
    assert Session("id", token).subject == ""


@pytest.mark.parametrize(
    ("end", "seconds", "is_expired"),
    [
        (1, 1, True),
        (4e9, 4_000_000_000, False),
        ("1", 0, False),
        (True, 0, False),
        (1e20, 0, False),
    ],
)
def test_the_end_of_a_token_is_read(end: object, seconds: int, *, is_expired: bool) -> None:
    claims = base64.urlsafe_b64encode(json.dumps({"exp": end}).encode()).decode()
    session = Session("id", f"e30.{claims}.x")
    assert (session.expires.seconds if session.expires else 0) == seconds
    assert session.is_expired == is_expired
