"""The requests that the console rejects, and its pages while the service fails or rejects calls."""

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from urllib.parse import urlencode, urlsplit
from uuid import UUID, uuid4

import grpc
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey
from playwright.sync_api import Page, expect

from credit_service.client.channel import open_channel
from credit_service.console import app
from credit_service.console.security import HEADERS
from credit_service.console.service import Service
from credit_service.settings import Settings
from credit_service.spreadsheets import samples
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import ingestion_service_pb2 as ingestion_pb
from credit_service.v1.ingestion_service_pb2_grpc import IngestionServiceStub
from credit_service_client.errors import ServiceError
from tests.browser.conftest import OpenTab, Place, process


class Visitor:
    """An HTTP client without the safeguards of a browser."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 0
        self.cookie = ""

    def ask(
        self,
        method: str,
        path: str,
        body: str | bytes | None = None,
        **headers: str,
    ) -> tuple[int, dict[str, str], str]:
        """Return status, headers and text of the response."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.cookie:
            sent["cookie"] = self.cookie
        if isinstance(body, str):
            sent.setdefault("content-type", "application/x-www-form-urlencoded")
        connection = http.client.HTTPConnection(self._host, self._port, timeout=15)
        try:
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            answered = {name.lower(): value for name, value in response.getheaders()}
            return response.status, answered, response.read().decode(errors="replace")
        finally:
            connection.close()

    def enter(self) -> str:
        """Start a session and return its CSRF token."""
        _, headers, text = self.ask("GET", "/qa/customers/new")
        self.cookie = headers["set-cookie"].partition(";")[0]
        match = re.search(r'name="csrf_token" value="([0-9a-f]+)"', text)
        assert match is not None
        return match.group(1)


@pytest.fixture
def visitor(place: Place) -> Visitor:
    return Visitor(place.url)


@pytest.mark.parametrize(
    "path",
    [
        "/qa/",
        "/qa/checks",
        "/qa/nowhere",
        "/qa/static/console.css",
        "/healthz",
        "/",
        "/qa/customers/x",
    ],
)
def test_every_response_has_the_security_headers(visitor: Visitor, path: str) -> None:
    _, headers, _ = visitor.ask("GET", path)
    assert {name: headers.get(name) for name in HEADERS} == dict(HEADERS)
    assert "unsafe" not in headers["content-security-policy"]
    assert "server" not in headers
    expected = "immutable" if "static" in path else "no-store"
    assert expected in headers["cache-control"]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("127.0.0.1:80", 200),
        ("[::1]:8080", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("evil.example:127", 421),
        ("[", 421),
        ("", 421),
    ],
)
def test_only_host_names_of_this_machine_are_accepted(
    visitor: Visitor, host: str, status: int
) -> None:
    assert visitor.ask("GET", "/qa/login", host=host)[0] == status


FORM = urlencode(
    {
        "first_name": "A",
        "last_name": "B",
        "age": "1",
        "request_id": "0d6f1c1e-8a0b-4f0e-9d51-3c9a6a1f7b20",
    }
)


def test_a_form_requires_the_token_of_its_session(visitor: Visitor) -> None:
    token = visitor.enter()
    good = f"{FORM}&csrf_token={token}"
    assert visitor.ask("POST", "/qa/customers/new", FORM)[0] == 403
    assert visitor.ask("POST", "/qa/customers/new", f"{FORM}&csrf_token={'0' * 64}")[0] == 403
    assert (
        visitor.ask("POST", "/qa/customers/new", good)[0] == 400
    )  # accepted, and its fields validated
    for name, value in (
        ("origin", "http://evil.example"),
        ("origin", "null"),
        ("sec_fetch_site", "cross-site"),
        ("sec_fetch_site", "same-site"),
    ):
        assert visitor.ask("POST", "/qa/customers/new", good, **{name: value})[0] == 403
    other = Visitor(f"http://{visitor._host}:{visitor._port}")
    other.enter()
    assert other.ask("POST", "/qa/customers/new", good)[0] == 403
    other.cookie = ""
    assert other.ask("POST", "/qa/customers/new", good)[0] == 403


def test_every_address_that_writes_requires_the_csrf_token(place: Place, visitor: Visitor) -> None:
    visitor.enter()
    stub = IngestionServiceStub(place.channel)
    found = stub.ListIngestions(ingestion_pb.ListIngestionsRequest(), timeout=10)
    known = {"{ingestion_id}": found.ingestions[0].ingestion_id}
    known |= {"{service}": "CreditService", "{method}": "CreateLoan"}
    for method, path, _ in app._PAGES:
        if method == "POST":
            concrete = re.sub(r"\{[a-z_]+\}", lambda name: known.get(name[0], "1"), path)
            assert visitor.ask("POST", concrete, "x=y")[0] == 403, concrete
            assert visitor.ask("PUT", concrete, "x=y")[0] == 405, concrete


def test_a_changed_cookie_is_invalid(visitor: Visitor) -> None:
    token = visitor.enter()
    visitor.cookie = visitor.cookie[:-2]
    assert visitor.ask("POST", "/qa/customers/new", f"{FORM}&csrf_token={token}")[0] == 403


def test_a_link_from_another_site_does_not_sign_the_user_out(visitor: Visitor) -> None:
    status, headers, text = visitor.ask(
        "GET", "/qa/customers?query=%3Cx%3E", sec_fetch_site="cross-site"
    )
    assert status == 200
    assert "set-cookie" not in headers
    assert headers["refresh"] == "0; url=/qa/customers?query=%3Cx%3E"
    assert "<x>" not in text


@pytest.mark.parametrize(
    "path",
    [
        "/qa/customers/0",
        "/qa/customers/-1",
        "/qa/customers/99999999999999999999999",
        "/qa/customers/%F0%9F%92%A9",
        "/qa/customers/1%00",
        "/qa/customers/..%2f..%2fetc",
        "/qa/customers/1/loans/x",
        "/qa/decisions/999999",
        "/qa/ingestions/not-a-uuid",
        "/qa/static/../app.py",
        "/qa/static/..%2fapp.py",
        "/qa/templates/base.html",
    ],
)
def test_an_unknown_page_is_reported(visitor: Visitor, path: str) -> None:
    status, _, text = visitor.ask("GET", path)
    assert status == 404
    assert "Traceback" not in text


@pytest.mark.parametrize(
    "path",
    [
        "/qa/customers?query=" + "x" * 101,
        "/qa/customers?page_token=nonsense",
        "/qa/decisions?page_token=%00",
        "/qa/apply/review?customer_id=1",
        "/qa/apply/review?request_id=" + "0" * 36,
        "/qa/eligibility?customer_id=%00&loan_amount=%F0%9F%92%A9",
        "/qa/eligibility/answer?customer_id=1&loan_amount=1&interest_rate=1e999999&tenure_months=1",
    ],
)
def test_an_invalid_address_breaks_no_page(visitor: Visitor, path: str) -> None:
    status, _, text = visitor.ask("GET", path)
    assert status in (200, 303, 400)
    assert "has a bug" not in text


def test_typed_text_is_escaped(visitor: Visitor) -> None:
    attack = '"><script>alert(1)</script>'
    for path in (
        f"/qa/customers?{urlencode({'query': attack})}",
        f"/qa/eligibility?{urlencode({'customer_id': attack, 'loan_amount': attack})}",
        f"/qa/apply?{urlencode({'interest_rate': attack})}",
        f"/qa/login?{urlencode({'next': attack, 'reason': attack})}",
        f"/qa/{urlencode({'x': attack})}",
    ):
        assert "<script>alert" not in visitor.ask("GET", path)[2], path


def test_a_form_is_bounded(visitor: Visitor) -> None:
    token = visitor.enter()
    many = "&".join(f"f{n}=x" for n in range(60))
    assert visitor.ask("POST", "/qa/customers/new", f"{many}&csrf_token={token}")[0] in (400, 403)
    too_long = f"csrf_token={token}&first_name={'x' * 200_000}"
    assert visitor.ask("POST", "/qa/customers/new", too_long)[0] in (400, 413)
    status, _, _ = visitor.ask("POST", "/qa/ingestions", b"", content_length=str(80 * 1024 * 1024))
    assert status == 413


def test_a_text_instead_of_a_file_is_rejected_with_a_message(visitor: Visitor) -> None:
    token = visitor.enter()
    body = urlencode({"csrf_token": token, "kind": "loans", "on_existing": "skip", "file": "text"})
    status, _, text = visitor.ask("POST", "/qa/ingestions", body)
    assert status == 400
    assert "Choose a file." in text


@contextmanager
def console_for(address: str, **changed: Any) -> Iterator[str]:
    """Run a console for another server; yield its URL."""
    settings = Settings(server_address=address, console_listen="127.0.0.1:0", **changed)
    stop = threading.Event()
    urls: SimpleQueue[str] = SimpleQueue()
    thread = threading.Thread(
        target=app.run, args=(settings,), kwargs={"announce": urls.put, "stop": stop}
    )
    thread.start()
    try:
        yield urls.get(timeout=20).removesuffix("/qa/")
    finally:
        stop.set()
        thread.join()


def test_without_a_service_every_page_reports_it(
    open_tab: OpenTab,
) -> None:
    with socket.socket() as taken:  # bound and not listening: no response
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with console_for(address) as url:
            tab = open_tab(url=url)
            tab.expected += ["503", "504"]
            page = tab.page
            page.goto("/qa/")
            expect(page.get_by_label("Health").get_by_text("Unreachable")).to_have_count(5)
            expect(page.get_by_label("Recent decisions")).to_contain_text("cannot be shown")
            expect(page.get_by_label("Live events")).to_contain_text("does not respond")
            # No panel shows messages of gRPC.
            for text in ("ipv4:", "failed to connect", "UNKNOWN", "errno"):
                expect(page.locator("main")).not_to_contain_text(text)
            response = page.goto("/qa/customers/1")
            assert response is not None
            assert response.status == 503
            expect(page.get_by_role("alert")).to_contain_text("credit-service up")
            page.goto("/qa/checks")
            item = page.locator("#check-no-history")
            page.get_by_label("Allow the checks").check()
            item.get_by_role("button").click()
            expect(item).to_have_attribute("data-result", "fail", timeout=20_000)
            expect(item).to_contain_text("UNAVAILABLE")


ISSUER = "https://issuer.example"


def minted(key: ECKey, subject: str, *scopes: str, seconds: int = 600) -> str:
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "aud": "credit-service",
        "sub": subject,
        "scope": " ".join(scopes),
        "iat": now,
        "nbf": now - 1,
        "exp": now + seconds,
    }
    return jwt.encode({"alg": "ES256", "kid": key.kid or ""}, claims, key)


def sign_in(page: Page, token: str) -> None:
    page.get_by_label("Token", exact=True).fill(token)
    page.get_by_role("button", name="Sign in").click()


def test_with_authentication_calls_use_the_users_token(
    place: Place, open_tab: OpenTab, tmp_path: Path
) -> None:
    keys = tmp_path / "jwks.json"
    key = signing_key(keys)
    environment = {
        **place.environment,
        "CREDIT_TOKEN_KEYS": str(keys),
        "CREDIT_TOKEN_ISSUER": ISSUER,
    }
    log = tmp_path / "server.log"
    with (
        process("credit_service.rpc", environment, r"Serving on (\S+)", log) as address,
        console_for(address) as url,
    ):
        tab = open_tab(url=url)
        tab.expected += ["400", "403"]
        page = tab.page
        page.goto("/qa/decisions")
        expect(page).to_have_url(re.compile("/qa/login"))
        expect(page.locator("main")).to_contain_text("The service requires a token.")
        sign_in(page, "not-a-token")
        expect(page.get_by_role("alert")).to_contain_text("rejects this token")

        reader = minted(key, "reader@example", "credit.read")
        sign_in(page, reader)
        expect(page).to_have_url(f"{url}/qa/decisions")
        assert reader not in page.content()
        cookies = {each["name"]: each for each in page.context.cookies()}
        session = cookies["credit_console"]
        assert session["httpOnly"] is True
        assert session["sameSite"] == "Strict"
        assert page.evaluate("document.cookie") == ""

        page.goto("/qa/")
        expect(page.get_by_label("Live events").get_by_text("live", exact=True)).to_be_visible()
        expect(page.get_by_label("Recent ingestions")).to_contain_text("PERMISSION_DENIED")
        page.goto(f"/qa/customers/{samples.GOOD_CUSTOMER_ID}")
        page.get_by_text(re.compile("calls of this page")).click()
        expect(page.locator(".call").first).to_contain_text("Bearer $CREDIT_TOKEN")
        page.goto(
            f"/qa/apply/review?customer_id={samples.GOOD_CUSTOMER_ID}&loan_amount=5000"
            "&interest_rate=12&tenure_months=12"
        )
        page.get_by_role("button", name="Confirm").click()
        expect(page.get_by_role("alert")).to_contain_text("credit.write")

        page.get_by_role("button", name="Sign out").click()
        page.goto("/qa/checks")
        page.get_by_label("Allow the checks").check()
        item = page.locator("#check-no-history")
        item.get_by_role("button").click()
        expect(page.get_by_role("status")).to_contain_text("credentials")
        page.goto(f"/qa/login?next={url}/qa/")
        sign_in(page, minted(key, "writer@example", "credit.read", "credit.write"))
        expect(page).to_have_url(f"{url}/qa/")  # its own dashboard, not where `next` points
        page.goto(
            f"/qa/apply/review?customer_id={samples.GOOD_CUSTOMER_ID}&loan_amount=5000"
            "&interest_rate=12&tenure_months=12"
        )
        page.get_by_role("button", name="Confirm").click()
        expect(page.get_by_label("Record")).to_contain_text("writer@example")


@dataclass
class Secured:
    """A server that requires tokens, and a console for it."""

    url: str
    address: str
    keys: Path
    key: ECKey

    def token(self, subject: str = "writer@example") -> str:
        return minted(self.key, subject, "credit.read", "credit.write", "ingest")

    def enter(self, page: Page, path: str) -> None:
        """Sign in and open a page."""
        page.goto(f"/qa/login?{urlencode({'next': path})}")
        sign_in(page, self.token())
        expect(page).to_have_url(f"{self.url}{path}")

    def expire(self) -> None:
        """Make the server reject all tokens signed so far."""
        with open_channel(self.address) as channel:
            service = Service(channel, self.token())
            self.key = signing_key(self.keys)
            deadline = time.monotonic() + 20
            while _is_accepted(service):
                assert time.monotonic() < deadline, "the server still accepts the token"
                time.sleep(0.1)


def _is_accepted(service: Service) -> bool:
    try:
        service.decisions(pb.ListDecisionsRequest(page_size=1))
    except ServiceError as error:
        assert error.code is grpc.StatusCode.UNAUTHENTICATED, error  # noqa: PT017 - the result
        return False
    return True


def signing_key(keys: Path) -> ECKey:
    """Create a signing key, the only one in the key file of the servers."""
    key = ECKey.generate_key("P-256", {"kid": uuid4().hex, "use": "sig", "alg": "ES256"})
    keys.write_text(json.dumps({"keys": [key.as_dict(private=False)]}), encoding="utf-8")
    return key


@pytest.fixture(scope="module")
def secured(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    keys = folder / "jwks.json"
    key = signing_key(keys)
    environment = {
        **place.environment,
        "CREDIT_TOKEN_KEYS": str(keys),
        "CREDIT_TOKEN_ISSUER": ISSUER,
    }
    log = folder / "server.log"
    with (
        process("credit_service.rpc", environment, r"Serving on (\S+)", log) as address,
        console_for(address) as url,
    ):
        yield Secured(url, address, keys, key)


PERSON = {
    "First name": "Zoya",
    "Last name": "Qureshi",
    "Age": "33",
    "Monthly income": "62,500",
    "Phone number": "+91 73007 00001",
}


def test_a_token_that_expires_during_a_form_keeps_the_typed_values(
    secured: Secured, open_tab: OpenTab
) -> None:
    page = open_tab(url=secured.url).page
    secured.enter(page, "/qa/customers/new")
    for label, value in PERSON.items():
        page.get_by_label(label).fill(value)
    request_id = page.locator("input[name=request_id]").input_value()
    secured.expire()
    page.get_by_role("button", name="Register").click()
    expect(page).to_have_url(re.compile("/qa/login"))
    expect(page.locator("main")).to_contain_text("Your token is no longer valid.")
    assert "Zoya" not in page.url
    assert "73007" not in page.url
    sign_in(page, secured.token())
    expect(page).to_have_url(f"{secured.url}/qa/customers/new")
    expect(page.get_by_role("status")).to_contain_text("Nothing was sent yet.")
    for label, value in PERSON.items():
        expect(page.get_by_label(label)).to_have_value(value)
    assert page.locator("input[name=request_id]").input_value() == request_id
    page.get_by_role("button", name="Register").click()
    expect(page.get_by_role("status")).to_contain_text("is registered.")
    # A draft is deleted once it was shown.
    page.goto("/qa/customers/new")
    expect(page.get_by_label("First name")).to_have_value("")


def test_another_user_does_not_see_the_typed_values(secured: Secured, open_tab: OpenTab) -> None:
    page = open_tab(url=secured.url).page
    secured.enter(page, "/qa/customers/new")
    page.get_by_label("First name").fill("Secret")
    secured.expire()
    page.get_by_role("button", name="Register").click()
    sign_in(page, secured.token("other@example"))
    expect(page).to_have_url(f"{secured.url}/qa/customers/new")
    expect(page.get_by_label("First name")).to_have_value("")


def test_a_payment_and_an_application_survive_an_expired_token(
    secured: Secured, open_tab: OpenTab
) -> None:
    page = open_tab(url=secured.url).page
    review = (
        f"/qa/apply/review?customer_id={samples.GOOD_CUSTOMER_ID}&loan_amount=5100"
        "&interest_rate=12&tenure_months=12&request_id=0d6f1c1e-8a0b-4f0e-9d51-3c9a6a1f7b33"
    )
    secured.enter(page, review)
    secured.expire()
    page.get_by_role("button", name="Confirm and book").click()
    expect(page).to_have_url(re.compile("/qa/login"))
    sign_in(page, secured.token())
    expect(page.get_by_role("heading", level=1)).to_have_text("Confirm the application")
    expect(page.locator("input[name=request_id]")).to_have_value(
        "0d6f1c1e-8a0b-4f0e-9d51-3c9a6a1f7b33"
    )
    page.get_by_role("button", name="Confirm and book").click()
    page.get_by_role("link", name=re.compile("^Loan ")).click()
    page.get_by_label("Amount").fill("123.45")
    secured.expire()
    page.get_by_role("button", name="Record the payment").click()
    expect(page).to_have_url(re.compile("/qa/login"))
    assert "123.45" not in page.url
    sign_in(page, secured.token())
    expect(page.get_by_label("Amount")).to_have_value("123.45")
    page.get_by_role("button", name="Record the payment").click()
    expect(page.get_by_role("status")).to_contain_text("₹123.45 recorded.")


def test_a_chosen_file_survives_a_new_sign_in(
    secured: Secured, open_tab: OpenTab, tmp_path: Path
) -> None:
    tab = open_tab(url=secured.url)
    tab.expected += ["401", "403"]
    page = tab.page
    secured.enter(page, "/qa/ingestions")
    file = tmp_path / "people.csv"
    file.write_text(
        "Customer ID,First Name,Last Name,Age,Phone Number,Monthly Salary\r\n"
        "7401,Ira,Sen,30,+917300740001,50000\r\n",
        encoding="utf-8",
    )
    page.get_by_label("Drop a .xlsx").set_input_files(file)
    secured.expire()
    page.get_by_role("button", name="Dry run").click()
    link = page.get_by_role("link", name="Sign in in a new tab")
    with page.context.expect_page() as opened:
        link.click()
    other = opened.value
    sign_in(other, secured.token())
    expect(other).to_have_url(f"{secured.url}/qa/ingestions")
    page.get_by_role("button", name="Dry run").click()
    expect(page.locator(".progress")).to_have_attribute("data-ended", "yes")


def test_a_lost_session_keeps_the_typed_values(open_tab: OpenTab) -> None:
    tab = open_tab()
    tab.expected.append("403")
    page = tab.page
    page.goto("/qa/customers/new")
    values = {**PERSON, "Phone number": "+91 73007 00002"}
    for label, value in values.items():
        page.get_by_label(label).fill(value)
    page.context.clear_cookies()
    page.get_by_role("button", name="Register").click()
    expect(page.get_by_role("alert")).to_contain_text("Nothing was sent.")
    for label, value in values.items():
        expect(page.get_by_label(label)).to_have_value(value)
    page.get_by_role("button", name="Register").click()
    expect(page.get_by_role("status")).to_contain_text("is registered.")


def test_a_get_of_a_form_address_redirects_to_the_form(visitor: Visitor) -> None:
    for method, path, _ in app._PAGES:
        if method == "POST":
            concrete = re.sub(r"\{[a-z_]+\}", "1", path)
            status, headers, _ = visitor.ask("GET", concrete)
            assert status in (200, 303, 404), concrete
            if status == 303:
                assert visitor.ask("GET", headers["location"])[0] != 405


@pytest.mark.parametrize("bad", ["", "nonsense", "00000000-0000-0000-0000-000000000000"])
def test_a_form_without_a_request_id_is_not_sent(visitor: Visitor, place: Place, bad: str) -> None:
    token = visitor.enter()
    form = {
        "first_name": "Noid",
        "last_name": "Person",
        "age": "40",
        "monthly_income": "50000",
        "phone_number": "+917300700003",
        "csrf_token": token,
        "request_id": bad,
    }
    status, _, text = visitor.ask("POST", "/qa/customers/new", urlencode(form))
    assert status == 400
    assert 'value="Noid"' in text
    fresh = re.search(r'name="request_id" value="([0-9a-f-]{36})"', text)
    assert fresh is not None
    assert UUID(fresh[1]).version == 4
    request = pb.ListCustomersRequest(query="Noid")
    assert not place.credit.ListCustomers(request, timeout=10).customers


def test_the_dashboard_recovers_by_itself(place: Place, open_tab: OpenTab) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with console_for(f"127.0.0.1:{port}") as url:
        tab = open_tab(url=url)
        page = tab.page
        page.goto("/qa/")
        expect(page.get_by_label("Approval rate")).to_contain_text("The service does not respond.")
        expect(page.get_by_label("Recent decisions")).to_contain_text("credit-service up")
        expect(page.locator(".ring")).to_have_count(0)
        environment = {**place.environment, "CREDIT_LISTEN": f"127.0.0.1:{port}"}
        log = place.clock_file.parent / "back.log"
        with process("credit_service.rpc", environment, r"Serving on (\S+)", log):
            expect(page.get_by_label("Live events").get_by_text("live", exact=True)).to_be_visible()
            expect(page.get_by_label("Health").get_by_text("Serving", exact=True)).to_have_count(5)
            expect(page.get_by_label("Recent ingestions")).to_contain_text("customer_data.xlsx")


def test_invalid_fields_have_their_labels_and_the_first_has_the_focus(open_tab: OpenTab) -> None:
    tab = open_tab()
    tab.expected.append("400")
    page = tab.page
    page.goto("/qa/customers/new")
    page.get_by_label("First name").fill("Asha")
    page.get_by_label("Last name").fill("Rao")
    page.get_by_label("Age").fill("17")
    page.get_by_label("Monthly income").fill("0")
    page.get_by_label("Phone number").fill("+917300700009")
    page.get_by_role("button", name="Register").click()
    expect(page.get_by_label("Age")).to_be_focused()
    expect(page.locator("#f-age")).to_have_attribute("autofocus", "")
    expect(page.get_by_label("Age")).to_have_accessible_description(re.compile("Must be"))
    for name in ("monthly_income", "first_name", "phone_number"):
        expect(page.get_by_label("Registration")).not_to_contain_text(name)
    page.goto("/qa/apply/review?customer_id=101&loan_amount=0&interest_rate=101&tenure_months=481")
    expect(page.get_by_label("Loan amount")).to_be_focused()
    expect(page.locator("[aria-invalid=true]")).to_have_count(3)
    for name in ("loan_amount", "interest_rate", "tenure_months"):
        expect(page.locator("section.card")).not_to_contain_text(name)


def test_the_checklist_does_not_run_where_tokens_are_required(
    secured: Secured, open_tab: OpenTab
) -> None:
    """By default, the checklist does not run against a service that requires tokens."""
    page = open_tab(url=secured.url).page
    secured.enter(page, "/qa/checks")
    expect(page.locator("main")).to_contain_text("CREDIT_CONSOLE_CHECKLIST=on")
    expect(page.get_by_role("button", name="Run all")).to_have_count(0)


def test_the_checklist_writes_nothing_before_it_is_confirmed(
    visitor: Visitor, place: Place
) -> None:
    def count() -> int:
        request = pb.ListCustomersRequest(query="QA Check", page_size=1000)
        return len(place.credit.ListCustomers(request, timeout=10).customers)

    token = visitor.enter()
    before = count()
    body = urlencode({"csrf_token": token})
    assert visitor.ask("POST", "/qa/checks/no-history", body)[0] == 409
    assert visitor.ask("POST", "/qa/checks/no-history", body, x_fragment="yes")[0] == 409
    assert count() == before
    assert visitor.ask("POST", "/qa/checks/no-history", f"{body}&confirmed=yes")[0] == 200
    assert count() == before + 1
