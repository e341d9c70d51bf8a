"""Every page is accessible by axe's rules in light and dark, and fits on a phone."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from google.type.decimal_pb2 import Decimal as DecimalMessage
from google.type.money_pb2 import Money
from playwright.sync_api import Browser, Page, expect
from starlette.routing import Route

from credit_service.console import app
from credit_service.console.checklist.bench import Bench, loan_row
from credit_service.console.service import Service
from credit_service.domain.scorecard import PRUDENT_DOCUMENT
from credit_service.spreadsheets import samples
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import event_pb2, ingestion_pb2, offer_pb2
from credit_service.v1 import ingestion_service_pb2 as ingestion_pb
from credit_service.v1 import scorecard_service_pb2 as scorecard_pb
from tests.browser.conftest import OpenTab, Place, Tab, new_context

_DAY_SECONDS = 86_400


@pytest.fixture(scope="module")
def story(place: Place) -> dict[str, str]:
    """Addresses of pages with history: a customer with a year of loans and payments."""
    bench = Bench(Service(place.channel, ""))
    service = bench.service
    days_ago = 330

    def at(days: int) -> None:
        place.clock_file.write_text(str(-days * _DAY_SECONDS), encoding="ascii")

    def wait_for_events(count: int) -> None:
        """Wait for this number of events of loans and payments, and a moment for the scores."""
        kinds = (
            event_pb2.CREDIT_EVENT_TYPE_LOAN_CREATED,
            event_pb2.CREDIT_EVENT_TYPE_PAYMENT_RECORDED,
        )
        give_up = time.monotonic() + 10
        while len(service.history(customer_id, *kinds)) < count and time.monotonic() < give_up:
            time.sleep(0.05)
        time.sleep(0.15)

    try:
        at(days_ago)
        customer = service.register(
            pb.RegisterCustomerRequest(
                request_id=str(uuid4()),
                first_name="Ananya",
                last_name="Krishnan",
                age=36,
                monthly_income=Money(units=85_000),
                phone_number="+917300500001",
            )
        )
        customer_id = customer.customer_id
        bench.ingest([loan_row(customer_id, number, 60_000, 10) for number in (1, 2, 3)])
        loan = bench.apply(customer_id, 480_000, "11.5", 36).loan
        wait_for_events(1)
        for month in range(1, 11):
            at(days_ago - 30 * month)
            service.pay(
                pb.RecordPaymentRequest(
                    request_id=str(uuid4()),
                    customer_id=customer_id,
                    loan_id=loan.loan_id,
                    amount=loan.monthly_installment,
                )
            )
            if month == 6:
                bench.apply(customer_id, 90_000, "13", 12)
            wait_for_events(1 + month)
    finally:
        at(0)
    declined = bench.apply(customer_id, 2_400_000, "12", 48)
    rejected = place.samples.loan_path.parent / "rejected.csv"
    rejected.write_text(
        "Customer ID,Loan ID,Loan Amount,Tenure,Interest Rate,Monthly payment,EMIs paid on Time,"
        "Date of Approval,End Date\r\n"
        "1,881,50000,12,12,4500,12,2015-01-05,2016-01-05\r\n"
        "1,882,50000,twelve,12,4500,12,2015-01-05,2016-01-05\r\n"
        "99999,1,50000,12,12,4500,12,2015-01-05,2016-01-05\r\n"
        "2,883,50000,12,120,4500,12,2015-13-05,2016-01-05\r\n",
        encoding="utf-8",
    )
    offer = service.create_offer(
        pb.CreateLoanOfferRequest(
            request_id=str(uuid4()),
            customer_id=customer_id,
            loan_amount=Money(units=50_000),
            interest_rate=DecimalMessage(value="12"),
            tenure_months=12,
            charges=[
                offer_pb2.LoanCharge(
                    type="processing fee",
                    payee=offer_pb2.CHARGE_PAYEE_LENDER,
                    amount=Money(units=500),
                )
            ],
        )
    ).offer
    service.create_scorecard(
        scorecard_pb.CreateScorecardRequest(
            request_id=str(uuid4()), document=json.dumps(PRUDENT_DOCUMENT)
        )
    )
    service.set_trial(
        scorecard_pb.SetTrialScorecardRequest(request_id=str(uuid4()), version="prudent-1")
    )
    request = pb.ListPaymentsRequest(customer_id=customer_id, loan_id=loan.loan_id)
    payment_id = place.credit.ListPayments(request).payments[0].payment_id
    loan_path = f"/qa/customers/{customer_id}/loans/{loan.loan_id}"
    ingestion = _uploaded(service, rejected)
    task_id = _parked(place.environment["DATABASE_URL"])
    ask = f"customer_id={customer_id}&loan_amount=900000&interest_rate=12&tenure_months=18"
    return {
        "dashboard": "/qa/",
        "customers": "/qa/customers?query=A",
        "register": "/qa/customers/new",
        "customer": f"/qa/customers/{customer_id}",
        "customer-edit": f"/qa/customers/{customer_id}/edit",
        "loan": f"/qa/customers/{customer_id}/loans/{loan.loan_id}",
        "prepay": f"/qa/customers/{customer_id}/loans/{loan.loan_id}/prepay",
        "foreclosure": f"/qa/customers/{customer_id}/loans/{loan.loan_id}/foreclose",
        "shared-loan": f"/qa/loans/{samples.SHARED_LOAN_ID}",
        "simulator": f"/qa/eligibility?{ask}",
        "asks": "/qa/asks",
        "apply": "/qa/apply",
        "review": f"/qa/apply/review?{ask}",
        "decisions": "/qa/decisions",
        "decision": f"/qa/decisions/{declined.decision_id}",
        "offer": f"/qa/offers/{offer.offer_id}",
        "key-facts": f"/qa/offers/{offer.offer_id}/key-facts",
        "scorecards": "/qa/scorecards",
        "scorecard": "/qa/scorecards/prudent-1",
        "comparison": "/qa/comparison?before=standard-1&after=prudent-1",
        "draft": "/qa/draft?base=prudent-1",
        "activation": "/qa/scorecards/prudent-1/activate",
        "backtest": "/qa/backtest?version=prudent-1",
        "trial": "/qa/trial",
        "referrals": "/qa/referrals?state=APPROVED",
        "retirement": "/qa/scorecards/prudent-1/retire",
        "ingestions": "/qa/ingestions",
        "ingestion": ingestion,
        "cancellation": f"{ingestion}/cancel",
        "revert": f"{ingestion}/revert",
        "earlier-day": f"/qa/customers/{customer_id}/as-of",
        "loan-key-facts": f"{loan_path}/key-facts",
        "reversal": f"{loan_path}/payments/{payment_id}/reverse",
        "prepay-review": f"{loan_path}/prepay/review?amount=10000&effect=tenure",
        "overdue": "/qa/overdue",
        "loans": f"/qa/loans?customer_id={customer_id}&state=ACTIVE",
        "offers": f"/qa/offers?customer_id={customer_id}&states=OPEN",
        "payments": f"/qa/payments?customer_id={customer_id}&loan_id={loan.loan_id}",
        "changes": f"/qa/changes?customer_id={customer_id}",
        "row-errors": f"/qa/row-errors?ingestion_id={ingestion.rpartition('/')[2]}",
        "events": f"/qa/event-log?customer_id={customer_id}&event_types=LOAN_CREATED",
        "invalid-filter": "/qa/overdue?days=x",
        "methods": "/qa/methods",
        "method": "/qa/methods/CreditService/CreateLoan",
        "parked-tasks": "/qa/parked-tasks",
        "parked-retry": f"/qa/parked-tasks/{task_id}/retry",
        "parked-discard": f"/qa/parked-tasks/{task_id}/discard",
        "checks": "/qa/checks",
        "login": "/qa/login",
        "not-found": "/qa/customers/999999",
    }


def _parked(database_url: str) -> int:
    """Store a parked task with a long error, and return its id."""
    with psycopg.connect(database_url) as connection:
        row = connection.execute(
            """INSERT INTO tasks (actor, subject, state, attempts, due_at, created_at, last_error)
            VALUES ('ingest_upload', %s, 'PARKED', 5, now(), now(), %s) RETURNING task_id""",
            (str(uuid4()), "OperationalError: " + "the disk is full; " * 40),
        ).fetchone()
    assert row is not None
    return int(row[0])


def _uploaded(service: Service, path: Path) -> str:
    header = ingestion_pb.UploadSpreadsheetHeader(
        ingestion_id=str(uuid4()),
        kind=ingestion_pb2.INGESTION_KIND_LOANS,
        filename=path.name,
    )
    service.upload(header, iter([path.read_bytes()]))
    return f"/qa/ingestions/{header.ingestion_id}"


PAGES = (
    "dashboard",
    "customers",
    "register",
    "customer",
    "customer-edit",
    "loan",
    "prepay",
    "foreclosure",
    "shared-loan",
    "simulator",
    "apply",
    "review",
    "decisions",
    "decision",
    "offer",
    "key-facts",
    "scorecards",
    "scorecard",
    "comparison",
    "draft",
    "activation",
    "retirement",
    "referrals",
    "backtest",
    "trial",
    "ingestions",
    "ingestion",
    "cancellation",
    "revert",
    "earlier-day",
    "loan-key-facts",
    "reversal",
    "prepay-review",
    "asks",
    "overdue",
    "loans",
    "offers",
    "payments",
    "changes",
    "row-errors",
    "events",
    "invalid-filter",
    "methods",
    "method",
    "parked-tasks",
    "parked-retry",
    "parked-discard",
    "checks",
    "login",
    "not-found",
)


_NOT_TESTED_HERE = {
    "/qa/overview": "part of the dashboard",
    "/qa/search": "redirects",
    "/qa/customers/{customer_id}/loans/{loan_id}/schedule.csv": "a file",
    "/qa/eligibility/answer": "part of the simulator",
    "/qa/exports/{file}": "a file",
    "/qa/backtests/{backtest_id}": "the page of a run, tested with it",
    "/qa/backtests/{backtest_id}/progress": "part of that page",
    "/qa/templates/{kind}.xlsx": "a file",
    "/qa/templates/{kind}.csv": "a file",
    "/qa/ingestions/{ingestion_id}/progress": "part of the ingestion",
    "/qa/ingestions/{ingestion_id}/errors.csv": "a file",
    "/qa/ingestions/{ingestion_id}/annotated": "a file",
    "/qa/ingestions/{ingestion_id}/rejected": "a file",
}


def test_every_page_of_the_console_is_tested(story: dict[str, str]) -> None:
    assert set(PAGES) == set(story)
    routes = {path: Route(path, len) for method, path, _ in app._PAGES if method == "GET"}
    shown = {
        path
        for address in story.values()
        for path, route in routes.items()
        if route.path_regex.fullmatch(address.partition("?")[0])
    }
    assert set(routes) - shown == set(_NOT_TESTED_HERE)


def go(page: Page, path: str) -> None:
    """Open a page, and wait for the parts that load later."""
    page.goto(path)
    if path == "/qa/":
        expect(page.locator(".event").first).to_be_visible()
    if re.fullmatch(r"/qa/ingestions/[^/]+", path):
        expect(page.locator(".progress")).to_have_attribute("data-ended", "yes")


_STATUS = {"shared-loan": "300", "not-found": "404", "invalid-filter": "400"}
"""Pages whose status a browser reports as an error."""


def faults(page: Page, axe: str, rules: dict[str, Any]) -> list[str]:
    """Return what axe finds, one line per finding."""
    # Evaluated instead of added as a script, which the page's policy would block.
    if not page.evaluate("'axe' in window"):
        page.evaluate(axe)
    options = {"resultTypes": ["violations"], "preload": False, **rules}
    found = page.evaluate(
        "async (options) => (await axe.run(document, options)).violations", options
    )
    return [
        f"{fault['impact']}: {fault['id']}: {node['html'][:160]} ({node['failureSummary']})"
        for fault in found
        for node in fault["nodes"]
    ]


@pytest.fixture(scope="module")
def tab(browser: Browser, place: Place) -> Iterator[Tab]:
    """One tab for all pages, because a browser with cached files is faster."""
    context = new_context(browser, place.url)
    yield Tab(context.new_page())
    context.close()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_accessible_in_light_and_dark_and_fits_on_a_phone(
    story: dict[str, str], tab: Tab, axe: str, name: str
) -> None:
    page = tab.page
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 1360, "height": 900})
    go(page, story[name])
    # Open the collapsed calls, to check them too.
    for summary in page.locator("main > .terminal > summary").all():
        summary.click()
    assert faults(page, axe, {}) == []
    page.emulate_media(color_scheme="dark")
    assert faults(page, axe, {"runOnly": ["color-contrast"]}) == []
    page.set_viewport_size({"width": 320, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 320, "wider than a phone"
    if name in ("customer", "simulator", "ingestions"):
        assert faults(page, axe, {}) == []
    tab.expected = [_STATUS[name]] if name in _STATUS else []
    tab.check()


def test_a_failed_check_and_an_invalid_form_are_accessible_too(open_tab: OpenTab, axe: str) -> None:
    tab = open_tab()
    tab.expected.append("400")
    page = tab.page
    page.goto("/qa/customers/new")
    page.get_by_role("button", name="Register").click()
    expect(page.get_by_role("alert")).to_be_visible()
    assert faults(page, axe, {}) == []
    page.goto("/qa/checks")
    item = page.locator("#check-no-history")
    page.get_by_label("Allow the checks").check()
    item.get_by_role("button").click()
    expect(item).to_have_attribute("data-result", "pass")
    item.locator("summary").click()
    assert faults(page, axe, {}) == []


@pytest.fixture(scope="module")
def long_names(place: Place) -> dict[str, int]:
    """Customers with names of maximum length, without a place to break them."""
    service = Service(place.channel, "")
    names = {"latin": "W", "hebrew": "ש", "arabic": "م", "devanagari": "क", "han": "龍"}
    return {
        script: service.register(
            pb.RegisterCustomerRequest(
                request_id=str(uuid4()),
                first_name=letter * 50,
                last_name=letter * 50,
                age=40,
                monthly_income=Money(units=50_000),
                phone_number=f"+91730060{number:04d}",
            )
        ).customer_id
        for number, (script, letter) in enumerate(names.items())
    }


@pytest.mark.parametrize("width", [320, 390, 1360])
def test_a_long_name_breaks_no_page(long_names: dict[str, int], tab: Tab, width: int) -> None:
    page = tab.page
    page.set_viewport_size({"width": width, "height": 844})
    for customer_id in long_names.values():
        ask = f"customer_id={customer_id}&loan_amount=1000&interest_rate=12&tenure_months=12"
        for path in (
            f"/qa/customers/{customer_id}",
            "/qa/customers?query=%2B91730060",
            f"/qa/eligibility?{ask}",
            f"/qa/apply/review?{ask}",
        ):
            page.goto(path)
            found = page.evaluate("document.documentElement.scrollWidth")
            assert found <= width, f"{path} is {found} wide"
            # No name overflows its card or overlaps its neighbours.
            outside = page.evaluate(
                """() => [...document.querySelectorAll("main bdi.name")].filter((name) => {
                    const box = name.closest("td, h1, p, li").getBoundingClientRect();
                    const own = name.getBoundingClientRect();
                    return own.right > box.right + 1 || own.left < box.left - 1;
                }).length"""
            )
            assert outside == 0, path
    tab.check()


def test_important_columns_are_visible_on_a_phone(story: dict[str, str], tab: Tab) -> None:
    page = tab.page
    page.set_viewport_size({"width": 390, "height": 844})
    for name, label in (
        ("decisions", "Outcome"),
        ("dashboard", "Outcome"),
        ("customer", "Outcome"),
        ("ingestions", "State"),
        ("dashboard", "State"),
        ("customer", "State"),
        ("loan", "State"),
    ):
        go(page, story[name])
        # In one call, because the dashboard replaces its tables.
        right = page.evaluate(
            """(label) => [...document.querySelectorAll("th, td .badge")]
                .filter((each) => each.checkVisibility() && each.closest("main")
                    && (each.matches(".badge") || each.textContent === label))
                .map((each) => each.getBoundingClientRect().right)""",
            label,
        )
        assert right, f"no {label} on {name}"
        assert max(right) <= 390, f"{label} on {name}"
    tab.check()
