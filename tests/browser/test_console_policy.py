"""The policy owner's journey from a draft to an active scorecard and back, reviews, and offers."""

import json
import re
from uuid import uuid4

from google.type.decimal_pb2 import Decimal as DecimalMessage
from google.type.money_pb2 import Money
from playwright.sync_api import Page, expect

from credit_service.domain.scorecard import PRUDENT_DOCUMENT
from credit_service.spreadsheets import samples
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import scorecard_service_pb2 as scorecard_pb
from credit_service.v1.scorecard_service_pb2_grpc import ScorecardServiceStub
from tests.browser.conftest import OpenTab, Place
from tests.browser.test_console_flows import soon
from tests.browser.test_console_looks import faults


def edited(page: Page, **changes: object) -> str:
    """Change keys of the document in the editor. Returns its text."""
    field = page.get_by_label("Document", exact=True)
    document = {**json.loads(field.input_value()), **changes}
    text = json.dumps(document, indent=2)
    field.fill(text)
    return text


def test_a_scorecard_is_drafted_checked_compared_tried_activated_and_rolled_back(
    place: Place, open_tab: OpenTab, axe: str
) -> None:
    tab = open_tab()
    tab.expected.append("400")
    page = tab.page
    page.goto("/qa/scorecards")
    expect(page.get_by_role("heading", name="Active: standard-1")).to_be_visible()

    # Draft and check: each error has its line.
    page.get_by_role("link", name="New draft").click()
    rule = {**PRUDENT_DOCUMENT["rules"][0], "condition": "days_past_due > thirty"}
    text = edited(page, version="journey-1", rules=[rule])
    page.get_by_role("button", name="Check").click()
    line = 1 + next(n for n, each in enumerate(text.splitlines()) if "thirty" in each)
    problem = page.get_by_role("alert")
    expect(problem).to_contain_text("The document is not valid.")
    expect(problem).to_contain_text(f"Line {line} rules[0].condition")
    assert faults(page, axe, {}) == []
    problem.get_by_role("link", name=f"Line {line}").click()
    expect(page.locator(f"#line-{line}")).to_contain_text("thirty")

    edited(page, rules=PRUDENT_DOCUMENT["rules"])
    page.get_by_role("button", name="Check").click()
    expect(page.get_by_role("heading", name="Valid: journey-1")).to_be_visible()
    differences = page.get_by_role("region", name="Differences")
    expect(differences).to_contain_text("OVERDUE_UP_TO_30_DAYS")
    page.get_by_role("button", name="Store").click()
    expect(page.get_by_role("status")).to_contain_text("It decides nothing yet.")

    # Compare.
    page.get_by_role("link", name="Compare with the active one").click()
    page.get_by_label("Second").select_option("journey-1")
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_role("region", name="Documents")).to_contain_text("days_past_due >= 1")
    page.get_by_role("link", name="Scorecard journey-1").click()

    # Backtest.
    page.locator("main").get_by_role("link", name="Backtest").click()
    expect(page.get_by_label("Scorecard")).to_have_value("journey-1")
    page.get_by_label("Loan amount").fill("50,000")
    page.get_by_label("Yearly rate").fill("12")
    page.get_by_label("Months").fill("12")
    page.get_by_role("button", name="Start the backtest").click()
    expect(page.get_by_role("heading", name="Scores of the customers")).to_be_visible()
    expect(page.get_by_role("img", name="Customers by score")).to_be_visible()
    expect(page.get_by_role("region", name="Outcomes of customers")).to_contain_text("Referred")
    assert faults(page, axe, {}) == []
    page.get_by_role("link", name="Scorecard journey-1").click()

    # Try.
    page.get_by_role("button", name="Start the trial").click()
    expect(page.get_by_role("status")).to_contain_text("Scorecard journey-1 is the trial.")

    request = pb.CreateLoanRequest(
        request_id=str(uuid4()),
        customer_id=samples.GOOD_CUSTOMER_ID,
        loan_amount=Money(units=10_000),
        interest_rate=DecimalMessage(value="12"),
        tenure_months=12,
    )
    place.credit.CreateLoan(request, timeout=10)
    page.get_by_role("link", name="What the trial decided").click()

    def is_shown() -> bool:
        page.reload()
        return page.get_by_role("region", name="Outcomes of decisions").count() == 1

    soon(is_shown, 60)
    page.get_by_role("link", name="Scorecard journey-1").click()

    # Activate: the page says what changes.
    page.get_by_role("link", name="Activate", exact=True).click()
    expect(page.get_by_role("region", name="Differences")).to_contain_text("OVERDUE_UP_TO_30_DAYS")
    expect(page.locator(".sub")).to_contain_text("It replaces standard-1")
    page.get_by_role("button", name="Confirm and activate").click()
    expect(page.get_by_role("status")).to_contain_text("Scorecard journey-1 is active.")
    assert faults(page, axe, {}) == []
    history = page.get_by_role("region", name="History as a table")
    for change in ("Activated", "Trial started", "Created"):
        expect(history).to_contain_text(change)

    # Roll back.
    page.get_by_role("link", name="Scorecards", exact=True).click()
    page.get_by_role("link", name="Roll back to standard-1").click()
    expect(page.locator(".sub")).to_contain_text("It replaces journey-1")
    page.get_by_role("button", name="Confirm and activate").click()
    expect(page.get_by_role("status")).to_contain_text("Scorecard standard-1 is active.")


def test_a_referred_request_is_reviewed_and_an_offer_is_accepted(
    place: Place, page: Page, axe: str
) -> None:
    rule = {
        "code": "LONG_TENURE",
        "condition": "tenure_months > 60",
        "outcome": "REFER",
        "message": "The tenure is more than 60 months.",
    }
    document = json.dumps({**PRUDENT_DOCUMENT, "version": "refer-1", "rules": [rule]})
    scorecards = ScorecardServiceStub(place.channel)
    scorecards.CreateScorecard(
        scorecard_pb.CreateScorecardRequest(request_id=str(uuid4()), document=document), timeout=10
    )
    activate(scorecards, "refer-1")
    try:
        request = pb.CreateLoanRequest(
            request_id=str(uuid4()),
            customer_id=samples.GOOD_CUSTOMER_ID,
            loan_amount=Money(units=10_000),
            interest_rate=DecimalMessage(value="12"),
            tenure_months=61,
        )
        decision_id = place.credit.CreateLoan(request, timeout=10).decision_id
        page.goto("/qa/")
        page.get_by_role("link", name="Referrals").click()
        row = page.get_by_role("row", name=re.compile(rf"^{decision_id} "))
        expect(row).to_contain_text("LONG_TENURE")
        row.get_by_role("link", name=str(decision_id), exact=True).click()
        expect(page.get_by_role("heading", name="Referred")).to_be_visible()
        expect(page.get_by_role("region", name="Policy rules")).to_contain_text("tenure_months 61")
        expect(page.get_by_role("heading", name="The customer now")).to_be_visible()
        assert faults(page, axe, {}) == []
        page.get_by_label("Reason").fill("Income checked by phone.")
        page.get_by_role("button", name="Approve and decide again").click()
        expect(page.get_by_role("status")).to_contain_text("was made again, and is approved.")
        expect(page.get_by_role("link", name=re.compile("^Loan "))).to_be_visible()
    finally:
        activate(scorecards, "standard-1")

    ask = f"customer_id={samples.GOOD_CUSTOMER_ID}&loan_amount=5000&interest_rate=12"
    page.goto(f"/qa/apply/review?{ask}&tenure_months=12")
    page.get_by_role("button", name="Make an offer instead").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Open")
    expect(page.locator("main")).to_contain_text("Annual percentage rate")
    address = page.url
    page.goto(f"/qa/customers/{samples.GOOD_CUSTOMER_ID}")
    expect(page.get_by_role("region", name="Limit")).to_contain_text("₹5,000 held by open offers")
    page.goto(address)
    page.get_by_label("Amount").fill("4,000")
    page.get_by_role("button", name="Accept and book the loan").click()
    expect(page.get_by_role("status")).to_contain_text("of ₹4,000 is booked.")
    expect(page.locator("main")).to_contain_text("It holds no credit.")


def activate(scorecards: ScorecardServiceStub, version: str) -> None:
    scorecards.ActivateScorecard(
        scorecard_pb.ActivateScorecardRequest(request_id=str(uuid4()), version=version), timeout=10
    )
